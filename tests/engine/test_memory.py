"""What steps take of a worker's memory is measured, kept in the root, and asked for with something to spare."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pytest

from conftest import MemoryStorage
from selector.engine import memory
from selector.engine.part import Part, Receipt, Task
from selector.engine.step import APART, Done, Map
from selector.engine.store import Store
from selector.engine.worker import Counted, PartWork, WorkerState

MB = 2**20


@dataclass(frozen=True, kw_only=True)
class Large(Map):
    """Has so many bytes for a moment."""

    name: str = field(default="large", metadata=APART)
    reads: tuple[str, ...] = field(default=(), metadata=APART)
    output = "rows"
    num_bytes: int = 0
    folder: str = field(default="", metadata=APART)

    def tasks(self, done: Done) -> Sequence[Task]:
        return [Task(key=self.key(), part=Part.of())]

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        bytes(self.num_bytes).translate(None)
        return {"rows": pa.table({"row": task.places})}


def receipt_of(step: Large, store: Store, worker: WorkerState) -> Receipt:
    worker.answer("load", PartWork(name=step.name, step=step, store=store))
    (task,) = step.tasks(Done(store))
    answer = worker.answer("do", task)
    receipt = answer.answer if isinstance(answer, Counted) else answer
    assert isinstance(receipt, Receipt)
    return receipt


def test_a_worker_tells_the_most_memory_that_it_had_since_it_took_up_a_step() -> None:
    store, worker = Store(MemoryStorage()), WorkerState()
    small, large = (receipt_of(Large(num_bytes=size), store, worker).memory for size in (MB, 100 * MB))
    after = receipt_of(Large(num_bytes=2 * MB), store, worker).memory
    if small is None or large is None or after is None:
        pytest.skip("the system does not tell")
    assert large >= small + 60 * MB and after <= large - 60 * MB


def test_the_most_of_all_runs_is_kept_for_the_same_step_on_any_corpus() -> None:
    store, step = Store(MemoryStorage()), Large(num_bytes=1)
    assert memory.measured(store, step) is None
    for num_bytes in (300, 200, 400, 100):
        memory.keep(store, step, num_bytes)
    assert memory.measured(store, replace(step, folder="elsewhere")) == 400
    assert memory.measured(store, replace(step, num_bytes=2)) is None
    (key,) = [key for key, _ in store.storage.list("memory/")]
    store.storage.delete(key)
    store.storage.put_if_absent(key, b"[]")  # no such thing
    assert memory.measured(store, step) is None
    memory.keep(store, step, 5)
    assert memory.measured(store, step) == 5


@pytest.mark.parametrize(("measured", "asked"), [(1, 512), (400, 512), (420, 1024), (1700, 2560)])
def test_a_quarter_more_is_asked_for_in_steps_of_half_a_gigabyte(measured: int, asked: int) -> None:
    assert memory.wanted(measured * MB) == asked * MB
