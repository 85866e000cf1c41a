"""Another order whose visits weigh more where a document improved little, by what an earlier training reported."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import numpy as np

from selector.errors import PolicyError
from selector.exact import Floats
from selector.order import Along, Columns, TablePath
from selector.order._around import Visits
from selector.order._weighted import Reported, Weighted, check_epochs, code_of


@dataclass(frozen=True, kw_only=True)
class ImprovementWeights(Weighted):
    """Weighs the visits of another order as distillation from the epoch before would (PS-KD): hard documents more.

    The table `reported` has what an earlier training, or that of a small model, said of documents: `document` (its
    doc_id), `epoch` from 0 on and `loss`, -log of the probability of the text, the answer or the label. With p that of
    epoch e, which is the number of the visit, q that of the row before, and a = `strength` * e / `epochs` (at most
    `strength`), a visit weighs 1 - a (1 - q) / (1 - p), and nothing where that is below 0: a first visit 1, and then a
    document that improved most least. Later epochs than the table has count as its last. Weights are normalised to a
    mean of 1 over all visits, not over a batch; `normalised: false` leaves them as they are. A document of which two
    epochs are not known weighs what the others do on average. The driver and every worker hold the table.

    Evidence: Self-Knowledge Distillation with Progressive Refinement of Targets (arXiv 2006.12000, ICCV 2021), whose
    targets are softened by the predictions of one epoch ago (strength 0.8), and which says that hard examples are
    emphasised so; the weight is derived by us from its loss, as the ratio of the sums of absolute gradients of the
    logits, and holds while no other class was predicted much more strongly before. Against it: the published method
    changes targets too, which a weight cannot; it is about classification, and for text p is that of a whole document
    or the mean of its tokens, which was not tried. Not measured here.

    When: training goes over the same documents several times, and a run before reported losses epoch by epoch.
    """

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"inner": {"pooled": {"score": "difficulty", "epochs": 3}}})

    reported: Annotated[TablePath, Columns(document="doc_id", epoch="int64", loss="float64")]
    strength: float = 0.8
    epochs: int = 10

    def __post_init__(self) -> None:
        check_epochs("improvement_weights", "epochs", self.epochs)
        if not 0 <= self.strength <= 1:
            raise PolicyError(
                f"improvement_weights.strength={self.strength} is no share of the target: write a number from 0 to 1."
            )

    def summary(self, visits: Visits, seed: int) -> Reported:
        return Reported.of(self.reported.table, "improvement_weights")

    def weights(self, along: Along, summary: Reported) -> Floats:
        document, visit = code_of(along.ids, summary.documents), along.visit
        now = summary.latest(document, visit)
        is_known = (now >= 0) & (now > summary.begins[document])
        share = self.strength * np.minimum(visit, self.epochs) / self.epochs
        weights = np.ones(len(visit))
        weights[is_known] = emphasis(
            share[is_known], summary.surprise[now[is_known]], summary.surprise[now[is_known] - 1]
        )
        return np.where(is_known | (visit == 0), weights, np.nan)


def emphasis(share: Floats, surprise: Floats, before: Floats) -> Floats:
    """1 - share * before / surprise, at least 0, where both are 1 - p: how much of the gradient is left."""
    ratio = np.where(
        before == surprise, 1.0, before / np.maximum(surprise, 1e-300)
    )  # also where nothing is left of both
    return np.maximum(1 - share * ratio, 0)
