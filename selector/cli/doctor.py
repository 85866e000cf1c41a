"""Whether this machine has what a run needs: each finding says what was seen, and the cure if it is not enough."""

import importlib.metadata
import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selector import storage
from selector.corpus import files, formats
from selector.engine.local import LocalExecutor
from selector.engine.step import versions
from selector.engine.store import Store
from selector.errors import SelectorError
from selector.models.encoder import hardware_precision
from selector.models.find import find_model
from selector.models.neighbours import FAISS

_COMPARED = (
    "selector",
    "ray",
    "numpy",
    "pyarrow",
    "polars",
    "torch",
    "transformers",
    "tokenizers",
    "faiss-cpu",
    "faiss-gpu",
)
"""Distributions that decide what workers compute, or whether they understand the driver."""

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


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is looked at on a node of a cluster: versions, the root, the corpus, the graphics card."""

    root: str
    corpora: tuple[str, ...] = ()

    def __call__(self) -> dict[str, Any]:
        """The versions on this node, and what is wrong with it."""
        problems = [*_root_problems(self.root), *_corpus_problems(self.corpora), *_gpu_problems()]
        return {"versions": {"python": sys.version.split()[0], **versions(_COMPARED)}, "problems": problems}


def examine_cluster(answers: Mapping[str, Mapping[str, Any] | str], own: Mapping[str, Any], root: str) -> list[Finding]:
    """A finding for each node of a cluster, of what `Look` answered there, beside what it answers here."""
    findings: list[Finding] = []
    for node, answer in sorted(answers.items()):
        if isinstance(answer, str):
            findings.append(Finding(name=f"node {node}", ok=False, detail=answer))
            continue
        others = {
            name: (answer["versions"].get(name, "none"), own["versions"].get(name, "none"))
            for name in sorted({*answer["versions"], *own["versions"]})
        }
        differing = [f"{name} {far} where here is {here}" for name, (far, here) in others.items() if far != here]
        problems = [*([f"other versions: {', '.join(differing)}"] if differing else []), *answer["problems"]]
        detail = "; ".join(problems) or f"the same versions as here, {root} can be written to"
        findings.append(Finding(name=f"node {node}", ok=not problems, detail=detail))
    return findings or [Finding(name="nodes", ok=False, detail="the cluster has no node that is alive")]


def _root_problems(root: str) -> Iterator[str]:
    try:
        store = storage.open_storage(root)
        probe = f"probe/{uuid.uuid4().hex}"
        storage.check(store, probe, b"probe")
        store.delete(probe)
    except SelectorError as error:
        yield str(error).rstrip(".")


def _corpus_problems(corpora: Sequence[str]) -> Iterator[str]:
    for path in corpora:
        try:
            for file in files.expand([path], None).files[:1]:
                with formats.opened_now(file.uri) as opened:
                    opened.read(1)
        except (SelectorError, OSError) as error:
            yield f"the corpus {path} cannot be read: {error}".rstrip(".")


def _gpu_problems() -> Iterator[str]:
    """Whether what is installed has kernels for the cards that are here: told by using them."""
    import torch

    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        name = torch.cuda.get_device_name(index)
        try:
            ones = torch.ones(8, 8, device=f"cuda:{index}")
            if float((ones @ ones).sum()) != 512.0:
                yield f"the card {name} multiplies wrongly"
        except RuntimeError as error:
            kinds = " ".join(torch.cuda.get_arch_list())
            yield f"torch has no kernels for the card {name} ({str(error).splitlines()[0]}); it has {kinds}"


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
