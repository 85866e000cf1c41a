"""Another order whose visits weigh little at first where a document is hard by a score."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from selector.exact import Floats
from selector.order import Along, Direction, Order, ScoreName
from selector.order._around import Visits
from selector.order._ranked import ByDifficulty, num_scored
from selector.order._weighted import Weighted, check_epochs, released


@dataclass(frozen=True, kw_only=True)
class ScoreWeights(Weighted):
    """Weighs the visits of another order by the rank of the document in a score: easy ones 1, hard ones less at first.

    The ease D of a document is 1 - rank / (n - 1): 1 of the easiest, 0 of the hardest, equal scores by doc_id. Epoch
    e, the number of the visit, weighs D (1 - e / m) + e / m, and 1 from m = `epochs` on, as `rank_weights` has it. What
    is easy follows from what the score means; an anti-curriculum begins with the hard ones. A document without a score
    weighs what the others do on average. Weights are normalised to a mean of 1 over all visits, not over a batch;
    `normalised: false` leaves them as they are.

    Evidence: the release of weights is that of arXiv 2004.14269, which is about rankers; to take the rank in any score
    for the ease is our inference, and was not measured. Against it: where every document is visited once, nothing is
    released, and hard documents weigh less for good; `by_score` shows them late at full weight.

    When: documents are visited in several epochs whose order must stay as it is. Beside it, try the order alone.
    """

    score: ScoreName
    epochs: int = 20
    direction: Direction = "curriculum"

    def __post_init__(self) -> None:
        check_epochs("score_weights", "epochs", self.epochs)

    @property
    def ranks(self) -> Mapping[str, Order]:
        return {"rank": ByDifficulty(score=self.score, direction=self.direction, once=True)}

    @property
    def reads(self) -> tuple[str, ...]:
        return ("rank",)

    def summary(self, visits: Visits, seed: int) -> int:
        """How many documents have a score."""
        return sum(visits.chosen.map(functools.partial(num_scored, self.score), "doc_id", self.score))

    def weights(self, along: Along, summary: int) -> Floats:
        rank = along.batch["rank"].to_numpy()
        ease = np.where(rank < summary, 1 - rank / max(summary - 1, 1), np.nan)  # those without a score are last
        return released(ease, along.visit, self.epochs)
