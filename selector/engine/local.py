"""The executor that needs nothing but this machine: parts in this process, one after another, maps on processes; or all
of it on processes, where what hangs is to be ended."""

import contextlib
import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from selector.engine.answers import Answers, answers_here, sent
from selector.engine.part import Receipt, Task
from selector.engine.processes import Processes, num_cores
from selector.engine.step import Map, Step
from selector.engine.store import Store
from selector.engine.supervise import Failure, Supervision, sentence
from selector.engine.worker import ItemWork, PartWork, attempt_here, pickled
from selector.engine.worker_pool import Job
from selector.errors import SelectorError, UsageError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

DEADLINE = 300.0
"""Seconds without a sign of life after which what a worker is at counts as hung, unless an executor says otherwise."""


@dataclass(frozen=True, kw_only=True)
class LocalExecutor:
    """Runs parts in this process, one after another, and maps on as many processes as there are `workers`.

    The processes (default: one for each core) are started by the first map that has more than one item, and live until
    this executor is left. With one worker there are none. What is done in this process is not watched: a row that hangs
    hangs the run. `deadline` is the seconds without a sign of life after which work counts as hung: where it is given,
    parts are done on the processes too, each of which loads the models that it needs, and with one worker there is one.
    Without it, an item of a map has 300. `attempts` is how often a part or an item is tried.
    """

    workers: int | None = None
    deadline: float | None = None
    attempts: int = 3

    def __post_init__(self) -> None:
        check_options(DEADLINE if self.deadline is None else self.deadline, self.attempts, workers=self.workers)

    @functools.cached_property
    def _entered(self) -> list[Processes]:
        """Once for each time that this executor was entered, its processes."""
        return []

    def __enter__(self) -> Self:
        self._entered.append(self._entered[0] if self._entered else Processes(self.deadline or DEADLINE))
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
        """See `Executor.run`. Without a deadline, a document that kills the process kills the run: only workers can die
        alone."""
        own = dataclasses.replace(step)  # what it prepares goes with it
        supervision = Supervision(own, tasks, store, self.attempts, num_rows)
        if self.deadline is not None:
            yield from self._parts_on_processes(
                PartWork(name=step.name, step=own, store=store), supervision, len(tasks)
            )
        while attempt := supervision.take():
            receipt = supervision.report(attempt, attempt_here(own, attempt.task, store))
            if receipt is not None:
                yield receipt

    def are_apart(self, step: Map, other: Map) -> bool:
        """There is one machine, whose workers are all alike."""
        return False

    @contextlib.contextmanager
    def ahead(
        self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int, tell: Callable[[Receipt], None]
    ) -> Generator[Iterator[Receipt]]:
        """See `Executor.ahead`: all of it is done once its turn has come."""
        receipts = self.run(step, tasks, store, num_rows)
        try:
            yield receipts
        finally:
            if isinstance(receipts, Generator):
                receipts.close()

    def map(self, work: Callable[[Item], Answer], items: Sequence[Item]) -> Iterator[Answer]:
        """See `Executor.map`."""
        ready = sent(work)
        num_workers = min(self.workers or num_cores(), len(items))
        is_watched = num_workers > 1 or self.deadline is not None
        return self._on_processes(ready, items, num_workers) if is_watched else answers_here(work, items)

    def _parts_on_processes(self, work: PartWork, supervision: Supervision, num_tasks: int) -> Iterator[Receipt]:
        try:
            pickled(work)
        except Exception as error:  # whatever its plug-in raises
            raise SelectorError(
                f"{work.name} cannot be sent to a process of its own: {sentence(Failure.from_exception(error).detail)} "
                "Leave the deadline out, or name plug-ins that can be imported."
            ) from error
        resources = work.step.resources
        most = [self.workers or num_cores(), num_tasks, resources.workers, 1 if resources.gpus else None]
        num_workers = min(limit for limit in most if limit is not None)
        with contextlib.nullcontext() if self._entered else self:
            yield from self._entered[0].work(Job(work=work, supply=supervision, kind=None, num_workers=num_workers))

    def _on_processes(self, work: ItemWork, items: Sequence[Any], num_workers: int) -> Iterator[Any]:
        with contextlib.nullcontext() if self._entered else self:
            supply = Answers[Any](work.name, items, self.attempts)
            job = Job(work=work, supply=supply, kind=None, num_workers=num_workers)
            for answers in self._entered[0].work(job):
                yield from answers

    def release(self, later: Sequence[Step]) -> None:
        """Processes are all of one kind, which any map may ask for."""


def check_options(deadline: Any, attempts: Any, **counts: Any) -> None:
    """Raises UsageError where an executor's options leave no room to work. One of `counts` may be None."""
    if isinstance(deadline, bool) or not isinstance(deadline, (int, float)) or not deadline > 0:
        raise UsageError(f"deadline={deadline!r} leaves no time to work. Give seconds above 0.")
    given = {"attempts": attempts, **{name: count for name, count in counts.items() if count is not None}}
    for name, count in given.items():
        if type(count) is not int or count < 1:
            raise UsageError(f"{name}={count!r} leaves nothing to work with. Give a whole number, 1 or more.")
