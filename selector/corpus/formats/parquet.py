"""Parquet: rows in row groups, each of which can only be decoded whole.

A worker keeps the last row group that it decoded: parts are handed out in order, and the next one is nearly always in
the same group. At random, groups are kept while there is room; one that is asked for again after it was forgotten, as
happens in a shuffled order, is unpacked into the scratch file, as lines of JSON.
"""

import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from selector.corpus import formats
from selector.corpus.formats import Asked, Bad, Cache, Ints, Range, Row, RowRead
from selector.corpus.formats._lines import LinesAt
from selector.engine.part import Piece

_BATCH = 4096
_LEAST_ROWS = 128  # of a part, however long its rows are

Int64 = npt.NDArray[np.int64]


class Parquet(formats.Format):
    """Parquet files with any row groups and any compression."""

    name = "parquet"
    endings = (".parquet",)

    def cut(self, path: str, rows_per_part: int | None) -> list[Range]:
        with formats.reading(path, pa.ArrowException):
            with pq.ParquetFile(path) as file:
                metadata: Any = file.metadata
            num_rows: int = metadata.num_rows
            groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
            rows_in_groups = sum(group.num_rows for group in groups)
            if rows_in_groups != num_rows:
                raise pa.ArrowInvalid(f"it claims {num_rows} rows, and its row groups hold {rows_in_groups}")
        num_bytes = sum(group.total_byte_size for group in groups)
        most = formats.part_rows(num_rows, rows_per_part)
        for group in groups:  # the one with the longest rows decides
            fitting = formats.PART_BYTES * group.num_rows // max(1, group.total_byte_size)
            most = min(most, max(_LEAST_ROWS, fitting - fitting % _LEAST_ROWS))
        bounds = [*range(0, num_rows, most), num_rows]
        return [
            Range(first, end - first, num_bytes * first // num_rows, num_bytes * end // num_rows)
            for first, end in itertools.pairwise(bounds)
        ]

    def rows(
        self, piece: Piece, columns: Collection[str] | None, max_bytes: int, wanted: Collection[int] | None
    ) -> Iterator[RowRead]:
        global _last_group
        file = pq.ParquetFile(piece.uri, page_checksum_verification=True)
        names = None if columns is None else tuple(sorted(set(columns) & set(file.schema_arrow.names)))
        first = 0
        for group in range(file.num_row_groups):
            rows_in_group = file.metadata.row_group(group).num_rows
            start, stop = max(piece.first_row, first), min(piece.first_row + piece.num_rows, first + rows_in_group)
            if start < stop:
                key = (piece.uri, piece.version, group, names)
                try:
                    with formats.reading(piece.uri, pa.ArrowException):
                        if _last_group is None or _last_group[0] != key:
                            read = file.read_row_group(group, columns=None if names is None else list(names))
                            _last_group = (key, read)
                        if _last_group[1].num_rows != rows_in_group:
                            raise pa.ArrowInvalid(f"it has {_last_group[1].num_rows} rows and claims {rows_in_group}")
                        table = _last_group[1].slice(start - first, stop - start)
                except formats.Corrupt as error:
                    bad = Bad(reason="corrupt_file", detail=f"row group {group}: {error}")
                    yield from (
                        RowRead(number, bad) for number in range(start, stop) if wanted is None or number in wanted
                    )
                else:
                    yield from _rows_of(table, start, wanted)
            first += rows_in_group

    def arrays(
        self, piece: Piece, columns: Collection[str], wanted: Collection[int] | None
    ) -> Iterator[tuple[Ints, pa.RecordBatch]]:
        global _last_arrays
        file = pq.ParquetFile(piece.uri, page_checksum_verification=True)
        names = tuple(sorted(set(columns) & set(file.schema_arrow.names)))
        first = 0
        for group in range(file.num_row_groups if names else 0):
            rows_in_group = file.metadata.row_group(group).num_rows
            start, stop = max(piece.first_row, first), min(piece.first_row + piece.num_rows, first + rows_in_group)
            if start < stop:
                key = (piece.uri, piece.version, group, names)
                try:
                    with formats.reading(piece.uri, pa.ArrowException):
                        if _last_arrays is None or _last_arrays[0] != key:
                            _last_arrays = (key, file.read_row_group(group, columns=list(names)))
                except formats.Corrupt:
                    pass  # `rows` says what is wrong with them
                else:
                    table = _last_arrays[1].slice(start - first, stop - start)
                    numbers = np.arange(start, stop, dtype=np.int64)
                    if wanted is not None:
                        is_wanted = np.isin(numbers, list(wanted))
                        numbers, table = numbers[is_wanted], table.filter(pa.array(is_wanted))
                    for batch in table.to_batches():
                        yield numbers[: len(batch)], batch
                        numbers = numbers[len(batch) :]
            first += rows_in_group

    def rows_at(self, path: str, size: int, cache: Cache) -> formats.ReadAt:
        return _Groups(path, size, cache).read

    def peek(self, path: str, columns: Collection[str], max_bytes: int, num_rows: int) -> formats.Beginning:
        with formats.reading(path, pa.ArrowException, UnicodeDecodeError), pq.ParquetFile(path) as file:
            names: list[str] = file.schema_arrow.names
            here = [name for name in columns if name in names]
            batch = next(file.iter_batches(num_rows, columns=here), None) if here else None
            rows = batch.to_pylist() if batch is not None else []
            return formats.Beginning(
                columns=names, rows=rows, is_empty=file.metadata.num_rows == 0, is_whole=True, schema=file.schema_arrow
            )


_last_group: tuple[tuple[str, str, int, tuple[str, ...] | None], pa.Table] | None = None
_last_arrays: tuple[tuple[str, str, int, tuple[str, ...]], pa.Table] | None = None


def _rows_of(table: pa.Table, first: int, wanted: Collection[int] | None) -> Iterator[RowRead]:
    try:
        table.validate(full=True)
        values: list[Row] = list(table.to_pylist())
    except (pa.ArrowInvalid, UnicodeDecodeError):
        values = [_one(table, index) for index in range(table.num_rows)]
    for number, row in enumerate(values, first):
        if wanted is None or number in wanted:
            yield RowRead(number, row)


def _one(table: pa.Table, index: int) -> Row:
    try:
        return table.slice(index, 1).to_pylist()[0]
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        return Bad(reason="not_utf8", detail=str(error))


class _Groups:
    """The rows of a Parquet file at random; row group i holds the rows from bounds[i] to bounds[i + 1]."""

    def __init__(self, path: str, size: int, cache: Cache) -> None:
        self.path, self.size, self.cache = path, size, cache
        self.forgotten: set[tuple[int, tuple[str, ...]]] = set()  # groups that were decoded before
        self.unpacked: dict[tuple[int, tuple[str, ...]], LinesAt] = {}
        with formats.opened(path, size) as file:
            try:
                self.metadata = pq.read_metadata(file)
            except (pa.ArrowException, OSError) as error:
                raise formats.changed(path, "it is not Parquet", str(error)) from error
        sizes = [self.metadata.row_group(index).num_rows for index in range(self.metadata.num_row_groups)]
        self.bounds = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def read(self, asked: Asked, columns: Sequence[str]) -> list[dict[str, Any]]:
        rows = asked.numbers
        formats.check_range(self.path, rows, int(self.bounds[-1]))
        answers: list[dict[str, Any]] = []
        groups = np.searchsorted(self.bounds, rows, side="right") - 1
        for group in np.unique(groups).tolist():
            answers += self._read(group, rows[groups == group] - self.bounds[group], tuple(columns))
        return answers

    def _read(self, group: int, rows: Int64, columns: tuple[str, ...]) -> list[dict[str, Any]]:
        key = (group, columns)
        if key in self.unpacked:
            return self.unpacked[key].read(Asked(rows), columns)
        table = self.cache.get((self.path, key))
        if table is None:
            table = self._decode(group, columns)
            if key in self.forgotten:
                self.unpacked[key] = self._unpack(table)
            else:
                self.forgotten.add(key)
                self.cache.put((self.path, key), table)
        return self._to_dicts(table.take(pa.array(rows)), len(rows))

    def _decode(self, group: int, columns: tuple[str, ...]) -> pa.Table:
        with formats.opened(self.path, self.size) as file:
            try:
                reader = pq.ParquetFile(file, metadata=self.metadata, page_checksum_verification=True, pre_buffer=False)
                return reader.read_row_group(group, columns=list(columns), use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise formats.changed(self.path, f"row group {group} cannot be read", str(error)) from error

    def _unpack(self, table: pa.Table) -> LinesAt:
        """The table as lines of the scratch file."""
        scratch = self.cache.scratch(self.path)
        bounds = [scratch.end()]
        for start in range(0, table.num_rows, _BATCH):
            piece = table.slice(start, _BATCH)
            rows = self._to_dicts(piece, piece.num_rows)
            lines = [json.dumps(row, ensure_ascii=False, default=str).encode() for row in rows]
            bounds += [len(line) for line in lines]
            scratch.write(b"".join(lines), self.path)
        return LinesAt(path=self.path, size=self.size, copy=scratch, bounds=np.cumsum(bounds, dtype=np.int64))

    def _to_dicts(self, table: pa.Table, num_rows: int) -> list[dict[str, Any]]:
        try:
            return table.to_pylist() if table.num_columns else [{} for _ in range(num_rows)]
        except UnicodeDecodeError as error:
            raise formats.changed(self.path, "it has text that is not UTF-8", str(error)) from error
