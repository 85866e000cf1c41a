"""A rule over columns and scores, in SQL: parsed, and never run as Python.

`num_tokens >= 32 AND source = 'web'` may name sizes, clusters, scores and the corpus's own columns, by their short
names or, where a score and a column of the corpus have the same one, as `score.edu` and `corpus.edu`. A
document for which it cannot be told (a null, or text where the rule compares numbers) does not pass. A rule
looks at one document at a time: sums, ranks and subqueries are refused, since their answer would change
with the cut of the corpus into parts.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from selector import tables
from selector.corpus.columns import Column
from selector.errors import PolicyError
from selector.plugins.catalogue import CORPUS, RULE_COLUMNS, SCORE, Catalogue, corpus_column, corpus_names

_KINDS = (pl.Float64, pl.String, pl.Boolean)  # what a column of the corpus can be
_MOST_COLUMNS = 8  # of the corpus, in one rule
_NUM_TRIAL_VALUES = 24

_NAMES = re.compile(r"\b(?:score|corpus)\.[A-Za-z_]\w*(?:\.\w+)*|\bcluster\b")
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*\"""")
_AGGREGATES = re.compile(  # what SQL asks of many rows at once
    r"\b(over|(?:[a-z]+_)?(?:agg|count|sum)|listagg|avg|mean|median|mode|min|max|first|last|any_value|total|every"
    r"|(?:bool|bit)_[a-z]+|(?:std|var|cov|corr|quantile|percentile|regr)[a-z_]*)\s*\(|\bselect\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A condition, and the columns that it reads."""

    text: str
    columns: tuple[Column, ...]  # each under the name that the rule gives it
    open_columns: tuple[str, ...]  # those whose type is known only once the corpus was read
    kinds: tuple[Any, ...]  # what the condition takes each of these for

    @property
    def corpus_columns(self) -> tuple[str, ...]:
        """The columns of the corpus itself, by their names there."""
        return corpus_names(self.columns)

    @classmethod
    def of(cls, text: str, catalogue: Catalogue) -> "Rule":
        """The rule that a policy's `select.where` says. Raises PolicyError if it is not a condition."""
        many = _AGGREGATES.search(_QUOTED.sub("''", text))
        if many:
            raise PolicyError(_aggregate_refused(text, many[0].strip("( ")))
        try:
            names = sorted(set(_expression(text).meta.root_names()))
        except (pl.exceptions.PolarsError, ValueError) as error:
            raise PolicyError(
                f"select.where: {_short(text)!r} is not an SQL condition: {_short(error)}. "
                "A column whose name is an SQL word goes into double quotes."
            ) from error
        if not names:
            raise PolicyError(f"select.where: {_short(text)!r} names no column. Write e.g. num_tokens >= 32.")
        columns = tuple(replace(_column(name, catalogue), name=name) for name in names)
        of_corpus = tuple(column.name for column in columns if column.step == "columns")
        if len(of_corpus) > _MOST_COLUMNS:
            raise PolicyError(
                f"select.where: {_short(text)!r} reads {len(of_corpus)} columns of the corpus, and {_MOST_COLUMNS} are "
                "the most. Put what it says into one column."
            )
        known = {column.name: _type(column) for column in columns if column.name not in of_corpus}
        problem: PolicyError | None = None
        for kinds in itertools.product(_KINDS, repeat=len(of_corpus)):
            trial = pl.DataFrame(
                {name: _trial_values(kind) for name, kind in (known | dict(zip(of_corpus, kinds, strict=True))).items()}
            )
            try:
                passed = _evaluate(text, trial)
                alone = [_evaluate(text, trial[row]) for row in range(len(trial))]
            except PolicyError as error:
                problem = problem or error
                continue
            if len(passed) != len(trial) or not passed.equals(pl.concat(alone)):
                raise PolicyError(_aggregate_refused(text, "a part of it"))
            return cls(text=text, columns=columns, open_columns=of_corpus, kinds=kinds)
        assert problem is not None
        raise problem

    def check(self, columns: Mapping[str, pa.Array]) -> None:
        """Raises PolicyError if the condition does not fit the types of these columns of the corpus, by their names
        there."""
        arrays = {column.name: columns.get(column.column) for column in self.columns if column.step == "columns"}
        if all(values is not None for values in arrays.values()):
            known = {
                column.name: pl.Series([], dtype=_type(column)) for column in self.columns if column.step != "columns"
            }
            of_corpus = {
                name: pl.from_arrow(values.slice(0, 0)) for name, values in arrays.items() if values is not None
            }
            nulls = {
                name: kind
                for name, kind in zip(self.open_columns, self.kinds, strict=True)
                if pa.types.is_null(arrays[name].type)  # pyright: ignore[reportOptionalMemberAccess]
            }
            _evaluate(self.text, pl.DataFrame(known | of_corpus), nulls)

    def test(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Which rows of a table with the rule's columns, under the rule's names, pass."""
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        labels = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
        frame = frame.cast(dict.fromkeys(labels, pl.String))
        nulls = {
            name: kind
            for name, kind in zip(self.open_columns, self.kinds, strict=True)
            if pa.types.is_null(table.schema.field(name).type)
        }
        try:
            passed = _evaluate(self.text, frame, nulls)
        except PolicyError:  # the corpus's values are of another type than its first rows
            passed = _evaluate(self.text, frame, dict(zip(self.open_columns, self.kinds, strict=True)))
        return passed.fill_null(False).to_numpy()


def _column(name: str, catalogue: Catalogue) -> Column:
    """The column that a rule means by a name: ours, a score, or else one of the corpus."""
    if name in RULE_COLUMNS or name.startswith(SCORE) or name in catalogue.scores:
        return catalogue.find(name, "select.where")
    return corpus_column(name.removeprefix(CORPUS))


def _type(column: Column) -> Any:
    """What polars takes a column of ours for."""
    if column.type == tables.LABEL:
        return pl.String
    return pl.Series(pa.array([], column.type)).dtype if column.type is not None else pl.Float32


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
    """The condition, with our column `cluster`, which is an SQL word, and long names in quotes."""
    quoted = re.split(f"({_QUOTED.pattern})", text)
    quoted[::2] = [_NAMES.sub(r'"\g<0>"', piece) for piece in quoted[::2]]
    return pl.sql_expr("".join(quoted))


def _aggregate_refused(text: str, what: str) -> str:
    return (
        f"select.where: in {_short(text)!r}, {what} asks for other documents, and a rule sees one at a time. "
        "Compare columns of one document."
    )


def _trial_values(kind: Any) -> pl.Series:
    """Values of a type, small and large, up and down."""
    values: Sequence[Any] = [(7 * row * row) % 31 * 3 ** (row // 3) for row in range(_NUM_TRIAL_VALUES)]
    if kind == pl.String:
        values = [f"{value}" for value in values]
    elif kind == pl.Boolean:
        values = [value % 2 == 0 for value in values]
    return pl.Series(values, dtype=kind)


def _short(text: object) -> str:
    """A text as a message can hold it."""
    line = " ".join(str(text).partition("\n\nThis error")[0].split()).rstrip(".")
    return f"{line[:200]}…" if len(line) > 200 else line
