"""The executor that needs nothing but this machine: parts in this process, one after another, maps on processes."""

import contextlib
import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from selector.engine.answers import Answers, answers_here, sent
from selector.engine.part import Receipt, Task
from selector.engine.processes import Processes, num_cores
from selector.engine.step import Map, Step
from selector.engine.store import Store
from selector.engine.supervise import Supervision
from selector.engine.worker import ItemWork, attempt_here
from selector.engine.worker_pool import Job
from selector.errors import UsageError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

DEADLINE = 300.0
"""Seconds without a sign of life after which what a worker is at counts as hung, unless an executor says otherwise."""


@dataclass(frozen=True, kw_only=True)
class LocalExecutor:
    """Runs parts in this process, one after another, and maps on as many processes as there are `workers`.

    The processes (default: one for each core) are started by the first map that has more than one item, and live until
    this executor is left. With one worker there are none. `deadline` is the seconds without a sign of life after which
    an item of a map counts as hung, `attempts` how often a part or an item is tried. What is done in this process is
    not watched.
    """

    workers: int | None = None
    deadline: float = DEADLINE
    attempts: int = 3

    def __post_init__(self) -> None:
        check_options(self.deadline, self.attempts)
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"workers={self.workers} leaves nobody to work. Give 1 or more.")

    @functools.cached_property
    def _entered(self) -> list[Processes]:
        """Once for each time that this executor was entered, its processes."""
        return []

    def __enter__(self) -> Self:
        self._entered.append(self._entered[0] if self._entered else Processes(self.deadline))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        processes = self._entered.pop()
        if not self._entered:
            processes.close()

    def device(self) -> Literal["cuda", "cpu"]:
        """What torch finds; it is asked, and so imported, only where the machine has a GPU's device file."""
        if any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))) and importlib.util.find_spec("torch"):
            import torch

            return "cuda" if torch.cuda.is_available() else "cpu"
        return "cpu"

    def run(self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int | None = None) -> Iterator[Receipt]:
        """See `Executor.run`. A document that kills the process kills the run: only workers can die alone."""
        own = dataclasses.replace(step)  # what it prepares goes with it
        supervision = Supervision(own, tasks, store, self.attempts, num_rows)
        while attempt := supervision.take():
            receipt = supervision.report(attempt, attempt_here(own, attempt.task, store))
            if receipt is not None:
                yield receipt

    def map(self, work: Callable[[Item], Answer], items: Sequence[Item]) -> Iterator[Answer]:
        """See `Executor.map`."""
        ready = sent(work)
        num_workers = min(self.workers or num_cores(), len(items))
        return self._on_processes(ready, items, num_workers) if num_workers > 1 else answers_here(work, items)

    def _on_processes(self, work: ItemWork, items: Sequence[Any], num_workers: int) -> Iterator[Any]:
        with contextlib.nullcontext() if self._entered else self:
            supply = Answers[Any](work.name, items, self.attempts)
            job = Job(work=work, supply=supply, kind=None, num_workers=num_workers)
            for answers in self._entered[0].work(job):
                yield from answers

    def release(self, later: Sequence[Step]) -> None:
        """Processes are all of one kind, which any map may ask for."""


def check_options(deadline: float, attempts: int) -> None:
    """Raises UsageError where an executor's options leave no room to work."""
    if not deadline > 0:
        raise UsageError(f"deadline={deadline} leaves no time to work. Give seconds above 0.")
    if attempts < 1:
        raise UsageError(f"attempts={attempts} leaves no attempt. Give 1 or more.")
