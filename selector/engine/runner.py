"""How a step is run once: look it up by fingerprint, or do what is missing and seal it.

Two kinds of step: over parts, on an executor, and over the whole corpus, here. Either way the step's seal
is written last, so its existence means that the step is complete.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import pyarrow as pa

from selector import failpoint
from selector.engine.executor import Executor
from selector.engine.part import Receipt, Task
from selector.engine.step import Stage
from selector.engine.store import Seal, Store, fingerprint, seal_from_bytes, seal_to_bytes
from selector.errors import DamagedError


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is known of a finished step."""

    name: str
    fingerprint: str
    cached: bool
    rows_in: int
    rows_out: int
    num_bytes: int  # of the stored result
    seconds: float


class Progress(Protocol):
    """Who watches a run. Every method may do nothing."""

    def began(self, name: str, num_parts: int) -> None: ...

    def advanced(self, name: str, receipt: Receipt) -> None: ...

    def ended(self, step: Step) -> None: ...


class Silent:
    """Watches nothing."""

    def began(self, name: str, num_parts: int) -> None: ...

    def advanced(self, name: str, receipt: Receipt) -> None: ...

    def ended(self, step: Step) -> None: ...


class WouldRun(Exception):
    """In a dry run: this step is not there yet, so no later fingerprint is known."""

    def __init__(self, name: str, num_parts: int, num_cached: int) -> None:
        super().__init__(name)
        self.name = name
        self.num_parts = num_parts
        self.num_cached = num_cached


class Steps:
    """Runs the steps of one flow, one after another, and remembers what each one did."""

    def __init__(self, store: Store, executor: Executor, progress: Progress, *, dry: bool = False) -> None:
        self.store = store
        self.done: list[Step] = []
        self.used: list[str] = []  # keys of all artefacts that the flow read or wrote
        self.log: list[dict[str, Any]] = []  # for the run's side file
        self._executor = executor
        self._progress = progress
        self.dry = dry
        self._stack = ExitStack()
        self._connected = False

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def over_parts(self, name: str, stage: Stage, tasks: Sequence[Task], rows_in: int) -> list[Seal]:
        """The seals of all tasks, in their order; what is sealed already is not done again."""
        assert name.partition("/")[0] == stage.name, "or else `repair` would not find its summary"
        began = time.monotonic()
        mark = fingerprint([name, [task.key for task in tasks]])
        whole = self.store.find(f"steps/{name}/{mark}")
        cached = whole is not None
        if whole is not None:
            rows = self.store.table(whole, "seals").to_pylist()
            seals = {row["key"]: seal_from_bytes(row["key"], row["seal"].encode()) for row in rows}
        else:
            seals, cached = self._each(name, stage, tasks)
            table = pa.table(
                {
                    "key": [task.key for task in tasks],
                    "seal": [seal_to_bytes(seals[task.key]).decode() for task in tasks],
                },
                schema=pa.schema([("key", pa.string()), ("seal", pa.string())]),
            )
            if not self.dry:
                self.store.seal(f"steps/{name}/{mark}", [("seals", table)])
        self.used += [f"steps/{name}/{mark}", *(task.key for task in tasks)]
        rows_out = sum(seals[task.key].tables[stage.output].num_rows for task in tasks)
        self.end(
            Step(
                name=name, fingerprint=mark, cached=cached, rows_in=rows_in, rows_out=rows_out,
                num_bytes=sum(seal.num_bytes for seal in seals.values()), seconds=_since(began),
            )
        )  # fmt: skip
        return [seals[task.key] for task in tasks]

    def _each(self, name: str, stage: Stage, tasks: Sequence[Task]) -> tuple[dict[str, Seal], bool]:
        seals: dict[str, Seal] = {}
        todo: dict[str, Task] = {}
        for task in tasks:
            seal = self.store.find(task.key)
            if seal is None:
                todo[task.key] = task
            else:
                seals[task.key] = seal
        if self.dry and todo:
            raise WouldRun(name, len(tasks), len(tasks) - len(todo))
        if todo:
            self._progress.began(name, len(todo))
            if not self._connected:
                self._stack.enter_context(self._executor)
                self._connected = True
            for receipt in self._executor.run(stage, list(todo.values()), self.store):
                seal = self.store.find(receipt.key)
                if seal is None:
                    raise DamagedError(receipt.key, "it is gone")
                seals[receipt.key] = seal
                self.log.append({"step": name, **asdict(receipt)})
                self._progress.advanced(name, receipt)
        return seals, not todo

    def whole(
        self,
        name: str,
        inputs: Any,
        rows_in: int,
        compute: Callable[[], Iterable[tuple[str, pa.Table]]],
        rows_out: Callable[[Seal], int],
    ) -> Seal:
        """The seal of a step over the whole corpus."""
        began = time.monotonic()
        mark = fingerprint([name, inputs])
        seal = self.store.find(f"{name}/{mark}")
        cached = seal is not None
        if seal is None:
            if self.dry:
                raise WouldRun(name, 1, 0)
            self._progress.began(name, 1)
            seal = self.store.seal(f"{name}/{mark}", compute())
        self.used.append(seal.key)
        self.end(
            Step(
                name=name, fingerprint=mark, cached=cached, rows_in=rows_in, rows_out=rows_out(seal),
                num_bytes=seal.num_bytes, seconds=_since(began),
            )
        )  # fmt: skip
        return seal

    def end(self, step: Step) -> None:
        self.done.append(step)
        self.log.append(asdict(step))
        self._progress.ended(step)
        point = f"step.{step.name.partition('/')[0]}.done"
        if point in failpoint.NAMES:
            failpoint.reach(point)


def repair(store: Store, damaged: DamagedError) -> None:
    """Makes room for a sound copy: the artefact goes, unless another process has put it right, and so do the
    summaries that may list it."""
    if not store.is_sound(damaged.key):
        store.discard(damaged.key)
    family = damaged.key.partition("/")[0]
    for key in list(store.seals("dedup/" if family == "live" else f"steps/{family}/")):
        store.discard(key)


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
