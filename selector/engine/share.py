"""A run's parts shared out between processes that know nothing of each other but the root.

Each does the parts of its own share first, then those that nobody has done yet, from the far end of the others' shares.
So nobody waits, a member that never comes is missed by nobody, and what two have done is the same.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypeVar

from selector.engine.executor import Executor
from selector.engine.part import Receipt, Task
from selector.engine.step import Map, Step
from selector.engine.store import Store
from selector.errors import UsageError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_AT_A_TIME = 4  # parts of others that are begun before it is looked again which are done


@dataclass(frozen=True, kw_only=True)
class Shared:
    """An executor that does its own share of every step's parts first: the `share`-th of `num_shares`, from 1 on."""

    inner: Executor
    share: int
    num_shares: int

    @classmethod
    def of(cls, inner: Executor, text: str) -> Self:
        """The share that is written as `2/8`. Raises UsageError."""
        share, slash, num_shares = text.partition("/")
        if not (slash and share.isascii() and share.isdigit() and num_shares.isascii() and num_shares.isdigit()):
            raise UsageError(f"--share {text!r:.40} is no share. Write the second of eight as 2/8.")
        if not 1 <= int(share) <= int(num_shares) <= 100_000:
            raise UsageError(f"--share {text:.40}: shares are counted from 1 to their number, 100,000 at most.")
        return cls(inner=inner, share=int(share), num_shares=int(num_shares))

    def __enter__(self) -> Self:
        self.inner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.inner.__exit__(kind, error, trace)

    def device(self) -> Literal["cuda", "cpu"]:
        """See `Executor.device`."""
        return self.inner.device()

    def run(self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int | None = None) -> Generator[Receipt]:
        """See `Executor.run`. The receipts of parts that others did say no seconds."""
        first, end = (len(tasks) * share // self.num_shares for share in (self.share - 1, self.share))
        yield from self.inner.run(step, tasks[first:end], store, num_rows)
        others = [*reversed(tasks[:first]), *reversed(tasks[end:])]
        while others:
            some, others = others[:_AT_A_TIME], others[_AT_A_TIME:]
            seals = store.find_many([task.key for task in some])
            for key, seal in seals.items():
                lost = seal.tables.get("quarantine")
                yield Receipt(
                    key=key, num_rows=seal.tables[step.output].num_rows,
                    num_quarantined=0 if lost is None else lost.num_rows, seconds=0.0,
                )  # fmt: skip
            yield from self.inner.run(step, [task for task in some if task.key not in seals], store, num_rows)

    def are_apart(self, step: Map, other: Map) -> bool:
        """Each process does one step at a time: what the others are at, it does not know."""
        return False

    def ahead(
        self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int, tell: Callable[[Receipt], None]
    ) -> AbstractContextManager[Iterator[Receipt]]:
        """See `Executor.ahead`: all of it is done once its turn has come."""
        return closing(self.run(step, tasks, store, num_rows))

    def map(self, work: Callable[[Item], Answer], items: Sequence[Item]) -> Iterator[Answer]:
        """See `Executor.map`."""
        return self.inner.map(work, items)

    def release(self, later: Sequence[Step]) -> None:
        """See `Executor.release`."""
        self.inner.release(later)
