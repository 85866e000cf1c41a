"""Whether this machine has what a run needs: each finding says what was seen, and the cure if it is not enough."""

import importlib.metadata
import os
import sys
import uuid
from dataclasses import dataclass

from selector import storage
from selector.engine.local import LocalExecutor
from selector.engine.store import Store
from selector.errors import SelectorError
from selector.models.encoder import hardware_precision
from selector.models.find import find_model

_PACKAGES = {
    "ray": (2, 56), "torch": (2, 5), "sentence-transformers": (5, 4), "pyarrow": (18, 0), "duckdb": (2, 0),
}  # fmt: skip
"""The least versions of what a run cannot do without, as pyproject.toml has them."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


def examine(root: str) -> list[Finding]:
    """Every finding, good and bad. Looks at the machine, installs and starts nothing."""
    device = LocalExecutor().device()
    findings = [
        Finding(
            name="python", ok=sys.version_info >= (3, 11), detail=f"{sys.version.split()[0]} (3.11 or later is needed)"
        ),
        Finding(
            name="processors",
            ok=True,
            detail=f"{os.cpu_count()} CPUs, models on {device} in {hardware_precision(device)}",
        ),
    ]
    findings += [_package(name, least) for name, least in _PACKAGES.items()]
    try:
        findings.append(
            Finding(
                name="model",
                ok=True,
                detail=f"all-MiniLM-L6-v2 in {find_model('all-MiniLM-L6-v2')}, sha256 as expected",
            )
        )
    except SelectorError as error:
        findings.append(Finding(name="model", ok=False, detail=str(error)))
    try:
        store = Store.open(root)
        probe = f"probe/{uuid.uuid4().hex}"
        storage.check(store.storage, probe, b"probe")
        store.storage.delete(probe)
        free = store.storage.free_bytes()
        findings.append(
            Finding(name="storage", ok=True, detail=f"{store.storage.address}, {(free or 0) / 1e9:.1f} GB free")
        )
    except SelectorError as error:
        findings.append(Finding(name="storage", ok=False, detail=str(error)))
    return findings


def _package(name: str, least: tuple[int, int]) -> Finding:
    wanted = ".".join(map(str, least))
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name=name, ok=False, detail=f"not installed. Type: pip install '{name}>={wanted}'")
    major, minor, *_ = version.split(".")
    return Finding(name=name, ok=(int(major), int(minor)) >= least, detail=f"{version} ({wanted} or later is needed)")
