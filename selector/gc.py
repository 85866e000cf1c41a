"""What no manifest needs: found by following every committed run's list of artefacts, removed when told."""

import json
from dataclasses import dataclass

from selector.errors import DamagedError, UsageError
from selector.store import Store


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """Keys of objects that may go, and how much they hold."""

    keys: tuple[str, ...]
    num_bytes: int
    unfinished: tuple[str, ...]  # runs with a plan and no manifest: their artefacts are among the keys


def find(store: Store) -> Garbage:
    """Everything below the root that no committed manifest was made from."""
    sizes = dict(store.storage.list(""))
    runs = {key.split("/")[0] for key in sizes if key.endswith("/plan.json") and key.count("/") == 1}
    finished = {run for run in runs if f"{run}/manifest/manifest.json" in sizes}
    needed: set[str] = set()
    for run in sorted(finished):
        listed = store.storage.get(f"{run}/artifacts.json")
        if listed is None:
            raise UsageError(f"The run {run} has a manifest and no artifacts.json. Run its policy once more, then gc.")
        for key in json.loads(listed):
            needed.add(f"artifacts/seals/{key}.json")
            try:
                seal = store.find(key)
            except DamagedError:
                continue
            needed.update(blob.key for blob in (seal.tables.values() if seal else ()))
    keys = [
        key
        for key in sizes
        if (key.startswith(("artifacts/", "attempts/", "probe/"))
        and key not in needed)
        or key.split("/")[0] in runs - finished
    ]
    return Garbage(
        keys=tuple(keys), num_bytes=sum(sizes[key] for key in keys), unfinished=tuple(sorted(runs - finished))
    )


def remove(store: Store, garbage: Garbage) -> int:
    """Deletes it, seals before blobs, and returns how many objects went."""
    ordered = sorted(garbage.keys, key=lambda key: (key.startswith("artifacts/blobs/"), key))
    return sum(store.storage.delete(key) for key in ordered)
