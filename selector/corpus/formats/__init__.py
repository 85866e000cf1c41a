"""Formats of corpus files, and how they are packed. One file here is one format, or one compression.

A format is four verbs on a file of that kind:

    peek      what the first rows tell, for a check before any work
    cut       which ranges of rows may become parts, for the survey
    rows      the rows of a piece of it, for ingest and whatever reads texts
    rows_at   any rows at any time, for the trainer, long after

All four agree on what a row is, on its number (counted from 0) and on what it holds.

What holds its rows in a stream of bytes (`_stream.Streamed`) is read through any compression: `a.csv.zst`. Formats and
compressions are found by the endings that they declare, in upper or lower case; nothing lists them. The trainer's side
comes through here, so a format may import NumPy and PyArrow, what reads its bytes, and nothing else that is heavy.
"""

import abc
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedIOBase, BufferedReader
from json import loads  # `json` is a format here
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.corpus.formats._cache import Cache
from selector.corpus.formats._checks import (
    Corrupt,
    NoRows,
    changed,
    check_limit,
    check_range,
    check_version,
    fresh,
    is_fresh,
    opened,
    opened_now,
    reading,
    sha256_of,
    version_of,
)
from selector.corpus.formats._far import expect, version_in
from selector.engine import alive
from selector.engine.part import Part, Piece
from selector.errors import CorpusError, did_you_mean

__all__ = [
    "PART_BYTES",
    "SMALL_FILE",
    "Bad",
    "Beginning",
    "Cache",
    "Compression",
    "Corrupt",
    "Format",
    "NoRows",
    "Range",
    "ReadAt",
    "Row",
    "RowRead",
    "Wanted",
    "changed",
    "check_limit",
    "check_range",
    "compressions",
    "ending_of",
    "endings",
    "expect",
    "find",
    "format_of",
    "fresh",
    "is_fresh",
    "known",
    "opened",
    "opened_now",
    "part_rows",
    "reading",
    "rows",
    "sha256_of",
    "version_in",
    "version_of",
]  # fmt: skip

PART_BYTES = 16 << 20
SMALL_FILE, _MOST_ROWS = 2048, 65_536  # rows; a file with fewer than these is no part of its own
_PARTS_PER_FILE = 4
_SIGN_ROWS = 256  # after so many it is said that the reading goes on

Ints = npt.NDArray[np.int64]


class Range(NamedTuple):
    """Consecutive rows of a file, and their offsets in its uncompressed bytes (see `Piece`)."""

    first_row: int
    num_rows: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A row that cannot be read: one word for the reason, and what the file holds instead."""

    reason: str
    detail: str


Row = Mapping[str, Any] | Bad


class RowRead(NamedTuple):
    """A row of a file, and where it lies in the file's uncompressed bytes, if it is a line."""

    number: int
    row: Row
    byte_offset: int | None = None
    byte_length: int | None = None


class Wanted(NamedTuple):
    """Rows of a file that are to be read: shape (n,) each, ascending by number."""

    numbers: Ints
    byte_offsets: Ints | None = None  # of all of them; None where they are not known
    byte_lengths: Ints | None = None


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """The first rows of a file."""

    columns: Sequence[str] = ()  # none if that cannot be told
    rows: Sequence[Mapping[str, Any]] = ()  # without bad ones
    bad: Sequence[Bad] = ()
    is_empty: bool = False  # the file has no row, good or bad
    is_whole: bool = False  # no later row can have a column that is not here
    schema: pa.Schema | None = None  # of a format that has types


ReadAt = Callable[[Wanted, Sequence[str]], list[dict[str, Any]]]
"""Takes rows and columns; returns a dict for each row, of those of the columns that it has."""


class Compression(abc.ABC):
    """One way to pack a stream of bytes."""

    name: ClassVar[str]  # "gz": what the names of formats end with
    endings: ClassVar[tuple[str, ...]]  # of the names of files, after the ending of the format
    damage: ClassVar[tuple[type[Exception], ...]] = ()  # raised by what unpacks, beside an OSError without a number

    @abc.abstractmethod
    def open(self, file: BufferedReader) -> BufferedIOBase:
        """The unpacked bytes of an open file, which is closed with them. To read past damage, or past an end that comes
        too early, raises one of `damage`, or an OSError without a number."""


class Format(abc.ABC):
    """One kind of corpus file. A path is that of a local file, or the address of an object."""

    name: str  # as `tables.FILES` has it
    endings: tuple[str, ...]  # of the names of its files, in lower case; where several fit, the longest decides
    is_spelt: ClassVar[bool] = False  # every value is text, whatever it means, as in CSV
    is_on_request: ClassVar[bool] = False
    """Whether a file is read only where a path of the policy has its ending, or `corpus.format` names the format."""

    @classmethod
    def variants(cls) -> Sequence[Self]:
        """The format in every way in which its files are packed."""
        return [cls()]

    def with_option(self, option: Any) -> Self:
        """The format with what its name says after a space, as JSON. Raises ValueError if there is no such option."""
        raise ValueError(f"{self.name} has no option")

    def of_folder(self, names: Collection[str], read: Callable[[str], bytes]) -> Collection[str] | None:
        """Which files of a folder are its own, where a format is a whole folder; None for any other folder.

        `names` are those of the files in the folder; `read` gives the bytes of one, and raises OSError.
        """
        return None

    @abc.abstractmethod
    def cut(self, path: str, rows_per_part: int | None) -> list[Range]:
        """Ranges that cover every row of the file once, in order; of at most so many rows each, if that is given, and
        about `PART_BYTES`.

        The cut follows from the content of the file alone, and rows appended to a file leave all but the last of its
        ranges as they are, unless it outgrows them (`part_rows`). Raises Corrupt if the file cannot be read to its end,
        NoRows if it is sound and holds no rows, and CorpusError if the disk does not give it.
        """

    @abc.abstractmethod
    def rows(
        self, piece: Piece, columns: Collection[str] | None, max_bytes: int, wanted: Collection[int] | None
    ) -> Iterator[RowRead]:
        """The rows of a piece, or those with the wanted numbers, in order. To read a part, call `rows` below.

        Of a format that keeps columns apart only these are read, None for all; a row of another has all that it has.
        Where rows are lines, one longer than `max_bytes` is Bad and never held. What is damaged is Bad and costs no
        more rows than it must.
        """

    def arrays(
        self, piece: Piece, columns: Collection[str], wanted: Collection[int] | None
    ) -> Iterator[tuple[Ints, pa.RecordBatch]] | None:
        """The same rows as `rows` gives, without those that are Bad, in the file's own types: their numbers, and those
        of the columns that the file has. None for a format whose files say no types."""
        return None

    @abc.abstractmethod
    def rows_at(self, path: str, size: int, cache: Cache) -> ReadAt:
        """A function that reads any rows at any time. It may be forked, and keeps what it unpacks in the cache.

        Raises CorpusError, and so does the function, naming file and row, if the file is gone, has not this size, or
        does not hold what it held; FullError if there is no room to unpack it.
        """

    @abc.abstractmethod
    def peek(self, path: str, columns: Collection[str], max_bytes: int, num_rows: int) -> Beginning:
        """What the first `num_rows` rows tell. Raises as `cut` does.

        Of a format that keeps columns apart, all columns are told, and rows have those of `columns` that are there.
        """


def known() -> Mapping[str, Format]:
    """Every format by its name, in every way in which it may be packed."""
    return _by_name(tuple(__path__))


def compressions() -> list[Compression]:
    """Every compression, sorted by name."""
    kinds = [kind for kind in _found_in(tuple(__path__)) if issubclass(kind, Compression)]
    return sorted((kind() for kind in kinds), key=lambda one: one.name)


def endings() -> list[str]:
    """The endings of the names of files that can be read, sorted."""
    return sorted(ending for form in known().values() for ending in form.endings)


def ending_of(path: str) -> str | None:
    """The ending by which a file's name tells its format; None if it tells none."""
    lower = path.lower()
    fitting = [ending for ending in _by_ending(tuple(__path__)) if lower.endswith(ending)]
    return max(fitting, key=len, default=None)


def format_of(path: str) -> Format:
    """The format that a file's name tells. Raises CorpusError if there is none."""
    ending = ending_of(path)
    if ending is None:
        raise CorpusError(f"corpus.paths: {path!r} has an unknown format. Known endings: {', '.join(endings())}.")
    return _by_ending(tuple(__path__))[ending]


def find(name: str, path: str) -> Format:
    """The format called `name`, in which a file is said to be. Raises CorpusError if there is none.

    A name may have an option of the format after a space, as JSON: `txt "\\n\\n"`.
    """
    stem, space, option = name.partition(" ")
    form = known().get(stem)
    if form is None:
        raise CorpusError(f"{path} has the format {name!r}. {did_you_mean(str(name), known())}")
    return form.with_option(loads(option)) if space else form


def rows(
    part: Part, columns: Collection[str] | None, max_bytes: int, places: Ints
) -> Iterator[tuple[int, Piece, RowRead]]:
    """(place, piece, row) for every row of the part at these places, ascending; blank lines are no rows.

    `columns` limits what Parquet reads; a JSONL row has all that its line has. Raises CorpusError if a file is no
    longer the one that was surveyed.
    """
    num_read = 0
    for first, piece in zip(part.firsts.tolist(), part.pieces, strict=False):
        start, stop = np.searchsorted(places, [first, first + piece.num_rows]).tolist()
        if start < stop:
            lead = first - piece.first_row
            wanted = None if stop - start == piece.num_rows else set((places[start:stop] - lead).tolist())
            check_version(piece)
            for read in find(piece.format, piece.uri).rows(piece, columns, max_bytes, wanted):
                if num_read % _SIGN_ROWS == 0:
                    alive.sign(num_read)
                num_read += 1
                yield read.number + lead, piece, read
            check_version(piece)  # what was read is about to be sealed under the checksum of the file as surveyed


def part_rows(num_rows: int, wanted: int | None) -> int:
    """How many rows at most a part of a file with so many has: as many as wanted, or about a quarter of the file.

    It grows in powers of two, so that a file to which rows are appended is seldom cut anew.
    """
    quarter = -(-num_rows // _PARTS_PER_FILE)
    return wanted or min(_MOST_ROWS, max(SMALL_FILE, 1 << (quarter - 1).bit_length()))


@functools.cache
def _found_in(folders: tuple[str, ...]) -> Sequence[type[Format] | type[Compression]]:
    """The class of each file: a format, or a compression."""
    kinds: list[type[Format] | type[Compression]] = []
    for file in pkgutil.iter_modules(folders):
        if not file.name.startswith("_"):
            module = importlib.import_module(f"{__name__}.{file.name}")
            classes = [value for value in vars(module).values() if inspect.isclass(value)]
            ours = [cls for cls in classes if issubclass(cls, Format | Compression)]
            (kind,) = [cls for cls in ours if cls.__module__ == module.__name__]
            kinds.append(kind)
    return kinds


def _variants(kind: type[Format] | type[Compression]) -> Sequence[Format]:
    return kind.variants() if issubclass(kind, Format) else ()


@functools.cache
def _by_name(folders: tuple[str, ...]) -> Mapping[str, Format]:
    forms = [form for kind in _found_in(folders) for form in _variants(kind)]
    return {form.name: form for form in sorted(forms, key=lambda form: form.name)}


@functools.cache
def _by_ending(folders: tuple[str, ...]) -> Mapping[str, Format]:
    return {ending: form for form in _by_name(folders).values() for ending in form.endings}
