"""Plain text: a document to a file, or several with a separator between them.

A row has one column, `text`. Folders are full of text that is no document, licences and notes, so such a file is read
only where a path of the policy ends in .txt, or `corpus.format: txt` says so.
"""

from collections.abc import Iterator
from io import BufferedIOBase
from typing import Any, Self

from selector.corpus.formats import Bad, Row
from selector.corpus.formats._stream import BOM, Record, Start, Streamed, chunks


class Txt(Streamed):
    """Plain text in UTF-8."""

    stem = "txt"
    stem_endings = (".txt",)
    is_on_request = True
    separator: bytes | None = None  # between documents; None: a file is one

    def with_option(self, option: Any) -> Self:
        form = type(self)(self.compression)
        form.separator = option.encode()
        return form

    def start(self, file: BufferedIOBase) -> Start:
        """A byte order mark is no text."""
        return Start(len(BOM) if file.read(len(BOM)) == BOM else 0)

    def records(self, file: BufferedIOBase, number: int, offset: int, context: Any, most: int) -> Iterator[Record]:
        held, length, is_blank = b"", 0, True
        for end, data in _pieces(file, self.separator):
            held += data[: max(0, most + 1 - len(held))]
            length += len(data)
            is_blank = is_blank and not data.strip()
            if end is not None:
                yield Record(number, offset, length, offset + length + end, b"" if is_blank else held)
                number, offset = number + 1, offset + length + end
                held, length, is_blank = b"", 0, True
        if length:
            yield Record(number, offset, length, offset + length, b"" if is_blank else held)

    def parse(self, data: bytes, context: Any) -> Row:
        try:
            return {"text": data.decode("utf-8")}
        except UnicodeDecodeError as error:
            return Bad(reason="not_utf8", detail=str(error))

    def columns_of(self, context: Any) -> list[str] | None:
        return ["text"]


def _pieces(file: BufferedIOBase, separator: bytes | None) -> Iterator[tuple[int | None, bytes]]:
    """The bytes of a stream, and after those that end a document the length of what ends it; else None."""
    rest = b""
    for chunk in chunks(file):
        if separator is None:
            yield None, chunk
            continue
        *whole, rest = (rest + chunk).split(separator)
        for one in whole:
            yield len(separator), one
        keep = len(separator) - 1  # of a separator that the chunk may have cut
        if len(rest) > keep:
            yield None, rest[: len(rest) - keep]
            rest = rest[len(rest) - keep :] if keep else b""
    if rest:
        yield None, rest
