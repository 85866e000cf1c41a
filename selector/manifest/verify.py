"""Whether a manifest is what was committed: all of it is read, and what can be worked out is worked out again."""

import contextlib
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector import tables
from selector.errors import DamagedError, SelectorError
from selector.manifest.digest import root
from selector.manifest.format import Stored, key_of, part_name
from selector.manifest.header import Header, unseal
from selector.manifest.ledger import Ledger, decided, left_in, listed, seen_in, visited
from selector.manifest.match import STRETCH_ROWS, Matched, Stretch
from selector.manifest.places import Places
from selector.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `Manifest.verify` found: a sentence for each problem. `digest` is "" where manifest.json is not sound."""

    ok: bool
    digest: str
    problems: list[str]


def verify(storage: Storage, home: str) -> Verification:
    """Reads all that is stored of the manifest in a directory. Raises only if storage fails."""
    key = key_of(home, "manifest.json")
    data = storage.get(key)
    if data is None:
        return Verification(ok=False, digest="", problems=[f"{key} is gone."])
    try:
        header = unseal(key, data)
    except SelectorError as error:
        return Verification(ok=False, digest="", problems=[str(error)])
    stored = Stored(storage=storage, home=home, header=header)
    problems = [*_misplaced(key, header), *_differences(key, stored)]
    return Verification(ok=not problems, digest=header.digest, problems=problems)


def _misplaced(key: str, header: Header) -> list[str]:
    """A sentence for each part that manifest.json does not list where it belongs."""
    firsts = np.cumsum([0, *(part.rows for part in header.parts)]).tolist()
    problems = [
        f"The entry of {part.name} in {key} is out of place: it has first_position {part.first_position}."
        for index, part in enumerate(header.parts)
        if (part.name, part.first_position) != (part_name(index), firsts[index])
    ]
    return problems + [
        f"The entry of {part.name} of the decisions in {key} is out of place."
        for index, part in enumerate(header.decisions)
        if part.name != part_name(index)
    ]


def _differences(key: str, stored: Stored) -> list[str]:
    """A sentence for each table that is damaged, or else for each thing that manifest.json says and the rows do not."""
    header, problems = stored.header, list[str]()
    places = Places(tables.FILES.empty_table())
    with _noted(problems):
        places = Places(stored.table("files"))
    ledger = Ledger(places)
    for index in range(len(header.parts)):
        with _noted(problems):
            ledger.visit(visited(stored.part("parts", index), places, ledger.num_visits, ledger.num_tokens))
    with _noted(problems):
        for rows in stored.groups("ids"):
            ledger.look_up(listed(rows))
    with _noted(problems):
        for rows in stored.groups("unvisited"):
            ledger.leave(len(rows), left_in(rows, places)[1])
    _compare(key, stored, places, ledger, problems)
    if problems:
        return problems
    ledger.reconcile()
    leaves = ledger.leaf_digests()
    computed = {"leaf_digests": tuple(leaves), "order_digest": root(leaves)}
    phases = [
        {"name": phase.name, "first_position": phase.first_position, "rows": phase.rows, "tokens": phase.tokens}
        for phase in header.phases
    ]
    problems = [*ledger.problems, *ledger.disagreements(header.to_json()["counts"])]
    problems += [
        f"The {name} in {key} is not that of the rows."
        for name, value in computed.items()
        if getattr(header, name) != value
    ]
    if phases != ledger.phases:
        problems.append(f"The phases in {key} is not that of the rows.")
    left = header.facts.order.get("left", {})
    if not isinstance(left, dict) or sum(count for count in left.values() if type(count) is int) != ledger.num_left:
        problems.append(f"The facts.order.left in {key} is not that of the rows.")
    return problems


def _compare(key: str, stored: Stored, places: Places, ledger: Ledger, problems: list[str]) -> None:
    """Takes the decisions in, and compares the documents kept with those visited or left, stretch by stretch: each
    passes over all visits, so that no more is held than is kept in one. Not if something is damaged."""
    held, begin = list[pa.Table](), 0
    for index, entry in enumerate(stored.header.decisions):
        with _noted(problems):
            table = stored.part("decisions", index)
            sums, kept = decided(table, places)
            ledger.decide(sums)
            if sums.rows and (entry.first_file, entry.first_row) != (table["file"][0].as_py(), table["row"][0].as_py()):
                problems.append(f"The first row of {entry.name} of the decisions in {key} is not that of the rows.")
            if sums.rows and sum(map(len, held)) >= STRETCH_ROWS and ledger.is_ordered and not problems:
                ledger.match(_matched(stored, places, held, begin, sums.first))
                held, begin = [], sums.first
            held.append(kept)
    if ledger.is_ordered and not problems:
        ledger.match(_matched(stored, places, held, begin, 2**63 - 1))


def _matched(stored: Stored, places: Places, kept: list[pa.Table], begin: int, end: int) -> Matched:
    """What is found of the places from `begin` on and before `end`."""
    stretch = Stretch(kept)
    for rows in stored.parts("parts", ["position", "doc_id", "visit", "file", "row"]):
        stretch.visit(_within(seen_in(rows, places), begin, end))
    for rows in stored.groups("unvisited"):
        stretch.leave(_within(left_in(rows, places)[0], begin, end))
    return stretch.matched()


def _within(rows: pa.Table, begin: int, end: int) -> pa.Table:
    at = rows["place"].to_numpy()
    return rows.filter(pa.array((begin <= at) & (at < end))).combine_chunks()


@contextlib.contextmanager
def _noted(problems: list[str]) -> Generator[None]:
    """What is found damaged becomes a problem."""
    try:
        yield
    except DamagedError as error:
        problems.append(str(error))
