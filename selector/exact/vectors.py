"""Vectors as an Arrow column and back, without copying."""

from typing import Any

import numpy.typing as npt
import pyarrow as pa


def vector_column(vectors: npt.NDArray[Any]) -> pa.Array:
    """An (n, d) array as an Arrow column of fixed-size lists, without copying."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def vectors_of(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[Any]:
    """The inverse of `vector_column`."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
