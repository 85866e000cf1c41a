"""What the first rounds of training already say of a document.

Source: two findings. Paul et al. 2021, "Deep Learning on a Data Diet", arXiv:2107.07075: how wrong the model is of an
example after a few epochs (EL2N, the length of the error vector) tells which examples can be left out; half of CIFAR-10
without loss. Liu et al. 2020, "Early-Learning Regularization", arXiv:2007.00151: clean examples are learned before
mislabelled ones, which are memorised late. `error` is 1 - p of what is right, averaged over the first rounds: of a
choice between two that is EL2N divided by the square root of 2; of more it is a bound, since training reports one
number per document. `drop` is our definition of the second finding: the loss that was gone by then.

Range: `error` 0 to 1, `drop` any number. A high value of `error` means harder, of `drop` easier. Unit: `error` is a
probability, `drop` is nats (of a token, where losses are means per token). Not measured here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.rate import Meaning
from selector.rate._curves import Curves, FromTraining


@dataclass(frozen=True, kw_only=True)
class EarlyLearning(FromTraining):
    """How wrong the model was of the document in the first rounds, and how much of its loss they took away.

    `error` is the mean of 1 - probability over the first `rounds` in which it was seen; high: hard, or mislabelled.
    `drop` is its loss in the first of them minus that in the last of them; high: learned fast; it needs two rounds, and
    is not_applicable before.
    """

    rounds: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1:
            raise PolicyError(f"early_learning.rounds={self.rounds} is no number of rounds. Write 1 or more, e.g. 3.")

    def scores(self, name: str) -> dict[str, Meaning]:
        return {f"{name}_error": "harder", f"{name}_drop": "easier"}

    def signals(self, curves: Curves) -> Mapping[str, pa.Array]:
        probability = curves.probabilities(self.score_is)
        is_early = curves.step < self.rounds
        num_early = np.minimum(curves.lengths, self.rounds)
        error = curves.sums(np.where(is_early, 1 - probability, 0)) / num_early
        loss = curves.losses(self.score_is)
        drop = loss[curves.first] - loss[curves.first + num_early - 1]
        return {"score_error": pa.array(error), "score_drop": pa.array(drop, mask=num_early < 2)}
