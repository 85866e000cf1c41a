"""xz: files of any number of streams."""

import lzma
from io import BufferedIOBase, BufferedReader

from selector.corpus.formats import Compression
from selector.corpus.formats._members import unpacked


class Xz(Compression):
    """What `xz` writes."""

    name = "xz"
    endings = (".xz",)
    damage = (EOFError, lzma.LZMAError)

    def open(self, file: BufferedReader) -> BufferedIOBase:
        return unpacked(file, lzma.LZMADecompressor)
