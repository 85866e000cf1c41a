"""Where bytes lie: five verbs, what is made of them, and one file in this folder for each kind of storage.

The file's name is the scheme of the address (`file.py` serves plain paths and `file://`); a package
elsewhere adds a scheme through the entry point `selector.storages`. Three things are asked of a storage:
a written object is visible whole or not at all, creation is exclusive, and a listing shows every object
that was created before it began.
"""

import abc
import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import io
import os
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from selector.errors import FullError, PolicyError, UnreachableError, UsageError, did_you_mean, without_secrets

_FILE = "file://"


class Entry(NamedTuple):
    """An object as a listing has it. Its version is another one once its bytes are."""

    key: str
    num_bytes: int
    version: str


class Stale(Exception):
    """An object is not of the version that was asked for, or is gone."""


class Storage(abc.ABC):
    """Objects by key. A key is a relative path of plain names joined by `/`."""

    is_far: ClassVar[bool] = False
    """Whether each request goes over a network, so that it pays to make few of them."""

    num_names: ClassVar[int] = 1
    """How many names of the address of an object say in which storage it lies; the others are its key."""

    has_revisions: ClassVar[bool] = False
    """Whether such a name may say a revision after an `@`."""

    @property
    @abc.abstractmethod
    def address(self) -> str:
        """What `open_storage` takes to open this storage again, on this machine or another."""

    @abc.abstractmethod
    def get(self, key: str) -> bytes | None:
        """The object's bytes, or None where there is no such object."""

    @abc.abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """True if the object did not exist and now does, whole and durable; False if it was there."""

    @abc.abstractmethod
    def compare_and_swap(self, key: str, expected: bytes, data: bytes) -> bool:
        """True if the object held `expected` and now holds `data`; False, and nothing changed, otherwise."""

    @abc.abstractmethod
    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """(key, size in bytes) of every object under a prefix that ends in `/` or is empty, sorted by key."""

    @abc.abstractmethod
    def delete(self, key: str) -> bool:
        """True if the object was there; afterwards it is not."""

    def delete_many(self, keys: Sequence[str]) -> None:
        """Afterwards none of these objects is there. A storage that can, does it at once."""
        for key in keys:
            self.delete(key)

    def delete_folder(self, prefix: str) -> None:
        """Deletes every object under a prefix that ends in `/`, in any order."""
        self.delete_many([key for key, _ in self.list(prefix)])

    def ensure(self, key: str, data: bytes) -> None:
        """Afterwards the object holds `data`. For keys that decide what their objects hold: anything else is damage."""
        while not self.put_if_absent(key, data):
            stored = self.get(key)
            if stored == data or (stored is not None and self.compare_and_swap(key, stored, data)):
                return

    def ensure_copy(self, key: str, data: bytes, source: str) -> None:
        """As `ensure` of what another object holds already. A storage that can, has both names lead to the same bytes.
        Damage of one is then damage of both, until each is put right: an object is replaced, and never written in."""
        self.ensure(key, data)

    def get_many(self, keys: Sequence[str]) -> "list[bytes | None]":
        """As `get` of each. A storage that can, asks for many at a time."""
        return [self.get(key) for key in keys]

    def keys_if_few(self, prefix: str, most: int) -> set[str] | None:
        """The keys under a prefix, if there are at most so many; None if there are more, or that is costly to tell."""
        return None

    def get_range(self, key: str, start: int, length: int) -> bytes | None:
        """So many bytes of the object from `start` on, fewer where it ends before; None where there is no such object.
        A storage that can, reads no others."""
        data = self.get(key)
        return None if data is None else data[start : start + length]

    def entry(self, key: str) -> Entry | None:
        """The object as a listing would have it, or None where there is no such object."""
        data = self.get(key)
        return None if data is None else Entry(key, len(data), hashlib.sha256(data).hexdigest())

    def entries(self, prefix: str) -> Iterator[Entry]:
        """As `list`, with versions. A storage that can, reads no object for that."""
        for key, _ in self.list(prefix):
            entry = self.entry(key)
            if entry is not None:
                yield entry

    def get_of(self, entry: Entry, start: int, length: int) -> bytes:
        """So many bytes of this version of an object from `start` on, fewer where it ends before. Raises Stale."""
        data = self.get(entry.key)
        if data is None or hashlib.sha256(data).hexdigest() != entry.version:
            raise Stale(entry.key)
        return data[start : start + length]

    def fixed(self) -> "Storage":
        """The storage as it is now: where an address names a revision that moves, the one to which it leads."""
        return self

    def open(self, key: str) -> io.BufferedIOBase | None:
        """The object as a file to read from, or None where there is no such object. A storage that can, does not hold
        it whole."""
        data = self.get(key)
        return None if data is None else io.BytesIO(data)

    def put_pieces_if_absent(self, key: str, pieces: Iterable[bytes]) -> bool:
        """As `put_if_absent` of the pieces joined. A storage that can, holds one of them at a time."""
        return self.put_if_absent(key, b"".join(pieces))

    def ensure_pieces(self, key: str, pieces: Callable[[], Iterable[bytes]]) -> str:
        """As `ensure` of the pieces joined; their sha256. They are asked for again where the object is there."""
        whole = hashlib.sha256()
        if self.put_pieces_if_absent(key, _observed(pieces(), whole.update)):
            return whole.hexdigest()
        whole = hashlib.sha256()
        if not self.holds(key, _observed(pieces(), whole.update)):
            data = b"".join(pieces())  # whole, since damage is rare
            self.ensure(key, data)
            whole = hashlib.sha256(data)
        return whole.hexdigest()

    def holds(self, key: str, pieces: Iterable[bytes]) -> bool:
        """Whether the object is these pieces, all of which are read if it is."""
        file = self.open(key)
        if file is None:
            return False
        with file:
            return all(file.read(len(piece)) == piece for piece in pieces) and not file.read(1)

    def leftovers(self, seconds: float) -> Iterator[tuple[str, int]]:
        """(key, size in bytes) of what was half written so long ago, and no listing shows: its writer was killed, or is
        at it."""
        return iter(())

    def free_bytes(self) -> int | None:
        """How much may still be written, or None where nothing limits it."""
        return None


def _observed(pieces: Iterable[bytes], observe: Callable[[bytes], object]) -> Iterator[bytes]:
    """The pieces, each of which `observe` is given as it goes by."""
    for piece in pieces:
        observe(piece)
        yield piece


def local_path(place: str) -> str | None:
    """The path on this machine that a text names, without `file://`; None for an address, such as s3://bucket/runs.

    A text with `://` anywhere is an address, or nothing at all: a folder called `a:` is `/data/a:`, never `/data/a://x`.
    """
    path = place.removeprefix(_FILE) if place.startswith(f"{_FILE}/") else place
    return None if "://" in path else path


def is_address(place: str) -> bool:
    """Whether a text names something in a storage, and not by a path on this machine. The only one who tells."""
    return local_path(place) is None


def check_spelling(place: str) -> None:
    """A path on this machine is meant as one: not as an address without its slashes, or a drive of another system.
    Raises UsageError, before a folder of that name is made."""
    scheme, colon, rest = place.partition(":")
    if colon and not rest.startswith("//") and scheme.lower() in _schemes():
        is_absolute, name = rest.startswith("/"), rest.lstrip("/")
        meant = f"{scheme.lower()}://{name}"
        if scheme.lower() == "file":  # what follows // would be a host
            meant = f"{_FILE}/{name}" if is_absolute else rest
        raise UsageError(
            f"{without_secrets(place)!r} is no address, since // is missing after {scheme}:. Write {meant}, or "
            f"./{place} for a file or folder of that name."
        )
    if re.match(r"[A-Za-z]:[\\/]", place):
        raise UsageError(
            f"{place!r} names a drive of Windows, which this machine does not have. Write the path as it is here, e.g. "
            f"/mnt/{place[0].lower()}/…"
        )


def path_here(place: str | os.PathLike[str]) -> Path:
    """The path of what is read or written on this machine alone. Raises UsageError for what lies elsewhere, or is
    nearly an address, before a folder of that name is made."""
    path = local_path(os.fspath(place))
    if path is None:
        raise UsageError(
            f"{without_secrets(os.fspath(place))!r} is an address, and this is read or written on this machine. Give a "
            "path."
        )
    check_spelling(path)
    return Path(os.path.expanduser(path))


def plain_path(path: str) -> str:
    """A path as it is written at the shortest, with the `./` that keeps it from being taken for something else."""
    short = str(Path(path))
    try:
        check_spelling(short)
    except UsageError:
        return f"./{short}"
    return f"./{short}" if short.startswith("~") and not path.startswith("~") else short


def open_storage(address: str | os.PathLike[str]) -> Storage:
    """The storage at a path or URI, e.g. `./runs` or `file:///data/runs`. Raises UsageError."""
    address = os.fspath(address) if isinstance(address, os.PathLike) else address
    if not isinstance(address, str):  # pyright: ignore[reportUnnecessaryIsInstance] - who calls may not check types
        raise UsageError(f"The address {address!r} is not text. Give a path, e.g. ./runs.")
    path = local_path(address)
    scheme, _, rest = address.partition("://") if path is None else ("file", "", path)
    if not rest:
        raise UsageError(f"The address {address!r} is empty. Give a path, e.g. ./runs.")
    if path is not None:
        check_spelling(path)
    else:
        check_plain(address)
    return _serving(scheme)(rest)


def check_plain(address: str) -> None:
    """The address of a storage, or of objects there, is no more than a place. Raises UsageError."""
    scheme, _, rest = address.partition("://")
    if scheme == "file" and rest:
        raise UsageError(
            f"The address {without_secrets(address)!r} names a host. Write file:// and an absolute path, or the path "
            "alone."
        )
    has_revisions = re.fullmatch(r"\w+", scheme) is not None and _serving(scheme).has_revisions
    if re.search(r"[?#%\\]|::|//|@" if not has_revisions else r"[?#%\\]|::|//|[@:].*@", rest) or "::" in scheme:
        raise UsageError(
            f"The address {without_secrets(address)!r} carries a query, credentials, a chained protocol or encoded "
            "characters. Give only a path."
        )
    if not rest.isprintable() or any(name in (".", "..") for name in rest.split("/")):
        raise UsageError(
            f"The address {without_secrets(address)!r} has characters that cannot be seen, or leads upwards. Give only "
            "a path."
        )
    if not re.fullmatch(r"\w+", scheme):
        raise _unknown(scheme, _schemes())


def located(address: str) -> tuple[Storage, str]:
    """The storage in which an object lies, and its key there, of an address as listings make them."""
    storage, names = home_of(address)
    if not names or any(name in ("", ".", "..") for name in names):
        raise UsageError(f"The address {without_secrets(address)!r} is not that of an object. Give one with its name.")
    return storage, "/".join(names)


def home_of(address: str) -> tuple[Storage, list[str]]:
    """The whole storage to which an address leads, and the names that follow there."""
    scheme, _, rest = address.partition("://")
    num_names = _serving(scheme).num_names
    names = rest.rstrip("/").split("/")
    return _kept_open(f"{scheme}://{'/'.join(names[:num_names])}", os.getpid()), names[num_names:]


@functools.lru_cache(maxsize=64)
def _kept_open(address: str, pid: int) -> Storage:  # noqa: ARG001 - it is part of what is kept
    """The storage at an address, opened once for each process: connections of another process cannot be used."""
    return open_storage(address)


def _schemes() -> list[str]:
    """The schemes of addresses that we know ourselves."""
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def _serving(scheme: str) -> Any:
    """The class of a scheme: in the file of that name, or at an entry point. An address imports nothing else."""
    files = _schemes()
    if scheme in files:
        module = importlib.import_module(f"{__name__}.{scheme}")
        classes = [value for value in vars(module).values() if inspect.isclass(value)]
        return next(cls for cls in classes if issubclass(cls, Storage) and cls.__module__ == module.__name__)
    points = {point.name: point for point in importlib.metadata.entry_points(group="selector.storages")}
    if scheme in points:
        return points[scheme].load()
    raise _unknown(scheme, [*files, *points])


def _unknown(scheme: str, known: Sequence[str]) -> PolicyError:
    lower = scheme.lower()
    cure = f"Write {lower}://, in lower case." if lower in known else did_you_mean(scheme, known)
    return PolicyError(f"There is no storage called {scheme!r}. {cure}")


def check(storage: Storage, key: str, data: bytes) -> None:
    """The storage takes a new object, gives it back, refuses a second of that name, and changes it only for who knows
    what it holds. Raises UsageError."""
    try:
        sound = storage.put_if_absent(key, data) and storage.get(key) == data
        sound = sound and not storage.put_if_absent(key, b"again") and storage.get(key) == data
        sound = sound and not storage.compare_and_swap(key, b"other", b"again") and storage.get(key) == data
    except FullError as error:
        raise UsageError(f"--root: {error}") from error
    except UnreachableError as error:
        raise UsageError(f"--root: {error} Give a directory that can be written to.") from error
    if not sound:
        raise UsageError(
            f"--root: {storage.address} does not keep what is written to it, or overwrites what it should not: it "
            "ignores conditions, and two runs would damage each other. Give another."
        )


def sha256_of(storage: Storage, key: str) -> str | None:
    """The sha256 of an object, read piece by piece, in hex; None if it is not there."""
    source = storage.open(key)
    if source is None:
        return None
    with source:
        return hashlib.file_digest(source, "sha256").hexdigest()
