"""A lease: by it a run says that it lives, until when, and what it holds.

Think of a parking ticket: it is put there when the run begins, renewed while the run is at work, and taken away at its
end. One of a run that was killed runs out. `gc` leaves alone what is held by a lease that has not run out; otherwise
nobody waits for one, so the same command goes on at once, and two runs of one policy are at work side by side. Leases
lie beside the runs and not in them, since a run has no name before its corpus is surveyed.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from selector.engine.canonical import canonical_json, fingerprint
from selector.errors import SelectorError
from selector.storage import Storage, check

logger = logging.getLogger(__name__)

FOLDER = "leases/"
SECONDS = 120.0
"""How long a lease holds after it was renewed. Clocks of machines that share a root may differ by less than this."""

_RENEWED = 30.0  # seconds after which it is renewed

Clock = Callable[[], float]  # seconds since 1970


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a lease says."""

    run: str | None = None  # the run's name, once it has one
    expires: float = 0.0  # seconds since 1970
    finished: frozenset[str] = frozenset()  # families of steps that the run is through with
    artifacts: frozenset[str] = frozenset()  # what it has read or written of those families
    host: str = ""  # of its process
    pid: int = 0

    def holds(self, key: str) -> bool:
        """Whether the run needs an artefact, or may do so: of a step that is not finished anything may be its own."""
        first, _, rest = key.partition("/")
        family = (rest if first in ("steps", "passing") else key).partition("/")[0].partition(".")[0]
        return family not in self.finished or key in self.artifacts


class Lease:
    """A run's own lease. A context manager: entering puts it there and keeps it renewed, leaving takes it away."""

    def __init__(self, storage: Storage, now: Clock = time.time) -> None:
        self.key = f"{FOLDER}{uuid.uuid4().hex}.json"
        self._storage, self._now = storage, now
        self._held = Held()
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._renewing = threading.Thread(target=self._renew_again, daemon=True)

    @classmethod
    def taken(cls, storage: Storage) -> Self:
        """A lease that is there, the first thing that a run writes. Raises UsageError where nothing can be kept."""
        lease = cls(storage)
        check(storage, lease.key, lease._data())
        return lease

    def __enter__(self) -> Self:
        self.renew()
        self._renewing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._ended.set()
        self._renewing.join()
        self._storage.delete_many([self.key])

    @property
    def run(self) -> str | None:
        """The run's name, once it has one."""
        return self._held.run

    def name(self, run: str) -> bool:
        """From now on the lease says which run it is. Whether another process has a lease for the same one."""
        self._held = replace(self._held, run=run)
        self.renew()
        return any(held.run == run and key != self.key for key, held in live(self._storage, self._now).items())

    def hold(self, finished: Iterable[str], artifacts: Iterable[str]) -> None:
        """With its next renewal the lease says that these families are finished, and what of them is needed."""
        self._held = replace(self._held, finished=frozenset(finished), artifacts=frozenset(artifacts))

    def renew(self) -> None:
        """The lease holds from now on for its time."""
        with self._lock:
            self._storage.ensure(self.key, self._data())

    def _data(self) -> bytes:
        held = self._held
        body: Mapping[str, Any] = {
            "run": held.run,
            "expires": round(self._now() + SECONDS, 3),
            "finished": sorted(held.finished),
            "artifacts": sorted(held.artifacts),
            "host": _host(),
            "pid": os.getpid(),
        }
        return canonical_json({**body, "check": fingerprint(body)})

    def _renew_again(self) -> None:
        while not self._ended.wait(_RENEWED):
            try:
                self.renew()
            except SelectorError as error:  # the work itself will meet what is wrong
                logger.warning("The run's lease cannot be renewed: %s", error)


def _host() -> str:
    """Where a process id means a process: the machine since its last start, and the container."""
    places = [socket.gethostname()]
    with contextlib.suppress(OSError):
        places += [Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(places)


def here() -> tuple[str, int]:
    """The place and the process of this run, as its lease says them."""
    return _host(), os.getpid()


def dead(storage: Storage, now: Clock = time.time) -> list[str]:
    """The keys of leases whose run does not live any more: they have run out, or their process, on this machine, is
    gone."""
    return states(storage, now)[1]


def states(storage: Storage, now: Clock = time.time) -> tuple[dict[str, Held], list[str]]:
    """As `live` and `dead`, of the same moment."""
    stored = _stored(storage)
    living = _live(stored, now)
    return living, [key for key in stored if key not in living or _is_gone(living[key])]


def _is_gone(held: Held) -> bool:
    return is_of_here(held.host) and not is_at_work(held.pid)


def is_of_here(host: str) -> bool:
    """Whether the number of a process means the same there as for us."""
    return host == _host() and len(host.split()) == 3


def is_at_work(pid: int) -> bool:
    """Whether a process has not ended. One that its parent has not asked about yet still has its number."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):  # it is gone, also while we read
        return False


def live(storage: Storage, now: Clock = time.time) -> dict[str, Held]:
    """What every lease says that has not run out, by its key. One that cannot be read has."""
    return _live(_stored(storage), now)


def _stored(storage: Storage) -> dict[str, bytes | None]:
    """The bytes of every lease, by its key."""
    keys = [key for key, _ in storage.list(FOLDER)]
    return dict(zip(keys, storage.get_many(keys), strict=True))


def _live(stored: Mapping[str, bytes | None], now: Clock) -> dict[str, Held]:
    leases: dict[str, Held] = {}
    for key, data in stored.items():
        try:
            body = json.loads(data or b"")
            is_sound = body.pop("check") == fingerprint(body)
            held = Held(
                run=body["run"],
                expires=body["expires"],
                finished=frozenset(body["finished"]),
                artifacts=frozenset(body["artifacts"]),
                host=body["host"],
                pid=body["pid"],
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if is_sound and held.expires > now():
            leases[key] = held
    return leases
