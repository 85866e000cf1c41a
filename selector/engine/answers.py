"""What becomes of the items of a map: given out in their order, answered in their order, tried again if a worker dies.

A map loses nothing and quarantines nothing. Where an item cannot be done, the run stops and says why.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from selector import counts
from selector.engine import inside
from selector.engine.supervise import Failure, Rank, sentence, taken
from selector.engine.worker import ItemWork, pickled, unpickled
from selector.errors import SelectorError

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemAttempt:
    """An item to work on now, on a worker that has nothing else to do."""

    index: int
    num_items: int
    given: bytes
    share: float = 1.0  # of the deadline
    is_alone: bool = False

    @property
    def subject(self) -> tuple[int, int]:
        """Which of how many items it is: most often a shard of the same corpus, in every map."""
        return self.num_items, self.index

    @property
    def title(self) -> str:
        """Which item it is."""
        return f"item {self.index}"


class Answers(Generic[Answer]):
    """What to work on next, until every item is answered: `take` an attempt, run it, `report` how it went."""

    def __init__(self, name: str, items: Sequence[Any], attempts: int) -> None:
        self._name, self._items, self._most_attempts = name, items, attempts
        self._waiting: deque[int] = deque(range(len(items)))
        self._num_given_back = 0
        self._failures: dict[int, int] = {}
        self._early: dict[int, bytes] = {}  # answers whose turn has not come

    @property
    def num_open(self) -> int:
        """How many items have no answer yet."""
        return len(self._items) - self._num_given_back - len(self._early)

    def take(self, rank: Rank | None = None) -> ItemAttempt | None:
        """The next attempt for an idle worker, or None if there is none now."""
        num_items = len(self._items)
        index = taken(self._waiting, lambda index: (num_items, index), rank)
        if index is None:
            return None
        is_last = self._failures.get(index, 0) == self._most_attempts - 1
        given = _sent(self._name, self._items, index)
        return ItemAttempt(index=index, num_items=num_items, given=given, is_alone=is_last and self._most_attempts > 1)

    def report(self, attempt: ItemAttempt, outcome: bytes | Failure) -> list[Answer]:
        """The answers whose turn has come. Raises SelectorError if the item cannot be done."""
        if isinstance(outcome, Failure):
            counts.add(counts.FAILURES, outcome.kind)
            self._failed(attempt.index, outcome)
            return []
        self._early[attempt.index] = outcome
        answers: list[Answer] = []
        while self._num_given_back in self._early:
            answers.append(unpickled(self._early.pop(self._num_given_back)))
            self._num_given_back += 1
        return answers

    def _failed(self, index: int, failure: Failure) -> None:
        """Puts the item back, if another worker may fare better."""
        failures = self._failures[index] = self._failures.get(index, 0) + 1
        if failure.kind == "exception" or failures == self._most_attempts:
            raise _fault(self._name, self._items, index, failure, failures)
        self._waiting.appendleft(index)


def sent(work: Callable[[Any], Any]) -> ItemWork:
    """The work as it is sent to workers. Raises SelectorError if it cannot be."""
    name = _name_of(work)
    try:
        return ItemWork(name=name, pickled=pickled(work))
    except Exception as error:  # whatever its parts raise
        raise SelectorError(
            f"{name} cannot be sent to a worker: {type(error).__name__}: {sentence(str(error))} "
            "Give map a function of a module, a frozen dataclass with __call__, or a functools.partial of those, "
            "and nothing in it that lives in one process, such as a lambda, an open file or a lock."
        ) from error


def answers_here(work: Callable[[Item], Answer], items: Sequence[Item]) -> Iterator[Answer]:
    """The answers, from this process."""
    for index, item in enumerate(items):
        try:
            answer = work(item)
        except SelectorError:
            raise
        except BaseException as error:
            if inside.interrupts(error):
                raise
            raise _fault(_name_of(work), items, index, Failure.from_exception(error), 1) from error
        yield answer


def _sent(name: str, items: Sequence[Any], index: int) -> bytes:
    try:
        return pickled(items[index])
    except Exception as error:  # whatever its parts raise
        raise SelectorError(
            f"{name}: item {index + 1} of {len(items)} cannot be sent to a worker: "
            f"{type(error).__name__}: {sentence(str(error))} Give map items that can be pickled."
        ) from error


def _fault(name: str, items: Sequence[Any], index: int, failure: Failure, times: int) -> SelectorError:
    """The error that ends the run."""
    often = f", tried {times} times" if times > 1 else ""
    error = SelectorError(
        f"{name} cannot do item {index + 1} of {len(items)}{often}: {sentence(failure.detail)} "
        "Put it right and run the same command again: what is finished is kept."
    )
    if failure.trace:
        error.add_note(failure.trace)
    return error


def _name_of(work: Any) -> str:
    """What a person may call the work, or the work inside of it: where its code is found."""
    while isinstance(work, functools.partial) or hasattr(work, "work"):
        work = work.func if isinstance(work, functools.partial) else work.work
    owner = work if hasattr(work, "__qualname__") else type(work)
    return f"{owner.__module__}.{owner.__qualname__}"
