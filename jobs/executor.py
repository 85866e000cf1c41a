"""Runs parts on Ray: one plain actor per worker, with durability and retries being ours and not Ray's.

Ray places actors and carries receipts; results travel through the store. Its own restarts and task retries
are off, because what becomes of a part whose worker died is for `Supervision` to say. An actor holds at most
two parts, the one it is at and the next; only the one it is at is blamed when it dies or misses its deadline.
"""

import contextlib
import functools
import importlib
import logging
import math
import os
import re
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal, Self, cast

import ray as _ray
from ray import exceptions

from selector import errors
from selector.errors import DamagedError, SelectorError, UnreachableError, UsageError
from selector.executor import Attempt, Failure, LocalExecutor, Outcome, Supervision, attempt_here
from selector.stage import Receipt, Stage, Task
from selector.store import Store

ray: Any = _ray  # whose own types are partly unknown
logger = logging.getLogger(__name__)

_STILLBORN = 5  # workers in a row that died before they could answer
_PATIENCE = 60.0  # seconds without any worker after which we say so
_OBJECT_STORE_BYTES = 100 * 2**20  # only receipts travel
_OWN = "selector_own"  # a resource of the Ray that we start ourselves, by which we know it


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
    def _session(self) -> contextlib.ExitStack:
        """What leaving has to undo."""
        return contextlib.ExitStack()

    def __enter__(self) -> Self:
        if not ray.is_initialized():
            address = self.address or os.environ.get("RAY_ADDRESS") or "local"
            with contextlib.ExitStack() as undo:
                _start(undo) if address == "local" else _join(undo, address)
                self._session.push(undo.pop_all())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._session.close()

    def device(self) -> Literal["cuda", "cpu"]:
        """`cuda` if any node of the cluster has a GPU."""
        return "cuda" if ray.cluster_resources().get("GPU") else "cpu"

    def run(self, stage: Stage, tasks: Sequence[Task], store: Store) -> Iterator[Receipt]:
        """See `Executor.run`. The workers live as long as the stage does."""
        if not tasks:
            return
        supervision = Supervision(stage, tasks, store, self.attempts)
        num_workers, resources = self._size(stage, len(tasks))
        fresh = cast(Stage, replace(cast(Any, stage)))  # its options, without a model that was loaded here
        crew = _Crew(hire=lambda: _hire(fresh, store, resources), deadline=self.deadline, supervision=supervision)
        try:
            while supervision.num_open:
                crew.grow(min(num_workers, supervision.num_open))
                crew.feed()
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
        if not fitting and _OWN in nodes[0]:  # a cluster may grow; our own machine does not, so its CPUs are shared
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
    """A worker as the driver sees it."""

    actor: Any
    hello: Any  # the reference to its first answer; None once it has come
    place: tuple[str, int] | None = None  # its node and process, once it has answered
    queue: deque[tuple[Attempt, Any]] = field(default_factory=deque[tuple[Attempt, Any]])  # the first one is running
    since: float = 0.0  # when the first one became the first


@dataclass(kw_only=True, eq=False)
class _Crew:
    """The workers of one stage: hired, fed, heard, replaced when lost, and dismissed."""

    hire: Callable[[], Any]
    deadline: float
    supervision: Supervision
    workers: list[_Worker] = field(default_factory=list[_Worker])
    num_stillborn: int = 0

    def grow(self, num_workers: int) -> None:
        """Asks for workers up to a number. Ray starts them when and where there is room."""
        while len(self.workers) < num_workers:
            actor = self.hire()
            self.workers.append(_Worker(actor=actor, hello=actor.hello.remote()))

    def feed(self) -> None:
        """Hands out work: one attempt to every worker that is ready, then one more to queue behind it."""
        for length in (0, 1):
            for worker in self.workers:
                if worker.place and len(worker.queue) == length and not (worker.queue and worker.queue[0][0].alone):
                    attempt = self.supervision.take(idle=not worker.queue)
                    if attempt is not None:
                        worker.since = worker.since if worker.queue else time.monotonic()
                        worker.queue.append((attempt, worker.actor.perform.remote(attempt.task)))

    def wait(self) -> list[tuple[Attempt, Outcome]]:
        """What has come of attempts, once there is news of any worker or one has missed its deadline."""
        awaited = {
            worker.hello or worker.queue[0][1]: worker for worker in self.workers if worker.hello or worker.queue
        }
        references = list(awaited)
        assert references, "open tasks, and nobody is at work"
        heard, _ = ray.wait(references, num_returns=len(references), timeout=0)
        if not heard:
            begun = min((worker.since for worker in self.workers if worker.queue), default=math.inf)
            timeout = min(max(0.0, begun + self.deadline - time.monotonic()), _PATIENCE)
            heard, _ = ray.wait(references, num_returns=1, timeout=timeout)
            if not heard and not any(worker.place for worker in self.workers):
                logger.warning("Still waiting for the cluster to start a first worker; see `ray status`.")
        outcomes = [news for reference in heard if (news := self._hear(awaited[reference]))]
        now = time.monotonic()
        for worker in [worker for worker in self.workers if worker.queue and now - worker.since >= self.deadline]:
            _end(worker)
            late = Failure(kind="deadline", detail=f"It was not done within {self.deadline:g} seconds.")
            outcomes.append((self._lose(worker), late))
        return outcomes

    def dismiss(self) -> None:
        for worker in self.workers:
            _end(worker)
        self.workers.clear()

    def _hear(self, worker: _Worker) -> tuple[Attempt, Outcome] | None:
        if worker.hello:
            self._greet(worker)
            return None
        attempt, reference = worker.queue[0]
        try:
            answer: Outcome | _Refusal = ray.get(reference)
        except exceptions.RayTaskError as error:
            answer = Failure.from_exception(error)
        except exceptions.RayError as error:
            ran_out = isinstance(error, exceptions.OutOfMemoryError)
            detail = "The worker ran out of memory." if ran_out else "The worker process died."
            return self._lose(worker), Failure(kind="worker_died", detail=detail, trace=str(error))
        if isinstance(answer, _Refusal):
            raise answer.to_error()
        worker.queue.popleft()
        worker.since = time.monotonic()
        return attempt, answer

    def _greet(self, worker: _Worker) -> None:
        try:
            worker.place = ray.get(worker.hello)
        except exceptions.RayError as error:
            self.workers.remove(worker)
            self.num_stillborn += 1
            if self.num_stillborn == _STILLBORN:
                raise SelectorError(
                    f"{_STILLBORN} workers in a row died before they could begin. The last one: {error} "
                    "Check that this package, and every plug-in that the policy names, can be imported on all nodes."
                ) from error
        else:
            worker.hello, self.num_stillborn = None, 0

    def _lose(self, worker: _Worker) -> Attempt:
        """The attempt that a lost worker was at; the one behind it is handed out again."""
        self.workers.remove(worker)
        blamed, *unbegun = (attempt for attempt, _ in worker.queue)
        for attempt in unbegun:
            self.supervision.give_back(attempt)
        with contextlib.suppress(exceptions.RayError):
            ray.kill(worker.actor)  # it may only be out of reach
        return blamed


def _end(worker: _Worker) -> None:
    """Ends a live worker, even one that is stopped if it is on this node: Ray's kill asks the process itself."""
    with contextlib.suppress(exceptions.RayError):
        ray.kill(worker.actor)
    if worker.queue and worker.place and worker.place[0] == ray.get_runtime_context().get_node_id():
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.place[1], signal.SIGKILL)


def _start(undo: contextlib.ExitStack) -> None:
    """Starts a Ray of our own on this machine, which only we can talk to, and which leaves nothing behind."""
    above = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="selector-ray-", dir=above if len(above) < 30 else "/tmp")  # holds sockets
    undo.callback(shutil.rmtree, folder, ignore_errors=True)
    undo.callback(_reread_environment)
    undo.enter_context(
        _environment(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    )
    _reread_environment()
    try:
        _connect(
            undo,
            address="local",
            _temp_dir=folder,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            num_gpus=None if LocalExecutor().device() == "cuda" else 0,
            resources={_OWN: 1},
        )
    except _REFUSALS as error:
        raise UnreachableError(
            f"Ray does not start on this machine: {_first_line(error)} Use the executor `local` to do without it."
        ) from error


def _join(undo: contextlib.ExitStack, address: str) -> None:
    """Connects to a cluster that somebody else looks after."""
    cure = "Give the address of a running cluster (host:port), or none to start one on this machine for the run."
    host = re.fullmatch(r"(?:\w+://)?\[?([^/\]]+)\]?:(\d+)", address)
    try:
        if host:  # Ray itself would try for a minute
            socket.create_connection((host[1], int(host[2])), timeout=10).close()
        _connect(undo, address=address)
    except (OSError, *_REFUSALS) as error:
        raise UnreachableError(f"No Ray cluster answers at {address!r}: {_first_line(error)} {cure}") from error


_REFUSALS = (ConnectionError, RuntimeError, ValueError, TimeoutError, AssertionError, exceptions.RayError)


def _connect(undo: contextlib.ExitStack, **options: Any) -> None:
    """`ray.init`, without a word on stdout, and undone by `undo`."""
    worker_module: Any = importlib.import_module("ray._private.worker")
    undo.callback(setattr, worker_module, "_worker_logs_enabled", True)
    worker_module._worker_logs_enabled = False  # Ray tells of each dead worker on stdout, whatever log_to_driver says
    if threading.current_thread() is threading.main_thread():
        undo.callback(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))  # Ray sets its own
    undo.callback(ray.shutdown)
    ray.init(log_to_driver=False, configure_logging=False, **options)


@contextlib.contextmanager
def _environment(**values: str) -> Generator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _reread_environment() -> None:
    """Makes Ray see the environment's authentication settings, which it reads once, when it is imported."""
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
