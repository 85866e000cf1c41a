"""Where a document is in the order: ids.parquet, looked up by the beginning of an id.

Think of the index of a book: the first 8 bytes of every visit's doc_id, sorted, with the position. A beginning may be
that of several documents, so whoever looks one up compares the whole id at the positions that it is given.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from selector import tables
from selector.engine.store import parquet_pieces
from selector.exact import keyed
from selector.manifest.digest import LEAF_ROWS
from selector.manifest.format import read_table

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]


def prefix_of(doc_id: bytes) -> int:
    """The first 8 bytes of an id as a number."""
    return int.from_bytes(doc_id[:8], "big")


def listed_in(ids: pa.Array | pa.ChunkedArray, positions: pa.Array | pa.ChunkedArray) -> pa.Table:
    """`tables.IDS` of visits, not sorted yet."""
    return pa.table([keyed.words(ids)[:, 0].copy(), positions], schema=tables.IDS)


def by_prefix(rows: pa.Table) -> pa.Table:
    """The rows as ids.parquet has them; positions of one prefix keep their order, so they are to come in it."""
    return rows.take(pa.array(np.argsort(rows["prefix"].to_numpy(), kind="stable"))).combine_chunks()


def index_pieces(sorted_rows: Iterable[pa.Table]) -> Iterator[bytes]:
    """ids.parquet, of all its rows in tables of any size: row groups whose statistics tell which of them has a
    prefix."""
    return parquet_pieces(
        sorted_rows,
        tables.IDS,
        LEAF_ROWS,
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
