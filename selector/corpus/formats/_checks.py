"""A file is the one that was surveyed, and can be read: what every format asks before it believes the bytes.

While a run reads a file, its version tells whether somebody has written to it. The trainer comes long after, perhaps on
another machine, where times and inodes are others: there the size must do.
"""

import contextlib
import os
from collections.abc import Generator
from io import BufferedReader

import numpy as np
import numpy.typing as npt

from selector.engine.part import Piece
from selector.errors import CorpusError


class Corrupt(Exception):
    """The bytes of a file are not those of its format. The whole file is lost, and the run goes on without it."""


def version_of(path: str) -> str:
    """Size, times and inode of a file: equal as long as nobody has written to it."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise _cannot_be_read(path, error) from error
    return f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ctime_ns}-{stat.st_ino}"


def check_version(piece: Piece) -> None:
    """The file is as the survey found it. Raises CorpusError."""
    if version_of(piece.uri) != piece.version:
        raise CorpusError(
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


def opened(path: str, size: int) -> BufferedReader:
    """The file, open, once its size is what it was when the corpus was read."""
    try:
        file = open(path, "rb")  # noqa: SIM115 (the caller closes it)
    except OSError as error:
        raise changed(path, f"it cannot be opened ({error.strerror})") from error
    size_now = os.fstat(file.fileno()).st_size
    if size_now != size:
        file.close()
        raise changed(path, f"it has {size_now:,} bytes and had {size:,}")
    return file


def check_range(path: str, rows: npt.NDArray[np.int64], num_rows: int) -> None:
    """All row numbers are below `num_rows`. Raises CorpusError."""
    if len(rows) and not (rows.min() >= 0 and rows.max() < num_rows):
        raise changed(path, f"there is no row {rows[(rows < 0) | (rows >= num_rows)][0]}: it has {num_rows:,}")


def changed(path: str, what: str, detail: str = "") -> CorpusError:
    """The error to raise where a file does not hold what it held when the corpus was read."""
    return CorpusError(
        f"The corpus file {path} is not what it was: {what}{f' ({detail})' if detail else ''}."
        " Put the file back as it was, or run the policy again on the corpus as it is."
    )


def _cannot_be_read(path: str, error: OSError) -> CorpusError:
    return CorpusError(f"The corpus file {path} cannot be read: {error.strerror}.")
