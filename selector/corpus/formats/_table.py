"""Tables of text: a row of names, then rows of values, parted by one character; quoted where they hold it or a newline.

A row is a record, counted from 0 after the names, blank ones too, though those are never read. Values are text, and
empty ones are null. A quote that is never closed, or is closed in the middle of a value, would swallow what follows:
then the line that it stands in is the bad row, and reading goes on with the next line.
"""

import csv
from collections.abc import Iterator
from io import BufferedIOBase
from typing import Any, ClassVar

from selector.corpus import formats
from selector.corpus.formats import Bad, Row
from selector.corpus.formats._stream import BOM, Record, Start, Streamed

_LONGEST = 16 << 20  # bytes of a record that may be told from the next; one that is longer is one line

csv.field_size_limit(_LONGEST)  # of the process: the default of 128 kB is less than a document may have


class Table(Streamed):
    """A format of records of values."""

    is_spelt = True
    delimiter: ClassVar[str]

    def start(self, file: BufferedIOBase) -> Start:
        for record in self._records(file, 0, 0):
            if not record.data:
                continue
            names = self._values(record.data)
            if isinstance(names, Bad):
                raise formats.Corrupt(f"the names of its columns cannot be read: {names.detail}")
            return Start(record.end, names)
        return Start(0, [])

    def columns_of(self, context: Any) -> list[str] | None:
        return context

    def records(self, file: BufferedIOBase, number: int, offset: int, context: Any, most: int) -> Iterator[Record]:
        return self._records(file, number, offset)

    def parse(self, data: bytes, context: Any) -> Row:
        values = self._values(data)
        if isinstance(values, Bad):
            return values
        if len(values) != len(context):
            return Bad(reason=f"not_{self.stem}", detail=f"{len(values)} values, and there are {len(context)} columns")
        return dict(zip(context, (value or None for value in values), strict=True))

    def _values(self, data: bytes) -> list[str] | Bad:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            return Bad(reason="not_utf8", detail=str(error))
        try:
            return next(csv.reader([text], delimiter=self.delimiter, strict=True))
        except csv.Error as error:
            return Bad(reason=f"not_{self.stem}", detail=str(error))

    def _records(self, file: BufferedIOBase, number: int, offset: int) -> Iterator[Record]:
        lines = _Lines(file)
        while first := lines.next():
            line, length = first
            if offset == 0 and line.startswith(BOM):
                line, offset, length = line[len(BOM) :], len(BOM), length - len(BOM)
            data = line
            if b'"' in line and length == len(line):
                data = self._whole(line, lines)
                length = len(data)
            content = data.rstrip(b"\r\n")
            is_held = len(data) == length
            row_length = len(content) if is_held else length
            yield Record(number, offset, row_length, offset + length, content if content.strip(b" ") else b"")
            number, offset = number + 1, offset + length

    def _whole(self, line: bytes, lines: "_Lines") -> bytes:
        """The record that begins with a line: this and those that follow while a quote is open, or this alone."""
        taken: list[tuple[bytes, int]] = []
        size = len(line)

        def feed() -> Iterator[str]:
            nonlocal size
            yield line.decode("latin-1")
            while size < _LONGEST and (one := lines.next()):
                taken.append(one)
                size += one[1]
                if len(one[0]) != one[1]:
                    return
                yield one[0].decode("latin-1")

        try:
            next(csv.reader(feed(), delimiter=self.delimiter, strict=True))
        except (csv.Error, StopIteration):  # a quote that is closed at the wrong place, or nowhere
            lines.back(taken)
            return line
        return line + b"".join(one for one, _ in taken)


class _Lines:
    """The lines of a stream, each with its length; of one that is too long, only the beginning is held."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self._again: list[tuple[bytes, int]] = []

    def next(self) -> tuple[bytes, int] | None:
        if self._again:
            return self._again.pop()
        line = last = self._file.readline(_LONGEST)
        length = len(line)
        while len(last) == _LONGEST and not last.endswith(b"\n"):
            last = self._file.readline(_LONGEST)
            length += len(last)
        return (line, length) if line else None

    def back(self, lines: list[tuple[bytes, int]]) -> None:
        self._again += reversed(lines)
