"""A job: a run that was handed to a cluster. What is known of it lies in the root, so it can be watched from anywhere.

Think of the slip of a parcel. Whoever submits writes it, once; the run writes how it ended on its back; whoever cancels
marks it. None of that needs the cluster, so it outlives it. A job's id follows from what it is to do, so the same
command finds the same job; after one that failed, the next attempt has the same id with `-a2` behind it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

from selector.engine.canonical import canonical_json, fingerprint
from selector.errors import DamagedError, NotFoundError, UsageError
from selector.storage import Storage

FOLDER = "jobs/"
PREFIX = "selector-"

Word = Literal["queued", "running", "finished", "failed", "cancelled", "dead", "unknown"]

OVER: frozenset[Word] = frozenset({"finished", "failed", "cancelled", "dead"})
"""The states after which nothing more happens by itself."""

_ID = re.compile(rf"({PREFIX}[0-9a-f]{{12}})(?:-a([1-9][0-9]{{0,5}}))?")


@dataclass(frozen=True, kw_only=True)
class State:
    """How a job is: a word, and what there is to say about it."""

    word: Word
    detail: str = ""

    @property
    def is_over(self) -> bool:
        return self.word in OVER


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run for a cluster: what it is to do, where its root is, and who is to do it."""

    id: str
    target: str  # as --on names it
    root: str
    verb: str = "run"  # the command that the cluster is to run
    policy: Mapping[str, Any] = field(default_factory=dict[str, Any])  # with every default spelt out
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])  # of that command; a list is one given again
    target_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    requires: Mapping[str, str] = field(default_factory=dict[str, str])  # versions of distributions, as here
    submitted: Mapping[str, Any] = field(default_factory=dict[str, Any])  # when, where and by whom

    @classmethod
    def id_of(cls, policy: Any, root: str, options: Any) -> str:
        """The id of a job that is to do this. A letter first and 21 characters: a RayJob may have 47."""
        return f"{PREFIX}{fingerprint([policy, root, options])[:12]}"

    def attempt(self, number: int) -> Self:
        """The same job, as its first, second… attempt."""
        first, _ = _read(self.id)
        return replace(self, id=first if number == 1 else f"{first}-a{number}")


def number_of(job_id: str) -> int:
    """Which attempt an id is. Raises UsageError for what is no id."""
    return _read(job_id)[1]


def _read(job_id: str) -> tuple[str, int]:
    """The id of the first attempt, and which attempt this is the id of."""
    match = _ID.fullmatch(job_id)
    if match is None:
        raise UsageError(
            f"{job_id!r:.80} is not the id of a job, such as {PREFIX}0123456789ab or {PREFIX}0123456789ab-a2. "
            "`selector runs` lists them."
        )
    return match[1], int(match[2] or 1)


def record(storage: Storage, job: Job) -> bool:
    """Writes a job down. False if it was: of many who do so at once, one is the first."""
    number_of(job.id)
    body = asdict(job)
    return storage.put_if_absent(f"{FOLDER}{job.id}/job.json", canonical_json({**body, "check": fingerprint(body)}))


def withdraw(storage: Storage, job: Job) -> None:
    """Afterwards the job is not written down: it was not handed over, and the next who submits it does that."""
    storage.delete(f"{FOLDER}{job.id}/job.json")


def find(storage: Storage, job_id: str) -> Job | None:
    """The job of this id, if it was written down. Raises UsageError and DamagedError."""
    number_of(job_id)
    key = f"{FOLDER}{job_id}/job.json"
    data = storage.get(key)
    if data is None:
        return None
    try:
        body = json.loads(data)
        if body.pop("check") != fingerprint(body):
            raise DamagedError(key, "it is not what was written")
        return Job(**body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(key, f"it cannot be read ({type(error).__name__})") from error


def the(storage: Storage, job_id: str) -> Job:
    """The job of this id. Raises NotFoundError."""
    job = find(storage, job_id)
    if job is None:
        raise NotFoundError(f"There is no job {job_id} in {storage.address}. `selector runs` lists those there are.")
    return job


def ids(storage: Storage) -> list[str]:
    """The ids of all jobs that were written down, each one's attempts in their order."""
    keys = (key.removeprefix(FOLDER).removesuffix("/job.json") for key, _ in storage.list(FOLDER))
    return sorted((key for key in keys if _ID.fullmatch(key)), key=_read)


def latest(storage: Storage, job: Job) -> Job | None:
    """The last attempt at a job that was written down."""
    number = 1
    last = find(storage, job.attempt(1).id)
    while last is not None:
        number += 1
        following = find(storage, job.attempt(number).id)
        if following is None:
            return last
        last = following
    return None


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a job ended, as its own run told it."""

    exit_code: int
    message: str = ""
    manifest: str | None = None

    @property
    def state(self) -> State:
        if self.exit_code in (0, 3):
            return State(word="finished", detail=self.manifest or self.message)
        if self.exit_code in (130, 143):
            return State(word="cancelled", detail=self.message)
        return State(word="failed", detail=self.message)


def end(storage: Storage, job_id: str, ending: Ending) -> None:
    """Writes down how a job ended; what was told first holds."""
    number_of(job_id)
    storage.put_if_absent(f"{FOLDER}{job_id}/ended.json", canonical_json(asdict(ending)))


def begin(storage: Storage, job: Job) -> None:
    """A run of the job begins: it is written down, if whoever handed it over could not, and has not ended."""
    record(storage, job)
    storage.delete(f"{FOLDER}{job.id}/ended.json")


def ending(storage: Storage, job_id: str) -> Ending | None:
    """How a job ended, if it told that."""
    try:
        return Ending(**json.loads(storage.get(f"{FOLDER}{job_id}/ended.json") or b""))
    except (ValueError, TypeError):
        return None


def mark_cancelled(storage: Storage, job_id: str) -> bool:
    """From now on nobody is to begin the job. False if that was so."""
    return storage.put_if_absent(f"{FOLDER}{job_id}/cancelled.json", b"{}")


def is_cancelled(storage: Storage, job_id: str) -> bool:
    """Whether somebody cancelled the job."""
    return storage.get(f"{FOLDER}{job_id}/cancelled.json") is not None
