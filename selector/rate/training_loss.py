"""What a document cost the model that is being trained: the loss that training itself reported.

Source: the plainest signal of a model in training; curricula by it go back to self-paced learning (Kumar et al. 2010,
NeurIPS), which visits examples of a small loss first, and online batch selection (Loshchilov and Hutter 2016,
arXiv:1511.06343), which prefers those of a large one: the two disagree on what to do with it.

Unit: that of the table, usually nats per token. Range: 0 or more. A high value means that the model still finds the
document hard, or that nothing can be learned of it (noise has a high loss to the end; `early_learning` and the loss of
a reference model tell the two apart). Not measured here: nobody's training reports are at hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from selector.rate._curves import Curves, FromTraining


@dataclass(frozen=True, kw_only=True)
class TrainingLoss(FromTraining):
    """The loss that training reported of the document, by rounds.

    `over` says of which round: the `last` in which it was seen, the `first`, or the `mean` over all. A document that
    was not seen is missing. Of a probability the loss is -log p.
    """

    higher_is = "harder"
    is_likelihood = False

    over: Literal["last", "first", "mean"] = "last"

    def signals(self, curves: Curves) -> Mapping[str, pa.Array]:
        losses = curves.losses(self.score_is)
        if self.over == "mean":
            return {"score": pa.array(curves.means(losses))}
        return {"score": pa.array(losses[curves.last if self.over == "last" else curves.first])}
