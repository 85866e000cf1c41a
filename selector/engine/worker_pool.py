"""Workers that outlive what they are given to do: started once, told what to load next, replaced when they die or hang.

What an executor adds is how a worker is reached. What becomes of an attempt that failed is for its supply to say
(`Supervision` for the parts of a step, `Answers` for the items of a map).
"""

import abc
import contextlib
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from selector import counts
from selector.engine import alive
from selector.engine.supervise import Failure, Rank, sentence
from selector.engine.worker import LOADING, Command, Counted, ErrorMessage, Work
from selector.errors import SelectorError

logger = logging.getLogger(__name__)

_MOST_FAILED_STARTS = 5  # workers in a row that ended before they had loaded anything
_LEAST = 30.0  # seconds that an attempt has at least, however few rows it is about: it reads the whole part
_BEGINNING = 120.0  # seconds that loading and preparing may take at least
_MOST_HOLDERS = 1 << 16  # of what attempts are about, and who was at it last
_LONG_WAIT = 60.0  # seconds that we listen at a time
_SEEN = 1.0  # seconds after which it is told how far the parts in hand are
_STALLED = 10.0  # seconds without a sign that are at least a stall, where a fifth of what it may take is less
_MOST_LOST = 8
"""Times that an attempt may be lost with its machine before it counts as one at which the worker died: what ends a
machine may be the attempt itself."""

_IMPORTABLE = "Check that this package, and every plug-in that the policy names, can be imported by every worker."
_MORE_MEMORY = "Give its machine more memory, end what else takes it there, or ask for fewer workers with --actors."

_AWAITED = {
    "prepare": LOADING,
    "load": "workers are getting ready",
    "starting": "workers are starting",
}
"""What is waited for while nobody is at work, by the state of the worker that is nearest to it."""

_AT = {"starting": "starting", "load": "starting", "prepare": "starting", "do": "busy", "idle": "idle", "held": "idle"}
"""What a worker is at, for those who count them."""

Attempted = TypeVar("Attempted", bound="Assignment")
Result = TypeVar("Result")
Reported = TypeVar("Reported", covariant=True)


class Assignment(Protocol):
    """An attempt at something, for one worker that has nothing else to do."""

    @property
    def given(self) -> Any:
        """What the work is called with."""
        ...

    @property
    def share(self) -> float:
        """How much of the deadline it has."""
        ...

    @property
    def subject(self) -> Hashable:
        """What it is about, the same in every step: the machine that was at that before has copies of what it reads."""
        ...

    @property
    def title(self) -> str:
        """What a person calls it."""
        ...

    @property
    def is_alone(self) -> bool:
        """Whether nobody else is to be at work on its machine, so that nobody else can be why it fails."""
        ...


class Supply(Protocol[Attempted, Reported]):
    """What there is to do."""

    @property
    def num_open(self) -> int: ...

    def take(self, rank: Rank | None = None, /) -> Attempted | None: ...

    def report(self, attempt: Attempted, outcome: Any, /) -> Reported | None: ...


@dataclass(kw_only=True, eq=False)
class Job(Generic[Attempted, Result]):
    """A piece of work and what it is to be applied to, by workers of one kind, so many of them at most."""

    work: Work
    supply: Supply[Attempted, Result]
    kind: Hashable
    num_workers: int
    num_threads: int | None = None  # of each of them, where that is for the executor to say
    outcomes: list[tuple[Any, Any]] = field(default_factory=list[tuple[Any, Any]])  # attempts that ended, and how
    again: deque[Any] = field(default_factory=deque[Any])  # attempts that were lost, which is nobody's fault
    lost: Counter[Any] = field(default_factory=Counter[Any])  # how often each was
    alone: set[Any] = field(default_factory=set[Any])  # those whose worker ran out of memory
    packed: Any = None  # the work as an executor sends it to its workers
    listener: alive.Listener | None = None  # hears the signs of its workers
    tell: Callable[[Result], None] | None = None  # is given its results while others are listened for
    error: SelectorError | None = None  # that came up meanwhile: it is raised once it is listened for


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What is received of a worker when its process has ended.

    One that was lost with its machine says nothing of its attempt, which is given out again. One that ran out of memory
    may have done so because of its neighbours: the attempt is repeated without any.
    """

    detail: str = "The worker process died."
    trace: str = ""
    cause: Literal["died", "memory", "machine"] = "died"


@dataclass(kw_only=True, eq=False)
class Worker(abc.ABC):
    """A worker as the driver sees it."""

    kind: Hashable
    state: Literal["starting", "idle", "held", "load", "prepare", "do"] = "starting"
    job: Job[Any, Any] | None = None  # the one that it has loaded, or is loading
    attempt: Any = None
    since: float = 0.0  # when the state began, or the last sign of life came
    num_rows: int = 0  # that it has told to be done of its attempt
    is_proved: bool = False  # it has loaded something
    is_prepared: bool = False  # for the job
    is_alone: bool = False  # nobody else on its machine is given anything; "held" until nobody is at work there

    @property
    def place(self) -> tuple[str, str]:
        """Its node and its process, as far as they are known."""
        return "", ""

    @abc.abstractmethod
    def tell(self, command: Command, job: Job[Any, Any], given: Any) -> None:
        """Sends word, and does not wait for the answer. A worker that is gone is heard of later."""

    @abc.abstractmethod
    def end(self) -> None:
        """Ends the process, whatever it is doing."""


class WorkerPool(abc.ABC):
    """All workers of an executor. `deadline` is the seconds that may pass without a sign of life.

    A sign is the end of what a worker was told before, so one that has still to start, to load the work or to prepare
    for it is not late with its first attempt; and whatever the work says of itself in between (`alive.sign`).
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.workers: list[Worker] = []
        self._holders: dict[Hashable, str] = {}  # by what attempts are about: the machine that was at it last
        self._num_failed_starts = 0  # in a row
        self.at_work: list[Job[Any, Any]] = []  # the one that is listened for, and those that go on meanwhile
        self._ahead: list[Job[Any, Any]] = []  # that do so
        self._listened: float | None = None  # when that was done last
        self._passed_on = 0.0  # when it was last told how far they are
        self._stalled: set[Job[Any, Any]] = set()  # jobs of which a worker was, when that was last told

    @abc.abstractmethod
    def start(self, kind: Hashable) -> Worker:
        """A new worker, which may take a while to start."""

    @abc.abstractmethod
    def receive(self, seconds: float) -> list[tuple[Worker, Any]]:
        """Everything that was received since the last time; waits so long at most if that is nothing."""

    def leaving(self) -> Collection[str]:
        """The nodes that will soon be gone: a worker there is given nothing more, and replaced."""
        return ()

    def suits(self, worker: Worker, kind: Hashable) -> bool:
        """Whether a worker is one of this kind, or can be taken for one."""
        return worker.kind == kind

    def is_lost(self, worker: Worker) -> bool:
        """Whether a worker that is silent is so because its whole machine is."""
        return False

    def work(self, job: Job[Attempted, Result]) -> Iterator[Result]:
        """What the supply reports, until nothing is open. Workers are at it while the caller looks at a result."""
        try:
            job.listener = alive.listener()
            if job.error is not None:
                raise job.error
            while job.supply.num_open:
                results = self._results(job)
                others = [other for other in self._ahead if other is not job and other.supply.num_open]
                self.at_work = [job, *others]
                self._give(job)
                if not results:
                    for other in others:
                        self._go_on(other)
                    self._listen()
                yield from results
        finally:
            self._forget(job)

    @contextlib.contextmanager
    def ahead(self, job: Job[Any, Any]) -> Generator[None]:
        """Until it is left, this job goes on while any other one is worked on; what it reports is told meanwhile."""
        job.listener = alive.listener()
        self._ahead.append(job)
        try:
            yield
        finally:
            self._ahead.remove(job)
            self._forget(job)

    def _results(self, job: Job[Any, Result]) -> list[Result]:
        """What comes of the attempts that have ended. Raises SelectorError where the run cannot go on."""
        outcomes, job.outcomes = job.outcomes, []
        results: list[Result] = []
        for attempt, outcome in outcomes:
            if isinstance(outcome, ErrorMessage):
                raise outcome.to_error()
            result = job.supply.report(attempt, outcome)
            if result is not None:
                results.append(result)
        return results

    def _go_on(self, job: Job[Any, Any]) -> None:
        """Keeps the workers of a job busy that nobody listens for. What goes wrong waits until somebody does."""
        if job.error is not None:
            return
        assert job.tell is not None, "a job that goes ahead has somebody to tell"
        try:
            results = self._results(job)
        except SelectorError as error:
            job.error = error
            return
        for result in results:
            job.tell(result)
        self._give(job)

    def close(self) -> None:
        """Ends all workers."""
        for worker in list(self.workers):
            self.end(worker)
        counts.put(counts.WORKERS, {})

    def end(self, worker: Worker) -> None:
        """Ends one worker."""
        self.workers.remove(worker)
        worker.end()

    def _give(self, job: Job[Any, Any]) -> None:
        """Gives every idle worker of the job an attempt, as long as there are any; starts and replaces workers."""
        leaving = self.leaving()
        for worker in [worker for worker in self.workers if worker.state == "idle" and worker.place[0] in leaving]:
            self.end(worker)
        wanted = min(job.num_workers, job.supply.num_open)
        while sum(self.suits(worker, job.kind) for worker in self.workers) < wanted:
            self.workers.append(self.start(job.kind))
        mine = [worker for worker in self.workers if self.suits(worker, job.kind)]
        num_at_it = sum(worker.job is job for worker in mine)
        kept_clear = {worker.place[0] for worker in self.workers if worker.is_alone}
        for worker in mine:
            if worker.state == "held" and not self._neighbours(worker):
                self._tell(worker, "do" if worker.is_prepared else "prepare")
            elif worker.state != "idle" or worker.place[0] in kept_clear:
                continue
            elif worker.job is job:
                worker.attempt = job.again.popleft() if job.again else job.supply.take(self._rank(worker))
                if worker.attempt is not None:
                    worker.is_alone = worker.attempt.is_alone or worker.attempt in job.alone
                    kept_clear |= {worker.place[0]} if worker.is_alone else set()
                    if worker.is_alone and self._neighbours(worker):
                        worker.state = "held"
                    else:
                        self._tell(worker, "do" if worker.is_prepared else "prepare")
            elif num_at_it < wanted:
                worker.job, num_at_it = job, num_at_it + 1
                worker.is_prepared = not job.work.needs_preparation
                self._tell(worker, "load")

    def _rank(self, worker: Worker) -> Rank | None:
        """What suits a worker: what its own machine was at last, then what no machine was at; None: all are alike."""
        own = worker.place[0]
        if all(other.place[0] == own for other in self.workers):
            return None
        return lambda subject: {own: 0, None: 1}.get(self._holders.get(subject), 2)

    def _neighbours(self, worker: Worker) -> list[Worker]:
        """The others that are at work on a worker's machine."""
        node, busy = worker.place[0], ("load", "prepare", "do")
        return [
            other for other in self.workers if other is not worker and other.place[0] == node and other.state in busy
        ]

    def _tell(self, worker: Worker, command: Command) -> None:
        assert worker.job is not None
        worker.state, worker.since, worker.num_rows = command, time.monotonic(), 0
        worker.tell(command, worker.job, None if command == "load" else worker.attempt.given)

    def _listen(self) -> None:
        """Waits until a worker answers, ends or is late, and notes it. No worker is late for the time in which nobody
        listened."""
        began = time.monotonic()
        away = 0.0 if self._listened is None else began - self._listened
        for worker in self.workers:
            worker.since = min(began, worker.since + away)
        received = self.receive(0.0)
        if not received or began - self._passed_on >= _SEEN:  # also where some of them always have an answer
            self._passed_on = began
            for job in self.at_work:
                self._pass_on(job)
        received = received or self.receive(self._patience())
        for worker, answer in received:
            self._note(worker, _counted_here(answer))
        counts.put(counts.WORKERS, Counter(_AT[worker.state] for worker in self.workers))
        now = time.monotonic()
        for worker in [worker for worker in self.workers if worker.state in ("load", "prepare", "do")]:
            if now >= worker.since + self._limit(worker):
                self._end_late(worker)
        self._listened = now

    def _pass_on(self, job: Job[Any, Any]) -> None:
        """Tells whoever listens for a job how far the parts in hand are, or what is waited for."""
        if job.listener is None:
            return
        workers = [
            worker
            for worker in self.workers
            if worker.job is job or (worker.job is None and worker.state == "starting" and self.suits(worker, job.kind))
        ]
        states = {worker.state for worker in workers}
        if "do" in states:
            job.listener.at_work(sum(worker.num_rows for worker in workers if worker.state == "do"))
            stalls = self._stalls(workers)
            if stalls or job in self._stalled:
                job.listener.stalled(stalls)
            (self._stalled.add if stalls else self._stalled.discard)(job)
        elif states & {*_AWAITED}:
            job.listener.waiting(next(awaited for state, awaited in _AWAITED.items() if state in states))

    def _stalls(self, workers: Sequence[Worker]) -> list[alive.Stall]:
        """Those of the workers that are at something and have given no sign for long."""
        now = time.monotonic()
        late = [
            worker
            for worker in workers
            if worker.state == "do" and now - worker.since >= max(_STALLED, self._limit(worker) / 5)
        ]
        return [
            alive.Stall(part=worker.attempt.title, node=node, worker=process, seconds=round(now - worker.since, 1))
            for worker in late
            for node, process in [worker.place]
        ]

    def _patience(self) -> float:
        """Seconds until the next worker is late, or is stalled."""
        ends = [
            worker.since + self._limit(worker) for worker in self.workers if worker.state in ("load", "prepare", "do")
        ]
        return min(max(0.0, min(ends, default=math.inf) - time.monotonic()), _LONG_WAIT, _STALLED)

    def _limit(self, worker: Worker) -> float:
        """Seconds that may pass without a sign: loading and preparing are no part of an attempt's time."""
        if worker.state != "do":
            return max(self.deadline, _BEGINNING)
        return min(self.deadline, max(_LEAST, self.deadline * worker.attempt.share))

    def _note(self, worker: Worker, answer: Any) -> None:
        if worker not in self.workers:
            return
        job, state = worker.job, worker.state
        if isinstance(answer, alive.Sign):
            worker.since = time.monotonic()
            worker.num_rows = worker.num_rows if answer.num_rows is None else answer.num_rows
        elif isinstance(answer, Ended):
            self.end(worker)
            if worker.attempt is not None and job is not None:
                self._note_end(worker, answer, job)
            elif state in ("starting", "load") and not worker.is_proved and answer.cause != "machine":
                cure = _MORE_MEMORY if answer.cause == "memory" else _IMPORTABLE
                self._count_failed_start(answer.trace or answer.detail, cure)
        elif state == "load" and isinstance(answer, Failure):
            self.end(worker)
            self._count_failed_start(answer.detail)
        elif state == "prepare" and answer is None:
            worker.is_prepared = True
            self._tell(worker, "do")
        elif state in ("starting", "load"):
            if isinstance(answer, ErrorMessage) and job is not None:
                job.outcomes.append((None, answer))
                worker.job = None
            elif state == "load":
                worker.is_proved, self._num_failed_starts = True, 0
            worker.state = "idle"
        else:
            if job is not None:
                job.outcomes.append((worker.attempt, answer))
            if worker.attempt is not None and not isinstance(answer, Failure):
                self._holders[worker.attempt.subject] = worker.place[0]
                if len(self._holders) > _MOST_HOLDERS:
                    self._holders.pop(next(iter(self._holders)))
            worker.state, worker.attempt, worker.is_alone = "idle", None, False

    def _note_end(self, worker: Worker, ended: Ended, job: Job[Any, Any]) -> None:
        """What becomes of the attempt of a worker that ended."""
        attempt = worker.attempt
        job.lost[attempt] += ended.cause == "machine"
        if ended.cause == "machine" and job.lost[attempt] < _MOST_LOST:
            logger.warning("%s was lost with its machine and is done again: %s", attempt.title, ended.detail)
            job.again.append(attempt)
        elif ended.cause == "memory" and not worker.is_alone:
            logger.warning("%s is done again, alone on its machine: %s", attempt.title, ended.detail)
            job.alone.add(attempt)
            job.again.append(attempt)
        else:
            job.outcomes.append((attempt, Failure(kind="worker_died", detail=ended.detail, trace=ended.trace)))

    def _end_late(self, worker: Worker) -> None:
        if self.is_lost(worker):
            self._note(worker, Ended(detail="Its machine does not answer.", cause="machine"))
            return
        detail = f"It gave no sign of life for {self._limit(worker):g} seconds."
        self.end(worker)
        if worker.attempt is None or worker.job is None:
            self._count_failed_start(detail)
        else:
            worker.job.outcomes.append((worker.attempt, Failure(kind="deadline", detail=detail)))

    def _count_failed_start(self, cause: str, cure: str = _IMPORTABLE) -> None:
        """Raises SelectorError once so many workers in a row could not begin that none ever will."""
        self._num_failed_starts += 1
        if self._num_failed_starts == _MOST_FAILED_STARTS:
            self._num_failed_starts = 0
            raise SelectorError(
                f"{_MOST_FAILED_STARTS} workers in a row died before they could begin. The last one: {sentence(cause)} "
                f"{cure}"
            )

    def _forget(self, job: Job[Any, Any]) -> None:
        """The end of a job: the workers forget it. If it comes early, those that are at it, or begin with it, go."""
        is_early = job.supply.num_open > 0
        for worker in list(self.workers):
            is_beginning = worker.state == "load" if worker.job is job else worker.state == "starting"
            is_at_it = worker.job is job and worker.state in ("prepare", "do")
            if is_at_it or (is_early and is_beginning and self.suits(worker, job.kind)):
                self.end(worker)
            elif worker.job is job:
                worker.job = None
                if worker.state == "held":
                    worker.state, worker.attempt, worker.is_alone = "idle", None, False
        job.outcomes = []
        self._stalled.discard(job)


def _counted_here(answer: Any) -> Any:
    """The answer itself; what the worker counted meanwhile is counted here from now on."""
    if not isinstance(answer, Counted):
        return answer
    for name, labels in answer.counted.items():
        for label, amount in labels.items():
            counts.add(name, label, amount)
    return answer.answer
