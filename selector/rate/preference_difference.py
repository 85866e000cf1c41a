"""How much of a weak model's perplexity a strong one saves.

Source: PDPC (Zhang et al. 2025, "Preference curriculum", arXiv:2501.13126): PD = (PPL of the weak model - PPL of the
strong one) / PPL of the weak one. Documents with a low PD are learned first, those that only the strong model prefers
later; they report +4.1 % on average for a 3B model of 1T tokens. Measured here: nothing against people, since no
pretrained model can be loaded where the tests run.

Unit: a share. Range: below 1; 0 where both models are alike, and below 0 where the weak one is better. A high value
means harder: it takes a strong model.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector.rate import ModelPath
from selector.rate._model import Modelled, Precision, answer, mean_losses, texts_of


@dataclass(frozen=True, kw_only=True)
class PreferenceDifference(Modelled):
    """The share by which the strong model's perplexity of the text is below the weak one's.

    Perplexities are for each model's own tokens. Windows are those of `perplexity`.
    """

    higher_is = "harder"

    strong: ModelPath
    weak: ModelPath
    max_tokens: int | None = None
    stride: int | None = None
    precision: Precision = "auto"

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = texts_of(batch)
        strong, weak = (
            mean_losses(self.models[name], texts, self.max_tokens, self.stride) for name in ("strong", "weak")
        )
        with np.errstate(over="ignore"):  # an infinite one has failed
            return answer(-np.expm1(strong - weak))
