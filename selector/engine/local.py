"""The executor that needs nothing: all work in this process, one part after another."""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from selector.engine.part import Receipt, Task
from selector.engine.step import Stage, perform
from selector.engine.store import Store
from selector.engine.supervise import Failure, Outcome, Supervision
from selector.errors import SelectorError, UsageError


@dataclass(frozen=True, kw_only=True)
class LocalExecutor:
    """Runs everything in this process, one part after another."""

    attempts: int = 3

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise UsageError(f"attempts={self.attempts} leaves no attempt. Give 1 or more.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        return None

    def device(self) -> Literal["cuda", "cpu"]:
        """What torch finds; it is asked, and so imported, only where the machine has a GPU's device file."""
        if any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))) and importlib.util.find_spec("torch"):
            import torch

            return "cuda" if torch.cuda.is_available() else "cpu"
        return "cpu"

    def run(self, stage: Stage, tasks: Sequence[Task], store: Store) -> Iterator[Receipt]:
        """See `Executor.run`. A document that kills the process kills the run: only workers can die alone."""
        supervision = Supervision(stage, tasks, store, self.attempts)
        while attempt := supervision.take():
            receipt = supervision.report(attempt, attempt_here(stage, attempt.task, store))
            if receipt is not None:
                yield receipt


def attempt_here(stage: Stage, task: Task, store: Store) -> Outcome:
    """Performs the task in this process. A SelectorError travels: it is about the run, not about the part."""
    try:
        return perform(stage, task, store)
    except SelectorError:
        raise
    except Exception as error:
        return Failure.from_exception(error)
