"""The tables of a manifest, format version 2: how each is named and written, and checked when it is read.

    manifest.json                       names all that follows, with its sha256 (`selector.manifest.header`)
    parts/part-00000.parquet …          `tables.MANIFEST` in position order, row groups of 65,536, page checksums
    files.parquet                       `tables.FILES`
    ids.parquet                         `tables.IDS`, sorted (`selector.manifest.ids`)
    unvisited.parquet                   `tables.UNVISITED`, where the order does not make every visit
    ../decisions/part-00000.parquet …   `tables.DECISIONS` in the order of the corpus

Equal content has equal bytes, however it was computed and by how many processes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selector import tables
from selector.engine.store import to_parquet
from selector.errors import DamagedError, SelectorError
from selector.manifest.digest import LEAF_ROWS
from selector.manifest.header import FORMAT_VERSION, DecisionPart, Header, Part, Table
from selector.storage import Storage, sha256_of

SCHEMAS = {
    "parts": tables.MANIFEST,
    "decisions": tables.DECISIONS,
    "files": tables.FILES,
    "ids": tables.IDS,
    "unvisited": tables.UNVISITED,
}
"""Of the parts of a folder, or of the table in `<name>.parquet`."""

_GROUPED = ("parts", "ids")  # in row groups of 65,536, of which a reader finds the one that it needs
_DICTIONARIES = ["visit", "phase", "source", "cluster", "file", "loss_weight", "reason"]
_OTHER_BYTES = "its sha256 is not the one that was committed"
_DELTAS = {"position": "DELTA_BINARY_PACKED", "token_start": "DELTA_BINARY_PACKED"}


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The tables of one manifest as they lie in a storage. Each is checked against manifest.json before it is used."""

    storage: Storage
    home: str
    """The key of the manifest's directory."""
    header: Header

    def key(self, *names: str) -> str:
        """The key of an object."""
        return key_of(self.home, *names)

    def table(self, name: str) -> pa.Table:
        """`files`, `ids` or `unvisited`, empty if there is none. Raises DamagedError."""
        file = self.file(name)
        return SCHEMAS[name].empty_table() if file is None else read_table(self.key(f"{name}.parquet"), file)

    def file(self, name: str) -> pq.ParquetFile | None:
        """The opened file of a table, if there is one. Raises DamagedError."""
        entry: Table | None = getattr(self.header, name)
        return None if entry is None else self._open(self.key(f"{name}.parquet"), entry, name)

    def part(self, folder: str, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """One part of `parts` or `decisions`. Raises DamagedError."""
        return read_table(self.key(folder, part_name(index)), self.part_file(folder, index), columns)

    def parts(self, folder: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        return (self.part(folder, index, columns) for index in range(len(getattr(self.header, folder))))

    def part_file(self, folder: str, index: int) -> pq.ParquetFile:
        """The opened file of a part. Raises DamagedError."""
        return self._open(self.key(folder, part_name(index)), getattr(self.header, folder)[index], folder)

    def is_whole(self) -> bool:
        """Whether every object that manifest.json lists has the bytes that were committed."""
        listed: list[tuple[str, Part | DecisionPart | Table]] = [
            (self.key(folder, part.name), part)
            for folder in ("parts", "decisions")
            for part in getattr(self.header, folder)
        ]
        for name in ("files", "ids", "unvisited"):
            entry: Table | None = getattr(self.header, name)
            listed += [(self.key(f"{name}.parquet"), entry)] if entry is not None else []
        return all(sha256_of(self.storage, key) == entry.sha256 for key, entry in listed)

    def groups(self, name: str) -> Iterator[pa.Table]:
        """`ids` or `unvisited`, row group by row group, so that it is never held whole. Raises DamagedError."""
        entry: Table | None = getattr(self.header, name)
        if entry is None:
            return
        key = self.key(f"{name}.parquet")
        source = self.storage.open(key)
        if source is None:
            raise DamagedError(key, "it is gone")
        with source:
            if hashlib.file_digest(source, "sha256").hexdigest() != entry.sha256:
                raise DamagedError(key, _OTHER_BYTES)
            source.seek(0)
            file = self._checked(key, opened(key, source, SCHEMAS[name]), entry, name)
            for group in range(file.metadata.num_row_groups):
                yield read_table(key, file, group=group)

    def _open(self, key: str, entry: Part | DecisionPart | Table, name: str) -> pq.ParquetFile:
        data = self.storage.get(key)
        if data is None:
            raise DamagedError(key, "it is gone")
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise DamagedError(key, _OTHER_BYTES)
        return self._checked(key, opened(key, pa.BufferReader(data), SCHEMAS[name]), entry, name)

    def _checked(self, key: str, file: pq.ParquetFile, entry: Part | DecisionPart | Table, name: str) -> pq.ParquetFile:
        """The file, if it is cut into row groups as its format says."""
        if file.metadata.num_rows != entry.rows:
            raise DamagedError(key, f"it has {file.metadata.num_rows} rows and {entry.rows} were committed")
        rows = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        if name in _GROUPED and (max(rows, default=0) > LEAF_ROWS or min(rows[:-1], default=LEAF_ROWS) < LEAF_ROWS):
            raise DamagedError(key, f"its row groups are not of {LEAF_ROWS:,} rows")
        return file


def key_of(home: str, *names: str) -> str:
    """The key of an object of the manifest in a directory. Decisions lie beside the directory, all else in it."""
    folder = home.rpartition("/")[0] if names[0] == "decisions" else home
    return "/".join([folder, *names] if folder else names)


def part_name(index: int) -> str:
    return f"part-{index:05d}.parquet"


def canonical(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table in this schema, in one chunk, its labels numbered as they appear: so equal rows give equal bytes."""
    columns: list[pa.Array] = []
    for field in schema:
        column = table[field.name]
        if field.type == tables.LABEL:
            column = _as_they_appear(column)
        column = column.cast(field.type)
        if column.null_count and not field.nullable:
            raise SelectorError(f"The column {field.name} has {column.null_count} nulls, which is a fault of ours.")
        columns.append(tables.whole(column))
    return pa.Table.from_arrays(columns, schema=schema)


def _as_they_appear(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """Labels whose words are numbered in the order in which they appear."""
    whole: Any = column.unify_dictionaries() if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    labels: pa.DictionaryArray = tables.whole(whole)
    words = labels.dictionary.cast(pa.string()).dictionary_encode()  # two of its words may be equal
    same = words.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    codes = np.append(same, -1)[labels.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    first = np.full(len(words.dictionary) + 1, len(codes), np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]  # of what is assigned twice the last stays
    used = np.argsort(first[:-1], kind="stable")[: np.count_nonzero(first[:-1] < len(codes))]
    number = np.full(len(first), -1, np.int32)
    number[used] = np.arange(len(used))
    numbers = number[codes]
    return pa.DictionaryArray.from_arrays(pa.array(numbers, mask=numbers < 0), words.dictionary.take(pa.array(used)))


def part_bytes(rows: pa.Table) -> bytes:
    """A part of `tables.MANIFEST` as Parquet."""
    return to_parquet(
        rows,
        row_group_size=LEAF_ROWS,
        write_page_index=True,
        sorting_columns=[pq.SortingColumn(tables.MANIFEST.get_field_index("position"))],
        use_dictionary=_DICTIONARIES,
        write_statistics=True,  # by which readers pass over the row groups of other phases
        column_encoding=_DELTAS,
    )


def opened(key: str, source: Any, schema: pa.Schema) -> pq.ParquetFile:
    """A source of Parquet as a file with exactly this schema. Raises DamagedError."""
    try:
        file = pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(key, str(error)) from error
    if not file.schema_arrow.equals(schema):
        raise DamagedError(key, f"its columns are not those of format version {FORMAT_VERSION}")
    return file


def read_table(
    key: str, file: pq.ParquetFile, columns: Sequence[str] | None = None, group: int | None = None
) -> pa.Table:
    """The table, or one row group of it. Raises DamagedError if a page does not match its checksum."""
    try:
        if group is not None:
            return file.read_row_group(group, columns=columns, use_threads=False)
        return file.read(columns=columns, use_threads=False).unify_dictionaries().combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(key, str(error)) from error
