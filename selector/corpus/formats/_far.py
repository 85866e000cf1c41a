"""Corpus files in storages of objects: read by ranges where they lie, or from a copy that this machine has.

A process knows which version of a file it reads, and every byte is asked for of that version: one that changed while it
is read is noticed, and is never half the old and half the new.
"""

import hashlib
from collections.abc import Iterator
from io import BufferedReader, RawIOBase
from typing import Any

from selector.engine import alive, copies
from selector.engine.scratch import name_of
from selector.errors import ChangedError, GoneError
from selector.storage import Entry, Stale, Storage, located

_BLOCK, _FIRST = 8 << 20, 1 << 18  # bytes that are asked for at a time, and at first
SMALL = 1 << 20
"""Bytes of a file that is rather read whole than by ranges."""

_expected: dict[str, str] = {}  # by address: the version that this process reads


def expect(address: str, version: str) -> None:
    """From now on this process reads this version of a file."""
    _expected[address] = version


def version_of(address: str) -> str:
    """The version of a file as it is now: its size, and what the storage calls it. Raises GoneError."""
    storage, key = located(address)
    entry = storage.entry(key)
    if entry is None:
        raise GoneError(f"The corpus file {address} cannot be read: there is no such object.")
    return version_in(entry)


def version_in(entry: Entry) -> str:
    """The version of a file as a listing has it."""
    return f"{entry.num_bytes} {entry.version}"


def file_of(address: str) -> "FarFile":
    """A file, to be read at random by ranges; see `opened`."""
    if address not in _expected:
        expect(address, version_of(address))
    size, _, version = _expected[address].partition(" ")
    storage, key = located(address)
    return FarFile(address, storage, Entry(key, int(size), version))


def copy_of(address: str) -> BufferedReader | None:
    """The copy of a file that this machine has, open, or None."""
    return copies.here().open(file_of(address).name)


def opened(address: str) -> BufferedReader:
    """A file, open at its beginning: its copy on this machine, or else read by ranges as it goes on."""
    return copy_of(address) or BufferedReader(_Growing(file_of(address)), _BLOCK)


def sha256_of(address: str) -> str:
    """The checksum of all bytes of a file, of which this machine has a copy afterwards, if there is room for it."""
    checksum = hashlib.sha256()
    far = file_of(address)
    for piece in copies.here().kept(far.name, far.pieces()):
        checksum.update(piece)
        alive.sign()
    return checksum.hexdigest()


class FarFile(RawIOBase):
    """One version of an object, as a file."""

    def __init__(self, address: str, storage: Storage, entry: Entry) -> None:
        self.name = name_of([address, f"{entry.num_bytes}", entry.version])
        self.size = entry.num_bytes
        self._address, self._storage, self._entry, self._at = address, storage, entry, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        data = self.range(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def pieces(self) -> Iterator[bytes]:
        """All its bytes."""
        for start in range(0, self.size, _BLOCK):
            yield self.range(start, _BLOCK)

    def range(self, start: int, length: int) -> bytes:
        """So many of its bytes from `start` on, fewer where it ends. Raises ChangedError and UnreachableError."""
        try:
            return self._storage.get_of(self._entry, start, length)
        except Stale as error:
            raise ChangedError(
                f"The corpus file {self._address} changed while the run was reading it. Run the same command again."
            ) from error


class _Growing(RawIOBase):
    """The same file for whoever reads on from some place: little at first, since most often that is enough to look at
    it, and more and more as the reading goes on."""

    def __init__(self, file: FarFile) -> None:
        self._file, self._most = file, _FIRST

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any, /) -> int:
        length = self._file.readinto(memoryview(buffer)[: self._most])
        self._most = min(2 * self._most, _BLOCK)
        return length
