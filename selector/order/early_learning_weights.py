"""Another order whose visits weigh less where a document was memorised late, by what an earlier training reported."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from selector.errors import PolicyError
from selector.exact import Floats
from selector.order import Along, Columns, TablePath
from selector.order._around import Visits
from selector.order._weighted import Reported, Weighted, check_epochs, code_of, ensembled

_NEAR_CERTAIN = 1e-4  # as in the published code: no probability is nearer to 0 or 1


@dataclass(frozen=True, kw_only=True)
class EarlyLearningWeights(Weighted):
    """Weighs the visits of another order less where a document is learned against what was learned first.

    Labels that are wrong, and texts that are like no others, are not learned early but memorised late. The table
    `reported` has what an earlier training said of documents: `document` (its doc_id), `epoch` from 0 on and `loss`,
    -log of p, the probability of its label, answer or text. The mean t of the p so far weighs later epochs more (t <-
    `momentum` t + (1 - `momentum`) p, from 0, divided by 1 - `momentum`^n). By memorised_late every visit weighs 1 -
    `strength` (p of the last epoch - t at the end of the first `early` epochs), by regularised the visit of epoch e
    what the regulariser of that strength leaves of the gradient: with two classes, the given one and all others, and p
    and t of epoch e, 1 - `strength` p (1 - 2 t) / (p + t - 2 p t). Both stay within 0 and 1. Weights are normalised to
    a mean of 1 over all visits, not over a batch; `normalised: false` leaves them as they are. A document of which too
    little is known weighs what the others do on average. The driver and every worker hold the table.

    Evidence: Early-Learning Regularization Prevents Memorization of Noisy Labels (arXiv 2007.00151, NeurIPS 2020),
    which adds strength 3 times log(1 - <p, t>), momentum 0.7, to the loss of image classifiers; reported: it holds
    against up to 80 % of wrong labels on CIFAR. Both weights are derived by us: the published method changes the
    gradients of all classes, where a weight can only shrink that of the given one. Against it: rare and hard documents
    are learned late too, and lose weight with the wrong ones; where labels are right it costs. For text of many tokens
    p is small throughout and `regularised` would take nearly all: use memorised_late. Not measured here.

    When: a good part of the labels or answers is wrong, and a run before reported losses epoch by epoch.
    """

    reported: Annotated[TablePath, Columns(document="doc_id", epoch="int64", loss="float64")]
    by: Literal["memorised_late", "regularised"] = "memorised_late"
    strength: float = 1.0
    momentum: float = 0.7
    early: int = 3

    def __post_init__(self) -> None:
        check_epochs("early_learning_weights", "early", self.early)
        if not 0 <= self.strength <= 1000:
            raise PolicyError(
                f"early_learning_weights.strength={self.strength} is no strength: write a number from 0 to 1000."
            )
        if not 0 <= self.momentum < 1:
            raise PolicyError(
                f"early_learning_weights.momentum={self.momentum} is no share of the mean before: write a number from "
                "0 on, below 1."
            )

    def summary(self, visits: Visits, seed: int) -> tuple[Reported, Floats]:
        """What was reported, and the mean so far for each row of it."""
        reported = Reported.of(self.reported.table, "early_learning_weights")
        return reported, ensembled(reported, self.momentum)

    def weights(self, along: Along, summary: tuple[Reported, Floats]) -> Floats:
        reported, target = summary
        document = code_of(along.ids, reported.documents)
        if self.by == "memorised_late":
            late = memorised_late(reported, target, self.early)
            return np.clip(1 - self.strength * np.append(late, np.nan)[document], 0, 1)
        now = reported.latest(document, along.visit)
        weights = np.full(len(document), np.nan)
        known = now[now >= 0]
        p, t = (np.clip(values[known], _NEAR_CERTAIN, 1 - _NEAR_CERTAIN) for values in (1 - reported.surprise, target))
        left = gradient(np.column_stack([p, 1 - p]), np.column_stack([t, 1 - t]))[:, 0] / (1 - p)
        weights[now >= 0] = np.clip(1 - self.strength * left, 0, 1)
        return weights


def memorised_late(reported: Reported, target: Floats, early: int) -> Floats:
    """By document: its last probability, less the mean at the end of the first `early` epochs; NaN: it has none of
    those."""
    documents = np.arange(len(reported.documents))
    then, last = reported.latest(documents, np.full(len(documents), early - 1)), reported.begins[1:] - 1
    return np.where(then >= 0, (1 - reported.surprise[last]) - target[then], np.nan)


def gradient(p: Floats, t: Floats) -> Floats:
    """The gradient of log(1 - <p, t>) on each logit, for probabilities and targets of the shape (n, classes)."""
    inner = (p * t).sum(axis=1, keepdims=True)
    return p / (1 - inner) * (inner - t * p.sum(axis=1, keepdims=True))
