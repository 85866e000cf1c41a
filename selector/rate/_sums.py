"""What the scores of documents come to: how many there are, how many are missing, and their sum without rounding.

Sealed beside the ratings of each part and added up once, so that nobody reads ratings to know whether some are missing,
or what their mean is.
"""

import functools
from collections.abc import Iterable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from selector import exact

SUMS = pa.schema(
    [
        ("score", pa.string()),
        ("type", pa.binary()),  # of the score, as an Arrow schema of one field
        ("count", pa.int64()),  # of the documents that have it
        ("missing", pa.int64()),
        ("exponent", pa.list_(pa.int32())),  # of a number, where `exact.parts` counts something
        ("high", pa.list_(pa.int64())),  # what it counts there; of an exact score the one sum of the upper halves
        ("low", pa.list_(pa.int64())),
    ]
)
"""A row for each score; labels have no sum."""

_HALF = np.uint64(2**32 - 1)


def sums_of(ratings: pa.Table) -> pa.Table:
    """`SUMS` of a part's ratings."""
    scores = [field for field in ratings.schema if (field.metadata or {}).get(b"higher_is")]
    return pa.Table.from_pylist([_row(field, ratings[field.name]) for field in scores], schema=SUMS)


def added(parts: Iterable[pa.Table]) -> pa.Table:
    """`SUMS` of all parts together."""
    whole: dict[str, dict[str, Any]] = {}
    counts: dict[str, exact.Ints] = {}
    for row in (row for part in parts for row in part.to_pylist()):
        name = row["score"]
        known = whole.setdefault(name, {**row, "count": 0, "missing": 0})
        if row["count"] and not known["count"]:
            known["type"] = row["type"]
        known["count"] += row["count"]
        known["missing"] += row["missing"]
        counted = counts.setdefault(name, exact.parts(np.empty(0)))
        counted[:, row["exponent"]] += np.array([row["high"], row["low"]], np.int64).reshape(2, -1)
    return pa.Table.from_pylist([{**row, **_sparse(counts[name])} for name, row in whole.items()], schema=SUMS)


def type_of(sums: pa.Table, score: str) -> pa.DataType:
    """The type of a score over the whole corpus."""
    (row,) = _rows(sums, score)
    return pa.ipc.read_schema(pa.py_buffer(row["type"])).field(0).type


def mean_of(sums: pa.Table, score: str) -> pa.Array:
    """The mean of a score over the documents that have it, in the score's own type; of none, its zero. One value."""
    (row,) = _rows(sums, score)
    kind, count = pa.ipc.read_schema(pa.py_buffer(row["type"])).field(0).type, row["count"]
    counts = exact.parts(np.empty(0))
    counts[:, row["exponent"]] = [row["high"], row["low"]]
    if pa.types.is_floating(kind):
        return pa.array([float(exact.total(counts) / max(count, 1))], kind)
    units = (int(counts[0, 0]) << 32) + int(counts[1, 0])
    unit = round(Fraction(units, count)) - 2**63 if count else 0
    if pa.types.is_decimal(kind):
        return pa.array([Decimal(unit).scaleb(-kind.scale)], kind)
    return pa.array([unit], pa.int64()).cast(pa.int32() if pa.types.is_date32(kind) else pa.int64()).cast(kind)


def is_missing(sums: pa.Table, score: str) -> bool:
    """Whether some rated document has no value of the score."""
    return any(row["missing"] > 0 for row in _rows(sums, score))


def _rows(sums: pa.Table, score: str) -> Iterator[dict[str, Any]]:
    return (row for row in sums.to_pylist() if row["score"] == score)


def _row(field: pa.Field, values: pa.ChunkedArray) -> dict[str, Any]:
    present = values.drop_null() if values.null_count else values
    row = {"score": field.name, "type": _spelt(field.type), "count": len(present), "missing": values.null_count}
    if pa.types.is_floating(field.type):
        return {**row, **_sparse(exact.parts(exact.floats(present)))}
    if pa.types.is_dictionary(field.type):
        return {**row, **_NOTHING}
    keys = exact.ascending(present)
    high, low = int((keys >> np.uint64(32)).sum()), int((keys & _HALF).sum())
    return {**row, "exponent": [0], "high": [high], "low": [low]} if high or low else {**row, **_NOTHING}


_NOTHING: dict[str, list[int]] = {"exponent": [], "high": [], "low": []}


@functools.lru_cache(maxsize=64)
def _spelt(kind: pa.DataType) -> bytes:
    """A type as an Arrow schema of one field."""
    return pa.schema([pa.field("value", kind)]).serialize().to_pybytes()


def _sparse(counts: exact.Ints) -> dict[str, list[int]]:
    """What is counted, where it is not 0."""
    used = np.flatnonzero(counts.any(axis=0))
    return {"exponent": used.tolist(), "high": counts[0, used].tolist(), "low": counts[1, used].tolist()}
