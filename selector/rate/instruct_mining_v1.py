"""The first rule of InstructMining, by a reward, the length and the distance to the sixth neighbour.

Source: Cao et al. 2023, arXiv:2307.06290, first version: log loss = 1.0694 - 0.1498 Rew + 8.257e-5 Len - 0.9350 Knn6,
fitted like that of `instruct_mining`, which replaced it. A document far from its neighbours and a short one are
predicted a smaller loss. Unit: minus a logarithm of a loss. Range: any number. A high value means better. Not measured
here.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector.exact import floats
from selector.rate import Rater, ScoreName


@dataclass(frozen=True, kw_only=True)
class InstructMiningV1(Rater):
    """How good the document is for fine-tuning by InstructMining's first rule: minus the predicted log loss.

    It needs three scores: a reward, a length in tokens (`length: {unit: tokens}`) and the distance to the sixth nearest
    neighbour (`density: {neighbours: 6}` gives one inside the cluster). A document that lacks one of them is missing.
    """

    higher_is = "better"

    reward: ScoreName
    length: ScoreName
    distance: ScoreName

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        reward, length, distance = (floats(batch[name]) for name in (self.reward, self.length, self.distance))
        log_loss = 1.0694 - 0.1498 * reward + 8.257e-5 * length - 0.9350 * distance
        is_missing = np.isnan(log_loss)
        state = pa.array(np.where(is_missing, "missing", "ok"), pa.string())
        return pa.record_batch({"score": pa.array(-log_loss, mask=is_missing), "state": state})
