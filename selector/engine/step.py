"""A step of the flow as data: what it reads and what it does; not where, when or how often.

A step is a frozen value, so it can be sent to any worker, and its fields are its fingerprint. There are four kinds:

    Map       every part on its own, on workers
    Fold      what every part says of itself, on workers, put together into one answer
    Exchange  documents of different parts meet; every part gets its share of the answer
    Whole     once, over everything

`perform` is all that a worker does with a step and a task, on every executor: work, seal the result, return a receipt.
"""

import abc
import dataclasses
import functools
import importlib.metadata
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import pyarrow as pa

from selector import failpoint, tables
from selector.engine.canonical import canonical_json, digest, fingerprint
from selector.engine.part import Receipt, Resources, Skipped, Task
from selector.engine.store import PASSING, Blob, Seal, Store

Value = TypeVar("Value")
Item = TypeVar("Item")
Answer = TypeVar("Answer")
Tables = Iterable[tuple[str, pa.Table]]

PARTS = ".parts"
"""Ends the family under which a step with one answer files what it stores of each part; what comes before the point is
the step's own."""

APART: dict[str, Any] = {"apart": True}
"""Metadata of a step's field that says where to find things and not what to do: no part of the fingerprint."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished step: what it stored, and what a person is told of it."""

    name: str
    fingerprint: str
    cached: bool
    rows_in: int
    rows_out: int
    num_bytes: int  # of what is stored
    seconds: float
    parts: Sequence[Seal] = ()  # of a Map and a Fold: one for each task
    answer: Seal | None = None  # of every other step, and of a Fold too

    @property
    def seal(self) -> Seal:
        """That of a step with one answer."""
        assert self.answer is not None, f"{self.name} has an answer for each part"
        return self.answer


class Mapper(Protocol):
    """Asks workers what `work`, which is picklable, says of each of some items: answers in the items' order."""

    def __call__(self, work: Callable[[Item], Answer], items: Sequence[Item], /) -> Iterator[Answer]: ...


class Done(Mapping[str, Result]):
    """The steps of a flow that are finished, by name, and what was worked out from them once."""

    def __init__(self, store: Store, mapper: Mapper = map) -> None:
        self.store = store
        self.map = mapper
        """Asks workers what `work`, which is picklable, says of each of some items: answers in the items' order."""
        self.used: list[str] = []
        """Keys of all artefacts that the flow read or wrote."""
        self.passing = f"{PASSING}alone/0"
        """Begins the keys under which the step at work keeps what nobody needs once it is sealed."""
        self._results: dict[str, Result] = {}
        self._known: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Result:
        return self._results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def add(self, result: Result) -> None:
        self._results[result.name] = result

    def once(self, name: str, compute: Callable[[], Value]) -> Value:
        """What `compute` returns, computed the first time that this name is asked for."""
        if name not in self._known:
            self._known[name] = compute()
        return self._known[name]

    def table(self, step: str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One table of a step with one answer."""
        return self.store.table(self[step].seal, name, columns)

    def tables(self, step: str, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The table of this name of every part."""
        return (self.store.table(seal, name, columns) for seal in self[step].parts)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a flow. Subclasses are frozen dataclasses; their fields are their options."""

    name: str = field(metadata=APART)  # what people read and artefacts are filed under; "rate/a" is one of "rate"
    reads: tuple[str, ...] = field(metadata=APART)  # the steps whose results it reads; what nothing reads does not run
    version: ClassVar[int] = 1  # raise it when the same options give another answer
    libraries: ClassVar[tuple[str, ...]] = ()  # distributions whose version may change the answer

    @property
    def family(self) -> str:
        """The part of the name that steps of one kind share."""
        return self.name.partition("/")[0]

    def rows_in(self, done: Done) -> int:
        """How many rows it is about to read, for people."""
        return done[self.reads[0]].rows_out

    def key(self, *inputs: Any) -> str:
        """Where a part's result is stored: a fingerprint of the step and of all that it reads."""
        return self._filed(self.family, inputs)

    def _filed(self, family: str, inputs: Sequence[Any]) -> str:
        """A key of the family, by the fingerprint of the step's own share and of the inputs as a list."""
        listed = b",".join([self._identity, *map(canonical_json, inputs)])
        return f"{family}/{digest(b'[' + listed + b']')}"

    @functools.cached_property
    def _identity(self) -> bytes:
        """The step's share of the fingerprint of each of its parts."""
        return canonical_json(self.identity())

    def identity(self) -> dict[str, Any]:
        """Name, version, options and library versions: the step's share of a fingerprint."""
        return {
            "step": self.name,
            "version": self.version,
            "options": {
                option.name: getattr(self, option.name)
                for option in dataclasses.fields(self)
                if not option.metadata.get("apart")
            },
            "libraries": versions(self.libraries),
        }


@dataclass(frozen=True, kw_only=True)
class Map(Step, abc.ABC):
    """Work on every part on its own."""

    output: ClassVar[str]  # the table that has a row per document that came through

    @property
    def resources(self) -> Resources:
        """What a worker holds, and how many documents a task has at most."""
        return Resources()

    def identity(self) -> dict[str, Any]:
        most = self.resources.documents
        return {**super().identity(), **({"documents": most} if most is not None else {})}

    @abc.abstractmethod
    def tasks(self, done: Done) -> Sequence[Task]:
        """One task per part, in corpus order, each with the key of its result (`key`) and the artefacts that it
        reads."""

    def prepare(self, task: Task, store: Store) -> None:
        """Loads what the work needs, once per worker, before its first task; if it raises, it is the run that is at
        fault and not a document."""

    def also(self, task: Task) -> Sequence[str]:
        """The keys of other steps' results that the work on a task may seal as well, with `seal_beside`."""
        return ()

    @abc.abstractmethod
    def process(self, task: Task, store: Store) -> Mapping[str, pa.Table | Blob]:
        """The tables of one part, the one called `output` with a row per document that came through. A table that
        another step has stored may be given as the blob that it is.

        A pure function of the step, the task and the artefacts that it names. A table called `quarantine` may say which
        rows did not come through, and why; anything raised is the supervisor's business.
        """


@dataclass(frozen=True, kw_only=True)
class Fold(Map):
    """A small answer from every part, on workers, then one answer from them all."""

    folded: ClassVar[str | None]  # the table of the answer whose rows are counted; None: those of the parts are

    def key(self, *inputs: Any) -> str:
        """Where what a part says of itself is stored."""
        return self._filed(f"{self.family}{PARTS}", inputs)

    @abc.abstractmethod
    def fold(self, done: Done, parts: Iterator[Mapping[str, pa.Table]]) -> Tables:
        """The named tables of the answer; `parts` gives what `process` said of each part, in corpus order. A table is
        read when it is asked for."""


@dataclass(frozen=True, kw_only=True)
class Whole(Step, abc.ABC):
    """Work that is done once, over everything that it reads."""

    @abc.abstractmethod
    def inputs(self, done: Done) -> Any:
        """All that decides the answer beside the step's own identity, as JSON."""

    def fingerprint(self, done: Done) -> str:
        """Of the step and of all that decides its answer."""
        return done.once(
            f"{self.name}: fingerprint", lambda: fingerprint([self.name, self.identity(), self.inputs(done)])
        )

    @abc.abstractmethod
    def compute(self, done: Done) -> Tables:
        """The named tables of the answer, one after another; each is stored before the next is asked for."""

    @abc.abstractmethod
    def rows_out(self, seal: Seal, store: Store) -> int:
        """How many rows the answer has, for people."""

    def num_bytes(self, seal: Seal, store: Store) -> int:
        """How much is stored of it, for people."""
        return seal.num_bytes

    def is_sound(self, seal: Seal, store: Store) -> bool:
        """Whether what the answer speaks of outside the store is still as it was made."""
        return True

    def shares(self, done: Done) -> list[str]:
        """The keys of the artefacts that the step sealed on its way and that the answer speaks of."""
        return []


@dataclass(frozen=True, kw_only=True)
class Exchange(Whole):
    """Documents of different parts meet. The answer has a table `parts`, a row for each part: `key` is that of its
    share, an artefact of the family `<name>.parts` that the step seals on its way."""

    def shares(self, done: Done) -> list[str]:
        return done.table(self.name, "parts", ["key"])["key"].to_pylist()


def needed(flow: Sequence[Step], targets: Sequence[str]) -> list[Step]:
    """Those steps that the targets read, directly or not, in the flow's order, and the targets."""
    by_name = {step.name: step for step in flow}
    wanted = set[str]()
    open_ = list(targets)
    while open_:
        name = open_.pop()
        if name not in wanted:
            wanted.add(name)
            open_ += by_name[name].reads
    return [step for step in flow if step.name in wanted]


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """The installed versions of those of the distributions that are there, without build tags."""
    installed = {library: _version(library) for library in libraries}
    return {library: version for library, version in installed.items() if version is not None}


@functools.cache
def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def seal_beside(key: str, result: Mapping[str, pa.Table], store: Store) -> None:
    """Seals what is the result of another step's task, all of whose rows came through."""
    store.seal(key, [*result.items(), ("quarantine", tables.quarantine(()))])


def perform(step: Map, task: Task, store: Store) -> Receipt:
    """Does the task and seals its result; a trial (`task.only`) is done and thrown away."""
    began = time.monotonic()
    failpoint.reach("part.before_work")
    result = dict(step.process(task, store))
    failpoint.reach("part.after_work")
    quarantine = result.pop("quarantine", tables.quarantine(()))
    assert not isinstance(quarantine, Blob), "a quarantine is the part's own"
    if task.skipped:
        quarantine = pa.concat_tables([quarantine, _quarantined(step, task.skipped)])
    if task.only is None:
        seal = store.seal(task.key, [*result.items(), ("quarantine", quarantine)])
        num_rows, num_quarantined = seal.tables[step.output].num_rows, seal.tables["quarantine"].num_rows
    else:
        num_rows, num_quarantined = result[step.output].num_rows, quarantine.num_rows
    return Receipt(key=task.key, num_rows=num_rows, num_quarantined=num_quarantined, seconds=time.monotonic() - began)


def _quarantined(step: Map, rows: Sequence[Skipped]) -> pa.Table:
    """The quarantine of rows that a worker could not survive."""
    lost = [
        {"doc_id": None, "place": one.place, "step": step.name, "reason": one.reason, "detail": one.detail}
        for one in rows
    ]
    return tables.quarantine(lost)
