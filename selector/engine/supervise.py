"""What becomes of a part that fails: decided here, once, for every executor. An executor only runs attempts.

A bad row among good ones is found by trying pieces of its part, and quarantined. Where so many rows fail that it
cannot be the documents, it is the run that is at fault: it stops and says why. Nobody knows how many rows will fail
before all parts were tried, so a part with losses is held back, and nothing of it is sealed, until the others have come
through or are held back too.
"""

import itertools
import json
import logging
import re
import traceback
from collections import deque
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from selector import counts
from selector.engine.canonical import canonical_json, fingerprint
from selector.engine.part import Receipt, Skipped, Task
from selector.engine.step import Map
from selector.engine.store import Store
from selector.errors import SelectorError

logger = logging.getLogger(__name__)

_WHOLE_PART = 16
"""Rows: where no document of a part came through and so many were lost, it is the run that is at fault."""

_SAMPLE = 64
"""Rows of a larger part that are tried alone before it is searched: a step that can do none is found out soon."""

_PIECES = 16
"""Rows that fail are tried again in so many pieces. In two, a row that hangs would cost twelve deadlines of a part of
4,096, and as many workers; in sixteen it costs three."""

_FINAL = 0.25
"""The least share of a part's time for the last attempt at a row: one document can be as long as a thousand."""


Rank = Callable[[Hashable], int]
"""How well work about something suits a worker, the smaller the better: its machine may have copies of it."""

_AHEAD = 64
"""How many of those that wait are looked at for the one that suits a worker best."""

Waiting = TypeVar("Waiting")


def taken(waiting: "deque[Waiting]", subject: Callable[[Waiting], Hashable], rank: Rank | None) -> Waiting | None:
    """Takes out of the queue what a worker gets next: the first, or one of the next few that suits it better."""
    if not waiting:
        return None
    if rank is None or len(waiting) == 1:
        return waiting.popleft()
    ahead = list(itertools.islice(waiting, _AHEAD))
    index = min(range(len(ahead)), key=lambda index: (rank(subject(ahead[index])), index))
    del waiting[index]
    return ahead[index]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How a worker failed at a task.

    `detail` may end up in a quarantine table, so it says the same on every machine: no process, host or time.
    """

    kind: Literal["exception", "worker_died", "deadline"]
    detail: str
    trace: str = ""  # for people; kept in the attempt's record and nowhere else

    @classmethod
    def from_exception(cls, error: BaseException) -> "Failure":
        detail = re.sub(r"\b0x[0-9a-f]{6,}", "0x...", f"{type(error).__name__}: {error}"[:1000])
        return cls(kind="exception", detail=_utf8(detail), trace=_utf8("".join(traceback.format_exception(error))))


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """A task to run now, on a worker that has nothing else to do: if the worker dies, this task is to blame."""

    task: Task
    last: bool = False  # in no hurry: ordinary work goes first
    final: bool = False  # it decides about a row, which may be a long one
    is_alone: bool = False  # nobody else is to be at work on its machine

    @property
    def given(self) -> Task:
        """What a worker is given."""
        return self.task

    @property
    def subject(self) -> tuple[str, int]:
        """Which rows it is about, in every step."""
        piece = self.task.part.pieces[0]
        return piece.sha256, piece.first_row

    @property
    def title(self) -> str:
        """The key of the artefact that it is to make."""
        return self.task.key

    @property
    def share(self) -> float:
        """How much of the time for a whole part it has: a trial as much as its rows are of the part's."""
        if self.task.only is None:
            return 1.0
        first, end = self.task.only
        return max((end - first) / max(1, self.task.part.num_rows), _FINAL if self.final else 0.0)


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The rows of one part that no worker could do."""

    rows: tuple[Skipped, ...] = ()
    num_through: int = 0  # documents of the part that came through without them
    is_tried: bool = False  # the rest of the part was done without them, or there is no rest

    @property
    def is_whole_part(self) -> bool:
        """Whether the whole part is lost, and it is large enough to say that the run is at fault."""
        return len(self.rows) >= _WHOLE_PART and not self.num_through


Reply = Receipt | Failure
PartWork = Generator[Attempt, Reply, Receipt | Losses]
"""What is done for one part: it yields attempts, is sent their outcomes, and returns how the part ended."""


class Supervision:
    """What to run next, until every task has come through: `take` an attempt, run it, `report` how it went.

    What is decided does not depend on the number of workers, on the order in which parts finish, or on how often the
    run was killed and resumed. `num_rows` is the number of rows of the whole step, also of the tasks that an earlier
    run has done; by default, that of the tasks given.
    """

    def __init__(
        self, step: Map, tasks: Sequence[Task], store: Store, attempts: int, num_rows: int | None = None
    ) -> None:
        self._step, self._most_attempts = step, attempts
        self._num_rows = sum(task.part.num_rows for task in tasks) if num_rows is None else num_rows
        self._num_sealed_losses = 0
        known = {key for key, _ in store.storage.list("attempts/")}
        self._at_work: dict[Attempt, _Part] = {}  # parts by the attempt that they wait for, running or queued
        self._held: list[_Part] = []
        self._is_whole_part_lost = False
        self._first: deque[Attempt] = deque()
        self._last: deque[Attempt] = deque()
        for task in tasks:
            self._begin(_Part(task=task, records=_PartRecords(store, task.key, known)), _search)
        self._judge()

    @property
    def num_open(self) -> int:
        """How many tasks have not come through yet, running ones included."""
        return len(self._at_work) + len(self._held)

    def take(self, rank: Rank | None = None) -> Attempt | None:
        """The next attempt for an idle worker, or None if there is none now."""
        return taken(self._first or self._last, lambda attempt: attempt.subject, rank)

    def report(self, attempt: Attempt, outcome: Reply) -> Receipt | None:
        """The receipt, once the part has come through. Raises SelectorError if the run is at fault."""
        if isinstance(outcome, Failure):
            counts.add(counts.FAILURES, outcome.kind)
        receipt = self._go_on(self._at_work.pop(attempt), outcome)
        self._judge()
        return receipt

    def _begin(self, part: "_Part", work: "Callable[[Map, _Part, int], PartWork]") -> None:
        part.work = work(self._step, part, self._most_attempts)
        self._go_on(part, None)

    def _go_on(self, part: "_Part", outcome: Reply | None) -> Receipt | None:
        """Takes the part's work to its next attempt, or to its end."""
        assert part.work is not None
        try:
            attempt = next(part.work) if outcome is None else part.work.send(outcome)
        except StopIteration as end:
            if isinstance(end.value, Losses):
                part.losses = end.value
                self._held.append(part)
                self._is_whole_part_lost |= part.losses.is_whole_part
                return None
            self._num_sealed_losses += len(part.losses.rows)
            return end.value
        self._at_work[attempt] = part
        if attempt.last:
            self._last.append(attempt)
        elif outcome is None:
            self._first.append(attempt)
        else:  # once more before all that nobody has begun: of many parts, the end may be hours away
            self._first.appendleft(attempt)
        return None

    def _judge(self) -> None:
        """Raises SelectorError once the run is known to be at fault; else lets held parts go on when it is time."""
        if not self._held or (self._at_work and not self._is_whole_part_lost):
            return
        held = sorted(self._held, key=lambda part: (*part.task.part.files[0], part.task.part.first))
        num_lost = self._num_sealed_losses + sum(len(part.losses.rows) for part in held)
        to_blame = [part for part in held if part.losses.is_whole_part]
        if not to_blame and num_lost * 10 >= self._num_rows:
            to_blame = held
        recalled = [part for part in to_blame if part.records.is_recalled]
        if to_blame and not recalled:
            raise self._fault(to_blame[0], num_lost)
        untried = [part for part in held if not part.losses.is_tried] if len(held) > 1 else []
        going_on = dict.fromkeys(recalled or untried or held)
        self._held = [part for part in held if part not in going_on]
        self._is_whole_part_lost = any(part.losses.is_whole_part for part in self._held)
        for part in going_on:
            if recalled:  # an earlier run saw these rows fail, and what was wrong may have been put right since
                part.records.remove()
                part.losses = Losses()
                self._begin(part, _search)
            else:  # losses may still grow: where two or more parts are held, all are tried before one is sealed
                self._begin(part, _try_rest if untried else _seal_rest)
        self._judge()

    def _fault(self, first: "_Part", num_lost: int) -> SelectorError:
        """The error that ends the run. The records of open parts are removed, so that the next run tries them again."""
        lost = first.losses.rows[0]
        uri, row = first.task.part.at(lost.place)
        error = SelectorError(
            f"{self._step.name} cannot do {num_lost} of {self._num_rows} rows: too many for it to be the documents. "
            f"The first one is row {row} of {uri}: {sentence(lost.detail)} "
            "Put it right and run the same command again: finished parts are kept."
        )
        for trace in [failure.trace for failure in first.records.failures if failure.trace][:1]:
            error.add_note(trace)
        for part in [*self._at_work.values(), *self._held]:
            part.records.remove()
        return error


@dataclass(kw_only=True, eq=False)
class _Part:
    """A part that has not come through yet: at work, or held back with its losses."""

    task: Task
    records: "_PartRecords"
    work: PartWork | None = None
    losses: Losses = Losses()


def _search(step: Map, part: _Part, attempts: int) -> PartWork:
    """The receipt of a part that comes through whole, or the rows for which it does not."""
    task, records = part.task, part.records
    if records.losses is None:
        # A part at which a worker hung is searched at once: that takes minutes, and another attempt a whole deadline.
        receipt = yield from _try(step, task, records, attempts, is_hang_enough=True)
        if receipt is not None:
            return receipt
        # If not even no rows at all can be done, it is not the rows.
        yield from _do_without_rows(step, replace(task, only=(task.part.first, task.part.first)), attempts)
        losses = yield from _find_losses(task)
        logger.warning("%s: rows that are fatal at %s: %d", step.name, _named(task), len(losses.rows))
        if losses.is_whole_part:
            return losses
        records.remember(losses)
    assert records.losses is not None
    part.losses = records.losses
    return part.losses if part.losses.rows else (yield from _seal_rest(step, part, attempts))


def _try_rest(step: Map, part: _Part, attempts: int) -> PartWork:
    """The losses of a part, which are all of its rows if the rest cannot be done either. Nothing is stored."""
    first, end = part.task.part.first, part.task.part.end
    trial = replace(part.task, only=(first, end), skipped=part.losses.rows)
    receipt = yield from _try(step, trial, part.records, part.records.located + attempts)
    return _all_lost(part) if receipt is None else replace(part.losses, is_tried=True)


def _seal_rest(step: Map, part: _Part, attempts: int) -> PartWork:
    """The receipt of a part without the rows that it lost, which are all of its rows if the rest cannot be done either.

    The result is that of the whole part without these rows, however they were found.
    """
    rest = replace(part.task, skipped=part.losses.rows)
    if len(part.losses.rows) == part.task.part.num_rows:
        return (yield from _do_without_rows(step, rest, attempts))
    receipt = yield from _try(step, rest, part.records, part.records.located + attempts)
    return _all_lost(part) if receipt is None else receipt


def _try(
    step: Map, task: Task, records: "_PartRecords", most_failures: int, *, is_hang_enough: bool = False
) -> Generator[Attempt, Reply, Receipt | None]:
    """The receipt, or None once so many failures are on record, or a hang where that is enough."""
    while len(records.failures) < most_failures:
        if is_hang_enough and any(failure.kind == "deadline" for failure in records.failures):
            return None
        # The last one before the rows are looked at: what a neighbour takes of the memory is not to cost a document.
        died = bool(records.failures) and records.failures[-1].kind == "worker_died"
        is_alone = died and len(records.failures) == most_failures - 1
        outcome = yield Attempt(task=task, last=len(records.failures) > 1, is_alone=is_alone)
        if isinstance(outcome, Receipt):
            return outcome
        records.add(outcome)
        logger.warning("%s: failure %d at %s: %s", step.name, len(records.failures), _named(task), outcome.detail)
    return None


def _do_without_rows(step: Map, task: Task, attempts: int) -> Generator[Attempt, Reply, Receipt]:
    """The receipt of a task that has no rows left. Raises SelectorError if even that fails."""
    detail = ""
    for _ in range(attempts):
        outcome = yield Attempt(task=task, last=True)
        if isinstance(outcome, Receipt):
            return outcome
        detail = outcome.detail
    raise SelectorError(
        f"{step.name} fails at {_named(task)} even when it is given none of these rows: {sentence(detail)} "
        f"So it is not the documents. What failed is in attempts/{task.key}/ below the root; put it right and run "
        "the same command again: finished parts are kept."
    )


def _find_losses(task: Task) -> Generator[Attempt, Reply, Losses]:
    """The rows that fail on their own, in order, of a part that is known to fail: found by trying pieces of it."""
    failure = yield from _sample(task)
    if failure is not None:
        every = range(task.part.first, task.part.end)
        return Losses(rows=tuple(_skipped(place, failure) for place in every), num_through=0)
    rows: list[Skipped] = []
    num_through = 0
    ranges = _split(task.part.first, task.part.end)
    while ranges:
        first, end = ranges.pop()
        trial = replace(task, only=(first, end))
        outcome = yield Attempt(task=trial, last=True)
        if isinstance(outcome, Failure) and end - first > 1:
            ranges += _split(first, end)
            continue
        if isinstance(outcome, Failure):
            # A node lost at the wrong moment must not cost a document: a single row has to fail twice.
            outcome = yield Attempt(task=trial, last=True, final=True, is_alone=outcome.kind == "worker_died")
        if isinstance(outcome, Receipt):
            num_through += outcome.num_rows
        else:
            rows.append(_skipped(first, outcome))
    return Losses(rows=tuple(rows), num_through=num_through)


def _sample(task: Task) -> Generator[Attempt, Reply, Failure | None]:
    """The first failure, if a sample of the rows of a large part shows that none of its documents comes through."""
    if task.part.num_rows <= _SAMPLE:
        return None
    failures: list[Failure] = []
    for index in range(_SAMPLE):
        place = task.part.first + index * task.part.num_rows // _SAMPLE
        outcome = yield Attempt(task=replace(task, only=(place, place + 1)), last=True)
        if isinstance(outcome, Failure):
            failures.append(outcome)
        elif outcome.num_rows:
            return None
    return failures[0] if len(failures) >= _WHOLE_PART else None


def _split(first: int, end: int) -> list[tuple[int, int]]:
    """A range of rows in pieces of about the same size, the first one last, without empty ones."""
    bounds = [first + (end - first) * index // _PIECES for index in range(_PIECES + 1)]
    return [piece for piece in itertools.pairwise(bounds) if piece[0] < piece[1]][::-1]


def _all_lost(part: _Part) -> Losses:
    """All rows of a part, where more fails than the rows that fail on their own."""
    known = {skipped.place: skipped for skipped in part.losses.rows}
    last = part.records.failures[-1]
    rest = replace(last, detail=f"No one row is to blame. {last.detail}")
    every = range(part.task.part.first, part.task.part.end)
    return Losses(
        rows=tuple(known.get(place) or _skipped(place, rest) for place in every), num_through=0, is_tried=True
    )


def _skipped(place: int, failure: Failure) -> Skipped:
    return Skipped(place=place, reason=failure.kind, detail=failure.detail)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def sentence(text: str) -> str:
    """The text with a full stop, if it does not end in one."""
    text = text.rstrip(": ")  # what an error without a message leaves
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _named(task: Task) -> str:
    """Where a task's rows lie, for people."""
    part = task.part
    if not part.num_rows:
        return ", ".join(piece.uri for piece in part.pieces)
    (first, row), (last, last_row) = part.at(part.first), part.at(part.end - 1)
    return f"{first}, rows {row} to {last_row}" if first == last else f"{first}, row {row}, to {last}, row {last_row}"


class _PartRecords:
    """What is on file about a part: its failures so far and, once they were found, the rows that it loses.

    Objects under `attempts/<key>/`, which only somebody who saw the part fail writes: a driver that is killed
    blames nobody, and a resumed run goes on counting where the last one stopped.
    """

    def __init__(self, store: Store, key: str, known: set[str]) -> None:
        self._storage, self._folder = store.storage, f"attempts/{key}"
        self.failures: list[Failure] = []
        self.losses: Losses | None = None
        self.located = 0  # how many failures there were when the losses were found
        while f"{self._folder}/{len(self.failures) + 1}.json" in known:
            body = self._read(str(len(self.failures) + 1))
            if body is None:  # not what was written: let the part fail again
                self._storage.delete(f"{self._folder}/{len(self.failures) + 1}.json")
                break
            self.failures.append(Failure(kind=body["kind"], detail=body["detail"]))
        if f"{self._folder}/fatal.json" in known:
            self._recall()
        self.is_recalled = self.losses is not None  # an earlier run found them, and this one has not tried these rows

    def add(self, failure: Failure) -> None:
        body = {"kind": failure.kind, "detail": failure.detail, "trace": failure.trace}
        self.failures.append(failure)
        number = len(self.failures)
        while not self._write(str(number), body):  # another run on this root has seen it fail too
            number += 1

    def remember(self, losses: Losses) -> None:
        rows = [[skipped.place, skipped.reason, skipped.detail] for skipped in losses.rows]
        self._write("fatal", {"located": len(self.failures), "rows": rows, "num_through": losses.num_through})
        self._recall()
        if self.losses is None:
            self.losses, self.located = losses, len(self.failures)

    def remove(self) -> None:
        """Afterwards the part is as if it had never failed."""
        if not self.failures and self.losses is None:
            return  # nothing is on record
        for key, _ in reversed(list(self._storage.list(f"{self._folder}/"))):  # the losses first, then the failures
            self._storage.delete(key)
        self.failures, self.losses, self.located, self.is_recalled = [], None, 0, False

    def _recall(self) -> None:
        body = self._read("fatal")
        if body is None or "num_through" not in body:  # not what was written, or an older version's: find them again
            self._storage.delete(f"{self._folder}/fatal.json")
        else:
            self.located = min(body["located"], len(self.failures))
            rows = tuple(Skipped(place=place, reason=reason, detail=text) for place, reason, text in body["rows"])
            self.losses = Losses(rows=rows, num_through=body["num_through"])

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
