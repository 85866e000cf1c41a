"""What a command prints, and onto what: its result alone on stdout, and no failure to print it ends the work.

The work of a command decides its exit code. Whoever reads its output may have seen enough, the disk that it goes to may
be full, the console may know nothing but ASCII: so what cannot be written is let go, and what cannot be encoded is
escaped.
"""

import codecs
import errno
import io
import os
import select
import sys
from typing import Any, TextIO

_STANDARD = (0, 1, 2)

PLAIN = "selector.plain"

_PLAIN = {"…": ".", "█": "#", **dict.fromkeys("▉▊▋▌", "#"), **dict.fromkeys("▍▎▏", " ")}
"""What stands for a character of ours on a console that has not got it."""


class _Descriptor(io.FileIO):
    """An open descriptor. What it does not take is gone; `failure` says why."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            written = super().write(data)
            while written is None:  # it takes nothing at the moment
                select.select([], [self], [])
                written = super().write(data)
            return written
        except OSError as error:
            self.failure = error
            return memoryview(data).nbytes


def take() -> None:
    """From now on nothing but what is printed to `sys.stdout` comes to stdout: whoever writes to descriptor 1, which
    plug-ins, libraries and child processes may do, writes to stderr."""
    known()
    for descriptor in _STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:  # it is closed, and the next file that is opened would be taken for it
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        _flush(stream)
    ours = os.dup(1)  # which no child inherits
    os.dup2(2, 1)
    sys.stdout, sys.stderr = _text(ours, sys.stdout), _text(2, sys.stderr)


def known() -> None:
    """From now on `PLAIN` is a way to handle errors of encoding."""
    codecs.register_error(PLAIN, _plain)


def unprinted() -> str | None:
    """Why the result did not come out, where that is not its reader's own wish."""
    _flush(sys.stdout)
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = raw.failure if isinstance(raw, _Descriptor) else None
    return None if failure is None or failure.errno == errno.EPIPE else failure.strerror


def _flush(stream: TextIO | None) -> None:
    if stream is not None:  # as Python has it where the descriptor was closed
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _text(descriptor: int, before: TextIO | None) -> TextIO:
    encoding = "utf-8" if before is None else before.encoding
    raw = _Descriptor(descriptor, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, PLAIN, line_buffering=True)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Handles an error of encoding."""
    assert isinstance(error, UnicodeEncodeError)
    unknown = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in unknown), error.end
