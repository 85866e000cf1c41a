"""A run's journal: how far it is, and what happened, kept in the root while it is at work.

Think of a ship's log. `progress.json` says where the run is now and is written over; pages of the log are only added.
A thread of its own writes both every few seconds, so a run that hangs is seen to hang, and one that was killed leaves
what it knew. They are read without the run, its machine or its cluster. Whether its process still lives, the lease
says. Nothing here decides anything about a manifest.
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from types import TracebackType, UnionType
from typing import TYPE_CHECKING, Any, Self, TypeVar, get_args, get_origin, get_type_hints

from selector import counts
from selector.engine import job as jobs
from selector.engine import lease
from selector.engine.alive import Stall
from selector.engine.canonical import canonical_json
from selector.engine.lease import Clock, Lease
from selector.errors import SelectorError
from selector.storage import Storage

if TYPE_CHECKING:  # who reads a journal needs no Arrow
    from selector.engine.part import Receipt
    from selector.engine.step import Result

logger = logging.getLogger(__name__)

FOLDER = "journals/"
JOB = "SELECTOR_JOB"
"""The environment variable by which a process knows which job it is."""

_ALONE = "runs"  # the folder of the journals of runs that are no jobs

_WRITTEN = 1.0  # seconds between two looks at whether there is something to write
_FAR, _FAR_AT_MOST = 3.0, 15.0  # seconds between two writes where the root is far away
_PAGE = 5.0  # seconds after which a page of the log is written, and more as the run grows old
_MOST_LINES = 10_000  # of a page; a run that does more parts between two pages tells the number of the rest
_LARGEST = 2.0**53  # number in a journal: what is larger is damage, and no time of any calendar
_DONE = {"name": str, "cached": bool, "rows_in": int, "rows_out": int, "seconds": float}
"""What a journal says of a step that is done."""

_Recorded = TypeVar("_Recorded")


@dataclass(frozen=True, kw_only=True)
class StepSeen:
    """A step that is going on."""

    name: str
    began: float  # seconds since 1970
    parts: int | None = None  # that are to be done
    parts_done: int = 0
    documents: int = 0
    waiting: str = ""  # what is waited for, while there is nothing to count
    stalls: tuple[Stall, ...] = ()
    over: float | None = None  # when its last part was done; it is not finished before its turn

    def rate(self, now: float) -> float:
        """Documents a second."""
        return self.documents / max(1e-3, (self.over or now) - self.began)

    def seconds_left(self, now: float) -> float | None:
        """How long the step will take, if its parts go on as they did; None before the first one."""
        if not self.parts or not self.parts_done:
            return None
        return max(0.0, (now - self.began) / self.parts_done * (self.parts - self.parts_done))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """How a run was when it last wrote that down."""

    key: str  # of its journal's folder
    lease: str
    job: str | None = None
    run: str | None = None
    host: str = ""
    pid: int = 0
    began: float = 0.0
    updated: float = 0.0  # when it was written
    sign: float = 0.0  # when anything happened
    steps: tuple[StepSeen, ...] = ()  # that are going on, by when they began
    done: tuple[dict[str, Any], ...] = ()  # the steps that are: name, cached, rows_in, rows_out, seconds
    tokens_per_document: float | None = None  # on average, once documents are counted
    requests: int = 0  # to stores of objects, by the driver and its workers
    retries: int = 0  # of these, made again
    ended: str | None = None  # finished, failed or interrupted
    message: str = ""

    @classmethod
    def of(cls, key: str, data: bytes) -> Self:
        """What `progress.json` says. Raises ValueError, KeyError or TypeError."""
        body = dict[str, Any](json.loads(data))
        steps = [
            _recorded(StepSeen, {**step, "stalls": tuple(_recorded(Stall, stall) for stall in step["stalls"])})
            for step in body.get("steps", [])  # older runs told of one step alone
        ]
        for row in body["done"]:
            for name, kind in _DONE.items():
                _check(name, row[name], kind)
        return _recorded(cls, {**body, "key": key, "done": tuple(body["done"]), "steps": tuple(steps)})

    @property
    def step(self) -> StepSeen | None:
        """The first of the steps that are going on, one that has still parts to do if there is any."""
        return min(self.steps, key=lambda step: step.over is not None, default=None)


class Journal:
    """Watches a run for those who are not there, and passes everything on to who is. A context manager: entering
    begins the journal, leaving says how the run ended.

    `cancelled` is called, by another thread, once somebody has cancelled the job.
    """

    def __init__(
        self,
        storage: Storage,
        own: Lease,
        progress: Any,
        job: str | None = None,
        cancelled: Any = None,
        began: counts.Mark | None = None,
        now: Clock = time.time,
    ) -> None:
        self.key = f"{FOLDER}{job or _ALONE}/{own.key.removeprefix(lease.FOLDER).removesuffix('.json')}/"
        self._storage, self._lease, self._progress, self._now, self._cancelled = storage, own, progress, now, cancelled
        host, pid = lease.here()
        self._seen = Seen(
            key=self.key, lease=own.key, job=job, host=host, pid=pid, began=now(), updated=now(), sign=now()
        )
        self._since = began or counts.Mark.now()
        self._lines: list[dict[str, Any]] = []
        self._awaited: set[tuple[str, str]] = set()  # what each step was seen to wait for
        self._rows: dict[str, int] = {}  # documents of each step's finished parts
        self._num_left_out = 0
        self._num_pages = 0
        self._turned = now()  # the last page
        self._lock, self._writing, self._over = threading.Lock(), threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._write_again, daemon=True)

    def __enter__(self) -> Self:
        self._note("begun", job=self._seen.job, host=self._seen.host.split()[0], pid=self._seen.pid)
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._over.set()
        self._thread.join()
        word = "finished" if error is None else "failed" if isinstance(error, Exception) else "interrupted"
        message = f"{error}" or type(error).__name__ if isinstance(error, Exception) else ""
        self._see(ended=word, message=message[:4000])
        self._note(word, message=message[:4000], **self._counts())
        with contextlib.suppress(SelectorError):  # the run has its own ending, which this only writes down
            self._write(turn=True)

    def counted(self, num_documents: int, num_tokens: int) -> None:
        """From now on tokens can be estimated from documents."""
        self._see(tokens_per_document=num_tokens / max(1, num_documents))
        counts.put(counts.TOKENS, {"": num_tokens / max(1, num_documents)})
        self._note("counted", documents=num_documents, tokens=num_tokens)

    # What a run tells who watches it.

    def began(self, name: str, num_parts: int) -> None:
        self._rows.pop(name, None)
        self._see_step(StepSeen(name=name, began=self._now(), parts=num_parts))
        self._note("step", step=name, parts=num_parts)
        self._progress.began(name, num_parts)

    def advanced(self, name: str, receipt: "Receipt") -> None:
        step = self._step(name)
        self._rows[name] = self._rows.get(name, 0) + receipt.num_rows
        documents = max(step.documents, self._rows[name])
        over = self._now() if step.parts_done + 1 == step.parts else None
        self._see_step(replace(step, parts_done=step.parts_done + 1, documents=documents, waiting="", over=over))
        self._note("part", step=name, **asdict(receipt))
        self._progress.advanced(name, receipt)

    def at_work(self, name: str, num_rows: int | None) -> None:
        step = self._step(name)
        documents = max(step.documents, 0 if num_rows is None else self._rows.get(name, 0) + num_rows)
        self._see_step(replace(step, documents=documents, waiting=""))
        self._progress.at_work(name, num_rows)

    def waiting(self, name: str, awaited: str) -> None:
        step = self._step(name)
        if (name, awaited) not in self._awaited:
            self._awaited.add((name, awaited))
            self._note("waiting", step=name, awaited=awaited)
        self._see_step(replace(step, waiting=awaited))
        self._progress.waiting(name, awaited)

    def stalled(self, name: str, stalls: Sequence[Stall]) -> None:
        step = self._step(name)
        known = {(stall.part, stall.worker) for stall in step.stalls}
        for stall in stalls:
            if (stall.part, stall.worker) not in known:
                self._note("stalled", step=name, **asdict(stall))
        with self._lock:  # no sign of life
            self._seen = replace(self._seen, steps=self._steps(replace(step, stalls=tuple(stalls))))
        self._progress.stalled(name, stalls)

    def ended(self, result: "Result") -> None:
        row = {name: getattr(result, name) for name in ("name", "cached", "rows_in", "rows_out", "seconds")}
        self._rows.pop(result.name, None)
        others = tuple(step for step in self._seen.steps if step.name != result.name)
        self._see(steps=others, done=(*self._seen.done, row))
        self._note("done", fingerprint=result.fingerprint, **row)
        self._progress.ended(result)

    def _counts(self) -> dict[str, int]:
        """The requests to stores of objects since the run began."""
        return {"requests": self._since.since(counts.REQUESTS), "retries": self._since.since(counts.RETRIES)}

    def _step(self, name: str) -> StepSeen:
        """The step of this name as it was seen; one that never announced its beginning begins now."""
        seen = next((step for step in self._seen.steps if step.name == name), None)
        return seen or StepSeen(name=name, began=self._now())

    def _steps(self, step: StepSeen) -> tuple[StepSeen, ...]:
        """The steps that are going on, with this one as it is now."""
        return tuple({**{seen.name: seen for seen in self._seen.steps}, step.name: step}.values())

    def _see_step(self, step: StepSeen) -> None:
        self._see(steps=self._steps(step))

    def _see(self, **values: Any) -> None:
        with self._lock:
            self._seen = replace(self._seen, sign=self._now(), **values)

    def _note(self, event: str, **values: Any) -> None:
        with self._lock:
            if len(self._lines) < _MOST_LINES:
                self._lines.append({"time": round(self._now(), 3), "event": event, **values})
            else:
                self._num_left_out += 1

    def _write_again(self) -> None:
        written = self._now()
        while not self._over.wait(_WRITTEN):
            try:
                if self._now() - written >= self._pause():
                    written = self._now()
                    self._write()
                job = self._seen.job
                if job is not None and self._cancelled is not None and jobs.is_cancelled(self._storage, job):
                    self._cancelled()
                    self._cancelled = None
            except SelectorError as error:  # the work itself will meet what is wrong
                logger.debug("The run's journal cannot be written: %s", error)

    def _pause(self) -> float:
        """Seconds between two pages of progress: more where each is a request over a network, as the run grows old."""
        if not self._storage.is_far:
            return 0.0
        return max(_FAR, min(_FAR_AT_MOST, (self._now() - self._seen.began) / 5))

    def _write(self, *, turn: bool = False) -> None:
        """Writes what there is to say, and a page of the log if it is time."""
        with self._writing:
            now = self._now()
            with self._lock:
                self._seen = replace(self._seen, updated=now, run=self._lease.run, **self._counts())
                seen = self._seen
                lines: list[dict[str, Any]] = []
                is_time = now - self._turned >= max(_PAGE, min(60.0, (now - seen.began) / 100))
                if turn or is_time or not self._num_pages:
                    lines, self._lines = self._lines, []
                    if self._num_left_out:
                        lines.append({"time": round(now, 3), "event": "left out", "lines": self._num_left_out})
                        self._num_left_out = 0
            if lines:
                page = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
                self._storage.put_if_absent(f"{self.key}log/{self._num_pages:06}.jsonl", page)
                self._num_pages, self._turned = self._num_pages + 1, now
            self._storage.ensure(f"{self.key}progress.json", canonical_json(asdict(seen)))


def read(storage: Storage, job: str | None = None) -> list[Seen]:
    """What all runs tell of themselves, or those of one job, the latest last. What cannot be read is left out."""
    runs: list[Seen] = []
    for key, _ in storage.list(FOLDER if job is None else f"{FOLDER}{job}/"):
        if key.endswith("/progress.json"):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                runs.append(Seen.of(key.removesuffix("progress.json"), storage.get(key) or b""))
    return sorted(runs, key=lambda seen: (seen.began, seen.key))


def _recorded(cls: type[_Recorded], values: Any) -> _Recorded:
    """One of these as it was written. What a later version writes beside it is passed over. Raises TypeError where a
    value is of another type."""
    kinds = get_type_hints(cls)
    known: dict[str, Any] = {name: value for name, value in {**values}.items() if name in kinds}
    for name, value in known.items():
        _check(name, value, kinds[name])
    return cls(**known)


def _check(name: str, value: Any, kind: Any) -> None:
    """Raises TypeError where the value is not of this kind. Whole numbers are floats too, booleans are no numbers."""
    kinds = [get_origin(one) or one for one in (get_args(kind) if isinstance(kind, UnionType) else (kind,))]
    is_of_kind = type(value) in kinds
    if type(value) in (int, float):
        is_of_kind = (is_of_kind or float in kinds) and abs(value) < _LARGEST  # which nan is not
    if not is_of_kind:
        raise TypeError(f"{name} is {value!r:.80}")


def living(storage: Storage, runs: Sequence[Seen]) -> set[str]:
    """The keys of the runs among these whose process is at work, as their leases say."""
    unended = [seen for seen in runs if seen.ended is None]
    if not unended:
        return set()
    live, dead = lease.states(storage)
    alive = live.keys() - {*dead}
    return {seen.key for seen in unended if seen.lease in alive}


def lines(storage: Storage, seen: Seen, after: int = 0) -> Iterator[dict[str, Any]]:
    """The lines of a run's log, from a page on; each has its page. What cannot be read is left out."""
    for page, (key, _) in enumerate(sorted(storage.list(f"{seen.key}log/"))):
        if page >= after:
            for line in (storage.get(key) or b"").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    event = dict[str, Any](json.loads(line))
                    _check("time", event["time"], float)
                    _check("event", event["event"], str)
                    yield {**event, "page": page}
