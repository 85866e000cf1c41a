"""What steps take of a worker's memory: measured by the workers, kept in the root, and asked for by whoever comes next.

A worker says with each part how much memory its process has had at most since it took up the step. The most of all
parts lies below `memory/`, under the step's own share of its fingerprint: so it holds for other parts and other corpora
too. Nothing else depends on it, and it may be removed at any time.
"""

import contextlib
import json
from pathlib import Path

from selector.engine.canonical import canonical_json, fingerprint
from selector.engine.step import Step
from selector.engine.store import Store

FOLDER = "memory/"

_MORE = 1.25  # times what was measured is asked for: the next part may have longer documents
_ROUNDED = 2**29  # bytes: so steps that take about as much share their workers


def begin() -> None:
    """From now on the most memory of this process is measured anew, where the system lets us."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_bytes(b"5")


def most() -> int | None:
    """Bytes of memory that this process has had at most, since `begin`; None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_bytes().splitlines():
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 2**10
    return None


def wanted(num_bytes: int) -> int:
    """Bytes to ask for where so many were measured."""
    return -(-int(num_bytes * _MORE) // _ROUNDED) * _ROUNDED


def measured(store: Store, step: Step) -> int | None:
    """Bytes that a worker of this step had at most in any run on this root, if that is known."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return int(json.loads(store.storage.get(_key(step)) or b"")["bytes"])
    return None


def keep(store: Store, step: Step, num_bytes: int) -> None:
    """Keeps that a worker of this step had so many bytes, if that is more than is known."""
    if num_bytes > (measured(store, step) or 0):
        store.storage.ensure(_key(step), canonical_json({"step": step.name, "bytes": num_bytes}))


def _key(step: Step) -> str:
    return f"{FOLDER}{fingerprint(step.identity())}.json"
