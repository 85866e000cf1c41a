"""A part of the corpus, and the work on one: what is sent to a worker, and what comes back.

Results travel through the store; only receipts travel back.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from selector.storage import is_address

Ints = npt.NDArray[np.int64]
UInt32 = npt.NDArray[np.uint32]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a worker holds while it does a step, and how much of the step one worker is handed at a time."""

    cpus: float | None = None  # None: as many as let all workers be placed
    gpus: float = 0  # held where the cluster has any
    memory: int | None = None  # bytes
    workers: int | None = None  # at most so many at once
    documents: int | None = None  # at most so many in a task, about a minute's work; None: a whole part


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Consecutive rows of one corpus file.

    `start` and `end` are offsets in the file's uncompressed bytes: of its lines exactly, of Parquet about.
    """

    file: int  # index into the corpus's files
    uri: str
    format: str
    sha256: str  # of the whole file
    version: str  # the file's size and times when it was surveyed: a later change is noticed
    first_row: int
    num_rows: int
    start: int
    end: int
    source: str | None  # the file's constant source, if the policy gives one

    @property
    def is_far(self) -> bool:
        """Whether the file is an object in a storage, and not a local file."""
        return is_address(self.uri)


@dataclass(frozen=True, kw_only=True)
class Part:
    """The unit of work, of retry and of storage: a range of one corpus file, or several small files together.

    Its rows are counted from 0 through all its pieces. That number is a row's *place*: every table of a part names rows
    by it, and only the part knows in which files they lie. So what is stored of a part does not depend on where its
    files stand in the corpus.
    """

    pieces: tuple[Piece, ...]
    first: int  # the first place that is worked on; above 0 only where a part is handed out in slices
    num_rows: int  # that are worked on

    @classmethod
    def of(cls, *pieces: Piece) -> "Part":
        """A whole part."""
        return cls(pieces=pieces, first=0, num_rows=sum(piece.num_rows for piece in pieces))

    @property
    def end(self) -> int:
        """The place after the last one that is worked on."""
        return self.first + self.num_rows

    @property
    def rows(self) -> list[tuple[str, int, int]]:
        """Which rows of what content the pieces are, wherever the files lie: for fingerprints."""
        return [(piece.sha256, piece.first_row, piece.num_rows) for piece in self.pieces]

    @property
    def files(self) -> list[tuple[int, int, int]]:
        """Which rows of which files the pieces are."""
        return [(piece.file, piece.first_row, piece.num_rows) for piece in self.pieces]

    @functools.cached_property
    def firsts(self) -> Ints:
        """The place of each piece's first row, and that after the last one."""
        return np.cumsum([0, *(piece.num_rows for piece in self.pieces)], dtype=np.int64)

    def find(self, places: npt.NDArray[Any]) -> tuple[UInt32, UInt32]:
        """The file and the row number there of the rows at these places."""
        at = np.searchsorted(self.firsts, places, side="right") - 1
        files, rows, _ = (np.array(numbers, np.int64) for numbers in zip(*self.files, strict=True))
        return files[at].astype(np.uint32), (rows[at] + places - self.firsts[at]).astype(np.uint32)

    def at(self, place: int) -> tuple[str, int]:
        """The file in which a place lies, and the row number there."""
        index = int(np.searchsorted(self.firsts, place, side="right")) - 1
        piece = self.pieces[index]
        return piece.uri, piece.first_row + place - int(self.firsts[index])


def stretches(num_rows: Sequence[int], least: int) -> Iterator[slice]:
    """Consecutive parts, of which each has so many rows, until together they have the least that is wanted; the last
    ones may have fewer."""
    start = rows = 0
    for end, more in enumerate(num_rows, 1):
        rows += more
        if rows >= least or end == len(num_rows):
            yield slice(start, end)
            start, rows = end, 0


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A row that a worker could not survive, and why."""

    place: int
    reason: str  # worker_died, deadline or exception
    detail: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """One part of one step: the key its result will have, and the artefacts that it reads.

    `only` and `skipped` are the supervisor's: a trial over some of the part's places (nothing is stored), and the rows
    that are known to be fatal.
    """

    key: str
    part: Part
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    only: tuple[int, int] | None = None
    skipped: tuple[Skipped, ...] = ()

    def mask(self, places: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which of these places of the part the task is to work on."""
        first, end = self.only or (self.part.first, self.part.end)
        mask = (places >= first) & (places < end)
        return mask & ~np.isin(places, [skipped.place for skipped in self.skipped]) if self.skipped else mask

    @property
    def places(self) -> Ints:
        """All places that the task is to work on, ascending."""
        places = np.arange(self.part.first, self.part.end)
        return places[self.mask(places)]


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a worker sends back for a finished task."""

    key: str
    num_rows: int
    num_quarantined: int
    seconds: float
    memory: int | None = None  # bytes that the worker had at most, since it took up the step
