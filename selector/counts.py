"""What this process counts as it goes, for whoever looks: requests to a store, attempts that failed, workers.

Think of the meter of a taxi: it runs whether anybody reads it or not, and nothing that is decided depends on it. What a
worker counted comes to the driver with its answers; of one that dies, what it counted at the last of them is lost.
"""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, final

REQUESTS = "requests"
"""Requests to an object store, every try of each."""

RETRIES = "retries"
"""Requests to an object store that were made again, since the answer failed or did not come."""

FAILURES = "failures"
"""Attempts at a part, at some of its rows, or at an item of a map that failed, by their kind."""

WORKERS = "workers"
"""Workers that there are now, by what they are at."""

TOKENS = "tokens per document"
"""On average, once the corpus is counted."""

_lock = threading.Lock()
_counted: dict[str, Counter[str]] = {}
_levels: dict[str, dict[str, float]] = {}


def add(name: str, label: str = "", amount: int = 1) -> None:
    """Counts so many more under a name and a label."""
    with _lock:
        _counted.setdefault(name, Counter())[label] += amount


def put(name: str, values: Mapping[str, float]) -> None:
    """Sets how many there are now under a name, by label; other labels are gone."""
    with _lock:
        _levels[name] = dict(values)


def taken() -> dict[str, dict[str, int]]:
    """All that was counted, by name and label, which begins at nothing again: for a process that reports to another."""
    with _lock:
        everything = {name: dict(labels) for name, labels in _counted.items()}
        _counted.clear()
        return everything


def counted(name: str) -> dict[str, int]:
    """How often each label of a name was counted since this process began."""
    with _lock:
        return dict(_counted.get(name, {}))


def level(name: str) -> dict[str, float]:
    """How many there were under a name when that was last set, by label."""
    with _lock:
        return dict(_levels.get(name, {}))


@final
@dataclass(frozen=True, kw_only=True)
class Mark:
    """A moment, from which on it can be said how long it took and how much was counted."""

    time: float
    counted: Mapping[str, int]

    @classmethod
    def now(cls) -> Self:
        """This moment."""
        with _lock:
            return cls(time=time.monotonic(), counted={name: labels.total() for name, labels in _counted.items()})

    def seconds(self) -> float:
        """The seconds since then."""
        return round(time.monotonic() - self.time, 3)

    def since(self, name: str) -> int:
        """How often anything under this name was counted since then."""
        return sum(counted(name).values()) - self.counted.get(name, 0)
