"""Lines of JSON, an object each."""

from io import BufferedIOBase, BufferedReader
from pathlib import Path

from selector.corpus.formats._lines import Lines


class Jsonl(Lines):
    """Plain lines of JSON: the format that can be read at random as it lies."""

    name = "jsonl"
    endings = (".jsonl",)

    def open(self, file: str | BufferedReader) -> BufferedIOBase:
        return Path(file).open("rb") if isinstance(file, str) else file
