"""The family of objectives: what says, by numbers, how good the selection of a policy is.

An objective is one file here: a frozen dataclass whose fields are its options. It is asked about one trial at a time: a
manifest, the held-out documents, a seed, one of its scales and one of its settings. What it answers is stored under
all of that, so no study measures it twice.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.manifest import Manifest

Better = Literal["higher", "lower"]

__all__ = ["Better", "HeldOut", "Objective", "Trial", "answer"]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Documents that no selection has, and neither has a near-duplicate of one: what arms are evaluated on."""

    documents: pa.Table = field(default_factory=tables.HELD_OUT.empty_table)  # sorted by doc_id
    fingerprint: str = ""
    key: str = ""  # of the artefact that they are stored in
    left: pa.Table = field(default_factory=tables.HELD_OUT_LEFT.empty_table)  # drawn too, but not evaluated on


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One manifest that an objective is asked about, and how.

    The order of the manifest is the order of training; `ManifestDataset(trial.manifest, …)` reads it.
    """

    arm: str
    manifest: Manifest
    run: str  # where the manifest's run lies
    held_out: HeldOut
    seed: int  # of the study: that of whatever the objective draws; arms with one seed are a pair
    scale: str  # one of `Objective.scales`
    setting: str  # one of `Objective.settings`
    columns: Callable[[Sequence[str]], pa.Table]
    """The documents of the manifest, each once and sorted by doc_id, with these columns of the catalogue."""
    embed: Callable[[Sequence[str]], npt.NDArray[Any]]
    """The vectors that the policy's embedding model makes of texts; shape (texts, numbers), each of length 1."""
    keep: Callable[[str, bytes], str]
    """Keeps a file beside the evidence, under a name, and says where: a log, a curve."""


class Objective(abc.ABC):
    """Says how good a selection is, in numbers that each have a better side.

    `measure` is a function of the trial and of the options alone: the same trial has the same answer on this machine,
    also after the study was killed. `version` is raised where the same options give another answer.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()
    reads_held_out: ClassVar[bool] = True
    runs_programs: ClassVar[bool] = False  # that a study names
    is_apart: ClassVar[bool] = False
    """Whether it reads nothing of a trial but the manifest, the held-out documents and how it is asked: then workers
    measure several trials at once, and `columns`, `embed` and `keep` are not there."""

    @property
    @abc.abstractmethod
    def metrics(self) -> Mapping[str, Better]:
        """Each number that it gives, and whether a higher or a lower one is better; the first is the usual one."""

    @property
    def scales(self) -> tuple[str, ...]:
        """The sizes at which it measures, the smallest first; ranks that change between them are no ranks."""
        return ("",)

    @property
    def settings(self) -> tuple[str, ...]:
        """What a winner has to hold at, at each scale: learning rates, schedules."""
        return ("",)

    @property
    def below_floor(self) -> str | None:
        """Why its ranks show that the protocol works and not which policy is better, if that is so."""
        return None

    def contents(self) -> Mapping[str, str]:
        """Digests of the files that its options name: where these have changed, what was measured is not used again."""
        return {}

    def tokens(self, scale: str, num_tokens: int) -> int:
        """How many tokens are trained on to measure a manifest of so many."""
        return 0

    @abc.abstractmethod
    def measure(self, trial: Trial) -> pa.Table:
        """A table `tables.MEASURED`: a row for each metric, or for each metric and held-out document."""


def answer(
    metric: str,
    values: Any,
    *,
    documents: pa.Table | None = None,
    weights: Any = None,
) -> pa.Table:
    """Rows of `tables.MEASURED`: one value, or one of each held-out document with its weight (by default its bytes)."""
    if documents is None:
        columns: list[Any] = [[metric], pa.nulls(1, tables.DOC_ID), pa.nulls(1, pa.string()), [float(values)], [1.0]]
        return pa.table(columns, schema=tables.MEASURED)
    count = documents.num_rows
    weights = documents["num_bytes"].cast(pa.float64()) if weights is None else weights
    columns = [pa.array([metric] * count), documents["doc_id"], documents["domain"], pa.array(values), weights]
    return pa.table(columns, schema=tables.MEASURED)
