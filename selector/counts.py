"""What this process counts as it goes, for whoever looks: requests to a store, attempts that failed, workers.

Think of the meter of a taxi: it runs whether anybody reads it or not, and nothing that is decided depends on it.
"""

import threading
from collections import Counter
from collections.abc import Mapping

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


def counted(name: str) -> dict[str, int]:
    """How often each label of a name was counted since this process began."""
    with _lock:
        return dict(_counted.get(name, {}))


def level(name: str) -> dict[str, float]:
    """How many there were under a name when that was last set, by label."""
    with _lock:
        return dict(_levels.get(name, {}))
