"""What a run costs, step by step: seconds by the clock, seconds of all CPUs, memory.

Measured over this process and all below it, so that workers count, on whichever executor. Memory is PSS: what processes
share is counted once. It is looked at about twenty times a second; what the looking costs is not counted.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from selector.engine.runner import NoProgress
from selector.engine.step import Result
from selector.errors import SelectorError

Answer = TypeVar("Answer")

_TICKS = os.sysconf("SC_CLK_TCK")
_SHORTEST_WAIT, _WAIT = 0.05, 20  # seconds between two looks at the memory, and that many times what a look took


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What one step cost, and all that came before it since the last one."""

    name: str
    cached: bool
    rows_in: int
    rows_out: int
    wall: float  # seconds
    cpu: float  # seconds
    peak_bytes: int


class Meter(NoProgress):
    """Watches a run, as its progress. A context manager: entering starts the clock, leaving ends the last lap."""

    def __init__(self, present: Collection[str]) -> None:
        """`present` are the families of steps whose results must be there already."""
        self.costs: list[StepCost] = []
        self._present = present
        self._peak = 0
        self._own_cpu = 0.0  # of the looking itself
        self._ended = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._wall, self._cpu = time.monotonic(), _cpu_seconds()
        self._looking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._looking.join()
        self._add("the end", False, 0, 0)

    def began(self, name: str, num_parts: int) -> None:
        if name.partition("/")[0] in self._present:
            raise SelectorError(
                f"{name} was to be found done, and the flow asks for something else: what was drawn is not what it "
                "would have made. This is a fault of jobs.bench."
            )

    def ended(self, result: Result) -> None:
        self._add(result.name, result.cached, result.rows_in, result.rows_out)

    def _add(self, name: str, cached: bool, rows_in: int, rows_out: int) -> None:
        wall = time.monotonic()
        cpu = max(self._cpu, _cpu_seconds() - self._own_cpu)  # the kernel counts in ticks, the looking is finer
        peak, self._peak = max(self._peak, _pss_bytes()), 0
        cost = StepCost(
            name=name, cached=cached, rows_in=rows_in, rows_out=rows_out, wall=wall - self._wall, cpu=cpu - self._cpu,
            peak_bytes=peak,
        )  # fmt: skip
        self.costs.append(cost)
        self._wall, self._cpu = wall, cpu

    def _look(self) -> None:
        while True:
            began = time.monotonic()
            self._peak = max(self._peak, _pss_bytes())
            self._own_cpu = time.thread_time()
            if self._ended.wait(max(_SHORTEST_WAIT, _WAIT * (time.monotonic() - began))):
                return


def in_a_process(work: Callable[..., Answer], *arguments: Any) -> Answer:
    """What the work returns or raises in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _cpu_seconds() -> float:
    """Of this process, of all below it, and of those of them that have ended."""
    return sum(sum(map(int, fields[11:15])) for _, fields in processes(os.getpid())) / _TICKS


def _pss_bytes() -> int:
    """The memory of this process and of all below it."""
    total = 0
    for pid, _ in processes(os.getpid()):
        with contextlib.suppress(OSError):  # it has ended
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024


def processes(root: int) -> Iterator[tuple[int, list[str]]]:
    """A process and all below it, each with the fields of its /proc/<pid>/stat that follow its name."""
    by_pid: dict[int, list[str]] = {}
    below: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{name}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            by_pid[int(name)] = fields
            below.setdefault(int(fields[1]), []).append(int(name))
    open_ = [root]
    while open_:
        pid = open_.pop()
        open_ += below.get(pid, [])
        if pid in by_pid:
            yield pid, by_pid[pid]
