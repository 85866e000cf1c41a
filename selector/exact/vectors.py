"""Vectors as an Arrow column and back, without copying, and which of them are most alike."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables

_ROWS = 256  # whose cosines to all others are held at once


def vector_column(vectors: npt.NDArray[Any]) -> pa.Array:
    """An (n, d) array as an Arrow column of fixed-size lists, without copying."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def vectors_of(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[Any]:
    """The inverse of `vector_column`."""
    column = tables.whole(column)
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)


def most_alike(vectors: npt.NDArray[np.float64], count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each vector the places of the `count` others that are most like it, or of all where there are fewer, and
    their cosines: (n, count), the largest first. Vectors are those of documents, as float16 made them.

    Cosines are cut to 24 bits and at 1; of equal ones the lower place comes first. So they are the same everywhere.
    """
    n = len(vectors)
    width = min(count, max(n - 1, 0))
    places, cosines = np.empty((n, width), np.int64), np.empty((n, width), np.float32)
    rank = n - 1 - np.arange(n)  # of equal cosines the lower place is the larger number
    for start in range(0, n if width else 0, _ROWS):
        block = vectors[start : start + _ROWS]
        rounded = np.minimum(np.rint(block @ vectors.T * 2**24), 2**24).astype(np.int64)
        keys = rounded * 2**30 + rank
        keys[np.arange(len(block)), start + np.arange(len(block))] = np.iinfo(np.int64).min  # not itself
        nearest = np.argpartition(keys, n - width, axis=1)[:, n - width :] if width < n else np.argsort(keys, axis=1)
        order = np.argsort(-np.take_along_axis(keys, nearest, axis=1), axis=1)
        nearest = np.take_along_axis(nearest, order, axis=1)
        places[start : start + len(block)] = nearest
        cosines[start : start + len(block)] = np.take_along_axis(rounded, nearest, axis=1) / 2**24
    return places, cosines
