"""A rule over columns and scores, in SQL: parsed, and never run as Python.

`num_tokens >= 32 AND source = 'web'` may name sizes, clusters, scores and the corpus's own columns. A
document for which it cannot be told (a null) does not pass.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from selector.errors import PolicyError

KNOWN = ("source", "num_bytes", "num_tokens", "cluster", "distance")
"""The columns that a rule may name beside scores and the corpus's own."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A condition, and the columns that it reads."""

    text: str
    columns: tuple[str, ...]  # known to us, scores among them
    corpus_columns: tuple[str, ...]  # the corpus's own

    @classmethod
    def of(cls, text: str, scores: Collection[str]) -> "Rule":
        """The rule that a policy's `select.where` says. Raises PolicyError if it is not a condition."""
        try:
            names = sorted(set(pl.sql_expr(text).meta.root_names()))
        except (pl.exceptions.PolarsError, ValueError) as error:
            raise PolicyError(f"select.where: {text!r} is not an SQL condition: {error}.") from error
        if not names:
            raise PolicyError(f"select.where: {text!r} names no column. Write e.g. num_tokens >= 32.")
        ours = [name for name in names if name in KNOWN or name in scores]
        return cls(text=text, columns=tuple(ours), corpus_columns=tuple(name for name in names if name not in ours))

    def test(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Which rows of a table with the rule's columns pass. Raises PolicyError if the types do not fit."""
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        try:
            passed = frame.select(pl.sql_expr(self.text).alias("passed"))["passed"]
        except pl.exceptions.PolarsError as error:
            columns = ", ".join(f"{name} ({kind})" for name, kind in zip(frame.columns, frame.dtypes, strict=True))
            raise PolicyError(f"select.where: {self.text!r} does not fit the columns {columns}: {error}.") from error
        if not isinstance(passed.dtype, (pl.Boolean, pl.Null)):
            raise PolicyError(f"select.where: {self.text!r} is {passed.dtype}, not true or false. Write a comparison.")
        return passed.cast(pl.Boolean).fill_null(False).to_numpy()
