"""A file is the one that was surveyed, and can be read: what every format asks before it believes the bytes.

While a run reads a file, its version tells whether somebody has written to it. The trainer comes long after, perhaps on
another machine, where times and inodes are others: there the size must do.
"""

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Generator
from io import BufferedReader
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.corpus.formats import _far
from selector.engine import alive
from selector.engine.part import Piece
from selector.errors import ChangedError, CorpusError, GoneError, UnreachableError
from selector.storage import is_address

_BLOCK = 4 << 20  # bytes that are read at a time
_TICK = 2_000_000_000  # nanoseconds: the coarsest clock of a file system
_FRESH = " fresh"  # ends the version of a file that was surveyed so soon after it was written
_compared: set[tuple[str, str, str]] = set()  # such files, once they were found the same later on


class Corrupt(Exception):
    """The bytes of a file are not those of its format. The whole file is lost, and the run goes on without it."""


class NoRows(Exception):
    """A file is sound and holds no rows, such as a JSON object of settings. It is left unread, and no loss."""


def sha256_of(path: str) -> str:
    """The checksum of all bytes of a file."""
    if is_address(path):
        return _far.sha256_of(path)
    checksum = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            checksum.update(block)
            alive.sign()
    return checksum.hexdigest()


def version_of(path: str) -> str:
    """Size, times and inode of a file: equal as long as nobody has written to it; see `is_fresh`. Of an object
    its size, and what its storage calls its version."""
    if is_address(path):
        return _far.version_of(path)
    try:
        stat = os.stat(path)
    except OSError as error:
        raise _cannot_be_read(path, error) from error
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def is_fresh(version: str) -> bool:
    """Whether a file of this version was written so lately that a clock of whole seconds might not tell whether it is
    written again."""
    _, *times, _ = version.split(" ") if version else ("", "")
    return any(int(of_file) > time.time_ns() - _TICK for of_file in times)


def fresh(version: str) -> str:
    """The version of a file that was fresh when it was surveyed: its bytes, too, are compared."""
    return f"{version}{_FRESH}"


def check_version(piece: Piece) -> None:
    """The file is as the survey found it. Raises ChangedError. Of an object no other version is read from now on."""
    if piece.is_far:
        _far.expect(piece.uri, piece.version)
        return
    version = piece.version.removesuffix(_FRESH)
    is_same = version_of(piece.uri) == version
    if is_same and version != piece.version and (piece.uri, version, piece.sha256) not in _compared:
        is_settled = not is_fresh(version)  # nobody can write to it from now on and leave its times as they are
        is_same = sha256_of(piece.uri) == piece.sha256
        if is_same and is_settled:
            _compared.add((piece.uri, version, piece.sha256))
    if not is_same:
        raise ChangedError(
            f"The corpus file {piece.uri} changed while the run was reading it. Run the same command again."
        )


@contextlib.contextmanager
def reading(path: str, *damage: type[Exception]) -> Generator[None]:
    """Inside, an error that says that the bytes are wrong becomes Corrupt, and one of the disk a CorpusError."""
    try:
        yield
    except MemoryError:  # Arrow's is one of its errors too, and says nothing of the file
        raise
    except damage as error:
        raise Corrupt(str(error)) from error
    except OSError as error:
        if error.errno is not None:  # the disk's fault, or ours; without a number it is what the bytes say
            raise _cannot_be_read(path, error) from error
        raise Corrupt(str(error)) from error


def opened_now(path: str) -> BufferedReader:
    """The file as it is now, open. Raises OSError."""
    return _far.opened(path) if is_address(path) else open(path, "rb")


@contextlib.contextmanager
def at_random(path: str) -> Generator[tuple[Any, bool]]:
    """What Arrow opens to read a file at random, and whether that reads it far away, by ranges. Raises OSError."""
    copy = _far.copy_of(path) if is_address(path) else None
    if copy is not None:
        with copy:
            yield f"/dev/fd/{copy.fileno()}", False
    elif is_address(path):
        file = _far.file_of(path)
        yield pa.PythonFile(file, "r") if file.size > _far.SMALL else pa.BufferReader(file.range(0, file.size)), True
    else:
        yield path, False


def opened(path: str, size: int) -> BufferedReader:
    """The file, open, once its size is what it was when the corpus was read."""
    if is_address(path):
        size_now = _far.file_of(path).size
        if size_now != size:
            raise changed(path, f"it has {size_now:,} bytes and had {size:,}")
        return _far.opened(path)
    try:
        file = open(path, "rb")  # noqa: SIM115 (the caller closes it)
    except OSError as error:
        check_limit(path, error)
        raise changed(path, f"it cannot be opened ({error.strerror})") from error
    size_now = os.fstat(file.fileno()).st_size
    if size_now != size:
        file.close()
        raise changed(path, f"it has {size_now:,} bytes and had {size:,}")
    return file


def check_limit(path: str, error: OSError) -> None:
    """The error has another cause than that no more files may be open. Raises UnreachableError."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise UnreachableError(
            f"{path} cannot be opened: no more files may be open ({error.strerror}). Raise the limit (ulimit -n)."
        ) from error


def check_range(path: str, rows: npt.NDArray[np.int64], num_rows: int) -> None:
    """All row numbers are below `num_rows`. Raises CorpusError."""
    if len(rows) and not (rows.min() >= 0 and rows.max() < num_rows):
        raise changed(path, f"there is no row {rows[(rows < 0) | (rows >= num_rows)][0]}: it has {num_rows:,}")


def changed(path: str, difference: str, detail: str = "") -> CorpusError:
    """The error to raise where a file does not hold what it held when the corpus was read."""
    return CorpusError(
        f"The corpus file {path} is not what it was: {difference}{f' ({detail})' if detail else ''}."
        " Put the file back as it was, or run the policy again on the corpus as it is."
    )


def _cannot_be_read(path: str, error: OSError) -> CorpusError:
    kind = GoneError if isinstance(error, FileNotFoundError) else CorpusError
    return kind(f"The corpus file {path} cannot be read: {error.strerror}.")
