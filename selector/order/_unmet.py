"""What an order could not do as it was asked, in words for people: they lie beside the facts that say how far that is.

A manifest is shown where its orders may not be installed. So who writes a fact writes what a person reads of it too.
"""

from collections.abc import Iterable, Mapping
from typing import Any


def with_unmet(facts: Mapping[str, Any], lines: Iterable[str]) -> dict[str, Any]:
    """The facts of an order under its name, with its lines under `unmet`, if there are any."""
    listed = list(lines)
    return {**facts, "unmet": listed} if listed else dict(facts)


def some_visits(count: int, one: str, several: str) -> str:
    """So many visits, and what is said of one of them or of several."""
    return f"1 visit {one}" if count == 1 else f"{count:,} visits {several}"
