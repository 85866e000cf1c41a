"""Where work runs: what every executor can do.

An executor is handed a step and its tasks and returns a receipt for each, in any order; or work and items, and returns
an answer for each, in their order. Everything that decides the result (parts, batches, seeds, keys) was fixed before,
so two executors differ in speed and never in bytes. Workers live as long as the run: a step or a map that wants those
that are there starts none.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Literal, Protocol, Self, TypeVar, runtime_checkable

from selector.engine.part import Receipt, Task
from selector.engine.step import Map, Step
from selector.engine.store import Store

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@runtime_checkable
class Executor(Protocol):
    """Runs the tasks of a step, or the items of a map. A context manager: entering connects, leaving disconnects and
    ends all workers. Entered again while it is, it shares them."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def device(self) -> Literal["cuda", "cpu"]:
        """What models run on here. It is part of a model's fingerprint, since it changes the last bits."""
        ...

    def run(self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int | None = None) -> Iterator[Receipt]:
        """One receipt for every task, in order of completion: when it is yielded, the result is sealed.

        A task that fails is tried again; one that keeps failing is narrowed down to the rows that are fatal, which are
        quarantined, and finishes without them: a bad document costs itself, not the run. Where such losses come to a
        tenth of the step's rows, or to a whole part of 16 rows or more, the run is at fault: SelectorError says why,
        and no part with losses is sealed. `num_rows` is the number of rows of the whole step; give it where some of
        its tasks are done already and not among `tasks`.

        Raises SelectorError also where the step cannot be prepared or fails without any rows, and DamagedError if a
        stored input turns out not to be sound: the caller discards and recomputes it.
        """
        ...

    def are_apart(self, step: Map, other: Map) -> bool:
        """Whether the two have workers of their own, so that both can be at work at once: one on GPUs, one on CPUs."""
        ...

    def ahead(
        self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int, tell: Callable[[Receipt], None]
    ) -> AbstractContextManager[Iterator[Receipt]]:
        """As `run`, for a step whose turn has not come. Where its workers are its own they are at it from now on, as
        long as this executor is asked for anything; `tell` is given the receipts that come in this way, and what is
        yielded once the turn has come are the others. What goes wrong is raised then. Leaving stops what is going on.
        """
        ...

    def map(self, work: Callable[[Item], Answer], items: Sequence[Item]) -> Iterator[Answer]:
        """What `work` answers to every item, in their order.

        `work` (a function of a module, a frozen dataclass with `__call__`, a `functools.partial` of those), items and
        answers can be pickled, and are small. What is large, work seals in the store itself, whole or absent; so a map
        that was killed can skip what is there. Works of several maps may be under way at once; one that is left before
        its end is stopped.

        A map loses nothing: an item whose worker dies or hangs is tried again, and if that goes on, or if `work`
        raises, SelectorError says why. An error of that family which `work` raises arrives as it is. Raises
        SelectorError at once for work that cannot be sent.
        """
        ...

    def release(self, later: Sequence[Step]) -> None:
        """Ends the workers that neither a map nor any of these steps, those that are still to come, would use."""
        ...
