"""Artefacts by fingerprint: whole or absent, sealed with sha256.

Think of an artefact as a small set of named tables that is the answer to one question, the question being
its key, `step/fingerprint`. Each table is a Parquet blob named by the sha256 of its bytes; the seal, a
small JSON object written last, names the blobs. So two processes that answer the same question at once
cannot mix their answers: the first seal wins and both read it.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selector import failpoint
from selector.errors import DamagedError
from selector.storage import Storage, open_storage


@dataclass(frozen=True, kw_only=True)
class Blob:
    """One stored table: the sha256 of its Parquet bytes, and its sizes."""

    sha256: str
    num_bytes: int
    num_rows: int

    @property
    def key(self) -> str:
        return f"artifacts/blobs/{self.sha256[:2]}/{self.sha256}.parquet"


@dataclass(frozen=True, kw_only=True)
class Seal:
    """Proof that an artefact is complete: its tables."""

    key: str
    tables: Mapping[str, Blob]

    @property
    def num_bytes(self) -> int:
        return sum(blob.num_bytes for blob in self.tables.values())


class Store:
    """The artefacts below one root. Cheap to open; safe to use from many processes at once."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    @classmethod
    def open(cls, root: str) -> "Store":
        return cls(open_storage(root))

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Store.open, (self.storage.address,)

    def seal(self, key: str, tables: Iterable[tuple[str, pa.Table]]) -> Seal:
        """The seal that holds, once the named tables are stored, one after another: another's, if another was first."""
        blobs: dict[str, Blob] = {}
        for name, table in tables:
            data = to_parquet(table)
            blob = Blob(sha256=hashlib.sha256(data).hexdigest(), num_bytes=len(data), num_rows=table.num_rows)
            failpoint.reach("store.before_blob")
            self.storage.ensure(blob.key, data)
            blobs[name] = blob
        seal = Seal(key=key, tables=blobs)
        failpoint.reach("store.before_seal")
        while not self.storage.put_if_absent(_seal_key(key), seal_to_bytes(seal)):
            there = self.find(key)
            if there is not None:
                return there
        failpoint.reach("store.after_seal")
        return seal

    def find(self, key: str) -> Seal | None:
        """The seal of an artefact, or None if it was never finished. Raises DamagedError if the seal is not sound."""
        data = self.storage.get(_seal_key(key))
        if data is None:
            return None
        return seal_from_bytes(key, data)

    def read(self, key: str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One table of a finished artefact. Raises DamagedError."""
        seal = self.find(key)
        if seal is None:
            raise DamagedError(key, "it is gone")
        return self.table(seal, name, columns)

    def table(self, seal: Seal, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One table of an artefact, checked against its seal before any of it is used. Raises DamagedError."""
        return from_parquet(self.blob(seal, name), seal.tables[name].num_rows, seal.key, columns)

    def blob(self, seal: Seal, name: str) -> bytes:
        """The Parquet bytes of one table, checked against the seal. Raises DamagedError."""
        blob = seal.tables[name]
        data = self.storage.get(blob.key)
        if data is None:
            raise DamagedError(seal.key, f"its table {name!r} is gone")
        if len(data) != blob.num_bytes or hashlib.sha256(data).hexdigest() != blob.sha256:
            raise DamagedError(seal.key, f"its table {name!r} does not have the bytes that were sealed")
        return data

    def is_sound(self, key: str) -> bool:
        """Whether an artefact is there and every byte of it is as it was sealed."""
        try:
            seal = self.find(key)
            for name in seal.tables if seal is not None else ():
                assert seal is not None
                self.blob(seal, name)
        except DamagedError:
            return False
        return seal is not None

    def discard(self, key: str) -> None:
        """Forgets an artefact, so that it is computed again.

        Its blobs stay: sealing it again puts right any that are not sound, for every artefact that shares them.
        """
        self.storage.delete(_seal_key(key))
        failpoint.reach("store.after_discard")

    def seals(self, prefix: str = "") -> Iterator[str]:
        """The keys of all artefacts, or of those below a prefix that ends in `/`."""
        for key, _ in self.storage.list(f"artifacts/seals/{prefix}"):
            yield key.removeprefix("artifacts/seals/").removesuffix(".json")


def to_parquet(table: pa.Table, **options: Any) -> bytes:
    """The table as Parquet with a checksum on every page. The same table gives the same bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, **options)
    return sink.getvalue()


def from_parquet(data: bytes, num_rows: int, key: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The table, with page checksums verified. Raises DamagedError."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        table = file.read(columns=list(columns) if columns is not None else None)
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedError(key, str(error)) from error
    if table.num_rows != num_rows:
        raise DamagedError(key, f"it has {table.num_rows} rows and {num_rows} were sealed")
    return table


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values have equal bytes. NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def fingerprint(value: Any) -> str:
    """32 hex digits (blake2b-128) of a JSON value."""
    return hashlib.blake2b(canonical_json(value), digest_size=16).hexdigest()


def _seal_key(key: str) -> str:
    return f"artifacts/seals/{key}.json"


def seal_to_bytes(seal: Seal) -> bytes:
    tables = {name: [blob.sha256, blob.num_bytes, blob.num_rows] for name, blob in seal.tables.items()}
    body = {"key": seal.key, "tables": tables}
    return canonical_json({**body, "check": fingerprint(body)})


def seal_from_bytes(key: str, data: bytes) -> Seal:
    try:
        body = json.loads(data)
        check = body.pop("check")
        sound = check == fingerprint(body) and body["key"] == key and canonical_json({**body, "check": check}) == data
        tables = {
            name: Blob(sha256=sha, num_bytes=size, num_rows=rows) for name, (sha, size, rows) in body["tables"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(key, "its seal cannot be read") from error
    if not sound:
        raise DamagedError(key, "its seal does not match its own checksum")
    return Seal(key=key, tables=tables)
