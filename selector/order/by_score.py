"""From easy to hard, or from hard to easy."""

from dataclasses import dataclass

from selector import exact
from selector.exact import keyed
from selector.order import Order, Positions
from selector.order import _difficulty as difficulty
from selector.order._difficulty import Direction
from selector.plugins.options import Score
from selector.plugins.pool import Pool


@dataclass(frozen=True, kw_only=True)
class ByScore(Order):
    """Sorts by one score, easy first (curriculum) or hard first (anti-curriculum).

    What the score means decides what is easy: see `selector.order`. Ties are in the order of their
    doc_ids, documents without a score at the end, in both directions.
    """

    score: Score
    direction: Direction = "curriculum"

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        ids = keyed.words(chosen.table("doc_id")["doc_id"])
        return Positions.of(exact.argsort(difficulty.keys(chosen, self.score, self.direction), ids))
