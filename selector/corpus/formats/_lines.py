"""Formats whose rows are lines of JSON: one object to a line.

A row is a physical line, counted from 0, blank lines too, though those are never read. Only a newline ends a line.
"""

from collections.abc import Iterator, Sequence
from io import BufferedIOBase
from typing import Any

import numpy as np

from selector.corpus import formats
from selector.corpus.formats import Range, Row, _json
from selector.corpus.formats._stream import BOM, Int64, Record, Streamed, chunks


class Lines(Streamed):
    """A format of lines."""

    def records(self, file: BufferedIOBase, number: int, offset: int, context: Any, most: int) -> Iterator[Record]:
        """A byte order mark before line 0 is none of it."""
        held = most + len(BOM) + len(b"\r\n") + 1
        while line := file.readline(held):
            start, end = offset, offset + len(line)
            last = line
            while len(last) == held and not last.endswith(b"\n"):
                last = file.readline(held)
                end += len(last)
            if number == 0 and line.startswith(BOM):
                line, start = line[len(BOM) :], start + len(BOM)
            content = line.rstrip(b"\r\n")
            length = len(content) if last is line or end - start == len(line) else end - start
            yield Record(number, start, length, end, b"" if content.isspace() else content)
            number, offset = number + 1, end

    def parse(self, data: bytes, context: Any) -> Row:
        return _json.parse(data)

    def values(
        self, path: str, rows: Int64, data: Sequence[bytes], columns: Sequence[str], context: Any
    ) -> list[dict[str, Any]]:
        return _json.values(path, rows, data, columns)

    def blocks(self, file: BufferedIOBase, offset: int, context: Any, rows_in_block: int) -> Iterator[Range]:
        first = rows = 0  # of the block being gathered
        start = end = offset = 0
        for chunk in chunks(file):
            for newline in np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10).tolist():
                rows, end = rows + 1, offset + newline + 1
                if rows == rows_in_block or end - start >= formats.PART_BYTES // 16:
                    yield Range(first, rows, start, end)
                    first, rows, start = first + rows, 0, end
            offset += len(chunk)
        if offset > end:  # a last line without a newline
            rows, end = rows + 1, offset
        if rows:
            yield Range(first, rows, start, end)

    def bounds(self, file: BufferedIOBase) -> tuple[Int64, Int64]:
        newlines: list[Int64] = []
        size, first, head = 0, 0, b""
        for chunk in chunks(file):
            if len(head) < len(BOM):
                head += chunk[: len(BOM)]
                first = len(BOM) if head.startswith(BOM) else 0
            newlines.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10) + size + 1)
            size += len(chunk)
        ends = np.concatenate([np.empty(0, np.int64), *newlines])
        if size > max(first, ends[-1] if len(ends) else 0):
            ends = np.append(ends, size)
        starts = np.concatenate([[first], ends[:-1]]) if len(ends) else ends
        return starts, ends - starts
