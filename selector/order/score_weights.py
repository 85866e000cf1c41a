"""Another order whose visits weigh little at first where a document is hard by a score."""

from dataclasses import dataclass

import numpy as np

from selector.order import Direction, Pool, ScoreName
from selector.order._ranked import ranked
from selector.order._weighted import Weigh, Weighted, check_epochs, released


@dataclass(frozen=True, kw_only=True)
class ScoreWeights(Weighted):
    """Weighs the visits of another order by the rank of the document in a score: easy ones 1, hard ones less at first.

    The ease D of a document is 1 - rank / (n - 1): 1 of the easiest, 0 of the hardest, equal scores by doc_id. Epoch
    e, the number of the visit, weighs D (1 - e / m) + e / m, and 1 from m = `epochs` on, as `rank_weights` has it. What
    is easy follows from what the score means; an anti-curriculum begins with the hard ones. A document without a score
    weighs what the others do on average. Weights are normalised to a mean of 1 over all visits, not over a batch;
    `normalised: false` leaves them as they are. The driver holds all visits.

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

    def weights(self, chosen: Pool, seed: int) -> Weigh:
        ids, scores, order = ranked(chosen, self.score, self.direction)
        is_known = ~np.isnan(scores[order])  # those without a score are last
        is_new = np.ones(len(order), np.bool_)  # the rows of a document stand together
        is_new[1:] = (ids[order][1:] != ids[order][:-1]).any(axis=1)
        rank = np.cumsum(is_new) - 1
        ease = np.empty(len(order))
        ease[order] = np.where(is_known, 1 - rank / max(rank[is_known].max(initial=0), 1), np.nan)
        return lambda row, visit: released(ease[row], visit, self.epochs)
