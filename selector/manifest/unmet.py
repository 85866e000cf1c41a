"""What an order was asked for and could not quite do, in lines for people, from what it says of itself.

An order that cannot keep to what its options ask does what it can, and its facts say how far that is; the words for
people it puts beside them, under `unmet`. Facts of a name are those of the order of that name; those of the orders
inside phases and of rounds lie within.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from selector.errors import phase_called

_Facts = Mapping[str, Any]


def unmet(facts: _Facts, where: str = "order") -> Iterator[str]:
    """A line for each thing that the order of these facts could not do as it was asked; `where` begins each."""
    for own in facts.values():
        lines = own.get("unmet") if isinstance(own, Mapping) else None
        yield from (f"{where}: {line}" for line in (lines if isinstance(lines, list) else []))
    for name, inside in facts.get("phases", {}).get("inside", {}).items():
        yield from unmet(inside, f"{where}, {phase_called(name)}")
    for name, of_round in facts.items():
        if name.startswith("round ") and isinstance(of_round, Mapping):
            yield from unmet(of_round, f"{where}, {name}")


def left(reason: str, count: int) -> str:
    """A line about so many visits that an order does not make, for a reason that is said of one document."""
    if count == 1:
        return f"order: 1 visit is not made: {reason}"
    plural = f"{reason.removesuffix(' it')} them" if reason.endswith(" it") else reason
    return f"order: {count:,} visits are not made: {plural}"
