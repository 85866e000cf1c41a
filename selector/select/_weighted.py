"""Selectors that draw by a score: the larger it is, the likelier the document, without replacement."""

import functools
import math
import operator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from selector import exact
from selector.errors import PolicyError
from selector.exact import Floats, Ints, UInt64, keyed
from selector.exact.draws import Lottery, Moments
from selector.plugins.options import ScoreName
from selector.plugins.pool import Pool
from selector.select._ranked import Ranked


@dataclass(frozen=True, kw_only=True)
class Weighted(Ranked):
    """Draws with the weights exp(score / temperature), without replacement (`selector.exact.draws`).

    A selector that extends it says its `purpose`, which keeps its draws apart from those of any other. Temperature 0
    takes the best. Documents without a score come after all others of their group.
    """

    purpose: ClassVar[str]
    is_standardised: ClassVar[bool] = True
    """Whether the score is standardised over the whole pool first (ddof 0)."""

    score: ScoreName
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            default = type(self).__dataclass_fields__["temperature"].default
            raise PolicyError(
                f"{self.purpose}.temperature={self.temperature} is not a temperature, which is finite and at least 0. "
                f"Write 0 for the best documents, more for weighted draws, or leave it out for {default}."
            )

    def summary(self, pool: Pool, seed: int) -> Lottery:
        moments = pool.map(functools.partial(_moments, self.score), self.score)
        whole = functools.reduce(operator.add, moments, Moments.of(np.empty(0)))
        return Lottery.of(whole, self.temperature, is_standardised=self.is_standardised)

    def keys(self, batch: pa.RecordBatch, summary: Lottery, seed: int) -> UInt64:
        if summary.noise == 0:
            return exact.descending(batch[self.score])
        return summary.keys(exact.floats(batch[self.score]), self._chances(batch, seed))

    def values(self, batch: pa.RecordBatch, summary: Lottery, seed: int) -> Floats:
        return summary.values(exact.floats(batch[self.score]), self._chances(batch, seed))

    def keys_and_values(self, batch: pa.RecordBatch, summary: Lottery, seed: int) -> tuple[UInt64, Floats]:
        scores, chances = exact.floats(batch[self.score]), self._chances(batch, seed)
        values = summary.values(scores, chances)
        return summary.keys_of(values, chances) if summary.noise else exact.descending(batch[self.score]), values

    def strata(self, batch: pa.RecordBatch, summary: Lottery) -> Ints:
        return np.isnan(exact.floats(batch[self.score])).astype(np.int64)

    def log_weights(self, batch: pa.RecordBatch, summary: Lottery, cuts: UInt64) -> Floats | None:
        return None if summary.noise == 0 else summary.log_weights(exact.floats(batch[self.score]), cuts)

    def _chances(self, batch: pa.RecordBatch, seed: int) -> Floats:
        return keyed.uniforms(batch["doc_id"], seed, self.purpose)


def _moments(score: ScoreName, batch: pa.RecordBatch) -> Moments:
    return Moments.of(exact.floats(batch[score]))
