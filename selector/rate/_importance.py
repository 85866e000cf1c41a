"""Importance weights by hashed n-grams: of texts that are looked at one by one, given what was counted of many."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector.exact import Floats, Ints, log
from selector.rate import Rater
from selector.rate._ngrams import Ngrams

_LEAST = 1e-8  # added to every probability, so that none is 0


def log_ratios(target: Ints, raw: Ints, smoothing: float) -> Floats:
    """Of each bucket the logarithm of how much likelier an n-gram of it is in the target than in the corpus.

    Only the target's counts are smoothed, by Laplace's method.
    """
    target_counts = target + smoothing
    of_target = target_counts / max(float(target_counts.sum()), 1.0)
    of_raw = raw / max(float(raw.sum()), 1.0)
    return log(of_target + _LEAST) - log(of_raw + _LEAST)


@dataclass(frozen=True, kw_only=True)
class NgramWeight(Rater):
    """The sum over a text's n-grams of what each bucket says, or their mean."""

    higher_is = "closer"

    ratios: pa.Array
    most_words: int
    is_mean: bool

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        ratios = self.ratios.to_numpy()
        ngrams = Ngrams.of(batch["text"], self.most_words, len(ratios))
        counts = np.bincount(ngrams.texts, minlength=batch.num_rows)
        sums = ngrams.sums(ratios)
        return pa.record_batch(
            {"score": pa.array(sums / np.maximum(counts, 1) if self.is_mean else sums, mask=counts == 0)}
        )
