"""Parts on real workers that die, hang and raise: the Ray executor keeps the promises of the in-process one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray as _ray

from cluster import cluster as cluster
from jobs.executor import RayExecutor
from selector.engine import memory
from selector.engine.executor import Executor
from selector.engine.local import LocalExecutor
from selector.engine.part import Part, Piece, Receipt, Resources, Task
from selector.engine.runner import Runner
from selector.engine.step import APART, Done, Fold, Map, Tables
from selector.engine.store import Store
from selector.errors import CorpusError, DamagedError, SelectorError, UnreachableError, UsageError

pytestmark = pytest.mark.slow

ray: Any = _ray


@dataclass(frozen=True, kw_only=True)
class Toy(Map):
    """The numbers of a part's rows, with trouble at some of them: always, or the first time that one is met.

    `folder` gets a file per finished part or trial, so that work can be counted.
    """

    name: str = field(default="toy", metadata=APART)
    reads: tuple[str, ...] = field(default=(), metadata=APART)
    output = "numbers"
    folder: str
    trouble: tuple[tuple[int, str], ...] = ()
    once: bool = False

    def tasks(self, done: Done) -> Sequence[Task]:
        raise AssertionError("a test hands them to the executor")

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        rows: list[int] = task.part.find(task.places)[1].tolist()
        for row, kind in self.trouble:
            if row in rows and not (self.once and Path(self.folder, f"met-{row}").exists()):
                Path(self.folder, f"met-{row}").touch()
                make_trouble(kind)
        Path(
            self.folder, f"{'whole' if task.only is None else 'trial'}-{task.part.pieces[0].first_row}-{uuid.uuid4()}"
        ).touch()
        return {"numbers": pa.table({"row": pa.array(rows, pa.int64())})}


@dataclass(frozen=True, kw_only=True)
class OnGpu(Toy):
    """Tells which GPU it was given, and with how many threads torch would work."""

    @property
    def resources(self) -> Resources:
        return Resources(gpus=1)

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        import torch

        told = f"GPU {os.environ.get('CUDA_VISIBLE_DEVICES')}, {torch.get_num_threads()} threads"
        Path(self.folder, "told").write_text(told)
        return super().process(task, store)


@dataclass(frozen=True, kw_only=True)
class Asking(Toy):
    """Asks for resources, and tells what each worker was given."""

    asks: Resources = field(metadata=APART)

    @property
    def resources(self) -> Resources:
        return self.asks

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        given = ray.get_runtime_context().get_assigned_resources()
        Path(self.folder, f"given-{os.getpid()}").write_text(json.dumps(given))
        return super().process(task, store)


@dataclass(frozen=True, kw_only=True)
class Prepared(Toy):
    """Needs a model before it can begin, and tells how often each worker loaded it."""

    model: str

    def prepare(self, task: Task, store: Store) -> None:
        Path(self.model).read_bytes()
        Path(self.folder, f"prepared-{os.getpid()}-{uuid.uuid4()}").touch()


@dataclass(frozen=True, kw_only=True)
class Summed(Toy, Fold):
    """What the numbers of all parts come to."""

    folded = "sum"

    def rows_in(self, done: Done) -> int:
        return 24

    def tasks(self, done: Done) -> Sequence[Task]:
        return [replace(task, key=self.key(task.part.files)) for task in tasks_of(self, 6)]

    def fold(self, done: Done, parts: Iterator[Mapping[str, pa.Table]]) -> Tables:
        yield "sum", pa.table({"sum": [sum(sum(part["numbers"]["row"].to_pylist()) for part in parts)]})


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


def tasks_of(step: Map, num_parts: int, num_rows: int = 4) -> list[Task]:
    return [
        Task(
            key=f"{step.name}/{index:03}",
            part=Part.of(
                Piece(
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
                )
            ),
        )
        for index in range(num_parts)
    ]


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(folder=str(tmp_path))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "root"))


def finish(executor: Executor, step: Map, tasks: Sequence[Task], store: Store) -> list[Receipt]:
    with executor:
        receipts = list(executor.run(step, tasks, store))
    assert sorted(receipt.key for receipt in receipts) == sorted(task.key for task in tasks)
    return receipts


def work_done(step: Toy, kind: str = "whole") -> Counter[int]:
    """How often each part, named by its first row, was done to the end."""
    return Counter(int(path.name.split("-")[1]) for path in Path(step.folder).glob(f"{kind}-*"))


def rows_in(store: Store, tasks: Sequence[Task], name: str = "numbers") -> list[int]:
    rows: list[int] = []
    for task in tasks:
        seal = store.find(task.key)
        assert seal is not None
        table = store.table(seal, name)
        is_lost = name == "quarantine"
        rows += task.part.find(table["place"].to_numpy())[1].tolist() if is_lost else table["row"].to_pylist()
    return rows


def seals_in(store: Store) -> dict[str, Any]:
    return {key: store.find(key) for key in store.seals()}


@pytest.mark.parametrize("kind", ["kill", "stop", "raise"])
def test_a_worker_that_dies_hangs_or_raises_costs_one_attempt_of_the_part_it_was_at(
    kind: str, toy: Toy, store: Store
) -> None:
    step = replace(toy, trouble=((9, kind),), once=True)
    tasks = tasks_of(step, 8)
    began = time.monotonic()
    receipts = finish(RayExecutor(actors=2, deadline=3.0), step, tasks, store)
    assert time.monotonic() - began < 20
    assert sum(receipt.num_quarantined for receipt in receipts) == 0
    assert rows_in(store, tasks) == list(range(32))
    assert set(work_done(step).values()) == {1}
    searched = ["attempts/toy/002/fatal.json"] if kind == "stop" else []  # its rows were tried, and none is fatal
    assert [key for key, _ in store.storage.list("attempts/")] == ["attempts/toy/002/1.json", *searched]


@pytest.mark.parametrize("kind", ["kill", "sleep"])
def test_a_row_that_always_kills_or_hangs_its_worker_is_quarantined_and_every_other_row_comes_through(
    kind: str, toy: Toy, store: Store
) -> None:
    step = replace(toy, trouble=((6, kind),))
    tasks = tasks_of(step, 6)
    finish(RayExecutor(actors=2, deadline=2.0 if kind == "sleep" else 300.0), step, tasks, store)
    assert rows_in(store, tasks) == [row for row in range(24) if row != 6]
    assert rows_in(store, tasks, "quarantine") == [6]
    assert set(work_done(step).values()) == {1}


@pytest.mark.parametrize(("once", "kept"), [(True, sum(range(24))), (False, sum(range(24)) - 6)])
def test_a_step_with_one_answer_gets_over_a_worker_that_dies_at_a_part(
    once: bool, kept: int, toy: Toy, store: Store
) -> None:
    step = Summed(folder=toy.folder, trouble=((6, "kill"),), once=once)
    with Runner(store, RayExecutor(actors=2)) as runner:
        done = runner.run([step])
    assert done.table("toy", "sum")["sum"].to_pylist() == [kept]
    assert [len(table) for table in done.tables("toy", "quarantine")] == [0, 0 if once else 1, 0, 0, 0, 0]
    assert set(work_done(step).values()) == {1}
    with Runner(store, LocalExecutor()) as again:
        assert again.run([step])["toy"].cached


def test_results_are_the_same_bytes_for_any_number_of_workers_and_in_process(toy: Toy, tmp_path: Path) -> None:
    step = replace(toy, trouble=((5, "raise"), (17, "raise")))
    tasks = tasks_of(step, 6)
    here = Store.open(str(tmp_path / "here"))
    finish(LocalExecutor(), step, tasks, here)
    for actors in (1, 2, 3):
        there = Store.open(str(tmp_path / str(actors)))
        finish(RayExecutor(actors=actors), step, tasks[::-1] if actors == 3 else tasks, there)
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


def test_a_run_that_is_at_fault_ends_with_its_cause_and_put_right_loses_nothing(toy: Toy, store: Store) -> None:
    step = replace(toy, trouble=tuple((row, "raise") for row in range(20, 37)))
    tasks = tasks_of(step, 4, 20)
    said = (
        r"^toy cannot do 17 of 80 rows: .* The first one is row 20 of web.jsonl: ValueError: bad raise\. Put it right"
    )
    with pytest.raises(SelectorError, match=said):
        finish(RayExecutor(actors=2), step, tasks, store)
    assert sorted(store.seals()) == ["toy/000", "toy/002", "toy/003"]
    assert list(store.storage.list("attempts/")) == []
    with RayExecutor(actors=2) as executor:
        (receipt,) = executor.run(toy, tasks[1:2], store, 80)
    assert receipt.num_quarantined == 0 and rows_in(store, tasks) == list(range(80))


def test_every_worker_prepares_a_step_once_and_one_that_cannot_ends_the_run(toy: Toy, store: Store) -> None:
    step = Prepared(folder=toy.folder, model=str(Path(toy.folder, "model")))
    tasks = tasks_of(step, 6)
    with pytest.raises(
        SelectorError, match=r"^toy cannot begin: FileNotFoundError: .*model'\. Put it right and run the"
    ):
        finish(RayExecutor(actors=2), step, tasks, store)
    assert list(store.seals()) == list(store.storage.list("attempts/")) == []
    Path(step.model).touch()
    finish(RayExecutor(actors=2), step, tasks, store)
    times = Counter(path.name.split("-")[1] for path in Path(toy.folder).glob("prepared-*"))
    assert 1 <= len(times) <= 2 and set(times.values()) == {1}
    assert rows_in(store, tasks) == list(range(24))


@pytest.mark.parametrize(
    ("asks", "given"),
    [
        (Resources(cpus=1, memory=50 * 2**20, workers=1), {"CPU": 1.0, "memory": 50.0 * 2**20}),
        (Resources(cpus=0.25, gpus=1, workers=1), {"CPU": 0.25}),  # there is no GPU
        (Resources(cpus=0, workers=1), {}),
    ],
)
def test_a_worker_holds_what_its_step_asks_for_and_there_are_no_more_of_them_than_it_allows(
    asks: Resources, given: dict[str, float], toy: Toy, store: Store
) -> None:
    step = Asking(folder=toy.folder, asks=asks)
    finish(RayExecutor(), step, tasks_of(step, 6), store)
    (told,) = Path(toy.folder).glob("given-*")
    assert json.loads(told.read_text()) == given


def test_workers_that_ask_for_much_are_as_many_as_there_is_room_for(toy: Toy, store: Store) -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    step = Asking(folder=toy.folder, asks=Resources(cpus=cpus))
    finish(RayExecutor(actors=3), step, tasks_of(step, 6), store)
    (told,) = Path(toy.folder).glob("given-*")
    assert json.loads(told.read_text()) == {"CPU": cpus}


@pytest.mark.parametrize(("measured", "share"), [(100 * 2**20, 0), (2**50, 1)])
def test_memory_that_was_measured_is_held_where_there_is_too_little_for_all_and_never_more_than_there_is(
    measured: int, share: float, toy: Toy, store: Store
) -> None:
    step = Asking(folder=toy.folder, asks=Resources())
    memory.keep(store, step, measured)
    executor = RayExecutor()
    line = executor.explain([step], store)[0]
    assert line.endswith(f" (one had {measured / 2**30:.2f} GiB in an earlier run)")
    finish(executor, step, tasks_of(step, 6), store)
    given = [json.loads(path.read_text()) for path in Path(toy.folder).glob("given-*")]
    available = ray.cluster_resources()["memory"] * share
    assert given and all(one.get("memory", 0) == available for one in given) and len(given) <= (1 if share else 10_000)


def test_more_than_the_machine_has_is_refused_in_words(toy: Toy, store: Store) -> None:
    step = Asking(folder=toy.folder, asks=Resources(cpus=10_000, memory=2**40))
    said = r"^toy asks for 10,000 CPUs, 1,024 GiB of memory for each worker, and this machine has \d+ CPUs, .*`local`"
    with pytest.raises(SelectorError, match=said):
        finish(RayExecutor(), step, tasks_of(step, 2), store)


def test_a_run_that_is_left_early_takes_its_workers_with_it(toy: Toy, store: Store) -> None:
    step = replace(toy, trouble=((4, "stop"),))
    with RayExecutor(actors=2) as executor:
        receipts = iter(executor.run(step, tasks_of(step, 6), store))
        next(receipts)
        receipts.close()  # pyright: ignore[reportAttributeAccessIssue]
        began = time.monotonic()
        while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
            assert time.monotonic() - began < 10, "a worker still holds its CPU"
            time.sleep(0.1)
    assert ray.is_initialized(), "a Ray that was there before is not shut down"


def test_a_step_that_no_worker_can_load_ends_the_run(toy: Toy, store: Store) -> None:
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
from test_ray_executor import Asking, OnGpu, tasks_of
from selector.engine.part import Resources
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
    step = OnGpu(folder=os.environ["FOLDER"])
    list(executor.run(step, tasks_of(step, 3), Store.open(os.environ["FOLDER"] + "/root")))
    step = Asking(folder=os.environ["FOLDER"], asks=Resources(gpus=0.5, cpus=0.5))
    list(executor.run(step, tasks_of(step, 8), Store.open(os.environ["FOLDER"] + "/other")))
assert not ray.is_initialized()
other.shutdown()
"""
    with own_process(tmp_path, script) as process:
        out, err = process.communicate(timeout=90)
        assert process.returncode == 0, err
        assert out == ""
    assert (tmp_path / "told").read_text() == "GPU 0, 2 threads"
    given = [json.loads(path.read_text()) for path in tmp_path.glob("given-*")]
    assert 1 <= len(given) <= 2 and all(held == {"CPU": 0.5, "GPU": 0.5} for held in given)
    assert not (tmp_path / ".ray").exists(), "no token is left in the home directory"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_stop_the_run_promptly_and_leave_nothing_behind(
    sent: signal.Signals, tmp_path: Path
) -> None:
    """SIGTERM where the driver handles it, as the command does: Ray leaves that handler alone."""
    script = """
import os, signal
signal.signal(signal.SIGTERM, signal.default_int_handler)
from jobs.executor import RayExecutor
from selector.engine.store import Store
from test_ray_executor import Toy, tasks_of

step = Toy(folder=os.environ["FOLDER"], trouble=((0, "sleep"), (4, "stop")))
with RayExecutor(actors=2) as executor:
    list(executor.run(step, tasks_of(step, 4), Store.open(os.environ["FOLDER"] + "/root")))
"""
    with own_process(tmp_path, script) as process:
        began = time.monotonic()
        while len(list(tmp_path.glob("met-*"))) < 2:
            assert process.poll() is None and time.monotonic() - began < 60, "the work did not begin"
            time.sleep(0.1)
        interrupted = time.monotonic()
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)  # as a terminal does: to the whole group
        else:
            process.send_signal(sent)
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - interrupted < 10
        assert process.returncode == -signal.SIGINT and err.rstrip().endswith("KeyboardInterrupt") and out == ""
    assert not (tmp_path / "root" / "attempts").exists()


def test_ctrl_c_just_after_ray_has_made_its_core_worker_ends_the_process_without_a_crash(tmp_path: Path) -> None:
    """Ray does not know of the core worker yet, so shutting down would leave its threads to a raylet that is gone."""
    script = """
import os, signal, sys, time
import ray._raylet
from jobs.executor import RayExecutor

make = ray._raylet.CoreWorker

def made(*args):
    core_worker = make(*args)
    os.kill(os.getpid(), signal.SIGINT)
    return core_worker

ray._raylet.CoreWorker = made
try:
    with RayExecutor():
        print("this is not reached")
except KeyboardInterrupt:
    sys.exit(130)  # as the command does
"""
    with own_process(tmp_path, script) as process:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (130, ""), err


@pytest.mark.slow
def test_a_cluster_that_can_run_no_worker_ends_the_run_after_the_deadline(tmp_path: Path) -> None:
    script = """
import os
from ray.cluster_utils import Cluster
from jobs.executor import RayExecutor
from selector.errors import UnreachableError
from test_ray_executor import Toy, tasks_of
from selector.engine.store import Store

other = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
with RayExecutor(address=other.address, deadline=3.0) as executor:
    step = Toy(folder=os.environ["FOLDER"])
    for ask in (
        lambda: executor.run(step, tasks_of(step, 3), Store.open(os.environ["FOLDER"] + "/root")),
        lambda: executor.map(len, ["item"]),
    ):
        try:
            list(ask())
        except UnreachableError as error:
            print(error)
other.shutdown()
"""
    with own_process(tmp_path, script) as process:
        out, err = process.communicate(timeout=90)
        assert process.returncode == 0, err
    told = (
        "No worker has come within 3 seconds: each one needs 1 CPUs, and all nodes of the cluster together have none "
        "of it. Start nodes that have it, wait longer with --deadline, or see in `ray status` who holds it.\n"
    )
    assert out == told * 2


def test_an_address_where_no_cluster_answers_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.executor.ray.is_initialized", lambda: False)
    with pytest.raises(UnreachableError, match=r"No Ray cluster answers at '127.0.0.1:1': .* Give the address"):
        RayExecutor(address="127.0.0.1:1").__enter__()


@pytest.mark.parametrize("options", [{"actors": 0}, {"deadline": 0.0}, {"attempts": 0}])
def test_options_that_leave_no_room_to_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(options))}=0"):
        RayExecutor(**options)
