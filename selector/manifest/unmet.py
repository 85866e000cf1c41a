"""What an order was asked for and could not quite do, in lines for people, from what it says of itself.

An order that cannot keep to what its options ask does what it can, and its facts say how far that is. Facts of a name
are those of the order of that name; those of the orders inside phases and of rounds lie within.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from selector.errors import listed

_Facts = Mapping[str, Any]


def unmet(facts: _Facts, where: str = "order") -> Iterator[str]:
    """A line for each thing that the order of these facts could not do as it was asked; `where` begins each."""
    for name, lines in _LINES.items():
        if isinstance(facts.get(name), Mapping):
            yield from (f"{where}: {line}" for line in lines(facts[name]))
    for name, of_weights in facts.items():
        if name.endswith("_weights") and of_weights.get("unknown"):
            visits = _visits(of_weights["unknown"], "is of a document", "are of documents")
            yield f"{where}: {visits} that {name} knows nothing of: they weigh what the others do on average"
    for name, inside in facts.get("phases", {}).get("inside", {}).items():
        yield from unmet(inside, f"{where}, {called(name)}")
    for name, of_round in facts.items():
        if name.startswith("round ") and isinstance(of_round, Mapping):
            yield from unmet(of_round, f"{where}, {name}")


def left(reason: str, count: int) -> str:
    """A line about so many visits that an order does not make, for a reason that is said of one document."""
    if count == 1:
        return f"order: 1 visit is not made: {reason}"
    plural = f"{reason.removesuffix(' it')} them" if reason.endswith(" it") else reason
    return f"order: {count:,} visits are not made: {plural}"


def called(phase: str) -> str:
    """A phase as a line names it; one without a name of its own is `phase 2`."""
    return phase if phase.startswith("phase ") else f"the phase {phase}"


def _visits(count: int, one: str, several: str) -> str:
    return f"1 visit {one}" if count == 1 else f"{count:,} visits {several}"


def _phases(facts: _Facts) -> Iterator[str]:
    for name, tokens in facts.get("short", {}).items():
        yield f"{called(name)} asks for {tokens:,} tokens more than its groups have left"
    for name, tokens in facts.get("unpaid", {}).items():
        yield f"{called(name)} has {tokens:,} tokens less than it asks for: its next documents have more"


def _least_share(facts: _Facts) -> Iterator[str]:
    for name, count in facts.get("missing", {}).items():
        yield f"{_visits(count, 'is', 'are')} missing of {name} for its least share"
    if facts.get("late"):
        yield f"{_visits(facts['late'], 'comes', 'come')} later than its least share asks for"


def _spread(facts: _Facts) -> Iterator[str]:
    if count := facts.get("exceeding"):
        allowed = f"{facts['most']:,} of one {facts['by']} in {facts['window']:,} visits"
        yield f"{_visits(count, 'is', 'are')} beyond the cap of spread, at most {allowed}: no order keeps to it"


def _apart(facts: _Facts) -> Iterator[str]:
    gap, possible = facts.get("gap", 0), facts.get("possible", 0)
    if possible < gap:
        yield f"a gap of {gap:,} is not possible everywhere: some visits of a document lie {possible:,} apart"
    elif count := facts.get("nearer"):
        nearer = f"nearer than {gap:,} to another one of the same document"
        yield f"{_visits(count, 'is', 'are')} {nearer}: a phase ends between them"


def _mixed(facts: _Facts) -> Iterator[str]:
    if facts.get("absent"):
        names, nearest = facts["absent"]["names"], facts["absent"]["nearest"]
        hint = f". Did you mean {listed([repr(near) for near in nearest.values()])}?" if nearest else ""
        yield f"mixed.weights: no chosen document has the {facts['absent']['column']} {listed(names)}{hint}"
    if facts.get("ended"):
        ended = listed(facts["ended"])
        yield f"the weights of mixed hold for {facts['holds']:,} visits: after them there is no more of {ended}"


def _sides(facts: _Facts) -> Iterator[str]:
    if count := facts.get("filled"):
        visits = _visits(count, "is of the other side than its step asks for", "are of the other side than asked for")
        yield f"{visits}: one of both has no more documents"


def _fixed(facts: _Facts) -> Iterator[str]:
    if count := facts.get("empty_steps"):
        steps = "1 step draws" if count == 1 else f"{count:,} steps draw"
        yield f"{steps} from all documents, as none is within every limit of fixed"


def _where_it_counts(facts: _Facts) -> Iterator[str]:
    if count := facts.get("missing"):
        visits = "1 visit" if count == 1 else f"{count:,} visits"
        yield f"the best part lacks {visits} of those that where_it_counts asks for: no more have a score"


def _prerequisites(facts: _Facts) -> Iterator[str]:
    for circle in facts.get("circles", []):
        yield f"{listed(circle)} build on each other in a circle, and come together"


_LINES: Mapping[str, Callable[[_Facts], Iterator[str]]] = {
    "phases": _phases,
    "least_share": _least_share,
    "spread": _spread,
    "apart": _apart,
    "mixed": _mixed,
    "rounds": _sides,
    "preference": _sides,
    "fixed": _fixed,
    "where_it_counts": _where_it_counts,
    "prerequisites": _prerequisites,
}
