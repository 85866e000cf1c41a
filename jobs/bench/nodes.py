"""How long a run takes to get over what it loses: a worker, a machine, the head of its cluster.

On a small cluster of our own, of raylets on this machine. Parts of a second each are under way on two of three
machines; then one thing is lost. What is told is the time from the loss until a new worker is at work, and until the
part that was in hand is begun again, and how many parts were begun twice. A frozen machine takes as long as we wait for
one that is silent. The last line is about a cluster without machines, which Ray's autoscaler brings as workers ask for
them.
"""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from jobs import nodes
from jobs.bench.loopback import Loopback, Machine
from jobs.executor import RayExecutor
from selector.engine import alive
from selector.engine.part import Part, Piece, Task
from selector.engine.step import APART, Done, Map
from selector.engine.store import Store
from selector.errors import UnreachableError

_PARTS = 12
_SECONDS = 1.0  # that a part takes


@dataclass(frozen=True, kw_only=True)
class Slow(Map):
    """Takes its time, and leaves a file each time that it begins: its name has the part and the process."""

    name: str = field(default="slow", metadata=APART)
    reads: tuple[str, ...] = field(default=(), metadata=APART)
    output = "rows"
    folder: str

    def tasks(self, done: Done) -> Sequence[Task]:
        raise AssertionError("they are handed to the executor")

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        Path(self.folder, f"{task.key.rpartition('/')[2]} {os.getpid()} {time.time()}").touch()
        until = time.monotonic() + _SECONDS
        while time.monotonic() < until:
            alive.sign()
            time.sleep(0.05)
        return {"rows": pa.table({"row": task.places})}


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """A part that somebody began."""

    part: str
    process: int
    at: float  # seconds since 1970


@dataclass(kw_only=True)
class _Loss:
    """When something was lost, and which processes with it."""

    at: float = 0.0
    processes: list[int] = field(default_factory=list[int])


def nodes_lost() -> None:
    """Prints a line for each thing that is lost."""
    print(
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; a silent machine is given up after {nodes.SILENT:g} s"
    )
    with Loopback() as loopback:
        machines = loopback.add({}, {}, {})

        def killed(machine: Machine) -> list[int]:
            processes = machine.processes()
            machine.kill()
            for process in processes[1:]:
                _kill(process)
            return processes

        def frozen(machine: Machine) -> list[int]:
            machine.stop()
            return machine.processes()

        def taken_away(machine: Machine) -> list[int]:
            loopback.drain(machine, 1)
            return killed(machine)

        losses: dict[str, Callable[[Machine], list[int]]] = {
            "a worker is killed": lambda _: [],
            "a machine is killed": killed,
            "a machine is taken away": taken_away,
            "a machine is frozen": frozen,
        }
        for how, lose in losses.items():
            machines = [*machines, *loopback.add(*[{}] * (3 - len(machines)))]
            lost = _one(loopback, machines, how, lose)
            if lost is not None:
                machines.remove(lost)
                loopback.remove(lost)
        _head(loopback)
    _grown()


def _one(
    loopback: Loopback, machines: Sequence[Machine], how: str, lose: Callable[[Machine], list[int]]
) -> Machine | None:
    """Measures one loss; returns the machine that is no more."""
    with tempfile.TemporaryDirectory(prefix="selector-bench-") as folder:
        step, loss, gone = Slow(folder=folder), _Loss(), list[Machine]()

        def then() -> None:
            victim = _begun(Path(folder))[-1].process
            machine = next(machine for machine in machines if victim in machine.processes())
            loss.at = time.time()
            loss.processes = lose(machine)
            if loss.processes:
                gone.append(machine)
            else:
                _kill(victim)
                loss.processes = [victim]

        waiting = threading.Thread(target=_once_begun, args=(Path(folder), 4, then))
        waiting.start()
        with RayExecutor(address=loopback.address, actors=2) as executor:
            for _ in executor.run(step, _tasks(step), Store.open(f"{folder}/root")):
                pass
        waiting.join()
        begun = _begun(Path(folder))
        in_hand = {one.part for one in begun if one.process in loss.processes and one.at < loss.at}
        again = [one.at - loss.at for one in begun if one.part in in_hand and one.at > loss.at]
        old = {one.process for one in begun if one.at < loss.at}
        new = [one.at - loss.at for one in begun if one.process not in old]
        blamed = len(list(Store.open(f"{folder}/root").storage.list("attempts/")))
        replaced = f"a new worker after {min(new):4.1f} s" if new else "no new worker was needed"
        print(
            f"{how:<24} {replaced}, its part again after {min(again):4.1f} s, "
            f"{len(begun) - _PARTS} of {_PARTS} parts begun twice, {blamed} put down as a failure",
            flush=True,
        )
    return gone[0] if gone else None


def _head(loopback: Loopback) -> None:
    """Measures how soon it is noticed that the head is lost."""
    with tempfile.TemporaryDirectory(prefix="selector-bench-") as folder:
        step, loss = Slow(folder=folder), _Loss()

        def then() -> None:
            loss.at = time.time()
            loopback.lose_head()

        waiting = threading.Thread(target=_once_begun, args=(Path(folder), 6, then))
        waiting.start()
        noticed, store = 0.0, Store.open(f"{folder}/root")
        try:
            with RayExecutor(address=loopback.address, actors=2) as executor:
                for _ in executor.run(step, _tasks(step, 600), store):
                    pass
        except UnreachableError:
            noticed = time.time() - loss.at
        waiting.join()
        print(
            f"{'the head is lost':<24} the run has ended after {noticed:5.1f} s, {len(list(store.seals()))} parts kept"
        )


def _grown() -> None:
    """Measures how soon workers come where an autoscaler has to bring their machines."""
    with tempfile.TemporaryDirectory(prefix="selector-bench-") as folder, Loopback(grows_to=2) as loopback:
        step, began = Slow(folder=folder), time.time()
        with RayExecutor(address=loopback.address, actors=2) as executor:
            for _ in executor.run(step, _tasks(step), Store.open(f"{folder}/root")):
                pass
        firsts: dict[int, float] = {}
        for one in _begun(Path(folder)):
            firsts.setdefault(one.process, one.at - began)
        print(f"{'a cluster is grown':<24} workers after {' and '.join(f'{at:.1f}' for at in firsts.values())} s")


def _once_begun(folder: Path, num_parts: int, then: Callable[[], None]) -> None:
    while len(_begun(folder)) < num_parts:
        time.sleep(0.02)
    then()


def _begun(folder: Path) -> list[_Begun]:
    words = [path.name.split(" ") for path in folder.glob("* * *")]
    every = [_Begun(part=part, process=int(process), at=float(at)) for part, process, at in words]
    return sorted(every, key=lambda one: one.at)


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def _tasks(step: Slow, num_parts: int = _PARTS) -> list[Task]:
    pieces = [
        Piece(
            file=0, uri="drawn.jsonl", format="jsonl", sha256="0" * 64, version="1", first_row=4 * number, num_rows=4,
            start=0, end=1, source=None,
        )
        for number in range(num_parts)
    ]  # fmt: skip
    return [Task(key=f"{step.name}/{number:03}", part=Part.of(piece)) for number, piece in enumerate(pieces)]
