"""A rule over columns and scores, in SQL: parsed, and never run as Python.

`num_tokens >= 32 AND source = 'web'` may name sizes, clusters, scores and the corpus's own columns. A
document for which it cannot be told (a null, or text where the rule compares numbers) does not pass. A rule
looks at one document at a time: sums, ranks and subqueries are refused, since their answer would change
with the cut of the corpus into parts.
"""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from selector.errors import PolicyError

_TYPES: Mapping[str, Any] = {
    "source": pl.String, "num_bytes": pl.UInt32, "num_tokens": pl.UInt32, "cluster": pl.Int32, "distance": pl.Float32,
}  # fmt: skip
KNOWN = tuple(_TYPES)
"""The columns that a rule may name beside scores and the corpus's own."""

_KINDS = (pl.Float64, pl.String, pl.Boolean)  # what a column of the corpus can be
_MOST_COLUMNS = 8  # of the corpus, in one rule
_NUM_SAMPLES = 24

_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*\"""")
_OF_MANY = re.compile(  # what SQL asks of many rows at once
    r"\b(over|(?:[a-z]+_)?(?:agg|count|sum)|listagg|avg|mean|median|mode|min|max|first|last|any_value|total|every"
    r"|(?:bool|bit)_[a-z]+|(?:std|var|cov|corr|quantile|percentile|regr)[a-z_]*)\s*\(|\bselect\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A condition, and the columns that it reads."""

    text: str
    columns: tuple[str, ...]  # known to us, scores among them
    corpus_columns: tuple[str, ...]  # the corpus's own
    kinds: tuple[Any, ...]  # of the corpus's columns: what the condition takes each for

    @classmethod
    def of(cls, text: str, scores: Collection[str]) -> "Rule":
        """The rule that a policy's `select.where` says. Raises PolicyError if it is not a condition."""
        many = _OF_MANY.search(_QUOTED.sub("''", text))
        if many:
            raise PolicyError(_of_many(text, many[0].strip("( ")))
        try:
            names = sorted(set(_expression(text).meta.root_names()))
        except (pl.exceptions.PolarsError, ValueError) as error:
            raise PolicyError(
                f"select.where: {_short(text)!r} is not an SQL condition: {_short(error)}. "
                "A column whose name is an SQL word goes into double quotes."
            ) from error
        if not names:
            raise PolicyError(f"select.where: {_short(text)!r} names no column. Write e.g. num_tokens >= 32.")
        ours = tuple(name for name in names if name in KNOWN or name in scores)
        theirs = tuple(name for name in names if name not in ours)
        if len(theirs) > _MOST_COLUMNS:
            raise PolicyError(
                f"select.where: {_short(text)!r} reads {len(theirs)} columns of the corpus, and {_MOST_COLUMNS} are "
                "the most. Put what it says into one column."
            )
        known = {name: _TYPES.get(name, pl.Float32) for name in ours}
        problem: PolicyError | None = None
        for kinds in itertools.product(_KINDS, repeat=len(theirs)):
            samples = pl.DataFrame(
                {name: _samples(kind) for name, kind in (known | dict(zip(theirs, kinds, strict=True))).items()}
            )
            try:
                passed = _evaluate(text, samples)
                alone = [_evaluate(text, samples[row]) for row in range(len(samples))]
            except PolicyError as error:
                problem = problem or error
                continue
            if len(passed) != len(samples) or not passed.equals(pl.concat(alone)):
                raise PolicyError(_of_many(text, "a part of it"))
            return cls(text=text, columns=ours, corpus_columns=theirs, kinds=kinds)
        assert problem is not None
        raise problem

    def check(self, columns: Mapping[str, pa.Array]) -> None:
        """Raises PolicyError if the condition does not fit the types of these columns of the corpus."""
        known = {name: pl.Series([], dtype=_TYPES.get(name, pl.Float32)) for name in self.columns}
        theirs = {name: pl.from_arrow(columns[name].slice(0, 0)) for name in self.corpus_columns if name in columns}
        if len(theirs) == len(self.corpus_columns):
            _evaluate(self.text, pl.DataFrame(known | theirs), self._nulls_as_kinds(columns))

    def test(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Which rows of a table with the rule's columns pass."""
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        frame = frame.cast({name: pl.String for name in frame.columns if name == "source"})  # a dictionary on disk
        try:
            passed = _evaluate(self.text, frame)
        except PolicyError:  # one part's values are of another type than the corpus's first rows
            passed = _evaluate(self.text, frame, dict(zip(self.corpus_columns, self.kinds, strict=True)))
        return passed.fill_null(False).to_numpy()

    def _nulls_as_kinds(self, columns: Mapping[str, pa.Array]) -> dict[str, Any]:
        kinds = zip(self.corpus_columns, self.kinds, strict=True)
        return {name: kind for name, kind in kinds if pa.types.is_null(columns[name].type)}


def _evaluate(text: str, frame: pl.DataFrame, kinds: Mapping[str, Any] | None = None) -> pl.Series:
    """The condition's value for each row. Raises PolicyError if the types do not fit."""
    try:
        frame = frame.with_columns(pl.col(name).cast(kind, strict=False) for name, kind in (kinds or {}).items())
        passed = frame.select(_expression(text).alias("passed"))["passed"]
    except pl.exceptions.PolarsError as error:
        columns = ", ".join(f"{name} ({kind})" for name, kind in zip(frame.columns, frame.dtypes, strict=True))
        raise PolicyError(
            f"select.where: {_short(text)!r} does not fit the columns {columns}: {_short(error)}."
        ) from error
    if not isinstance(passed.dtype, (pl.Boolean, pl.Null)):
        raise PolicyError(f"select.where: {_short(text)!r} is {passed.dtype}, not true or false. Write a comparison.")
    return passed.cast(pl.Boolean)


def _expression(text: str) -> pl.Expr:
    """The condition, with our column `cluster`, which is an SQL word, in quotes."""
    quoted = re.split(f"({_QUOTED.pattern})", text)
    quoted[::2] = [re.sub(r"\bcluster\b", '"cluster"', piece) for piece in quoted[::2]]
    return pl.sql_expr("".join(quoted))


def _of_many(text: str, what: str) -> str:
    return (
        f"select.where: in {_short(text)!r}, {what} asks for other documents, and a rule sees one at a time. "
        "Compare columns of one document."
    )


def _samples(kind: Any) -> pl.Series:
    """Values of a type, small and large, up and down."""
    values: Sequence[Any] = [(7 * row * row) % 31 * 3 ** (row // 3) for row in range(_NUM_SAMPLES)]
    if kind == pl.String:
        values = [f"{value}" for value in values]
    elif kind == pl.Boolean:
        values = [value % 2 == 0 for value in values]
    return pl.Series(values, dtype=kind)


def _short(text: object) -> str:
    """A text as a message can hold it."""
    line = " ".join(str(text).partition("\n\nThis error")[0].split()).rstrip(".")
    return f"{line[:200]}…" if len(line) > 200 else line
