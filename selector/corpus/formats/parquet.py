"""Parquet: rows in row groups."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selector.corpus.formats._checks import at_random
from selector.corpus.formats._columnar import UNIT_BYTES, Columnar, Groups


class Parquet(Columnar):
    """Parquet files with any row groups and any compression."""

    name = "parquet"
    endings = (".parquet", ".parq")

    def open(self, path: str) -> Groups:
        return _RowGroups(path)


class _RowGroups(Groups):
    def __init__(self, path: str) -> None:
        with at_random(path) as (file, is_far):
            # From far away columns are asked for all at once: the parts of them that are wanted, and no others.
            self._file = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=is_far)
        metadata: Any = self._file.metadata
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        self.schema: Any = self._file.schema_arrow
        self.num_rows = [group.num_rows for group in groups]
        self._sizes = [group.total_byte_size for group in groups]
        if sum(self.num_rows) != metadata.num_rows:
            self.close()
            raise pa.ArrowInvalid(f"it claims {metadata.num_rows} rows, and its row groups hold {sum(self.num_rows)}")

    def sizes(self) -> Sequence[int]:
        return self._sizes

    def read(self, group: int, columns: Sequence[str] | None) -> pa.Table:
        return self._file.read_row_group(group, columns=None if columns is None else list(columns))

    def batches(self, groups: Sequence[int], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        num_rows, num_bytes = (sum(of[group] for group in groups) for of in (self.num_rows, self._sizes))
        most = max(1, min(num_rows, UNIT_BYTES * num_rows // max(1, num_bytes)))
        yield from self._file.iter_batches(most, list(groups), list(columns), use_threads=False)

    def close(self) -> None:
        self._file.close()
