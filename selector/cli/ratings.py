"""A policy's scores without a manifest: what they are like, and how they agree with each other, with length and labels.

The flow is run as far as its raters, in the root: what is done there is found, and what is new helps the run that
follows. What is shown is about a keyed sample of the documents, so it is the same every time.
"""

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from selector import exact, pipeline, tables
from selector.cli import drawing
from selector.corpus.columns import Column
from selector.engine.executor import Executor
from selector.engine.lease import Lease
from selector.engine.part import Task
from selector.engine.runner import Progress, Runner
from selector.engine.step import Done, needed
from selector.engine.store import Store
from selector.errors import PolicyError
from selector.exact import Floats, keyed
from selector.plugins.catalogue import KNOWN, Score
from selector.policy import Policy
from selector.policy.resolve import resolve
from selector.steps.gather import Gather
from selector.steps.plan import Plan
from selector.steps.rate import finish
from selector.steps.run import Run

SAMPLE = 65_536
"""Documents that are looked at, about."""
LENGTHS = {"tokens": "num_tokens", "bytes": "num_bytes"}
"""What every score is compared with: the lengths of documents, and their columns."""
_QUARTERS = (0, 0.25, 0.5, 0.75, 1)
_FEWEST = 3  # documents for a correlation
_MOST_WORDS = 0.5  # different words of a label by documents: beyond, it is a name of each and no label


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """Reads the scores of a part's documents that are drawn."""

    store: Store
    gather: Gather
    seed: int
    share: float

    def __call__(self, task: Task) -> pa.Table:
        rated = self.gather.reader.read(self.store, task, [KNOWN["doc_id"], *self.gather.columns])
        drawn = keyed.uniforms(rated["doc_id"].combine_chunks(), self.seed, "compare") <= self.share
        return _plain(rated.filter(pa.array(drawn)).drop_columns("doc_id"))


def rate(
    policy: Policy, *, root: str | os.PathLike[str], executor: Executor, progress: Progress | None = None
) -> dict[str, Any]:
    """Rates the corpus as the policy says. What its scores are like (`scores`), and how they agree (`agreement`).

    Raises PolicyError where it has no raters.
    """
    resolved = resolve(policy)
    if not resolved.plugins.raters:
        raise PolicyError("This policy rates nothing. Name a rater in the list `rate`, such as: rate: [readability].")
    steps = pipeline.flow(resolved, executor)
    opened = replace(Run.open(resolved, steps, root), is_dry=True)
    plan = Plan.of(resolved, executor.device())
    scores = list(resolved.catalogue.scores.values())
    with Lease.taken(opened.store.storage) as lease, Runner(opened.store, executor, progress, lease) as runner:
        after = {step: partial(finish, step=step) for step in plan.raters}
        done = runner.run(needed(steps, ["survey", "ingest", "dedup", *plan.raters]), after)
        sample = _sample(done, plan, scores)
        num_documents = done["dedup"].rows_out
    return {
        "documents": num_documents,
        "sample": sample.num_rows,
        "scores": [described_of(score, sample) for score in scores],
        "agreement": agreement(sample, scores),
    }


def _sample(done: Done, plan: Plan, scores: Sequence[Score]) -> pa.Table:
    columns = [replace(KNOWN[column], name=name) for name, column in LENGTHS.items()]
    for score in scores:
        column = plan.resolved.catalogue.score(score.name)
        state = Column(
            name=tables.state_of(score.name), step=column.step, table=column.table,
            column=tables.state_of(score.name), type=tables.LABEL,
        )  # fmt: skip
        columns += [replace(column, name=score.name), state]
    gather = plan.gather(columns)
    share = min(1.0, SAMPLE / max(1, done["dedup"].rows_out))
    reading = _Reading(store=done.store, gather=gather, seed=plan.policy.seed, share=share)
    return pa.concat_tables(done.map(reading, gather.tasks(done)), promote_options="permissive").combine_chunks()


def described_of(score: Score, sample: pa.Table) -> dict[str, Any]:
    """How many documents of the sample have a score, why others have none, and where the values lie."""
    states = sample[tables.state_of(score.name)].fill_null("lost").to_pylist()
    described: dict[str, Any] = {"name": score.name, "rater": score.rater, "higher_is": score.meaning}
    described |= {state: states.count(state) for state in (*tables.STATES, "lost")}
    values = sample[score.name].drop_null()
    if score.meaning == "label":
        counts = pl.Series(values, dtype=pl.String).value_counts(sort=True).rows()
        return described | {"most_frequent": dict(sorted(counts, key=lambda pair: (-pair[1], pair[0]))[:10])}
    numbers = exact.floats(values)
    if not len(numbers):
        return described
    if pa.types.is_temporal(values.type):  # in words, and of the values themselves
        places = np.argsort(numbers, kind="stable")[np.rint(np.array(_QUARTERS) * (len(numbers) - 1)).astype(np.int64)]
        return described | {"quantiles": [str(value) for value in values.take(pa.array(places)).to_pylist()]}
    quantiles = np.quantile(numbers, _QUARTERS).tolist()
    return described | {"mean": float(numbers.mean()), "quantiles": quantiles}


# ---------------------------------------------------------------- agreement


def agreement(sample: pa.Table, scores: Sequence[Score]) -> dict[str, Any]:
    """Rank correlations of scores with each other and with lengths, over the documents that have both; and with labels
    the share of the ranks' variance that is between the words, as its root (the correlation ratio).

    `rows` are the scores that are numbers, `columns` those, the lengths, and the labels; `values` is null where there
    is nothing to compare.
    """
    numbers = [score.name for score in scores if score.meaning != "label"]
    labels = [score.name for score in scores if score.meaning == "label" and _is_label(sample[score.name])]
    known = {name: _comparable(sample[name]) for name in (*numbers, *LENGTHS)}
    words = {name: pl.Series(sample[name], dtype=pl.String) for name in labels}
    values = [
        [
            *(spearman(known[row], known[column]) for column in known),
            *(_ratio(known[row], words[name]) for name in labels),
        ]
        for row in numbers
    ]
    return {"rows": numbers, "columns": [*known, *labels], "labels": labels, "values": values}


def spearman(a: Floats, b: Floats) -> float | None:
    """The correlation of the ranks of two columns, where both are known; None where one of them has one value only."""
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < _FEWEST:
        return None
    ranks = np.array([_ranks(values[both]) for values in (a, b)])
    if (ranks.min(axis=1) == ranks.max(axis=1)).any():
        return None
    matrix: Any = np.corrcoef(ranks)
    return float(np.clip(matrix[0, 1], -1, 1))


def _ratio(values: Floats, words: pl.Series) -> float | None:
    """The correlation ratio of ranks: 0 where every word has the same mean rank, 1 where words decide the rank."""
    both = np.isfinite(values) & words.is_not_null().to_numpy()
    if both.sum() < _FEWEST:
        return None
    ranks = _ranks(values[both])
    codes = words.filter(pl.Series(both)).rank("dense").to_numpy().astype(np.int64)
    whole = ((ranks - ranks.mean()) ** 2).sum()
    if whole == 0 or codes.min() == codes.max():
        return None
    counts = np.bincount(codes)
    means = np.bincount(codes, weights=ranks) / np.maximum(counts, 1)
    return float(np.sqrt(min(1.0, (counts * (means - ranks.mean()) ** 2).sum() / whole)))


def _comparable(column: pa.ChunkedArray) -> Floats:
    """Numbers in the order of the values, NaN of null; whole numbers that no float64 tells apart are told apart."""
    if pa.types.is_floating(column.type) or pa.types.is_null(column.type):
        return exact.floats(column)
    places = np.full(len(column), np.nan)
    is_known = column.is_valid().to_numpy()
    places[is_known] = np.unique(exact.ascending(column.drop_null()), return_inverse=True)[1]
    return places


def _ranks(values: Floats) -> Floats:
    return pl.Series(values).rank("average").to_numpy()


def _is_label(values: pa.ChunkedArray) -> bool:
    """Whether words are shared by documents."""
    present = values.drop_null()
    return 0 < len(present.unique()) <= _MOST_WORDS * len(present)


def _plain(rated: pa.Table) -> pa.Table:
    """Without dictionaries, which differ from part to part, and without what columns mean."""
    arrays = [column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in rated.columns]
    return pa.Table.from_arrays(arrays, names=rated.schema.names)


# ---------------------------------------------------------------- the picture

_CELL, _MARGIN = 46, 12


def picture(agreed: Mapping[str, Any]) -> str:
    """The agreement as an SVG: a cell for each pair, red where ranks run alike, blue where they run against each
    other."""
    rows, columns = agreed["rows"], agreed["columns"]
    left, top = (_MARGIN + drawing.LETTER * max(map(len, names), default=0) for names in (rows, columns))
    width, height = left + _CELL * len(columns) + _MARGIN, top + _CELL * len(rows) + _MARGIN
    shapes: list[str] = []
    for i, name in enumerate(rows):
        y = top + _CELL * (i + 0.5) + 4
        shapes.append(drawing.words(left - 6, y, name, "end"))
    for j, name in enumerate(columns):
        x = left + _CELL * (j + 0.5) + 4
        turned = f'transform="rotate(-90 {x:.1f} {top - 6:.1f})"'
        shapes.append(f'<text x="{x:.1f}" y="{top - 6:.1f}" {turned}>{html.escape(name)}</text>')
    for i, j in np.ndindex(len(rows), len(columns)):
        value = agreed["values"][i][j]
        x, y = left + _CELL * j, top + _CELL * i
        shapes.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{_CELL}" height="{_CELL}" fill="{_colour(value)}" stroke="#fff"/>'
        )
        if value is not None:
            centre = f'x="{x + _CELL / 2:.1f}" y="{y + _CELL / 2 + 4:.1f}" text-anchor="middle"'
            shapes.append(f"<text {centre}>{value:.2f}</text>")
    return drawing.page("Rank correlations of scores", width, height, shapes, drawing.TEXT)


def _colour(value: float | None) -> str:
    if value is None:
        return "#eeeeee"
    full = np.array([214, 72, 60] if value > 0 else [62, 108, 200])
    red, green, blue = np.rint(255 + (full - 255) * min(1.0, abs(value))).astype(int)
    return f"#{red:02x}{green:02x}{blue:02x}"
