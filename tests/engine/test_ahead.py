"""Steps at work beside each other, on workers of their own: nothing is different but the time that they take."""

import contextlib
from collections.abc import Callable, Collection, Generator, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import MemoryStorage
from selector.engine.local import LocalExecutor
from selector.engine.part import Part, Piece, Receipt, Resources, Task
from selector.engine.runner import NoProgress, Runner
from selector.engine.step import APART, Done, Fold, Map, Result, Step, Tables
from selector.engine.store import Store
from selector.engine.supervise import Supervision
from selector.engine.worker import Command, PartWork, WorkerState
from selector.engine.worker_pool import Ended, Job, Worker, WorkerPool
from selector.errors import SelectorError

NUM_PARTS = 5


@dataclass(frozen=True, kw_only=True)
class Numbers(Map):
    """The rows of a part, plus what the steps that it reads have."""

    name: str = field(metadata=APART)
    reads: tuple[str, ...] = field(default=(), metadata=APART)
    output = "numbers"
    gpus: int = 0
    fails: bool = field(default=False, metadata=APART)

    @property
    def resources(self) -> Resources:
        return Resources(gpus=self.gpus)

    def rows_in(self, done: Done) -> int:
        return 4 * NUM_PARTS

    def tasks(self, done: Done) -> Sequence[Task]:
        inputs = [{name: done[name].parts[number].key for name in self.reads} for number in range(NUM_PARTS)]
        return [
            Task(key=self.key(self.name, number, given), part=part_of(number), inputs=given)
            for number, given in enumerate(inputs)
        ]

    def prepare(self, task: Task, store: Store) -> None:
        if self.fails:
            raise ValueError("there is no model")

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        read = sum(sum(store.read(key, "numbers")["row"].to_pylist()) for key in task.inputs.values())
        return {"numbers": pa.table({"row": task.places + task.part.pieces[0].first_row + read})}


@dataclass(frozen=True, kw_only=True)
class Sum(Numbers, Fold):
    """And what they come to."""

    folded = "sum"

    def fold(self, done: Done, parts: Iterator[Any]) -> Tables:
        yield "sum", pa.table({"sum": [sum(sum(part["numbers"]["row"].to_pylist()) for part in parts)]})


def part_of(number: int) -> Part:
    return Part.of(
        Piece(
            file=0, uri="web.jsonl", format="jsonl", sha256="0" * 64, version="1", first_row=4 * number, num_rows=4,
            start=0, end=1, source=None,
        )
    )  # fmt: skip


FLOW: list[Step] = [
    Numbers(name="texts"),
    Numbers(name="embed", reads=("texts",), gpus=1),
    Numbers(name="cluster", reads=("embed",)),
    Sum(name="rate/a", reads=("texts",)),
    Numbers(name="rate/b", reads=("texts",)),
    Numbers(name="rate/c", reads=("texts",), gpus=1),
    Sum(name="last", reads=("cluster", "rate/a", "rate/b", "rate/c")),
]


@dataclass(kw_only=True, eq=False)
class Here(Worker):
    """A worker of this process, which answers when it is its turn."""

    does: WorkerState = field(default_factory=WorkerState)
    told: list[tuple[Command, Any]] = field(default_factory=list[tuple[Command, Any]])

    def tell(self, command: Command, job: Job[Any, Any], given: Any) -> None:
        self.told.append((command, replace(job.work, step=replace(job.work.step)) if command == "load" else given))  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType, reportCallIssue, reportArgumentType]

    def end(self) -> None:
        self.told.clear()


class InTurn(WorkerPool):
    """Workers of which one answers at a time, in the order that a test says; some die of it."""

    def __init__(self, order: Iterator[int], dies: Collection[int] = ()) -> None:
        super().__init__(300)
        self._order, self._dies, self._num_answers = order, dies, 0

    def start(self, kind: Hashable) -> Worker:
        return Here(kind=kind, state="idle")

    def receive(self, seconds: float) -> list[tuple[Worker, Any]]:
        busy = [worker for worker in self.workers if isinstance(worker, Here) and worker.told]
        if not seconds or not busy:
            assert busy, "somebody is at work"
            return []
        worker = busy[next(self._order, 0) % len(busy)]
        self._num_answers += 1
        if self._num_answers in self._dies:
            return [(worker, Ended())]
        return [(worker, worker.does.answer(*worker.told.pop(0)))]


@dataclass(frozen=True, kw_only=True)
class Pools(LocalExecutor):
    """Two workers on GPUs and two on CPUs."""

    worker_pool: WorkerPool = field(default_factory=lambda: InTurn(iter(())))

    def run(self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int | None = None) -> Generator[Receipt]:
        yield from self.worker_pool.work(self._of(step, tasks, store, num_rows))

    def __exit__(self, *error: Any) -> None:
        self.worker_pool.close()

    def are_apart(self, step: Map, other: Map) -> bool:
        return bool(step.resources.gpus) != bool(other.resources.gpus)

    @contextlib.contextmanager
    def ahead(
        self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int, tell: Callable[[Receipt], None]
    ) -> Generator[Iterator[Receipt]]:
        job = replace(self._of(step, tasks, store, num_rows), tell=tell)
        with self.worker_pool.ahead(job):
            yield self.worker_pool.work(job)

    def _of(self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int | None) -> Job[Any, Receipt]:
        work = PartWork(name=step.name, step=step, store=store)
        supervision = Supervision(step, tasks, store, 3, num_rows)
        return Job(work=work, supply=supervision, kind=bool(step.resources.gpus), num_workers=2)


class Noting(NoProgress):
    """What is told of a run; somebody may end it once so many parts are done."""

    def __init__(self, most: int | None = None) -> None:
        self.events: list[tuple[str, str]] = []
        self._most = most

    def began(self, name: str, num_parts: int) -> None:
        self.events.append(("began", name))

    def advanced(self, name: str, receipt: Receipt) -> None:
        self.events.append(("part", name))
        if self._most is not None and len([event for event, _ in self.events if event == "part"]) == self._most:
            raise KeyboardInterrupt

    def ended(self, result: Result) -> None:
        self.events.append(("ended", result.name))

    def names(self, event: str) -> list[str]:
        return [name for each, name in self.events if each == event]


def run(store: Store, executor: LocalExecutor, flow: Sequence[Step] = FLOW, most: int | None = None) -> Noting:
    noting = Noting(most)
    with Runner(store, executor, noting) as runner:
        done = runner.run(flow)
    assert noting.names("ended") == [step.name for step in flow] == list(done)
    assert not any(result.cached for result in done.values()) or most is None
    return noting


def kept(store: Store) -> dict[str, Any]:
    """Every artefact with its tables, so far as they do not lie somewhere by chance."""
    return {key: {name: blob.sha256 for name, blob in store.sealed(key).tables.items()} for key in store.seals()}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What is kept of a flow of which one step is at work at a time."""
    store = Store(MemoryStorage())
    run(store, LocalExecutor())
    return kept(store)


ORDERS = st.lists(st.integers(0, 3), min_size=1, max_size=60)


@given(order=ORDERS, dies=st.sets(st.integers(1, 60), max_size=2), most=st.none() | st.integers(1, 20))
def test_whoever_is_done_first_and_whatever_is_lost_the_same_is_kept_and_said_in_the_same_order(
    order: list[int], dies: set[int], most: int | None, alone: dict[str, Any]
) -> None:
    store = Store(MemoryStorage())
    if most is not None:
        worker_pool = InTurn(iter(order))
        with pytest.raises(KeyboardInterrupt):
            run(store, Pools(worker_pool=worker_pool), most=most)
        assert not worker_pool.workers
    with Runner(store, Pools(worker_pool=InTurn(iter(order), dies))) as runner:
        done = runner.run(FLOW)
    assert list(done) == [step.name for step in FLOW] and kept(store) == alone


def test_a_step_on_cpus_is_at_work_beside_one_on_gpus_as_soon_as_what_it_reads_is_there() -> None:
    noting = run(Store(MemoryStorage()), Pools(worker_pool=InTurn(iter([0, 1, 2, 3] * 100))))
    places = {event: noting.events.index(event) for event in noting.events}
    assert places["began", "embed"] < places["began", "rate/a"] < places["ended", "embed"]
    assert places["began", "rate/c"] < places["ended", "rate/b"], "and one on GPUs beside one on CPUs"
    assert noting.names("part").count("rate/a") == NUM_PARTS


def test_where_there_is_one_kind_of_workers_nothing_is_begun_before_its_turn() -> None:
    noting = run(Store(MemoryStorage()), LocalExecutor())
    assert list(dict.fromkeys(noting.names("began"))) == noting.names("ended")


def test_a_step_that_cannot_begin_is_told_of_when_its_turn_has_come() -> None:
    store, flow = Store(MemoryStorage()), [replace(step, fails=step.name == "rate/a") for step in FLOW]  # pyright: ignore[reportCallIssue]
    noting, order = Noting(), iter([0, 1, 2, 3] * 100)
    with (
        pytest.raises(SelectorError, match=r"^rate/a cannot begin: ValueError: there is no model"),
        Runner(store, Pools(worker_pool=InTurn(order)), noting) as runner,
    ):
        runner.run(flow)
    assert noting.names("ended") == ["texts", "embed", "cluster"]
    assert asdict(replace(runner.done["embed"], parts=()))["rows_out"] == 4 * NUM_PARTS


def test_a_worker_is_not_late_for_what_nobody_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two steps the driver may be at something that takes long."""
    now = 0.0
    monkeypatch.setattr("selector.engine.worker_pool.time.monotonic", lambda: now)
    worker_pool = InTurn(iter([1] * 100))
    store, first, second = Store(MemoryStorage()), Numbers(name="texts"), Numbers(name="embed", gpus=1)
    executor = Pools(worker_pool=worker_pool)
    receipts: list[Receipt] = []
    with executor.ahead(second, second.tasks(Done(store)), store, 20, receipts.append) as rest:
        for _ in executor.run(first, first.tasks(Done(store)), store):
            pass
        workers = list(worker_pool.workers)
        assert sum(worker.state != "idle" for worker in workers) >= 2, "those of the other step"
        now += 10_000
        receipts += rest
    assert len(receipts) == NUM_PARTS and worker_pool.workers == workers, "none was ended"
