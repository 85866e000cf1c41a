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


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> Generator[Loopback]:
    """A head, whose machines the test adds."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("jobs.nodes.SILENT", 7.0)
    monkeypatch.setattr("selector.engine.worker_pool._STALLED", 1.0)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS / "jobs"), str(TESTS), str(TESTS.parent)]))
    with Loopback() as loopback:
        yield loopback


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
    """Machines on which, again and again, the first worker to come somewhere stands still."""

    def __init__(self, loopback: Loopback, marker: Path, place: str) -> None:
        self._marker, self._loopback = marker, loopback
        self._environment = {**os.environ, "SELECTOR_FAILPOINT": place, "SELECTOR_FAILPOINT_ONCE": str(marker)}
        self.machines: list[Machine] = []

    def add(self, number: int) -> None:
        self.machines += self._loopback.add(*[self._environment] * number)

    def remove(self, machine: Machine) -> None:
        self.machines.remove(machine)
        self._loopback.remove(machine)

    @contextlib.contextmanager
    def once(self, then: Callable[[Machine], None]) -> Generator[list[Machine]]:
        """The machine on which a worker stood still, once one did and the machine was lost: what `then` says."""

        def wait() -> None:
            while not ended.wait(0.02):
                if self._marker.exists() and (process := self._marker.read_text("utf-8")):
                    machines = [machine for machine in self.machines if int(process) in machine.processes()]
                    lost.extend(machines)
                    then(machines[0])
                    return

        lost: list[Machine] = []
        self._marker.unlink(missing_ok=True)
        ended = threading.Event()
        waiting = threading.Thread(target=wait)
        waiting.start()
        try:
            yield lost
        finally:
            ended.set()
            waiting.join()
        assert lost, "nobody came to where it was to happen"


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


def test_machines_that_are_killed_frozen_or_taken_away_change_nothing(
    loopback: Loopback, policy: dict[str, Any], tmp_path: Path
) -> None:
    here = run(policy, tmp_path / "here").manifest
    parts_done(tmp_path)

    def taken_away(machine: Machine) -> None:
        loopback.drain(machine, 1)
        machine.kill()

    losses: dict[str, Callable[[Machine], None]] = {
        "killed": Machine.kill, "frozen": Machine.stop, "taken away": taken_away,
    }  # fmt: skip
    with s3():
        halting = Halting(loopback, tmp_path / "marker", "part.after_work:stop:3")
        for how, lose in losses.items():
            halting.add(2 - len(halting.machines))
            root = f"s3://bucket/{how}" if how == "killed" else str(tmp_path / f"root of {how}")
            with halting.once(lose) as lost:
                executor = RayExecutor(address=loopback.address, actors=2, deadline=20)
                there = build(Policy.of(policy), root=root, executor=executor)
            assert there.manifest.digest == here.digest and there.num_quarantined == 2, how
            assert_blames_nobody(root)
            assert sum(parts_done(tmp_path).values()) <= 6 + 1, how
            if how == "frozen":
                stalls = stalls_of(root)
                assert {stall["node"] for stall in stalls} == {lost[0].id} and stalls[0]["part"], "it was told of"
                assert int(stalls[0]["worker"]) in lost[0].processes()
                lost[0].go_on()  # what it was at is done already
            halting.remove(lost[0])
            assert Manifest.open(there.uri).verify().ok


def test_a_driver_that_is_killed_and_a_head_that_is_lost_cost_a_command_and_no_finished_part(
    loopback: Loopback, policy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = run(policy, tmp_path / "here").manifest
    parts_done(tmp_path)
    root = str(tmp_path / "root")
    halting = Halting(loopback, tmp_path / "marker", "part.after_work:stop:3")
    first, second = loopback.add(dict(os.environ), dict(os.environ))
    executor = RayExecutor(address=loopback.address, actors=3)
    lines = executor.explain(flow(resolve(Policy.of(policy)), executor), Store.open(root))
    assert lines[0].endswith(": 3 workers at most, each of 1 CPUs")
    assert sum("room for 1, now for 1" in line for line in lines) == 2
    assert sum("none: a worker needs 1 CPUs, and it has none of it" in line for line in lines) == 1, "the head"
    assert lines[-1].endswith("1 of them find no room, however long they wait. Nobody will make room for the rest.")
    words = [*COMMAND, "run", str(write_policy(tmp_path, policy)), "--root", root, "--address", loopback.address]
    killed = subprocess.run(
        words, env=os.environ | {"SELECTOR_FAILPOINT": "step.dedup.done:kill"}, capture_output=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    loopback.remove(first)
    loopback.remove(second)
    halting.add(1)
    in_words = r"The head of the Ray cluster .* --address of a cluster that runs"
    with halting.once(lambda _: loopback.lose_head()), pytest.raises(UnreachableError, match=in_words):
        build(Policy.of(policy), root=root, executor=RayExecutor(address=loopback.address))
    assert sum(parts_done(tmp_path).values()) == 3, "the worker stood still at the third"
    monkeypatch.delenv("RAY_AUTH_TOKEN")  # the next one has its own
    with Loopback() as another:
        another.add(dict(os.environ))
        there = build(Policy.of(policy), root=root, executor=RayExecutor(address=another.address))
        assert there.manifest.digest == here.digest
    assert [step.name for step in there.steps if not step.cached][:1] == ["rate/readability"]
    assert sum(parts_done(tmp_path).values()) <= 6 - 2, "two were finished, and the third may have been"
    assert_blames_nobody(root)


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


def test_models_on_gpus_and_raters_on_cpus_are_at_work_at_once_and_each_gets_over_its_losses(
    loopback: Loopback, tiny_model: Path, tmp_path: Path
) -> None:
    policy = policy_of(write_corpus(tmp_path / "corpus"), tiny_model)
    here = run(policy, tmp_path / "here").manifest
    executor, root = OnCpu(address=loopback.address), str(tmp_path / "root")
    for gpus, nth in ((0, 9), (1, 2)):  # the third part that is rated, after the survey and six of ingest
        name, marker = f"part.after_work:kill:{nth}", str(tmp_path / f"marker {gpus}")
        loopback.add({**os.environ, "SELECTOR_FAILPOINT": name, "SELECTOR_FAILPOINT_ONCE": marker}, gpus=gpus)
    watching = Watching()
    with pytest.raises(KeyboardInterrupt):
        build(Policy.of(policy), root=root, executor=executor, progress=watching)
    assert watching.events[-2:] == ["end of dedup", "rate/readability"], "while the model is loaded"
    lines = executor.explain(flow(resolve(Policy.of(policy)), executor), Store.open(root))
    assert any(line.startswith("rate/readability: ") and " GiB of memory (one had " in line for line in lines)
    watching.events[:] = ["embed"]
    there = build(Policy.of(policy), root=root, executor=executor, progress=watching)
    assert there.manifest.digest == here.digest and there.manifest.verify().ok and there.num_quarantined == 2
    assert (tmp_path / "marker 0").exists() and (tmp_path / "marker 1").exists()
    ends = [event for event in watching.events if event.startswith("end of ")]
    assert ends == [f"end of {step.name}" for step in there.flow]
    early = watching.events[: watching.events.index("end of embed")]
    assert early.count("rate/readability") >= 1 and early.count("embed") == 1 + 6
