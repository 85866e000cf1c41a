"""Formats whose rows lie one after another in a stream of bytes, as it is or packed: all but what a row is.

A row is known by its offset and its length in the unpacked bytes. Ingest notes them, so the trainer reads a row where
it lies. What is packed cannot be read at random: it is unpacked once on each machine, into a file that all processes
share, when the first of them asks for it (`_cache`).
"""

import abc
import functools
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedIOBase, BufferedReader, BufferedWriter
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from selector.corpus import formats
from selector.corpus.formats import Bad, Cache, Compression, Range, Row, RowRead, Wanted
from selector.engine import alive
from selector.engine.part import Piece

BOM = b"\xef\xbb\xbf"
BLOCK_ROWS = 128
CHUNK_BYTES = 4 << 20

Int64 = npt.NDArray[np.int64]


class Record(NamedTuple):
    """A row as it lies in the unpacked bytes."""

    number: int
    start: int
    length: int  # without what ends it
    end: int  # where the next one begins
    data: bytes  # of a row that is longer than what is held, the beginning


class Start(NamedTuple):
    """Where the rows of a file begin, and what is to be known to read any of them, such as the names of columns."""

    offset: int = 0
    context: Any = None


class Streamed(formats.Format):
    """A format of rows in a stream of bytes."""

    stem: ClassVar[str]  # the name of the format without any compression
    stem_endings: ClassVar[tuple[str, ...]]

    def __init__(self, compression: Compression | None = None) -> None:
        self.compression = compression
        packed = compression.endings if compression else ("",)
        self.name = f"{self.stem}.{compression.name}" if compression else self.stem
        self.endings = tuple(stem + ending for stem in self.stem_endings for ending in packed)

    @classmethod
    def variants(cls) -> Sequence[Self]:
        return [cls(), *(cls(compression) for compression in formats.compressions())]

    @abc.abstractmethod
    def records(self, file: BufferedIOBase, number: int, offset: int, context: Any, most: int) -> Iterator[Record]:
        """The rows of a stream from this one on, which begins at this offset, where the stream stands.

        A row that is longer than `most` is never held. A blank row has no data. Raises Corrupt where the stream is not
        what the format says, and no row can be told from the next.
        """

    @abc.abstractmethod
    def parse(self, data: bytes, context: Any) -> Row:
        """The row that these bytes hold."""

    def start(self, file: BufferedIOBase) -> Start:
        """Where rows begin in a stream that stands at its beginning. Raises Corrupt or NoRows."""
        return Start()

    def blocks(self, file: BufferedIOBase, offset: int, context: Any, rows_in_block: int) -> Iterator[Range]:
        """Consecutive runs of rows of a stream that stands at this offset, found without holding the file."""
        rows, first, start = 0, 0, offset
        for record in self.records(file, 0, offset, context, 0):
            rows += 1
            if rows == rows_in_block or record.end - start >= formats.PART_BYTES // 16:
                yield Range(first, rows, start, record.end)
                first, rows, start = first + rows, 0, record.end
            offset = record.end
        if rows:
            yield Range(first, rows, start, offset)

    def bounds(self, file: BufferedIOBase) -> tuple[Int64, Int64]:
        """Where each row of a stream starts, and how long it is: shape (number of rows,) each."""
        start = self.start(file)
        file.seek(start.offset)
        spans = [(one.start, one.length) for one in self.records(file, 0, start.offset, start.context, 0)]
        starts, lengths = np.array(spans, np.int64).reshape(-1, 2).T
        return starts, lengths

    def values(
        self, path: str, rows: Int64, data: Sequence[bytes], columns: Sequence[str], context: Any
    ) -> list[dict[str, Any]]:
        """What rows hold in these columns. Raises CorpusError that names the first row that cannot be read."""
        values = [self.parse(one, context) for one in data]
        for row, value in zip(rows.tolist(), values, strict=True):
            if isinstance(value, Bad):
                raise formats.changed(path, f"row {row} cannot be read", f"{value.reason}: {value.detail}")
        return [{name: value[name] for name in columns if name in value} for value in values if isinstance(value, dict)]

    # The four verbs.

    def cut(self, path: str, rows_per_part: int | None) -> list[Range]:
        """Rows in blocks of at most `BLOCK_ROWS`, then blocks joined into ranges."""
        with self._reading(path):
            start = self._start_of(path)
            with self.open(path) as file:
                self._skip(file, start.offset)
                rows_in_block = min(rows_per_part or BLOCK_ROWS, BLOCK_ROWS)
                blocks = list(self.blocks(file, start.offset, start.context, rows_in_block))
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
        """A worker keeps the last stream that it used: parts are handed out in order, and packed bytes can only be read
        from their beginning, so the next part is nearly always a little further on."""
        global _last_stream
        stream, _last_stream = _last_stream, None  # not to be found by anyone while it is in use
        of = (piece.uri, piece.version, piece.format, max_bytes)
        if stream is None or stream.of != of or (stream.number > piece.first_row and self.compression is not None):
            stream = _Stream(of=of, file=self.open(piece.uri), context=self._start_of(piece.uri).context)
        if stream.number == -1 or (stream.number != piece.first_row and self.compression is None):
            self._skip(stream.file, piece.start)
            stream.records = self.records(stream.file, piece.first_row, piece.start, stream.context, max_bytes)
        context, first, stop = stream.context, piece.first_row, piece.first_row + piece.num_rows
        for number, start, length, _, data in stream.records:
            if number < first:
                alive.sign()
            elif data and (wanted is None or number in wanted):
                if length > max_bytes:
                    yield RowRead(number, _too_long(length, max_bytes), start, length)
                else:
                    yield RowRead(number, self.parse(data, context), start, length)
            if number + 1 == stop:
                break
        stream.number = stop
        _last_stream = stream

    def rows_at(self, path: str, size: int, cache: Cache) -> formats.ReadAt:
        formats.opened(path, size).close()
        return _RowsAt(form=self, path=path, size=size, cache=cache).read

    def peek(self, path: str, columns: Collection[str], max_bytes: int, num_rows: int) -> formats.Beginning:
        names: dict[str, None] = {}
        rows: list[dict[str, Any]] = []
        bad: list[Bad] = []
        num_seen = 0
        is_whole = True
        with self._reading(path):
            start = self._start_of(path)
            with self.open(path) as file:
                self._skip(file, start.offset)
                for record in self.records(file, 0, start.offset, start.context, max_bytes):
                    if record.data:
                        num_seen += 1
                        is_short = record.length <= max_bytes
                        row = (
                            self.parse(record.data, start.context) if is_short else _too_long(record.length, max_bytes)
                        )
                        if isinstance(row, Bad):
                            bad.append(row)
                        elif isinstance(row, dict):
                            names |= dict.fromkeys(row)
                            rows.append(row)
                    if num_seen == num_rows:
                        is_whole = False
                        break
        all_columns = self.columns_of(start.context)
        return formats.Beginning(
            columns=list(names) if all_columns is None else all_columns,
            rows=rows,
            bad=bad,
            is_empty=not num_seen,
            is_whole=is_whole or all_columns is not None,
        )

    def columns_of(self, context: Any) -> list[str] | None:
        """The columns that every row of a file has; None if each row has its own."""
        return None

    # How the bytes are come by.

    def open(self, file: str | BufferedReader) -> BufferedIOBase:
        """The unpacked bytes of a file, which is given as its path or open."""
        file = formats.opened_now(file) if isinstance(file, str) else file
        if self.compression is None:
            return file
        if not file.peek(1):
            file.close()
            raise OSError(f"it is empty, and {self.compression.name} has a beginning and an end")
        return self.compression.open(file)

    def _start_of(self, path: str) -> Start:
        """Where rows begin in a file."""
        if type(self).start is Streamed.start:
            return Start()
        with self.open(path) as file:
            return self.start(file)

    def _skip(self, file: BufferedIOBase, offset: int) -> None:
        """Goes from the beginning of a stream to an offset."""
        if self.compression is None:
            file.seek(offset)
        while self.compression is not None and offset and (block := file.read(min(1 << 20, offset))):
            offset -= len(block)
            alive.sign()

    def _reading(self, path: str) -> Any:
        return formats.reading(path, *(self.compression.damage if self.compression else ()))


def _too_long(length: int, max_bytes: int) -> Bad:
    return Bad(reason="too_long", detail=f"{length} bytes, and corpus.max_document_bytes is {max_bytes}")


def chunks(file: BufferedIOBase) -> Iterator[bytes]:
    """The bytes of a stream, in pieces that can be held."""
    while chunk := file.read(CHUNK_BYTES):
        alive.sign()
        yield chunk


@dataclass(kw_only=True)
class _Stream:
    """An open file and how far it has been read."""

    of: tuple[str, str, str, int]
    file: BufferedIOBase
    context: Any
    number: int = -1  # of the row that comes next; -1 before the first
    records: Iterator[Record] = field(default_factory=lambda: iter(()))

    def __del__(self) -> None:
        self.file.close()


_last_stream: _Stream | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class _RowsAt:
    """The rows of one file at random."""

    form: Streamed
    path: str
    size: int
    cache: Cache

    def read(self, wanted: Wanted, columns: Sequence[str]) -> list[dict[str, Any]]:
        descriptor = self._descriptor()
        if wanted.byte_offsets is None or wanted.byte_lengths is None:
            starts, lengths = self._bounds
            formats.check_range(self.path, wanted.numbers, len(starts))
            starts, lengths = starts[wanted.numbers], lengths[wanted.numbers]
        else:
            starts, lengths = wanted.byte_offsets, wanted.byte_lengths
        data = [os.pread(descriptor, *span) for span in zip(lengths.tolist(), starts.tolist(), strict=True)]
        return self.form.values(self.path, wanted.numbers, data, columns, self._context)

    def _descriptor(self) -> int:
        """The file, or its unpacked copy, open."""
        if self.form.compression is None:
            return self.cache.file(self.path, self.size)
        return self.cache.copy(self.path, self.size, ["unpacked"], self._unpack)

    def _unpack(self, copy: BufferedWriter) -> None:
        compression = self.form.compression
        assert compression is not None
        with formats.opened(self.path, self.size) as file:
            blocks = self._blocks(file)
            while True:
                try:
                    block = next(blocks, b"")
                except (OSError, *compression.damage) as error:
                    raise formats.changed(self.path, f"it is not whole {compression.name}", str(error)) from error
                if not block:
                    return
                copy.write(block)

    def _blocks(self, file: BufferedReader) -> Iterator[bytes]:
        with self.form.open(file) as unpacked:
            yield from chunks(unpacked)

    @functools.cached_property
    def _context(self) -> Any:
        if type(self.form).start is Streamed.start:
            return None
        return self._of_all(lambda file: self.form.start(file).context)

    @functools.cached_property
    def _bounds(self) -> tuple[Int64, Int64]:
        return self._of_all(self.form.bounds)

    def _of_all(self, ask: Any) -> Any:
        """What is found by looking through the unpacked bytes."""
        with open(f"/dev/fd/{self._descriptor()}", "rb") as file:
            file.seek(0)
            try:
                return ask(file)
            except (formats.Corrupt, formats.NoRows) as error:
                raise formats.changed(self.path, f"it is not {self.form.stem}", str(error)) from error
