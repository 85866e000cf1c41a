"""Which machines of a cluster still answer: looked at by ourselves, since Ray takes 15 to 60 seconds to notice.

Think of it as knocking at doors. Every second each machine that a worker is on is asked whether its Ray (the raylet) is
there, and so is the head. Any word is an answer; a refusal twice over means that it is gone; silence may be a machine
that is very busy, so it counts only after a while.
"""

import contextlib
import logging
import socket
import threading
import time
import uuid
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import ray as _ray
from ray._private.state import state as _state
from ray.experimental import internal_kv

from selector.errors import SelectorError, UnreachableError

ray: Any = _ray  # whose own types are partly unknown
state: Any = _state
kv: Any = internal_kv
logger = logging.getLogger(__name__)

Word = Literal["answers", "refuses", "is silent"]

SILENT = 30.0
"""Seconds of silence, or of refusals by the head, that count as the end; a shorter deadline of parts is taken
instead."""

_EVERY = 1.0  # seconds between two looks
_SELDOM = 5  # looks between two at what only the head can tell
_WAIT = 2.0  # seconds that an answer may take
_REFUSALS = 2  # looks in a row at which a machine refuses, and is taken for gone
_AT_ONCE = 16  # machines that are asked at the same time
_MARKS = b"selector.marks"  # where the head keeps that it knows us

_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""How any gRPC client begins (RFC 9113, section 3.4): a server that lives answers, if only by hanging up."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine of the cluster, as Ray lists it."""

    host: str
    port: int
    is_alive: bool
    resources: Mapping[str, float]


@dataclass(kw_only=True)
class _Knocks:
    """What came of the last looks at one machine."""

    refusals: int = 0  # in a row
    since: float = 0.0  # when it last answered, or was first asked

    def note(self, word: Word) -> None:
        if word == "answers":
            self.refusals, self.since = 0, time.monotonic()
        else:
            self.refusals = self.refusals + 1 if word == "refuses" else 0


def knock(host: str, port: int, seconds: float = _WAIT) -> Word:
    """Whether something that speaks gRPC is at work there."""
    try:
        with socket.create_connection((host, port), timeout=seconds) as connection:
            connection.sendall(_GREETING)
            return "answers" if connection.recv(1) else "refuses"
    except TimeoutError:
        return "is silent"
    except OSError:
        return "refuses"


class Nodes:
    """The machines of the cluster that this process is connected to. A thread looks at them until `close`."""

    def __init__(self, deadline: float) -> None:
        self._patience = min(SILENT, deadline)
        self._watched: frozenset[str] = frozenset()
        self._table: Mapping[str, Node] = {}
        self._leaving: frozenset[str] = frozenset()
        self._knocks: dict[str, _Knocks] = {}  # of those that are looked at
        self._reachable: set[str] = set()  # those that have ever answered
        self._head = _Knocks(since=time.monotonic())
        self._has_forgotten = False
        self._mark = uuid.uuid4().hex
        host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
        self._head_at = (host.strip("[]"), int(port))
        kv._internal_kv_put(self._mark, b"", namespace=_MARKS)
        self._refresh()
        self._ended = threading.Event()
        self._looking = threading.Thread(target=self._look_again, daemon=True)
        self._looking.start()

    def close(self) -> None:
        """Ends the thread that looks."""
        self._ended.set()
        self._looking.join(_WAIT * 3)
        if self.is_head_sure:
            with contextlib.suppress(Exception):
                kv._internal_kv_del(self._mark, namespace=_MARKS)

    @property
    def is_head_sure(self) -> bool:
        """Whether the head answered when it was last looked at: what is asked of one that is gone takes a minute."""
        return self._head.refusals == 0 and time.monotonic() - self._head.since < 3 * _WAIT

    @property
    def table(self) -> Mapping[str, Node]:
        """All machines that were ever there, by their id, as of the last seconds."""
        return self._table

    @property
    def leaving(self) -> Collection[str]:
        """Those that are being drained: they will be gone soon."""
        return self._leaving

    def watch(self, nodes: frozenset[str]) -> None:
        """From now on these are looked at."""
        self._watched = nodes

    def lost(self) -> frozenset[str]:
        """Those that do not answer any more. One that never did may be behind a wall, and is left to Ray."""
        now = time.monotonic()
        knocks = dict(self._knocks)
        return frozenset(
            node
            for node, seen in knocks.items()
            if node in self._reachable and (seen.refusals >= _REFUSALS or now - seen.since >= self._patience)
        ) | {node for node, listed in self._table.items() if not listed.is_alive}

    def is_gone(self, node: str) -> bool:
        """Whether a machine on which a worker was lost does not answer now."""
        if node in self.lost():
            return True
        listed = self._table.get(node)
        return listed is not None and knock(listed.host, listed.port) != "answers"

    def check_head(self) -> None:
        """Raises UnreachableError once the head is gone."""
        silent = time.monotonic() - self._head.since
        if not self._has_forgotten and silent < self._patience:
            return
        host, port = self._head_at
        reason = (
            "has begun anew and forgotten this run" if self._has_forgotten else f"gave no answer for {silent:.0f} s"
        )
        raise UnreachableError(
            f"The head of the Ray cluster at {host}:{port} {reason}. Finished parts are kept: run the same command "
            "again, with --address of a cluster that runs."
        )

    def _refresh(self) -> None:
        """Asks the head for what only it can tell."""
        self._table = {
            node["NodeID"]: Node(
                host=node["NodeManagerAddress"],
                port=int(node["NodeManagerPort"]),
                is_alive=bool(node["Alive"]),
                resources=node["Resources"],
            )
            for node in ray.nodes()
        }
        self._leaving = frozenset(state.get_draining_nodes())
        self._has_forgotten = not kv._internal_kv_exists(self._mark, namespace=_MARKS)

    def _look_again(self) -> None:
        number = 0
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            while not self._ended.wait(_EVERY):
                number += 1
                try:
                    self._look(threads, number % _SELDOM == 0)
                except (OSError, RuntimeError, SelectorError, ray.exceptions.RayError) as error:
                    logger.debug("The machines of the cluster could not be looked at: %s", error)

    def _look(self, threads: ThreadPoolExecutor, is_thorough: bool) -> None:
        wanted = self._watched | (self.lost() & self._knocks.keys())  # one that is lost may come back
        alive = {node: listed for node, listed in self._table.items() if listed.is_alive}
        addresses = {node: alive[node] for node in wanted if node in alive}
        if self._watched - self._table.keys():
            is_thorough = True  # a machine that is new
        now = time.monotonic()
        self._knocks = {node: seen for node, seen in self._knocks.items() if node in addresses}
        answers = {node: threads.submit(knock, listed.host, listed.port) for node, listed in addresses.items()}
        head = threads.submit(knock, *self._head_at)
        new = {
            node: threads.submit(knock, listed.host, listed.port)
            for node, listed in alive.items()
            if node not in self._reachable and node not in addresses
        }
        for node, answer in answers.items():
            self._knocks.setdefault(node, _Knocks(since=now)).note(answer.result())
        every = answers | new
        self._reachable.update(node for node, answer in every.items() if answer.result() == "answers")
        self._head.note(head.result())
        if is_thorough and self._head.refusals == 0 and head.result() == "answers":
            self._refresh()
