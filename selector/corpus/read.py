"""A part's rows, one by one: each is a mapping of columns, or the reason why it is not.

A compressed file and a Parquet row group can only be read from their beginning, so a worker keeps the
last reader it used: parts are handed out in order, and the next one is nearly always a little further on.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from selector.corpus.files import open_bytes, version_of
from selector.engine.part import Part
from selector.errors import CorpusError

_MAX_DEPTH = 64
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A row that cannot be read: one word for the reason, and what was found."""

    reason: str
    detail: str


Row = Mapping[str, Any] | Bad


def rows(
    part: Part, columns: Collection[str] | None, max_bytes: int, wanted: Collection[int] | None = None
) -> Iterator[tuple[int, Row]]:
    """(row number, row) for every row of the part, or for the wanted ones; blank lines are no rows.

    `columns` limits what Parquet reads; a JSONL row has all that its line has. Raises CorpusError if the
    file is no longer the one that was surveyed.
    """
    _check_version(part)
    if part.format == "parquet":
        yield from _parquet_rows(part, columns, wanted)
    else:
        yield from _jsonl_rows(part, max_bytes, wanted)
    _check_version(part)  # what was read is about to be sealed under the checksum of the file that was surveyed


def _check_version(part: Part) -> None:
    if version_of(part.uri) != part.version:
        raise CorpusError(
            f"The corpus file {part.uri} changed while the run was reading it. Run the same command again."
        )


def next_line(file: IO[bytes], most: int) -> tuple[bytes, int]:
    """The next line and its length; of one that is longer than `most`, only the beginning is ever held."""
    line = last = file.readline(most)
    length = len(line)
    while len(last) == most and not last.endswith(b"\n"):
        last = file.readline(most)
        length += len(last)
    return line, length


def parse(line: bytes, max_bytes: int, length: int | None = None) -> Row:
    """One line of JSONL. Refuses what JSON readers disagree on: duplicate keys, NaN, deep nesting, bad UTF-8.

    `length` is that of the whole line, where `line` is only its beginning.
    """
    length = len(line) if length is None else length
    if length > max_bytes and len(line.rstrip(b"\r\n")) > max_bytes:
        return Bad(reason="too_long", detail=f"{length} bytes, and corpus.max_document_bytes is {max_bytes}")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return Bad(reason="not_utf8", detail=str(error))
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError:
        return Bad(reason="nested_too_deeply", detail="more levels than the parser can hold")
    except _Refused as refused:
        return Bad(reason=refused.reason, detail=refused.detail)
    except ValueError as error:
        return Bad(reason="not_json", detail=str(error))
    if not isinstance(value, dict):
        return Bad(reason="not_an_object", detail=f"a JSON {type(value).__name__}")
    if line.count(b"[") + line.count(b"{") > _MAX_DEPTH and _depth(value) > _MAX_DEPTH:
        return Bad(reason="nested_too_deeply", detail=f"more than {_MAX_DEPTH} levels")
    return value


class _Refused(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise _Refused("duplicate_json_key", f"the key {twice!r} is there twice")
    return value


def _constant(name: str) -> Any:
    raise _Refused("not_json", f"{name} is not a JSON number")


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level:
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth - 1


@dataclass
class _Stream:
    """An open file and how far it has been read."""

    part: Part
    file: IO[bytes]
    offset: int

    def __del__(self) -> None:
        self.file.close()


_last_stream: _Stream | None = None


def _jsonl_rows(part: Part, max_bytes: int, wanted: Collection[int] | None) -> Iterator[tuple[int, Row]]:
    global _last_stream
    stream = _last_stream
    if (
        stream is None
        or (stream.part.uri, stream.part.version) != (part.uri, part.version)
        or stream.offset > part.start
    ):
        stream = _Stream(part, open_bytes(part.uri, part.format), 0)
    _last_stream = None  # not to be found by anyone while it is in use
    if part.format == "jsonl":
        stream.file.seek(part.start)
        stream.offset = part.start
    while stream.offset < part.start:
        stream.offset += len(stream.file.read(min(1 << 20, part.start - stream.offset)))
    for number in range(part.first_row, part.first_row + part.num_rows):
        line, length = next_line(stream.file, max_bytes + len(BOM) + len(b"\r\n") + 1)
        stream.offset += length
        if number == 0:
            line = line.removeprefix(BOM)
        if (wanted is None or number in wanted) and line.strip():
            yield number, parse(line, max_bytes, length)
    _last_stream = stream


_last_group: tuple[tuple[str, str, int, tuple[str, ...] | None], pa.Table] | None = None


def _parquet_rows(
    part: Part, columns: Collection[str] | None, wanted: Collection[int] | None
) -> Iterator[tuple[int, Row]]:
    global _last_group
    file = pq.ParquetFile(part.uri, page_checksum_verification=True)
    names = None if columns is None else tuple(sorted(set(columns) & set(file.schema_arrow.names)))
    first = 0
    for group in range(file.num_row_groups):
        rows_in_group = file.metadata.row_group(group).num_rows
        start, stop = max(part.first_row, first), min(part.first_row + part.num_rows, first + rows_in_group)
        if start < stop:
            key = (part.uri, part.version, group, names)
            try:
                if _last_group is None or _last_group[0] != key:
                    _last_group = (key, file.read_row_group(group, columns=None if names is None else list(names)))
                if _last_group[1].num_rows != rows_in_group:
                    raise pa.ArrowInvalid(f"it has {_last_group[1].num_rows} rows and claims {rows_in_group}")
                table = _last_group[1].slice(start - first, stop - start)
            except pa.ArrowMemoryError:
                raise
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise CorpusError(f"The corpus file {part.uri} cannot be read: {error.strerror}.") from error
                bad = Bad(reason="corrupt_file", detail=f"row group {group}: {error}")
                yield from ((number, bad) for number in range(start, stop) if wanted is None or number in wanted)
            else:
                yield from _table_rows(table, start, wanted)
        first += rows_in_group


def _table_rows(table: pa.Table, first: int, wanted: Collection[int] | None) -> Iterator[tuple[int, Row]]:
    try:
        table.validate(full=True)
        values: list[Row] = list(table.to_pylist())
    except (pa.ArrowInvalid, UnicodeDecodeError):
        values = [_one(table, index) for index in range(table.num_rows)]
    for number, row in enumerate(values, first):
        if wanted is None or number in wanted:
            yield number, row


def _one(table: pa.Table, index: int) -> Row:
    try:
        return table.slice(index, 1).to_pylist()[0]
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        return Bad(reason="not_utf8", detail=str(error))
