"""What a run tells of itself in the root, while it is at work and afterwards."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from selector.engine import job as jobs
from selector.engine import journal
from selector.engine.alive import Stall
from selector.engine.job import Ending, Job, State
from selector.engine.journal import Journal, Seen
from selector.engine.lease import Lease
from selector.engine.part import Receipt
from selector.engine.runner import NoProgress
from selector.engine.step import Result
from selector.engine.submission import state_of
from selector.engine.target import Parcel, Target
from selector.errors import UnreachableError
from selector.storage import Storage, open_storage

JOB = Job(id="selector-0123456789ab", target="ray=http://head:8265", root="/root")
STALL = Stall(part="rate/7", worker="4711", node="n2", seconds=75.0)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "root")


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def opened(storage: Storage, clock: Clock, job: str | None = None) -> tuple[Lease, Journal]:
    lease = Lease(storage)
    lease.renew()
    return lease, Journal(storage, lease, NoProgress(), job, now=clock)


def receipt(number: int, num_rows: int = 100) -> Receipt:
    return Receipt(key=f"embed/{number}", num_rows=num_rows, num_quarantined=0, seconds=1.0)


def seen(storage: Storage) -> Seen:
    (one,) = journal.read(storage)
    return one


def test_documents_rate_and_time_left_follow_from_what_was_told(storage: Storage) -> None:
    clock = Clock()
    _, run = opened(storage, clock)
    with run:
        run.counted(1000, 50_000)
        run.began("embed", 10)
        clock.now += 20
        for number in range(4):
            run.advanced("embed", receipt(number))
        run.at_work("embed", 60)
        run._write()  # pyright: ignore[reportPrivateUsage]
        step = seen(storage).step
        assert step is not None and (step.parts, step.parts_done, step.documents) == (10, 4, 460)
        assert step.rate(clock.now) == pytest.approx(23.0) and step.seconds_left(clock.now) == pytest.approx(30.0)
        assert seen(storage).tokens_per_document == 50.0


def test_documents_never_go_down_within_a_step_and_begin_anew_with_the_next(storage: Storage) -> None:
    _, run = opened(storage, Clock())
    with run:
        run.began("embed", 2)
        counts: list[int] = []
        for num_rows in (50, 30, None, 80):
            run.at_work("embed", num_rows)
            counts.append(run._seen.step.documents if run._seen.step else 0)  # pyright: ignore[reportPrivateUsage]
        assert counts == [50, 50, 50, 80]
        run.advanced("embed", receipt(1))
        result: dict[str, Any] = {"fingerprint": "f", "cached": False, "rows_in": 1, "rows_out": 1, "seconds": 1.0}
        result["num_bytes"] = 1
        run.ended(Result(name="embed", **result))
        run.began("rate", 2)
        run.at_work("rate", 3)
        step = run._seen.step  # pyright: ignore[reportPrivateUsage]
        assert step is not None and step.documents == 3
    assert [row["name"] for row in seen(storage).done] == ["embed"]


def test_a_stall_is_named_by_part_worker_and_node_and_told_once(storage: Storage) -> None:
    _, run = opened(storage, Clock())
    with run:
        run.began("rate", 9)
        for _ in range(3):
            run.stalled("rate", [STALL])
        run._write()  # pyright: ignore[reportPrivateUsage]
        step = seen(storage).step
        assert step is not None and step.stalls == (STALL,)
        run.stalled("rate", [])
    lines = [line for line in journal.lines(storage, seen(storage)) if line["event"] == "stalled"]
    assert [(line["step"], line["part"], line["worker"], line["node"]) for line in lines] == [
        ("rate", "rate/7", "4711", "n2")
    ]


@pytest.mark.parametrize(
    ("error", "word"), [(None, "finished"), (ValueError("no"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_a_journal_says_how_its_run_ended(error: BaseException | None, word: str, storage: Storage) -> None:
    _, run = opened(storage, Clock())
    try:
        with run:
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert seen(storage).ended == word
    events = [line["event"] for line in journal.lines(storage, seen(storage))]
    assert events == ["begun", word]


def test_a_run_lives_as_long_as_its_lease(storage: Storage) -> None:
    lease, run = opened(storage, Clock())
    with run:
        assert journal.living(storage, [seen(storage)]) == {run.key}
        storage.delete(lease.key)
        assert journal.living(storage, [seen(storage)]) == set()


def test_what_cannot_be_read_hides_no_other_journal(storage: Storage) -> None:
    _, run = opened(storage, Clock())
    with run:
        pass
    storage.put_if_absent("journals/runs/0/progress.json", b'{"half": ')
    storage.put_if_absent("journals/runs/1/progress.json", b"[]")
    body = json.loads(storage.get(f"{run.key}progress.json") or b"")
    step = {"name": "rate", "began": 1.0, "stalls": [asdict(STALL)]}
    row = {"name": "rate", "cached": False, "rows_in": 1, "rows_out": 1, "seconds": 1.0}
    wholes: list[tuple[dict[str, Any], Callable[[Any], dict[str, Any]]]] = [
        (body, lambda damaged: damaged),
        (step, lambda damaged: {**body, "steps": [damaged]}),
        (asdict(STALL), lambda damaged: {**body, "steps": [{**step, "stalls": [damaged]}]}),
        (row, lambda damaged: {**body, "done": [damaged]}),
    ]
    for sound, whole in wholes:
        assert Seen.of("", json.dumps(whole(sound)).encode())
        for name in sound.keys() - {"key"}:
            for value in (float("nan"), 1e300, {"a": 1}, [1], [[]]):
                with pytest.raises((ValueError, KeyError, TypeError)):
                    Seen.of("", json.dumps(whole({**sound, name: value})).encode())


def test_what_a_later_version_writes_beside_what_is_known_is_passed_over(storage: Storage) -> None:
    _, run = opened(storage, Clock())
    with run:
        run.began("rate", 3)
        run.stalled("rate", [STALL])
    body = json.loads(storage.get(f"{run.key}progress.json") or b"")
    (step,) = body["steps"]
    later = {**body, "more": 1, "steps": [{**step, "more": 1, "stalls": [{**asdict(STALL), "more": 1}]}]}
    assert Seen.of(run.key, json.dumps(later).encode()) == seen(storage)


def test_a_line_of_a_log_that_cannot_be_read_hides_no_other_one(storage: Storage) -> None:
    _, run = opened(storage, Clock())
    with run:
        pass
    sound = list(journal.lines(storage, seen(storage)))
    page = b'[1]\n3\nnull\n{}\n{"time": 1}\n{"time": 1e300, "event": "a"}\n{"time": NaN, "event": "a"}\n\x00\n{"ti'
    storage.put_if_absent(f"{run.key}log/000009.jsonl", page + b'\n{"time": 1, "event": "begun"}')
    assert list(journal.lines(storage, seen(storage))) == [*sound, {"time": 1, "event": "begun", "page": len(sound)}]


def test_a_journal_is_read_that_told_of_one_step_alone(storage: Storage) -> None:
    _, run = opened(storage, Clock())
    with run:
        pass
    body = json.loads(storage.get(f"{run.key}progress.json") or b"")
    older = {**{name: value for name, value in body.items() if name != "steps"}, "step": None}
    assert Seen.of(run.key, json.dumps(older).encode()) == seen(storage)


class Cluster(Target):
    """A cluster that says one thing, or does not answer."""

    def __init__(self, answer: State | str | None) -> None:
        self.answer = answer

    def start(self, job: Job, parcel: Parcel, written: str | None) -> None: ...

    def state(self, job_id: str) -> State | None:
        if isinstance(self.answer, str):
            raise UnreachableError(self.answer)
        return self.answer

    def logs(self, job_id: str) -> str | None: ...

    def stop(self, job_id: str) -> None: ...

    def kill(self, job_id: str) -> None: ...


RUNNING, QUEUED = State(word="running"), State(word="queued", detail="pending because no GPU")
FAILED = State(word="failed", detail="it was killed for memory")

KNOWN = [
    # what the cluster says, how the driver is, whether it is marked, how it ended; and so how the job is
    (QUEUED, None, False, None, "queued"),
    (QUEUED, None, True, None, "cancelled"),
    (RUNNING, "lives", False, None, "running"),
    (RUNNING, None, False, None, "running"),
    (FAILED, "dead", False, None, "failed"),
    (FAILED, "dead", True, None, "cancelled"),
    (RUNNING, "lives", False, 0, "finished"),
    (FAILED, "dead", False, 3, "finished"),
    ("no route", "lives", False, None, "running"),
    ("no route", "dead", False, None, "dead"),
    ("no route", None, False, None, "unknown"),
    (None, "dead", False, None, "dead"),
    (None, "lives", False, None, "running"),
    (None, None, False, None, "unknown"),
    (RUNNING, "lives", False, 5, "failed"),
    (None, "dead", True, 143, "cancelled"),
]


@pytest.mark.parametrize(("answer", "driver", "is_marked", "code", "word"), KNOWN)
def test_a_jobs_state_follows_from_the_root_first_and_from_the_cluster_where_that_is_silent(
    answer: State | str | None, driver: str | None, is_marked: bool, code: int | None, word: str, storage: Storage
) -> None:
    jobs.record(storage, JOB)
    if driver is not None:
        lease, run = opened(storage, Clock(), JOB.id)
        run._write()  # pyright: ignore[reportPrivateUsage]
        if driver == "dead":
            storage.delete(lease.key)
    if is_marked:
        jobs.mark_cancelled(storage, JOB.id)
    if code is not None:
        jobs.end(storage, JOB.id, Ending(exit_code=code, message="m"))
    state = state_of(storage, Cluster(answer), JOB)
    assert state.word == word
    if state.word == "dead":
        assert "gave its last sign at" in state.detail


def test_a_driver_of_the_same_job_that_begins_again_has_not_ended(storage: Storage) -> None:
    """As where a cluster begins a failed job once more by itself."""
    jobs.begin(storage, JOB)
    jobs.end(storage, JOB.id, Ending(exit_code=1, message="a node was lost"))
    jobs.begin(storage, JOB)
    assert jobs.ending(storage, JOB.id) is None and jobs.the(storage, JOB.id) == JOB


def test_somebody_who_cancels_is_heard_by_the_run_itself(storage: Storage) -> None:
    import threading

    heard = threading.Event()
    lease = Lease(storage)
    lease.renew()
    with Journal(storage, lease, NoProgress(), JOB.id, heard.set):
        jobs.mark_cancelled(storage, JOB.id)
        assert heard.wait(30)
