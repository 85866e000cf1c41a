"""Artefacts by fingerprint: whole or absent, sealed with sha256.

Think of an artefact as a small set of named tables that is the answer to one question, the question being
its key, `step/fingerprint`. Its tables are Parquet, and small ones Arrow files, one after another in one blob that is
named by the sha256 of its bytes; the seal, a small JSON object written last, says where in which blob each table is,
and its sha256. So two processes that answer the same question at once cannot mix their answers: the first seal wins and
both read it. Tables that come to a few kilobytes lie in the seal's own object, before the seal. Tables that are read
many times are Arrow files, each a blob by itself.
"""

import functools
import hashlib
import io
import itertools
import json
import os
import re
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from selector import failpoint
from selector.engine import copies
from selector.engine.canonical import digest
from selector.errors import DamagedError
from selector.storage import Storage, open_storage

Form = Literal["parquet", "arrow"]

PASSING = "passing/"
"""Begins the keys of what a step hands to itself on its way, `passing/<family>/<fingerprint>/…`: it goes once the step
is sealed."""

FRESH = "fresh/"
"""Begins the key of a note beside an artefact, `fresh/<key>.json`: what to ask before the artefact is believed."""

EVIDENCE = "evidence/"
"""Begins the keys of what was measured of a policy, which no run is made of and which stays."""

SMALL_BYTES = 1 << 14
"""In memory: a table up to this is stored as an Arrow file beside the others, which is written and read in a tenth of
the time that Parquet takes. What compression saves of it is little."""

WITHIN_BYTES = 1 << 14
"""If all tables of an artefact come to no more than this, as they are written, they lie in the object of the seal: an
object less to make durable, and to open."""

RECENT_BYTES = 48 << 20
"""Of tables that were read, what a store keeps at hand: the columns that passes over a shard of a million documents
read again and again."""


MOST_SEALS = 1 << 14
"""Of a root that is far away: how many seals a store keeps at hand."""

WHOLE_BYTES = 1 << 22
"""An object of several tables up to this is asked for whole, where it is far away: most often more of them are read."""

_FEW = 4  # seals that are rather asked for than looked for in a listing


@dataclass(frozen=True, kw_only=True)
class Blob:
    """One stored table: the sha256 of its bytes, its sizes, and whether these are Parquet or an Arrow file.

    Parquet is small and read by anyone; an Arrow file is read many times without decoding. A table lies in an object of
    its own, beside others in one of several tables, or within that of the artefact's seal.
    """

    sha256: str
    num_bytes: int
    num_rows: int
    form: Form = "parquet"
    folder: str | None = None  # of an artefact in passing; all others share their blobs
    beside: str | None = None  # sha256 of an object of several tables, of which this is one
    within: str | None = None  # key of the artefact in the object of whose seal it lies
    start: int = 0  # where its bytes begin there

    @property
    def is_alone(self) -> bool:
        """Whether the object is this table."""
        return self.beside is None and self.within is None

    @property
    def key(self) -> str:
        """That of the object."""
        if self.within is not None:
            return _seal_key(self.within)
        name = f"{self.sha256}.{self.form}" if self.beside is None else f"{self.beside}.tables"
        return f"{self.folder or f'artifacts/blobs/{name[:2]}'}/{name}"


@dataclass(frozen=True, kw_only=True)
class Seal:
    """Proof that an artefact is complete: its tables."""

    key: str
    tables: Mapping[str, Blob]
    held: bytes = field(default=b"", repr=False, compare=False)
    """Of one that was looked up by itself, the bytes of the tables that lie within it."""

    @property
    def num_bytes(self) -> int:
        return sum(blob.num_bytes for blob in self.tables.values())


class Store:
    """The artefacts below one root. Cheap to open; safe to use from many processes at once.

    Of a root that is far away it keeps what it has read and written at hand: seals, which never change, and the last
    objects of tables, also as copies on this machine.
    """

    def __init__(self, storage: Storage, *, keeps: bool | None = None) -> None:
        """`keeps` says whether what is read is kept at hand; by default it is where the root is far away."""
        self.storage = storage
        self._keeps = storage.is_far if keeps is None else keeps
        self._sealed: dict[str, Seal] = {}
        self._recent = _Recent()
        if self._keeps:
            _in_use[storage.address] = self

    @classmethod
    def open(cls, root: str | os.PathLike[str]) -> "Store":
        return cls(open_storage(root))

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return _opened_again, (self.storage.address,)

    def seal(self, key: str, tables: Iterable[tuple[str, pa.Table | Blob]], form: Form | None = None) -> Seal:
        """The seal that holds, once the named tables are stored: another's, if another was first.

        A table that is stored already may be given as the blob that it is; one within another's seal is copied. `form`
        is how the tables are written: Arrow files that are read many times, each an object that is stored before the
        next table is asked for; else Parquet, all of them in one object. None is Parquet too, but for small tables.
        """
        blobs: dict[str, Blob] = {}
        together: dict[str, bytes] = {}
        for name, table in tables:
            if isinstance(table, Blob):
                blobs[name] = table
                if table.within is not None:
                    together[name] = self.blob(Seal(key=table.within, tables={name: table}), name)
                continue
            own, data, sha256 = _written(table, form)
            folder = _folder_in_passing(key)
            blobs[name] = Blob(sha256=sha256, num_bytes=len(data), num_rows=table.num_rows, form=own, folder=folder)
            if form != "arrow":
                together[name] = data
            else:
                self._put(blobs[name].key, [data])
                self._recent.put(sha256, data)
                self._keep(sha256, data)
        front = b""
        if form is None and sum(map(len, together.values())) <= WITHIN_BYTES:
            blobs |= _one_by_one({name: blobs[name] for name in together}, within=key)
            front = b"".join([*together.values(), _END_OF_TABLES]) if together else b""
        elif together:
            blobs |= _side_by_side({name: blobs[name] for name in together}, together.values())
            first = blobs[next(iter(together))]
            self._put(first.key, list(together.values()))
            self._keep(first.beside or first.sha256, b"".join(together.values()) if self._keeps else b"")
        seal = Seal(key=key, tables=blobs)
        failpoint.reach("store.before_seal")
        while not self.storage.put_if_absent(_seal_key(key), front + seal_to_bytes(seal, front)):
            earlier = self.find(key)
            if earlier is not None:
                return earlier
        failpoint.reach("store.after_seal")
        self._known(replace(seal, held=front))
        return seal

    def _known(self, seal: Seal) -> Seal:
        """The seal, which is at hand from now on, and so is what lies within it."""
        if self._keeps:
            if seal.held:
                self._recent.put(seal.key, seal.held)
            self._sealed[seal.key] = replace(seal, held=b"")
            if len(self._sealed) > MOST_SEALS:
                self._sealed.pop(next(iter(self._sealed)))
        return seal

    def _keep(self, sha256: str, data: bytes) -> None:
        """An object of tables is at hand from now on, if there is room for it."""
        if self._keeps and data:
            self._recent.put(sha256, data)
            for _ in copies.here().kept(sha256, [data]):
                pass

    def _put(self, key: str, pieces: Sequence[bytes]) -> None:
        failpoint.reach("store.before_blob")
        is_new = self.storage.put_pieces_if_absent(key, pieces)  # most often it is, and its sha256 is known
        if not is_new and not self.storage.holds(key, pieces):
            self.storage.ensure_pieces(key, lambda: pieces)

    def sealed(self, key: str) -> Seal:
        """The seal of an artefact that was finished. Raises DamagedError, also if it is not there any more."""
        seal = self.find(key)
        if seal is None:
            raise DamagedError(key, "it is gone")
        return seal

    def find(self, key: str) -> Seal | None:
        """The seal of an artefact, or None if it was never finished. Raises DamagedError if the seal is not sound."""
        if key in self._sealed:
            return self._sealed[key]
        data = self.storage.get(_seal_key(key))
        return None if data is None else self._known(seal_from_bytes(key, data))

    def find_many(self, keys: Sequence[str]) -> "dict[str, Seal]":
        """The seals of those of these artefacts that are finished, asked for many at a time. Raises DamagedError."""
        seals = {key: self._sealed[key] for key in keys if key in self._sealed}
        unknown = self._listed([key for key in keys if key not in seals])
        stored = zip(unknown, self.storage.get_many([_seal_key(key) for key in unknown]), strict=True)
        new = (self._known(seal_from_bytes(key, data)) for key, data in stored if data is not None)
        return seals | {seal.key: replace(seal, held=b"") for seal in new}

    def _listed(self, keys: Sequence[str]) -> Sequence[str]:
        """Those of these artefacts that may be finished, by one listing; all of them where that costs more."""
        names = [_seal_key(key) for key in keys]
        folders = {name.rpartition("/")[0] for name in names}
        if not self.storage.is_far or len(keys) < _FEW or len(folders) > 1:
            return keys
        listed = self.storage.keys_if_few(f"{folders.pop()}/", max(1000, 20 * len(keys)))
        return keys if listed is None else [key for key, name in zip(keys, names, strict=True) if name in listed]

    def read(self, key: str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One table of a finished artefact. Raises DamagedError."""
        return self.table(self.sealed(key), name, columns)

    def table(self, seal: Seal, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One table of an artefact, checked against its seal before any of it is used. Raises DamagedError.

        Of Arrow files that are objects the last ones stay at hand, also those that were just written: whoever passes
        over few shards reads each column once.
        """
        blob = seal.tables[name]
        if blob.form == "parquet":
            return from_parquet(self.blob(seal, name), blob.num_rows, seal.key, columns)
        data = self._recent.get(blob.sha256) if blob.is_alone else self.blob(seal, name)
        if data is None:
            data = self._recent.put(blob.sha256, self.blob(seal, name))
        return from_arrow(data, blob.num_rows, seal.key, columns)

    def blob(self, seal: Seal, name: str) -> bytes:
        """The bytes of one table, checked against the seal. Raises DamagedError."""
        blob = seal.tables[name]
        data = self._at_hand(seal, blob)
        if data is not None and _is_of(blob, data):
            return data
        data = self._fetched(seal, blob)
        if data is not None and _is_of(blob, data):
            return data
        self._sealed.pop(seal.key, None)
        gone = "is gone" if data is None else "does not have the bytes that were sealed"
        raise DamagedError(seal.key, f"its table {name!r} {gone}")

    def _at_hand(self, seal: Seal, blob: Blob) -> bytes | None:
        """The bytes of a table that came with its seal, or of a root that is far away, where this process or this
        machine has them."""
        if seal.held and blob.within == seal.key:
            return seal.held[blob.start : blob.start + blob.num_bytes]
        if not self._keeps:
            return None
        whole = self._recent.get(blob.within or blob.beside or blob.sha256)
        if whole is not None:
            return whole[blob.start : blob.start + blob.num_bytes]
        copy = None if blob.within is not None else copies.here().open(blob.beside or blob.sha256)
        if copy is None:
            return None
        with copy:
            copy.seek(blob.start)
            return copy.read(blob.num_bytes)

    def _fetched(self, seal: Seal, blob: Blob) -> bytes | None:
        """The bytes of a table as they are stored; None if they are gone."""
        ends = (one.start + one.num_bytes for one in seal.tables.values() if one.beside == blob.beside)
        if not blob.is_alone and not (self._keeps and max(ends) <= WHOLE_BYTES):
            return self.storage.get_range(blob.key, blob.start, blob.num_bytes)
        whole = self.storage.get(blob.key)
        if whole is None:
            return None
        if blob.within is None:
            self._keep(blob.beside or blob.sha256, whole)
        else:
            self._recent.put(blob.within, whole)
        return whole[blob.start : blob.start + blob.num_bytes]

    def is_sound(self, key: str) -> bool:
        """Whether an artefact is there and every byte of it is as it was sealed."""
        stored = Store(self.storage, keeps=False)
        try:
            seal = stored.find(key)
            for name in seal.tables if seal is not None else ():
                assert seal is not None
                stored.blob(seal, name)
        except DamagedError:
            return False
        return seal is not None

    def discard(self, key: str) -> None:
        """Forgets an artefact, so that it is computed again.

        Its blobs stay: sealing it again puts right any that are not sound, for every artefact that shares them.
        """
        self._sealed.pop(key, None)
        self.storage.delete_many([_seal_key(key)])
        failpoint.reach("store.after_discard")

    def forget_passing(self, folder: str) -> None:
        """Removes all that a step kept in passing, in this folder: seals first, so that none names what is gone."""
        keys = [key for key, _ in self.storage.list(f"artifacts/{folder}/")]
        self._sealed = {key: seal for key, seal in self._sealed.items() if not key.startswith(f"{folder}/")}
        self.storage.delete_many([key for key in keys if key.endswith(".json")])
        failpoint.reach("store.before_blobs_go")
        if self.storage.is_far:  # where a folder is no more than its objects
            self.storage.delete_many([key for key in keys if not key.endswith(".json")])
        else:
            self.storage.delete_folder(f"artifacts/{folder}/")

    def seals(self, prefix: str = "") -> Iterator[str]:
        """The keys of all artefacts but those in passing, or of all below a prefix that ends in `/`."""
        home = "artifacts/" if prefix.startswith(PASSING) else "artifacts/seals/"
        for key, _ in self.storage.list(f"{home}{prefix}"):
            if key.endswith(".json"):
                yield key.removeprefix(home).removesuffix(".json")


_in_use: "weakref.WeakValueDictionary[str, Store]" = weakref.WeakValueDictionary()
"""Stores of roots that are far away, by the address."""


def _opened_again(address: str) -> Store:
    """The store of a root that work was sent with: the one that this process has already, if it has one."""
    return _in_use.get(address) or _opened_once(address, os.getpid())


@functools.lru_cache(maxsize=4)
def _opened_once(address: str, pid: int) -> Store:  # noqa: ARG001 - a process that was forked opens its own
    return Store.open(address)


def _is_of(blob: Blob, data: bytes) -> bool:
    return len(data) == blob.num_bytes and hashlib.sha256(data).hexdigest() == blob.sha256


def _written(table: pa.Table, form: Form | None) -> tuple[Form, bytes, str]:
    """How a table is stored that may be written in this form, its bytes, and their sha256."""
    if form is None and not table.num_rows:  # most parts quarantine nothing
        return _without_rows(table.schema.serialize().to_pybytes())
    own = form or ("arrow" if _is_small(table) and _is_kept(table.schema) else "parquet")
    data = to_parquet(table) if own == "parquet" else to_arrow(table)
    return own, data, hashlib.sha256(data).hexdigest()


def _is_small(table: pa.Table) -> bool:
    """Whether a table is small. The size of whole buffers is known at once, that of a slice is not."""
    return table.get_total_buffer_size() <= SMALL_BYTES or table.nbytes <= SMALL_BYTES


@functools.lru_cache(maxsize=256)
def _without_rows(written_down: bytes) -> tuple[Form, bytes, str]:
    """The same of a table without rows: its schema is asked for with its metadata, which `==` does not compare."""
    schema = pa.ipc.read_schema(pa.py_buffer(written_down))
    return _written(schema.empty_table(), "arrow" if _is_kept(schema) else "parquet")


def _side_by_side(blobs: Mapping[str, Blob], contents: Iterable[bytes]) -> Mapping[str, Blob]:
    """The tables as they lie one after another in one object. Parquet alone lies by itself."""
    if [blob.form for blob in blobs.values()] == ["parquet"]:
        return {name: replace(blob, within=None, start=0) for name, blob in blobs.items()}
    whole = hashlib.sha256()
    for data in contents:
        whole.update(data)
    return _one_by_one(blobs, beside=whole.hexdigest())


def _one_by_one(blobs: Mapping[str, Blob], beside: str | None = None, within: str | None = None) -> Mapping[str, Blob]:
    """The tables, each beginning where the one before it ends, beside each other or within a seal."""
    starts = itertools.accumulate((blob.num_bytes for blob in blobs.values()), initial=0)
    return {
        name: replace(blob, beside=beside, within=within, start=start)
        for (name, blob), start in zip(blobs.items(), starts, strict=False)
    }


class _Recent:
    """The bytes of the last blobs that were read and found sound, by their sha256: `RECENT_BYTES` at most."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}  # the one that was asked for last is the last
        self._num_bytes = 0

    def get(self, sha256: str) -> bytes | None:
        data = self._blobs.pop(sha256, None)
        if data is not None:
            self._blobs[sha256] = data
        return data

    def put(self, sha256: str, data: bytes) -> bytes:
        """The bytes themselves, which stay until later ones need the room."""
        if len(data) <= RECENT_BYTES and sha256 not in self._blobs:
            self._blobs[sha256] = data
            self._num_bytes += len(data)
            while self._num_bytes > RECENT_BYTES:
                self._num_bytes -= len(self._blobs.pop(next(iter(self._blobs))))
        return data


def to_parquet(table: pa.Table, **options: Any) -> bytes:
    """The table as Parquet with a checksum on every page. The same table gives the same bytes.

    Dictionaries are for labels alone: ids and numbers that all differ are read five times faster without. Labels have
    no statistics, which cost a quarter of the writing: nobody looks for a range of them.
    """
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, **_encoded(table.schema, options))
    return sink.getvalue()


@functools.lru_cache(maxsize=256)
def _is_kept(schema: pa.Schema) -> bool:
    """Whether Parquet gives the schema back as it was, so that nobody can tell how a table was stored: it has no
    timestamps of whole seconds, for instance."""
    kept = from_parquet(to_parquet(schema.empty_table()), 0, "").schema
    return kept.equals(schema) and [field.metadata for field in kept] == [field.metadata for field in schema]


def parquet_pieces(
    pieces: Iterable[pa.Table], schema: pa.Schema, row_group_size: int, **options: Any
) -> Iterator[bytes]:
    """As `to_parquet` of the tables put together, so much at a time as a row group has."""
    sink = _Sink()
    encoded = _encoded(schema, options)
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True, **encoded) as writer:
        for group in _regrouped(pieces, schema, row_group_size):
            writer.write_table(group, row_group_size)
            yield sink.taken()
    yield sink.taken()


def _encoded(schema: pa.Schema, options: Mapping[str, Any]) -> dict[str, Any]:
    labels = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    others = [field.name for field in schema if not pa.types.is_dictionary(field.type)]
    return {"use_dictionary": labels or False, "write_statistics": others or False, **options}


def _regrouped(pieces: Iterable[pa.Table], schema: pa.Schema, num_rows: int) -> Iterator[pa.Table]:
    """The rows of the tables, so many at a time; one table without rows if there are none."""
    held = schema.empty_table()
    is_written = False
    for piece in pieces:
        held = pa.concat_tables([held, piece])
        first = 0
        while len(held) - first >= num_rows:
            yield held.slice(first, num_rows).combine_chunks()
            first, is_written = first + num_rows, True
        held = held.slice(first)
    if len(held) or not is_written:
        yield held.combine_chunks()


class _Sink(io.RawIOBase):
    """A file of which what was written is taken away now and then."""

    def __init__(self) -> None:
        self._written: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._written.append(bytes(data))
        self._position += len(self._written[-1])
        return len(self._written[-1])

    def tell(self) -> int:
        return self._position

    def taken(self) -> bytes:
        """What was written since the last time."""
        data, self._written = b"".join(self._written), []
        return data


def from_parquet(data: bytes, num_rows: int, key: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The table, with page checksums verified. Raises DamagedError.

    Read without Arrow's threads, as everywhere that the bytes are Python's: one that lets go of them after the
    interpreter has begun to end takes the whole process down (https://github.com/apache/arrow/issues/34314).
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        table = file.read(columns=list(columns) if columns is not None else None, use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedError(key, str(error)) from error
    if table.num_rows != num_rows:
        raise DamagedError(key, f"it has {table.num_rows} rows and {num_rows} were sealed")
    return table


_AS_USUAL = pa.ipc.IpcWriteOptions()
"""Without it, variables of the environment are looked up for each file."""


def to_arrow(table: pa.Table) -> bytes:
    """The table as an Arrow file, uncompressed, in one batch. The same table gives the same bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=_AS_USUAL) as file:
        file.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()


def from_arrow(data: bytes, num_rows: int, key: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The table, whose columns are the bytes themselves. Raises DamagedError."""
    try:
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(key, str(error)) from error
    if table.num_rows != num_rows:
        raise DamagedError(key, f"it has {table.num_rows} rows and {num_rows} were sealed")
    return table if columns is None else table.select(list(columns))


def _seal_key(key: str) -> str:
    return f"artifacts/{key}.json" if key.startswith(PASSING) else f"artifacts/seals/{key}.json"


def _folder_in_passing(key: str) -> str | None:
    """The folder of an artefact in passing: its blobs are shared with no other step's, so they can go with it."""
    return "/".join(["artifacts", *key.split("/")[:3]]) if key.startswith(PASSING) else None


_PLAIN = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
"""Writes what has neither numbers but integers nor keys out of order as `canonical_json` does, five times as fast."""

_SEAL = re.compile(rb'\{"check":"([0-9a-f]{32})",(.*)', re.DOTALL)
"""A seal: the fingerprint of all else that it says, and of what comes before it, comes first, since keys are sorted."""

_END_OF_TABLES = b"\n"
"""Parts the tables within a seal's object from the seal, which comes last and has no line end."""


def seal_to_bytes(seal: Seal, front: bytes = b"") -> bytes:
    """The seal, as it is written after what comes before it in its object."""
    content = {"key": seal.key, "tables": {name: _listed(blob) for name, blob in sorted(seal.tables.items())}}
    body = _PLAIN.encode(content).encode()
    return b'{"check":"' + digest(front + body).encode() + b'",' + body[1:]


def _listed(blob: Blob) -> list[Any]:
    """What a seal says of a table, as short as it can be."""
    where = [] if blob.is_alone else [blob.beside or "", blob.start]
    form = [blob.form] if where or blob.form != "parquet" else []
    return [blob.sha256, blob.num_bytes, blob.num_rows, *form, *where]


def blob_of(
    key: str, sha256: str, num_bytes: int, num_rows: int, form: Form = "parquet", beside: str | None = None,
    start: int = 0, folder: str | None = None,
) -> Blob:  # fmt: skip
    """A table as the seal of the artefact with this key lists it; if `beside` is empty, it lies within the seal."""
    within = key if beside == "" else None
    return Blob(
        sha256=sha256, num_bytes=num_bytes, num_rows=num_rows, form=form, folder=folder, beside=beside or None,
        within=within, start=start,
    )  # fmt: skip


def seal_from_bytes(key: str, data: bytes) -> Seal:
    """The seal of which these are the bytes, with the tables that lie within it. Raises DamagedError."""
    front, end, own = data.rpartition(_END_OF_TABLES)
    try:
        body = json.loads(own.decode())
        parsed = _SEAL.fullmatch(own)
        folder = _folder_in_passing(key)
        sound = parsed is not None and digest(front + end + b"{" + parsed[2]) == parsed[1].decode()
        sound &= body["key"] == key
        tables = {name: blob_of(key, *listed, folder=folder) for name, listed in body["tables"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(key, "its seal cannot be read") from error
    if not sound:
        raise DamagedError(key, "its seal does not match its own checksum")
    return Seal(key=key, tables=tables, held=front)
