"""Folders on this machine for what can be had again: copies of what lies elsewhere, or lies packed.

They lie below TMPDIR, all of one user in one folder that is theirs alone. A folder is locked as long as a process uses
it, and goes with the last one that does. What a killed process left goes when the next one makes a folder: the kernel
unlocks what the dead held.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path


class Folder:
    """A folder of copies, locked against removal as long as this is there."""

    def __init__(self, name: str) -> None:
        """Raises OSError."""
        while True:
            above = _above()
            _sweep(above, name)
            self.path = above / name
            with contextlib.suppress(FileNotFoundError):  # just now somebody removed it, or the one above
                self.path.mkdir(mode=0o700, exist_ok=True)
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                fcntl.flock(self._descriptor, fcntl.LOCK_SH)
                if self.is_there():
                    break
                os.close(self._descriptor)
        self._close = weakref.finalize(self, _give_up, self._descriptor, str(self.path), os.getpid())

    def is_there(self) -> bool:
        """Whether the folder of this name is the one that is open."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def __del__(self) -> None:
        if hasattr(self, "_close"):
            self._close()


def is_locked(descriptor: int) -> bool:
    """Whether this process could lock a file for itself alone: nobody else writes it or reads it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _give_up(descriptor: int, folder: str, pid: int) -> None:
    """Closes a folder, and removes it if nobody else uses it. A child that was forked leaves that to its parent."""
    with contextlib.suppress(OSError):
        if os.getpid() == pid and is_locked(descriptor):
            shutil.rmtree(folder)
            os.rmdir(os.path.dirname(folder))
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _sweep(above: Path, but: str) -> None:
    """Removes the folders that nobody uses."""
    for path in above.iterdir():
        if path.name != but:
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                _give_up(descriptor, str(path), os.getpid())


def _above() -> Path:
    """Where this user's folders lie: one that is theirs alone. Raises OSError."""
    folder = Path(tempfile.gettempdir(), f"selector-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(errno.EACCES, f"{folder} is not a folder of this user's own")
    return folder


def name_of(parts: Sequence[str]) -> str:
    """A short name for what these words tell apart."""
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
