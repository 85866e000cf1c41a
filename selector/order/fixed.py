"""DeepSpeed's curricula: a pool whose limit rises step by step, in one metric or in several at once."""

from bisect import bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np

from selector import exact
from selector.errors import PolicyError
from selector.order import Direction, Order, Pool, Positions, ScoreName
from selector.order._ranked import laps, left_out, ranked


@dataclass(frozen=True, kw_only=True)
class Fixed(Order):
    """Draws each step from the documents below a limit in every one of some scores, and the limit rises.

    `schedule` says how (DeepSpeed's names): fixed_linear from `least` to `greatest` until the share `full` of the steps
    is over, fixed_root with the root of this `degree`, rounded down to a multiple of `multiple`; fixed_discrete has the
    limits `limits`, each but the last up to and with the step of `until`. A limit is a percentile: 8 are the easiest 8
    % by rank. A document must be below it in every score, so the pool can be smaller than a step, which then goes
    through it several times: the fact `smallest_pool` tells of that, `empty_steps` of those that drew from everything
    because the pool was empty. There are `epochs` times as many visits as documents, evenly over the steps; what no
    step draws is told as left. The driver holds all keys and visits.

    Evidence: DeepSpeed's data efficiency library, whose schedules these are; we read its code, where a limit is a value
    of the score or a percentile (here: a percentile), and know its reported savings from summaries only, which are
    those of a curriculum together with dropping tokens at random. A resumed run of its own sampler draws other
    documents.

    When: an experiment with DeepSpeed is to be repeated, or several scores are to rise together. For one score
    `paced` and `pooled` are simpler; with many steps `shuffled` is as good.
    """

    scores: tuple[ScoreName, ...]
    schedule: Literal["fixed_linear", "fixed_root", "fixed_discrete"] = "fixed_linear"
    least: int = 1
    greatest: int = 100
    multiple: int = 1
    degree: int = 2
    full: float = 0.5
    limits: tuple[int, ...] = (10, 50, 100)
    until: tuple[int, ...] = (5, 10)
    steps: int = 20
    epochs: float = 1.0
    direction: Direction = "curriculum"

    def __post_init__(self) -> None:
        if not self.scores:
            raise PolicyError("fixed.scores names no score: write at least one, e.g. [readability].")
        if not 0 <= self.least <= self.greatest <= 100:
            raise PolicyError(
                f"fixed.least={self.least} and fixed.greatest={self.greatest} are no percentiles, the smaller one "
                "first: write numbers from 0 to 100."
            )
        if self.multiple < 1 or self.degree < 1:
            raise PolicyError(f"fixed.multiple={self.multiple} and fixed.degree={self.degree}: write 1 or more.")
        if not 0 < self.full <= 1:
            raise PolicyError(f"fixed.full={self.full} is no share of the steps: write a number above 0, up to 1.")
        if len(self.limits) != len(self.until) + 1:
            raise PolicyError(
                f"fixed.limits has {len(self.limits)} limits and fixed.until {len(self.until)} steps: write one limit "
                "more than there are steps at which it changes."
            )
        if not 1 <= self.steps <= 1000:
            raise PolicyError(f"fixed.steps={self.steps} is no number of steps: write a whole number from 1 to 1000.")
        if not 0 <= self.epochs <= 1000:
            raise PolicyError(f"fixed.epochs={self.epochs} is no number of epochs: write a number from 0 to 1000.")

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        orders = [ranked(chosen, score, self.direction) for score in self.scores]
        ids = orders[0][0]
        worst = np.zeros(len(ids), np.int64)  # the greatest of its ranks
        for _, _, order in orders:
            rank = np.empty(len(order), np.int64)
            rank[order] = np.arange(len(order))
            worst = np.maximum(worst, rank)
        drawn, sizes = [np.empty(0, np.int64)], list[int]()
        total = round(Fraction(str(self.epochs)) * len(ids))
        for step, visits in enumerate(exact.apportion(total, [1] * self.steps).tolist()):
            pool = np.flatnonzero(worst < len(ids) * self.limit(step) // 100)
            sizes.append(len(pool))
            drawn += laps(pool if len(pool) else np.arange(len(ids)), ids, visits, seed, f"fixed/{step}")
        positions = Positions.of(np.concatenate(drawn), ids)
        facts = {"smallest_pool": min(sizes), "empty_steps": sizes.count(0)}
        return replace(left_out(positions, len(ids), "no step of the schedule drew it"), facts={"fixed": facts})

    def limit(self, step: int) -> int:
        """The limit of a step."""
        if self.schedule == "fixed_discrete":
            return next(
                (limit for limit, last in zip(self.limits, self.until, strict=False) if step <= last), self.limits[-1]
            )
        over = Fraction(step) / (Fraction(str(self.full)) * self.steps)
        degree = self.degree if self.schedule == "fixed_root" else 1
        risen = _root(min(over, Fraction(1)), degree, self.greatest - self.least)
        return (self.least + risen) // self.multiple * self.multiple


def _root(share: Fraction, degree: int, of: int) -> int:
    """The root of a share, times a whole number, rounded down: the greatest n whose power n^degree is within."""
    within = share.numerator * of**degree // share.denominator
    return bisect_right(range(of + 1), within, key=lambda n: n**degree) - 1
