"""Maps on Ray, and workers that live as long as the run: steps and maps share them, whatever happens to one."""

import functools
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray as _ray

import works
from cluster import cluster as cluster
from jobs.executor import RayExecutor
from jobs.workers import Actors
from selector.engine import alive
from selector.engine.local import LocalExecutor
from selector.engine.part import Part, Piece, Resources, Task
from selector.engine.step import APART, Done, Map
from selector.engine.store import Store
from selector.errors import DamagedError, SelectorError

pytestmark = pytest.mark.slow

ray: Any = _ray

_models: list[Any] = []
"""Weak references to the models that were loaded in this process."""


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Generator[None]:
    yield
    began = time.monotonic()
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() - began < 20, "a worker still holds its CPU"
        time.sleep(0.1)


class Model:
    """Something large."""


@dataclass(frozen=True, kw_only=True)
class Placed(Map):
    """Says which process did a part, with a model that the process holds for the step."""

    name: str = field(default="placed", metadata=APART)
    reads: tuple[str, ...] = field(default=(), metadata=APART)
    output = "places"
    asks: Resources = Resources()  # noqa: RUF009

    @property
    def resources(self) -> Resources:
        return self.asks

    def tasks(self, done: Done) -> Sequence[Task]:
        return [
            Task(
                key=f"{self.name}/{index:03}",
                part=Part.of(
                    Piece(
                        file=0, uri="web.jsonl", format="jsonl", sha256="0" * 64, version="1", first_row=index,
                        num_rows=1, start=0, end=1, source=None,
                    )
                ),
            )
            for index in range(6)
        ]  # fmt: skip

    def prepare(self, task: Task, store: Store) -> None:
        model = Model()
        _models.append(weakref.ref(model))
        vars(self)["_model"] = model

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        time.sleep(0.05)
        return {"places": pa.table({"place": [os.getpid()]})}


def num_models(_: int) -> tuple[int, int]:
    """How many models this process has loaded, and how many it holds."""
    gc.collect()
    return len(_models), sum(model() is not None for model in _models)


def held(_: int) -> dict[str, float]:
    """What the worker that does this holds."""
    return ray.get_runtime_context().get_assigned_resources()


def num_threads(_: int) -> int:
    """How many threads a library that is loaded here would use."""
    return int(os.environ["OMP_NUM_THREADS"])


def places_of(executor: RayExecutor, step: Placed, root: Path) -> set[int]:
    """The processes that did a step."""
    store = Store.open(str(root))
    receipts = list(executor.run(step, step.tasks(Done(store)), store))
    assert len(receipts) == 6
    return {place for receipt in receipts for place in store.read(receipt.key, "places")["place"].to_pylist()}


@pytest.mark.parametrize("actors", [1, 2, 3])
def test_answers_are_those_of_one_process_whatever_the_number_of_workers(actors: int) -> None:
    items = [np.arange(n) for n in range(9)]
    here = LocalExecutor(workers=1)
    with RayExecutor(actors=actors) as executor:
        for work in (functools.partial(np.add, 0.5), np.sum, functools.partial(np.full_like, fill_value=3)):
            answers, expected = list(executor.map(work, items)), list(here.map(work, items))
            assert [np.asarray(answer).tolist() for answer in answers] == [np.asarray(one).tolist() for one in expected]
        assert list(executor.map(works.double, [])) == [] and list(executor.map(works.double, [4])) == [8]


@pytest.mark.parametrize("kind", ["kill", "stop", "hang"])
def test_an_item_whose_worker_dies_or_hangs_once_is_tried_again_and_nothing_else_is(kind: str, tmp_path: Path) -> None:
    work = works.Troubled(folder=str(tmp_path), at=3, kind=kind, once=True)
    with RayExecutor(actors=2, deadline=3.0) as executor:
        assert list(executor.map(work, range(8))) == list(range(0, 16, 2))
    assert works.calls(tmp_path) == sorted([*range(8), 3])


@pytest.mark.parametrize(
    ("kind", "cause"), [("kill", "The worker process died"), ("hang", "It gave no sign of life for 2 seconds")]
)
def test_a_map_stops_with_the_cause_where_no_worker_survives_an_item(kind: str, cause: str, tmp_path: Path) -> None:
    work = works.Troubled(folder=str(tmp_path), at=3, kind=kind)
    said = rf"^works\.Troubled cannot do item 4 of 8, tried 2 times: {cause}\. Put it right and run the"
    with RayExecutor(actors=2, attempts=2, deadline=2.0 if kind == "hang" else 300.0) as executor:
        with pytest.raises(SelectorError, match=said):
            list(executor.map(work, range(8)))
        assert works.calls(tmp_path).count(3) == 2
        assert list(executor.map(works.double, range(3))) == [0, 2, 4], "and the executor can go on"


def test_work_that_raises_ends_the_map_at_once_and_an_error_about_the_run_arrives_as_it_is(tmp_path: Path) -> None:
    said = r"^works\.Troubled cannot do item 4 of 8: ArithmeticError: this number is too much\. Put it right"
    with RayExecutor(actors=2) as executor:
        with pytest.raises(SelectorError, match=said) as raised:
            list(executor.map(works.Troubled(folder=str(tmp_path), at=3, kind="raise"), range(8)))
        assert 'works.py", line' in raised.value.__notes__[0] and works.calls(tmp_path).count(3) == 1
        with pytest.raises(DamagedError, match="embed/1") as damaged:
            list(executor.map(works.Troubled(folder=str(tmp_path), at=1, kind="damaged"), range(3)))
    assert (damaged.value.key, damaged.value.reason) == ("embed/1", "it is not sound")


def test_what_cannot_be_sent_or_loaded_is_refused_in_the_words_of_the_in_process_executor() -> None:
    with RayExecutor(actors=1) as executor:
        unsendable: tuple[Callable[[int], Any], ...] = (lambda number: number, functools.partial(pow, threading.Lock()))  # pyright: ignore[reportCallIssue]
        for work in unsendable:
            told: list[str] = []
            for refusing in (executor, LocalExecutor(workers=1)):
                with pytest.raises(SelectorError, match=r"cannot be sent to a worker: .* Give map a") as raised:
                    refusing.map(work, [1, 2])
                told.append(str(raised.value))
            assert told[0] == told[1]
        with pytest.raises(SelectorError, match=r"works\.lines cannot do item 1 of 1: TypeError: cannot pickle 'gener"):
            list(executor.map(works.lines, ["a"]))
        with pytest.raises(SelectorError, match="5 workers in a row died before they could begin"):
            list(executor.map(works.Unloadable(), range(2)))


def test_what_a_worker_says_of_its_work_reaches_whoever_watches_the_run(tmp_path: Path) -> None:
    heard = works.Heard(folder=str(tmp_path))
    with RayExecutor(actors=2) as executor, alive.heard_by(heard):
        assert list(executor.map(works.UntilHeard(folder=str(tmp_path)), [7, 8])) == [7, 8]
        Path(tmp_path, "heard").unlink()
        assert list(executor.map(works.UntilHeard(folder=str(tmp_path)), [9])) == [9], "also the second time"


def test_a_worker_is_heard_of_also_where_another_one_always_has_an_answer(tmp_path: Path) -> None:
    heard = works.Heard(folder=str(tmp_path))
    with RayExecutor(actors=2) as executor, alive.heard_by(heard):
        answers = list(executor.map(works.AmongOthers(folder=str(tmp_path)), range(1000)))
    assert answers[0] and answers[-1], "it did not have to wait until the others were done"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The kind of every worker that is started, in turn."""
    kinds: list[Any] = []
    start = Actors.start

    def noted(pool: Actors, kind: Any) -> Any:
        kinds.append(kind)
        return start(pool, kind)

    monkeypatch.setattr(Actors, "start", noted)
    return kinds


def test_a_run_with_two_steps_and_eight_maps_has_at_most_one_worker_process_for_each_cpu(
    started: list[Any], tmp_path: Path
) -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    executor = RayExecutor()
    for run in ("first", "second"):
        with executor:
            places = places_of(executor, Placed(name="a"), tmp_path / run)
            for _ in range(8):
                places |= set(executor.map(works.place, range(2 * cpus)))
                executor.release([Placed(name="b")])
            with executor:
                places |= places_of(executor, Placed(name="b"), tmp_path / run)
        assert 1 <= len(places) <= cpus
        assert len(started) <= cpus, "so many were started in the whole run"
        started.clear()


def test_maps_inside_each_other_share_the_workers(tmp_path: Path) -> None:
    with RayExecutor(actors=2) as executor:
        first = set(executor.map(works.Meeting(folder=str(tmp_path / "a"), num_workers=2), range(2)))
        pairs = list(zip(executor.map(works.double, range(5)), executor.map(works.place, range(5)), strict=True))
        assert [number for number, _ in pairs] == [0, 2, 4, 6, 8]
        assert {place for _, place in pairs} <= first


def test_what_a_step_holds_goes_with_it_and_its_worker_stays(tmp_path: Path) -> None:
    with RayExecutor(actors=1) as executor:
        (place,) = places_of(executor, Placed(name="a"), tmp_path)
        assert places_of(executor, Placed(name="b"), tmp_path) == {place}
        assert list(executor.map(num_models, range(2))) == [(2, 0), (2, 0)]
        assert set(executor.map(works.place, range(2))) == {place}


def test_a_worker_goes_when_no_later_step_asks_for_its_kind(tmp_path: Path) -> None:
    small = Placed(name="small", asks=Resources(cpus=0.25, workers=1))
    with RayExecutor(actors=1) as executor:
        (place,) = places_of(executor, small, tmp_path)
        executor.release([Placed(name="a"), replace(small, name="again")])
        assert places_of(executor, replace(small, name="again"), tmp_path) == {place}, "a later step asks for it"
        executor.release([Placed(name="a")])
        began = time.monotonic()
        while Path(f"/proc/{place}").exists():
            assert time.monotonic() - began < 10, "nobody asks for it any more"
            time.sleep(0.05)
        (given,) = executor.map(held, [1])
        assert given["CPU"] >= 1


def test_idle_workers_make_room_for_a_step_that_asks_for_the_whole_machine(tmp_path: Path) -> None:
    cpus = ray.cluster_resources()["CPU"]
    whole = Placed(name="whole", asks=Resources(cpus=cpus))
    with RayExecutor() as executor:
        assert sum(given["CPU"] for given in executor.map(held, range(1))) >= 1
        assert len(places_of(executor, whole, tmp_path)) == 1
        assert list(executor.map(works.double, range(3))) == [0, 2, 4]


def test_few_workers_share_all_threads_of_a_machine_of_our_own_and_the_next_map_has_its_share_again() -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    with RayExecutor() as executor:
        for num_items, each in ((4 * cpus, 1), (1, cpus), (4 * cpus, 1)):
            assert set(executor.map(num_threads, range(num_items))) == {each}


def test_a_map_of_an_executor_that_was_not_entered_brings_its_own_workers() -> None:
    assert list(RayExecutor(actors=1).map(works.double, range(3))) == [0, 2, 4]


def test_an_exception_of_the_driver_ends_all_workers_though_its_traceback_holds_the_map(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop") as kept, RayExecutor(actors=2) as executor:  # noqa: PT012
        for _ in executor.map(works.Troubled(folder=str(tmp_path), at=1, kind="hang"), range(4)):
            raise ValueError("stop")
    began = time.monotonic()
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() - began < 20, "a worker still holds its CPU"
        time.sleep(0.1)
    assert kept.value.__traceback__ is not None
