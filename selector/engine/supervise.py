"""What becomes of a part that fails: decided here, once, for every executor.

An executor only runs what it is handed and says how that went.
"""

import json
import logging
import re
import traceback
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from selector.engine.part import Receipt, Skipped, Task
from selector.engine.step import Stage
from selector.engine.store import Store, canonical_json, fingerprint
from selector.errors import SelectorError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How a worker failed at a task, as its supervisor observed it.

    `detail` may end up in a quarantine table, so it says the same on every machine: no process, host or time.
    """

    kind: Literal["exception", "worker_died", "deadline"]
    detail: str
    trace: str = ""  # for people; kept in the attempt's record and nowhere else

    @classmethod
    def from_exception(cls, error: Exception) -> "Failure":
        detail = re.sub(r"\b0x[0-9a-f]{6,}", "0x...", f"{type(error).__name__}: {error}"[:1000])
        return cls(kind="exception", detail=_utf8(detail), trace=_utf8("".join(traceback.format_exception(error))))


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """A task to run now, on a worker that has nothing else: whoever dies, it is clear what at."""

    task: Task
    last: bool = False  # in no hurry: ordinary work goes first


Outcome = Receipt | Failure
Life = Generator[Attempt, Outcome, Receipt]


class Supervision:
    """What to run next, until every task has come through: `take` an attempt, run it, `report` how it went.

    Each part has a life of its own (`_life` tells it, from birth to receipt), so nothing that is decided for a
    part depends on the other parts, on the number of workers, or on the order in which they finish.
    """

    def __init__(self, stage: Stage, tasks: Sequence[Task], store: Store, attempts: int) -> None:
        known = {key for key, _ in store.storage.list("attempts/")}
        self._lives: dict[Attempt, Life] = {}
        self._first: deque[Attempt] = deque()
        self._last: deque[Attempt] = deque()
        for task in tasks:
            life = _life(stage, task, _Records(store, task.key, known), attempts)
            self._enqueue(next(life), life)

    @property
    def num_open(self) -> int:
        """How many tasks have not come through yet, running ones included."""
        return len(self._lives)

    def take(self) -> Attempt | None:
        """The next attempt for an idle worker, or None if there is none now."""
        queue = self._first or self._last
        return queue.popleft() if queue else None

    def report(self, attempt: Attempt, outcome: Outcome) -> Receipt | None:
        """The receipt, once the part has come through. Raises SelectorError if the stage itself is at fault."""
        life = self._lives.pop(attempt)
        try:
            self._enqueue(life.send(outcome), life)
        except StopIteration as end:
            return end.value
        return None

    def _enqueue(self, attempt: Attempt, life: Life) -> None:
        self._lives[attempt] = life
        (self._last if attempt.last else self._first).append(attempt)


def _life(stage: Stage, task: Task, records: "_Records", attempts: int) -> Life:
    """One part, from its first attempt to its receipt."""
    if records.fatal is None:
        receipt = yield from _whole(stage, task, records, attempts)
        if receipt is not None:
            return receipt
        # If not even no rows at all can be done, it is not the rows.
        yield from _certain(stage, replace(task, only=(task.part.first_row, task.part.first_row)), attempts)
        records.remember((yield from _fatal_rows(task)))
        logger.warning("%s: rows that are fatal at %s: %d", stage.name, _place(task), len(records.fatal or ()))
    assert records.fatal is not None
    # The result is that of the whole part without its fatal rows, however these were found.
    receipt = yield from _whole(stage, replace(task, skipped=records.fatal), records, records.located + attempts)
    if receipt is not None:
        return receipt
    last = records.failures[-1]
    every = {
        row: Skipped(row=row, reason=last.kind, detail=f"No one row is to blame. {last.detail}")
        for row in range(task.part.first_row, task.part.first_row + task.part.num_rows)
    } | {skipped.row: skipped for skipped in records.fatal}
    return (yield from _certain(stage, replace(task, skipped=tuple(every.values())), attempts))


def _whole(stage: Stage, task: Task, records: "_Records", most: int) -> Generator[Attempt, Outcome, Receipt | None]:
    """The receipt, or None once `most` failures are on record."""
    while len(records.failures) < most:
        outcome = yield Attempt(task=task, last=len(records.failures) > 1)
        if isinstance(outcome, Receipt):
            return outcome
        records.add(outcome)
        logger.warning("%s: failure %d at %s: %s", stage.name, len(records.failures), _place(task), outcome.detail)
    return None


def _fatal_rows(task: Task) -> Generator[Attempt, Outcome, tuple[Skipped, ...]]:
    """The rows that fail on their own, in order, of a part that is known to fail: found by halving it."""
    first, end = task.part.first_row, task.part.first_row + task.part.num_rows
    middle = (first + end) // 2
    return (*(yield from _fatal_within(task, first, middle)), *(yield from _fatal_within(task, middle, end)))


def _fatal_within(task: Task, first: int, end: int) -> Generator[Attempt, Outcome, tuple[Skipped, ...]]:
    if first == end:
        return ()
    trial = replace(task, only=(first, end))
    outcome = yield Attempt(task=trial, last=True)
    if isinstance(outcome, Receipt):
        return ()
    if end - first > 1:
        middle = (first + end) // 2
        return (*(yield from _fatal_within(task, first, middle)), *(yield from _fatal_within(task, middle, end)))
    # A node lost at the wrong moment must not cost a document: a single row has to fail twice.
    outcome = yield Attempt(task=trial, last=True)
    return () if isinstance(outcome, Receipt) else (Skipped(row=first, reason=outcome.kind, detail=outcome.detail),)


def _certain(stage: Stage, task: Task, attempts: int) -> Life:
    """The receipt of a task without rows. Raises SelectorError if even that fails."""
    detail = ""
    for _ in range(attempts):
        outcome = yield Attempt(task=task, last=True)
        if isinstance(outcome, Receipt):
            return outcome
        detail = outcome.detail
    raise SelectorError(
        f"{stage.name} fails at {_place(task)} even when it is given none of these rows: {detail} "
        f"So it is not the documents. What failed is in attempts/{task.key}/ below the root; put it right and run "
        "the same command again: finished parts are kept."
    )


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _place(task: Task) -> str:
    return f"{task.part.uri}, rows {task.part.first_row} to {task.part.first_row + task.part.num_rows - 1}"


class _Records:
    """What is on file about a part: its failures so far and, once located, its fatal rows.

    Objects under `attempts/<key>/`, which only somebody who saw the part fail writes: a driver that is killed
    blames nobody, and a resumed run goes on counting where the last one stopped.
    """

    def __init__(self, store: Store, key: str, known: set[str]) -> None:
        self._storage, self._folder = store.storage, f"attempts/{key}"
        self.failures: list[Failure] = []
        self.fatal: tuple[Skipped, ...] | None = None
        self.located = 0  # how many failures there were when the fatal rows were located
        while f"{self._folder}/{len(self.failures) + 1}.json" in known:
            body = self._read(str(len(self.failures) + 1))
            if body is None:  # not what was written: let the part fail again
                self._storage.delete(f"{self._folder}/{len(self.failures) + 1}.json")
                break
            self.failures.append(Failure(kind=body["kind"], detail=body["detail"]))
        if f"{self._folder}/fatal.json" in known:
            self._recall()

    def add(self, failure: Failure) -> None:
        body = {"kind": failure.kind, "detail": failure.detail, "trace": failure.trace}
        self.failures.append(failure)
        number = len(self.failures)
        while not self._write(str(number), body):  # another run on this root has seen it fail too
            number += 1

    def remember(self, fatal: tuple[Skipped, ...]) -> None:
        rows = [[skipped.row, skipped.reason, skipped.detail] for skipped in fatal]
        self._write("fatal", {"located": len(self.failures), "rows": rows})
        self._recall()
        if self.fatal is None:
            self.fatal, self.located = fatal, len(self.failures)

    def _recall(self) -> None:
        body = self._read("fatal")
        if body is None:  # not what was written: locate them again
            self._storage.delete(f"{self._folder}/fatal.json")
        else:
            self.located = min(body["located"], len(self.failures))
            self.fatal = tuple(Skipped(row=row, reason=reason, detail=text) for row, reason, text in body["rows"])

    def _write(self, name: str, body: dict[str, Any]) -> bool:
        return self._storage.put_if_absent(
            f"{self._folder}/{name}.json", canonical_json({**body, "check": fingerprint(body)})
        )

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            body = json.loads(self._storage.get(f"{self._folder}/{name}.json") or b"")
            return body if body.pop("check") == fingerprint(body) else None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
