"""The best documents by one score, and nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector import exact, tables
from selector.exact import keyed
from selector.exact.spend import Budget, Queued, take
from selector.plugins.options import Score
from selector.plugins.pool import Pool
from selector.select import Decisions, Selector


@dataclass(frozen=True, kw_only=True)
class Top(Selector):
    """Takes the documents with the highest score, whatever the score means; ties by doc_id, no score last.

    Nothing is drawn: a document is kept with probability 1 or 0, so no estimate can be corrected for what
    was left out. Prefer `kmeans_quality`, or use this as its comparison (QuRating, arXiv 2402.09739, found
    plain top-k poor).
    """

    score: Score

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        total = sum(int(budget.sizes(batch).sum()) for batch in pool.batches("num_tokens"))
        columns = ("doc_id", "num_tokens", self.score)

        def queued(batch: pa.RecordBatch) -> Queued:
            return Queued(
                group=np.zeros(batch.num_rows, np.int64),
                key=exact.descending(batch[self.score]),
                ids=keyed.words(batch["doc_id"]),
                sizes=budget.sizes(batch),
            )

        taken = take(
            lambda: map(queued, pool.batches(*columns)), np.array([min(budget.amount, total)]), budget.overshoot
        )
        best = f"among the best by {self.score}, {taken.spent} {budget.unit} in all"
        reasons = pa.array([f"not {best}", best])

        def decided() -> Iterator[pa.RecordBatch]:
            for batch in pool.batches(*columns):
                kept = taken.mask(queued(batch))
                yield pa.record_batch(
                    [
                        kept,
                        pa.DictionaryArray.from_arrays(kept.astype(np.int32), reasons),
                        kept.astype(np.float32),
                        np.zeros(len(kept), np.uint16),
                    ],
                    schema=tables.DECISIONS,
                )

        return Decisions(batches=decided())
