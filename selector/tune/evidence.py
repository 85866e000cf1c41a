"""Evidence: what an objective measured of a policy, kept in the root for this study and for later ones.

Its key says the policy with all that decides what it chooses (its plug-ins, models, corpus and the versions of the
steps), the objective, the held-out documents, the seed, the scale and the setting: nothing of the clusters that were
found or of the machine. So it is still there when clusters were made anew, and `gc` leaves it alone: training cost more
than it holds.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute

from selector import plugins, tables
from selector.engine.canonical import fingerprint
from selector.engine.step import Step
from selector.engine.store import EVIDENCE, Store
from selector.errors import DamagedError, SelectorError
from selector.manifest import Manifest
from selector.tune.objectives import HeldOut, Objective, Trial

pc: Any = pyarrow.compute  # whose functions are made when it is imported
logger = logging.getLogger(__name__)

OUTPUTS = "outputs/"
"""Begins the keys of the files that objectives keep, in a folder for each trial."""

_COST = pa.schema([("tokens", pa.int64()), ("seconds", pa.float64()), ("manifest", pa.string())])


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was measured of one trial, and what that cost."""

    key: str
    measured: pa.Table  # `tables.MEASURED`
    tokens: int
    seconds: float
    is_new: bool  # measured now, and not found

    def of(self, metric: str) -> float:
        """The weighted mean of a metric."""
        rows = rows_of(self.measured, metric)
        weights = rows["weight"].to_numpy()
        return float(rows["value"].to_numpy() @ weights / weights.sum())


def rows_of(measured: pa.Table, metric: str) -> pa.Table:
    """The rows of one metric of a table `tables.MEASURED`."""
    return measured.filter(pc.equal(measured["metric"], metric))


def policy_fingerprint(manifest: Manifest, flow: Sequence[Step]) -> str:
    """Stands for a policy, its plug-ins, models and corpus, and the versions of the steps."""
    info = manifest.info
    files = manifest.files.select(["uri", "sha256", "size"]).to_pylist()
    versions = {step.name: step.version for step in flow}
    return fingerprint([info["policy"], info["plugins"], info["models"], files, versions])


def key_of(objective: Objective, policy: str, held_out: HeldOut, *, seed: int, scale: str, setting: str) -> str:
    """Under which key evidence on a trial is stored; `policy` is its `policy_fingerprint`."""
    question: dict[str, Any] = {
        "policy": policy,
        "objective": [plugins.identity(objective), dict(objective.contents())],
        "held_out": held_out.fingerprint if objective.reads_held_out else None,
        "seed": seed,
        "scale": scale,
        "setting": setting,
    }
    return f"{EVIDENCE}{fingerprint(question)}"


def keeping(store: Store, key: str) -> Callable[[str, bytes], str]:
    """Keeps files beside the evidence under a key."""

    def keep(name: str, data: bytes) -> str:
        kept = f"{OUTPUTS}{key.removeprefix(EVIDENCE)}/{name}"
        store.storage.ensure(kept, data)
        return f"{store.storage.address}/{kept}"

    return keep


def of(store: Store, objective: Objective, key: str, trial: Trial, clock: Callable[[], float]) -> Evidence:
    """The evidence on a trial under its key: found, or else measured and stored."""
    stored = find(store, key)
    if stored is not None:
        return stored
    began = clock()
    measured = _checked(objective, trial, objective.measure(trial))
    tokens = objective.tokens(trial.scale, trial.manifest.header.counts.tokens)
    cost = pa.table([[tokens], [clock() - began], [trial.manifest.digest]], schema=_COST)
    seal = store.seal(key, [("measured", measured), ("cost", cost)])
    return _read(store, key, seal, is_new=True)


def find(store: Store, key: str) -> Evidence | None:
    """The evidence under a key, if there is any that is sound."""
    try:
        seal = store.find(key)
        return None if seal is None else _read(store, key, seal, is_new=False)
    except DamagedError as damaged:
        logger.warning("%s It is measured again.", damaged)
        store.discard(key)
        return None


def _read(store: Store, key: str, seal: Any, *, is_new: bool) -> Evidence:
    (cost,) = store.table(seal, "cost").to_pylist()
    return Evidence(
        key=key, measured=store.table(seal, "measured"), tokens=cost["tokens"], seconds=cost["seconds"], is_new=is_new
    )


def _checked(objective: Objective, trial: Trial, measured: pa.Table) -> pa.Table:
    """The table, if it is one of measurements. Raises SelectorError that puts the fault on the objective."""
    name = plugins.name_of(objective)
    if measured.schema != tables.MEASURED:
        raise SelectorError(f"The objective {name} answers with the columns {measured.schema.names}, not with those of"
                            f" tables.MEASURED: {tables.MEASURED.names}.")  # fmt: skip
    missing = set(objective.metrics) - set(measured["metric"].to_pylist())
    if missing:
        raise SelectorError(f"The objective {name} gave the arm {trial.arm} no {', '.join(sorted(missing))}.")
    values = measured["value"].to_numpy()
    if not (abs(values) < float("inf")).all():
        raise SelectorError(f"The objective {name} gave the arm {trial.arm} a value that is no number.")
    return measured


def values_of(evidence: Evidence, metric: str) -> dict[str, float]:
    """The metric of each domain; of the whole, under "", where there are none."""
    of_domains: dict[str, list[tuple[float, float]]] = {}
    for row in rows_of(evidence.measured, metric).to_pylist():
        of_domains.setdefault(row["domain"] or "", []).append((row["value"], row["weight"]))
    return {
        name: math.fsum(value * weight for value, weight in pairs) / math.fsum(weight for _, weight in pairs)
        for name, pairs in sorted(of_domains.items())
    }
