"""From easy to hard, or from hard to easy."""

from dataclasses import dataclass

import pyarrow as pa

from selector.exact import UInt64
from selector.order import Direction, Placed, Pool, ScoreName, difficulty_keys


@dataclass(frozen=True, kw_only=True)
class ByScore(Placed):
    """Sorts by one score, easy first (curriculum) or hard first (anti-curriculum).

    What the score means decides what is easy: see `selector.order`. Ties are in the order of their doc_ids, documents
    without a score at the end, in both directions.
    """

    score: ScoreName
    direction: Direction = "curriculum"

    def summary(self, chosen: Pool, seed: int) -> str:
        return chosen.higher_is(self.score)

    def keys(self, batch: pa.RecordBatch, summary: str, seed: int) -> UInt64:
        return difficulty_keys(batch, self.score, summary, self.direction)
