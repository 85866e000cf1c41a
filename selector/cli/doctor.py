"""Whether this machine has what a run needs: each finding says what was seen, and the cure if it is not enough."""

import importlib.metadata
import os
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from selector import storage
from selector.engine.local import LocalExecutor
from selector.engine.step import versions
from selector.engine.store import Store
from selector.errors import SelectorError
from selector.models.encoder import hardware_precision
from selector.models.find import find_model
from selector.models.neighbours import FAISS

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
    findings.append(_faiss(versions(FAISS), device))
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


def _faiss(installed: Mapping[str, str], device: str) -> Finding:
    """Neighbours on graphics cards: one distribution of faiss at most, and the right one where there is a card."""
    names = " and ".join(f"{name} {version}" for name, version in installed.items())
    if len(installed) > 1:
        cure = "pip uninstall -y faiss-cpu faiss-gpu && pip install "
        cure += "faiss-gpu" if device == "cuda" else "faiss-cpu"
        detail = f"{names} are both installed, and each overwrites the module of the other. Type: {cure}"
        return Finding(name="faiss", ok=False, detail=detail)
    if device == "cuda" and "faiss-gpu" not in installed:
        detail = (
            f"{names or 'not installed'}: clusters are assigned on CPUs. For GPUs type: pip install 'selector[gpu]'"
        )
        return Finding(name="faiss", ok=True, detail=detail)
    return Finding(name="faiss", ok=True, detail=names or "not installed; it is needed for clusters on GPUs only")


def _package(name: str, least: tuple[int, int]) -> Finding:
    wanted = ".".join(map(str, least))
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name=name, ok=False, detail=f"not installed. Type: pip install '{name}>={wanted}'")
    major, minor, *_ = version.split(".")
    return Finding(name=name, ok=(int(major), int(minor)) >= least, detail=f"{version} ({wanted} or later is needed)")
