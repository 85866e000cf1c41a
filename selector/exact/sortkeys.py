"""Integers that sort like scores: what orders and selectors compare, the same on every machine."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

LAST = np.uint64(2**64 - 1)
"""The key of what has no score: behind everything."""


def floats(values: pa.Array | pa.ChunkedArray) -> Floats:
    """The numbers of an Arrow column as float64, NaN where it is null: of a date its days, of a timestamp its units."""
    if pa.types.is_temporal(values.type):
        values = values.cast(pa.int32() if values.type.bit_width == 32 else pa.int64())
    elif pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    return values.to_numpy(zero_copy_only=False).astype(np.float64)


def ascending(scores: pa.Array | pa.ChunkedArray) -> UInt64:
    """One key per score: a smaller score has a smaller key, equal scores have equal keys, null is LAST.

    Floats are compared as float32, NaN as null. Integers, dates, timestamps and decimals of at most 18 digits are
    compared exactly, by their 64-bit count of units; only 2**63 - 1 and 2**63 - 2 have one key, since LAST means null.
    """
    if pa.types.is_floating(scores.type):
        values = floats(scores)
        bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32).astype(np.uint64)  # -0.0 becomes 0.0
        keys = np.where(bits >> np.uint64(31), ~bits, bits | np.uint64(2**31)) << np.uint64(32)
        return np.where(np.isnan(values), LAST, keys)
    keys, is_null = _units(scores)
    return np.where(is_null, LAST, np.minimum(keys, LAST - np.uint64(1)))


def descending(scores: pa.Array | pa.ChunkedArray) -> UInt64:
    """One key per score: a larger score has a smaller key, equal scores have equal keys, null is LAST.

    As exact as `ascending`; here it is -2**63 and -2**63 + 1 that have the same key.
    """
    if pa.types.is_floating(scores.type):
        keys = ascending(scores)
        return np.where(keys == LAST, LAST, ~(keys | np.uint64(2**32 - 1)))
    keys, is_null = _units(scores)
    return np.where(is_null, LAST, np.minimum(~keys, LAST - np.uint64(1)))


def largest_first(values: Floats) -> UInt64:
    """One key per number: a larger one has a smaller key. All 64 bits of each count; NaN is LAST."""
    bits = (np.where(np.isnan(values), 0.0, values) + 0.0).view(np.uint64)  # -0.0 becomes 0.0
    rising = np.where(bits >> np.uint64(63), ~bits, bits | np.uint64(2**63))
    return np.where(np.isnan(values), LAST, ~rising)


def argsort(keys: UInt64, ids: UInt64) -> npt.NDArray[np.intp]:
    """The indices that sort by (key, id); `ids` are the words of `keyed.words`."""
    order = np.argsort(keys)
    if (keys[order[1:]] != keys[order[:-1]]).all():
        return order
    order = np.argsort(ids[:, 0])  # several times as fast as a sort that keeps what is equal in its order
    if (ids[order[1:], 0] != ids[order[:-1], 0]).all():
        return order[np.argsort(keys[order], kind="stable")]
    return np.lexsort((ids[:, 1], ids[:, 0], keys))


def _units(scores: pa.Array | pa.ChunkedArray) -> tuple[UInt64, npt.NDArray[np.bool_]]:
    """For each exact score its count of units (days, microseconds, 10**-scale) plus 2**63; and which ones are null."""
    column = tables.whole(scores)
    kind = column.type
    if pa.types.is_decimal(kind):
        if kind.precision > 18:
            raise TypeError(f"a score of the type {kind} has more digits than the 18 that are compared exactly")
        pairs = column.cast(pa.decimal128(kind.precision, kind.scale))
        data = pairs.buffers()[1]
        words = np.frombuffer(data or b"", "<i8", count=2 * len(pairs), offset=16 * pairs.offset if data else 0)
        units = words[::2]  # the lower half of 128 bits, which holds 18 digits with their sign
    elif pa.types.is_integer(kind) or pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        whole = column.cast(pa.int32()) if pa.types.is_date32(kind) else column
        units = whole.cast(pa.int64()).fill_null(0).to_numpy()
    else:
        raise TypeError(f"a score of the type {kind} has no order")
    is_null = column.is_null().to_numpy(zero_copy_only=False)
    return units.astype(np.int64).view(np.uint64) ^ np.uint64(2**63), is_null
