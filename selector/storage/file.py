"""A local directory. An object is linked into place whole, so a reader never sees half of one.

Write, fsync, link, fsync of the directory: a rename would overwrite what another process has just
published; a link cannot. A writer that is killed leaves at most a hidden file behind. Two objects may be
one file by two names; a file is replaced by another, and never written in, so each goes its own way.
"""

import contextlib
import errno
import fcntl
import io
import os
import shutil
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

from selector import failpoint
from selector.errors import FullError, SelectorError, UnreachableError, UsageError
from selector.storage import Storage

_TEMPORARY, _LOCK = ".partial-", ".lock"
_MOST_TRIES = 100  # at making a folder that others remove


class FileStorage(Storage):
    """Objects as files below a directory, which is made when first written to."""

    def __init__(self, path: str) -> None:
        try:
            home = Path(path).expanduser() if path.startswith("~") else Path(path)  # which takes ./~ for one, too
            self.root = home.resolve()
        except (RuntimeError, ValueError, OSError) as error:  # no such user, links in a circle, a null byte
            raise UsageError(f"The address {path!r} cannot be a folder: {error}. Give another.") from error

    @property
    def address(self) -> str:
        return str(self.root)

    def _path(self, key: str) -> Path:
        return Path(self._name(key))

    def _name(self, key: str) -> str:
        """The path of an object, as text: what is read often makes no `Path` of it."""
        assert not any(wrong in f"/{key}/" for wrong in ("//", "/./", "/../", "\0")), key
        return os.path.join(self.root, key)

    def get(self, key: str) -> bytes | None:
        try:
            with open(self._name(key), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _in_words(self.root, self._name(key), error) from error

    def get_range(self, key: str, start: int, length: int) -> bytes | None:
        file = self.open(key)
        if file is None:
            return None
        try:
            with file:
                file.seek(start)
                return file.read(length)
        except OSError as error:
            raise _in_words(self.root, self._name(key), error) from error

    def open(self, key: str) -> io.BufferedIOBase | None:
        try:
            return open(self._name(key), "rb")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _in_words(self.root, self._name(key), error) from error

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self.put_pieces_if_absent(key, [data])

    def put_pieces_if_absent(self, key: str, pieces: Iterable[bytes]) -> bool:
        path = self._name(key)
        try:
            if os.path.exists(path):
                return False
            with _written(path, pieces) as temporary:
                failpoint.reach("store.before_link")
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    if os.path.islink(path) and not os.path.exists(path):  # an object that nobody can read or replace
                        raise UnreachableError(
                            f"{path} is a symbolic link that leads nowhere. Remove it, or put back what it leads to, "
                            "and run the same command again."
                        ) from None
                    return False
            _sync_directory(os.path.dirname(path))
        except OSError as error:
            raise _in_words(self.root, path, error) from error
        failpoint.reach("store.after_link")
        return True

    def ensure_copy(self, key: str, data: bytes, source: str) -> None:
        path = self._name(key)
        try:
            _make_directory(Path(path).parent)
            failpoint.reach("store.before_link")
            os.link(os.path.realpath(self._name(source)), path)  # where it is a symbolic link, what that leads to
        except OSError:  # it is there, or the source is gone, another user's, on another disk, or linked too often
            self.ensure(key, data)
            return
        try:
            _sync_directory(os.path.dirname(path))
        except OSError as error:
            raise _in_words(self.root, path, error) from error
        failpoint.reach("store.after_link")

    def compare_and_swap(self, key: str, expected: bytes, data: bytes) -> bool:
        path = self._path(key)
        try:
            if not path.exists():
                return False
            try:
                lock = open(path.parent / _LOCK, "w")  # noqa: SIM115 - it is a context below
            except FileNotFoundError:  # the folder went with its last object
                return False
            with lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self.get(key) != expected:
                    return False
                with _written(str(path), [data]) as temporary:
                    failpoint.reach("store.before_swap")
                    os.replace(temporary, path)
                _sync_directory(str(path.parent))
        except OSError as error:
            raise _in_words(self.root, str(path), error) from error
        return True

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        assert prefix == "" or prefix.endswith("/"), prefix
        for key, entry in self._entries(prefix):
            if not entry.name.startswith((_TEMPORARY, _LOCK)):
                with contextlib.suppress(FileNotFoundError):
                    yield key, entry.stat().st_size

    def delete(self, key: str) -> bool:
        path = self._path(key)
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise _in_words(self.root, str(path), error) from error
        folder = path.parent
        while folder != self.root and _removed_if_empty(folder):
            folder = folder.parent
        return True

    def delete_folder(self, prefix: str) -> None:
        folder = self._path(prefix.rstrip("/"))
        shutil.rmtree(folder, ignore_errors=True)  # what another process adds meanwhile may stay
        while folder.parent != self.root and _removed_if_empty(folder.parent):
            folder = folder.parent

    def leftovers(self, seconds: float) -> Iterator[tuple[str, int]]:
        before = time.time() - seconds
        for key, entry in self._entries(""):
            if entry.name.startswith(_TEMPORARY):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime <= before:
                        yield key, entry.stat().st_size

    def free_bytes(self) -> int | None:
        folder = self.root
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def _entries(self, prefix: str) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
        """Every file below a folder, hidden ones too, with its key, sorted by key."""
        folder = self._name(prefix.rstrip("/")) if prefix else str(self.root)
        try:
            with os.scandir(folder) as listing:
                # A folder is sorted as its keys are, by what follows its name: a slash.
                entries = sorted(listing, key=lambda entry: entry.name + "/" * entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise _in_words(self.root, folder, error) from error
        for entry in entries:
            if entry.is_dir():
                yield from self._entries(f"{prefix}{entry.name}/")
            else:
                yield f"{prefix}{entry.name}", entry


@contextlib.contextmanager
def _written(path: str, pieces: Iterable[bytes]) -> Generator[str, None, None]:
    """A hidden file beside `path` that holds the pieces, durably, until the caller has put it in place."""
    temporary = os.path.join(os.path.dirname(path), f"{_TEMPORARY}{os.urandom(16).hex()}")
    new = _new_file(temporary)
    try:
        with new as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _new_file(path: str) -> io.BufferedWriter:
    """The file, open, in a folder that is made for it, and that another process may remove until a file is in it."""
    for _ in range(_MOST_TRIES):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # most often the folder is there
            return open(path, "xb")
        with contextlib.suppress(FileNotFoundError, FileExistsError):  # it went while we looked whether it is there
            _make_directory(Path(path).parent)
    _make_directory(Path(path).parent)
    return open(path, "xb")


def _removed_if_empty(folder: Path) -> bool:
    """Whether the folder is gone: one without objects is as none."""
    try:
        if (folder / _LOCK).exists() and os.listdir(folder) == [_LOCK]:
            (folder / _LOCK).unlink(missing_ok=True)
        folder.rmdir()
    except OSError:  # there is something in it, or it is gone already
        return False
    return True


def _make_directory(path: Path) -> None:
    """The directory is there, durably: or else, after a loss of power, what was put in it would not be."""
    if not path.is_dir():
        _make_directory(path.parent)
        path.mkdir(exist_ok=True)
        _sync_directory(str(path.parent))


def _sync_directory(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # what was put in it was removed again
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_LIMITS = {
    errno.EFBIG: "Raise the limit on the size of a file (`ulimit -f unlimited`)",
    errno.EMFILE: "Raise the limit on open files (`ulimit -n`)",
}
"""The limits of a process, with the cure of each."""


def _in_words(root: Path, path: str, error: OSError) -> SelectorError:
    """The error that a user is told. What fails in a file that is open names none: then it is the one at `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FullError(
            f"The disk of {root} is full. Free some space and run the same command again: finished parts are kept."
        )
    cure = f" {_LIMITS[error.errno]} and run the same command again." if error.errno in _LIMITS else ""
    return UnreachableError(f"{root} cannot be used: {error.strerror or error} ({error.filename or path}).{cure}")
