"""What raters cost and what they are worth: documents a second on one core, and agreement with what people said.

Tables in Markdown. The first has a line for each rater that reads texts alone, the second one for each other that needs
no model and no server, over documents that are made up (`python -m jobs.bench models` has those with a model). The
third has a line for each candidate, with its Spearman correlation with the difficulty that people gave, and how many
judgements of quality it gets right, over all pairs and over those whose texts differ by at most a tenth in words. Every
figure has a 95 % interval from bootstrap resamples, which all candidates share; so a gain over a plain count has one
too. The plain counts (words, characters, Flesch-Kincaid) come first: who does not beat them adds nothing.

A rater is measured once its file lies in `selector/rate/`. One that learns from what people said is a `Candidate` in
`CANDIDATES`: an object with a label and a method that scores a set's texts, each by what it learned from other folds.
"""

import dataclasses
import time
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from jobs.bench.labelled import MODEL, Labelled, labelled
from selector import plugins, tables
from selector.corpus.tokens import find_tokenizer
from selector.errors import PolicyError
from selector.exact import Floats, Ints
from selector.models import agreement
from selector.models.find import find_model
from selector.plugins.options import columns_of, hints_of
from selector.rate import Fit, Pool, Rater
from selector.rate._answer import ratings_table
from selector.rate._counts import KnownWords, counts
from selector.rate._fitted import learned, rater_of
from selector.rate._learned import Uses, features_of
from selector.rate._learning import Examples, learn
from selector.testing._trials import SCORE, can_be_made_up, documents, made_for, variants

_AT_A_TIME = 512  # documents that a rater is given, as in a run
_MADE_UP = 2048  # documents, for raters that do not read texts
_OF_CODE = ("code_complexity",)  # are timed alone: people judged prose
_MATCHED = 0.1  # by how much of the longer one the words of two texts may differ
_LEAST_SECONDS = 0.5  # of CPU that a rater is timed for


class Candidate(Protocol):
    """Something that scores texts."""

    @property
    def label(self) -> str:
        """What its line in the table is called."""
        ...

    def scores(self, data: Labelled) -> "Mapping[str, Floats | Gaps]":
        """Its scores of a set's texts by their names, NaN where it gives none; a large one means harder or better.

        What it learns for a text it learns from texts of other folds (`Labelled.folds`) alone. Of a set of pairs it may
        give gaps instead.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Gaps:
    """Of each pair by how much the better text has the larger score, where no score of a text alone is at hand."""

    values: Floats


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A rater of `selector.rate` with these options. A `Fit` learns from texts of a set, not what people said."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def label(self) -> str:
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])

    def plugin(self) -> Rater | Fit:
        """The rater or fit itself."""
        return plugins.make("raters", self.name, self.options, "jobs.bench", Rater, Fit)  # pyright: ignore[reportReturnType]

    def scores(self, data: Labelled) -> Mapping[str, Floats]:
        plugin = self.plugin()
        answer = _rated(plugin, _documents(data.texts))
        by_name: dict[str, Floats] = {}
        for name, meaning in plugin.scores(self.name).items():
            if meaning != "label":
                values = answer[name].cast(pa.float64()).to_numpy()
                by_name[name] = -values if meaning in ("closer", "easier") else values
        return by_name


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What `selector fit-rater` learns of a set: by ridge regression of numbers, by Bradley-Terry of pairs."""

    uses: Uses

    @property
    def label(self) -> str:
        return f"fitted {self.uses}"

    def scores(self, data: Labelled) -> "Mapping[str, Floats | Gaps]":
        known = KnownWords.of_tokenizer(find_tokenizer(None, find_model(MODEL)).read_text("utf-8"))
        vectors = data.vectors.astype(np.float16).astype(np.float64)
        features = features_of(self.uses, vectors, counts(data.texts, known))
        if data.pairs is None:
            assert data.numbers is not None
            rows = np.arange(len(data.texts))[:, None]
            outcome = learn("ridge", Examples(features=features, rows=rows, labels=data.numbers), data.folds(5))
            return {self.label: outcome.gaps}
        rows = np.stack([data.pairs.better, data.pairs.worse], axis=1)
        turned = np.arange(len(rows)) % 2 == 1  # so that not all of the first are better
        rows[turned] = rows[turned, ::-1]
        folds = data.folds(len(np.unique(data.pairs.debates)))
        outcome = learn("preference", Examples(features=features, rows=rows, labels=np.where(turned, 0.0, 1.0)), folds)
        return {self.label: Gaps(values=np.where(turned, -outcome.gaps, outcome.gaps))}


BASELINES = (
    Plain(name="length"),
    Plain(name="length", options={"unit": "characters"}),
    Plain(name="readability"),
)
"""What every other line is compared with: words, characters, Flesch-Kincaid."""

CANDIDATES: tuple[Candidate, ...] = (
    Fitted(uses="counts"),
    Fitted(uses="embedding"),
    Fitted(uses="embedding and counts"),
)
"""What is measured beside the raters that read texts alone: those that learn from what people said."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """An agreement with people, over all texts, and over each of the bootstrap's resamples."""

    value: float
    draws: Floats

    def __str__(self) -> str:
        low, high = np.quantile(self.draws, [0.025, 0.975])
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}]"

    def minus(self, other: "Figure") -> "Figure":
        """The gain over another figure, resample by resample."""
        return Figure(value=self.value - other.value, draws=self.draws - other.draws)


def raters(folder: Path, wanted: Sequence[str] = (), is_speed_only: bool = False) -> None:
    """Prints all tables, or only those of speed, of all raters or of those `wanted`."""
    chosen = [plain for plain in plain_raters() if not wanted or plain.name in wanted]
    sets = labelled(folder)
    texts = sets[0].texts
    print(f"{len(texts)} texts of {pl.Series(texts).str.len_chars().mean():.0f} characters on average\n")
    print("| rater | documents/s/core |\n|---|---|")
    for plain in chosen:
        speed = documents_a_second(plain.plugin(), plain.name, _documents(texts))
        print(f"| {plain.label} | {speed:,.0f} |", flush=True)
    others = {name: plugin for name, plugin in other_raters().items() if not wanted or name in wanted}
    if others:
        print(f"\n{_MADE_UP:,} documents that are made up\n\n| rater | documents/s/core |\n|---|---|")
    for name, plugin in others.items():
        print(f"| {name} | {documents_a_second(plugin, name, made_up_for(plugin)):,.0f} |", flush=True)
    if is_speed_only:
        return
    compared = [plain for plain in chosen if plain not in BASELINES and plain.name not in _OF_CODE]
    candidates: list[Candidate] = [*BASELINES, *compared]
    candidates += [other for other in CANDIDATES if not wanted or other.label in wanted]
    columns = [name for data in sets for name in _columns(data)]
    head = f"{' | '.join(columns)} |\n|---|{'---|' * len(columns)}"
    print(f"\n| score | {head}")
    all_figures: dict[str, dict[str, Figure]] = {}
    for score, figures in agreements(candidates, sets):
        all_figures[score] = figures
        print(f"| {score} | {' | '.join(str(figures[name]) for name in columns)} |", flush=True)
    for plain in BASELINES:
        print(f"\n| gain over {plain.label} | {head}")
        base = all_figures[plain.label]
        for score, figures in all_figures.items():
            if score != plain.label:
                print(f"| {score} | {' | '.join(str(figures[name].minus(base[name])) for name in columns)} |")


def agreements(candidates: Sequence[Candidate], sets: Sequence[Labelled]) -> Iterator[tuple[str, dict[str, Figure]]]:
    """Each score of each candidate that is not the same for all texts, with its figures by the names of their
    columns."""
    for candidate in candidates:
        by_score: dict[str, dict[str, Figure]] = {}
        varied = set[str]()
        for data in sets:
            for name, scores in candidate.scores(data).items():
                is_only = name in (candidate.label, candidate.label.split()[0])
                label = candidate.label if is_only else f"{candidate.label}: {name}"
                by_score.setdefault(label, {}).update(figures_of(scores, data))
                values = scores.values if isinstance(scores, Gaps) else scores[~np.isnan(scores)]
                varied |= {label} if len(np.unique(values)) > 1 else set()
        yield from ((label, figures) for label, figures in by_score.items() if label in varied)


def figures_of(scores: Floats | Gaps, data: Labelled) -> dict[str, Figure]:
    """How well scores agree with what people said, by the names of a set's columns."""
    if isinstance(scores, Gaps):
        return _of_gaps(scores.values, data)
    known = np.where(np.isnan(scores), np.nanmedian(scores) if not np.isnan(scores).all() else 0.0, scores)
    if data.numbers is not None:
        terms = agreement.rank_terms(known, data.numbers)
        return {data.name: _figure(agreement.correlation, terms, np.arange(len(known)))}
    assert data.pairs is not None, "a set has numbers or pairs"
    return _of_gaps(known[data.pairs.better] - known[data.pairs.worse], data)


def _of_gaps(gap: Floats, data: Labelled) -> dict[str, Figure]:
    assert data.pairs is not None, "gaps are of pairs"
    pairs, words = data.pairs, pl.Series(data.texts).str.count_matches(r"\S+").to_numpy().astype(np.float64)
    is_right = np.where(gap == 0, 0.5, gap > 0)[:, None]
    longer = np.maximum(words[pairs.better], words[pairs.worse])
    matched = np.abs(words[pairs.better] - words[pairs.worse]) <= _MATCHED * longer
    return {
        column: _figure(lambda means: means[:, 0], is_right[rows], pairs.debates[rows])
        for column, rows in zip(_columns(data), (np.ones(len(gap), bool), matched), strict=True)
    }


def plain_raters() -> list[Plain]:
    """Our raters that read texts and nothing else, with each value of their documented choices, one at a time."""
    readable: list[Plain] = []
    for name in plugins.ours("raters"):
        cls = plugins.find("raters", name)
        assert dataclasses.is_dataclass(cls)
        choices: list[dict[str, Any]] = [{}]
        for option in dataclasses.fields(cls):
            hint = hints_of(cls)[option.name]
            if typing.get_origin(hint) is Literal:
                choices += [{option.name: value} for value in typing.get_args(hint) if value != option.default]
        for options in choices:
            plain = Plain(name=name, options=options)
            try:
                needs = columns_of(plain.plugin(), always=())
            except PolicyError:  # it cannot do without another option, such as a model
                continue
            if needs == ("text",):
                readable.append(plain)
    return readable


def other_raters() -> dict[str, Rater | Fit]:
    """Our raters that read something else than texts, but for those of a model, of an artefact or of a server: each
    with the first of its documented choices, and with tables that are made up."""
    read_texts = {plain.name for plain in plain_raters()}
    return {
        name: next(variants("raters", name))
        for name in plugins.ours("raters")
        if name not in read_texts and can_be_made_up("raters", name)
    }


def made_up_for(plugin: Rater | Fit) -> pa.Table:
    """Documents with the columns that a rater reads."""
    rows = [{SCORE: float(i % 97), "cluster": i % 4, "distance": i % 7 / 7} for i in range(_MADE_UP)]
    return made_for(plugin, documents(rows))


def documents_a_second(plugin: Rater | Fit, name: str, documents: pa.Table) -> float:
    """Documents that a rater rates in a second of CPU, all of its threads counted; what it learns before is not."""
    rater, declared = _ready(plugin, documents)
    num_documents, began = 0, time.process_time()
    while time.process_time() - began < _LEAST_SECONDS:
        for batch in documents.to_batches(_AT_A_TIME):
            ratings_table(rater, name, batch, declared)
        num_documents += documents.num_rows
    return num_documents / (time.process_time() - began)


def _rated(plugin: Rater | Fit, documents: pa.Table) -> pa.Table:
    rater, declared = _ready(plugin, documents)
    answers = [
        ratings_table(rater, plugins.name_of(plugin), batch, declared) for batch in documents.to_batches(_AT_A_TIME)
    ]
    return pa.concat_tables([answer.select(_numbers(answer)) for answer in answers])


def _ready(plugin: Rater | Fit, documents: pa.Table) -> tuple[Rater, Fit | None]:
    """The rater, prepared; that of a fit has learned from the documents before."""
    declared = plugin if isinstance(plugin, Fit) else None
    name = plugins.name_of(plugin)
    rater = rater_of(name, plugin, learned(name, plugin, Pool.of(documents), 0)) if isinstance(plugin, Fit) else plugin
    rater.prepare()
    return rater, declared


def _documents(texts: pa.Array) -> pa.Table:
    ids = pa.array([i.to_bytes(16) for i in range(len(texts))], tables.DOC_ID)
    return pa.table({"doc_id": ids, "text": texts})


def _numbers(answer: pa.Table) -> list[str]:
    return [field.name for field in answer.schema if (field.metadata or {}).get(b"higher_is", b"label") != b"label"]


def _columns(data: Labelled) -> list[str]:
    return [data.name] if data.pairs is None else [data.name, f"{data.name}, as long"]


def _figure(value_of: Callable[[Floats], Floats], table: Floats, units: Ints) -> Figure:
    """A figure that is made of means of columns: of all rows, and of rows of units drawn with replacement."""
    draws = value_of(agreement.drawn_means(table, np.unique(units, return_inverse=True)[1]))
    return Figure(value=float(value_of(table.mean(axis=0, keepdims=True))[0]), draws=draws)
