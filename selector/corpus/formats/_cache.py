"""What the trainer's side keeps between two reads of the corpus: open files, and unpacked copies of packed ones.

What cannot be read at random as it lies is unpacked into a file below TMPDIR, once on each machine: the first process
that asks for it writes it, the others wait and read the same file. The copies of a corpus lie in one folder, which goes
with the last process that reads this corpus. What a killed process left goes when the next one makes a folder: those in
use are locked, and the kernel unlocks what the dead held. Copies grow to at most the size of the unpacked texts. Where
that is too much, train from plain files.

Descriptors and maps are few, however many files there are: those that were not used for longest are closed.
"""

import errno
import fcntl
import functools
import os
import shutil
import stat
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import Any, Generic, TypeVar

from selector.corpus.formats import _far
from selector.corpus.formats._checks import changed, check_limit, opened
from selector.engine.scratch import Folder, is_locked, name_of
from selector.errors import FullError, SelectorError, UnreachableError
from selector.storage import is_address

MOST_OPEN = 64  # of each kind
_UNFINISHED, _WHOLE = 0o600, 0o700  # modes of a copy

Write = Callable[[BufferedWriter], None]
Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The values that were used last, at most `MOST_OPEN` of them, each made when it is asked for."""

    def __init__(self, close: Callable[[Value], None] = lambda _: None) -> None:
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._close = close

    def __del__(self) -> None:
        for value in self._values.values():
            self._close(value)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, made if it is not here."""
        if key not in self._values:
            self._values[key] = make()
            if len(self._values) > MOST_OPEN:
                self._close(self._values.popitem(last=False)[1])
        self._values.move_to_end(key)
        return self._values[key]


class Cache:
    """The open files of one reader. `corpus` says which corpus it reads. For one thread at a time; safe to fork."""

    def __init__(self, corpus: Sequence[str] = ()) -> None:
        self._corpus = corpus
        self._files: Recent[BufferedReader] = Recent(BufferedReader.close)
        self._copies: Recent[BufferedReader] = Recent(BufferedReader.close)
        self._folder: Folder | None = None
        self.maps: Recent[Any] = Recent()  # what formats map into memory

    def file(self, path: str, size: int) -> int:
        """The descriptor of a file, open, once its size is what it was when the corpus was read; of an object, that of
        a copy. Raises CorpusError."""
        if is_address(path):
            return self.copy(path, size, ["whole"], functools.partial(_fetch, path, size))
        descriptor = self._files.get(path, lambda: opened(path, size)).fileno()
        size_now = os.fstat(descriptor).st_size
        if size_now != size:
            raise changed(path, f"it has {size_now:,} bytes and had {size:,}")
        return descriptor

    def copy(self, path: str, size: int, parts: Sequence[str], write: Write) -> int:
        """The descriptor of a copy of something of a file, written if this machine has none. `parts` say of what.

        Raises what `write` does, and FullError or UnreachableError where there is no room for it.
        """
        return self._copies.get((path, *parts), lambda: self._copy(path, size, parts, write)).fileno()

    def _copy(self, path: str, size: int, parts: Sequence[str], write: Write) -> BufferedReader:
        if is_address(path):
            name = name_of([_far.file_of(path).name, str(size), *parts])
        else:
            now = os.stat(path) if os.path.exists(path) else None
            version = f"{now.st_size} {now.st_mtime_ns}" if now else ""
            name = name_of([os.path.abspath(path), str(size), version, *parts])
        try:
            while True:
                if self._folder is None:
                    self._folder = Folder(name_of(self._corpus))
                try:
                    return _copy(self._folder.path / name, write)
                except FileNotFoundError:  # it went with the process that this one was forked from
                    if self._folder.is_there():
                        raise
                    self._folder = None
        except OSError as error:
            check_limit(path, error)
            raise _scratch_full(path, error) from error


def _fetch(path: str, size: int, copy: BufferedWriter) -> None:
    with opened(path, size) as file:
        shutil.copyfileobj(file, copy)


def _copy(path: Path, write: Write) -> BufferedReader:
    """The copy at this path, open, written if it is not there. Raises OSError, and what `write` does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, _UNFINISHED)
    copy = os.fdopen(descriptor, "rb")
    try:
        while True:
            if is_locked(descriptor) and not _is_whole(descriptor):
                _fill(descriptor, write)
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for who is writing it
            if _is_whole(descriptor):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                return copy
    except BaseException:
        if not _is_whole(descriptor):
            path.unlink(missing_ok=True)
        copy.close()
        raise


def _fill(descriptor: int, write: Write) -> None:
    if os.fstat(descriptor).st_size:  # what a process left that was killed while it wrote
        os.ftruncate(descriptor, 0)
    file = os.fdopen(descriptor, "wb", closefd=False)
    try:
        write(file)
        file.flush()
        os.fchmod(descriptor, _WHOLE)
    finally:
        file.raw.close()  # and not the buffer, which would try again to write what there is no room for


def _is_whole(descriptor: int) -> bool:
    return stat.S_IMODE(os.fstat(descriptor).st_mode) == _WHOLE


def _scratch_full(path: str, error: OSError) -> SelectorError:
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = "is full" if is_full else f"cannot be written ({error.strerror})"
    return (FullError if is_full else UnreachableError)(
        f"The scratch directory {tempfile.gettempdir()} {reason}, so {path} cannot be unpacked."
        " Set TMPDIR to a disk with more room, or unpack the file beforehand."
    )
