"""The objects of a manifest, format version 1: how each is named, put in place once, and checked when it is read.

    manifest.json                       names all that follows, with its sha256; canonical JSON, its own digest in it
    parts/part-00000.parquet …          `tables.MANIFEST` in position order, row groups of 65,536, page checksums
    files.parquet                       `tables.FILES`
    ../decisions/part-00000.parquet …   `tables.FATE`

Equal content has equal bytes, however it was computed and by how many processes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selector import tables
from selector.engine.store import canonical_json, to_parquet
from selector.errors import DamagedError, SelectorError
from selector.manifest.ledger import LEAF_ROWS
from selector.storage import Storage

FORMAT_VERSION = 1

_DICTIONARIES = ["visit", "phase", "source", "cluster", "file", "loss_weight", "reason"]
_DELTAS = {"position": "DELTA_BINARY_PACKED", "token_start": "DELTA_BINARY_PACKED"}


def part_name(index: int) -> str:
    return f"part-{index:05d}.parquet"


def canonical(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table in this schema, in one chunk, its labels numbered as they appear: so equal rows give equal bytes."""
    columns: list[pa.Array] = []
    for field in schema:
        column = table[field.name]
        if field.type == tables.LABEL:
            column = column.cast(pa.string()).combine_chunks().dictionary_encode()
        column = column.cast(field.type)
        if column.null_count and not field.nullable:
            raise SelectorError(f"The column {field.name} has {column.null_count} nulls, which is a fault of ours.")
        columns.append(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
    return pa.Table.from_arrays(columns, schema=schema)


def part_bytes(rows: pa.Table) -> bytes:
    """A part of `tables.MANIFEST` as Parquet."""
    return to_parquet(
        rows,
        row_group_size=LEAF_ROWS,
        write_page_index=True,
        sorting_columns=[pq.SortingColumn(tables.MANIFEST.get_field_index("position"))],
        use_dictionary=_DICTIONARIES,
        column_encoding=_DELTAS,
    )


def seal(content: Mapping[str, Any]) -> bytes:
    """The bytes of manifest.json: its content, and the digest that stands for the whole manifest."""
    return canonical_json({**content, "digest": _digest(content)})


def unseal(key: str, data: bytes) -> dict[str, Any]:
    """What manifest.json says. Raises DamagedError if it does not match its own digest, SelectorError if it is of
    another format version."""
    try:
        content = json.loads(data.decode())
        digest = content.pop("digest")
        is_sound = digest == _digest(content) and canonical_json({**content, "digest": digest}) == data
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(key, "it cannot be read") from error
    if not is_sound:
        raise DamagedError(key, "it does not match its own digest")
    if content["format_version"] != FORMAT_VERSION:
        raise SelectorError(
            f"{key} has format version {content['format_version']}, and this is Selector for version {FORMAT_VERSION}."
            " Install a newer Selector."
        )
    return {**content, "digest": digest}


def is_sound(key: str, data: bytes) -> bool:
    """Whether `unseal` would take it."""
    try:
        unseal(key, data)
    except DamagedError:
        return False
    return True


def open_table(key: str, data: bytes | None, entry: Mapping[str, Any], schema: pa.Schema) -> pq.ParquetFile:
    """The stored table, once it is what its entry in manifest.json says. Raises DamagedError."""
    if data is None:
        raise DamagedError(key, "it is gone")
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise DamagedError(key, "its sha256 is not the one that was committed")
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(key, str(error)) from error
    if not file.schema_arrow.equals(schema):
        raise DamagedError(key, f"its columns are not those of format version {FORMAT_VERSION}")
    if file.metadata.num_rows != entry["rows"]:
        raise DamagedError(key, f"it has {file.metadata.num_rows} rows and {entry['rows']} were committed")
    return file


def read_table(key: str, file: pq.ParquetFile, columns: Sequence[str] | None, group: int | None = None) -> pa.Table:
    """The table, or one row group of it. Raises DamagedError if a page does not match its checksum."""
    try:
        if group is not None:
            return file.read_row_group(group, columns=columns, use_threads=False)
        return file.read(columns=columns).unify_dictionaries().combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(key, str(error)) from error


class Publisher:
    """Puts the objects of one manifest in place, whatever a crash or another process has left there."""

    def __init__(self, storage: Storage, home: str, decisions: str) -> None:
        self._storage = storage
        self._key = f"{home}/manifest.json"
        self._folders = {"parts": f"{home}/parts", "decisions": decisions}
        self._sealed: dict[str, str] = {}  # what a manifest that is there already says of its objects
        data = storage.get(self._key)
        if data is not None and is_sound(self._key, data):
            info = unseal(self._key, data)
            self._sealed[f"{home}/files.parquet"] = info["files"]["sha256"]
            for name, folder in self._folders.items():
                self._sealed |= {f"{folder}/{part['name']}": part["sha256"] for part in info[name]}

    def part(self, folder: str, index: int, num_rows: int, data: bytes) -> dict[str, Any]:
        """What manifest.json says of a part, once it is stored."""
        name = part_name(index)
        return {"name": name, "rows": num_rows, "sha256": self.put(f"{self._folders[folder]}/{name}", data)}

    def put(self, key: str, data: bytes) -> str:
        """The sha256 of the data, once the object has it. What a sound manifest vouches for is left as it is."""
        sha256 = hashlib.sha256(data).hexdigest()
        if self._sealed.get(key, sha256) == sha256:
            while not self._storage.put_if_absent(key, data):
                found = self._storage.get(key)
                if found == data or (found is not None and self._storage.compare_and_swap(key, found, data)):
                    break
        return sha256

    def manifest(self, data: bytes) -> None:
        """Commits, unless another process has committed the same. Raises SelectorError if it was something else."""
        while not self._storage.put_if_absent(self._key, data):
            found = self._storage.get(self._key)
            if found is not None and found != data and is_sound(self._key, found):
                there, ours = (unseal(self._key, sealed)["digest"] for sealed in (found, data))
                raise SelectorError(
                    f"{self._key} has the digest {there}, and this run makes {ours}. One run has one manifest, so this"
                    " is a fault of ours, unless a library has changed since. Remove that directory and run again."
                )
            if found == data or (found is not None and self._storage.compare_and_swap(self._key, found, data)):
                break


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.blake2b(canonical_json(content), digest_size=32).hexdigest()
