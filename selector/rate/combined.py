"""Several scores as one: their weighted sum, their product, or their minimum.

Source: weighted sums are what Meta-rater learns weights for (Zhuang et al. 2025, arXiv:2504.14194); the product of
quality and complexity is DEITA's (Liu et al. 2023, arXiv:2312.15685); the minimum keeps down what is
bad in one thing. For sums and the minimum, bring the scores to one scale first (`calibrated`); `mean_rank` needs none.

Unit: that of the scores. Range: follows from theirs. A high value means what you say it means, in `higher_is`; a score
of which less is better has a negative weight.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import floats
from selector.rate import HigherIs, Meaning, Rater, ScoreName


@dataclass(frozen=True, kw_only=True)
class Combined(Rater):
    """The weighted sum of other scores, their product, or their minimum.

    `weights` are those of the sum, in the order of `of`; by default all are 1. A document that lacks one of the scores
    has none, unless `impute` says which number stands for it.
    """

    of: tuple[ScoreName, ...]
    higher_is: HigherIs  # pyright: ignore[reportIncompatibleVariableOverride] (a label has no order)
    how: Literal["weighted", "product", "minimum"] = "weighted"
    weights: tuple[float, ...] | None = None
    impute: float | None = None

    def __post_init__(self) -> None:
        if not self.of:
            raise PolicyError("combined.of names no score. Write two or more: of: [educational_value, readability].")
        if self.weights is not None and self.how != "weighted":
            raise PolicyError(f"combined.weights are for how: weighted; it is how: {self.how}. Leave them out.")
        if self.weights is not None and len(self.weights) != len(self.of):
            raise PolicyError(f"combined.weights has {len(self.weights)} numbers for {len(self.of)} scores: one each.")

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def scores(self, name: str) -> dict[str, Meaning]:
        return {name: self.higher_is}

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        values = np.array([floats(batch[name]) for name in self.of]).reshape(len(self.of), batch.num_rows)
        if self.impute is not None:
            values = np.where(np.isnan(values), self.impute, values)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows has failed, which its state says
            if self.how == "product":
                score = values.prod(axis=0)
            elif self.how == "minimum":
                score = values.min(axis=0)
            else:
                score = (np.array(self.weights or [1.0] * len(self.of))[:, None] * values).sum(axis=0)
        is_missing = np.isnan(values).any(axis=0)
        state = pa.array(np.where(is_missing, "missing", "ok").tolist(), pa.string())
        return pa.record_batch({"score": pa.array(score, mask=is_missing), "state": state})
