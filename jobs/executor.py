"""The executor that works on Ray: it joins a cluster or starts one, and its workers try parts and items.

Durability and retries are ours and not Ray's: see `jobs.workers`.
"""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, cast

import ray as _ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs import connection
from jobs.placing import Demand, explained, grows_to, holds, spelt_out
from jobs.workers import Actors, Kind
from selector.engine import memory
from selector.engine.answers import Answers, sent
from selector.engine.local import DEADLINE, LocalExecutor, check_options
from selector.engine.part import Receipt, Resources, Task
from selector.engine.step import Map, Step
from selector.engine.store import Store
from selector.engine.supervise import Attempt, Supervision
from selector.engine.worker import ItemWork, PartWork
from selector.engine.worker_pool import Attempted, Job, Result, Supply
from selector.errors import SelectorError, UsageError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

ray: Any = _ray  # whose own types are partly unknown


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """Runs parts on the workers of a Ray cluster, or of a small one started on this machine for the run.

    It joins the cluster at `address`, else at RAY_ADDRESS, else starts its own; it never joins one that merely
    happens to run on the machine. Inside a process that is connected to Ray already, it uses that connection.
    `actors` is the largest number of workers of a kind (default: as many as the cluster has room for, one a CPU or, for
    a step that wants a GPU, one a GPU), `deadline` the seconds without a sign of life after which a part or an item of
    a map counts as hung, `attempts` how often an item may fail, or a part before it is searched for the rows that are
    to blame. A trial of some of a part's rows has as much of the deadline as it has of the rows. Workers live until
    this executor is left, or `release` is told that nothing to come wants their kind.
    """

    address: str | None = None
    actors: int | None = None
    deadline: float = DEADLINE
    attempts: int = 3

    def __post_init__(self) -> None:
        check_options(self.deadline, self.attempts, actors=self.actors)
        if not isinstance(self.address, str | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"address={self.address!r} is not text. Give host:port, or None for a Ray of our own.")

    @functools.cached_property
    def _entered(self) -> list["_Entered"]:
        """Once for each time that this executor was entered."""
        return []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            if not ray.is_initialized():
                connection.join(undo, self._cluster) if self._cluster else connection.start(undo)
            worker_pool = self._worker_pool if self._entered else Actors(self.deadline)
            if not self._entered:
                undo.callback(worker_pool.close)
            self._entered.append(_Entered(undo=undo.pop_all(), worker_pool=worker_pool))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._entered.pop().undo.close()

    @property
    def _cluster(self) -> str | None:
        address = self.address or os.environ.get("RAY_ADDRESS")
        return None if address == "local" else address

    def device(self) -> Literal["cuda", "cpu"]:
        """`cuda` if any node of the cluster has a GPU, or its autoscaler tells that it can bring one. Before entering,
        it looks without starting a Ray."""
        if ray.is_initialized():
            return "cuda" if ray.cluster_resources().get("GPU") or grows_to().get("GPU") else "cpu"
        if not self._cluster:
            connection.remove_deserted()  # here, since a run that finds all of its steps done starts no Ray
            return LocalExecutor().device()
        with self:
            return self.device()

    def run(self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int | None = None) -> Iterator[Receipt]:
        """See `Executor.run`."""
        if not tasks:
            return
        with contextlib.nullcontext() if self._entered else self:
            yield from self._worker_pool.work(self._part_job(step, tasks, store, num_rows))

    def are_apart(self, step: Map, other: Map) -> bool:
        """See `Executor.are_apart`. Workers on GPUs hold no CPU that another one could have."""
        both = step.resources, other.resources
        if bool(both[0].gpus) == bool(both[1].gpus) or any(one.gpus and one.cpus for one in both):
            return False
        return any(_Room.of(self.actors, one).kind.gpus for one in both if one.gpus)

    @contextlib.contextmanager
    def ahead(
        self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int, tell: Callable[[Receipt], None]
    ) -> Generator[Iterator[Receipt]]:
        """See `Executor.ahead`."""
        job = replace(self._part_job(step, tasks, store, num_rows), tell=tell)
        with self._worker_pool.ahead(job):
            yield self._worker_pool.work(job)

    def map(self, work: Callable[[Item], Answer], items: Sequence[Item]) -> Iterator[Answer]:
        """See `Executor.map`."""
        return self._answers(sent(work), items)

    def _answers(self, work: ItemWork, items: Sequence[Any]) -> Iterator[Any]:
        if not items:
            return
        with contextlib.nullcontext() if self._entered else self:
            supply = Answers[Any](work.name, items, self.attempts)
            for answers in self._worker_pool.work(self._job(work, supply, Resources(), len(items))):
                yield from answers

    def release(self, later: Sequence[Step]) -> None:
        """See `Executor.release`."""
        if self._entered and self._worker_pool.workers:
            wanted = [Resources(), *(step.resources for step in later if isinstance(step, Map))]
            self._worker_pool.keep({_Room.of(self.actors, resources).kind for resources in dict.fromkeys(wanted)})

    def explain(self, steps: Sequence[Step], store: Store) -> list[str]:
        """Lines that say where the workers of these steps find room on the cluster, and why some do not."""
        with contextlib.nullcontext() if self._entered else self:
            named: dict[tuple[Resources, int | None], list[str]] = {}
            for step in steps:
                asks = (step.resources, memory.measured(store, step)) if isinstance(step, Map) else (Resources(), None)
                named.setdefault(asks, []).append(step.name)
            rooms = {asks: _Room.of(self.actors, *asks) for asks in named}
            return list(
                explained(
                    Demand(
                        steps=tuple(names), needs=rooms[asks].kind.needs(), measured=asks[1],
                        num_workers=max(1, rooms[asks].num_workers),
                    )
                    for asks, names in named.items()
                )
            )  # fmt: skip

    def on_each_node(self, work: Callable[[], Answer], seconds: float = 120.0) -> dict[str, Answer | str]:
        """What `work` answers on every node of the cluster, by the node's address; text says why there is no answer."""
        with contextlib.nullcontext() if self._entered else self:
            nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
            remote = ray.remote(num_cpus=0, max_retries=0)(_answer_of)
            requested = {
                remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(work): node
                for node in nodes
            }
            ready, late = ray.wait(list(requested), num_returns=len(requested), timeout=seconds)
            answers: dict[str, Answer | str] = {}
            for reference, node in requested.items():
                name = f"{nodes[node]} {node[:8]}"
                if reference in late:
                    answers[name] = f"It did not answer within {seconds:g} seconds."
                    ray.cancel(reference, force=True)
                    continue
                try:
                    answers[name] = ray.get(reference)
                except exceptions.RayError as error:
                    answers[name] = connection.cause(error)
            assert len(ready) + len(late) == len(requested)
            return answers

    @property
    def _worker_pool(self) -> Actors:
        return self._entered[0].worker_pool

    def _part_job(self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int | None) -> Job[Attempt, Receipt]:
        supervision = Supervision(step, tasks, store, self.attempts, num_rows)
        fresh = cast(Map, replace(cast(Any, step)))  # its options, without a model that was loaded here
        work = PartWork(name=step.name, step=fresh, store=store)
        return self._job(work, supervision, step.resources, len(tasks), memory.measured(store, step))

    def _job(
        self, work: PartWork | ItemWork, supply: Supply[Attempted, Result], resources: Resources, num_tasks: int,
        measured: int | None = None,
    ) -> Job[Attempted, Result]:  # fmt: skip
        room = _Room.of(self.actors, resources, measured)
        if not room.num_workers:
            raise SelectorError(
                f"{work.name} asks for {spelt_out(room.kind.needs())} for each worker, and this machine has "
                f"{spelt_out(room.available)}. "
                "Use a larger machine or a cluster, or the executor `local`, which asks for nothing."
            )
        num_workers = min(room.num_workers, num_tasks)
        num_threads = room.num_threads(num_workers)
        return Job(work=work, supply=supply, kind=room.kind, num_workers=num_workers, num_threads=num_threads)


def _answer_of(work: Callable[[], Answer]) -> Answer:
    return work()


@dataclass(frozen=True, kw_only=True)
class _Entered:
    """What leaving an executor has to undo, and its workers, which it shares with itself if it is entered again."""

    undo: contextlib.ExitStack
    worker_pool: Actors


@dataclass(frozen=True, kw_only=True)
class _Room:
    """How many workers with these resources there may be, and what each of them holds.

    What is not asked for follows from the cluster: a worker for every CPU, or every GPU where one is wanted, and for
    each worker as many whole CPUs as still let all of them be placed. A worker on a GPU uses as many, and holds none:
    so it finds room beside those on CPUs. Memory follows from what an earlier run on the same root has `measured`,
    but is no more than some node has; on our own machine, where nobody else is placed, it is held only where there is
    too little for a worker on every CPU. The number of tasks decides nothing here: so all that asks for nothing, maps
    too, shares its workers.
    """

    kind: Kind
    num_workers: int  # 0: our own machine cannot hold a single one
    available: Mapping[str, float]  # what our own machine has of what is asked for
    num_cpus: float  # of our own machine, where its workers share them all however few they are
    threads: int | None  # of each worker, where these are not the CPUs that it holds

    @classmethod
    def of(cls, actors: int | None, resources: Resources, measured: int | None = None) -> "_Room":
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        has_gpus = any(node.get("GPU") for node in nodes) or bool(grows_to().get("GPU"))
        gpus = float(resources.gpus) if has_gpus else 0.0
        nodes = [node for node in nodes if node.get("GPU" if gpus else "CPU")]
        is_own = bool(nodes) and connection.OWN_CLUSTER in nodes[0]  # one machine, which does not grow as a cluster may
        declared = None if resources.memory is None else float(resources.memory)
        held = _measured_memory(nodes, measured, is_own) if measured and not declared else declared
        least = Kind(
            cpus=(0.0 if gpus else 1.0) if resources.cpus is None else float(resources.cpus),
            gpus=gpus,
            memory=held,
        )
        needs = least.needs()
        room = sum(holds(node, needs if any(needs.values()) else {"CPU": 1.0}) for node in nodes)
        if is_own and (not room or resources.cpus is not None or gpus):
            most = min(actors or room, room)
        else:
            most = actors or room or 1
            if is_own and held:  # of which there is not more, however many share a CPU
                most = min(most, holds(nodes[0], {"memory": held}))
        num_workers = min(most, resources.workers or most)
        each = _cpus_each(nodes, num_workers, is_own) if resources.cpus is None and num_workers else least.cpus
        return cls(
            kind=least if gpus else replace(least, cpus=each),
            num_workers=num_workers,
            available={name: nodes[0].get(name, 0.0) for name in needs if needs[name]} if is_own else {},
            num_cpus=nodes[0].get("CPU", 0.0) if is_own and resources.cpus is None else 0.0,
            threads=max(1, int(each)) if gpus and resources.cpus is None else None,
        )

    def num_threads(self, num_workers: int) -> int | None:
        """How many threads each of so many workers may use; None: as many as it has CPUs."""
        return max(1, int(self.num_cpus / num_workers)) if self.num_cpus else self.threads


def _measured_memory(nodes: Sequence[Mapping[str, float]], measured: int, is_own: bool) -> float | None:
    """Bytes that a worker holds where so many were measured."""
    wanted = min(float(memory.wanted(measured)), max((node.get("memory", 0.0) for node in nodes), default=0.0))
    if is_own and holds(nodes[0], {"memory": wanted}) >= nodes[0].get("CPU", 0.0):
        return None
    return wanted or None


def _cpus_each(nodes: Sequence[Mapping[str, float]], num_workers: int, is_own: bool) -> float:
    """The most whole CPUs that every worker can have; on a machine of our own with too few of them, a share."""
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    fitting = [n for n in range(1, max(cpus, default=0) + 1) if sum(cpu // n for cpu in cpus) >= num_workers]
    if not fitting and is_own:
        return math.floor(1e4 * cpus[0] / num_workers) / 1e4
    return float(max(fitting, default=1))
