"""Copies on this machine of objects that lie far away: at most so many bytes, those that were used last.

All processes of a user share one folder of them (`scratch`), which goes with the last of them. A copy is there whole
or not at all, and never changes, since its name says of which bytes it is. Whoever has one open goes on reading it
while another process makes room. What has no copy is read where it lies, so a full disk stops nobody.
"""

import contextlib
import fcntl
import functools
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path

from selector.engine.scratch import Folder, name_of
from selector.errors import UsageError

SETTING = "SELECTOR_COPIES"
"""The variable of the environment that says how many bytes copies may take, e.g. 20GB; 0 for none."""

_MOST = 8 * 10**9  # bytes, where it says nothing
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_LOCK = ".lock"


class Copies:
    """Copies in a folder, of at most so many bytes together. Safe to use from many processes at once."""

    def __init__(self, folder: Path, most: int, lock: Folder | None = None) -> None:
        """`lock` is what keeps the folder from being removed."""
        self._folder, self._most, self._lock = folder, most, lock

    def open(self, name: str) -> BufferedReader | None:
        """A copy, open, or None where there is none."""
        if not self._most:
            return None
        try:
            file = open(self._folder / name, "rb")  # noqa: SIM115 (the caller closes it)
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(file.fileno())  # it was used last
        return file

    def kept(self, name: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces as they come. Once all of them were taken they are a copy, if there is room for it."""
        temporary = self._folder / f".{uuid.uuid4().hex}"
        num_bytes, fits = 0, True
        try:
            for piece in pieces:
                num_bytes += len(piece)
                fits = fits and num_bytes <= self._most and _is_appended(temporary, piece)
                yield piece
            if fits and num_bytes:
                self._publish(temporary, name, num_bytes)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _publish(self, temporary: Path, name: str, num_bytes: int) -> None:
        """The file is a copy of this name. Those that were not used for longest make room for it."""
        with contextlib.suppress(OSError), open(self._folder / _LOCK, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            others = self._others(temporary.name)
            total = sum(size for _, size, _ in others)
            for _, size, path in others:
                if total + num_bytes <= self._most:
                    break
                path.unlink(missing_ok=True)
                total -= size
            os.rename(temporary, self._folder / name)

    def _others(self, name: str) -> list[tuple[int, int, Path]]:
        """When each other file was used last, its size, and where it is, from the one that was not for longest; those
        that are being written too."""
        files: list[tuple[int, int, Path]] = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name not in (_LOCK, name):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat()
                        files.append((status.st_mtime_ns, status.st_size, Path(entry.path)))
        return sorted(files)


def here() -> Copies:
    """The copies of this machine. Raises UsageError where the environment does not say how many bytes they may take."""
    return _of_process(os.getpid(), os.environ.get(SETTING, ""))


@functools.lru_cache(maxsize=1)
def _of_process(pid: int, setting: str) -> Copies:  # noqa: ARG001 - a process has to lock the folder itself
    most = _num_bytes(setting)
    try:
        folder = Folder(name_of(["copies"]))
        return Copies(folder.path, min(most, shutil.disk_usage(folder.path).free // 2), folder)
    except OSError:
        return Copies(Path(os.devnull), 0)


def _num_bytes(setting: str) -> int:
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?b)?\s*", setting.lower())
    if not setting:
        return _MOST
    if parts is None:
        raise UsageError(f"{SETTING}={setting!r} in the environment is no number of bytes. Write e.g. {SETTING}=20GB.")
    return int(float(parts[1]) * _UNITS[parts[2] or "b"])


def _is_appended(file: Path, piece: bytes) -> bool:
    """Whether the piece is at the end of a file now, which is made for the first."""
    try:
        with open(file, "ab") as opened:
            opened.write(piece)
    except OSError:
        return False
    return True
