"""Any row of a corpus, by file and row number: what a trainer reads, since an order jumps about in the corpus.

A row of a JSONL file is a physical line, counted from 0, blank lines too. Line starts are found once per
file, on first use, and kept: 8 bytes a line. What cannot be read at random is unpacked once, by each process
that asks for it, into a scratch file of its own: a `.jsonl.gz` whole, of a Parquet file the row groups that
are asked for again after they were decoded and forgotten, as happens in a shuffled order. The scratch file
lies in TMPDIR and is nameless, so it is gone when the process is, however that ends; it grows to at most the
size of the unpacked texts. Where that is too much, train from plain JSONL.
"""

import errno
import gzip
import json
import os
import tempfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from selector.errors import CorpusError, UnreachableError, did_you_mean

FORMATS = ("jsonl", "jsonl.gz", "parquet")

_BOM = b"\xef\xbb\xbf"
_CHUNK = 8 << 20
_BATCH = 4096

Int64 = npt.NDArray[np.int64]


class Rows:
    """The rows of the corpus whose files are listed in a table of `tables.FILES`. For one thread at a time.

    Safe to fork and to pickle: what was unpacked or decoded stays behind.
    """

    def __init__(self, files: pa.Table, cache_bytes: int = 256 << 20) -> None:
        self._files = files
        self._cache_bytes = cache_bytes
        self._opened: dict[int, _Lines | _Groups] = {}
        self._recent = _Recent(cache_bytes)
        self._scratch: _Scratch | None = None

    def __reduce__(self) -> tuple[type["Rows"], tuple[pa.Table, int]]:
        return Rows, (self._files, self._cache_bytes)

    def read(self, files: npt.ArrayLike, rows: npt.ArrayLike, columns: Sequence[str]) -> list[dict[str, Any]]:
        """One dict for each pair (index of a file, row number), in the order asked for; shape (n,) each.

        It holds those of the columns that the row has. Raises CorpusError, naming file and row, if a file is
        gone, has changed its size, or does not hold what a corpus file holds.
        """
        numbers, places = np.asarray(files, np.int64), np.asarray(rows, np.int64)
        found: list[dict[str, Any]] = [{}] * len(places)
        by_file = np.lexsort((places, numbers))
        for wanted in np.split(by_file, np.flatnonzero(np.diff(numbers[by_file])) + 1):
            if len(wanted):
                answers = self._open(int(numbers[wanted[0]])).read(places[wanted], columns)
                for index, answer in zip(wanted.tolist(), answers, strict=True):
                    found[index] = answer
        return found

    def _open(self, number: int) -> "_Lines | _Groups":
        if number not in self._opened:
            uri, form, size = (self._files[name][number].as_py() for name in ("uri", "format", "size"))
            path = _path(uri)
            if form == "jsonl":
                with _checked(path, size) as file:
                    self._opened[number] = _Lines(path, size, None, _bounds(iter(lambda: file.read(_CHUNK), b"")))
            elif form == "jsonl.gz":
                scratch = self._own_scratch(path)
                bounds = scratch.end() + _bounds(_unpack(path, size, scratch))
                self._opened[number] = _Lines(path, size, scratch, bounds)
            elif form == "parquet":
                self._opened[number] = _Groups(path, size, self._recent, self._own_scratch)
            else:
                raise CorpusError(f"{uri} has the format {form!r}. {did_you_mean(str(form), FORMATS)}")
        return self._opened[number]

    def _own_scratch(self, path: Path) -> "_Scratch":
        """The scratch file of this process: a forked child must not write where its parent and siblings do."""
        if self._scratch is None or self._scratch.pid != os.getpid():
            try:
                self._scratch = _Scratch()
            except OSError as error:
                raise _scratch_full(path, error) from error
        return self._scratch


class _Scratch:
    """A nameless file, and the process that may write to it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (it is closed when nobody needs it)

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()

    def end(self) -> int:
        return self.file.seek(0, os.SEEK_END)

    def write(self, data: bytes, path: Path) -> None:
        """Appends what was unpacked from a corpus file. Raises UnreachableError."""
        try:
            while data:
                data = data[self.file.write(data) :]
        except OSError as error:
            raise _scratch_full(path, error) from error


class _Lines:
    """A JSONL file, or the unpacked copy of one; line i is the bytes from bounds[i] to bounds[i + 1]."""

    def __init__(self, path: Path, size: int, copy: _Scratch | None, bounds: Int64) -> None:
        self.path, self.size, self.copy, self.bounds = path, size, copy, bounds

    def read(self, rows: Int64, columns: Sequence[str]) -> list[dict[str, Any]]:
        _check_range(self.path, rows, len(self.bounds) - 1)
        if self.copy is not None:
            return self._read(self.copy.file.fileno(), rows, columns)
        with _checked(self.path, self.size) as file:
            return self._read(file.fileno(), rows, columns)

    def _read(self, descriptor: int, rows: Int64, columns: Sequence[str]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []
        starts, ends = self.bounds[rows].tolist(), self.bounds[rows + 1].tolist()
        for row, start, end in zip(rows.tolist(), starts, ends, strict=True):
            line = os.pread(descriptor, end - start, start)
            try:
                value = json.loads(line.decode())
            except (ValueError, RecursionError) as error:
                raise _changed(self.path, f"row {row} is not JSON", str(error)) from error
            if not isinstance(value, dict):
                raise _changed(self.path, f"row {row} is not a JSON object")
            answers.append({column: value[column] for column in columns if column in value})
        return answers


class _Groups:
    """A Parquet file; row group i holds the rows from bounds[i] to bounds[i + 1]."""

    def __init__(self, path: Path, size: int, recent: "_Recent", own_scratch: Callable[[Path], _Scratch]) -> None:
        self.path, self.size, self.recent, self.own_scratch = path, size, recent, own_scratch
        self.forgotten: set[tuple[int, tuple[str, ...]]] = set()  # groups that were decoded before
        self.unpacked: dict[tuple[int, tuple[str, ...]], _Lines] = {}
        with _checked(path, size) as file:
            try:
                self.metadata = pq.read_metadata(file)
            except (pa.ArrowException, OSError) as error:
                raise _changed(path, "it is not Parquet", str(error)) from error
        sizes = [self.metadata.row_group(index).num_rows for index in range(self.metadata.num_row_groups)]
        self.bounds = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def read(self, rows: Int64, columns: Sequence[str]) -> list[dict[str, Any]]:
        _check_range(self.path, rows, int(self.bounds[-1]))
        answers: list[dict[str, Any]] = []
        groups = np.searchsorted(self.bounds, rows, side="right") - 1
        for group in np.unique(groups).tolist():
            answers += self._read(group, rows[groups == group] - self.bounds[group], tuple(columns))
        return answers

    def _read(self, group: int, rows: Int64, columns: tuple[str, ...]) -> list[dict[str, Any]]:
        key = (group, columns)
        if key in self.unpacked:
            return self.unpacked[key].read(rows, columns)
        table = self.recent.get((self.path, key))
        if table is None:
            table = self._decode(group, columns)
            if key in self.forgotten:
                self.unpacked[key] = self._unpack(table)
            else:
                self.forgotten.add(key)
                self.recent.put((self.path, key), table)
        return self._to_dicts(table.take(pa.array(rows)), len(rows))

    def _decode(self, group: int, columns: tuple[str, ...]) -> pa.Table:
        with _checked(self.path, self.size) as file:
            try:
                reader = pq.ParquetFile(file, metadata=self.metadata, page_checksum_verification=True, pre_buffer=False)
                return reader.read_row_group(group, columns=list(columns), use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise _changed(self.path, f"row group {group} cannot be read", str(error)) from error

    def _unpack(self, table: pa.Table) -> "_Lines":
        """The table as lines of the scratch file."""
        scratch = self.own_scratch(self.path)
        bounds = [scratch.end()]
        for start in range(0, table.num_rows, _BATCH):
            piece = table.slice(start, _BATCH)
            rows = self._to_dicts(piece, piece.num_rows)
            lines = [json.dumps(row, ensure_ascii=False, default=str).encode() for row in rows]
            bounds += [len(line) for line in lines]
            scratch.write(b"".join(lines), self.path)
        return _Lines(self.path, self.size, scratch, np.cumsum(bounds, dtype=np.int64))

    def _to_dicts(self, table: pa.Table, num_rows: int) -> list[dict[str, Any]]:
        try:
            return table.to_pylist() if table.num_columns else [{} for _ in range(num_rows)]
        except UnicodeDecodeError as error:
            raise _changed(self.path, "it has text that is not UTF-8", str(error)) from error


class _Recent:
    """The tables used last, as many as fit a number of bytes, and always the very last."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.tables: OrderedDict[Any, pa.Table] = OrderedDict()

    def get(self, key: Any) -> pa.Table | None:
        if key in self.tables:
            self.tables.move_to_end(key)
        return self.tables.get(key)

    def put(self, key: Any, table: pa.Table) -> None:
        self.tables[key] = table
        while len(self.tables) > 1 and sum(held.nbytes for held in self.tables.values()) > self.num_bytes:
            self.tables.popitem(last=False)


def _bounds(chunks: Iterator[bytes]) -> Int64:
    """Where each line starts, and where the last one ends: shape (number of lines + 1,)."""
    newlines: list[Int64] = []
    size, first, head = 0, 0, b""
    for chunk in chunks:
        if len(head) < len(_BOM):
            head += chunk[: len(_BOM)]
            first = len(_BOM) if head.startswith(_BOM) else 0
        newlines.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10) + size + 1)
        size += len(chunk)
    bounds = np.concatenate([np.array([first], np.int64), *newlines])
    return np.append(bounds, size) if size > bounds[-1] else bounds


def _unpack(path: Path, size: int, scratch: _Scratch) -> Iterator[bytes]:
    """The unpacked bytes of a gzip file, each chunk appended to the scratch file before it is yielded."""
    with _checked(path, size) as file, gzip.open(file) as unpacked:
        while True:
            try:
                chunk = unpacked.read(_CHUNK)
            except (OSError, EOFError, zlib.error) as error:
                raise _changed(path, "it is not whole gzip", str(error)) from error
            if not chunk:
                return
            scratch.write(chunk, path)
            yield chunk


def _path(uri: str) -> Path:
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Path(uri)
    if scheme != "file":
        raise CorpusError(f"{uri} cannot be read: there are only local files so far. Give a path.")
    return Path(rest)


def _checked(path: Path, size: int) -> IO[bytes]:
    """The file, open, once its size is what it was when the corpus was read."""
    try:
        file = open(path, "rb")  # noqa: SIM115 (the caller closes it)
    except OSError as error:
        raise _changed(path, f"it cannot be opened ({error.strerror})") from error
    found = os.fstat(file.fileno()).st_size
    if found != size:
        file.close()
        raise _changed(path, f"it has {found:,} bytes and had {size:,}")
    return file


def _check_range(path: Path, rows: Int64, num_rows: int) -> None:
    if len(rows) and not (rows.min() >= 0 and rows.max() < num_rows):
        raise _changed(path, f"there is no row {rows[(rows < 0) | (rows >= num_rows)][0]}: it has {num_rows:,}")


def _changed(path: Path, what: str, detail: str = "") -> CorpusError:
    return CorpusError(
        f"The corpus file {path} is not what it was: {what}{f' ({detail})' if detail else ''}."
        " Put the file back as it was, or run the policy again on the corpus as it is."
    )


def _scratch_full(path: Path, error: OSError) -> UnreachableError:
    reason = "is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"cannot be written ({error.strerror})"
    return UnreachableError(
        f"The scratch directory {tempfile.gettempdir()} {reason}, so {path} cannot be unpacked."
        " Set TMPDIR to a disk with more room, or unpack the file beforehand."
    )
