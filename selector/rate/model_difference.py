"""How much more a large model knows of a text than a small one.

Source: MiniPLM (Gu et al. 2025, arXiv:2410.17215), difference sampling: the mean log-probability of a token under a
teacher less that under a small reference model. They keep the higher half of the Pile and report 2.2 times less
compute and 2.4 times less data. (Their text writes a ratio of log-probabilities; their code takes the difference, and
so do we: the two rank otherwise.) Measured here: nothing against people, since no pretrained model can be loaded where
the tests run.

Unit: nats a token. Range: any number; 0 where both models are alike. A high value means better: learnable, and not yet
learned by the small model. Low ones are noise, or so easy that both know them.
"""

from dataclasses import dataclass

import pyarrow as pa

from selector.errors import PolicyError
from selector.rate import ModelPath
from selector.rate._model import Modelled, Precision, answer, mean_losses, texts_of


@dataclass(frozen=True, kw_only=True)
class ModelDifference(Modelled):
    """The loss of the small model less that of the large one, each the mean over the tokens of the text.

    Both need the same tokenizer: means over other tokens are not comparable. Windows are those of `perplexity`.
    """

    higher_is = "better"

    large: ModelPath
    small: ModelPath
    max_tokens: int | None = None
    stride: int | None = None
    precision: Precision = "auto"

    def check(self) -> None:
        super().check()
        if self.models["large"].vocabulary != self.models["small"].vocabulary:
            raise PolicyError(
                f"model_difference: {self.large} and {self.small} have different tokenizers, so their losses are of"
                " different tokens. Take two models of one family."
            )

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = texts_of(batch)
        large, small = (
            mean_losses(self.models[name], texts, self.max_tokens, self.stride) for name in ("large", "small")
        )
        return answer(small - large)
