"""What becomes of parts that fail: the state machine on its own, then the in-process executor."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import MemoryStorage
from selector.engine.local import LocalExecutor
from selector.engine.part import Part, Receipt, Task
from selector.engine.step import Stage
from selector.engine.store import Store
from selector.engine.supervise import Attempt, Failure, Outcome, Supervision
from selector.errors import CorpusError, DamagedError, SelectorError, UnreachableError, UsageError


@dataclass(frozen=True, kw_only=True)
class Numbers(Stage):
    """The numbers of a part's rows; raises at the fatal ones."""

    name = "numbers"
    output = "numbers"
    fatal: tuple[int, ...] = ()

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        rows = rows_of(task)
        for row in rows:
            if row in self.fatal:
                raise ValueError(f"row {row} is bad")
        return {"numbers": pa.table({"row": pa.array(rows, pa.int64())})}


@dataclass(frozen=True, kw_only=True)
class Raising(Stage):
    name = "raising"
    output = "numbers"
    error: Any

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        raise self.error


def rows_of(task: Task) -> list[int]:
    rows = np.arange(task.part.first_row, task.part.first_row + task.part.num_rows)
    return rows[task.mask(rows)].tolist()


def tasks_of(*sizes: int) -> list[Task]:
    """Consecutive parts of one file, of the given numbers of rows."""
    tasks: list[Task] = []
    first = 0
    for index, size in enumerate(sizes):
        part = Part(
            file=0,
            uri="web.jsonl",
            format="jsonl",
            sha256="0" * 64,
            version="1",
            first_row=first,
            num_rows=size,
            start=0,
            end=1,
            source=None,
        )
        tasks.append(Task(key=f"numbers/{index}", part=part))
        first += size
    return tasks


def receipt_of(task: Task) -> Receipt:
    return Receipt(key=task.key, num_rows=len(rows_of(task)), num_quarantined=len(task.skipped), seconds=0.0)


def failing_at(*fatal: int, kind: Any = "exception") -> Callable[[Task], Outcome]:
    def work(task: Task) -> Outcome:
        bad = [row for row in rows_of(task) if row in fatal]
        return Failure(kind=kind, detail=f"row {bad[0]}") if bad else receipt_of(task)

    return work


def supervise(
    store: Store, tasks: Sequence[Task], work: Callable[[Task], Outcome], order: Iterator[int] | None = None
) -> tuple[dict[str, Task], list[Attempt]]:
    """Runs all to the end, up to three at a time, finishing in that order: the last task per key, and all attempts."""
    supervision = Supervision(Numbers(), tasks, store, 3)
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


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    data=st.data(),
)
def test_exactly_the_fatal_rows_are_quarantined_whatever_order_parts_finish_in(
    sizes: list[int], data: st.DataObject
) -> None:
    fatal = data.draw(st.sets(st.integers(0, max(sum(sizes) - 1, 0)), max_size=30))
    order = iter(lambda: data.draw(st.integers(0, 2)), -1)
    tasks = tasks_of(*sizes)
    last, _ = supervise(Store(MemoryStorage()), tasks, failing_at(*fatal), order)
    there = set(range(sum(sizes)))
    assert {skipped.row for task in last.values() for skipped in task.skipped} == fatal & there
    assert {row for task in last.values() for row in rows_of(task)} == there - fatal
    assert set(last) == {task.key for task in tasks}
    in_turn, _ = supervise(Store(MemoryStorage()), tasks, failing_at(*fatal))
    assert last == in_turn


@settings(max_examples=25, deadline=None)
@given(fatal=st.sets(st.integers(0, 29)), order=st.permutations(range(3)))
def test_a_part_is_stored_with_the_same_bytes_however_its_tasks_are_listed(fatal: set[int], order: list[int]) -> None:
    tasks = tasks_of(10, 10, 10)
    one, other = Store(MemoryStorage()), Store(MemoryStorage())
    stage = Numbers(fatal=tuple(fatal))
    receipts = list(LocalExecutor().run(stage, tasks, one))
    list(LocalExecutor().run(stage, [tasks[index] for index in order], other))
    assert sum(receipt.num_rows for receipt in receipts) == 30 - len(fatal)
    assert sum(receipt.num_quarantined for receipt in receipts) == len(fatal)
    assert {key: one.find(key) for key in one.seals()} == {key: other.find(key) for key in other.seals()}


def test_a_part_that_fails_once_is_tried_again_and_loses_nothing(store: Store) -> None:
    failures = [Failure(kind="worker_died", detail="")]
    last, attempts = supervise(store, tasks_of(4), lambda task: failures.pop() if failures else receipt_of(task))
    assert len(attempts) == 2
    assert rows_of(last["numbers/0"]) == [0, 1, 2, 3]


def test_a_quarantined_row_says_why(store: Store) -> None:
    (receipt,) = LocalExecutor().run(Numbers(fatal=(2,)), tasks_of(4), store)
    seal = store.find(receipt.key)
    assert seal is not None
    assert store.table(seal, "numbers")["row"].to_pylist() == [0, 1, 3]
    assert store.table(seal, "quarantine").to_pylist() == [
        {"doc_id": None, "row": 2, "step": "numbers", "reason": "exception", "detail": "ValueError: row 2 is bad"}
    ]


def test_a_resumed_run_goes_on_counting(store: Store) -> None:
    (task,) = tasks_of(4)
    supervision = Supervision(Numbers(), [task], store, 3)
    for _ in range(2):
        attempt = supervision.take()
        assert attempt is not None
        supervision.report(attempt, Failure(kind="exception", detail="bad"))
    _, attempts = supervise(store, [task], failing_at(1))
    assert [attempt.task.only for attempt in attempts[:3]] == [None, (0, 0), (0, 2)]


def test_a_resumed_run_does_not_search_again(store: Store) -> None:
    tasks = tasks_of(8)
    first, _ = supervise(store, tasks, failing_at(5))
    again, attempts = supervise(store, tasks, failing_at(5))
    assert first == again and len(attempts) == 1


def test_a_driver_that_is_killed_blames_nobody(store: Store) -> None:
    supervision = Supervision(Numbers(), tasks_of(4, 4), store, 3)
    assert supervision.take() and supervision.take()
    assert list(store.storage.list("")) == []


def test_a_record_of_fatal_rows_that_was_tampered_with_is_not_believed(store: Store) -> None:
    tasks = tasks_of(8)
    supervise(store, tasks, failing_at(5))
    assert isinstance(store.storage, MemoryStorage)
    objects = store.storage.objects
    objects["attempts/numbers/0/fatal.json"] = objects["attempts/numbers/0/fatal.json"].replace(b"5", b"6")
    last, _ = supervise(store, tasks, failing_at(5))
    assert [skipped.row for skipped in last["numbers/0"].skipped] == [5]


def test_two_runs_on_one_root_do_not_lose_each_others_records(store: Store) -> None:
    (task,) = tasks_of(4)
    for supervision in [Supervision(Numbers(), [task], store, 3), Supervision(Numbers(), [task], store, 3)]:
        attempt = supervision.take()
        assert attempt is not None
        supervision.report(attempt, Failure(kind="exception", detail="bad"))
    assert [key for key, _ in store.storage.list("attempts/")] == [f"attempts/{task.key}/{n}.json" for n in (1, 2)]


def test_a_part_that_failed_twice_and_the_trials_of_its_rows_come_after_ordinary_work(store: Store) -> None:
    supervision = Supervision(Numbers(), tasks_of(4, 4, 4), store, 3)
    order: list[str] = []
    while attempt := supervision.take():
        order.append(attempt.task.key.removeprefix("numbers/") + ("" if attempt.task.only is None else " trial"))
        supervision.report(attempt, failing_at(1)(attempt.task))
    assert order == ["0", "1", "2", "0", "0", *["0 trial"] * 6, "0"]


def test_a_single_row_has_to_fail_twice(store: Store) -> None:
    trials: list[Task] = []

    def work(task: Task) -> Outcome:
        if task.only == (2, 3):
            trials.append(task)
        failing = not trials if task.only is None else task.only in ((2, 4), (2, 3)) and len(trials) < 2
        return Failure(kind="worker_died", detail="") if failing else receipt_of(task)

    last, _ = supervise(store, tasks_of(4), work)
    assert len(trials) == 2 and last["numbers/0"].skipped == ()


def test_a_part_that_fails_only_as_a_whole_is_tried_afresh_and_then_quarantined_whole(store: Store) -> None:
    def work(task: Task) -> Outcome:
        rows = rows_of(task)
        return Failure(kind="deadline", detail="late") if {0, 7} <= set(rows) else receipt_of(task)

    last, attempts = supervise(store, tasks_of(8, 8), work)
    assert sum(attempt.task.only is None and attempt.task.part.first_row == 0 for attempt in attempts) == 3 + 3 + 1
    assert [(skipped.row, skipped.reason) for skipped in last["numbers/0"].skipped] == [
        (row, "deadline") for row in range(8)
    ]
    assert rows_of(last["numbers/1"]) == list(range(8, 16))


def test_a_stage_that_fails_without_any_rows_ends_the_run_and_says_where(store: Store) -> None:
    with pytest.raises(SelectorError, match=r"numbers fails at web.jsonl, rows 0 to 3 .* none of these rows: broken"):
        supervise(store, tasks_of(4), lambda _: Failure(kind="exception", detail="broken"))


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


def test_a_stage_that_always_raises_ends_the_run_in_process(store: Store) -> None:
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
