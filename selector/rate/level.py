"""How high a document stands in an ordered taxonomy, such as stages of education, by its likeness to descriptions.

Source: as `topic`; the level is the mean of the taxonomy's levels, weighted by a softmax of the cosines, so that a
document between two stages lies between their levels. The default taxonomy is ours: six stages of education by six
kinds of thinking (after Bloom's taxonomy), with levels from 1 to 6.8.

Unit: that of the taxonomy's levels. Range: between its least and its greatest. A high value means harder.

Measured: with all-MiniLM-L6-v2, Spearman with CEFR levels of sentences 0.080 (0.053 to 0.105), by `packaged:stages`
0.117; the number of words has 0.374. A rater that was fitted to judged examples (`selector fit-rater`) is far better.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import expm1
from selector.rate import Columns, Rater, TextsPath
from selector.rate._taxonomy import check, cosines

_READY = TextsPath("packaged:stages_and_thinking")


@dataclass(frozen=True, kw_only=True)
class Level(Rater):
    """The mean level of the descriptions that are most like the document.

    `taxonomy` is a table with a `text` that describes a class and its `level`, a number. A cosine that is `temperature`
    less than another has a weight of 1/e of it.
    """

    higher_is = "harder"

    taxonomy: Annotated[TextsPath, Columns(text="string", level="float64")] = _READY
    temperature: float = 0.05

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise PolicyError(f"level.temperature is {self.temperature}: write a number above 0.")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("embedding",)

    def prepare(self) -> None:
        check(self.taxonomy.table, "level.taxonomy")
        levels = self.taxonomy.table["level"].to_numpy()
        if not np.isfinite(levels).all():
            raise PolicyError(f"level.taxonomy: a row of {str(self.taxonomy)!r} has no level. Give each a number.")

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        levels = self.taxonomy.table["level"].to_numpy()
        similarity = cosines(batch, self.taxonomy.table)
        below = (similarity - similarity.max(axis=1, keepdims=True)) / self.temperature
        weights = expm1(below.ravel()).reshape(below.shape) + 1
        return pa.record_batch({"score": (weights * levels).sum(axis=1) / weights.sum(axis=1)})
