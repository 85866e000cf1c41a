"""What becomes of parts that fail: the state machine on its own, then the in-process executor."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import MemoryStorage, tries
from selector.engine import inside
from selector.engine.local import LocalExecutor
from selector.engine.part import Part, Piece, Receipt, Task
from selector.engine.step import APART, Done, Map
from selector.engine.store import Store
from selector.engine.supervise import Attempt, Failure, Reply, Supervision
from selector.errors import CorpusError, DamagedError, SelectorError, UnreachableError, UsageError


@dataclass(frozen=True, kw_only=True)
class Numbers(Map):
    """The numbers of a part's rows; raises at the fatal ones."""

    name: str = field(default="numbers", metadata=APART)
    reads: tuple[str, ...] = field(default=(), metadata=APART)
    output = "numbers"
    fatal: tuple[int, ...] = ()

    def tasks(self, done: Done) -> Sequence[Task]:
        raise AssertionError("a test hands them to the executor")

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        rows = rows_of(task)
        for row in rows:
            if row in self.fatal:
                raise ValueError(f"row {row} is bad")
        return {"numbers": pa.table({"row": pa.array(rows, pa.int64())})}


@dataclass(frozen=True, kw_only=True)
class Raising(Numbers):
    name: str = field(default="raising", metadata=APART)
    error: Any

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        raise self.error


@dataclass(frozen=True, kw_only=True)
class Signalling(Numbers):
    """Is interrupted while it is at work."""

    name: str = field(default="signalling", metadata=APART)
    number: int

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        signal.raise_signal(signal.Signals(self.number))
        return super().process(task, store)


@dataclass(frozen=True, kw_only=True)
class Ending(Numbers):
    """Row 2 does something to the process."""

    name: str = field(default="ending", metadata=APART)
    how: str

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        if 2 in rows_of(task):
            {"hang": lambda: time.sleep(100), "die": lambda: os.kill(os.getpid(), signal.SIGKILL)}[self.how]()
        return super().process(task, store)


def rows_of(task: Task) -> list[int]:
    return task.part.find(task.places)[1].tolist()


def lost_by(task: Task) -> list[int]:
    """The rows of the file that the task does without."""
    return task.part.find(np.array([skipped.place for skipped in task.skipped], np.int64))[1].tolist()


def tasks_of(*sizes: int) -> list[Task]:
    """Consecutive parts of one file, of the given numbers of rows."""
    tasks: list[Task] = []
    first = 0
    for index, size in enumerate(sizes):
        piece = Piece(
            file=0, uri="web.jsonl", format="jsonl", sha256="0" * 64, version="1", first_row=first, num_rows=size,
            start=0, end=1, source=None,
        )  # fmt: skip
        tasks.append(Task(key=f"numbers/{index}", part=Part.of(piece)))
        first += size
    return tasks


def receipt_of(task: Task) -> Receipt:
    return Receipt(key=task.key, num_rows=len(rows_of(task)), num_quarantined=len(task.skipped), seconds=0.0)


def failing_at(*fatal: int, kind: Any = "exception") -> Callable[[Task], Reply]:
    def work(task: Task) -> Reply:
        bad = [row for row in rows_of(task) if row in fatal]
        return Failure(kind=kind, detail=f"row {bad[0]}") if bad else receipt_of(task)

    return work


def supervise(
    store: Store,
    tasks: Sequence[Task],
    work: Callable[[Task], Reply],
    order: Iterator[int] | None = None,
    num_rows: int | None = None,
) -> tuple[dict[str, Task], list[Attempt]]:
    """Runs all to the end, up to three at a time, finishing in that order: the last task per key, and all attempts."""
    supervision = Supervision(Numbers(), tasks, store, 3, num_rows)
    running: list[Attempt] = []
    attempts: list[Attempt] = []
    last: dict[str, Task] = {}
    while supervision.num_open:
        while len(running) < 3 and (attempt := supervision.take()):
            running.append(attempt)
            attempts.append(attempt)
        attempt = running.pop(next(order) % len(running) if order else 0)
        if supervision.report(attempt, work(attempt.task)):
            assert attempt.task.only is None
            last[attempt.task.key] = attempt.task
    assert not running and supervision.take() is None
    return last, attempts


@pytest.fixture
def store() -> Store:
    return Store(MemoryStorage())


def blames_the_run(sizes: Sequence[int], fatal: set[int]) -> bool:
    """Whether these losses are too many: a tenth of the rows, or a whole part of 16 or more."""
    starts = np.cumsum([0, *sizes]).tolist()
    parts = [set(range(start, start + size)) for start, size in zip(starts, sizes, strict=False)]
    lost = [part & fatal for part in parts]
    return any(len(rows) >= 16 and rows == part for rows, part in zip(lost, parts, strict=True)) or (
        any(lost) and sum(map(len, lost)) * 10 >= sum(sizes)
    )


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    most=st.sampled_from([3, 30]),
    data=st.data(),
)
def test_exactly_the_fatal_rows_are_quarantined_whatever_order_parts_finish_in(
    sizes: list[int], most: int, data: st.DataObject
) -> None:
    fatal = data.draw(st.sets(st.integers(0, max(sum(sizes) - 1, 0)), max_size=most))
    order = iter(lambda: data.draw(st.integers(0, 2)), -1)
    tasks = tasks_of(*sizes)
    store = Store(MemoryStorage())
    if blames_the_run(sizes, fatal):
        with pytest.raises(SelectorError, match="too many for it to be the documents"):
            supervise(store, tasks, failing_at(*fatal), order)
        assert list(store.storage.list("attempts/")) == []
        return
    last, _ = supervise(store, tasks, failing_at(*fatal), order)
    there = set(range(sum(sizes)))
    assert {row for task in last.values() for row in lost_by(task)} == fatal & there
    assert {row for task in last.values() for row in rows_of(task)} == there - fatal
    assert set(last) == {task.key for task in tasks}
    in_turn, _ = supervise(Store(MemoryStorage()), tasks, failing_at(*fatal))
    assert last == in_turn


@tries(25)
@given(fatal=st.sets(st.integers(0, 119), max_size=11), order=st.permutations(range(3)))
def test_a_part_is_stored_with_the_same_bytes_however_its_tasks_are_listed(fatal: set[int], order: list[int]) -> None:
    tasks = tasks_of(40, 40, 40)
    one, other = Store(MemoryStorage()), Store(MemoryStorage())
    step = Numbers(fatal=tuple(fatal))
    receipts = list(LocalExecutor().run(step, tasks, one))
    list(LocalExecutor().run(step, [tasks[index] for index in order], other))
    assert sum(receipt.num_rows for receipt in receipts) == 120 - len(fatal)
    assert sum(receipt.num_quarantined for receipt in receipts) == len(fatal)
    assert {key: one.find(key) for key in one.seals()} == {key: other.find(key) for key in other.seals()}


def test_a_part_that_fails_once_is_tried_again_and_loses_nothing(store: Store) -> None:
    failures = [Failure(kind="worker_died", detail="")]
    last, attempts = supervise(store, tasks_of(4), lambda task: failures.pop() if failures else receipt_of(task))
    assert len(attempts) == 2
    assert rows_of(last["numbers/0"]) == [0, 1, 2, 3]


def test_a_quarantined_row_says_why(store: Store) -> None:
    (receipt,) = LocalExecutor().run(Numbers(fatal=(2,)), tasks_of(12), store)
    seal = store.find(receipt.key)
    assert seal is not None
    assert store.table(seal, "numbers")["row"].to_pylist() == [0, 1, *range(3, 12)]
    assert store.table(seal, "quarantine").to_pylist() == [
        {"doc_id": None, "place": 2, "step": "numbers", "reason": "exception", "detail": "ValueError: row 2 is bad"}
    ]


def test_a_resumed_run_goes_on_counting(store: Store) -> None:
    (task,) = tasks_of(12)
    supervision = Supervision(Numbers(), [task], store, 3)
    for _ in range(2):
        attempt = supervision.take()
        assert attempt is not None
        supervision.report(attempt, Failure(kind="exception", detail="bad"))
    _, attempts = supervise(store, [task], failing_at(1))
    assert [attempt.task.only for attempt in attempts[:3]] == [None, (0, 0), (0, 1)]


def test_a_resumed_run_does_not_search_again(store: Store) -> None:
    tasks = tasks_of(12)
    first, _ = supervise(store, tasks, failing_at(5))
    again, attempts = supervise(store, tasks, failing_at(5))
    assert first == again and len(attempts) == 1


def test_a_driver_that_is_killed_blames_nobody(store: Store) -> None:
    supervision = Supervision(Numbers(), tasks_of(4, 4), store, 3)
    assert supervision.take() and supervision.take()
    assert list(store.storage.list("")) == []


def test_a_record_of_fatal_rows_that_was_tampered_with_is_not_believed(store: Store) -> None:
    tasks = tasks_of(12)
    supervise(store, tasks, failing_at(5))
    assert isinstance(store.storage, MemoryStorage)
    objects = store.storage.objects
    objects["attempts/numbers/0/fatal.json"] = objects["attempts/numbers/0/fatal.json"].replace(b"5", b"6")
    last, _ = supervise(store, tasks, failing_at(5))
    assert lost_by(last["numbers/0"]) == [5]


def test_two_runs_on_one_root_do_not_lose_each_others_records(store: Store) -> None:
    (task,) = tasks_of(4)
    for supervision in [Supervision(Numbers(), [task], store, 3), Supervision(Numbers(), [task], store, 3)]:
        attempt = supervision.take()
        assert attempt is not None
        supervision.report(attempt, Failure(kind="exception", detail="bad"))
    assert [key for key, _ in store.storage.list("attempts/")] == [f"attempts/{task.key}/{n}.json" for n in (1, 2)]


def test_a_part_that_failed_is_tried_again_next_and_after_two_failures_comes_after_ordinary_work(store: Store) -> None:
    supervision = Supervision(Numbers(), tasks_of(4, 4, 4), store, 3)
    order: list[str] = []
    while attempt := supervision.take():
        order.append(attempt.task.key.removeprefix("numbers/") + ("" if attempt.task.only is None else " trial"))
        supervision.report(attempt, failing_at(1)(attempt.task))
    assert order == ["0", "0", "1", "2", "0", *["0 trial"] * 6, "0"]


def test_a_single_row_has_to_fail_twice(store: Store) -> None:
    trials: list[Task] = []

    def work(task: Task) -> Reply:
        if task.only == (2, 3):
            trials.append(task)
        failing = not trials if task.only is None else task.only in ((2, 4), (2, 3)) and len(trials) < 2
        return Failure(kind="worker_died", detail="") if failing else receipt_of(task)

    last, _ = supervise(store, tasks_of(4), work)
    assert len(trials) == 2 and last["numbers/0"].skipped == ()


@pytest.mark.parametrize(("kind", "num_before_search"), [("worker_died", 3), ("deadline", 1)])
def test_a_part_that_fails_only_as_a_whole_is_tried_afresh_and_then_quarantined_whole(
    kind: Any, num_before_search: int, store: Store
) -> None:
    """A part at which a worker hung is searched at once; the rest of a part is tried three times in any case."""

    def work(task: Task) -> Reply:
        rows = rows_of(task)
        return Failure(kind=kind, detail="late") if {0, 7} <= set(rows) else receipt_of(task)

    last, attempts = supervise(store, tasks_of(8, 80), work)
    whole = [attempt for attempt in attempts if attempt.task.only is None and attempt.task.key == "numbers/0"]
    assert len(whole) == num_before_search + 3 + 1
    assert [(skipped.place, skipped.reason) for skipped in last["numbers/0"].skipped] == [
        (row, kind) for row in range(8)
    ]
    assert rows_of(last["numbers/1"]) == list(range(8, 88))


def test_a_worker_that_hung_once_costs_no_document(store: Store) -> None:
    hangs = [Failure(kind="deadline", detail="late")]
    last, attempts = supervise(store, tasks_of(40), lambda task: hangs.pop() if hangs else receipt_of(task))
    assert rows_of(last["numbers/0"]) == list(range(40)) and last["numbers/0"].skipped == ()
    assert len(attempts) == 1 + 1 + 16 + 1, "the part, no rows, its pieces, and the part again"


def test_a_step_that_fails_without_any_rows_ends_the_run_and_says_where(store: Store) -> None:
    with pytest.raises(SelectorError, match=r"numbers fails at web.jsonl, rows 0 to 3 .* none of these rows: broken"):
        supervise(store, tasks_of(4), lambda _: Failure(kind="exception", detail="broken"))


@pytest.mark.parametrize(
    ("sizes", "fatal"),
    [
        ((60, 40), range(10)),  # a tenth of the rows
        ((50, 16, 434), range(50, 66)),  # a whole part
        ((1,) * 40, range(0, 40, 9)),
    ],
)
def test_the_run_is_at_fault_where_too_many_rows_are_lost_and_nothing_of_their_parts_is_sealed(
    sizes: tuple[int, ...], fatal: range, store: Store
) -> None:
    tasks = tasks_of(*sizes)
    said = (
        f"numbers cannot do {len(fatal)} of {sum(sizes)} rows: .* The first one is row {fatal[0]} of web.jsonl: Value"
    )
    with pytest.raises(
        SelectorError, match=rf"{said}Error: row {fatal[0]} is bad\. Put it right and run the same command"
    ):
        list(LocalExecutor().run(Numbers(fatal=tuple(fatal)), tasks, store))
    good = {task.key for task in tasks if not set(fatal) & set(rows_of(task))}
    assert set(store.seals()) == good, "finished parts are kept, and no part with losses is one"
    assert list(store.storage.list("attempts/")) == []
    receipts = list(LocalExecutor().run(Numbers(), [task for task in tasks if task.key not in good], store))
    assert sum(receipt.num_quarantined for receipt in receipts) == 0, "put right, the same command loses nothing"
    assert set(store.seals()) == {task.key for task in tasks}


@pytest.mark.parametrize(
    ("sizes", "fatal"),
    [
        ((60, 40), range(9)),  # less than a tenth of the rows
        ((50, 15, 435), range(50, 65)),  # a whole part, which is a small one
        ((50, 17, 433), range(50, 66)),  # as many rows, and one document of the part comes through
    ],
)
def test_bad_rows_among_good_ones_are_quarantined_up_to_the_ceiling(
    sizes: tuple[int, ...], fatal: range, store: Store
) -> None:
    receipts = list(LocalExecutor().run(Numbers(fatal=tuple(fatal)), tasks_of(*sizes), store))
    assert sum(receipt.num_quarantined for receipt in receipts) == len(fatal)
    assert sum(receipt.num_rows for receipt in receipts) == sum(sizes) - len(fatal)


def test_rows_that_are_no_documents_do_not_hide_that_a_whole_part_is_lost(store: Store) -> None:
    documents = {*range(3, 19), *range(20, 400)}  # a part of 20 rows has 16

    def work(task: Task) -> Reply:
        rows = [row for row in rows_of(task) if row in documents]
        if any(row < 20 for row in rows):
            return Failure(kind="exception", detail="no model")
        return Receipt(key=task.key, num_rows=len(rows), num_quarantined=0, seconds=0.0)

    with pytest.raises(SelectorError, match="numbers cannot do 16 of 400 rows"):
        supervise(store, tasks_of(20, 380), work)


def test_a_part_with_losses_waits_until_all_others_are_done_or_wait_too(store: Store) -> None:
    ended: list[str] = []

    def work(task: Task) -> Reply:
        outcome = failing_at(1, 95)(task)
        if isinstance(outcome, Receipt) and task.only is None:
            ended.append(task.key)
        return outcome

    supervise(store, tasks_of(4, 4, 80, 12), work)
    assert ended == [f"numbers/{index}" for index in (1, 2, 0, 3)]


@pytest.mark.parametrize("index", [0, 2])
def test_the_ceiling_is_that_of_the_whole_step_also_where_an_earlier_run_has_done_the_rest(
    index: int, store: Store
) -> None:
    tasks = tasks_of(10, 80, 10)
    fatal = index * 45 + 1
    last, _ = supervise(store, [tasks[index]], failing_at(fatal), num_rows=100)
    assert lost_by(last[tasks[index].key]) == [fatal]
    with pytest.raises(SelectorError, match="1 of 10 rows"):
        supervise(Store(MemoryStorage()), [tasks[index]], failing_at(fatal))


def test_what_else_is_lost_with_the_rest_of_a_part_counts_before_anything_is_sealed(store: Store) -> None:
    """One row of each part is bad. The rest of the second one comes through in pieces, and never as a whole."""
    tasks = tasks_of(20, 12, 68)

    def work(task: Task) -> Reply:
        fails = {20, 30} <= set(rows_of(task))
        return Failure(kind="worker_died", detail="The worker process died.") if fails else failing_at(3, 25)(task)

    def unsealed(task: Task) -> Reply:
        assert task.only is not None or not task.skipped, "a part with losses is sealed"
        return work(task)

    for order in (tasks, tasks[::-1]):
        with pytest.raises(SelectorError, match=r"numbers cannot do 13 of 100 rows: .* row 3 of web.jsonl: row 3"):
            supervise(store, order, unsealed)
        assert list(store.storage.list("attempts/")) == []
    last, _ = supervise(store, [*tasks[:2], *tasks_of(20, 12, 168)[2:]], work)
    assert [len(last[task.key].skipped) for task in tasks] == [1, 12, 0]


def test_what_is_lost_only_as_a_part_is_sealed_counts_with_what_was_sealed_before(store: Store) -> None:
    def work(task: Task) -> Reply:
        is_seal_of_the_second = task.key == "numbers/1" and task.only is None
        return Failure(kind="deadline", detail="late") if is_seal_of_the_second else failing_at(3, 25)(task)

    with pytest.raises(SelectorError, match="numbers cannot do 13 of 125 rows"):
        supervise(store, tasks_of(20, 12, 93), work)


@given(
    sizes=st.lists(st.integers(1, 24), min_size=1, max_size=5),
    most=st.sampled_from([3, 30]),
    together=st.booleans(),
    lives=st.lists(st.integers(0, 40), max_size=4),
    data=st.data(),
)
def test_a_run_that_is_killed_and_resumed_ends_as_one_that_is_not(
    sizes: list[int], most: int, together: bool, lives: list[int], data: st.DataObject
) -> None:
    tasks, num_rows = tasks_of(*sizes), sum(sizes)
    fatal = data.draw(st.sets(st.integers(0, num_rows - 1), max_size=most))

    def work(task: Task) -> Reply:
        rows, first = rows_of(task), task.part.pieces[0].first_row
        fails_as_a_whole = together and {first, first + 3} <= set(rows)
        return Failure(kind="exception", detail="too much") if fails_as_a_whole else failing_at(*fatal)(task)

    def end(done: dict[str, Task], store: Store, lives: Iterator[int]) -> dict[str, Task] | None:
        """The last task per key, or None if the run was at fault."""
        for life in lives:
            try:
                supervision = Supervision(
                    Numbers(), [task for task in tasks if task.key not in done], store, 3, num_rows
                )
                while life and (attempt := supervision.take()):
                    life -= 1
                    if supervision.report(attempt, work(attempt.task)):
                        done[attempt.task.key] = attempt.task
            except SelectorError:
                return None
        return done

    undisturbed = end({}, Store(MemoryStorage()), iter([10**6]))
    assert end({}, Store(MemoryStorage()), iter([*lives, 10**6])) == undisturbed


def test_rows_that_a_killed_run_saw_fail_are_tried_again_before_the_run_is_called_at_fault(store: Store) -> None:
    tasks = tasks_of(12, 12, 12)
    supervision = Supervision(Numbers(), tasks, store, 3)
    while not any(key.endswith("fatal.json") for key, _ in store.storage.list("attempts/")):
        attempt = supervision.take()
        assert attempt is not None
        supervision.report(attempt, failing_at(*range(8), *range(12, 20))(attempt.task))
    last, _ = supervise(store, tasks, failing_at(30))
    assert [lost_by(last[task.key]) for task in tasks] == [[], [], [30]]


@pytest.mark.slow
def test_a_step_that_can_do_no_row_of_a_large_part_is_found_out_by_a_sample(store: Store) -> None:
    tasks = tasks_of(100_000)
    attempts = 0

    def work(task: Task) -> Reply:
        nonlocal attempts
        attempts += 1
        is_document = any(row % 2 for row in rows_of(task)) or len(rows_of(task)) > 1
        if rows_of(task) and is_document:
            return Failure(kind="exception", detail="no model")
        return Receipt(key=task.key, num_rows=0, num_quarantined=0, seconds=0.0)

    with pytest.raises(SelectorError, match=r"numbers cannot do 100000 of 100000 rows: .* no model"):
        supervise(store, tasks, work)
    assert attempts == 3 + 1 + 64


def test_a_large_part_with_bad_rows_at_its_start_is_searched_to_its_end(store: Store) -> None:
    last, _ = supervise(store, tasks_of(1_000), failing_at(*range(90)))
    assert lost_by(last["numbers/0"]) == list(range(90))


@dataclass(frozen=True, kw_only=True)
class Prepared(Numbers):
    """Says when it is prepared, and what it works on then."""

    said: list[str]
    error: Any = None

    def prepare(self, task: Task, store: Store) -> None:
        self.said.append("prepare")
        if self.error:
            raise self.error

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        self.said.append(task.key)
        return super().process(task, store)


def test_a_step_is_prepared_once_before_its_first_task(store: Store) -> None:
    step = Prepared(said=[])
    list(LocalExecutor().run(step, tasks_of(4, 4), store))
    assert step.said == ["prepare", "numbers/0", "numbers/1"]
    assert list(LocalExecutor().run(Prepared(said=(said := [])), [], store)) == [] and said == []


def test_a_step_that_cannot_be_prepared_ends_the_run_and_no_document_is_blamed(store: Store) -> None:
    step = Prepared(said=[], error=FileNotFoundError("models/small-lm is not there."))
    said = r"^numbers cannot begin: FileNotFoundError: models/small-lm is not there\. Put it right and run the same"
    with pytest.raises(SelectorError, match=said):
        list(LocalExecutor().run(step, tasks_of(4, 4), store))
    assert step.said == ["prepare"] and list(store.storage.list("")) == []
    own = UnreachableError("The endpoint does not answer.")
    with pytest.raises(UnreachableError) as caught:
        list(LocalExecutor().run(Prepared(said=[], error=own), tasks_of(4, 4), store))
    assert caught.value is own
    receipts = list(LocalExecutor().run(Prepared(said=[]), tasks_of(4, 4), store))
    assert [receipt.num_quarantined for receipt in receipts] == [0, 0]


def test_an_error_is_told_in_the_same_words_everywhere_and_can_be_stored() -> None:
    failure = Failure.from_exception(ValueError(f"{object()!r} \ud800"))
    assert failure.detail == "ValueError: <object object at 0x...> \\ud800"
    assert "ValueError" in failure.trace


@pytest.mark.parametrize(
    "error",
    [
        DamagedError("embed/1", "it is not sound"),
        UnreachableError("The disk is full."),
        CorpusError("No such column."),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_about_the_run_is_no_attempt(store: Store, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        list(LocalExecutor().run(Raising(error=error), tasks_of(4), store))
    assert caught.value is error
    assert list(store.storage.list("")) == []


@pytest.mark.slow
@pytest.mark.parametrize(("how", "reason"), [("hang", "deadline"), ("die", "worker_died")])
def test_with_a_deadline_a_row_that_hangs_or_dies_costs_a_local_run_itself(
    how: str, reason: str, tmp_path: Path
) -> None:
    store = Store.open(tmp_path)
    with LocalExecutor(workers=1, deadline=1.5, attempts=2) as executor:
        receipts = [*executor.run(Ending(how=how), tasks_of(4, 4, 14), store)]
    seals = [store.sealed(receipt.key) for receipt in sorted(receipts, key=lambda receipt: receipt.key)]
    lost = [row for seal in seals for row in store.table(seal, "quarantine").to_pylist()]
    assert [(row["place"], row["reason"]) for row in lost] == [(2, reason)]
    assert [row for seal in seals for row in store.table(seal, "numbers")["row"].to_pylist()] == [0, 1, *range(3, 22)]
    here = Store(MemoryStorage())
    with LocalExecutor() as executor:
        for seal, receipt in zip(seals[1:], executor.run(Numbers(), tasks_of(4, 4, 14)[1:], here), strict=True):
            assert here.sealed(receipt.key).tables == seal.tables, "the same bytes as in this process"


def test_what_cannot_be_sent_to_a_process_is_refused_with_the_reason(tmp_path: Path) -> None:
    step = Raising(error=lambda: None)
    with LocalExecutor(deadline=60.0) as executor, pytest.raises(SelectorError, match="cannot be sent to a process"):
        list(executor.run(step, tasks_of(4), Store.open(tmp_path)))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_only_a_signal_interrupts(sent: signal.Signals, store: Store) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(sent, interrupt)
    try:
        with inside.stays(), pytest.raises(SelectorError, match=r"raising fails .* KeyboardInterrupt\. So it is not"):
            list(LocalExecutor().run(Raising(error=KeyboardInterrupt()), tasks_of(4), store))
        with pytest.raises(KeyboardInterrupt), inside.stays():
            list(LocalExecutor().run(Signalling(number=sent), tasks_of(4), store))
        assert signal.getsignal(sent) is interrupt
    finally:
        signal.signal(sent, before)


def test_a_step_that_always_raises_ends_the_run_in_process(store: Store) -> None:
    with LocalExecutor(attempts=2) as executor, pytest.raises(SelectorError, match=r"raising fails .* ValueError: no"):
        list(executor.run(Raising(error=ValueError("no")), tasks_of(4), store))


def test_torch_is_asked_only_where_the_machine_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: set[str] = set()
    monkeypatch.setattr("os.path.exists", devices.__contains__)
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it would now raise
    assert LocalExecutor().device() == "cpu"
    devices.add("/dev/nvidiactl")
    for is_available, device in ((True, "cuda"), (False, "cpu")):
        cuda = SimpleNamespace(is_available=(is_available,).__iter__().__next__)
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, __spec__=object()))
        assert LocalExecutor().device() == device


def test_no_attempts_at_all_are_refused() -> None:
    with pytest.raises(UsageError, match="attempts=0"):
        LocalExecutor(attempts=0)
