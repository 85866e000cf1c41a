"""Whether a manifest is what was committed: all of it is read, and what can be worked out is worked out again."""

from dataclasses import dataclass

import numpy as np

from selector.errors import DamagedError, SelectorError
from selector.manifest.format import Stored, key_of, part_name
from selector.manifest.header import Header, unseal
from selector.manifest.ledger import Ledger, root
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
    ledger: Ledger | None = None
    try:
        ledger = Ledger(stored.table("files"))
    except DamagedError as error:
        problems.append(str(error))
    for folder in ("decisions", "parts"):
        for index in range(len(getattr(header, folder))):
            try:
                table = stored.part(folder, index)
            except DamagedError as error:
                problems.append(str(error))
                continue
            if ledger is not None:
                (ledger.decide if folder == "decisions" else ledger.visit)(table)
            if folder == "decisions" and len(table):
                entry = header.decisions[index]
                if (entry.first_file, entry.first_row) != (table["file"][0].as_py(), table["row"][0].as_py()):
                    problems.append(f"The first row of {entry.name} of the decisions in {key} is not that of the rows.")
    for name in ("ids", "unvisited"):
        try:
            table = stored.table(name)
        except DamagedError as error:
            problems.append(str(error))
            continue
        if ledger is not None:
            (ledger.look_up if name == "ids" else ledger.leave)(table)
    if problems or ledger is None:
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
