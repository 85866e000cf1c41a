"""The order in which documents are drawn at random, likely ones sooner."""

import functools
import math
import operator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector import exact
from selector.errors import PolicyError
from selector.exact import LAST, UInt64, keyed
from selector.exact.draws import Lottery, Moments
from selector.order import Direction, Placed, Pool, ScoreName, difficulty_keys, is_high_first, random_keys


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The draw, and whether large scores come first."""

    lottery: Lottery
    higher_is: str
    is_high_first: bool


@dataclass(frozen=True, kw_only=True)
class Drawn(Placed):
    """Draws documents one after another, with weights exp(z / temperature), and visits them in that order or reversed.

    z is the score, standardised over all chosen documents. So the order follows the score by and large, and every
    stretch of it has some of everything: temperature 0 is `by_score`, a high one is almost `shuffled`. Where hard
    documents (of a quality score: good ones) come last, it is the draw reversed. Documents without a score come at the
    end. Drawing without replacement is sorting by z / temperature plus Gumbel noise.

    Evidence: QuRating, arXiv 2402.09739: 1.3B-parameter models on 30B tokens, drawn uniformly and visited in the order
    in which a draw with temperature 2 would take them: better than the random order on the same documents, so part of
    what a selection gains can be had from the order alone; most for the rating of required expertise.

    When: a rating of quality or expertise is known and the choice of documents is fixed. Where it is not, choosing
    by the rating is worth more.
    """

    score: ScoreName
    temperature: float = 2.0
    direction: Direction = "curriculum"

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise PolicyError(
                f"drawn.temperature={self.temperature} is not a temperature, which is finite and at least 0. Write 0 "
                "for the order of the scores, more for more chance, or leave it out for 2.0."
            )

    def summary(self, chosen: Pool, seed: int) -> Summary:
        moments = chosen.map(functools.partial(_moments, self.score), self.score)
        lottery = Lottery.of(functools.reduce(operator.add, moments, Moments.of(np.empty(0))), self.temperature)
        higher_is = chosen.higher_is(self.score)
        return Summary(lottery=lottery, higher_is=higher_is, is_high_first=is_high_first(higher_is, self.direction))

    def keys(self, batch: pa.RecordBatch, summary: Summary, seed: int) -> UInt64:
        if summary.lottery.noise == 0:
            return difficulty_keys(batch, self.score, summary.higher_is, self.direction)
        scores = exact.floats(batch[self.score])
        keys = summary.lottery.keys(scores, keyed.fractions(random_keys(batch, seed, "drawn")))
        return np.where(np.isnan(scores) | summary.is_high_first, keys, (LAST >> np.uint64(1)) - keys)


def _moments(score: ScoreName, batch: pa.RecordBatch) -> Moments:
    return Moments.of(exact.floats(batch[score]))
