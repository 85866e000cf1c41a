"""Zstandard: files of any number of frames."""

import io
from io import BufferedIOBase, BufferedReader
from typing import Any

import pyarrow as pa

from selector.corpus.formats import Compression

_BLOCK = 1 << 20


class Zst(Compression):
    """What `zstd` writes, unpacked by Arrow."""

    name = "zst"
    endings = (".zst", ".zstd")

    def open(self, file: BufferedReader) -> BufferedIOBase:
        return io.BufferedReader(_Unpacked(file), _BLOCK)


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of an open file, which is closed with it."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._stream: Any = pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
