"""Every column that a rater, a rule, a selector, an order or the manifest may name, and where it is stored.

A column has one long name (`num_tokens`, `score.readability`, `corpus.lang`) and, where that has only one meaning, a
short one (`readability`, `lang`). This is the only list of them: who reads columns looks them up here, and
`selector.corpus.joined` fetches them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from selector import tables
from selector.corpus.columns import Column
from selector.corpus.joined import INGEST
from selector.errors import PolicyError, did_you_mean
from selector.plugins import families

SCORE, CORPUS = "score.", "corpus."
"""The prefixes of long names: of a rater's scores, and of the columns that a row of the corpus has."""

RATE = "rate/"
"""Begins the names of the steps that store ratings."""

_DOCUMENTS = ("source", "num_bytes", "num_tokens")

KNOWN: Mapping[str, Column] = {
    "doc_id": Column(name="doc_id", step="dedup", table="documents", column="doc_id", type=tables.DOC_ID),
    **{
        name: Column(name=name, step="dedup", table="documents", column=name, type=tables.DOCUMENTS.field(name).type)
        for name in _DOCUMENTS
    },
    "file": Column(name="file", step="", table="", column="file", type=pa.uint32()),
    "row": Column(name="row", step="", table="", column="row", type=pa.uint32()),
    "doc_draw": Column(name="doc_draw", step="", table="", column="doc_draw", type=pa.float64()),
    **{
        name: Column(name=name, step=INGEST, table="documents", column=name, type=tables.DOCUMENTS.field(name).type)
        for name in tables.BYTES
    },
    "text": Column(name="text", step="", table="", column="text", type=pa.string()),
    "embedding": Column(name="embedding", step="embed", table="embeddings", column="embedding", type=None),
    **{
        name: Column(name=name, step="cluster", table="clusters", column=name, type=tables.CLUSTERS.field(name).type)
        for name in ("cluster", "distance", "branches")
    },
    **{
        name: Column(
            name=name, step="neighbours", table="neighbours", column=name, type=tables.NEIGHBOURS.field(name).type
        )
        for name in ("neighbours", "neighbour_cosines")
    },
}
"""The columns that are there for every policy; the flow runs the steps that write them where somebody reads them."""

RULE_COLUMNS = ("source", "num_bytes", "num_tokens", "cluster", "distance", "doc_draw")
"""Those of them that a rule may name."""

WIDE = ("text", "embedding", "neighbours", "neighbour_cosines")
"""Those of them that take more room than all the others together, each."""

NO_GROUPS = (
    "doc_id", "doc_draw", "num_bytes", "num_tokens", "row", *tables.BYTES, "text", "embedding", "distance", "branches",
    *("neighbours", "neighbour_cosines"),
)  # fmt: skip
"""Those of them whose values are no groups of documents."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score that the policy's raters give: by which rater, what a large one means or "label", and whether it only
    passes on the corpus column of its own name."""

    name: str
    rater: str
    meaning: str
    passes_on: bool = False


class Scoring(Protocol):
    """What has scores: a rater, or a fit."""

    @property
    def needs(self) -> tuple[str, ...]: ...

    def scores(self, name: str) -> Mapping[str, str]: ...


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The columns that one policy's plug-ins and rule may name."""

    scores: Mapping[str, Score] = field(default_factory=dict[str, Score])

    @classmethod
    def of(cls, raters: Mapping[str, Scoring]) -> "Catalogue":
        """The catalogue of these raters, by their labels. Raises PolicyError where two of them give one name."""
        scores: dict[str, Score] = {}
        for label, rater in raters.items():
            for name, meaning in rater.scores(label).items():
                problem = _problem(name, scores)
                if problem:
                    raise PolicyError(f"rate: the score {name!r} of {label!r} {problem}")
                scores[name] = Score(
                    name=name, rater=label, meaning=meaning, passes_on=tuple(rater.needs) == (f"{CORPUS}{name}",)
                )
        return cls(scores=scores)

    def find(self, name: str, where: str) -> Column:
        """The column of this name, long or short. A column of the corpus has its long name here; a rule may write its
        short one too. Raises PolicyError with the nearest name; `where` is the policy's key."""
        if name in KNOWN:
            return KNOWN[name]
        if name.startswith(CORPUS) and name != CORPUS:
            return corpus_column(name.removeprefix(CORPUS))
        short = name.removeprefix(SCORE)
        if short in self.scores:
            return self.score(short)
        if name.startswith(SCORE):
            raise self._unknown_score(name, where)
        raise PolicyError(
            f"{where} needs the column {name!r}. {did_you_mean(name, [*KNOWN, *self.scores])} "
            f"A column of the corpus itself is {CORPUS}{name}."
        )

    def score(self, name: str) -> Column:
        """The column of a score."""
        score = self.scores[name]
        kind = tables.LABEL if score.meaning == "label" else None
        return Column(
            name=f"{SCORE}{name}",
            step=f"{RATE}{score.rater}",
            table="ratings",
            column=name,
            type=kind,
            meaning=score.meaning,
        )

    def check_score(self, name: str, where: str) -> Column:
        """The column of a score that an option names. Raises PolicyError if no rater gives it, or gives words."""
        short = name.removeprefix(SCORE)
        if short not in self.scores:
            raise self._unknown_score(name, where)
        if self.scores[short].meaning == "label":
            raise PolicyError(f"{where}: {name!r} is a label, a word for each document. Name a score that is a number.")
        return self.score(short)

    def _unknown_score(self, name: str, where: str) -> PolicyError:
        hint = did_you_mean(name.removeprefix(SCORE), self.scores)
        problem = f"no rater gives the score {name!r}" if name.strip() else "the name of the score is blank"
        if name.removeprefix(SCORE) in families.names("raters"):
            hint = "There is a rater of that name: add it to the list `rate`."
        return PolicyError(f"{where}: {problem}. {hint}")


def corpus_column(name: str) -> Column:
    """A column of the corpus itself, as its rows have it."""
    return Column(name=f"{CORPUS}{name}", step="columns", table="columns", column=name, type=None)


def steps_of(columns: Iterable[Column]) -> tuple[str, ...]:
    """The steps that write these columns, each once."""
    return tuple(dict.fromkeys(column.step for column in columns if column.step))


def corpus_names(columns: Iterable[Column]) -> tuple[str, ...]:
    """The names in the corpus of those of these columns that are its own, sorted."""
    return tuple(sorted({column.column for column in columns if column.step == "columns"}))


def _problem(name: str, scores: Mapping[str, Score]) -> str | None:
    if name in KNOWN or name in ("state", "visit", "visits", "round", "inclusion_probability"):
        return "has the name of another column. Call the rater something else: {rater: {…}, as: name}."
    if name in scores:
        return f"is given by {scores[name].rater!r} already. Give one of them another name, with as: name."
    if name.startswith((SCORE, CORPUS)):
        return f"begins with {SCORE!r} or {CORPUS!r}, which are kept for long names."
    return None
