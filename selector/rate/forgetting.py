"""How often a model in training forgot a document that it had got right.

Source: Toneva et al. 2019, "An Empirical Study of Example Forgetting during Deep Neural Network Learning",
arXiv:1812.05159: a forgetting event is a change from right to wrong between two presentations of one example. Reported:
of CIFAR-10 30 % of the examples, those forgotten least, can be left out without loss, and examples with wrong labels
are forgotten most. One that was never right has no such event; they call it forgotten infinitely often.

Unit: events. Range: 0 or more. A high value means harder. Not measured here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector.rate import Meaning
from selector.rate._curves import Curves, FromTraining


@dataclass(frozen=True, kw_only=True)
class Forgetting(FromTraining):
    """How often the document was right in one round and wrong in the next one in which it was seen.

    A document that was never right was never learned: it has no count (not_applicable), since 0 would make it one that
    is never forgotten. The label `<name>_history` tells them apart: never_learned, forgotten, unforgettable. Right is a
    probability of at least `right_from` (see `cartography`). The more rounds, the more events there can be: compare
    documents that were seen equally often.
    """

    right_from: float = 0.5

    def scores(self, name: str) -> dict[str, Meaning]:
        return {name: "harder", f"{name}_history": "label"}

    def signals(self, curves: Curves) -> Mapping[str, pa.Array]:
        is_right = curves.probabilities(self.score_is) >= self.right_from
        is_forgotten = np.r_[False, is_right[:-1] & ~is_right[1:]][: len(is_right)] & (curves.step > 0)
        events = curves.sums(is_forgotten).astype(np.int64)
        is_never = curves.sums(is_right) == 0
        history = np.where(is_never, "never_learned", np.where(events > 0, "forgotten", "unforgettable"))
        return {"score": pa.array(events, mask=is_never), "score_history": pa.array(history, pa.string())}
