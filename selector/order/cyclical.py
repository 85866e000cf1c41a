"""Small steps, then large ones, then small ones again; each draws from all documents by their score."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from selector import exact
from selector.errors import PolicyError
from selector.exact import Floats, Ints, UInt64, keyed
from selector.order import Order, Pool, Positions, ScoreName, numbered, random_visits
from selector.order._pacing import Course, cycle
from selector.order._ranked import left_out, ranked

AGE = 1.2**2
"""What the weight of a document is divided by in the step after one that drew it."""


@dataclass(frozen=True, kw_only=True)
class Cyclical(Order):
    """Trains on a share of all documents at a time, and the share goes up and down (Cyclical Curriculum Learning).

    Every step draws int(share * documents) of *all* documents without replacement, with probabilities in proportion to
    their weights, and visits them shuffled; the share starts at `least`, is divided by `factor` at each step up to
    `greatest`, then multiplied by it down to `least`, and so on, until there are `epochs` times as many visits as
    documents; the last step is cut to that (the published code goes beyond it). `sharp_cycle` falls to `least` at once,
    `lower_to_bigger` stays at the top and `bigger_to_lower` goes from `greatest` down and stays there. The weight of a
    document is its score, or 1 divided by it (`weight: inverse`, for a loss); one without a score, or with none above
    0, is drawn after all others. With `ages`, a document weighs 1.44 times less in the step after one that drew it, and
    only in that. Documents that no step draws are told as left. The driver holds all ids, scores and visits.

    Evidence: Cyclical Curriculum Learning, arXiv 2202.05531: image and text classification, e.g. the best validation
    accuracy on CIFAR-10 from 70.3 to 74.1 %, with scores of a model trained before; small networks, one group. A
    schedule of the easiest documents is another thing: `pooled`.

    When: the network is small, several epochs can be paid for, and a model that was trained before has scored the
    documents. For language models it was not tried, as far as we know.
    """

    score: ScoreName
    course: Course = "cycle"
    least: float = 0.25
    greatest: float = 1.0
    factor: float = 0.5
    epochs: float = 1.0
    weight: Literal["score", "inverse"] = "score"
    ages: bool = False

    def __post_init__(self) -> None:
        if not 0.001 <= self.least <= self.greatest <= 1:
            raise PolicyError(
                f"cyclical.least={self.least} and cyclical.greatest={self.greatest} are no shares of the documents, a "
                "small one and a large one: write numbers from 0.001 to 1."
            )
        if not 0.01 <= self.factor <= 0.99:
            raise PolicyError(f"cyclical.factor={self.factor} does not make a share smaller: write 0.01 to 0.99.")
        if not 0 <= self.epochs <= 1000:
            raise PolicyError(f"cyclical.epochs={self.epochs} is no number of epochs: write a number from 0 to 1000.")

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        ids, scores, _ = ranked(chosen, self.score, "curriculum")
        documents, again = keyed.ids(ids), numbered(ids)
        weights = np.where(scores > 0, scores, 0.0)
        if self.weight == "inverse":
            weights = np.divide(1, weights, out=np.zeros_like(weights), where=weights > 0)
        drawn, last = [np.empty(0, np.int64)], np.empty(0, np.int64)
        for step, size in enumerate(self.sizes(len(ids))):
            chance = random_visits(documents, again, seed, f"cyclical/{step}")
            last = lowest(race(aged(weights, last) if self.ages else weights, chance), ids, size)
            turn = random_visits(documents, again, seed, f"cyclical/{step}/turn")[last]
            drawn.append(last[exact.argsort(turn, ids[last])])
        return left_out(Positions.of(np.concatenate(drawn), ids), len(ids), "no step of the cycle drew it")

    def sizes(self, num_documents: int) -> list[int]:
        """How many documents each step draws, their sum being the number of visits."""
        least, greatest, factor = (Fraction(str(x)) for x in (self.least, self.greatest, self.factor))
        left, sizes = round(Fraction(str(self.epochs)) * num_documents), list[int]()
        shares = cycle(self.course, least, greatest, factor)
        while left > 0:
            sizes.append(min(max(int(next(shares) * num_documents), 1), left))
            left -= sizes[-1]
        return sizes


def race(weights: Floats, chance: UInt64) -> Floats:
    """When each document arrives: the first k to arrive are k draws without replacement with these weights."""
    times = -exact.log(keyed.fractions(chance))
    return np.divide(times, weights, out=np.full(len(weights), np.inf), where=weights > 0)


def lowest(times: Floats, ids: UInt64, count: int) -> Ints:
    """The rows that arrive first, so many of them, ties by id."""
    return np.lexsort((ids[:, 1], ids[:, 0], times))[:count]


def aged(weights: Floats, drawn: Ints) -> Floats:
    """The weights for the step after one that drew these."""
    weights = weights.copy()
    weights[drawn] /= AGE
    return weights
