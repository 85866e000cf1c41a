"""Workers on Ray: plain actors that are started, given work, listened to, replaced and stopped.

Ray places actors and carries receipts and answers; results travel through the store. Its own restarts and task retries
are off, because what becomes of an attempt whose worker died is for its supply to say. An actor holds one thing at a
time: with a second one queued behind it, an answer that is lost with the process would blame the wrong one.
"""

import contextlib
import json
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Any, cast

import ray as _ray
from ray import exceptions
from ray.experimental import internal_kv

from jobs import connection
from jobs.nodes import Nodes
from jobs.placing import Demand, explained, spelt_out
from selector.engine import alive
from selector.engine.supervise import Failure
from selector.engine.worker import Command, Work, WorkerState
from selector.engine.worker_pool import Ended, Job, Worker, WorkerPool
from selector.errors import UnreachableError

ray: Any = _ray  # whose own types are partly unknown
kv: Any = internal_kv
logger = logging.getLogger(__name__)

_LONG_WAIT = 60.0  # seconds without any worker after which we say so
_STARTING = 120.0  # seconds that a worker has at least to start, where there is room for it
_LISTENING = 1.0  # seconds after which signs of life are looked for
_WITH_THE_WORD = 64 * 2**10  # bytes: Ray sends up to 100 KiB so
_NODE_DIED = "its node has died"  # Ray's words, where it does not say on which one an actor was to start
_SIGNS = b"selector.signs"  # where they lie in the store of the cluster's head


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a worker holds, as Ray counts it. Steps that ask for the same share their workers."""

    cpus: float
    gpus: float = 0.0
    memory: float | None = None

    def needs(self) -> dict[str, float]:
        """By the names that a node's resources have, zeros too."""
        return {"CPU": self.cpus, "GPU": self.gpus} | ({"memory": self.memory} if self.memory is not None else {})

    def suits(self, other: "Kind") -> bool:
        """Whether a worker of this kind can do what one of the other is for: it may have more memory than that asks."""
        return (self.cpus, self.gpus) == (other.cpus, other.gpus) and (self.memory or 0) >= (other.memory or 0)

    def options(self) -> dict[str, float]:
        """For `ray.remote`."""
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        return options | ({"memory": self.memory} if self.memory is not None else {})


class WorkerActor:
    """The worker itself: a Ray actor, in a process of its own, whose main thread does the work."""

    def __init__(self, name: str) -> None:
        os.environ.setdefault("POLARS_MAX_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
        self._state = WorkerState()
        self._name, self._num_told, self._num_signs = name, 0, 0

    def process(self) -> tuple[str, int]:
        """The worker's node and process. The first answer of a worker: now it can begin."""
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def load(self, work: Work, num_threads: int | None) -> Any:
        """Drops the work that it has, and takes this one; with so many threads, if that differs from its CPUs."""
        if num_threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(num_threads)
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(num_threads)
        return self._state.answer("load", work)

    def answer(self, command: Command, given: Any) -> Any:
        """How that went: an answer, a failure, or the error that ends the run."""
        self._num_told += 1
        num_signs = self._num_signs
        with alive.heard_by(alive.Telling(self._sign)):
            answer = self._state.answer(command, given)
        if self._num_signs > num_signs:  # not for the driver to do, which would wait for a head that is gone
            with contextlib.suppress(exceptions.RayError, RuntimeError):
                kv._internal_kv_del(self._name, namespace=_SIGNS)
        return answer

    def _sign(self, sign: alive.Sign) -> None:
        """Lays a sign of life where the driver finds it: an actor that is at work can answer nobody."""
        self._num_signs += 1
        words = json.dumps([self._num_told, self._num_signs, sign.num_rows]).encode()
        with contextlib.suppress(exceptions.RayError, RuntimeError):  # the head is busy: the next sign will do
            kv._internal_kv_put(self._name, words, overwrite=True, namespace=_SIGNS)


@dataclass(kw_only=True, eq=False)
class _Actor(Worker):
    """A worker as the driver sees it: starting until it has told its process."""

    actor: Any
    name: str  # under which its signs of life lie
    awaited: Any  # the reference to its next answer; None while it is idle
    num_told: int = 0
    num_signs: int = 0
    process: tuple[str, int] | None = None  # its node and process

    @property
    def place(self) -> tuple[str, str]:
        return ("", "") if self.process is None else (self.process[0], str(self.process[1]))

    def tell(self, command: Command, job: Job[Any, Any], given: Any) -> None:
        if command == "load":
            job.packed = job.packed or _packed(job.work)
            self.awaited = self.actor.load.remote(job.packed, job.num_threads)
        else:
            self.num_told += 1
            self.awaited = self.actor.answer.remote(command, given)

    def sign(self) -> alive.Sign | None:
        """The sign of life that came since the last one, if it is about what the worker is at."""
        with contextlib.suppress(exceptions.RayError, RuntimeError):
            num_told, num_signs, num_rows = json.loads(
                kv._internal_kv_get(self.name, namespace=_SIGNS) or b"[0, 0, null]"
            )
            if num_told == self.num_told and num_signs > self.num_signs:
                self.num_signs = num_signs
                return alive.Sign(num_rows=num_rows)
        return None

    def end(self) -> None:
        """A process that is suspended cannot end itself as Ray asks: on this node it is killed."""
        with contextlib.suppress(exceptions.RayError):
            ray.kill(self.actor)
        is_busy = self.state in ("load", "prepare", "do")
        if is_busy and self.process and self.process[0] == ray.get_runtime_context().get_node_id():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process[1], signal.SIGKILL)


def _packed(work: Work) -> Any:
    """The work, small as it mostly is, so that it travels with the word itself. What is put among Ray's objects may be
    fetched from any worker that has it, also from one whose machine stands still: that takes half a minute."""
    return work if len(ray.cloudpickle.dumps(work)) <= _WITH_THE_WORD else ray.put(work)


class Actors(WorkerPool):
    """The workers of a run on Ray. Those of a kind that is not asked for make room for those that are."""

    def __init__(self, deadline: float) -> None:
        super().__init__(deadline)
        self._nodes = Nodes(deadline)
        self._waiting_since: float | None = None  # while nobody is at work and there are only workers to come
        self._last_notice = 0.0  # that we are waiting
        self._looked = 0.0  # for signs of life

    def start(self, kind: Hashable) -> Worker:
        assert isinstance(kind, Kind)
        self._make_room(kind)
        elsewhere: dict[str, Any] = {}
        table = self._nodes.table
        gone = sorted(node for node in self._nodes.lost() if node in table and table[node].is_alive)
        if gone:  # Ray does not know yet, and would wait there for a quarter of a minute
            elsewhere = {"label_selector": {"ray.io/node-id": f"!in({','.join(gone)})"}}
        actor_class = ray.remote(**kind.options(), **elsewhere, max_restarts=0, max_task_retries=0)(WorkerActor)
        name = uuid.uuid4().hex
        actor = actor_class.remote(name)
        return _Actor(kind=kind, actor=actor, name=name, awaited=actor.process.remote())

    def suits(self, worker: Worker, kind: Hashable) -> bool:
        assert isinstance(worker.kind, Kind) and isinstance(kind, Kind)
        return worker.kind.suits(kind)

    def keep(self, kinds: Collection[Kind]) -> None:
        """Ends the workers that have nothing to do, and are of use for none of these kinds."""
        for worker in [worker for worker in self.workers if worker.state in ("starting", "idle")]:
            if not any(self.suits(worker, kind) for kind in kinds):
                self.end(worker)

    def close(self) -> None:
        super().close()
        self._nodes.close()

    def leaving(self) -> Collection[str]:
        return self._nodes.leaving

    def is_lost(self, worker: Worker) -> bool:
        return self._nodes.is_gone(worker.place[0])

    def receive(self, seconds: float) -> list[tuple[Worker, Any]]:
        self._nodes.check_head()
        self._nodes.watch(frozenset(worker.place[0] for worker in self.workers if worker.place[0]))
        lost = self._nodes.lost()
        ended: list[tuple[Worker, Any]] = [
            (worker, Ended(detail="Its machine does not answer.", cause="machine"))
            for worker in self.workers
            if worker.place[0] in lost
        ]
        if ended:
            return ended
        actors = {actor.awaited: actor for actor in cast(list[_Actor], self.workers) if actor.awaited is not None}
        assert actors, "something is open, and nobody is at work"
        most = min(seconds, _LISTENING)
        ready, _ = ray.wait(list(actors), num_returns=1 if seconds else len(actors), timeout=most)
        if ready or any(actor.state != "starting" for actor in actors.values()):
            self._waiting_since = None
        elif seconds:
            self._wait_for_a_worker(actors[next(iter(actors))])
        signs: list[tuple[Worker, Any]] = []
        now = time.monotonic()
        if ((seconds and not ready) or now - self._looked >= _LISTENING) and self._nodes.is_head_sure:
            self._looked = now  # also where others always have an answer: who is heard of is not late
            signs = [(actor, actor.sign()) for actor in actors.values() if actor.state == "do"]
        answers = [(actors[reference], self._receive(actors[reference])) for reference in ready]
        return [(actor, sign) for actor, sign in signs if sign is not None] + answers

    def _receive(self, actor: _Actor) -> Any:
        reference, actor.awaited = actor.awaited, None
        try:
            answer: Any = ray.get(reference)
        except exceptions.RayTaskError as error:
            return Failure.from_exception(error.cause if isinstance(error.cause, Exception) else error)
        except exceptions.RayError as error:
            return self._ended(actor, error)
        if actor.state == "starting":
            actor.process = answer
        return answer

    def _ended(self, actor: _Actor, error: exceptions.RayError) -> Ended:
        """Why there is no answer. A machine that is gone is not the fault of what was done on it."""
        node, is_beginning = actor.place[0], actor.state in ("starting", "load")
        is_taken = isinstance(error, exceptions.RayActorError) and (error.preempted or _NODE_DIED in str(error))
        trace = connection.cause(error) if is_beginning else str(error)
        if is_taken or (node and self._nodes.is_gone(node)):
            actor.process = None  # there is no process any more
            return Ended(detail="Its machine is gone.", trace=trace, cause="machine")
        actor.process = None
        if isinstance(error, exceptions.OutOfMemoryError):
            return Ended(detail="The worker ran out of memory.", trace=trace, cause="memory")
        return Ended(trace=trace)

    def _make_room(self, kind: Kind) -> None:
        """Ends idle workers that are for nothing that is at work now, if the cluster is too small for both."""
        nodes = [node.resources for node in self._nodes.table.values() if node.is_alive]
        held = [worker.kind for worker in self.workers if isinstance(worker.kind, Kind)]
        for name, amount in kind.needs().items():
            available = sum(node.get(name, 0.0) for node in nodes)
            if amount and amount + sum(other.needs().get(name, 0.0) for other in held) > available + 1e-6:
                self.keep([kind, *cast(list[Kind], [job.kind for job in self.at_work])])

    def _wait_for_a_worker(self, first: _Actor) -> None:
        """A line once a minute. Raises UnreachableError after the deadline, or two minutes where that is less and the
        cluster has what a worker needs: a process takes its time to start."""
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = self._last_notice = now
        needs = {name: amount for name, amount in cast(Kind, first.kind).needs().items() if amount}
        nodes = [node.resources for node in self._nodes.table.values() if node.is_alive]
        has_room = any(all(node.get(name, 0.0) >= amount for name, amount in needs.items()) for node in nodes)
        limit = max(self.deadline, _STARTING) if has_room else self.deadline
        if now - self._waiting_since >= limit:
            all_nodes = {name: sum(node.get(name, 0.0) for node in nodes) for name in needs}
            raise UnreachableError(
                f"No worker has come within {limit:g} seconds: each one needs {spelt_out(needs)}, and all nodes of "
                f"the cluster together have {spelt_out(all_nodes)}. Start nodes that have it, wait longer with "
                "--deadline, or see in `ray status` who holds it."
            )
        if now - self._last_notice >= _LONG_WAIT:
            self._last_notice = now
            logger.warning(
                "Still waiting for the cluster to start a first worker:\n%s",
                "\n".join(explained([Demand(steps=("the first one",), needs=needs, num_workers=1)])),
            )
