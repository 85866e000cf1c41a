"""A job is handed over once: whoever submits what is under way is led to it, and what failed is begun anew.

What a job is follows from two sources: the root, which knows how the run itself says that it is, and the cluster, which
knows what waits, and why. The root is believed first, since it is there when the cluster is not.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from selector.engine import job as jobs
from selector.engine import journal
from selector.engine.job import Ending, Job, State
from selector.engine.journal import Seen
from selector.engine.target import Parcel, Target
from selector.errors import SelectorError, UnreachableError, UsageError
from selector.storage import Storage

_ABOUT_TO = 60.0  # seconds in which whoever wrote a job down may be about to hand it over
_LOOKED = 0.1  # seconds between two looks at whether a job has ended
_MOST_ATTEMPTS = 1_000


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A job that was handed over, now or before."""

    job: Job
    is_new: bool
    state: State


def submit(
    storage: Storage,
    target: Target,
    wanted: Job,
    parcel: Parcel,
    *,
    again: bool = False,
    written: str | None = None,
    reopened: Callable[[Job], Target | None],
) -> Submitted:
    """Hands a job over, or finds it handed over. The next attempt is made if the last one failed, was cancelled or
    died, and, with `again`, if it is finished. `reopened` gives the cluster of an earlier attempt."""
    last = jobs.latest(storage, wanted)
    number = 1
    if last is not None:
        is_same = (last.target, last.target_options) == (wanted.target, wanted.target_options)
        state = state_of(storage, target if is_same else reopened(last), last)
        is_lost = state.word == "unknown" and not is_same  # written down for a cluster that knows nothing of it
        if not (state.is_over or is_lost) or (state.word == "finished" and not again):
            is_left = time.time() - float(last.submitted.get("time") or 0) >= _ABOUT_TO
            if state.word == "unknown" and is_left:  # whoever wrote it down did not come to hand it over
                target.start(last, parcel, written)
                state = State(word="queued")
            return Submitted(job=last, is_new=False, state=state)
        number = jobs.number_of(last.id) + 1
        if number > _MOST_ATTEMPTS:
            raise UsageError(f"{last.id} is the last of {_MOST_ATTEMPTS:,} attempts. See why they fail.")
    job = wanted.attempt(number)
    is_new = jobs.record(storage, job)
    if is_new:
        try:
            target.start(job, parcel, written)
        except BaseException:
            with contextlib.suppress(SelectorError):
                jobs.withdraw(storage, job)
            raise
    return Submitted(job=job, is_new=is_new, state=State(word="queued"))


def state_of(storage: Storage, target: Target | None, job: Job) -> State:
    """How a job is. `unknown` where neither the root nor the cluster can tell."""
    ending = jobs.ending(storage, job.id)
    if ending is not None:
        return ending.state
    runs = journal.read(storage, job.id)
    is_at_work = bool(journal.living(storage, runs))
    try:
        seen = None if target is None else target.state(job.id)
    except UnreachableError as error:
        if is_at_work:
            return State(word="running", detail=f"The cluster does not answer: {error}")
        if runs:
            return died(runs[-1], f"the cluster does not answer ({error})")
        return State(word="unknown", detail=str(error))
    if seen is not None and seen.word in ("cancelled", "failed"):
        return _cancelled() if jobs.is_cancelled(storage, job.id) else seen
    if is_at_work:
        return State(word="running")
    if seen is None and runs:
        return died(runs[-1], "the cluster knows no such job" if target is not None else "")
    if seen is None:
        return State(word="unknown", detail="The cluster knows no such job." if target is not None else "")
    if jobs.is_cancelled(storage, job.id):
        return _cancelled()
    return seen


def died(seen: Seen, also: str) -> State:
    """The state of a run whose process is gone, and did not say how it ended."""
    step = f" in {seen.step.name}" if seen.step else ""
    ago = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seen.updated))
    detail = f"Its driver, process {seen.pid} on {seen.host.split(' ')[0]}, gave its last sign at {ago}{step}"
    return State(word="dead", detail=f"{detail}; {also}." if also else f"{detail}.")


def _cancelled() -> State:
    return State(word="cancelled", detail="It was cancelled. What it had finished is kept.")


def cancel(
    storage: Storage,
    target: Target | None,
    job: Job,
    *,
    patience: float,
    kill: Callable[[Seen], None],
    sleep: Callable[[float], None] = time.sleep,
) -> State:
    """Ends a job: it is asked to, then waited for, then killed. How it ended.

    The mark comes first, so a job that waits for its turn ends as soon as it has it, whatever the cluster does.
    """
    state = state_of(storage, target, job)
    if state.is_over:
        return state
    jobs.mark_cancelled(storage, job.id)
    unreached = ""
    if target is not None:
        try:
            target.stop(job.id)
        except UnreachableError as error:
            unreached = str(error)
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if jobs.ending(storage, job.id) is not None or not _goes_on(storage, target, job):
            break
        sleep(_LOOKED)
    else:
        with contextlib.suppress(UnreachableError):
            if target is not None:
                target.kill(job.id)
        runs = journal.read(storage, job.id)
        alive = journal.living(storage, runs)
        for seen in runs:
            if seen.key in alive:
                kill(seen)
    jobs.end(storage, job.id, Ending(exit_code=143, message="It was cancelled. What it had finished is kept."))
    ended = state_of(storage, None, job)
    return replace(ended, detail=f"{ended.detail} {unreached}".strip()) if unreached else ended


def _goes_on(storage: Storage, target: Target | None, job: Job) -> bool:
    """Whether anything of a job may still be at work."""
    if journal.living(storage, journal.read(storage, job.id)):
        return True
    try:
        state = None if target is None else target.state(job.id)
    except UnreachableError:
        return False
    return state is not None and state.word == "running"


def is_here(seen: Seen) -> bool:
    """Whether the process of a run is at work on this machine."""
    from selector.engine import lease

    return lease.is_of_here(seen.host) and lease.is_at_work(seen.pid)
