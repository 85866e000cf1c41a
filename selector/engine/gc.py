"""What no manifest needs: found by following every committed run's list of artefacts, removed when told.

What steps only hand to each other on the way (shards, and what an exchange deals) is on no list: it goes, and is made
again if a later run asks for it.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from selector import failpoint
from selector.engine.store import Store, canonical_json, fingerprint
from selector.errors import DamagedError, UsageError


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """Keys of objects that may go, and how much they hold."""

    keys: tuple[str, ...]
    num_bytes: int
    unfinished: tuple[str, ...]  # runs without a manifest: what they hold and were made from is among the keys


def keep(store: Store, run_id: str, artifacts: Iterable[str]) -> None:
    """Says which artefacts a finished run was made from, so that they stay."""
    listed = sorted(set(artifacts))
    store.storage.ensure(
        f"{run_id}/artifacts.json", canonical_json({"artifacts": listed, "check": fingerprint(listed)})
    )


def find(store: Store) -> Garbage:
    """Everything below the root that no committed manifest was made from.

    A run that is at work has no manifest yet: do not remove what it is about to need. Raises UsageError.
    """
    sizes = dict(store.storage.list(""))
    runs = {key.split("/")[0] for key in sizes if re.fullmatch(r"[^/]+/(plan|manifest/manifest)\.json", key)}
    finished = {run for run in runs if _manifest_key(run) in sizes}
    needed: set[str] = set()
    for key in sorted({key for run in finished for key in _kept(store, run)}):
        needed.add(f"artifacts/seals/{key}.json")
        try:
            seal = store.find(key)
        except DamagedError:
            continue
        needed.update(blob.key for blob in (seal.tables.values() if seal else ()))
    keys = [
        key
        for key in sizes
        if (key.startswith(("artifacts/", "attempts/", "probe/")) and key not in needed)
        or key.split("/")[0] in runs - finished
    ]
    leftovers = dict(store.storage.leftovers())
    return Garbage(
        keys=(*keys, *leftovers),
        num_bytes=sum(sizes[key] for key in keys) + sum(leftovers.values()),
        unfinished=tuple(sorted(runs - finished)),
    )


def remove(store: Store, garbage: Garbage) -> int:
    """Deletes it, seals before blobs, and returns how many objects went. A run that has finished meanwhile stays."""
    count = 0
    for key in sorted(garbage.keys, key=lambda key: (key.startswith("artifacts/blobs/"), key)):
        run = key.split("/")[0]
        if run not in garbage.unfinished or store.storage.get(_manifest_key(run)) is None:
            failpoint.reach("gc.before_delete")
            count += store.storage.delete(key)
    return count


def _kept(store: Store, run: str) -> list[str]:
    """The artefacts that a finished run was made from."""
    try:
        body = json.loads(store.storage.get(f"{run}/artifacts.json") or b"")
        listed: list[str] = body["artifacts"]
        if body["check"] == fingerprint(listed):
            return listed
    except (ValueError, KeyError, TypeError):
        pass
    raise UsageError(
        f"The run {run} has a manifest and no sound artifacts.json, so nobody knows what it was made from."
        " Run its policy once more, or remove its folder."
    )


def _manifest_key(run: str) -> str:
    return f"{run}/manifest/manifest.json"
