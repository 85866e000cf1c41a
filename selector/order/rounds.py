"""Rounds of easy and hard documents together, with more hard ones in every round."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from selector import exact
from selector.errors import PolicyError
from selector.exact import Ints, UInt64
from selector.order import Cuts, Placed, Pool, ScoreName, cut_at, random_keys
from selector.order._sides import filled, in_steps, sides


@dataclass(frozen=True, kw_only=True)
class Rounds(Placed):
    """Goes in rounds of equal length, and the share of hard documents rises from round to round.

    The share `hard` of the documents is hard, by `score`. Of the first round the share `first` are hard ones, of the
    last one `last`, and between them it rises in a line; the numbers of a round are whole by largest remainder. Each
    document is visited once: where one side has no more of them, the other one fills the round. Inside a round both
    sides are drawn at random and spread evenly. Documents without a score come last.

    Evidence: TAPIR, arXiv 2405.13448 (a 7B model taught on 52,000 instructions, those that it misses most by a judge),
    whose rounds mix in more hard ones each time; the effect of the rising share alone is not reported. We read the
    abstract: that the share rises in a line is ours, and so is the cut at a rank; the paper adds documents written
    anew in each round, which an order cannot.

    When: hard documents are known by a score that means it for the model at hand, and easy ones shall not be forgotten.
    """

    score: ScoreName
    rounds: int = 3
    hard: float = 0.5
    first: float = 0.3
    last: float = 0.7

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= 1000:
            raise PolicyError(
                f"rounds.rounds={self.rounds} is no number of rounds: write a whole number from 1 to 1000."
            )
        for name in ("hard", "first", "last"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise PolicyError(
                    f"rounds.{name}={share} is no share of documents: write a number from 0 to 1, e.g. 0.5."
                )

    def summary(self, chosen: Pool, seed: int) -> Cuts:
        return cut_at(chosen, self.score, [1 - Fraction(str(self.hard))])

    def groups(self, batch: pa.RecordBatch, summary: Cuts) -> Ints:
        return summary.pieces(batch)

    def keys(self, batch: pa.RecordBatch, summary: Cuts, seed: int) -> UInt64:
        return random_keys(batch, seed, "rounds")

    def place(self, group: Ints, rank: Ints, sizes: Ints) -> Ints:
        visits, hard = self.counts(sum(sides(sizes)))
        return in_steps(group, rank, sizes, visits, hard)

    def facts(self, sizes: Ints, summary: Cuts) -> Mapping[str, Any]:
        return filled("rounds", sizes, *self.counts(sum(sides(sizes))))

    def counts(self, num_visits: int) -> tuple[Ints, Ints]:
        """How many visits each round has, and how many of those are of hard documents while there are enough."""
        visits = exact.apportion(num_visits, [1] * self.rounds)
        first, last = Fraction(str(self.first)), Fraction(str(self.last))
        shares = [first + (last - first) * Fraction(i, max(self.rounds - 1, 1)) for i in range(self.rounds)]
        hard = [exact.apportion(n, [1 - share, share])[1] for n, share in zip(visits.tolist(), shares, strict=True)]
        return visits, np.array(hard, np.int64)
