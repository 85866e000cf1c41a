"""Where work runs: what every executor can do.

An executor is handed a stage and its tasks and returns a receipt for each, in any order. Everything that decides the
result (parts, batches, seeds, keys) was fixed before, so two executors differ in speed and never in bytes.
"""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Literal, Protocol, Self

from selector.engine.part import Receipt, Task
from selector.engine.step import Stage
from selector.engine.store import Store


class Executor(Protocol):
    """Runs the tasks of one stage at a time. A context manager: entering connects, leaving disconnects."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def device(self) -> Literal["cuda", "cpu"]:
        """What models run on here. It is part of a model's fingerprint, since it changes the last bits."""
        ...

    def run(self, stage: Stage, tasks: Sequence[Task], store: Store) -> Iterator[Receipt]:
        """One receipt for every task, in order of completion: when it is yielded, the result is sealed.

        A task that fails is tried again; one that keeps failing is narrowed down to the rows that are fatal,
        which are quarantined, and finishes without them. So a bad document costs itself, not the run.
        Raises DamagedError if a stored input turns out not to be sound: the caller discards and recomputes it.
        """
        ...
