"""What is known before a run: what each step would do, and where updates will count.

How many visits there will be is known of a budget in documents, and of a choice that is stored; of any other it is
estimated from the tokens of documents that are stored, if there are any.

Where the best documents come is known beforehand of a placed order that reads no score but the manifest's quality:
then it is the same for any documents, and a thousand made-up ones tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from selector.engine.runner import Planned
from selector.engine.step import Done
from selector.exact import keyed
from selector.exact.rates import Training
from selector.manifest.describe import best_where_little_counts
from selector.order import Dealt, Order, Pool
from selector.plugins.options import columns_of
from selector.policy.resolve import Resolved
from selector.policy.sections import BudgetPolicy

_MADE_UP = 1000
_PARTS = 64  # that the mean number of tokens is taken of
_BEST = 10  # one in so many is among the best


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """What a run would do, and where its updates would count, if the policy says how it will be trained on."""

    steps: Sequence[Planned]
    training: Mapping[str, Any] | None = None
    warnings: Sequence[str] = ()


def of(steps: Sequence[Planned], resolved: Resolved, done: Done) -> Foreseen:
    """What is known of a run whose steps are these, of which those in `done` are stored."""
    policy = resolved.policy
    if policy.training is None:
        return Foreseen(steps=steps)
    training, (num_visits, estimate) = policy.training.training, visits_of(policy.select.budget, done)
    if not num_visits:
        return Foreseen(steps=steps, training={"visits": None, "because": estimate})
    facts = training_facts(training, num_visits) | ({"estimate": estimate} if estimate else {})
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


def visits_of(budget: BudgetPolicy, done: Done) -> tuple[int | None, str]:
    """How many visits there will be, and how that is estimated, nothing if it is known; or None, and why."""
    if "order" in done:
        return done["order"].rows_out, ""
    if budget.documents is not None:
        return budget.documents, ""
    if "ingest" not in done:
        return None, "the budget is one of tokens, and how many tokens documents have is not stored yet"
    mean = mean_tokens(done)
    if not mean:
        return None, "the budget is one of tokens, and no document is stored that has some"
    if budget.tokens is not None:
        return max(int(budget.tokens / mean), 1), f"by {mean:,.0f} tokens a document, the mean of those that are stored"
    documents = done["dedup" if "dedup" in done else "ingest"].rows_out
    share = budget.fraction or 0
    return max(int(share * documents), 1), f"by {share:.3g} of the {documents:,} documents that are stored"


def mean_tokens(done: Done) -> float:
    """The mean number of tokens of documents in some of the parts, at even distances; 0 without a document."""
    seals = done["ingest"].parts
    some = [done.store.table(seal, "documents", ["num_tokens"]) for seal in seals[:: max(len(seals) // _PARTS, 1)]]
    count = sum(table.num_rows for table in some)
    return sum(int(table["num_tokens"].to_numpy().sum(dtype=np.int64)) for table in some) / max(count, 1)


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
    if not isinstance(order, Dealt) or not names or set(columns_of(order)) - base - names:
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
