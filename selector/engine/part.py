"""A part of the corpus, and the work on one: what is sent to a worker, and what comes back.

Results travel through the store; only receipts travel back.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a worker holds while it does a step, and how much of the step one worker is handed at a time."""

    cpus: float | None = None  # None: as many as let all workers be placed
    gpus: float = 0  # held where the cluster has any
    memory: int | None = None  # bytes
    workers: int | None = None  # at most so many at once
    documents: int | None = None  # about so many in a task; None: a whole part


@dataclass(frozen=True, kw_only=True)
class Part:
    """A fixed range of one corpus file: the unit of work, of retry and of storage.

    `start` and `end` are offsets in the file's uncompressed bytes (JSONL); Parquet is read by rows.
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


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A row that a worker could not survive, and why."""

    row: int
    reason: str  # worker_died, deadline or exception
    detail: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """One part of one step: the key its result will have, and the artefacts that it reads.

    `only` and `skipped` are the supervisor's: a trial over some of the part's rows (nothing is stored),
    and the rows that are known to be fatal.
    """

    key: str
    part: Part
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    only: tuple[int, int] | None = None
    skipped: tuple[Skipped, ...] = ()

    def mask(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which of these row numbers of the corpus file the task is to work on."""
        wanted = ~np.isin(rows, [skipped.row for skipped in self.skipped])
        if self.only is not None:
            wanted &= (rows >= self.only[0]) & (rows < self.only[1])
        return wanted


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a worker sends back for a finished task."""

    key: str
    num_rows: int
    num_quarantined: int
    seconds: float
