"""Integers that sort like scores: what orders and selectors compare, the same on every machine."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

LAST = np.uint64(2**64 - 1)
"""The key of what has no score: behind everything."""


def floats(values: pa.Array | pa.ChunkedArray) -> Floats:
    """The numbers of an Arrow column as float64, NaN where it is null."""
    return values.to_numpy(zero_copy_only=False).astype(np.float64)


def ascending(scores: pa.Array | pa.ChunkedArray) -> UInt64:
    """One key per float32 score: a smaller score has a smaller key, equal scores have equal keys, null is LAST."""
    values = floats(scores)
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32).astype(np.uint64)  # -0.0 becomes 0.0
    keys = np.where(bits >> np.uint64(31), ~bits, bits | np.uint64(2**31)) << np.uint64(32)
    return np.where(np.isnan(values), LAST, keys)


def descending(scores: pa.Array | pa.ChunkedArray) -> UInt64:
    """One key per float32 score: a larger score has a smaller key, equal scores have equal keys, null is LAST."""
    keys = ascending(scores)
    return np.where(keys == LAST, LAST, ~(keys | np.uint64(2**32 - 1)))


def argsort(keys: UInt64, ids: UInt64) -> npt.NDArray[np.intp]:
    """The indices that sort by (key, id); `ids` are the words of `keyed.words`."""
    order = np.argsort(keys)
    if (keys[order[1:]] != keys[order[:-1]]).all():
        return order
    return np.lexsort((ids[:, 1], ids[:, 0], keys))
