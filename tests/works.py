"""Work for maps: in a module, so that every worker can load it. Some of it meets trouble."""

import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from selector.engine import alive
from selector.engine.store import Store
from selector.errors import DamagedError


def double(number: int) -> int:
    return 2 * number


def place(_: int) -> int:
    """The process that does this."""
    return os.getpid()


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Waits until so many processes are at it; each answers with its own id."""

    folder: str
    num_workers: int

    def __call__(self, _: int) -> int:
        Path(self.folder).mkdir(exist_ok=True)
        Path(self.folder, str(os.getpid())).touch()
        began = time.monotonic()
        while len(os.listdir(self.folder)) < self.num_workers:
            assert time.monotonic() - began < 60, "the others did not come"
            time.sleep(0.01)
        return os.getpid()


@dataclass(frozen=True, kw_only=True)
class UntilHeard:
    """Says how many rows are done, again and again, until the driver has put a file where it can be seen."""

    folder: str

    def __call__(self, num_rows: int) -> int:
        while not Path(self.folder, "heard").exists():
            alive.sign(num_rows)
            time.sleep(0.01)
        return num_rows


@dataclass(frozen=True, kw_only=True)
class AmongOthers:
    """The first item says again and again how many rows are done until that is heard; each other one tells whether it
    was, and takes a moment until it is."""

    folder: str

    def __call__(self, number: int) -> bool:
        if not number:
            UntilHeard(folder=self.folder)(1)
        if not Path(self.folder, "heard").exists():
            time.sleep(0.01)
            return False
        return True


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What a watcher of a run hears; the folder, where there is one, shows that some rows are done."""

    folder: str | None = None
    words: list[int | str | None] = field(default_factory=list[int | str | None])

    def at_work(self, num_rows: int | None) -> None:
        self.words.append(num_rows)
        if self.folder is not None and num_rows:
            Path(self.folder, "heard").touch()

    def waiting(self, awaited: str) -> None:
        self.words.append(awaited)

    def stalled(self, stalls: Sequence[alive.Stall]) -> None:
        self.words.extend(f"{stall.part} stalled" for stall in stalls)


def says(text: str) -> str:
    print(text, flush=True)
    return text


def lines(path: str) -> Iterator[str]:
    """Cannot be sent."""
    yield from Path(path).read_text("utf-8").splitlines()


def surroundings(_: int) -> dict[str, Any]:
    """What there is in the process that does this."""
    import polars as pl

    return {
        "modules": sorted({name.partition(".")[0] for name in sys.modules}),
        "threads": (pa.cpu_count(), pa.io_thread_count(), pl.thread_pool_size()),
        "is_main_thread": threading.current_thread() is threading.main_thread(),
        "main": getattr(sys.modules["__main__"], "__file__", None),
    }


@dataclass(frozen=True, kw_only=True)
class Troubled:
    """Twice the number, with trouble at one of them: always, or the first time. `folder` gets a file a call."""

    folder: str
    at: int
    kind: str
    once: bool = False

    def __call__(self, number: int) -> int:
        met = Path(self.folder, f"met-{self.kind}")
        Path(self.folder, f"call-{number}-{os.getpid()}-{uuid.uuid4()}").touch()
        if number == self.at and not (self.once and met.exists()):
            met.touch()
            make_trouble(self.kind)
        return 2 * number


def make_trouble(kind: str) -> None:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "hang":
        while True:
            time.sleep(0.01)
    elif kind == "damaged":
        raise DamagedError("embed/1", "it is not sound")
    elif kind == "interrupt":
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)
    else:
        raise ArithmeticError("this number is too much")


def calls(folder: Path) -> list[int]:
    """The numbers that a Troubled was called with, sorted."""
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("call-*"))


@dataclass(frozen=True, kw_only=True)
class Sealing:
    """Stores a number, and answers with how many rows lie there."""

    store: Store

    def __call__(self, number: int) -> int:
        seal = self.store.seal(f"mapped/{number:03}", [("numbers", pa.table({"number": [number] * number}))])
        return self.store.table(seal, "numbers").num_rows


class Unloadable:
    """Can be sent, but a worker that unpacks it dies."""

    def __call__(self, number: int) -> int:
        return number

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)
