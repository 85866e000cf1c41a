"""A local directory. An object is linked into place whole, so a reader never sees half of one.

Write, fsync, link, fsync of the directory: a rename would overwrite what another process has just
published; a link cannot.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from selector import failpoint
from selector.errors import UnreachableError
from selector.storage import Storage

_TEMPORARY = ".partial-"


class FileStorage(Storage):
    """Objects as files below a directory, which is made when first written to."""

    def __init__(self, path: str) -> None:
        self.root = Path(path).expanduser().resolve()

    @property
    def address(self) -> str:
        return str(self.root)

    def _path(self, key: str) -> Path:
        names = key.split("/")
        assert all(name not in ("", ".", "..") and "\0" not in name for name in names), key
        return self.root.joinpath(*names)

    def get(self, key: str) -> bytes | None:
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreachable(self.root, error) from error

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        try:
            if path.exists():
                return False
            temporary = self._write(path, data)
            try:
                failpoint.reach("store.before_link")
                os.link(temporary, path)
            except FileExistsError:
                return False
            finally:
                temporary.unlink()
            _sync_directory(path.parent)
        except OSError as error:
            raise _unreachable(self.root, error) from error
        failpoint.reach("store.after_link")
        return True

    def compare_and_swap(self, key: str, expected: bytes, data: bytes) -> bool:
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path.parent / ".lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self.get(key) != expected:
                    return False
                os.replace(self._write(path, data), path)
                _sync_directory(path.parent)
        except OSError as error:
            raise _unreachable(self.root, error) from error
        return True

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        assert prefix == "" or prefix.endswith("/"), prefix
        top = self._path(prefix.rstrip("/")) if prefix else self.root
        for folder, folders, names in os.walk(top):
            folders.sort()
            for name in sorted(names):
                if not name.startswith((_TEMPORARY, ".lock")):
                    path = Path(folder, name)
                    with contextlib.suppress(FileNotFoundError):
                        yield path.relative_to(self.root).as_posix(), path.stat().st_size

    def delete(self, key: str) -> bool:
        try:
            self._path(key).unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise _unreachable(self.root, error) from error
        return True

    def free_bytes(self) -> int | None:
        there = self.root
        while not there.exists():
            there = there.parent
        return shutil.disk_usage(there).free

    def _write(self, path: Path, data: bytes) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unreachable(root: Path, error: OSError) -> UnreachableError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UnreachableError(
            f"The disk of {root} is full. Free some space and run the same command again: finished parts are kept."
        )
    return UnreachableError(f"{root} cannot be used: {error.strerror or error} ({error.filename}).")
