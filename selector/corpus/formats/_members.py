"""Packed files of several members, one after another, as `cat a.bz2 b.bz2` makes them.

Python's own readers end in silence where a later member is damaged, and what follows would be lost without a word. Here
whatever follows a member is another one, but for zeros, with which tapes and disks fill up their blocks.
"""

import io
from collections.abc import Callable
from io import BufferedIOBase, BufferedReader
from typing import Any

_BLOCK = 1 << 20


def unpacked(file: BufferedReader, unpacker: Callable[[], Any]) -> BufferedIOBase:
    """The unpacked bytes of a file, each member by an unpacker of its own, which is one of `bz2` or `lzma`. To read a
    file that ends within a member raises EOFError; of damaged bytes, what the unpacker raises."""
    return BufferedReader(_Members(file, unpacker), _BLOCK)


class _Members(io.RawIOBase):
    """The unpacked bytes of an open file, which is closed with it."""

    def __init__(self, file: BufferedReader, unpacker: Callable[[], Any]) -> None:
        self._file = file
        self._unpacker = unpacker
        self._member = unpacker()
        self._rest = b""  # packed, and not given to any member yet
        self._num_begun = 0  # packed bytes of the member at hand
        self._num_read = 0  # members

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        size = len(buffer)
        while size:
            if self._member.eof:
                self._rest = self._member.unused_data
                self._member, self._num_begun = self._unpacker(), 0
                self._num_read += 1
            if self._num_read and not self._num_begun:
                self._skip_zeros()
            packed = self._rest or (self._file.read(_BLOCK) if self._member.needs_input else b"")
            self._rest = b""
            if not packed and self._member.needs_input:
                if self._num_begun or not self._num_read:
                    raise EOFError("it ends before its end mark")
                return 0
            self._num_begun += len(packed)
            data = self._member.decompress(packed, size)
            if data:
                buffer[: len(data)] = data
                return len(data)
        return 0

    def _skip_zeros(self) -> None:
        self._rest = self._rest.lstrip(b"\0")
        while not self._rest and (block := self._file.read(_BLOCK)):
            self._rest = block.lstrip(b"\0")

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
