"""The control: every document has the same chance."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector import tables
from selector.exact import keyed
from selector.exact.spend import Budget, Queued, take
from selector.plugins.pool import Pool
from selector.select import Decisions, Selector


@dataclass(frozen=True, kw_only=True)
class Random(Selector):
    """Draws documents uniformly, without replacement: the control.

    Documents are taken in the order of a keyed hash of their id. The inclusion probability is the share of
    the pool that was taken, in the unit of the budget.
    """

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        total = sum(int(budget.sizes(batch).sum()) for batch in pool.batches("num_tokens"))
        columns = ("doc_id", "num_tokens")

        def queued(batch: pa.RecordBatch) -> Queued:
            return Queued(
                group=np.zeros(batch.num_rows, np.int64),
                key=keyed.hashes(batch["doc_id"], seed, "random"),
                ids=keyed.words(batch["doc_id"]),
                sizes=budget.sizes(batch),
            )

        taken = take(
            lambda: map(queued, pool.batches(*columns)), np.array([min(budget.amount, total)]), budget.overshoot
        )
        drawn = f"{taken.spent} of {total} {budget.unit}"
        reasons = pa.array([f"not drawn: {drawn} were", f"drawn: {drawn} were"])

        def decided() -> Iterator[pa.RecordBatch]:
            for batch in pool.batches(*columns):
                kept = taken.mask(queued(batch))
                yield pa.record_batch(
                    [
                        kept,
                        pa.DictionaryArray.from_arrays(kept.astype(np.int32), reasons),
                        np.full(len(kept), taken.spent / max(total, 1), np.float32),
                        np.zeros(len(kept), np.uint16),
                    ],
                    schema=tables.DECISIONS,
                )

        return Decisions(batches=decided())
