"""What nobody needs: found by following every committed run's list of artefacts and every lease, removed when told.

Shards, their columns and those of the chosen documents are on no list, and neither is what a step that did not end
hands to itself on its way: they go, and are made again if a later run asks for them.
"""

import contextlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from selector import failpoint
from selector.engine import journal, lease
from selector.engine.canonical import canonical_json, fingerprint
from selector.engine.lease import Clock, Held
from selector.engine.runner import listed
from selector.engine.store import EVIDENCE, FRESH, PASSING, Seal, Store
from selector.errors import DamagedError, UsageError
from selector.storage import Storage

_LONG_AGO = 24 * 3600  # seconds: no writer that lives takes so long over one object
_JUST_NOW = 60.0  # seconds: by then a run that begins has written its lease
_AT_A_TIME = 256  # seals that are asked for at once

_SEALS, _BLOBS, _PASSING = "artifacts/seals/", "artifacts/blobs/", f"artifacts/{PASSING}"


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """Keys of objects that may go, and how much they hold."""

    keys: tuple[str, ...]
    num_bytes: int
    unfinished: tuple[str, ...]  # runs without a manifest: what they hold and were made from is among the keys
    at_work: tuple[str, ...] = ()  # runs with a lease that holds: what they have written or read is not
    leases: frozenset[str] = frozenset()  # those leases


def keep(store: Store, run_id: str, artifacts: Iterable[str]) -> None:
    """Says which artefacts a finished run was made from, so that they stay."""
    listed = sorted(set(artifacts))
    store.storage.ensure(
        f"{run_id}/artifacts.json", canonical_json({"artifacts": listed, "check": fingerprint(listed)})
    )


def clear_up(storage: Storage, own: str, now: Clock = time.time) -> None:
    """Removes what runs that were killed have left half written, and their leases. Where another run than that of the
    lease `own` is at work, it may be that one's, and stays for the next time."""
    live, dead = lease.states(storage, now)
    if dead and not live.keys() - {own, *dead}:
        old = dict(storage.leftovers(_JUST_NOW))
        for key in [key for key, _ in storage.leftovers(0.0) if key in old or not key.startswith(lease.FOLDER)]:
            storage.delete(key)
        for key in dead:
            storage.delete(key)


def find(store: Store, now: Clock = time.time) -> Garbage:
    """All that no committed manifest was made from and no run at work holds. Raises UsageError."""
    leases = {name: _with_parts(held, store) for name, held in lease.live(store.storage, now).items()}
    sizes = dict(store.storage.list(""))
    at_work = {held.run for held in leases.values() if held.run is not None}
    runs = {key.split("/")[0] for key in sizes if re.fullmatch(r"[^/]+/(plan|manifest/manifest)\.json", key)}
    finished = {run for run in runs if _manifest_key(run) in sizes}
    unfinished = runs - finished - at_work
    made_of = {key for run in finished for key in _kept(store, run, is_at_work=run in at_work)}
    made_of |= {*store.seals(EVIDENCE)}
    needed = {*_seals(made_of), *_blobs(store, made_of), *_held(store, sizes, leases)}
    needed |= {f"{FRESH}{key.removeprefix(_SEALS)}" for key in needed if key.startswith(_SEALS)}
    journals = journal.read(store.storage)
    kept_journals = tuple(seen.key for seen in journals if seen.lease in leases or seen.run in runs - unfinished)
    keys = [
        key
        for key in sizes
        if (key.startswith(("artifacts/", "attempts/", FRESH, "probe/", lease.FOLDER)) and key not in needed)
        or (key.startswith(journal.FOLDER) and not key.startswith(kept_journals))
        or key.split("/")[0] in unfinished
    ]
    leftovers = dict(store.storage.leftovers(_LONG_AGO))
    return Garbage(
        keys=(*keys, *leftovers),
        num_bytes=sum(sizes[key] for key in keys) + sum(leftovers.values()),
        unfinished=tuple(sorted(unfinished)),
        at_work=tuple(sorted(at_work)),
        leases=frozenset(leases),
    )


def _seals(artifacts: Iterable[str]) -> Iterator[str]:
    return (f"{_SEALS}{key}.json" for key in artifacts)


def _blobs(store: Store, artifacts: Iterable[str]) -> Iterator[str]:
    keys = list(artifacts)
    for some in (keys[start : start + _AT_A_TIME] for start in range(0, len(keys), _AT_A_TIME)):
        try:
            seals = [*store.find_many(some).values()]
        except DamagedError:  # one of them: the others hold what they name
            seals = [seal for key in some if (seal := _if_sound(store, key)) is not None]
        yield from (blob.key for seal in seals for blob in seal.tables.values())


def _if_sound(store: Store, key: str) -> Seal | None:
    with contextlib.suppress(DamagedError):
        return store.find(key)
    return None


def _held(store: Store, sizes: Iterable[str], leases: Mapping[str, Held]) -> Iterator[str]:
    """What runs at work hold: leases, artefacts, records of attempts. A blob that no seal names may be of an artefact
    that is about to be sealed, so it is held too."""
    if not leases:
        return
    artifacts = [key.removeprefix(_SEALS).removesuffix(".json") for key in sizes if key.startswith(_SEALS)]
    held = [key for key in artifacts if any(one.holds(key) for one in leases.values())]
    named = {*_blobs(store, artifacts)}
    yield from (*leases, *_seals(held), *_blobs(store, held))
    for key in sizes:
        first, _, rest = key.partition("/")
        if (
            first == "probe"
            or (key.startswith(_PASSING) and any(one.holds(rest) for one in leases.values()))
            or (key.startswith(_BLOBS) and key not in named)
            or (first == "attempts" and any(one.holds(rest.rpartition("/")[0]) for one in leases.values()))
        ):
            yield key


def remove(store: Store, garbage: Garbage, now: Clock = time.time) -> int:
    """Deletes it, seals before blobs, and returns how many objects went. A run that has finished meanwhile stays.

    Raises UsageError if a run has begun since it was found.
    """
    if not lease.live(store.storage, now).keys() <= garbage.leases:
        raise UsageError("A run has begun since the garbage was found, and may need some of it. Run the command again.")
    count = 0
    for key in sorted(garbage.keys, key=lambda key: (key.startswith("artifacts/") and not key.endswith(".json"), key)):
        run = key.split("/")[0]
        if run not in garbage.unfinished or store.storage.get(_manifest_key(run)) is None:
            failpoint.reach("gc.before_delete")
            count += store.storage.delete(key)
    return count


def _with_parts(held: Held, store: Store) -> Held:
    """What a lease holds, with the parts of the finished steps, for which it has only the steps' summaries."""
    parts = {part for key in held.artifacts for part in listed(store, key)}
    return replace(held, artifacts=held.artifacts | parts)


def _kept(store: Store, run: str, *, is_at_work: bool) -> list[str]:
    """The artefacts that a finished run was made from. One that is at work has perhaps not listed them yet."""
    try:
        body = json.loads(store.storage.get(f"{run}/artifacts.json") or b"")
        listed: list[str] = body["artifacts"]
        if body["check"] == fingerprint(listed):
            return listed
    except (ValueError, KeyError, TypeError):
        pass
    if is_at_work:
        return []
    raise UsageError(
        f"The run {run} has a manifest and no sound artifacts.json, so nobody knows what it was made from."
        " Run its policy once more, or remove its folder."
    )


def _manifest_key(run: str) -> str:
    return f"{run}/manifest/manifest.json"
