"""Machines of a cluster that are lost: the same manifest every time, nothing is blamed on a document, and no more is
done again than was in hand."""

import contextlib
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Literal

import pytest

from command import COMMAND, write_policy
from jobs.bench.loopback import Loopback, Machine
from jobs.executor import RayExecutor
from objects import s3
from runs import policy_of, run, write_corpus
from selector.engine import journal
from selector.engine.part import Receipt
from selector.engine.runner import NoProgress
from selector.engine.step import Result
from selector.engine.store import Store
from selector.errors import UnreachableError
from selector.manifest import Manifest
from selector.pipeline import build, flow
from selector.policy import Policy
from selector.policy.resolve import resolve

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def head() -> Generator[Loopback]:
    """A head for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr("jobs.nodes.SILENT", 7.0)
        patch.setattr("selector.engine.worker_pool._STALLED", 1.0)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS / "jobs"), str(TESTS), str(TESTS.parent)]))
        with Loopback() as loopback:
            yield loopback


@pytest.fixture
def loopback(head: Loopback) -> Generator[Loopback]:
    """The head, whose machines the test adds."""
    yield head
    for machine in list(head.machines):
        head.retire(machine)


@pytest.fixture
def policy(tmp_path: Path) -> dict[str, Any]:
    """Six parts, and a rater that notes each one that it does."""
    (tmp_path / "work").mkdir()
    return {
        "corpus": {"paths": [str(write_corpus(tmp_path / "corpus"))], "rows_per_part": 20},
        "rate": ["readability", {"troubled:Troubled": {"folder": str(tmp_path / "work"), "trouble": "none"}}],
        "select": {"budget": {"fraction": 0.4}, "using": {"top": {"score": "readability"}}},
        "order": {"using": {"by_score": {"score": "Troubled"}}},
    }


class Halting:
    """Machines on which workers stand still when they reach a place: nowhere at first, then on one after another."""

    def __init__(self, loopback: Loopback, marker: Path, place: str) -> None:
        self._marker, self._loopback = marker, loopback
        marker.touch()
        self._environment = {**os.environ, "SELECTOR_FAILPOINT": place, "SELECTOR_FAILPOINT_ONCE": str(marker)}
        self.machines: list[Machine] = []

    def add(self, number: int) -> None:
        self.machines += self._loopback.add(*[self._environment] * number)

    @contextlib.contextmanager
    def one_by_one(self, *losses: Callable[[Machine], None]) -> Generator[list[Machine]]:
        """The machines on which a worker stood still, each of which was then lost: what was done to it, in turn."""

        def wait() -> None:
            for lose in losses:
                machine = self._next(ended)
                if machine is None:
                    return
                lose(machine)
                lost.append(machine)

        lost: list[Machine] = []
        ended = threading.Event()
        waiting = threading.Thread(target=wait)
        waiting.start()
        try:
            yield lost
        finally:
            ended.set()
            waiting.join()
        assert len(lost) == len(losses), "nobody came to where it was to happen"

    def _next(self, ended: threading.Event) -> Machine | None:
        """The machine of the next worker that stands still; None once `ended` is set.

        A worker that is below none of the machines has outlived its own, and is ended.
        """
        while True:
            self._marker.unlink()
            while not (self._marker.exists() and (process := self._marker.read_text("utf-8"))):
                if ended.wait(0.02):
                    return None
            for machine in self.machines:
                if int(process) in machine.processes():
                    return machine
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)


def parts_done(folder: Path) -> Counter[str]:
    """How often each part was rated, by its first text; from then on nothing is noted."""
    notes = folder / "work/parts"
    done = Counter(notes.read_text("utf-8").splitlines())
    notes.unlink()
    return done


def stalls_of(root: str) -> list[dict[str, Any]]:
    """What `watch` and `logs` have told of workers that gave no sign."""
    storage = Store.open(root).storage
    events = [line for seen in journal.read(storage) for line in journal.lines(storage, seen)]
    return [event for event in events if event["event"] == "stalled"]


def assert_blames_nobody(root: str) -> None:
    store = Store.open(root)
    assert list(store.storage.list("attempts/")) == []


@pytest.mark.parametrize("on_s3", [True, False], ids=["s3", "files"])
def test_machines_that_are_killed_taken_away_or_frozen_change_nothing(
    on_s3: bool, loopback: Loopback, policy: dict[str, Any], tmp_path: Path
) -> None:
    root = "s3://bucket/root" if on_s3 else str(tmp_path / "root")
    here = run(policy, tmp_path / "here").manifest
    parts_done(tmp_path)

    def taken_away(machine: Machine) -> None:
        loopback.drain(machine, 1)
        machine.kill()

    with s3() if on_s3 else contextlib.nullcontext():
        halting = Halting(loopback, tmp_path / "marker", "part.after_work:stop:2")
        halting.add(4)
        with halting.one_by_one(Machine.kill, taken_away, Machine.stop) as lost:
            executor = RayExecutor(address=loopback.address, actors=2, deadline=20)
            there = build(Policy.of(policy), root=root, executor=executor)
        assert there.manifest.digest == here.digest and there.num_quarantined == 2
        assert_blames_nobody(root)
        assert sum(parts_done(tmp_path).values()) <= 6 + 3, "what was in hand is done again, and nothing else"
        stalls = stalls_of(root)
        assert {stall["node"] for stall in stalls} == {lost[-1].id} and stalls[0]["part"], "it was told of"
        assert int(stalls[0]["worker"]) in lost[-1].processes()
        lost[-1].go_on()  # what it was at is done already
        for machine in lost:
            loopback.remove(machine)
        assert Manifest.open(there.uri).verify().ok


class OnCpu(RayExecutor):
    """A cluster whose GPUs are only declared: models run on CPUs."""

    def device(self) -> Literal["cpu"]:
        return "cpu"


class Watching(NoProgress):
    """Notes what is told, and interrupts the run at the first part that is rated."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def advanced(self, name: str, receipt: Receipt) -> None:
        self.events.append(name)
        if name == "rate/readability" and not self.events.count("embed"):
            raise KeyboardInterrupt

    def ended(self, result: Result) -> None:
        self.events.append(f"end of {result.name}")


def test_models_on_gpus_and_raters_on_cpus_are_at_work_at_once_and_what_is_ahead_gets_over_its_losses(
    loopback: Loopback, tiny_model: Path, tmp_path: Path
) -> None:
    policy = policy_of(write_corpus(tmp_path / "corpus"), tiny_model)
    here = run(policy, tmp_path / "here").manifest
    executor, root = OnCpu(address=loopback.address), str(tmp_path / "root")
    marker = tmp_path / "marker"
    marker.touch()  # nothing is lost yet
    at = {"SELECTOR_FAILPOINT": "part.after_work:kill:3", "SELECTOR_FAILPOINT_ONCE": str(marker)}
    loopback.add(os.environ | at)
    loopback.add(dict(os.environ), gpus=1)
    watching = Watching()
    with pytest.raises(KeyboardInterrupt):
        build(Policy.of(policy), root=root, executor=executor, progress=watching)
    assert watching.events[-2:] == ["end of dedup", "rate/readability"], "while the model is loaded"
    lines = executor.explain(flow(resolve(Policy.of(policy)), executor), Store.open(root))
    assert any(line.startswith("rate/readability: ") and " GiB of memory (one had " in line for line in lines)
    watching.events[:] = ["embed"]
    marker.unlink()
    there = build(Policy.of(policy), root=root, executor=executor, progress=watching)
    assert there.manifest.digest == here.digest and there.manifest.verify().ok and there.num_quarantined == 2
    assert marker.exists(), "the worker on CPUs was killed at the third part that it rated"
    ends = [event for event in watching.events if event.startswith("end of ")]
    assert ends == [f"end of {step.name}" for step in there.flow]
    early = watching.events[: watching.events.index("end of embed")]
    assert early.count("rate/readability") >= 1 and early.count("embed") == 1 + 6


def test_a_driver_that_is_killed_and_a_head_that_is_lost_cost_a_command_and_no_finished_part(
    loopback: Loopback, policy: dict[str, Any], tmp_path: Path
) -> None:
    here = run(policy, tmp_path / "here").manifest
    parts_done(tmp_path)
    root = str(tmp_path / "root")
    with Loopback() as losing:
        halting = Halting(losing, tmp_path / "marker", "part.after_work:stop:3")
        halting.add(1)
        (other,) = losing.add(dict(os.environ))
        executor = RayExecutor(address=losing.address, actors=3)
        lines = executor.explain(flow(resolve(Policy.of(policy)), executor), Store.open(root))
        assert lines[0].endswith(": 3 workers at most, each of 1 CPUs")
        assert sum("room for 1, now for 1" in line for line in lines) == 2
        assert sum("none: a worker needs 1 CPUs, and it has none of it" in line for line in lines) == 1, "the head"
        assert "1 of them find no room. An autoscaler is asked for it" in lines[-1]
        words = [*COMMAND, "run", str(write_policy(tmp_path, policy)), "--root", root, "--address", losing.address]
        killed = subprocess.run(
            words, env=os.environ | {"SELECTOR_FAILPOINT": "step.dedup.done:kill"}, capture_output=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        losing.retire(other)
        in_words = r"The head of the Ray cluster .* --address of a cluster that runs"
        with halting.one_by_one(lambda _: losing.lose_head()), pytest.raises(UnreachableError, match=in_words):
            build(Policy.of(policy), root=root, executor=RayExecutor(address=losing.address))
        assert sum(parts_done(tmp_path).values()) == 3, "the worker stood still at the third"
    loopback.add(dict(os.environ))
    there = build(Policy.of(policy), root=root, executor=RayExecutor(address=loopback.address))
    assert there.manifest.digest == here.digest
    assert [step.name for step in there.steps if not step.cached][:1] == ["rate/readability"]
    assert sum(parts_done(tmp_path).values()) <= 6 - 2, "two were finished, and the third may have been"
    assert_blames_nobody(root)


@pytest.mark.usefixtures("head")
def test_a_cluster_without_machines_is_grown_by_the_workers_that_are_asked_for(
    policy: dict[str, Any], tmp_path: Path
) -> None:
    here = run(policy, tmp_path / "here").manifest
    with Loopback(grows_to=2) as growing:
        executor = RayExecutor(address=growing.address, actors=2)
        lines = executor.explain(flow(resolve(Policy.of(policy)), executor), Store.open(str(tmp_path / "root")))
        assert "2 of them find no room. An autoscaler is asked for it" in lines[-1]
        there = build(Policy.of(policy), root=str(tmp_path / "root"), executor=executor)
    assert there.manifest.digest == here.digest and there.num_quarantined == 2
    assert_blames_nobody(str(tmp_path / "root"))
