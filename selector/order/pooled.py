"""Draws at every step from all that is available by then: a pool that grows from easy to hard."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import pyarrow as pa

from selector import exact
from selector.errors import PolicyError
from selector.exact import Ints
from selector.order import Direction, Order, Pool, ScoreName
from selector.order._draws import Bools, InSteps
from selector.order._pacing import PoolPacing, check_pacing, cycle, pool_size
from selector.order._ranked import ByDifficulty


@dataclass(frozen=True, kw_only=True)
class Pooled(InSteps):
    """Divides all visits evenly over steps, and draws those of a step from the pool that is available at its beginning.

    The pool has the easiest documents: the share `start` of them at first, all once the share `full` of the steps is
    over (`pacing` says how it grows). With `pacing: cyclical` it doubles from step to step up to everything, is halved
    from step to step down to `start`, and so on (ours: `cyclical` is the published cycle, whose steps draw from all
    documents). There are `epochs` times as many visits as documents, exactly. A step goes through its pool in laps,
    each shuffled anew, so that within a step no document is seen twice more often than another; the last lap is a
    random sample. So easy documents are seen several times, and some hard ones not at all: those are told as left.
    Documents without a score are in the pool last.

    Evidence: as of `paced`, arXiv 2012.03107, which this follows but for one thing: there the pool is looked at again
    only when a lap is over, so its steps are as long as its pools. DeepSpeed's data efficiency draws from such pools
    too. Repeats up to about four epochs cost little in pre-training (2305.16264); small pools repeat much more.

    When: as of `paced`, and where repeats cost little: up to about four epochs.
    """

    chance = "pooled"

    score: ScoreName
    pacing: PoolPacing = "linear"
    start: float = 0.2
    full: float = 0.8
    steps: int = 20
    epochs: float = 1.0
    direction: Direction = "curriculum"

    def __post_init__(self) -> None:
        check_pacing("pooled", self.start, self.full, self.steps)
        if self.pacing == "cyclical" and not self.start:
            raise PolicyError("pooled.start=0 never grows by doubling: write a number above 0 for cyclical pacing.")
        if not 0 <= self.epochs <= 1000:
            raise PolicyError(f"pooled.epochs={self.epochs} is no number of epochs: write a number from 0 to 1000.")

    @property
    def ranks(self) -> Mapping[str, Order]:
        return {"rank": ByDifficulty(score=self.score, direction=self.direction)}

    def visits_of_steps(self, num_rows: int) -> Ints:
        return exact.apportion(round(Fraction(str(self.epochs)) * num_rows), [1] * self.steps)

    def known(self, chosen: Pool) -> list[int]:
        return self.pool_sizes(chosen.num_documents)

    def is_open(self, batch: pa.RecordBatch, step: int, known: list[int]) -> Bools:
        return batch["rank"].to_numpy() < known[step]

    def pool_sizes(self, num_documents: int) -> list[int]:
        """How many documents each step can draw from, one at least."""
        if self.pacing == "cyclical":
            shares = cycle("cycle", Fraction(str(self.start)), Fraction(1), Fraction(1, 2))
            return [max(int(share * num_documents), 1) for share in itertools.islice(shares, self.steps)]
        times = (Fraction(step, self.steps) for step in range(self.steps))
        return [max(pool_size(self.pacing, time, self.start, self.full, num_documents), 1) for time in times]
