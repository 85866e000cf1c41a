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

    Evidence: arXiv 2012.03107 (image classification): curriculum, anti-curriculum and random order end alike with
    the usual budget of steps; some gain with few steps or noisy labels. Language models: 2506.11300 (more than 200
    models, up to 100B tokens): easy first by compression, lexical diversity or readability takes 18 to 45 % fewer
    steps to the same result. 2601.21698 (14M to 1B parameters, 300B tokens): such curricula help up to 160M
    parameters and little from 410M on, and hard first loses the gain. Best quality last: 1.6 % better than random
    with 1.5B parameters and 30B tokens where the learning rate decays moderately and checkpoints are averaged, and
    no better where it decays fully (2511.18903).

    When: the model is small, steps are few or labels are noisy; best quality last where the learning rate decays
    little or checkpoints are averaged. Otherwise `shuffled` is as good.
    """

    score: ScoreName
    direction: Direction = "curriculum"

    def summary(self, chosen: Pool, seed: int) -> str:
        return chosen.higher_is(self.score)

    def keys(self, batch: pa.RecordBatch, summary: str, seed: int) -> UInt64:
        return difficulty_keys(batch, self.score, summary, self.direction)
