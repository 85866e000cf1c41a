"""Quality inside every cluster: diverse because each cluster has its quota, good because quality decides in it."""

import functools
import math
import operator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector import exact
from selector.errors import PolicyError
from selector.exact import Floats, Ints, UInt64, keyed
from selector.exact.draws import Lottery, Moments
from selector.select import Pool, Ranked, ScoreName


@dataclass(frozen=True, kw_only=True)
class KmeansQuality(Ranked):
    """Draws from every cluster in proportion to its size, better documents more likely (kMQ, arXiv 2409.11378).

    A cluster's quota is its share of the budget, by largest remainder. Inside a cluster, documents are drawn
    without replacement with weights exp(z / temperature), z being the score standardised over the whole pool
    (`selector.exact.draws`). Temperature 0 takes the best of each cluster, a high one draws almost uniformly.
    Documents without a score come after all others of their cluster.
    """

    score: ScoreName
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise PolicyError(
                f"kmeans_quality.temperature={self.temperature} is not a temperature, which is finite and at least 0. "
                "Write 0 for the best documents of each cluster, more for weighted draws, or leave it out for 2.0."
            )

    @property
    def grouped_by(self) -> str:
        return "cluster"

    def summary(self, pool: Pool, seed: int) -> Lottery:
        moments = pool.map(functools.partial(_moments, self.score), self.score)
        return Lottery.of(functools.reduce(operator.add, moments, Moments.of(np.empty(0))), self.temperature)

    def keys(self, batch: pa.RecordBatch, summary: Lottery, seed: int) -> UInt64:
        if summary.noise == 0:
            return exact.descending(batch[self.score])
        return summary.keys(exact.floats(batch[self.score]), _chances(batch, seed))

    def values(self, batch: pa.RecordBatch, summary: Lottery, seed: int) -> Floats:
        return summary.values(exact.floats(batch[self.score]), _chances(batch, seed))

    def strata(self, batch: pa.RecordBatch, summary: Lottery) -> Ints:
        return np.isnan(exact.floats(batch[self.score])).astype(np.int64)

    def log_weights(self, batch: pa.RecordBatch, summary: Lottery, cuts: UInt64) -> Floats | None:
        return None if summary.noise == 0 else summary.log_weights(exact.floats(batch[self.score]), cuts)


def _moments(score: ScoreName, batch: pa.RecordBatch) -> Moments:
    return Moments.of(exact.floats(batch[score]))


def _chances(batch: pa.RecordBatch, seed: int) -> Floats:
    return keyed.uniforms(batch["doc_id"], seed, "kmeans_quality")
