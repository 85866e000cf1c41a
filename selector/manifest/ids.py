"""Where a document is in the order: ids.parquet, looked up by the beginning of an id.

Think of the index of a book: the first 8 bytes of every visit's doc_id, sorted, with the position. A beginning may be
that of several documents, so whoever looks one up compares the whole id at the positions that it is given.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from selector import tables
from selector.engine.store import to_parquet
from selector.exact import keyed
from selector.manifest.format import read_table
from selector.manifest.ledger import LEAF_ROWS

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]


def prefix_of(doc_id: bytes) -> int:
    """The first 8 bytes of an id as a number."""
    return int.from_bytes(doc_id[:8], "big")


def prefixes_of(ids: pa.Array | pa.ChunkedArray) -> UInt64:
    """The same of many ids, shape (n,)."""
    return keyed.words(ids)[:, 0].copy()


def index_of(prefixes: Sequence[UInt64]) -> pa.Table:
    """`tables.IDS` of the prefixes at positions 0, 1, 2 and so on, given in pieces."""
    joined = np.concatenate([np.empty(0, np.uint64), *prefixes])
    positions = np.argsort(joined, kind="stable")
    return pa.table([joined[positions], positions.astype(np.int64)], schema=tables.IDS)


def index_bytes(ids: pa.Table) -> bytes:
    """`tables.IDS` as Parquet, in row groups whose statistics tell which of them has a prefix."""
    return to_parquet(
        ids,
        row_group_size=LEAF_ROWS,
        write_page_index=True,
        sorting_columns=[pq.SortingColumn(0), pq.SortingColumn(1)],
        use_dictionary=False,
        column_encoding=dict.fromkeys(tables.IDS.names, "DELTA_BINARY_PACKED"),
    )


class Index:
    """An ids.parquet, opened. Only the row groups that a look-up needs are decoded."""

    def __init__(self, key: str, file: pq.ParquetFile) -> None:
        groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
        statistics = [group.column(0).statistics for group in groups if group.num_rows]
        self._key, self._file = key, file
        self._first = np.array([of_group.min for of_group in statistics], np.uint64)
        self._last = np.array([of_group.max for of_group in statistics], np.uint64)

    def positions(self, prefix: int) -> Int64:
        """The positions of the documents whose ids begin so, ascending."""
        wanted = np.uint64(prefix)
        begin, end = np.searchsorted(self._last, wanted, "left"), np.searchsorted(self._first, wanted, "right")
        pieces: list[Int64] = [np.empty(0, np.int64)]
        for group in range(int(begin), int(end)):
            rows = read_table(self._key, self._file, group=group)
            inside = rows["prefix"].to_numpy()
            begins, ends = np.searchsorted(inside, wanted, "left"), np.searchsorted(inside, wanted, "right")
            pieces.append(rows["position"].to_numpy()[begins:ends])
        return np.concatenate(pieces)
