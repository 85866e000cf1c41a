"""Lines of JSON, packed with gzip."""

import gzip
import zlib
from io import BufferedIOBase, BufferedReader

from selector.corpus.formats._lines import Lines


class JsonlGz(Lines):
    """Lines of JSON in a gzip file of any number of members."""

    name = "jsonl.gz"
    endings = (".jsonl.gz",)
    packed_as = "gzip"
    damage = (EOFError, zlib.error)

    def open(self, file: str | BufferedReader) -> BufferedIOBase:
        return gzip.open(file)
