"""Quality inside every cluster: diverse because each cluster has its quota, good because quality decides in it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from selector import exact, tables
from selector.errors import PolicyError
from selector.exact import Floats, Ints, keyed
from selector.exact.apportion import apportion, tally
from selector.exact.draws import Lottery
from selector.exact.inclusion import probability, solve
from selector.exact.spend import Budget, Queued, take
from selector.plugins.options import Score
from selector.plugins.pool import Pool
from selector.select import Decisions, Selector

_REASONS = (
    "cluster {}: beyond quota {} ({})",
    "cluster {}: within quota {} ({})",
    "cluster {}: beyond quota {} ({}), paid by what other quotas left",
)


@dataclass(frozen=True, kw_only=True)
class KmeansQuality(Selector):
    """Draws from every cluster in proportion to its size, better documents more likely (kMQ, arXiv 2409.11378).

    A cluster's quota is its share of the budget, by largest remainder. Inside a cluster, documents are drawn
    without replacement with weights exp(z / temperature), z being the score standardised over the whole pool
    (`selector.exact.draws`). Temperature 0 takes the best of each cluster, a high one draws almost uniformly.
    Documents without a score come after all others of their cluster.
    """

    needs: ClassVar[tuple[str, ...]] = ("cluster",)

    score: Score
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise PolicyError(
                f"kmeans_quality.temperature={self.temperature} says nothing about chance. Write 0 for the best "
                "documents of each cluster, a number above 0 for weighted draws, or leave it out for 2.0."
            )

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        columns = ("doc_id", "num_tokens", "cluster", self.score)
        lottery = Lottery.of(pool, score=self.score, temperature=self.temperature, seed=seed, purpose="kmeans_quality")
        totals = np.empty(0, np.int64)
        for batch in pool.batches(*columns[1:]):
            totals = tally(totals, self._strata(batch), budget.sizes(batch))
        totals = np.append(totals, 0)[: len(totals) + len(totals) % 2]
        capacities = totals.reshape(-1, 2).sum(axis=1)
        quotas = apportion(budget.amount, capacities, capacities)

        def queued(batch: pa.RecordBatch) -> Queued:
            group, ids = self._strata(batch) >> 1, keyed.words(batch["doc_id"])
            return Queued(group=group, key=lottery.keys(batch), ids=ids, sizes=budget.sizes(batch))

        taken = take(lambda: map(queued, pool.batches(*columns)), quotas, budget.overshoot)

        def draws() -> Iterator[tuple[Ints, Floats, Ints]]:
            for batch in pool.batches(*columns[1:]):
                strata = self._strata(batch)
                yield strata, lottery.log_weights(batch, taken.cuts[strata >> 1, 0]), budget.sizes(batch)

        log_times = np.full(len(totals), -np.inf)
        if lottery.noise:
            spent = np.zeros_like(totals)
            for batch in pool.batches(*columns):
                kept = taken.mask(queued(batch))
                spent = tally(spent, self._strata(batch)[kept], budget.sizes(batch)[kept])
            log_times = solve(draws, spent, totals)

        def decided() -> Iterator[pa.RecordBatch]:
            for batch in pool.batches(*columns):
                documents, strata = queued(batch), self._strata(batch)
                kept = taken.mask(documents)
                chance = kept.astype(np.float64)
                if lottery.noise:
                    chance = probability(log_times, strata, lottery.log_weights(batch, taken.cuts[strata >> 1, 0]))
                codes = 3 * documents.group + kept * (2 - taken.within(documents))
                used, index = np.unique(codes, return_inverse=True)
                named = [(_REASONS[code % 3], code // 3) for code in used.tolist()]
                reasons = pa.array([reason.format(i, quotas[i], budget.unit) for reason, i in named], pa.string())
                reason = pa.DictionaryArray.from_arrays(index.astype(np.int32), reasons)
                rounds = np.zeros(len(kept), np.uint16)
                yield pa.record_batch([kept, reason, chance.astype(np.float32), rounds], schema=tables.DECISIONS)

        return Decisions(batches=decided())

    def _strata(self, batch: pa.RecordBatch) -> Ints:
        """Twice the cluster, and one more where there is no score: those are drawn among themselves."""
        has_none = np.isnan(exact.floats(batch[self.score]))
        return 2 * batch["cluster"].to_numpy().astype(np.int64) + has_none
