"""In which round of training a document was learned for good.

Source: the "learned epoch" of work on when examples are learned (Toneva et al. 2019, arXiv:1812.05159; Hacohen et al.
2020, "Let's Agree to Agree", arXiv:1905.10854, who find that networks of one kind learn the same examples early). An
order by it is a curriculum that the model itself has set.

Unit: the number of a round, as the table counts them. Range: that of the rounds. A high value means that it was learned
late. Not measured here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector.rate._curves import Curves, FromTraining


@dataclass(frozen=True, kw_only=True)
class LearnedEpoch(FromTraining):
    """The first round from which on the model was right about the document in every round.

    One that was wrong in the last round in which it was seen has not been learned: not_applicable. Right is a
    probability of at least `right_from` (see `cartography`).
    """

    higher_is = "harder"

    right_from: float = 0.5

    def signals(self, curves: Curves) -> Mapping[str, pa.Array]:
        is_right = curves.probabilities(self.score_is) >= self.right_from
        step = curves.step
        last_wrong = np.full(len(curves.ids), -1, np.int64)
        np.maximum.at(last_wrong, np.repeat(np.arange(len(curves.ids)), curves.lengths)[~is_right], step[~is_right])
        point = curves.first + last_wrong + 1
        is_learned = point <= curves.last
        rounds = curves.rounds[np.minimum(point, curves.last)]
        return {"score": pa.array(rounds, mask=~is_learned)}
