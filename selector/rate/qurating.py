"""Several qualities of a text at once, from one model with an output for each.

Source: QuRating (Wettig et al. 2024, arXiv:2402.09739): a language model of 1.3B with four outputs, trained on
judgements of pairs by Bradley-Terry's model: writing style, required expertise, facts and trivia, educational value. A
document is the mean of its segments of 512 tokens, weighted by their length. Choosing by educational value at a
temperature of 2 they match 50 % more steps of uniform sampling; the top alone does worse. Meta-rater's 25 scores and
DataMan's 14 are of this shape. Measured here: nothing against people, since no pretrained model can be loaded where the
tests run.

Unit: log-odds of being the better one of two texts, up to a constant. Range: any number. A high value means better, of
required expertise harder.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.rate import HigherIs, Meaning, ModelPath
from selector.rate._model import Modelled, Precision, segment_means, texts_of

_CRITERIA = ("writing_style", "required_expertise", "facts_and_trivia", "educational_value")


@dataclass(frozen=True, kw_only=True)
class Qurating(Modelled):
    """A score for each output of the model, called `<name>_<criterion>`: the mean over segments, by their tokens.

    `criteria` name the outputs in their order, and `harder` those of which a large one means harder. An empty text is
    not_applicable.
    """

    head = "classifier"

    model: ModelPath
    criteria: tuple[str, ...] = _CRITERIA
    harder: tuple[str, ...] = ("required_expertise",)
    max_tokens: int | None = 512
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if not self.criteria or len(set(self.criteria)) < len(self.criteria):
            raise PolicyError("qurating.criteria: name each output of the model once.")

    def scores(self, name: str) -> dict[str, Meaning]:
        means: dict[bool, HigherIs] = {True: "harder", False: "better"}
        return {f"{name}_{criterion}": means[criterion in self.harder] for criterion in self.criteria}

    def check(self) -> None:
        super().check()
        if (outputs := self.models["model"].num_outputs) != len(self.criteria):
            raise PolicyError(
                f"qurating.criteria: {self.model} has {outputs} outputs, and {len(self.criteria)} are named. Name each."
            )

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        means = segment_means(self.models["model"], texts_of(batch), self.max_tokens, is_cut=True)
        return pa.record_batch(
            {
                name: pa.array(column, mask=np.isnan(column))
                for name, column in zip(self.scores("score"), means.T, strict=True)
            }
        )
