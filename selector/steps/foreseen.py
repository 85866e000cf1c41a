"""What is known before a run: what each step would do, and where updates will count.

Where the best documents come is known beforehand of a placed order that reads no score but the manifest's quality:
then it is the same for any documents, and a thousand made-up ones tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from selector.engine.runner import Planned
from selector.exact import keyed
from selector.exact.rates import Training
from selector.manifest.describe import best_where_little_counts
from selector.order import Order, Placed, Pool
from selector.plugins.options import columns_of
from selector.policy.resolve import Resolved

_MADE_UP = 1000
_BEST = 10  # one in so many is among the best


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """What a run would do, and where its updates would count, if the policy says how it will be trained on."""

    steps: Sequence[Planned]
    training: Mapping[str, Any] | None = None
    warnings: Sequence[str] = ()


def of(steps: Sequence[Planned], resolved: Resolved) -> Foreseen:
    """What is known of a run whose steps are these."""
    policy = resolved.policy
    if policy.training is None:
        return Foreseen(steps=steps)
    num_visits, training = policy.select.budget.documents, policy.training.training
    if num_visits is None:
        return Foreseen(steps=steps, training={"visits": None})
    facts = training_facts(training, num_visits)
    quality = next((column for column in resolved.manifest_columns if column.name == "quality"), None)
    counts = None
    if quality is not None:
        read = [column for column in resolved.columns["order.using"] if column.step == quality.step]
        names = {column.name for column in read if column.column == quality.column}
        counts = best_counts(resolved.plugins.order, names, quality.meaning or "", training, num_visits)
    if counts is None:
        return Foreseen(steps=steps, training=facts)
    warnings = best_where_little_counts(counts, resolved.data["training"])
    best = {"share": 1 / _BEST, "counts": round(counts, 4)}
    return Foreseen(steps=steps, training={**facts, "best": best}, warnings=list(warnings))


def training_facts(training: Training, num_visits: int) -> dict[str, Any]:
    """How many steps so many visits are, how much those of each tenth count, and which checkpoints are averaged."""
    counts = training.mean_counts(num_visits)
    return {
        "visits": num_visits,
        "steps": training.num_steps(num_visits),
        "counts": [None if count is None else round(count, 4) for count in counts],
        "average": {"after_steps": training.checkpoint_steps(num_visits), "weights": "equal"},
    }


def best_counts(order: Order, names: set[str], higher_is: str, training: Training, num_visits: int) -> float | None:
    """How much the best tenth would count on average; None where that follows from more than the quality, which the
    order calls by `names`."""
    base = {"doc_id", "num_tokens"}
    if not isinstance(order, Placed) or not names or set(columns_of(order)) - base - names:
        return None
    numbers = np.arange(_MADE_UP, dtype=np.uint64)
    ids = keyed.ids(np.column_stack([numbers, numbers]))
    quality = keyed.uniforms(ids, 0, "foreseen").astype(np.float32)
    columns: dict[str, tuple[Any, dict[str, str] | None]] = {
        "doc_id": (ids, None),
        "num_tokens": (pa.array(np.full(_MADE_UP, 100, np.uint32)), None),
        **{name: (pa.array(quality), {"higher_is": higher_is}) for name in sorted(names)},
        "visits": (pa.array(np.ones(_MADE_UP, np.uint16)), None),
        "round": (pa.array(np.zeros(_MADE_UP, np.uint16)), None),
        "inclusion_probability": (pa.array(np.ones(_MADE_UP, np.float32)), None),
    }
    schema = pa.schema([pa.field(name, column.type, metadata=words) for name, (column, words) in columns.items()])
    pool = Pool.of(pa.table([column for column, _ in columns.values()], schema=schema))
    rows = order.arrange(pool, 0).visits["document"].to_numpy()
    counts = np.array(training.mean_counts(num_visits, max(len(rows), 1)), np.float64)
    best = np.argsort(-quality[rows], kind="stable")[: len(rows) // _BEST]
    return float(np.nanmean(counts[best])) if len(best) else None
