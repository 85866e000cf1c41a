"""Columns of documents: where each is stored, and the one type that a column of the corpus has.

JSON says no type, and a part sees only its own values. So the type of a column is found from what all parts say of
theirs, and every part's values are read as that.
"""

import datetime
import decimal
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of documents: its name, the step that writes it, and its place in that step's tables."""

    name: str
    step: str  # "" for what is known of a part without any step: its file, its texts
    table: str
    column: str
    type: pa.DataType | None = None  # None: known once the corpus was read
    meaning: str | None = None  # of a score: what a large one means, or "label"


def column(values: Sequence[Any]) -> pa.Array:
    """Values of one column as rows hold them, in the narrowest type that holds them all; null where there is none.

    Booleans, integers, numbers, dates, timestamps and decimals stay what they are; text is text; anything else, and any
    mixture, becomes text: its JSON.
    """
    present = [value for value in values if value is not None]
    if not present:
        return pa.nulls(len(values))
    kinds = {type(value) for value in present}
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in present):
        return pa.array(values, pa.int64())
    if kinds <= {int, float}:
        return pa.array([None if value is None else _float(value) for value in values], pa.float64())
    if len(kinds) == 1 and issubclass(next(iter(kinds)), (datetime.date, decimal.Decimal)):
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, OverflowError, ValueError):
            pass
    return pa.array([None if value is None else text(value) for value in values], pa.string())


def common(types: Iterable[pa.DataType]) -> pa.DataType:
    """The one type of a column whose parts have these: nulls have none, integers with numbers are numbers."""
    kinds = {kind for kind in types if not pa.types.is_null(kind)}
    if len(kinds) <= 1:
        return next(iter(kinds), pa.null())
    if kinds <= {pa.int64(), pa.float64()}:
        return pa.float64()
    if all(pa.types.is_decimal(kind) for kind in kinds):
        scale = max(kind.scale for kind in kinds)
        whole = max(kind.precision - kind.scale for kind in kinds)
        return pa.decimal128(min(38, whole + scale), scale)
    return pa.string()


def as_type(values: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """A part's values in the type of the whole column."""
    if values.type == kind:
        return values
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), kind)
    if pa.types.is_string(kind) and pa.types.is_boolean(values.type):
        words = pa.array(["false", "true"])
        return words.take(values.cast(pa.int8()))
    return values.cast(kind, safe=False)


def text(value: Any) -> str:
    """A value as text: itself, or its JSON; halves of surrogate pairs are written out."""
    return _utf8(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # JSON has no largest integer
        return math.inf if value > 0 else -math.inf


def _utf8(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
