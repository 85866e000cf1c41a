"""The number that a model with one output says of a text, such as an educational value from 0 to 5.

Source: FineWeb-Edu (Penedo et al. 2024, arXiv:2406.17557): one linear output on a frozen encoder, fitted to marks from
0 to 5. They keep `round(clip(score, 0, 5)) >= 3`, and their rounding takes a half to the even number: so the published
cut is a raw score above 2.5, and neither 2.5 itself nor 3 (worked: -0.2, 2.49, 2.5, 2.51, 3.5, 4.5, 5.7 are 0, 2, 2, 3,
4, 4, 5). With `integer` the score is that whole number. Measured here: nothing against people, since no pretrained
model can be loaded where the tests run.

Unit: that of the labels. Range: theirs, and a little beyond. A high value means what `higher_is` says.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.rate import Meaning, ModelPath
from selector.rate._model import Modelled, Precision, answer, check_number, segment_means, texts_of


@dataclass(frozen=True, kw_only=True)
class Regression(Modelled):
    """The one output of a sequence classifier, raw; with `integer` from 0 to 5 and rounded, a half to the even number.

    A long text is the mean of its segments, weighted by their tokens, or its first segment (`long_documents: truncate`,
    which is what FineWeb-Edu did, with max_tokens 512). An empty one is not_applicable.
    """

    head = "classifier"

    model: ModelPath
    higher_is: Meaning = "better"
    integer: bool = False
    max_tokens: int | None = None
    long_documents: Literal["mean", "truncate"] = "mean"
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        check_number("regression", self.higher_is)

    def check(self) -> None:
        super().check()
        if (outputs := self.models["model"].num_outputs) != 1:
            raise PolicyError(
                f"regression: {self.model} has {outputs} outputs. Take classifier or qurating for several."
            )

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        means = segment_means(self.models["model"], texts_of(batch), self.max_tokens, self.long_documents == "mean")[
            :, 0
        ]
        if not self.integer:
            return answer(means)
        marks = np.rint(np.clip(np.nan_to_num(means), 0, 5)).astype(np.int64)
        return pa.record_batch({"score": pa.array(marks, mask=np.isnan(means))})
