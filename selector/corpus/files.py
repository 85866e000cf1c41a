"""Which files a corpus has, and how each is cut into parts.

The cut depends on the file alone, so adding a file to a corpus leaves every other file's parts, and all
that was computed from them, as they are.
"""

import dataclasses
import fnmatch
import glob
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selector import tables
from selector.engine.part import Part, Task
from selector.engine.step import Stage
from selector.engine.store import Seal, Store
from selector.errors import CorpusError, without_secrets

FORMATS = {".jsonl": "jsonl", ".jsonl.gz": "jsonl.gz", ".parquet": "parquet"}

PART_BYTES = 16 << 20
CHUNK_BYTES = 4 << 20
_SMALLEST_PART, _LARGEST_PART = 128, 4096
_PARTS_PER_FILE = 16

PARTS = pa.schema([("first_row", pa.int64()), ("num_rows", pa.int64()), ("start", pa.int64()), ("end", pa.int64())])


def expand(paths: Sequence[str]) -> list[str]:
    """The absolute paths of all files, sorted, each once. Raises CorpusError for a path that gives none."""
    found: set[str] = set()
    for path in paths:
        if "://" in path:
            raise CorpusError(
                f"corpus.paths: {without_secrets(path)!r} is an address, and this version reads local files. "
                "Copy it and give its path."
            )
        wide = os.path.expanduser(path)
        here = [wide] if os.path.exists(wide) else glob.glob(wide, recursive=True)
        folders = [name for name in here if os.path.isdir(name)]
        for name in list(here):
            if os.path.isdir(name):
                here.remove(name)
                here += [
                    file
                    for ending in FORMATS
                    for file in glob.glob(f"{glob.escape(name)}/**/*{ending}", recursive=True)
                ]
        here = [name for name in here if os.path.isfile(name)]
        if not here:
            what = f"the folder {path!r} holds no such file" if folders else f"there is no file at {path!r}"
            raise CorpusError(
                f"corpus.paths: {what} (looked from {os.getcwd()}). "
                f"Give files, folders or globs of {', '.join(FORMATS)}."
            )
        found.update(os.path.abspath(name) for name in here)
    for name in sorted(found):
        format_of(name)
    return sorted(found)


def format_of(uri: str) -> str:
    for ending, name in FORMATS.items():
        if uri.endswith(ending):
            return name
    raise CorpusError(f"corpus.paths: {uri!r} has an unknown format. Known endings: {', '.join(FORMATS)}.")


def constant_source(uri: str, constants: Mapping[str, str]) -> str | None:
    """The source that the first matching pattern gives a file: of its whole path, or of its name."""
    for pattern, label in constants.items():
        whole = os.path.abspath(os.path.expanduser(pattern))
        if fnmatch.fnmatchcase(uri, whole) or fnmatch.fnmatchcase(os.path.basename(uri), pattern):
            return label
    return None


def version_of(uri: str) -> str:
    """Size, times and inode of a file: equal as long as nobody has written to it."""
    try:
        stat = os.stat(uri)
    except OSError as error:
        raise CorpusError(f"The corpus file {uri} cannot be read: {error.strerror}.") from error
    return f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ctime_ns}-{stat.st_ino}"


@dataclass(frozen=True, kw_only=True)
class Survey(Stage):
    """Reads a file once: its checksum, its rows, and where its parts begin. An unreadable file is quarantined whole."""

    name = "survey"
    output = "parts"

    rows_per_part: int | None

    def task(self, uri: str, source: str | None) -> Task:
        version = version_of(uri)
        part = Part(
            file=0, uri=uri, format=format_of(uri), sha256="", version=version,
            first_row=0, num_rows=0, start=0, end=0, source=source,
        )  # fmt: skip
        return Task(key=self.key(uri, version), part=part)

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        part = task.part
        problem = sha256 = ""
        num_rows = 0
        parts: list[tuple[int, int, int, int]] = []
        try:
            sha256 = _sha256(part.uri)
            if part.format == "parquet":
                num_rows, parts = _parquet_parts(part.uri, self.rows_per_part)
            else:
                num_rows, parts = _jsonl_parts(part.uri, part.format, self.rows_per_part)
        except (EOFError, zlib.error, pa.ArrowException) as error:
            problem = f"{part.uri}: {error}"
        except OSError as error:
            if error.errno is not None:  # the disk's fault, or ours; without a number it is what the bytes say
                raise CorpusError(f"The corpus file {part.uri} cannot be read: {error.strerror}.") from error
            problem = f"{part.uri}: {error}"
        if problem:
            num_rows, parts = 0, []
        lost = [{"row": None, "step": "survey", "reason": "corrupt_file", "detail": problem}] if problem else []
        file = {
            "uri": [part.uri],
            "format": [part.format],
            "num_rows": [num_rows],
            "size": [os.path.getsize(part.uri)],
            "sha256": [sha256],
        }
        return {
            "parts": pa.Table.from_pylist([dict(zip(PARTS.names, row, strict=True)) for row in parts], schema=PARTS),
            "file": pa.table(file, schema=tables.FILES),
            "quarantine": pa.Table.from_pylist(lost, schema=tables.QUARANTINE),
        }


def parts_of(file: int, task: Task, seal: Seal, store: Store) -> list[Part]:
    """The parts that a survey found in one file."""
    sha256 = store.table(seal, "file", ["sha256"])["sha256"][0].as_py()
    return [
        dataclasses.replace(task.part, file=file, sha256=sha256, **row)
        for row in store.table(seal, "parts").to_pylist()
    ]


def open_bytes(uri: str, kind: str) -> IO[bytes]:
    """The file's uncompressed bytes as a stream."""
    return gzip.open(uri, "rb") if kind == "jsonl.gz" else Path(uri).open("rb")  # pyright: ignore[reportReturnType]


def _sha256(uri: str) -> str:
    with Path(uri).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _part_rows(num_rows: int, wanted: int | None) -> int:
    return wanted or min(_LARGEST_PART, _SMALLEST_PART * max(1, -(-num_rows // (_SMALLEST_PART * _PARTS_PER_FILE))))


def _parquet_parts(uri: str, wanted: int | None) -> tuple[int, list[tuple[int, int, int, int]]]:
    with pq.ParquetFile(uri) as file:
        metadata: Any = file.metadata
    rows_in_groups = sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    if rows_in_groups != metadata.num_rows:
        raise pa.ArrowInvalid(f"it claims {metadata.num_rows} rows, and its row groups hold {rows_in_groups}")
    step = _part_rows(metadata.num_rows, wanted)
    return metadata.num_rows, [
        (first, min(step, metadata.num_rows - first), 0, 0) for first in range(0, metadata.num_rows, step)
    ]


def _jsonl_parts(uri: str, kind: str, wanted: int | None) -> tuple[int, list[tuple[int, int, int, int]]]:
    """Lines in blocks of at most `_SMALLEST_PART` lines, then blocks joined into parts."""
    rows_in_block = min(wanted or _SMALLEST_PART, _SMALLEST_PART)
    blocks = list(_blocks(uri, kind, rows_in_block))
    num_rows = blocks[-1][0] + blocks[-1][1] if blocks else 0
    step = _part_rows(num_rows, wanted)
    parts: list[tuple[int, int, int, int]] = []
    for first, rows, start, end in blocks:
        if parts and parts[-1][1] + rows <= step and end - parts[-1][2] <= PART_BYTES:
            parts[-1] = (parts[-1][0], parts[-1][1] + rows, parts[-1][2], end)
        else:
            parts.append((first, rows, start, end))
    return num_rows, parts


def _blocks(uri: str, kind: str, rows_in_block: int) -> Iterator[tuple[int, int, int, int]]:
    """(first row, rows, start, end) of consecutive runs of lines, found without holding the file."""
    first = rows = 0  # of the block being gathered
    start = end = offset = 0
    with open_bytes(uri, kind) as file:
        while data := file.read(CHUNK_BYTES):
            for newline in np.flatnonzero(np.frombuffer(data, np.uint8) == 10).tolist():
                rows, end = rows + 1, offset + newline + 1
                if rows == rows_in_block or end - start >= PART_BYTES // 16:
                    yield first, rows, start, end
                    first, rows, start = first + rows, 0, end
            offset += len(data)
    if offset > end:  # a last line without a newline
        rows, end = rows + 1, offset
    if rows:
        yield first, rows, start, end
