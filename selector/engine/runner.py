"""How a flow of steps is run once: each is looked up by its fingerprint, or what is missing of it is done and sealed.

A step's seal is written last, so its existence means that the step is complete. The runner knows no step by name: what
there is to know of one, the step says.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol, Self, TypeVar

import pyarrow as pa

from selector import failpoint
from selector.engine import alive, inside, lease, memory
from selector.engine.canonical import fingerprint
from selector.engine.executor import Executor
from selector.engine.lease import Lease
from selector.engine.part import Receipt, Task
from selector.engine.slices import Join, folder_of, slices_of
from selector.engine.step import PARTS, Done, Fold, Map, Result, Step, Tables, Whole
from selector.engine.store import PASSING, Blob, Seal, Store, blob_of
from selector.errors import DamagedError

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_VERSION = 3  # of the summary of a step: raise it when its table says what is sealed in another way
_LISTED = pa.schema(
    [
        ("key", pa.string()),  # of an artefact, which has a row for each of its tables
        ("table", pa.string()),
        ("sha256", pa.string()),
        ("num_bytes", pa.int64()),
        ("num_rows", pa.int64()),
        ("form", pa.string()),
        ("beside", pa.string()),  # empty: within the seal's own object
        ("start", pa.int64()),
    ]
)


class Progress(Protocol):
    """Who watches a run. Every method may do nothing."""

    def began(self, name: str, num_parts: int) -> None: ...

    def advanced(self, name: str, receipt: Receipt) -> None: ...

    def at_work(self, name: str, num_rows: int | None) -> None:
        """So many rows of the parts that are in hand are done; None: as many as before, and the work goes on."""

    def waiting(self, name: str, awaited: str) -> None:
        """There is nothing to count yet: this is waited for."""

    def stalled(self, name: str, stalls: Sequence[alive.Stall]) -> None:
        """These workers gave no sign for long; none: all go on again."""

    def ended(self, result: Result) -> None: ...


class NoProgress:
    """Nobody watches."""

    def began(self, name: str, num_parts: int) -> None: ...

    def advanced(self, name: str, receipt: Receipt) -> None: ...

    def at_work(self, name: str, num_rows: int | None) -> None: ...

    def waiting(self, name: str, awaited: str) -> None: ...

    def stalled(self, name: str, stalls: Sequence[alive.Stall]) -> None: ...

    def ended(self, result: Result) -> None: ...


@dataclass(frozen=True, kw_only=True)
class _Signs:
    """Passes on what the work on a step says of itself."""

    progress: Progress
    name: str

    def at_work(self, num_rows: int | None) -> None:
        self.progress.at_work(self.name, num_rows)

    def waiting(self, awaited: str) -> None:
        self.progress.waiting(self.name, awaited)

    def stalled(self, stalls: Sequence[alive.Stall]) -> None:
        self.progress.stalled(self.name, stalls)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a run would do with a step. Fingerprint and parts are known once all that it reads is there."""

    name: str
    action: str  # "cached" or "run"
    fingerprint: str | None = None
    parts: int | None = None
    parts_cached: int | None = None


@dataclass(kw_only=True)
class _UnderWay:
    """What is being done of a step: its parts that were not there, and the receipts that are still to come."""

    step: Map
    name: str  # under which its receipts are logged
    todo: Mapping[str, Task]
    slices: Mapping[str, Sequence[Task]]
    missing: Sequence[Task]
    num_rows: int  # of the whole step
    num_open: int = 0  # parts whose receipts are to come
    receipts: Iterator[Receipt] | None = None  # where it was begun ahead: those of what is left for its turn
    began: float = field(default_factory=time.monotonic)
    memory: int = 0  # bytes that are asked for by what its workers had, as far as that is kept
    seconds_ahead: float = 0.0  # from then to the last receipt before its turn had come

    def __post_init__(self) -> None:
        self.num_open = len(self.missing)


class _WouldRun(Exception):
    """In a dry run: this step is not there yet."""

    def __init__(self, num_parts: int, num_cached: int) -> None:
        super().__init__(num_parts, num_cached)
        self.num_parts, self.num_cached = num_parts, num_cached


_CURE = "`selector run` with the same policy and root makes it anew"  # which `plan` and shares of a run do not


class Runner:
    """Runs the steps of a flow, one after another, and remembers what each one did.

    While a step is at work on its parts, a later one that is ready and has workers of its own is at work on its parts
    too: on GPUs beside CPUs. Its turn comes nevertheless when it would: then what is left of it is done, and it is
    finished. So what is found, said and sealed is as if it had only then begun.
    """

    def __init__(
        self, store: Store, executor: Executor, progress: Progress | None = None, lease: Lease | None = None
    ) -> None:
        self.store = store
        self.done = Done(store, self._mapped)
        self.log: list[dict[str, Any]] = []  # for the run's side file
        self._executor = executor
        self._progress = progress or NoProgress()
        self._lease = lease
        self._held: list[str] = []  # what says all that the finished steps have read or written
        self._stack = ExitStack()
        self._is_connected = False
        self._later: Sequence[Step] = ()  # than the step whose turn it is
        self._ahead: dict[str, _UnderWay] = {}  # later steps that are under way, by their names
        self._beside = set[str]()  # keys that the work on an earlier step of this run may have sealed
        self.is_dry = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        """What is damaged leaves with its cure, unless whoever runs has caught it to repair it."""
        self._stack.__exit__(*error)
        damaged = error[1]
        if isinstance(damaged, DamagedError):
            raise DamagedError(damaged.key, f"{damaged.reason}. {_CURE}") from damaged

    def run(self, flow: Iterable[Step], after: Mapping[str, Callable[[Done], None]] = MappingProxyType({})) -> Done:
        """All of these steps, finished; what is `after` one of them is called once it is."""
        steps = list(flow)
        for index, step in enumerate(steps):
            self._later = steps[index + 1 :]
            with alive.heard_by(_Signs(progress=self._progress, name=step.name)), inside.stays():
                self._finish(step)
            if self._lease is not None:
                to_come = {later.family for later in self._later}
                self._lease.hold({done.family for done in steps[: index + 1]} - to_come, self._held)
            after.get(step.name, _nothing)(self.done)
            self._executor.release(self._later)
        return self.done

    def plan(
        self, flow: Iterable[Step], after: Mapping[str, Callable[[Done], None]] = MappingProxyType({})
    ) -> list[Planned]:
        """What `run` would do. Nothing is written."""
        self.is_dry = True
        planned: list[Planned] = []
        for step in flow:
            if not all(name in self.done for name in step.reads):
                planned.append(Planned(name=step.name, action="run"))
                continue
            try:
                result = self._finish(step)
            except _WouldRun as would:
                planned.append(
                    Planned(name=step.name, action="run", parts=would.num_parts, parts_cached=would.num_cached)
                )
            else:
                planned.append(Planned(name=step.name, action="cached", fingerprint=result.fingerprint))
                after.get(step.name, _nothing)(self.done)
        return planned

    def _finish(self, step: Step) -> Result:
        began = time.monotonic()
        if step.name in self._ahead:
            began -= self._ahead[step.name].seconds_ahead
        rows_in = step.rows_in(self.done)
        if isinstance(step, Fold):
            outcome = self._fold(step)
        elif isinstance(step, Map):
            outcome = self._map(step, _logged(step))
        else:
            assert isinstance(step, Whole), f"{step.name} is of no kind that can be run"
            outcome = self._whole(step)
        result = replace(outcome, rows_in=rows_in, seconds=round(time.monotonic() - began, 3))
        self.done.add(result)
        if isinstance(step, Whole):
            shares = step.shares(self.done)
            self.done.used += shares
            self._held += shares
        entry = asdict(replace(result, parts=(), answer=None))
        self.log.append({name: value for name, value in entry.items() if name not in ("parts", "answer")})
        if not self.is_dry:
            self._progress.ended(result)
            state = "cached" if result.cached else f"{result.seconds:.1f} s"
            name = f"{result.name} {result.fingerprint[:12]}"
            logger.info("%s: %d rows in, %d rows out, %s", name, result.rows_in, result.rows_out, state)
            failpoint.reach(f"step.{step.family}.done")
        return result

    def _map(self, step: Map, name: str) -> Result:
        """Every task's seal, in their order; what is sealed already is not done again."""
        tasks = step.tasks(self.done)
        summary, listed = self._listed(name, tasks)
        step_fingerprint = _fingerprint(name, tasks)
        if listed is not None:
            seals, cached = _seals(self.store.table(listed, "seals")), True
        else:
            seals, cached = self._each(step, name, tasks)
            cached &= self._beside.isdisjoint(seals)
            if not self.is_dry:
                self.store.seal(summary, [("seals", _summary(seals.values()))])
        self.done.used += [summary, *(task.key for task in tasks)]
        self._held.append(summary)
        rows_out = sum(seals[task.key].tables[step.output].num_rows for task in tasks)
        return Result(
            name=step.name, fingerprint=step_fingerprint, cached=cached, rows_in=0, rows_out=rows_out, seconds=0.0,
            num_bytes=sum(seal.num_bytes for seal in seals.values()), parts=[seals[task.key] for task in tasks],
        )  # fmt: skip

    def _listed(self, name: str, tasks: Sequence[Task]) -> tuple[str, Seal | None]:
        """The key of the summary of a step with these tasks, and its seal if the step is finished."""
        key = summary_key(name, _fingerprint(name, tasks))
        return key, self.store.find(key)

    def _each(self, step: Map, name: str, tasks: Sequence[Task]) -> tuple[dict[str, Seal], bool]:
        seals = self.store.find_many([task.key for task in tasks])
        under_way = self._ahead.get(step.name)
        todo = {task.key: task for task in tasks if task.key not in seals} if under_way is None else under_way.todo
        if self.is_dry and todo:
            raise _WouldRun(len(tasks), len(tasks) - len(todo))
        if todo:
            self._work(under_way or self._begun(step, name, tasks, todo))
            seals |= self.store.find_many(list(todo))
            for key in todo.keys() - seals.keys():
                seals[key] = self.store.sealed(key)  # which raises
        return {task.key: seals[task.key] for task in tasks}, not todo  # in order, whichever of them were there

    def _begun(
        self, step: Map, name: str, tasks: Sequence[Task], todo: Mapping[str, Task], beside: str = ""
    ) -> _UnderWay:
        """A step of whose tasks these are to be done, once it was said that it begins."""
        slices = {key: slices_of(step, task) for key, task in todo.items()}
        sliced = self.store.find_many([one.key for each in slices.values() if len(each) > 1 for one in each])
        missing = [one for each in slices.values() for one in each if one.key not in sliced]
        self._progress.began(step.name, len(missing))
        logger.info("%s: begun%s, %d of %d parts are to be done", step.name, beside, len(todo), len(tasks))
        self._connect()
        self._beside.update(key for task in todo.values() for key in step.also(task))
        num_rows = sum(task.part.num_rows for task in tasks)
        return _UnderWay(step=step, name=name, todo=todo, slices=slices, missing=missing, num_rows=num_rows)

    def _work(self, under_way: _UnderWay) -> None:
        """Does what is left of a step's parts, beside what others can do meanwhile."""
        step = under_way.step
        receipts = under_way.receipts
        if receipts is None:
            receipts = self._executor.run(step, under_way.missing, self.store, under_way.num_rows)
        others = self._apart(step)
        self._begin_ahead(others, step)
        for receipt in receipts:
            self._note(under_way, receipt)
            self._begin_ahead(others, step)
        in_slices = [(key, tuple(one.key for one in each)) for key, each in under_way.slices.items() if len(each) > 1]
        for _ in self._mapped(Join(store=self.store), in_slices):
            pass
        self._forget([folder_of(step, key) for key, _ in in_slices])

    def _note(self, under_way: _UnderWay, receipt: Receipt) -> None:
        under_way.num_open -= 1
        if receipt.memory is not None and memory.wanted(receipt.memory) > under_way.memory:
            under_way.memory = memory.wanted(receipt.memory)
            memory.keep(self.store, under_way.step, receipt.memory)
        self.log.append({"step": under_way.name, **vars(receipt)})
        self._progress.advanced(under_way.step.name, receipt)

    def _note_ahead(self, under_way: _UnderWay, receipt: Receipt) -> None:
        under_way.seconds_ahead = time.monotonic() - under_way.began
        self._note(under_way, receipt)

    def _apart(self, step: Map) -> list[Map]:
        """Later steps that can be at work beside this one: all that they read is there, and so are workers for both."""
        new = [later for later in self._later if isinstance(later, Map) and later.name not in self._ahead]
        ready = [later for later in new if all(name in self.done for name in later.reads)]
        return [later for later in ready if self._executor.are_apart(step, later)]

    def _begin_ahead(self, others: list[Map], step: Map) -> None:
        """Begins the next of the others that has something to do, if none of them is at work."""
        is_on_gpu = bool(step.resources.gpus)
        while others and not any(
            one.num_open and bool(one.step.resources.gpus) != is_on_gpu for one in self._ahead.values()
        ):
            other = others.pop(0)
            name, tasks = _logged(other), other.tasks(self.done)
            if self._listed(name, tasks)[1] is not None:
                continue
            seals = self.store.find_many([task.key for task in tasks])
            todo = {task.key: task for task in tasks if task.key not in seals}
            if not todo:
                continue
            with alive.heard_by(_Signs(progress=self._progress, name=other.name)):
                under_way = self._begun(other, name, tasks, todo, f" beside {step.name}")
                under_way.receipts = self._stack.enter_context(
                    self._executor.ahead(
                        other, under_way.missing, self.store, under_way.num_rows,
                        functools.partial(self._note_ahead, under_way),
                    )
                )  # fmt: skip
            self._ahead[other.name] = under_way

    def _forget(self, folders: Sequence[str]) -> None:
        """Removes what a step kept in passing, unless another run that lives may want it: `gc` takes it then."""
        storage, own = self.store.storage, [] if self._lease is None else [self._lease.key]
        if not folders:
            return
        live, dead = lease.states(storage)
        others = [live[key] for key in live.keys() - {*own, *dead}]
        for folder in folders:
            if not any(held.holds(f"{folder}/") for held in others):
                self.store.forget_passing(folder)

    def _connect(self) -> None:
        if not self._is_connected:
            self._stack.enter_context(self._executor)
            self._is_connected = True

    def _mapped(self, work: Callable[[Item], Answer], items: Sequence[Item]) -> Iterator[Answer]:
        """What `work` says of each item, on the executor's workers."""
        if items:
            self._connect()
            yield from self._executor.map(work, items)

    def _fold(self, step: Fold) -> Result:
        mapped = self._map(step, _logged(step))
        step_fingerprint = fingerprint([step.name, step.identity(), [seal.key for seal in mapped.parts]])

        answers = (_Unread(self.store, seal) for seal in mapped.parts)
        seal, cached = self._once(step, step_fingerprint, lambda: step.fold(self.done, answers))
        rows_out = mapped.rows_out if step.folded is None else seal.tables[step.folded].num_rows
        return replace(
            mapped, fingerprint=step_fingerprint, cached=cached, rows_out=rows_out,
            num_bytes=mapped.num_bytes + seal.num_bytes, answer=seal,
        )  # fmt: skip

    def _whole(self, step: Whole) -> Result:
        step_fingerprint = step.fingerprint(self.done)
        seal, cached = self._once(step, step_fingerprint, lambda: step.compute(self.done), step)
        rows_out, num_bytes = step.rows_out(seal, self.store), step.num_bytes(seal, self.store)
        return Result(
            name=step.name, fingerprint=step_fingerprint, cached=cached, rows_in=0, rows_out=rows_out,
            num_bytes=num_bytes, seconds=0.0, answer=seal,
        )  # fmt: skip

    def _once(
        self, step: Step, step_fingerprint: str, compute: Callable[[], Tables], whole: Whole | None = None
    ) -> tuple[Seal, bool]:
        """The seal of a step with one answer, and whether it was there."""
        key = f"{step.name}/{step_fingerprint}"
        seal = self.store.find(key)
        is_there = seal is not None and (whole is None or whole.is_sound(seal, self.store))
        if seal is None or not is_there:
            if self.is_dry:
                raise _WouldRun(1, 0)
            self._progress.began(step.name, 1)
            if seal is not None:
                self.store.discard(key)
            self.done.passing = f"{PASSING}{step.family}/{step_fingerprint}"
            seal = self.store.seal(key, compute())
            self._forget([self.done.passing])
        self.done.used.append(key)
        self._held.append(key)
        return seal, is_there


def _logged(step: Map) -> str:
    """What the work on a step's parts is called, apart from what a Fold makes of them."""
    return f"{step.name}{PARTS}" if isinstance(step, Fold) else step.name


def _fingerprint(name: str, tasks: Sequence[Task]) -> str:
    return fingerprint([name, [task.key for task in tasks]])


def summary_key(name: str, step_fingerprint: str) -> str:
    """Where it is listed what a finished step has sealed of its parts."""
    return f"steps/{name}/{fingerprint([_VERSION, step_fingerprint])}"


def _summary(seals: Iterable[Seal]) -> pa.Table:
    """The seals as a table: a row for each table of each artefact."""
    rows = [
        (seal.key, name, blob.sha256, blob.num_bytes, blob.num_rows, blob.form, _beside(blob), blob.start)
        for seal in seals
        for name, blob in seal.tables.items()
    ]
    return pa.table(list(zip(*rows, strict=True)) or [[] for _ in _LISTED], schema=_LISTED)


def _beside(blob: Blob) -> str | None:
    return blob.beside if blob.within is None else ""


def _seals(summary: pa.Table) -> dict[str, Seal]:
    """The seals that a table lists, by their keys."""
    tables: dict[str, dict[str, Blob]] = {}
    for key, name, sha256, num_bytes, num_rows, form, beside, start in zip(
        *(column.to_pylist() for column in summary), strict=True
    ):
        tables.setdefault(key, {})[name] = blob_of(key, sha256, num_bytes, num_rows, form, beside, start)
    return {key: Seal(key=key, tables=blobs) for key, blobs in tables.items()}


def listed(store: Store, key: str) -> list[str]:
    """The keys of the parts that a finished step's summary lists, if this is one and it is sound."""
    if not key.startswith("steps/"):
        return []
    try:
        seal = store.find(key)
        return [] if seal is None else store.table(seal, "seals", ["key"])["key"].unique().to_pylist()
    except DamagedError:
        return []


class _Unread(Mapping[str, pa.Table]):
    """The tables of an artefact, each read when it is asked for."""

    def __init__(self, store: Store, seal: Seal) -> None:
        self._store, self._seal = store, seal

    def __getitem__(self, name: str) -> pa.Table:
        return self._store.table(self._seal, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._seal.tables)

    def __len__(self) -> int:
        return len(self._seal.tables)


def _nothing(done: Done) -> None:
    """What is done after a step that nothing comes after."""


def repair(store: Store, damaged: DamagedError) -> None:
    """Makes room for a sound copy: the artefact goes, unless another process has put it right, and so do the
    summaries that may list it."""
    if not store.is_sound(damaged.key):
        store.discard(damaged.key)
    family = damaged.key.partition("/")[0]
    step = family.partition(".")[0]
    for prefix in (f"steps/{step}/", f"steps/{step}{PARTS}/", *([f"{step}/"] if step != family else [])):
        for key in list(store.seals(prefix)):
            store.discard(key)
