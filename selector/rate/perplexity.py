"""How surprising a text is to a language model.

Source: Jelinek et al. 1977; as a difficulty and a quality of training data Marion et al. 2023, "When less is more",
arXiv:2309.04564 (the middle of the distribution is best), and the curricula of Llama-3-SynE, arXiv:2407.18743 (low to
high). Measured here: nothing yet against people, since no pretrained model can be loaded where the tests run.

Unit: exp of the mean of -ln p over the tokens that count. Range: 1 up. A high value means harder: surprising.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from selector.rate import ModelPath
from selector.rate._model import Modelled, Precision, answer, losses_of, ratio, texts_of


@dataclass(frozen=True, kw_only=True)
class Perplexity(Modelled):
    """The perplexity of the text under a causal language model, every token counted once.

    A long text goes through the model in windows of `max_tokens` (by default as many as it reads, at most 2,048) that
    begin every `stride` tokens (half of that): each token counts in the first window that it is in, so it has at least
    max_tokens - stride tokens before it. The first token of a text counts only where the tokenizer puts a token before
    every text. `unit: nats` is the logarithm, `bits_per_byte` compares models with different tokenizers. A text of too
    few tokens is not_applicable.
    """

    higher_is = "harder"

    model: ModelPath
    unit: Literal["perplexity", "nats", "bits_per_byte"] = "perplexity"
    max_tokens: int | None = None
    stride: int | None = None
    precision: Precision = "auto"

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = texts_of(batch)
        sums, counted = losses_of(self.models["model"], texts, self.max_tokens, self.stride)
        if self.unit == "bits_per_byte":
            num_bytes = np.array([len(text.encode()) for text in texts], np.int64)
            return answer(ratio(sums / math.log(2), np.where(counted > 0, num_bytes, 0)))
        means = ratio(sums, counted)
        with np.errstate(over="ignore"):  # an infinite one has failed
            return answer(means if self.unit == "nats" else np.exp(means))
