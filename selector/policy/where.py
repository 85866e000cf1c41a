"""A rule over columns and scores, in SQL: parsed, and never run as Python.

`num_tokens >= 32 AND source = 'web'` may name sizes, clusters, scores and the corpus's own columns, by their short
names or, where a score and a column of the corpus have the same one, as `score.edu` and `corpus.edu`; `meta.url` is
nested, and `"meta.url"` a name with a dot. A document for which it cannot be told (a null, a division by zero) does not
pass. A rule looks at one document at a time: sums, ranks and subqueries are refused, since their answer would change
with the cut of the corpus into parts. What SQL means is said in `selector.policy.condition`.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.corpus import fields
from selector.corpus.columns import Column
from selector.errors import PolicyError
from selector.plugins.catalogue import CORPUS, RULE_COLUMNS, SCORE, Catalogue, corpus_column, corpus_names
from selector.policy.condition import cast_in, compiled, evaluated, names_in, short, tree_of

_MOST_COLUMNS = 100  # of the corpus, in one rule: each is a table of every part
_SCORES = (pa.float32(), pa.int64(), pa.date32(), pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.decimal128(18, 2))


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A condition, and the columns that it reads.

    A name that is both a column of the corpus and the score that passes it on means the column, whose values are exact,
    but the score where the column is text and the score a number that the text spells.
    """

    text: str
    columns: tuple[Column, ...]  # each under the name that the rule gives it, and the scores that pass on one of these

    @property
    def corpus_columns(self) -> tuple[str, ...]:
        """The columns of the corpus itself, by their names there."""
        return corpus_names(self.columns)

    @functools.cached_property
    def uncast_columns(self) -> frozenset[str]:
        """Those of them whose values the rule reads as they are. What it casts wherever it reads it may hold values of
        any types, which are cast as text."""
        cast = cast_in(tree_of(self.text))
        return frozenset(
            column.column for column in self.columns if column.step == "columns" and column.name not in cast
        )

    @classmethod
    def of(cls, text: str, catalogue: Catalogue) -> "Rule":
        """The rule that a policy's `select.where` says. Raises PolicyError if it is not a condition."""
        names = names_in(tree_of(text))
        if not names:
            raise PolicyError(f"select.where: {short(text)!r} names no column. Write e.g. num_tokens >= 32.")
        columns = {name: replace(_column(name, catalogue), name=name) for name in names}
        of_corpus = [name for name, column in columns.items() if column.step == "columns"]
        if len(of_corpus) > _MOST_COLUMNS:
            raise PolicyError(
                f"select.where: {short(text)!r} reads {len(of_corpus)} columns of the corpus, and {_MOST_COLUMNS} are "
                "the most. Put what it says into one column."
            )
        for name in of_corpus:
            if name in catalogue.scores and _passed_on(name) not in columns:
                columns[_passed_on(name)] = replace(catalogue.score(name), name=_passed_on(name))
        rule = cls(text=text, columns=tuple(columns.values()))
        if not of_corpus:
            rule.check({})
        return rule

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        """Raises PolicyError if the condition does not fit the types of these columns of the corpus, by their names
        there; what the types of a rater's scores are is known once it has rated."""
        if not set(self.corpus_columns) <= types.keys():
            return
        problem: PolicyError | None = None
        for score in _SCORES:
            schema = pa.schema(
                (column.name, types[column.column] if column.step == "columns" else _type(column, score))
                for column in self.columns
            )
            try:
                self._fitted(schema)
            except PolicyError as error:
                problem = problem or error
            else:
                return
        if problem is not None:
            raise problem

    def test(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Which rows of a table with the rule's columns, under the rule's names, pass. Raises PolicyError if the
        condition does not fit their types."""
        passed = evaluated(self.text, table.select(self._read(table.schema)).rename_columns(self._names))
        return passed.fill_null(False).to_numpy()

    def _fitted(self, schema: pa.Schema) -> None:
        read = [schema.field(name) for name in self._read(schema)]
        compiled(self.text, pa.schema([field.with_name(name) for field, name in zip(read, self._names, strict=True)]))

    @functools.cached_property
    def _names(self) -> list[str]:
        return names_in(tree_of(self.text))

    def _read(self, schema: pa.Schema) -> list[str]:
        """Where in a table the values of the names that the rule says are."""
        names = set(schema.names)
        return [
            _passed_on(name)
            if name not in (column.name for column in self.columns if column.step != "columns")
            and _passed_on(name) in names
            and _is_text(schema.field(name).type)
            and not _is_text(schema.field(_passed_on(name)).type)
            else name
            for name in self._names
        ]


def _column(name: str, catalogue: Catalogue) -> Column:
    """The column that a rule means by a name: ours, a score, or else one of the corpus."""
    path = fields.path_of(name)
    if len(path) == 1 and path[0].startswith((SCORE, CORPUS)):  # a long name in quotes
        name = path[0]
    score = catalogue.scores.get(name)
    if name in RULE_COLUMNS or name.startswith(SCORE) or (score is not None and not score.passes_on):
        return catalogue.find(name, "select.where")
    return corpus_column(name.removeprefix(CORPUS))


def _passed_on(name: str) -> str:
    """What a rule's table calls the score that passes on a column of the corpus."""
    return f"{SCORE}{name}"


def _type(column: Column, score: pa.DataType) -> pa.DataType:
    """The type of a column of ours; of a number that a rater gives, the one that is supposed."""
    return column.type if column.type is not None else score


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_dictionary(kind) or isinstance(kind, pa.JsonType)
