"""What a classifier says of a text: its class, or how likely one class is.

Source: any sequence classifier of transformers; the topic and format classifiers of WebOrganizer (Wettig et al. 2025,
arXiv:2502.10341) are of this shape. Measured here: nothing, since it is the classifier that is right or wrong.

Unit: a word, or a probability. Range: the classes, or 0 to 1. A high probability means what `higher_is` says.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError, did_you_mean
from selector.rate import Meaning, ModelPath
from selector.rate._model import Modelled, Precision, answer, check_number, segment_means, texts_of


@dataclass(frozen=True, kw_only=True)
class Classifier(Modelled):
    """The class that a sequence classifier gives the text, as a label; with `positive`, the probability of that class.

    The model's own names of its classes (id2label) are the words. A long text is the mean of its segments' logits,
    weighted by their tokens, or its first segment (`long_documents: truncate`). An empty one is not_applicable.
    """

    head = "classifier"

    model: ModelPath
    positive: str | None = None
    higher_is: Meaning = "better"
    max_tokens: int | None = None
    long_documents: Literal["mean", "truncate"] = "mean"
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        check_number("classifier", self.higher_is)

    def scores(self, name: str) -> dict[str, Meaning]:
        return {name: "label" if self.positive is None else self.higher_is}

    def check(self) -> None:
        super().check()
        labels = self.models["model"].labels
        if self.positive is not None and self.positive not in labels:
            raise PolicyError(
                f"classifier.positive: {self.model} has no class {self.positive!r}."
                f" {did_you_mean(self.positive, labels)}"
            )

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        model = self.models["model"]
        means = segment_means(model, texts_of(batch), self.max_tokens, self.long_documents == "mean")
        is_nothing = np.isnan(means).any(axis=1)
        if self.positive is None:
            classes = pa.array(model.labels).take(pa.array(np.argmax(means, axis=1), mask=is_nothing))
            return pa.record_batch({"score": classes})
        gaps = means - means[:, [model.labels.index(self.positive)]]
        with np.errstate(over="ignore"):
            return answer(np.where(is_nothing, np.nan, 1 / np.exp(gaps).sum(axis=1)))
