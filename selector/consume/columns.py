"""Columns of visits as arrays, a block of positions at a time: what a batch is gathered from.

Consecutive steps read neighbouring positions. So the columns that a trainer wants are made arrays once for a block, and
a batch costs an indexing of each.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.manifest import Manifest

_BLOCK = 65_536  # positions
_HELD = 3  # blocks: two where a batch lies over an edge, and the first for what wraps

Int64 = npt.NDArray[np.int64]


class Labels(NamedTuple):
    """Words by number."""

    codes: Int64
    words: list[Any]


Column = npt.NDArray[Any] | Labels
"""int64 (null: -1), float32 (null: NaN), ids as 16 bytes each, or labels."""


class Columns:
    """Some columns of `tables.MANIFEST`, by position. For one thread at a time."""

    def __init__(self, manifest: Manifest, names: Sequence[str]) -> None:
        self._manifest = manifest
        self._names = names
        self._blocks: dict[int, dict[str, Column]] = {}

    def take(self, positions: Int64) -> dict[str, Column]:
        """The columns at these positions; shape (n,) each."""
        if not len(positions):
            return self._of(tables.MANIFEST.empty_table())
        numbers = positions // _BLOCK
        if (numbers == numbers[0]).all():
            return {name: _taken(column, positions % _BLOCK) for name, column in self._block(int(numbers[0])).items()}
        pieces = {number: self._block(number) for number in np.unique(numbers).tolist()}
        return {name: self._gathered(name, pieces, numbers, positions % _BLOCK) for name in self._names}

    def _gathered(self, name: str, blocks: dict[int, dict[str, Column]], numbers: Int64, places: Int64) -> Column:
        """One column of rows in several blocks."""
        pieces = [
            (numbers == number, _taken(block[name], places[numbers == number])) for number, block in blocks.items()
        ]
        arrays: list[npt.NDArray[Any]] = []
        words: list[Any] = []
        for _, piece in pieces:
            arrays.append(piece.codes + len(words) if isinstance(piece, Labels) else piece)
            words += piece.words if isinstance(piece, Labels) else []
        gathered = np.empty(len(numbers), arrays[0].dtype)
        for (chosen, _), array in zip(pieces, arrays, strict=True):
            gathered[chosen] = array
        return Labels(gathered, words) if words else gathered

    def _block(self, number: int) -> dict[str, Column]:
        if number not in self._blocks:
            if len(self._blocks) == _HELD:
                del self._blocks[next(iter(self._blocks))]
            first = number * _BLOCK
            self._blocks[number] = self._of(self._manifest.rows(first, min(first + _BLOCK, len(self._manifest))))
        return self._blocks[number]

    def _of(self, rows: pa.Table) -> dict[str, Column]:
        return {name: as_array(rows[name]) for name in self._names}


def as_array(values: pa.ChunkedArray) -> Column:
    """A column of `tables.MANIFEST` as an array."""
    column: Any = values.unify_dictionaries().combine_chunks()
    if column.type == tables.LABEL:
        return Labels(column.indices.to_numpy(zero_copy_only=False).astype(np.int64), column.dictionary.to_pylist())
    if column.type == tables.DOC_ID:
        return np.frombuffer(column.buffers()[1] or b"", "V16", len(column), column.offset * 16)
    if pa.types.is_floating(column.type):
        return column.to_numpy(zero_copy_only=False).astype(np.float32)
    return column.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)


def ids(column: Column) -> list[bytes]:
    """The ids of a column of them."""
    assert not isinstance(column, Labels)
    data = column.tobytes()
    return [data[start : start + 16] for start in range(0, len(data), 16)]


def _taken(column: Column, places: Int64) -> Column:
    return Labels(column.codes[places], column.words) if isinstance(column, Labels) else column[places]
