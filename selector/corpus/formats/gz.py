"""gzip: files of any number of members."""

import gzip
import zlib
from io import BufferedIOBase, BufferedReader

from selector.corpus.formats import Compression


class Gz(Compression):
    """What `gzip` and `pigz` write."""

    name = "gz"
    endings = (".gz",)
    damage = (EOFError, zlib.error)

    def open(self, file: str | BufferedReader) -> BufferedIOBase:
        return gzip.open(file)
