"""What the trainer's side keeps between two reads of the corpus: the tables used last, and a scratch file.

The scratch file lies in TMPDIR and is nameless, so it is gone when the process is, however that ends; it grows to at
most the size of the unpacked texts. Where that is too much, train from plain JSONL.
"""

import errno
import os
import tempfile
from collections import OrderedDict
from collections.abc import Hashable

import pyarrow as pa

from selector.errors import FullError, SelectorError, UnreachableError


class Cache:
    """The cache of one reader, shared by all files that it reads. For one thread at a time; safe to fork."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self._tables: OrderedDict[Hashable, pa.Table] = OrderedDict()
        self._scratch: Scratch | None = None

    def get(self, key: Hashable) -> pa.Table | None:
        """The table that was put under this key, if it is still there."""
        if key in self._tables:
            self._tables.move_to_end(key)
        return self._tables.get(key)

    def put(self, key: Hashable, table: pa.Table) -> None:
        """Keeps the tables used last, as many as fit a number of bytes, and always the very last."""
        self._tables[key] = table
        while len(self._tables) > 1 and sum(held.nbytes for held in self._tables.values()) > self._num_bytes:
            self._tables.popitem(last=False)

    def scratch(self, path: str) -> "Scratch":
        """The scratch file of this process: a forked child must not write where its parent and siblings do.

        `path` is the file to be unpacked, for the message of the error.
        """
        if self._scratch is None or self._scratch.pid != os.getpid():
            try:
                self._scratch = Scratch()
            except OSError as error:
                raise _scratch_full(path, error) from error
        return self._scratch


class Scratch:
    """A nameless file, and the process that may write to it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (it is closed when nobody needs it)

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()

    def end(self) -> int:
        """Where the next write begins."""
        return self.file.seek(0, os.SEEK_END)

    def write(self, data: bytes, path: str) -> None:
        """Appends what was unpacked from a corpus file. Raises FullError or UnreachableError."""
        try:
            while data:
                data = data[self.file.write(data) :]
        except OSError as error:
            raise _scratch_full(path, error) from error


def _scratch_full(path: str, error: OSError) -> SelectorError:
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = "is full" if is_full else f"cannot be written ({error.strerror})"
    return (FullError if is_full else UnreachableError)(
        f"The scratch directory {tempfile.gettempdir()} {reason}, so {path} cannot be unpacked."
        " Set TMPDIR to a disk with more room, or unpack the file beforehand."
    )
