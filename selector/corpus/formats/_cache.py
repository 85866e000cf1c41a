"""What the trainer's side keeps between two reads of the corpus: open files, and unpacked copies of packed ones.

What cannot be read at random as it lies is unpacked into a file below TMPDIR, once on each machine: the first process
that asks for it writes it, the others wait and read the same file. A copy goes with the last process that uses it. One
that a killed process left goes when the next process makes a copy: those in use are locked, and the kernel unlocks what
the dead held. Copies grow to at most the size of the unpacked texts. Where that is too much, train from plain files.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from io import BufferedReader, BufferedWriter
from pathlib import Path

from selector.corpus.formats._checks import changed, opened
from selector.errors import FullError, SelectorError, UnreachableError

_MOST_OPEN = 64  # files of each kind
_UNFINISHED, _WHOLE = 0o600, 0o700  # modes of a copy

Write = Callable[[BufferedWriter], None]


class Cache:
    """The open files of one reader. For one thread at a time; safe to fork."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, BufferedReader] = OrderedDict()
        self._copies: OrderedDict[tuple[str, ...], Copy] = OrderedDict()

    def __del__(self) -> None:
        for file in self._files.values():
            file.close()

    def file(self, path: str, size: int) -> int:
        """The descriptor of a file, open, once its size is what it was when the corpus was read. Raises CorpusError."""
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = opened(path, size)
            if len(self._files) > _MOST_OPEN:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(path)
        descriptor = file.fileno()
        size_now = os.fstat(descriptor).st_size
        if size_now != size:
            raise changed(path, f"it has {size_now:,} bytes and had {size:,}")
        return descriptor

    def copy(self, path: str, size: int, parts: Sequence[str], write: Write) -> "Copy":
        """A copy of something of a file, which is written if this machine has none. `parts` say of what.

        Raises what `write` does, and FullError or UnreachableError where there is no room for it.
        """
        key = (path, *parts)
        copy = self._copies.get(key)
        if copy is None:
            now = os.stat(path) if os.path.exists(path) else None
            version = f"{now.st_size} {now.st_mtime_ns}" if now else ""
            try:
                copy = _copy(_name_of([os.path.abspath(path), str(size), version, *parts]), write)
            except OSError as error:
                raise _scratch_full(path, error) from error
            self._copies[key] = copy
            if len(self._copies) > _MOST_OPEN:
                self._copies.popitem(last=False)
        self._copies.move_to_end(key)
        return copy


class Copy:
    """A finished copy, open and locked against removal as long as this is there."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor = descriptor
        self._close = weakref.finalize(self, _give_up, descriptor, name, os.getpid())

    def __del__(self) -> None:
        self._close()


def _copy(name: str, write: Write) -> Copy:
    """The copy of this name, written if it is not there. Raises OSError, and what `write` does."""
    while True:
        folder = _folder()
        try:
            descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, _UNFINISHED)
        except FileNotFoundError:  # the last copy went, and its folder with it, just now
            continue
        try:
            if _is_locked(descriptor) and os.fstat(descriptor).st_nlink and not _is_whole(descriptor):
                _sweep(folder, name)
                _fill(descriptor, write)
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for who is writing it
            if os.fstat(descriptor).st_nlink and _is_whole(descriptor):
                return Copy(descriptor, str(folder / name))
        except BaseException:
            _give_up(descriptor, str(folder / name), os.getpid())
            raise
        os.close(descriptor)  # somebody removed it before it was locked, or did not get to its end


def _is_locked(descriptor: int) -> bool:
    """Whether this process has a file for itself now: nobody writes it, and nobody reads it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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


def _give_up(descriptor: int, name: str, pid: int) -> None:
    """Closes a copy, and removes it if nobody else uses it. A child that was forked leaves that to its parent."""
    with contextlib.suppress(OSError):
        if os.getpid() == pid and _is_locked(descriptor) and os.fstat(descriptor).st_nlink:
            os.unlink(name)
            os.rmdir(os.path.dirname(name))
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _sweep(folder: Path, but: str) -> None:
    """Removes the copies that nobody uses."""
    for path in folder.iterdir():
        if path.name != but:
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
                _give_up(descriptor, str(path), os.getpid())


def _folder() -> Path:
    """Where this user's copies lie: a folder that is theirs alone. Raises OSError."""
    folder = Path(tempfile.gettempdir(), f"selector-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(errno.EACCES, f"{folder} is not a folder of this user's own")
    return folder


def _name_of(parts: Sequence[str]) -> str:
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _scratch_full(path: str, error: OSError) -> SelectorError:
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = "is full" if is_full else f"cannot be written ({error.strerror})"
    return (FullError if is_full else UnreachableError)(
        f"The scratch directory {tempfile.gettempdir()} {reason}, so {path} cannot be unpacked."
        " Set TMPDIR to a disk with more room, or unpack the file beforehand."
    )
