"""What loss a model fine-tuned on such instructions is expected to have, by a rule fitted to many such models.

Source: InstructMining (Cao et al. 2023, arXiv:2307.06290): many Llama-2 models, each fine-tuned on a random subset; the
logarithm of the loss on an evaluation set is regressed on the subset's means of some indicators. The final rule (R^2 =
0.522) is 0.0274 - 0.0078 Rew + 0.4421 Und - 0.3212 Nat - 0.1520 Coh; `instruct_mining_v1` is the first one.
Understandability stands there with a plus: of two texts alike but for that, the more understandable one is predicted
the larger loss. It is what was fitted, and is kept. The rule was fitted to means of subsets and is applied to single
documents, as the paper does. Reported: 2,532 of 100,000 OpenOrca examples do as well as Vicuna. The repository is gone.

Unit: minus a logarithm of a loss. Range: any number, mostly -1 to 1. A high value means better. The indicators are
others' models (a reward model of OpenAssistant; UniEval), so give them as scores, in the units of those models. Not
measured here: none of them is at hand.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector.exact import floats
from selector.rate import Rater, ScoreName


@dataclass(frozen=True, kw_only=True)
class InstructMining(Rater):
    """How good the document is for fine-tuning by InstructMining's rule: minus the predicted logarithm of the loss.

    It needs four scores: a reward, understandability (which counts against the document), naturalness and coherence.
    A document that lacks one of them is missing.
    """

    higher_is = "better"

    reward: ScoreName
    understandability: ScoreName
    naturalness: ScoreName
    coherence: ScoreName

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        reward, understandability = floats(batch[self.reward]), floats(batch[self.understandability])
        naturalness, coherence = floats(batch[self.naturalness]), floats(batch[self.coherence])
        log_loss = 0.0274 - 0.0078 * reward + 0.4421 * understandability - 0.3212 * naturalness - 0.1520 * coherence
        is_missing = np.isnan(log_loss)
        state = pa.array(np.where(is_missing, "missing", "ok"), pa.string())
        return pa.record_batch({"score": pa.array(-log_loss, mask=is_missing), "state": state})
