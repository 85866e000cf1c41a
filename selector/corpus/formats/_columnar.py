"""Formats that keep columns apart, and their rows in groups, each of which can only be decoded whole.

A worker keeps the last group that it decoded: parts are handed out in order, and the next one is nearly always in the
same group. At random, as a shuffled order asks for rows, groups would be decoded again and again. So small groups that
follow each other make a unit together, and a unit is unpacked once on each machine, into a file that is read where it
lies (`_cache`).
"""

import abc
import functools
import itertools
import mmap
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedWriter
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from selector.corpus import fields, formats
from selector.corpus.formats import Bad, Cache, Range, Row, RowRead, Wanted
from selector.engine import alive
from selector.engine.part import Piece

pc: Any = pyarrow.compute  # whose functions are made when it is imported

UNIT_BYTES = 16 << 20  # decoded
_LEAST_ROWS = 128  # of a part, however long its rows are
_IS_BAD = "\0 is bad"

Int64 = npt.NDArray[np.int64]


class Groups(abc.ABC):
    """One file, open: which columns it has, and which groups of rows."""

    schema: pa.Schema
    num_rows: Sequence[int]  # of each group
    is_mapped: bool = False  # groups lie decoded in the file, which is mapped into memory

    @abc.abstractmethod
    def sizes(self) -> Sequence[int]:
        """About how many bytes each group has, decoded: all of a packed file may have to be decoded to tell."""

    @abc.abstractmethod
    def read(self, group: int, columns: Sequence[str] | None) -> pa.Table:
        """A group, with these columns or with all of them. Raises an ArrowException where it cannot be decoded."""

    @abc.abstractmethod
    def batches(self, groups: Sequence[int], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows of some groups, as they are decoded. Raises an ArrowException where they cannot be."""

    @abc.abstractmethod
    def close(self) -> None:
        """To be called once nobody reads it any more."""


class Columnar(formats.Format):
    """A format of groups of rows."""

    @abc.abstractmethod
    def open(self, path: str) -> Groups:
        """The groups of a file. Raises OSError, or an ArrowException where its bytes are not of this format."""

    def cut(self, path: str, rows_per_part: int | None) -> list[Range]:
        with self._reading(path):
            groups = self.open(path)
            sizes = groups.sizes()
            groups.close()
        num_rows, num_bytes = sum(groups.num_rows), sum(sizes)
        bounds = _bounds(groups.num_rows, sizes, formats.part_rows(num_rows, rows_per_part))
        return [
            Range(first, end - first, num_bytes * first // num_rows, num_bytes * end // num_rows)
            for first, end in itertools.pairwise(bounds)
        ]

    def rows(
        self, piece: Piece, columns: Collection[str] | None, max_bytes: int, wanted: Collection[int] | None
    ) -> Iterator[RowRead]:
        for start, stop, table in self._tables(piece, columns):
            if isinstance(table, Bad):
                yield from (RowRead(row, table) for row in range(start, stop) if wanted is None or row in wanted)
            else:
                yield from _rows_of(table, start, wanted)

    def arrays(
        self, piece: Piece, columns: Collection[str], wanted: Collection[int] | None
    ) -> Iterator[tuple[Int64, pa.RecordBatch]]:
        for start, stop, table in self._tables(piece, columns):
            if isinstance(table, Bad) or not table.num_columns:
                continue
            numbers = np.arange(start, stop, dtype=np.int64)
            is_wanted = np.ones(len(numbers), np.bool_) if wanted is None else np.isin(numbers, list(wanted))
            if not _is_sound(table):
                is_wanted &= [not isinstance(_one(table, index), Bad) for index in range(table.num_rows)]
            if not is_wanted.all():
                numbers, table = numbers[is_wanted], table.filter(pa.array(is_wanted))
            for batch in table.to_batches():
                yield numbers[: len(batch)], batch
                numbers = numbers[len(batch) :]

    def _tables(self, piece: Piece, columns: Collection[str] | None) -> Iterator[tuple[int, int, pa.Table | Bad]]:
        """The rows of a piece, group by group, each from one row to just before another."""
        global _last_group
        groups = self.open(piece.uri)
        names = None if columns is None else tuple(sorted(set(columns) & set(groups.schema.names)))
        bounds = np.concatenate([[0], np.cumsum(groups.num_rows, dtype=np.int64)])
        end = piece.first_row + piece.num_rows
        first_group = int(np.searchsorted(bounds, piece.first_row, side="right")) - 1
        for group in range(first_group, int(np.searchsorted(bounds, end, side="left"))):
            first, num_rows = int(bounds[group]), groups.num_rows[group]
            start, stop = max(piece.first_row, first), min(end, first + num_rows)
            if start >= stop:
                continue
            key = (piece.uri, piece.version, group, names)
            try:
                with self._reading(piece.uri):
                    if _last_group is None or _last_group[0] != key:
                        _last_group = (key, _readable(groups.read(group, names)))
                    if _last_group[1].num_rows != num_rows:
                        raise pa.ArrowInvalid(f"it has {_last_group[1].num_rows} rows and claims {num_rows}")
                    table: pa.Table | Bad = _last_group[1].slice(start - first, stop - start)
            except formats.Corrupt as error:
                table = Bad(reason="corrupt_file", detail=f"row group {group}: {error}")
            yield start, stop, table
        groups.close()

    def rows_at(self, path: str, size: int, cache: Cache) -> formats.ReadAt:
        return _RowsAt(form=self, path=path, size=size, cache=cache).read

    def peek(self, path: str, columns: Collection[str], max_bytes: int, num_rows: int) -> formats.Beginning:
        with self._reading(path):
            groups = self.open(path)
            here = [name for name in dict.fromkeys(columns) if list(groups.schema.names).count(name) == 1]
            rows: list[dict[str, Any]] = []
            bad: list[Bad] = []
            for batch in groups.batches(range(len(groups.num_rows)), here) if here else ():
                batch.validate(full=True)
                read = _read(_readable(batch.slice(0, num_rows - len(rows))))
                rows += [dict(row) for row in read if not isinstance(row, Bad)]
                bad += [row for row in read if isinstance(row, Bad)]
                if len(rows) == num_rows:
                    break
            groups.close()
            return formats.Beginning(
                columns=list(groups.schema.names),
                rows=rows,
                bad=bad,
                is_empty=not sum(groups.num_rows),
                is_whole=True,
                schema=groups.schema,
            )

    def _reading(self, path: str) -> Any:
        return formats.reading(path, pa.ArrowException, UnicodeDecodeError, ValueError, KeyError)


def _bounds(of_groups: Sequence[int], sizes: Sequence[int], most: int) -> list[int]:
    """Where parts begin and end: each has at most so many rows, and fewer only where rows are long."""
    num_rows = np.array(of_groups, np.int64)
    fitting = formats.PART_BYTES * num_rows // np.maximum(1, np.array(sizes, np.int64))
    fitting = np.minimum(most, np.maximum(_LEAST_ROWS, fitting - fitting % _LEAST_ROWS))
    parts = np.cumsum([0, *num_rows / fitting])  # how many a group's rows and those before it fill
    ends = np.cumsum([0, *num_rows])
    cuts = np.rint(np.interp(np.arange(1, parts[-1] - 1e-6), parts, ends)).astype(np.int64)
    return np.unique([0, *cuts, ends[-1]]).tolist()


_last_group: tuple[tuple[str, str, int, tuple[str, ...] | None], pa.Table] | None = None


_Rows = TypeVar("_Rows", pa.Table, pa.RecordBatch)


def _readable(rows: _Rows) -> _Rows:
    """Rows without types that few of Arrow's functions take: views, and values in runs."""
    for index, column_field in enumerate(rows.schema):
        column: Any = rows.column(index)
        if pa.types.is_run_end_encoded(column_field.type):
            column = pc.run_end_decode(column)
        kind = fields.with_leaves(column.type, _without_views)
        column = column if column.type == kind else column.cast(kind)
        if column.type != column_field.type:
            rows = rows.set_column(index, column_field.with_type(kind), column)
    return rows


def _without_views(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) else kind


def _is_sound(table: pa.Table | pa.RecordBatch) -> bool:
    """Whether all values are what their types say, such as text in UTF-8."""
    try:
        table.validate(full=True)
    except (ValueError, pa.ArrowException):
        return False
    return True


def _rows_of(table: pa.Table, first: int, wanted: Collection[int] | None) -> Iterator[RowRead]:
    values = _read(table) if _is_sound(table) else [_one(table, index) for index in range(table.num_rows)]
    for number, row in enumerate(values, first):
        if wanted is None or number in wanted:
            yield RowRead(number, row)


def _one(table: pa.Table, index: int) -> Row:
    one = table.slice(index, 1)
    try:
        one.validate(full=True)
    except (ValueError, pa.ArrowException) as error:
        return Bad(reason="not_utf8" if "UTF8" in str(error) else "no_value", detail=str(error))
    return _read(one)[0]


def _read(table: pa.Table | pa.RecordBatch) -> list[Row]:
    """The rows of a sound table; Bad where one has a value that is neither Python's nor has a text."""
    try:
        return list(table.to_pylist())
    except (ValueError, OverflowError, LookupError):
        pass
    rows: list[Row] = []
    for values in zip(*map(_values, table.columns), strict=True):
        bad = next((value for value in values if isinstance(value, Bad)), None)
        rows.append(bad or dict(zip(table.schema.names, values, strict=True)))
    return rows


def _values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The values of a column, each as Python has it, or else as text, wherever it is nested: a time to the nanosecond,
    a year 12921. A moment of a zone that this machine does not know is one of UTC."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError, LookupError):
        pass
    if isinstance(column, pa.ChunkedArray):
        return [value for chunk in column.chunks for value in _values(chunk)]
    kind, is_valid = column.type, column.is_valid().to_pylist()
    if pa.types.is_struct(kind):
        names = [child.name for child in kind]
        rows = zip(*map(_values, column.flatten()), strict=True)
        return [
            _whole(dict(zip(names, row, strict=True)), row) if ok else None
            for row, ok in zip(rows, is_valid, strict=True)
        ]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = iter(_values(column.flatten()))
        lengths = pc.list_value_length(column).to_pylist()
        lists = [list(itertools.islice(inner, length or 0)) for length in lengths]
        return [_whole(one, one) if ok else None for one, ok in zip(lists, is_valid, strict=True)]
    if pa.types.is_timestamp(kind) and kind.tz is not None and not _is_known(kind.tz):
        return _values(column.cast(pa.timestamp(kind.unit, "UTC")))
    try:
        texts: list[str | None] = column.cast(pa.string()).to_pylist()
    except pa.ArrowException:  # of values in maps and the like
        texts = [None] * len(column)
    values: list[Any] = []
    for value, text in zip(column, texts, strict=True):
        try:
            values.append(value.as_py())
        except (ValueError, OverflowError, LookupError) as error:
            has_text = text is not None and not text.startswith("<value out of range")
            values.append(text if has_text else Bad(reason="no_value", detail=str(error)))
    return values


def _whole(value: Any, inner: Iterable[Any]) -> Any:
    """A value that holds others; Bad where one of them is."""
    return next((one for one in inner if isinstance(one, Bad)), value)


def _is_known(zone: str) -> bool:
    """Whether Python has a zone of this name."""
    try:
        pa.scalar(0, pa.timestamp("s", zone)).as_py()
    except (ValueError, LookupError):
        return False
    return True


@dataclass(kw_only=True, eq=False)
class _RowsAt:
    """The rows of one file at random."""

    form: Columnar
    path: str
    size: int
    cache: Cache

    def __post_init__(self) -> None:
        groups = self._open()
        self.is_mapped = groups.is_mapped
        self.names = set(groups.schema.names)
        self.units = [*_units(groups.sizes())]
        self.bounds = np.cumsum([0, *(sum(groups.num_rows[unit]) for unit in self.units)], dtype=np.int64)
        groups.close()

    def read(self, wanted: Wanted, columns: Sequence[str]) -> list[dict[str, Any]]:
        rows = wanted.numbers
        formats.check_range(self.path, rows, int(self.bounds[-1]))
        here = tuple(name for name in columns if name in self.names)
        if not here:
            return [{} for _ in rows]
        answers: list[dict[str, Any]] = []
        units = np.searchsorted(self.bounds, rows, side="right") - 1
        for number in np.unique(units).tolist():
            answers += self._unit(number, here).take(rows[units == number] - self.bounds[number], self.path)
        return answers

    def _unit(self, number: int, columns: tuple[str, ...]) -> "_Unit":
        if not self.is_mapped:
            return self.cache.maps.get((self.path, number, columns), lambda: self._copied(number, columns))
        mapped: _Mapped = self.cache.maps.get(self.path, lambda: _Mapped(groups=self._open()))
        key = (number, columns)
        if key not in mapped.units:
            mapped.units[key] = _Unit.of(self._decoded(number, columns, mapped.groups))
        return mapped.units[key]

    def _copied(self, number: int, columns: tuple[str, ...]) -> "_Unit":
        write = functools.partial(self._write, number, columns)
        copy = self.cache.copy(self.path, self.size, [str(number), *columns], write)
        return _Unit.of(pa.ipc.open_stream(pa.py_buffer(mmap.mmap(copy, 0, access=mmap.ACCESS_READ))))

    def _write(self, number: int, columns: Sequence[str], copy: BufferedWriter) -> None:
        """The rows of a unit, as Arrow streams them."""
        groups = self._open()
        blocks = self._decoded(number, columns, groups)
        first = next(blocks, None)
        assert first is not None, "a unit that is asked for has rows"
        with pa.ipc.new_stream(copy, first.schema) as stream:
            for block in itertools.chain([first], blocks):
                stream.write_batch(block)
        groups.close()

    def _decoded(self, number: int, columns: Sequence[str], groups: Groups) -> Iterator[pa.RecordBatch]:
        unit = self.units[number]
        try:
            for batch in groups.batches(range(*unit.indices(len(groups.num_rows))), columns):
                alive.sign()
                yield _marked(_readable(batch))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise formats.changed(
                self.path, f"its row groups {unit.start} to {unit.stop - 1} cannot be read", str(error)
            ) from error

    def _open(self) -> Groups:
        """The file as it is now, if it is what it was. Raises CorpusError."""
        formats.opened(self.path, self.size).close()
        try:
            return self.form.open(self.path)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError):
                formats.check_limit(self.path, error)
            raise formats.changed(self.path, f"it is not {self.form.name}", str(error)) from error


@dataclass(frozen=True, kw_only=True, eq=False)
class _Mapped:
    """A file whose rows lie decoded in it, and its units, which take no room of their own."""

    groups: Groups
    units: dict[tuple[int, tuple[str, ...]], "_Unit"] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Unit:
    """Rows that lie decoded in memory that is a file's; batch i holds the rows from bounds[i] to bounds[i + 1]."""

    batches: Sequence[pa.RecordBatch]
    bounds: Int64

    @classmethod
    def of(cls, marked: Iterable[pa.RecordBatch]) -> "_Unit":
        batches = [_unmarked(batch) for batch in marked]
        bounds = np.cumsum([0, *(batch.num_rows for batch in batches)], dtype=np.int64)
        return cls(batches=batches, bounds=bounds)

    def take(self, rows: Int64, path: str) -> list[dict[str, Any]]:
        if len(self.batches) == 1:
            return self._of_batch(0, rows, path)
        at = np.searchsorted(self.bounds, rows, side="right") - 1
        values: list[dict[str, Any]] = []
        for index in np.unique(at).tolist():
            values += self._of_batch(index, rows[at == index] - self.bounds[index], path)
        return values

    def _of_batch(self, index: int, rows: Int64, path: str) -> list[dict[str, Any]]:
        taken = self.batches[index].take(pa.array(rows))
        if _IS_BAD in taken.schema.names:
            if any(taken[_IS_BAD].to_pylist()):
                raise formats.changed(
                    path, "it has text that is not UTF-8, or other values that are none of their types"
                )
            taken = taken.drop_columns([_IS_BAD])
        read = _read(taken)
        if any(isinstance(row, Bad) for row in read):
            raise formats.changed(path, "it has values that it had not")
        return cast(list[dict[str, Any]], read)


def _marked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows, with a column that says which of them are not what their types say; these are null."""
    is_bad = np.zeros(batch.num_rows, np.bool_)
    if not _is_sound(batch):
        rows = [batch.slice(row, 1) for row in range(batch.num_rows)]
        is_bad[:] = [not _is_sound(row) for row in rows]
        nothing = pa.RecordBatch.from_pylist([{}], batch.schema)
        batch = pa.concat_batches([nothing if bad else row for row, bad in zip(rows, is_bad, strict=True)])
    return batch.append_column(_IS_BAD, pa.array(is_bad))


def _unmarked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows without that column, if it says nothing."""
    return batch if any(batch[_IS_BAD].to_pylist()) else batch.drop_columns([_IS_BAD])


def _units(sizes: Sequence[int]) -> Iterator[slice]:
    """Consecutive groups, each as large as fits, or one that is larger."""
    start = size = 0
    for group, more in enumerate(sizes):
        if size + more > UNIT_BYTES and group > start:
            yield slice(start, group)
            start, size = group, 0
        size += more
    if start < len(sizes):
        yield slice(start, len(sizes))
