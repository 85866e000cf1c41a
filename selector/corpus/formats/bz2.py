"""bzip2: files of any number of streams."""

import bz2
from io import BufferedIOBase, BufferedReader

from selector.corpus.formats import Compression
from selector.corpus.formats._members import unpacked


class Bz2(Compression):
    """What `bzip2` and `lbzip2` write."""

    name = "bz2"
    endings = (".bz2",)
    damage = (EOFError,)

    def open(self, file: BufferedReader) -> BufferedIOBase:
        return unpacked(file, bz2.BZ2Decompressor)
