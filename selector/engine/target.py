"""Where jobs are handed to: what every kind of cluster can be asked. One file in `jobs/submit/` for each kind.

A target starts a job under the id that the job has, so that a second start of it is none, and it tells what it knows
of one. It is never asked for progress: that lies in the root. A frozen dataclass: its fields are the options of
`--with`, and a token is none of them.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from selector.engine.job import Job, State


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What travels with a job: files by their paths, the policy among them."""

    files: Mapping[str, bytes]
    carries: tuple[str, ...] = ()  # names of modules of plug-ins among them
    paths: tuple[tuple[str, str], ...] = ()  # what the policy names on a file system, each after its key

    POLICY: ClassVar[str] = "policy.json"


@dataclass(frozen=True, kw_only=True)
class Written:
    """Files that hand a job to a cluster, and the command that does so."""

    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    command: tuple[str, ...] = ()


class Target(abc.ABC):
    """A cluster that takes jobs."""

    def check(self, job: Job, parcel: Parcel) -> None:
        """Raises UsageError for a job that this cluster cannot take, with what to type, and warns of one that it is
        likely to fail at."""
        del job, parcel

    def written(self, job: Job, parcel: Parcel) -> Written | None:
        """The files by which the job is handed over, for clusters that take it so; None where it is posted."""
        return None

    @abc.abstractmethod
    def start(self, job: Job, parcel: Parcel, written: str | None) -> None:
        """Hands the job over, in `written`, the folder of its files, if it has some. One that is there already is left
        as it is. Raises UnreachableError."""

    @abc.abstractmethod
    def state(self, job_id: str) -> State | None:
        """What the cluster says of a job; None where it knows none of this id. Raises UnreachableError."""

    @abc.abstractmethod
    def logs(self, job_id: str) -> str | None:
        """What the job printed, as far as the cluster has it. Raises UnreachableError."""

    @abc.abstractmethod
    def stop(self, job_id: str) -> None:
        """Asks the job to end, in a way that lets it finish what it is writing; one that waits for its turn is taken
        back. Raises UnreachableError."""

    @abc.abstractmethod
    def kill(self, job_id: str) -> None:
        """Ends what `stop` did not. Raises UnreachableError."""
