"""Parts on real workers that die, hang and raise: the Ray executor keeps the promises of the in-process one."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray as _ray

from jobs.executor import RayExecutor
from selector.engine.executor import Executor
from selector.engine.local import LocalExecutor
from selector.engine.part import Part, Receipt, Task
from selector.engine.step import Stage
from selector.engine.store import Store
from selector.errors import CorpusError, DamagedError, SelectorError, UnreachableError, UsageError

ray: Any = _ray
HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Toy(Stage):
    """The numbers of a part's rows, with trouble at some of them: always, or the first time that one is met.

    `folder` gets a file per finished part or trial, so that work can be counted.
    """

    name = "toy"
    output = "numbers"
    folder: str
    trouble: tuple[tuple[int, str], ...] = ()
    once: bool = False

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        every = np.arange(task.part.first_row, task.part.first_row + task.part.num_rows)
        rows: list[int] = every[task.mask(every)].tolist()
        for row, kind in self.trouble:
            if row in rows and not (self.once and Path(self.folder, f"met-{row}").exists()):
                Path(self.folder, f"met-{row}").touch()
                make_trouble(kind)
        Path(self.folder, f"{'whole' if task.only is None else 'trial'}-{task.part.first_row}-{uuid.uuid4()}").touch()
        return {"numbers": pa.table({"row": pa.array(rows, pa.int64())})}


@dataclass(frozen=True, kw_only=True)
class OnGpu(Toy):
    """Tells which GPU it was given, and with how many threads torch would work."""

    @property
    def wants_gpu(self) -> bool:
        return True

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        import torch

        told = f"GPU {os.environ.get('CUDA_VISIBLE_DEVICES')}, {torch.get_num_threads()} threads"
        Path(self.folder, "told").write_text(told)
        return super().process(task, store)


@dataclass(frozen=True, kw_only=True)
class Unloadable(Toy):
    """Can be sent, but a worker that unpacks it dies."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def make_trouble(kind: str) -> None:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "damaged":
        raise DamagedError("embed/1", "it is not sound")
    elif kind == "corpus":
        error = CorpusError("There is no column called 'txt'.")
        error.add_note("Did you mean 'text'?")
        raise error
    elif kind == "sleep":
        time.sleep(60)
    else:
        raise ValueError(f"bad {kind}")


def tasks_of(stage: Stage, num_parts: int, num_rows: int = 4) -> list[Task]:
    return [
        Task(
            key=f"{stage.name}/{index:03}",
            part=Part(
                file=0,
                uri="web.jsonl",
                format="jsonl",
                sha256="0" * 64,
                version="1",
                first_row=index * num_rows,
                num_rows=num_rows,
                start=0,
                end=1,
                source=None,
            ),
        )
        for index in range(num_parts)
    ]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One Ray for all tests of this file, which the executors in it find and leave as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parents[1])]))
        with RayExecutor():
            yield
    assert not ray.is_initialized()


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(folder=str(tmp_path))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "root"))


def finish(executor: Executor, stage: Stage, tasks: Sequence[Task], store: Store) -> list[Receipt]:
    with executor:
        receipts = list(executor.run(stage, tasks, store))
    assert sorted(receipt.key for receipt in receipts) == sorted(task.key for task in tasks)
    return receipts


def work_done(stage: Toy, kind: str = "whole") -> Counter[int]:
    """How often each part, named by its first row, was done to the end."""
    return Counter(int(path.name.split("-")[1]) for path in Path(stage.folder).glob(f"{kind}-*"))


def rows_in(store: Store, tasks: Sequence[Task], name: str = "numbers") -> list[int]:
    rows: list[int] = []
    for task in tasks:
        seal = store.find(task.key)
        assert seal is not None
        rows += store.table(seal, name)["row"].to_pylist()
    return rows


def seals_in(store: Store) -> dict[str, Any]:
    return {key: store.find(key) for key in store.seals()}


@pytest.mark.parametrize("kind", ["kill", "stop", "raise"])
def test_a_worker_that_dies_hangs_or_raises_costs_one_attempt_of_the_part_it_was_at(
    kind: str, toy: Toy, store: Store
) -> None:
    stage = replace(toy, trouble=((9, kind),), once=True)
    tasks = tasks_of(stage, 8)
    began = time.monotonic()
    receipts = finish(RayExecutor(actors=2, deadline=3.0), stage, tasks, store)
    assert time.monotonic() - began < 20
    assert sum(receipt.num_quarantined for receipt in receipts) == 0
    assert rows_in(store, tasks) == list(range(32))
    assert set(work_done(stage).values()) == {1}
    assert [key for key, _ in store.storage.list("attempts/")] == ["attempts/toy/002/1.json"]


def test_a_row_that_always_kills_its_worker_is_quarantined_and_every_other_row_comes_through(
    toy: Toy, store: Store
) -> None:
    stage = replace(toy, trouble=((6, "kill"),))
    tasks = tasks_of(stage, 6)
    finish(RayExecutor(actors=2), stage, tasks, store)
    assert rows_in(store, tasks) == [row for row in range(24) if row != 6]
    assert rows_in(store, tasks, "quarantine") == [6]
    assert set(work_done(stage).values()) == {1}


def test_results_are_the_same_bytes_for_any_number_of_workers_and_in_process(toy: Toy, tmp_path: Path) -> None:
    stage = replace(toy, trouble=((5, "raise"), (17, "raise")))
    tasks = tasks_of(stage, 6)
    here = Store.open(str(tmp_path / "here"))
    finish(LocalExecutor(), stage, tasks, here)
    for actors in (1, 2, 3):
        there = Store.open(str(tmp_path / str(actors)))
        finish(RayExecutor(actors=actors), stage, tasks[::-1] if actors == 3 else tasks, there)
        assert seals_in(there) == seals_in(here)
        assert rows_in(there, tasks, "quarantine") == [5, 17]


def test_a_damaged_input_and_a_fault_of_the_policy_arrive_in_the_driver_as_they_were(toy: Toy, store: Store) -> None:
    with pytest.raises(DamagedError, match="embed/1 is damaged: it is not sound") as damaged:
        finish(RayExecutor(), replace(toy, trouble=((5, "damaged"),)), tasks_of(toy, 4), store)
    assert (damaged.value.key, damaged.value.reason) == ("embed/1", "it is not sound")
    with pytest.raises(CorpusError, match="no column called 'txt'") as corpus:
        finish(RayExecutor(), replace(toy, trouble=((5, "corpus"),)), tasks_of(toy, 4), store)
    assert corpus.value.__notes__ == ["Did you mean 'text'?"]
    assert list(store.storage.list("attempts/")) == []


def test_a_run_that_is_left_early_takes_its_workers_with_it(toy: Toy, store: Store) -> None:
    stage = replace(toy, trouble=((4, "stop"),))
    with RayExecutor(actors=2) as executor:
        receipts = iter(executor.run(stage, tasks_of(stage, 6), store))
        next(receipts)
        receipts.close()  # pyright: ignore[reportAttributeAccessIssue]
        began = time.monotonic()
        while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
            assert time.monotonic() - began < 10, "a worker still holds its CPU"
            time.sleep(0.1)
    assert ray.is_initialized(), "a Ray that was there before is not shut down"


def test_a_stage_that_no_worker_can_load_ends_the_run(toy: Toy, store: Store) -> None:
    with pytest.raises(SelectorError, match="5 workers in a row died before they could begin"):
        finish(RayExecutor(actors=1), Unloadable(folder=toy.folder), tasks_of(toy, 2), store)


@contextlib.contextmanager
def own_process(tmp_path: Path, script: str) -> "Generator[subprocess.Popen[str]]":
    """A driver in a process group of its own, with a home directory of its own and nothing of Ray's set."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as short:  # pytest's folder is too long for sockets
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script],
            env=environment | {"HOME": str(tmp_path), "RAY_TMPDIR": short, "TMPDIR": short, "FOLDER": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
            assert not list(Path(short).glob("selector-ray-*")), "the folder of our own Ray is removed"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_cluster_that_happens_to_run_on_the_machine_is_joined_only_by_its_address(tmp_path: Path) -> None:
    script = """
import os, ray, ray._private.utils as utils
from ray.cluster_utils import Cluster
from jobs.executor import RayExecutor
from test_ray_executor import OnGpu, tasks_of
from selector.engine.store import Store

other = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1, "include_dashboard": False})
assert utils.read_ray_address() == other.address, "whoever asks for any cluster would find it"
environment = dict(os.environ)
assert RayExecutor(address="local").device() == "cpu" and not ray.is_initialized()
with RayExecutor():
    assert ray.get_runtime_context().gcs_address != other.address
assert dict(os.environ) == environment
os.environ["RAY_ADDRESS"] = other.address
assert RayExecutor().device() == "cuda" and not ray.is_initialized()
with RayExecutor() as executor:
    assert ray.get_runtime_context().gcs_address == other.address
    assert executor.device() == "cuda"
    stage = OnGpu(folder=os.environ["FOLDER"])
    list(executor.run(stage, tasks_of(stage, 3), Store.open(os.environ["FOLDER"] + "/root")))
assert not ray.is_initialized()
other.shutdown()
"""
    with own_process(tmp_path, script) as process:
        out, err = process.communicate(timeout=90)
        assert process.returncode == 0, err
        assert out == ""
    assert (tmp_path / "told").read_text() == "GPU 0, 2 threads"
    assert not (tmp_path / ".ray").exists(), "no token is left in the home directory"


def test_ctrl_c_stops_the_run_promptly_and_leaves_nothing_behind(tmp_path: Path) -> None:
    script = """
import os
from jobs.executor import RayExecutor
from selector.engine.store import Store
from test_ray_executor import Toy, tasks_of

stage = Toy(folder=os.environ["FOLDER"], trouble=((0, "sleep"), (4, "stop")))
with RayExecutor(actors=2) as executor:
    list(executor.run(stage, tasks_of(stage, 4), Store.open(os.environ["FOLDER"] + "/root")))
"""
    with own_process(tmp_path, script) as process:
        began = time.monotonic()
        while len(list(tmp_path.glob("met-*"))) < 2:
            assert process.poll() is None and time.monotonic() - began < 60, "the work did not begin"
            time.sleep(0.1)
        interrupted = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - interrupted < 10
        assert process.returncode == -signal.SIGINT and err.rstrip().endswith("KeyboardInterrupt") and out == ""
    assert not (tmp_path / "root" / "attempts").exists()


def test_an_address_where_no_cluster_answers_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.executor.ray.is_initialized", lambda: False)
    with pytest.raises(UnreachableError, match=r"No Ray cluster answers at '127.0.0.1:1': .* Give the address"):
        RayExecutor(address="127.0.0.1:1").__enter__()


@pytest.mark.parametrize("options", [{"actors": 0}, {"deadline": 0.0}, {"attempts": 0}])
def test_options_that_leave_no_room_to_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(options))}=0"):
        RayExecutor(**options)
