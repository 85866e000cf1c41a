"""Formats whose rows are lines of JSON, as they are or packed: all but how the bytes are unpacked.

A row is a physical line, counted from 0, blank lines too, though those are never read. Only a newline ends a line. At
random, a line is read by its offset. Who asks knows it from ingest; otherwise all lines of the file are found, once,
and 8 bytes a line are kept. What is packed cannot be read at random, so each process that asks for it unpacks it whole,
once, into its scratch file.
"""

import abc
import functools
import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedIOBase, BufferedReader
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from selector.corpus import formats
from selector.corpus.formats import Asked, Cache, Range, RowRead
from selector.corpus.formats._cache import Scratch
from selector.corpus.formats._json import BOM, next_line, parse
from selector.engine import alive
from selector.engine.part import Piece

BLOCK_ROWS = 128
CHUNK_BYTES = 4 << 20

Int64 = npt.NDArray[np.int64]


class Lines(formats.Format):
    """A format of lines: its name, its endings, how its bytes are unpacked, and what is raised where they cannot be."""

    packed_as: ClassVar[str | None] = None  # the word for it in messages; None where a file holds the lines themselves
    damage: ClassVar[tuple[type[Exception], ...]] = ()  # raised by what unpacks, beside an OSError without a number

    @abc.abstractmethod
    def open(self, file: str | BufferedReader) -> BufferedIOBase:
        """The unpacked bytes of a file, which is given as its path or open."""

    def cut(self, path: str, rows_per_part: int | None) -> list[Range]:
        """Lines in blocks of at most `BLOCK_ROWS` lines, then blocks joined into ranges."""
        with formats.reading(path, *self.damage), self.open(path) as file:
            blocks = list(_blocks(file, min(rows_per_part or BLOCK_ROWS, BLOCK_ROWS)))
        most = formats.part_rows(blocks[-1].first_row + blocks[-1].num_rows if blocks else 0, rows_per_part)
        ranges: list[Range] = []
        for block in blocks:
            last = ranges[-1] if ranges else None
            if last and last.num_rows + block.num_rows <= most and block.end - last.start <= formats.PART_BYTES:
                ranges[-1] = last._replace(num_rows=last.num_rows + block.num_rows, end=block.end)
            else:
                ranges.append(block)
        return ranges

    def rows(
        self, piece: Piece, columns: Collection[str] | None, max_bytes: int, wanted: Collection[int] | None
    ) -> Iterator[RowRead]:
        """Packed bytes can only be read from their beginning, so a worker keeps the last stream that it used: parts are
        handed out in order, and the next one is nearly always a little further on."""
        global _last_stream
        stream = _last_stream
        if (
            stream is None
            or (stream.piece.uri, stream.piece.version) != (piece.uri, piece.version)
            or stream.offset > piece.start
        ):
            stream = _Stream(piece, self.open(piece.uri), 0)
        _last_stream = None  # not to be found by anyone while it is in use
        if self.packed_as is None:
            stream.file.seek(piece.start)
            stream.offset = piece.start
        while stream.offset < piece.start:
            stream.offset += len(stream.file.read(min(1 << 20, piece.start - stream.offset)))
            alive.sign()
        for number in range(piece.first_row, piece.first_row + piece.num_rows):
            line, length = next_line(stream.file, number, max_bytes)
            stream.offset += length
            if (wanted is None or number in wanted) and line.strip():
                start = stream.offset - length + (len(BOM) if len(line) < length and number == 0 else 0)
                row = parse(line, max_bytes, length)
                yield RowRead(number, row, start, len(line.rstrip(b"\r\n")))
        _last_stream = stream

    def rows_at(self, path: str, size: int, cache: Cache) -> formats.ReadAt:
        if self.packed_as is None:
            formats.opened(path, size).close()
            return _PlainLines(path=path, size=size).read
        scratch = cache.scratch(path)
        start = scratch.end()
        bounds = start + _bounds(self._unpacked(path, size, scratch))
        return LinesAt(path=path, size=size, copy=scratch, bounds=bounds).read

    def peek(self, path: str, columns: Collection[str], max_bytes: int, num_rows: int) -> formats.Beginning:
        names: dict[str, None] = {}
        rows: list[dict[str, Any]] = []
        num_lines = number = 0
        with formats.reading(path, *self.damage), self.open(path) as file:
            while num_lines < num_rows:
                line, length = next_line(file, number, max_bytes)
                if not length:
                    break
                number += 1
                num_lines += bool(line.strip())
                row = parse(line, max_bytes, length)
                if isinstance(row, dict):
                    names |= dict.fromkeys(row)
                    rows.append(row)
        is_whole = num_lines < num_rows
        return formats.Beginning(columns=list(names), rows=rows, is_empty=not num_lines, is_whole=is_whole)

    def _unpacked(self, path: str, size: int, scratch: Scratch) -> Iterator[bytes]:
        """The unpacked bytes, each chunk appended to the scratch file before it is yielded."""
        with formats.opened(path, size) as file, self.open(file) as unpacked:
            chunks = _chunks(unpacked)
            while True:
                try:
                    chunk = next(chunks, b"")
                except (OSError, *self.damage) as error:
                    raise formats.changed(path, f"it is not whole {self.packed_as}", str(error)) from error
                if not chunk:
                    return
                scratch.write(chunk, path)
                yield chunk


@dataclass
class _Stream:
    """An open file and how far it has been read."""

    piece: Piece
    file: BufferedIOBase
    offset: int

    def __del__(self) -> None:
        self.file.close()


_last_stream: _Stream | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class LinesAt:
    """Lines of a file, or of its copy in a scratch file; line i is the bytes from bounds[i] to bounds[i + 1]."""

    path: str
    size: int
    copy: Scratch | None
    bounds: Int64  # shape (number of lines + 1,)

    def read(self, asked: Asked, columns: Sequence[str]) -> list[dict[str, Any]]:
        rows = asked.numbers
        formats.check_range(self.path, rows, len(self.bounds) - 1)
        starts, ends = self.bounds[rows], self.bounds[rows + 1]
        if self.copy is not None:
            return _objects(self.path, self.copy.file.fileno(), rows, starts, ends - starts, columns)
        with formats.opened(self.path, self.size) as file:
            return _objects(self.path, file.fileno(), rows, starts, ends - starts, columns)


@dataclass(frozen=True, kw_only=True, eq=False)
class _PlainLines:
    """Lines of a file where they lie."""

    path: str
    size: int

    def read(self, asked: Asked, columns: Sequence[str]) -> list[dict[str, Any]]:
        if asked.byte_offsets is None or asked.byte_lengths is None:
            return self._lines.read(asked, columns)
        with formats.opened(self.path, self.size) as file:
            return _objects(self.path, file.fileno(), asked.numbers, asked.byte_offsets, asked.byte_lengths, columns)

    @functools.cached_property
    def _lines(self) -> LinesAt:
        with formats.opened(self.path, self.size) as file:
            return LinesAt(path=self.path, size=self.size, copy=None, bounds=_bounds(_chunks(file)))


def _objects(
    path: str, descriptor: int, rows: Int64, starts: Int64, lengths: Int64, columns: Sequence[str]
) -> list[dict[str, Any]]:
    """What the lines at these offsets hold in these columns."""
    answers: list[dict[str, Any]] = []
    for row, start, length in zip(rows.tolist(), starts.tolist(), lengths.tolist(), strict=True):
        line = os.pread(descriptor, length, start)
        try:
            value = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            raise formats.changed(path, f"row {row} is not JSON", str(error)) from error
        if not isinstance(value, dict):
            raise formats.changed(path, f"row {row} is not a JSON object")
        answers.append({column: value[column] for column in columns if column in value})
    return answers


def _chunks(file: BufferedIOBase) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        alive.sign()
        yield chunk


def _blocks(file: BufferedIOBase, rows_in_block: int) -> Iterator[Range]:
    """Consecutive runs of lines, found without holding the file."""
    first = rows = 0  # of the block being gathered
    start = end = offset = 0
    for chunk in _chunks(file):
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


def _bounds(chunks: Iterator[bytes]) -> Int64:
    """Where each line starts, and where the last one ends: shape (number of lines + 1,)."""
    newlines: list[Int64] = []
    size, first, head = 0, 0, b""
    for chunk in chunks:
        if len(head) < len(BOM):
            head += chunk[: len(BOM)]
            first = len(BOM) if head.startswith(BOM) else 0
        newlines.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10) + size + 1)
        size += len(chunk)
    bounds = np.concatenate([np.array([first], np.int64), *newlines])
    return np.append(bounds, size) if size > bounds[-1] else bounds
