"""Maps on processes of this machine: the answers of one process, whatever happens to them, and none is left behind."""

import contextlib
import functools
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import works
from conftest import MemoryStorage
from selector.engine import alive
from selector.engine import worker_pool as worker_pool_module
from selector.engine.answers import Answers, sent
from selector.engine.local import DEADLINE, LocalExecutor
from selector.engine.part import Part, Piece, Receipt, Task
from selector.engine.processes import Processes
from selector.engine.runner import Runner
from selector.engine.step import APART, Done, Map, Step, Tables, Whole
from selector.engine.store import Seal, Store
from selector.engine.supervise import Attempt, Failure, Supervision
from selector.engine.worker import Command, ItemWork, pickled, unpickled
from selector.engine.worker_pool import Ended, Job, Worker, WorkerPool
from selector.errors import DamagedError, SelectorError, UsageError

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def workers() -> set[int]:
    """The worker processes that this process has now, by their ids."""
    found: set[int] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and "engine.worker" in folder.joinpath("cmdline").read_text():
                found.add(int(folder.name))
    return found


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Generator[None]:
    yield
    assert workers() == set()


@dataclass(frozen=True, kw_only=True)
class Plus:
    number: float

    def __call__(self, values: Any) -> Any:
        return values + self.number


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_answers_come_in_the_order_of_the_items_whatever_the_number_of_workers(num_workers: int) -> None:
    with LocalExecutor(workers=num_workers) as executor:
        assert list(executor.map(works.double, range(40))) == list(range(0, 80, 2))
        assert list(executor.map(functools.partial(pow, 2), [3, 1, 2])) == [8, 2, 4]
        answers = list(executor.map(Plus(number=0.5), [np.arange(n) for n in range(5)]))
        assert [answer.tolist() for answer in answers] == [[i + 0.5 for i in range(n)] for n in range(5)]
        assert list(executor.map(works.double, [])) == [] and list(executor.map(works.double, [4])) == [8]


def test_early_items_that_take_longest_hold_up_no_answer_but_come_first() -> None:
    with LocalExecutor(workers=3) as executor:
        seconds = [0.3, 0.2, 0.1, 0.0, 0.0]
        slow = list(executor.map(_slept, seconds))
    assert slow == seconds


def _slept(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_processes_start_with_the_first_map_that_needs_them_and_serve_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_started = 0
    start = Processes.start

    def counted(pool: Processes, kind: Hashable) -> Worker:
        nonlocal num_started
        num_started += 1
        return start(pool, kind)

    monkeypatch.setattr(Processes, "start", counted)
    with LocalExecutor(workers=2) as executor:
        assert set(executor.map(works.place, [1])) == {os.getpid()} and workers() == set()
        meetings = [works.Meeting(folder=str(tmp_path / name), num_workers=2) for name in "abcdefgh"]
        places = [set(executor.map(meeting, range(8))) for meeting in meetings]
        assert set().union(*places) == workers() and len(workers()) == 2
        assert num_started == 2, "over eight maps"
    assert workers() == set()
    assert set(LocalExecutor(workers=1).map(works.place, range(3))) == {os.getpid()}


def test_a_process_is_light_has_one_thread_for_each_library_and_works_on_its_main_thread() -> None:
    with LocalExecutor(workers=2) as executor:
        for told in executor.map(works.surroundings, range(2)):
            assert not {"torch", "ray", "faiss", "transformers", "typer", "sklearn"} & set(told["modules"])
            assert told["threads"] == (1, 1, 1) and told["is_main_thread"] and told["main"] is None


def test_one_executor_serves_two_runs_after_another_and_maps_inside_each_other(tmp_path: Path) -> None:
    executor = LocalExecutor(workers=2)
    for name in "ab":
        with executor:
            first = set(executor.map(works.Meeting(folder=str(tmp_path / name), num_workers=2), range(4)))
            with executor:
                assert set(executor.map(works.place, range(4))) <= first
            assert workers() == first
            pairs = zip(executor.map(works.double, range(5)), executor.map(Plus(number=1), range(5)), strict=True)
            assert list(pairs) == [(2 * n, n + 1) for n in range(5)]
            assert workers() == first
        assert workers() == set()


def test_a_map_of_an_executor_that_was_not_entered_brings_its_own_processes() -> None:
    assert list(LocalExecutor(workers=2).map(works.double, range(3))) == [0, 2, 4]


@pytest.mark.parametrize("kind", ["kill", "stop", "hang"])
def test_an_item_whose_worker_dies_or_hangs_once_is_tried_again_and_nothing_else_is(kind: str, tmp_path: Path) -> None:
    work = works.Troubled(folder=str(tmp_path), at=3, kind=kind, once=True)
    with LocalExecutor(workers=2, deadline=3.0) as executor:
        assert list(executor.map(work, range(8))) == list(range(0, 16, 2))
    assert works.calls(tmp_path) == sorted([*range(8), 3])


@pytest.mark.parametrize(
    ("kind", "cause"), [("kill", "The worker process died"), ("stop", "It gave no sign of life for 1 seconds")]
)
def test_a_map_stops_with_the_cause_where_no_worker_survives_an_item(kind: str, cause: str, tmp_path: Path) -> None:
    work = works.Troubled(folder=str(tmp_path), at=3, kind=kind)
    said = rf"^works\.Troubled cannot do item 4 of 8, tried 2 times: {cause}\. Put it right and run the same command"
    with LocalExecutor(workers=2, deadline=1.0, attempts=2) as executor:
        with pytest.raises(SelectorError, match=said):
            list(executor.map(work, range(8)))
        assert works.calls(tmp_path).count(3) == 2
        assert list(executor.map(works.double, range(3))) == [0, 2, 4], "and the executor can go on"


@pytest.mark.parametrize("num_workers", [1, 2])
def test_work_that_raises_ends_the_map_at_once_with_its_cause(num_workers: int, tmp_path: Path) -> None:
    work = works.Troubled(folder=str(tmp_path), at=3, kind="raise")
    said = r"^works\.Troubled cannot do item 4 of 8: ArithmeticError: this number is too much\. Put it right"
    with LocalExecutor(workers=num_workers) as executor:
        answers: list[int] = []
        with pytest.raises(SelectorError, match=said) as raised:
            answers.extend(executor.map(work, range(8)))
    assert answers == [0, 2, 4][: len(answers)]
    assert raised.value.exit_code == 1
    assert 'works.py", line' in raised.value.__notes__[0] and "make_trouble" in raised.value.__notes__[0]
    assert works.calls(tmp_path).count(3) == 1


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_about_the_run_arrives_as_it_is(num_workers: int, tmp_path: Path) -> None:
    work = works.Troubled(folder=str(tmp_path), at=1, kind="damaged")
    with LocalExecutor(workers=num_workers) as executor, pytest.raises(DamagedError, match="embed/1") as raised:
        list(executor.map(work, range(3)))
    assert (raised.value.key, raised.value.reason) == ("embed/1", "it is not sound")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_work_that_cannot_be_sent_is_refused_in_words_before_anything_is_done(num_workers: int) -> None:
    executor = LocalExecutor(workers=num_workers)
    told = r"cannot be sent to a worker: .*\. Give map a function of a module, a frozen dataclass with __call__"
    with pytest.raises(SelectorError, match=rf"<lambda> {told}"):
        executor.map(lambda number: number, [1, 2])
    with pytest.raises(SelectorError, match=rf"^test_map\.Plus {told}"):
        executor.map(Plus(number=threading.Lock()), [1, 2])  # pyright: ignore[reportArgumentType]


def test_items_and_answers_that_cannot_be_sent_are_refused_in_words() -> None:
    with LocalExecutor(workers=2) as executor:
        with pytest.raises(SelectorError, match=r"works\.double: item 2 of 2 cannot be sent to a worker: TypeError: "):
            list(executor.map(works.double, [1, threading.Lock()]))  # pyright: ignore[reportArgumentType]
        with pytest.raises(SelectorError, match=r"works\.lines cannot do item 1 of 2: TypeError: cannot pickle 'gener"):
            list(executor.map(works.lines, ["a", "b"]))


def test_work_that_no_worker_can_load_ends_the_map() -> None:
    with LocalExecutor(workers=2) as executor:
        said = r"5 workers in a row died before they could begin\. The last one: Its exit code is 1\. Check that"
        with pytest.raises(SelectorError, match=said):
            list(executor.map(works.Unloadable(), range(3)))
        assert list(executor.map(works.double, range(3))) == [0, 2, 4]


def test_what_work_seals_is_whole_where_its_worker_is_killed_between_a_blob_and_its_seal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELECTOR_FAILPOINT", "store.before_seal:kill")
    monkeypatch.setenv("SELECTOR_FAILPOINT_ONCE", str(tmp_path / "reached"))
    store = Store.open(str(tmp_path / "root"))
    with LocalExecutor(workers=2) as executor:
        assert list(executor.map(works.Sealing(store=store), range(6))) == list(range(6))
    assert (tmp_path / "reached").exists()
    assert sorted(store.seals()) == [f"mapped/{number:03}" for number in range(6)]
    assert all(map(store.is_sound, store.seals()))


def test_a_map_that_is_left_early_leaves_nobody_at_work(tmp_path: Path) -> None:
    with LocalExecutor(workers=2) as executor:
        answers = executor.map(works.Troubled(folder=str(tmp_path), at=1, kind="hang"), range(4))
        assert next(answers) == 0
        busy = workers()
        answers.close()  # pyright: ignore[reportAttributeAccessIssue]
        assert not busy & workers(), "both were at an item"
        assert list(executor.map(works.double, range(3))) == [0, 2, 4]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_of_the_driver_ends_all_processes_though_its_traceback_holds_the_map(
    error: type[BaseException], tmp_path: Path
) -> None:
    with pytest.raises(error, match="stop"), LocalExecutor(workers=2) as executor:  # noqa: PT012
        for _ in executor.map(works.Troubled(folder=str(tmp_path), at=1, kind="hang"), range(4)):
            assert len(workers()) == 2
            raise error("stop")
    assert workers() == set()


def test_an_interrupt_while_the_driver_waits_ends_all_processes(tmp_path: Path) -> None:
    work = works.Troubled(folder=str(tmp_path), at=1, kind="interrupt")
    with pytest.raises(KeyboardInterrupt), LocalExecutor(workers=2) as executor:
        list(executor.map(work, range(4)))


SCRIPT = """
import os, sys
from pathlib import Path
import works
from selector.engine.local import LocalExecutor

folder = Path(os.environ["FOLDER"])
with (folder / "begun").open("a") as file:
    file.write("once\\n")
with LocalExecutor(workers=2) as executor:
    print(list(executor.map(works.says, ["a", "b", "c"])))
    (folder / "places").write_text(" ".join(map(str, set(executor.map(works.place, range(2))))))
    list(executor.map(works.Troubled(folder=str(folder), at=0, kind=os.environ["KIND"]), range(2)))
"""


@contextlib.contextmanager
def own_process(tmp_path: Path, kind: str) -> "Generator[subprocess.Popen[str]]":
    """A script as a user writes it, with all of its work at its top level, in a process group of its own."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, "utf-8")
    places = os.pathsep.join([str(HERE.parent), str(HERE.parents[1])])
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"FOLDER": str(tmp_path), "KIND": kind, "PYTHONPATH": places},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def hangs(process: "subprocess.Popen[str]", folder: Path) -> list[int]:
    """The script's workers, once one of them hangs."""
    began = time.monotonic()
    while not list(folder.glob("met-*")):
        assert process.poll() is None and time.monotonic() - began < 60, "the work did not begin"
        time.sleep(0.05)
    return [int(place) for place in (folder / "places").read_text().split()]


def assert_gone(places: Sequence[int]) -> None:
    began = time.monotonic()
    while any(Path(f"/proc/{place}/cmdline").exists() for place in places):
        assert time.monotonic() - began < 10, "a worker is left"
        time.sleep(0.05)


def test_a_script_is_run_once_and_what_work_prints_is_not_its_output(tmp_path: Path) -> None:
    with own_process(tmp_path, "raise") as process:
        out, err = process.communicate(timeout=60)
    assert out == "['a', 'b', 'c']\n" and process.returncode == 1
    printed = "".join(line for line in err.splitlines() if set(line) <= {*"abc"})  # lines of two may run together
    assert sorted(printed) == ["a", "b", "c"]
    assert "SelectorError: works.Troubled cannot do item 1 of 2: ArithmeticError" in err
    assert (tmp_path / "begun").read_text() == "once\n"
    assert_gone([int(place) for place in (tmp_path / "places").read_text().split()])


def test_ctrl_c_ends_the_processes_with_the_driver_and_only_the_driver_says_so(tmp_path: Path) -> None:
    with own_process(tmp_path, "hang") as process:
        places = hangs(process, tmp_path)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        _, err = process.communicate(timeout=10)
        assert process.returncode == -signal.SIGINT and err.count("Traceback") == 1
        assert_gone(places)


def test_a_driver_that_is_killed_takes_its_processes_with_it(tmp_path: Path) -> None:
    with own_process(tmp_path, "hang") as process:
        places = hangs(process, tmp_path)
        process.kill()
        assert_gone(places)


@pytest.mark.parametrize("nonsense", [0, -1, "2", True, float("nan"), [1], 10**400 * -1])
@pytest.mark.parametrize("option", ["workers", "deadline", "attempts"])
def test_options_that_leave_no_room_to_work_are_refused(option: str, nonsense: Any) -> None:
    with pytest.raises(UsageError, match=f"^{option}="):
        LocalExecutor(**{option: nonsense})
    if option != "deadline":
        half: dict[str, Any] = {option: 1.5}
        with pytest.raises(UsageError, match=f"^{option}="):
            LocalExecutor(**half)


@dataclass(kw_only=True, eq=False)
class Puppet(Worker):
    """A worker that does what a test says."""

    told: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    is_ended: bool = False
    node: str = ""

    @property
    def place(self) -> tuple[str, str]:
        return self.node, ""

    def tell(self, command: Command, job: Job[Any, Any], given: Any) -> None:
        self.told.append((command, given))

    def end(self) -> None:
        self.is_ended = True


class Puppets(WorkerPool):
    """Workers of a test: `play` answers for a worker, or lets time pass."""

    def __init__(self, deadline: float, play: Callable[[Puppet], Any]) -> None:
        super().__init__(deadline)
        self.play, self.now, self.num_started = play, 0.0, 0

    def start(self, kind: Hashable) -> Worker:
        self.num_started += 1
        return Puppet(kind=kind, state="idle", node="here" if self.num_started == 1 else "there")

    def receive(self, seconds: float) -> list[tuple[Worker, Any]]:
        if not seconds:
            return []
        received: list[tuple[Worker, Any]] = []
        for worker in self.workers:
            assert isinstance(worker, Puppet)
            answer = self.play(worker) if worker.told and worker.state != "idle" else LATER
            if answer is not LATER:
                received.append((worker, answer))
        self.now += 0.0 if received else seconds
        return received


LATER = object()


def use_clock_of(worker_pool: Puppets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool_module, "time", SimpleNamespace(monotonic=lambda: worker_pool.now))


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Work on a part that a worker has to prepare for."""

    name: str = "rows"
    needs_preparation: bool = True


class Once:
    """One attempt, and what became of it."""

    def __init__(self, attempt: Any) -> None:
        self.waiting, self.outcome = [attempt], None

    @property
    def num_open(self) -> int:
        return 1 if self.outcome is None else 0

    def take(self, rank: Any = None) -> Any:
        return self.waiting.pop() if self.waiting else None

    def report(self, attempt: Any, outcome: Any, /) -> Any:
        self.outcome = outcome
        return outcome


def trial(*only: int, num_rows: int = 1000, final: bool = False) -> Attempt:
    piece = Piece(
        file=0, uri="web.jsonl", format="jsonl", sha256="0" * 64, version="1", first_row=0, num_rows=num_rows, start=0,
        end=1, source=None,
    )  # fmt: skip
    return Attempt(task=Task(key="rows/1", part=Part.of(piece), only=(only[0], only[1]) if only else None), final=final)


@pytest.mark.parametrize(
    ("attempt", "seconds"),
    [
        (trial(), 300),
        (trial(0, 1000), 300),
        (trial(500, 1000), 150),
        (trial(0, 200), 60),
        (trial(7, 8), 30),  # the least, for it reads the whole part
        (trial(0, 0), 30),
        (trial(7, 8, final=True), 75),  # it decides about a document, which may be a long one
        (trial(0, 1, num_rows=1), 300),
    ],
)
def test_a_trial_has_as_much_of_the_deadline_as_of_the_rows_from_the_end_of_its_workers_preparation(
    attempt: Attempt, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[float] = []

    def play(worker: Puppet) -> Any:
        if worker.state == "do":
            began.append(worker.since)
            return LATER
        worker_pool.now += 200
        return None

    worker_pool = Puppets(DEADLINE, play)
    use_clock_of(worker_pool, monkeypatch)
    supply = Once(attempt)
    (outcome,) = worker_pool.work(Job(work=Rows(), supply=supply, kind=None, num_workers=1))  # pyright: ignore[reportArgumentType]
    assert outcome == Failure(kind="deadline", detail=f"It gave no sign of life for {seconds:g} seconds.")
    assert began[0] == 400 and worker_pool.now - began[0] == seconds and worker_pool.workers == []


def test_work_that_gives_signs_of_life_may_take_any_time_and_is_late_once_they_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signs = [*range(0, 1000, 10), None]

    def play(worker: Puppet) -> Any:
        if worker.state != "do":
            return None
        if not signs:
            return LATER
        worker_pool.now += 290
        return alive.Sign(num_rows=signs.pop(0))

    worker_pool, heard = Puppets(DEADLINE, play), works.Heard()
    use_clock_of(worker_pool, monkeypatch)
    supply = Once(trial())
    with alive.heard_by(heard):
        (outcome,) = worker_pool.work(Job(work=Rows(), supply=supply, kind=None, num_workers=1))  # pyright: ignore[reportArgumentType]
    assert outcome == Failure(kind="deadline", detail="It gave no sign of life for 300 seconds.")
    assert worker_pool.now == 101 * 290 + 300
    told = [word for word in heard.words if isinstance(word, int)]
    assert told == sorted(told) and told[-1] == 990, "a sign without a number takes nothing back"


def test_rows_of_a_part_that_is_finished_are_not_counted_among_those_in_hand() -> None:
    signs = [[5], [3, 3, 3]]  # of each worker, before it is done

    def play(worker: Puppet) -> Any:
        if worker.state != "do":
            return None
        own = signs[worker_pool.workers.index(worker)]
        return alive.Sign(num_rows=own.pop()) if own else pickled(1)

    worker_pool, heard = Puppets(DEADLINE, play), works.Heard()
    job = Job(work=sent(works.double), supply=Answers[int]("work", [1, 2], 1), kind=None, num_workers=2)
    with alive.heard_by(heard):
        assert [answer for answers in worker_pool.work(job) for answer in answers] == [1, 1]
    counts = [word for word in heard.words if isinstance(word, int)]
    assert 8 in counts and counts[-1] == 3


def test_a_worker_is_rather_given_what_its_own_machine_was_at() -> None:
    """In the next map: there are copies of what it reads."""
    done: list[tuple[str, int]] = []
    turns = itertools.cycle([True, True, False])

    def play(worker: Puppet) -> Any:
        if worker.state != "do":
            return None
        if worker.node == "here" and next(turns):  # one machine is slower
            return LATER
        done.append((worker.node, unpickled(worker.attempt.given)))
        return pickled(0)

    worker_pool = Puppets(DEADLINE, play)

    def mapped(num_items: int) -> dict[int, str]:
        done.clear()
        supply = Answers[int]("work", list(range(num_items)), 1)
        for _ in worker_pool.work(Job(work=sent(works.double), supply=supply, kind=None, num_workers=2)):
            pass
        return {item: node for node, item in done}

    before, after = mapped(12), mapped(12)
    assert sorted(before) == sorted(after) == list(range(12)) and {*before.values()} == {"here", "there"}
    assert sum(before[item] == after[item] for item in range(12)) >= 10
    assert sorted(mapped(5)) == list(range(5)), "what nobody was at is given in its order"


class Several:
    """Attempts, in their order, and what became of each."""

    def __init__(self, *attempts: Attempt) -> None:
        self.waiting, self.outcomes = list(attempts), dict[Attempt, Any]()
        self._num = len(attempts)

    @property
    def num_open(self) -> int:
        return self._num - len(self.outcomes)

    def take(self, rank: Any = None) -> Any:
        return self.waiting.pop(0) if self.waiting else None

    def report(self, attempt: Attempt, outcome: Any, /) -> Any:
        self.outcomes[attempt] = outcome
        return outcome


def outcomes_of(worker_pool: Puppets, *attempts: Attempt, num_workers: int) -> list[Any]:
    supply = Several(*attempts)
    job = Job(work=Rows(), supply=supply, kind=None, num_workers=num_workers)  # pyright: ignore[reportArgumentType]
    for _ in worker_pool.work(job):
        pass
    return [supply.outcomes[attempt] for attempt in attempts]


@pytest.mark.parametrize(("num_out_of_memory", "is_blamed"), [(1, False), (2, True)])
def test_work_whose_worker_ran_out_of_memory_is_done_again_alone_before_it_is_blamed(
    num_out_of_memory: int, is_blamed: bool
) -> None:
    heavy, light, later = trial(0, 1), trial(1, 2), trial(2, 3)
    company: list[int] = []
    turns = {light: 3, later: 1}  # looks that each one takes

    def play(worker: Puppet) -> Any:
        if worker.state != "do":
            return LATER if worker.state == "held" else None
        if worker.attempt is heavy:
            company.append(sum(other.state == "do" for other in worker_pool.workers) - 1)
            if len(company) <= num_out_of_memory:
                return Ended(detail="The worker ran out of memory.", cause="memory")
            return "heavy"
        turns[worker.attempt] -= 1
        return "light" if turns[worker.attempt] <= 0 else LATER

    worker_pool = Puppets(DEADLINE, play)
    outcome, *others = outcomes_of(worker_pool, heavy, light, later, num_workers=2)
    assert others == ["light", "light"] and company[0] == 1 and set(company[1:]) == {0}
    blamed = Failure(kind="worker_died", detail="The worker ran out of memory.")
    assert outcome == (blamed if is_blamed else "heavy")


def test_workers_for_which_there_is_no_memory_end_the_run_with_a_cure_for_that() -> None:
    full = Ended(detail="The worker ran out of memory.", trace="The node is low on memory", cause="memory")
    worker_pool = Puppets(DEADLINE, lambda _: full)
    with pytest.raises(SelectorError, match=r"The last one: The node is low on memory\. Give its machine more memory"):
        outcomes_of(worker_pool, trial(), num_workers=1)


@pytest.mark.parametrize(("num_lost", "outcome"), [(1, "done"), (7, "done"), (8, "lost")])
def test_what_is_lost_with_its_machine_is_nobodys_fault_unless_no_machine_survives_it(
    num_lost: int, outcome: str
) -> None:
    lost: list[str] = []

    def play(worker: Puppet) -> Any:
        if worker.state != "do":
            return None
        if len(lost) == num_lost:
            return "done"
        lost.append("once more")
        return Ended(detail="Its machine is gone.", cause="machine")

    worker_pool = Puppets(DEADLINE, play)
    blamed = Failure(kind="worker_died", detail="Its machine is gone.")
    assert outcomes_of(worker_pool, trial(), num_workers=1) == [blamed if outcome == "lost" else "done"]
    assert worker_pool.num_started == len(lost) + (outcome == "done")


def test_a_late_worker_whose_machine_stands_still_is_no_failure_of_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    def play(worker: Puppet) -> Any:
        if worker.state != "do":
            return None
        return LATER if worker_pool.num_started == 1 else "done"

    worker_pool = Puppets(DEADLINE, play)
    use_clock_of(worker_pool, monkeypatch)
    monkeypatch.setattr(worker_pool, "is_lost", lambda _: True)
    assert outcomes_of(worker_pool, trial(), num_workers=1) == ["done"]


def test_a_worker_whose_machine_will_be_taken_away_ends_what_it_is_at_and_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places: list[str] = []

    def play(worker: Puppet) -> Any:
        if worker.state != "do":
            return None
        leaving.add("here")
        places.append(worker.place[0])
        return "done"

    leaving = set[str]()
    worker_pool = Puppets(DEADLINE, play)
    monkeypatch.setattr(worker_pool, "leaving", lambda: leaving)
    assert outcomes_of(worker_pool, trial(), trial(0, 1), trial(1, 2), num_workers=1) == ["done"] * 3
    assert places == ["here", "there", "there"]


@dataclass(frozen=True, kw_only=True)
class Parted(Map):
    """A step whose parts puppets do."""

    name: str = field(default="parted", metadata=APART)
    reads: tuple[str, ...] = field(default=(), metadata=APART)
    output = "rows"

    def tasks(self, done: Done) -> Sequence[Task]:
        return []

    def process(self, task: Task, store: Store) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(("row", "num_sampled"), [(0, 1), (1234, 0), (4095, 0)])
def test_a_row_that_hangs_in_a_part_of_4096_costs_eight_minutes(
    row: int, num_sampled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All else takes no time here: what is counted is the waiting for workers that do not answer."""

    def play(worker: Puppet) -> Any:
        if worker.state != "do":
            return None
        task: Task = worker.attempt.task
        first, end = task.only or (0, 4096)
        if first <= row < end and not task.skipped:
            return LATER
        return Receipt(key=task.key, num_rows=end - first, num_quarantined=len(task.skipped), seconds=0.0)

    worker_pool = Puppets(DEADLINE, play)
    use_clock_of(worker_pool, monkeypatch)
    task: Task = trial(num_rows=4096).task
    supply = Supervision(Parted(), [task], Store(MemoryStorage()), 3)
    (receipt,) = worker_pool.work(Job(work=Rows(), supply=supply, kind=None, num_workers=1))  # pyright: ignore[reportArgumentType]
    assert receipt.num_quarantined == 1
    assert worker_pool.now == 300 + 30 * num_sampled + 30 + 30 + 30 + 75
    assert worker_pool.num_started == 6 + num_sampled, "each of those workers is ended, and another one goes on"


def test_what_is_waited_for_is_said_while_nobody_is_at_work() -> None:
    states: list[str] = []

    def play(worker: Puppet) -> Any:
        states.append(worker.state)
        return LATER if states.count(worker.state) == 1 else receipt if worker.state == "do" else None

    receipt, heard = Receipt(key="rows/1", num_rows=1000, num_quarantined=0, seconds=0.0), works.Heard()
    worker_pool = Puppets(DEADLINE, play)
    with alive.heard_by(heard):
        list(worker_pool.work(Job(work=Rows(), supply=Once(trial()), kind=None, num_workers=1)))  # pyright: ignore[reportArgumentType]
    assert list(dict.fromkeys(heard.words)) == ["workers are getting ready", "loading what the step needs", 0]


def test_what_a_process_says_of_its_work_reaches_whoever_watches_the_run(tmp_path: Path) -> None:
    heard = works.Heard(folder=str(tmp_path))
    with LocalExecutor(workers=2) as executor, alive.heard_by(heard):
        assert list(executor.map(works.UntilHeard(folder=str(tmp_path)), [7, 8])) == [7, 8]


def signing(number: int) -> int:
    """Gives more signs than there is room for in a pipe, if all of them were sent."""
    for num_rows in range(20_000):
        alive.sign(num_rows)
    return number


def test_signs_of_a_process_reach_the_driver_and_hold_up_nothing() -> None:
    heard = works.Heard()
    with LocalExecutor(workers=2) as executor, alive.heard_by(heard):
        assert list(executor.map(signing, range(4))) == [0, 1, 2, 3]
    assert {*heard.words} <= {0, "workers are starting", "workers are getting ready"}


@pytest.mark.parametrize("answer", [Ended(trace="Its exit code is 1."), Failure(kind="exception", detail="no module")])
def test_a_worker_that_could_not_begin_blames_no_attempt_and_is_replaced(answer: Any) -> None:
    failures = [answer] * 4

    def play(worker: Puppet) -> Any:
        if worker.state == "load":
            return failures.pop() if failures else None
        return pickled(42)

    worker_pool = Puppets(900, play)
    supply = Answers[int]("work", [1], 1)
    job = Job(work=sent(works.double), supply=supply, kind=None, num_workers=1)
    assert list(worker_pool.work(job)) == [[42]] and worker_pool.num_started == 5


def test_a_worker_that_dies_idle_is_no_failed_start() -> None:
    def play(worker: Puppet) -> Any:
        if worker.state == "load":
            return Ended() if worker.is_proved else None
        return pickled(42)

    worker_pool = Puppets(900, play)
    for _ in range(8):
        job = Job(work=sent(works.double), supply=Answers[int]("work", [1], 1), kind=None, num_workers=1)
        assert list(worker_pool.work(job)) == [[42]]
    assert worker_pool.num_started == 8


def test_work_loads_only_what_it_was_given_and_forgets_what_was_there_before() -> None:
    opened = sent(works.double).opened()
    assert isinstance(opened, ItemWork) and opened.pickled == b"" and opened.work is works.double


@dataclass(frozen=True, kw_only=True)
class Nothing(Whole):
    """A step whose answer is empty."""

    name: str = field(metadata=APART)
    reads: tuple[str, ...] = field(default=(), metadata=APART)

    def rows_in(self, done: Done) -> int:
        return 0

    def inputs(self, done: Done) -> Any:
        return None

    def compute(self, done: Done) -> Tables:
        return []

    def rows_out(self, seal: Seal, store: Store) -> int:
        return 0


@dataclass(frozen=True, kw_only=True)
class Listening(LocalExecutor):
    """Notes what is said to be still to come."""

    later: list[list[str]] = field(default_factory=list[list[str]])

    def release(self, later: Sequence[Step]) -> None:
        self.later.append([step.name for step in later])


def test_an_executor_is_told_after_each_step_what_is_still_to_come() -> None:
    executor = Listening()
    flow = [Nothing(name="a"), replace(Nothing(name="b"), reads=("a",)), Nothing(name="c")]
    with Runner(Store(MemoryStorage()), executor) as runner:
        runner.run(flow)
    assert executor.later == [["b", "c"], ["c"], []]
