"""Runs parts on Ray: one plain actor per worker, with durability and retries being ours and not Ray's.

Ray places actors and carries receipts; results travel through the store. Its own restarts and task retries
are off, because what becomes of a part whose worker died is for `Supervision` to say. An actor holds one part at
a time: with a second one queued behind it, an answer that is lost with the process would blame the wrong part.
"""

import contextlib
import functools
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal, Self, cast

import ray as _ray
from ray import exceptions

from jobs import connection
from selector import errors
from selector.engine.local import LocalExecutor, attempt_here
from selector.engine.part import Receipt, Task
from selector.engine.step import Stage
from selector.engine.store import Store
from selector.engine.supervise import Attempt, Failure, Outcome, Supervision
from selector.errors import DamagedError, SelectorError, UsageError

ray: Any = _ray  # whose own types are partly unknown
logger = logging.getLogger(__name__)

_STILLBORN = 5  # workers in a row that died before they could answer
_PATIENCE = 60.0  # seconds without any worker after which we say so


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """Runs parts on the workers of a Ray cluster, or of a small one started on this machine for the run.

    It joins the cluster at `address`, else at RAY_ADDRESS, else starts its own; it never joins one that merely
    happens to run on the machine. Inside a process that is connected to Ray already, it uses that connection.
    `actors` is the largest number of workers (default: the cluster's CPUs, or its GPUs for a stage that wants
    one), `deadline` the seconds that a part may take, `attempts` how often it may fail before it is searched
    for the rows that are to blame.
    """

    address: str | None = None
    actors: int | None = None
    deadline: float = 900.0
    attempts: int = 3

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise UsageError(f"actors={self.actors} leaves nobody to work. Give 1 or more.")
        if not self.deadline > 0:
            raise UsageError(f"deadline={self.deadline} leaves no time to work. Give seconds above 0.")
        if self.attempts < 1:
            raise UsageError(f"attempts={self.attempts} leaves no attempt. Give 1 or more.")

    @functools.cached_property
    def _entered(self) -> list[contextlib.ExitStack]:
        """For each time that this executor was entered, what leaving it has to undo."""
        return []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            if not ray.is_initialized():
                connection.join(undo, self._cluster) if self._cluster else connection.start(undo)
            self._entered.append(undo.pop_all())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._entered.pop().close()

    @property
    def _cluster(self) -> str | None:
        address = self.address or os.environ.get("RAY_ADDRESS")
        return None if address == "local" else address

    def device(self) -> Literal["cuda", "cpu"]:
        """`cuda` if any node of the cluster has a GPU. Before entering, it looks without starting a Ray."""
        if ray.is_initialized():
            return "cuda" if ray.cluster_resources().get("GPU") else "cpu"
        if not self._cluster:
            return LocalExecutor().device()
        with self:
            return self.device()

    def run(self, stage: Stage, tasks: Sequence[Task], store: Store) -> Iterator[Receipt]:
        """See `Executor.run`. The workers live as long as the stage does."""
        if not tasks:
            return
        supervision = Supervision(stage, tasks, store, self.attempts)
        num_workers, resources = self._size(stage, len(tasks))
        fresh = cast(Stage, replace(cast(Any, stage)))  # its options, without a model that was loaded here
        crew = _Crew(hire=lambda: _hire(fresh, store, resources), deadline=self.deadline)
        try:
            while supervision.num_open:
                crew.grow(min(num_workers, supervision.num_open))
                crew.feed(supervision)
                for attempt, outcome in crew.wait():
                    receipt = supervision.report(attempt, outcome)
                    if receipt is not None:
                        yield receipt
        finally:
            crew.dismiss()

    def _size(self, stage: Stage, num_tasks: int) -> tuple[int, dict[str, float]]:
        """How many workers, and what each of them holds: as many whole CPUs as still let all of them be placed."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        on_gpu = stage.wants_gpu and any(node.get("GPU") for node in nodes)
        kind = "GPU" if on_gpu else "CPU"
        nodes = [node for node in nodes if node.get(kind)]
        num_workers = min(self.actors or int(sum(node[kind] for node in nodes)) or 1, num_tasks)
        cpus = [int(node.get("CPU", 0)) for node in nodes]
        fitting = [n for n in range(1, max(cpus, default=0) + 1) if sum(cpu // n for cpu in cpus) >= num_workers]
        num_cpus = float(max(fitting, default=1))
        if (
            not fitting and nodes and connection.OWN in nodes[0]
        ):  # unlike a cluster, one machine does not grow: share its CPUs
            num_cpus = math.floor(1e4 * cpus[0] / num_workers) / 1e4
        return num_workers, {"num_cpus": num_cpus, "num_gpus": 1.0 if on_gpu else 0.0}


class _Hand:
    """The worker itself, in a process of its own."""

    def __init__(self, stage: Stage, store: Store) -> None:
        self._stage, self._store = stage, store

    def hello(self) -> tuple[str, int]:
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def perform(self, task: Task) -> "Outcome | _Refusal":
        try:
            return attempt_here(self._stage, task, self._store)
        except SelectorError as error:
            return _Refusal.from_error(error)


@dataclass(frozen=True, kw_only=True)
class _Refusal:
    """A SelectorError on its way to the driver, as plain text: exceptions do not survive every pickling."""

    name: str
    args: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def from_error(cls, error: SelectorError) -> "_Refusal":
        name = next(base.__name__ for base in type(error).__mro__ if vars(errors).get(base.__name__) is base)
        args = (error.key, error.reason) if isinstance(error, DamagedError) else (str(error),)
        return cls(name=name, args=args, notes=tuple(getattr(error, "__notes__", ())))

    def to_error(self) -> SelectorError:
        error: SelectorError = getattr(errors, self.name)(*self.args)
        for note in self.notes:
            error.add_note(note)
        return error


def _hire(stage: Stage, store: Store, resources: Mapping[str, float]) -> Any:
    return ray.remote(**resources, max_restarts=0, max_task_retries=0)(_Hand).remote(stage, store)


@dataclass(kw_only=True, eq=False)
class _Worker:
    """A worker as the driver sees it: starting until it has told its place, then idle or at an attempt."""

    actor: Any
    awaited: Any  # the reference to its next answer; None while it is idle
    place: tuple[str, int] | None = None  # its node and process
    attempt: Attempt | None = None
    since: float = 0.0  # when it was given the attempt


@dataclass(kw_only=True, eq=False)
class _Crew:
    """The workers of one stage: hired, fed, heard, replaced when lost, and dismissed."""

    hire: Callable[[], Any]
    deadline: float
    workers: list[_Worker] = field(default_factory=list[_Worker])
    num_stillborn: int = 0

    def grow(self, num_workers: int) -> None:
        """Asks for workers up to a number. Ray starts them when and where there is room."""
        while len(self.workers) < num_workers:
            actor = self.hire()
            self.workers.append(_Worker(actor=actor, awaited=actor.hello.remote()))

    def feed(self, supervision: Supervision) -> None:
        """Gives every idle worker an attempt, as long as there are any."""
        for worker in self.workers:
            if worker.awaited is None and (attempt := supervision.take()):
                worker.attempt, worker.since = attempt, time.monotonic()
                worker.awaited = worker.actor.perform.remote(attempt.task)

    def wait(self) -> list[tuple[Attempt, Outcome]]:
        """What has come of attempts, once there is news of any worker or one has missed its deadline."""
        at_work = {worker.awaited: worker for worker in self.workers if worker.awaited is not None}
        awaited = list(at_work)
        assert awaited, "tasks are open, and nobody is at work"
        heard, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0)
        if not heard:
            begun = min((worker.since for worker in self.workers if worker.attempt), default=math.inf)
            timeout = min(max(0.0, begun + self.deadline - time.monotonic()), _PATIENCE)
            heard, _ = ray.wait(awaited, num_returns=1, timeout=timeout)
            if not heard and not any(worker.place for worker in self.workers):
                logger.warning("Still waiting for the cluster to start a first worker; see `ray status`.")
        outcomes = [news for reference in heard if (news := self._hear(at_work[reference]))]
        now = time.monotonic()
        for worker in [worker for worker in self.workers if worker.attempt and now - worker.since >= self.deadline]:
            assert worker.attempt
            late = Failure(kind="deadline", detail=f"It was not done within {self.deadline:g} seconds.")
            outcomes.append((worker.attempt, late))
            self._lose(worker)
        return outcomes

    def dismiss(self) -> None:
        for worker in list(self.workers):
            self._lose(worker)

    def _hear(self, worker: _Worker) -> tuple[Attempt, Outcome] | None:
        attempt = worker.attempt
        try:
            answer: Any = ray.get(worker.awaited)
        except exceptions.RayTaskError as error:
            answer = Failure.from_exception(error.cause if isinstance(error.cause, Exception) else error)
        except exceptions.RayError as error:
            worker.place = None  # there is no process any more
            self._lose(worker)
            if attempt is None:
                self._bury(error)
                return None
            ran_out = isinstance(error, exceptions.OutOfMemoryError)
            detail = "The worker ran out of memory." if ran_out else "The worker process died."
            return attempt, Failure(kind="worker_died", detail=detail, trace=str(error))
        if isinstance(answer, _Refusal):
            raise answer.to_error()
        worker.awaited, worker.attempt = None, None
        if attempt is None:
            worker.place, self.num_stillborn = answer, 0
            return None
        return attempt, answer

    def _bury(self, error: Exception) -> None:
        self.num_stillborn += 1
        if self.num_stillborn == _STILLBORN:
            raise SelectorError(
                f"{_STILLBORN} workers in a row died before they could begin. The last one: {connection.cause(error)} "
                "Check that this package, and every plug-in that the policy names, can be imported on all nodes."
            ) from error

    def _lose(self, worker: _Worker) -> None:
        """Ends a worker, even a stopped one if it is on this node: Ray asks the process itself to end."""
        self.workers.remove(worker)
        with contextlib.suppress(exceptions.RayError):
            ray.kill(worker.actor)
        if worker.attempt and worker.place and worker.place[0] == ray.get_runtime_context().get_node_id():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.place[1], signal.SIGKILL)
