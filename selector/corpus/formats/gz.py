"""gzip: files of any number of members."""

import gzip
import zlib
from io import BufferedIOBase, BufferedReader
from typing import Any

from selector.corpus.formats import Compression


class Gz(Compression):
    """What `gzip` and `pigz` write."""

    name = "gz"
    endings = (".gz",)
    damage = (EOFError, zlib.error)

    def open(self, file: BufferedReader) -> BufferedIOBase:
        unpacked: Any = gzip.GzipFile(fileobj=file)
        unpacked.myfileobj = file  # which is closed with it
        return unpacked
