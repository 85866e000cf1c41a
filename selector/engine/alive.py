"""Signs of life: what work says of itself while it is going on, to whoever listens in the same process.

A step says after every batch how many rows of its part are done. On a worker this goes to the driver, which so knows
that the work goes on; in the driver it goes to whoever watches the run. Saying it costs next to nothing, and it is no
error that nobody listens.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol


class Listener(Protocol):
    """Who hears the signs."""

    def at_work(self, num_rows: int | None) -> None:
        """So many rows of the parts in hand are done; None: as many as before, and the work goes on."""
        ...

    def waiting(self, awaited: str) -> None:
        """There is nothing to count yet: this is waited for."""
        ...

    def stalled(self, stalls: "Sequence[Stall]") -> None:
        """These workers gave no sign for long; none: all go on again."""
        ...


@dataclass(frozen=True, kw_only=True)
class Stall:
    """A worker that has given no sign of life for long, and what it is at."""

    part: str  # the key of the artefact that it is to make, or the number of its item
    worker: str  # its process
    node: str
    seconds: float  # without a sign


@dataclass(frozen=True, kw_only=True)
class Sign:
    """A sign on its way from a worker to the driver."""

    num_rows: int | None = None


class Telling:
    """Sends the signs of this process to the driver, but no more of them than anybody would look at."""

    def __init__(self, send: Callable[[Sign], None]) -> None:
        self._send, self._last = send, -math.inf

    def at_work(self, num_rows: int | None) -> None:
        now = time.monotonic()
        if now - self._last >= _SECONDS and threading.current_thread() is threading.main_thread():
            self._last = now
            self._send(Sign(num_rows=num_rows))

    def waiting(self, awaited: str) -> None:
        """The driver knows what its workers are at."""

    def stalled(self, stalls: Sequence[Stall]) -> None:
        """A worker has no workers."""


_SECONDS = 0.5  # between two signs of a worker

_listeners: list[Listener] = []


def sign(num_rows: int | None = None) -> None:
    """Says that the work goes on, and how many rows of the part in hand are done, where that is known."""
    if _listeners:
        _listeners[-1].at_work(num_rows)


def waiting(awaited: str) -> None:
    """Says what is waited for: "starting Ray"."""
    if _listeners:
        _listeners[-1].waiting(awaited)


def stalled(stalls: Sequence[Stall]) -> None:
    """Says which workers gave no sign of life for long."""
    if _listeners:
        _listeners[-1].stalled(stalls)


def listener() -> Listener | None:
    """Who hears the signs of this process now."""
    return _listeners[-1] if _listeners else None


@contextlib.contextmanager
def heard_by(listener: Listener) -> Generator[None]:
    """Until it is left, all signs in this process go to this listener alone."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
