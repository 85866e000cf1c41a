"""How rare the words of a text are in the corpus.

Source: word frequency is the oldest predictor of a text's difficulty beside length (Thorndike 1921; Lexile and its
kin); in this form it is the cross-entropy of a unigram model. The frequency list is that of the corpus itself, fitted
on a keyed sample, so no list is needed for any language or field.

Unit: bits a word. Range: above 0; of prose rated by a list of its own kind about 9 to 12. A high value means harder:
its words are rare. A word that the list lacks counts as if it were seen once more than never, so typing errors and
other languages are rare.

Measured (`python -m jobs.bench raters`): Spearman with CEFR levels of sentences 0.318 (0.295 to 0.340; characters
0.494), the list being that of the sentences themselves; with GSM8K's steps -0.035; 55 % of judgements of arguments.
"""

import functools
import math
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from selector.exact import Ints, log
from selector.rate import Fit, Pool, Rater
from selector.rate._vocabulary import lower_words, places, vocabulary_of

_ONE = 1 << 24  # rarities are added up as whole numbers: the sum is then the same wherever a batch is cut


@dataclass(frozen=True, kw_only=True)
class Rarity(Fit):
    """The mean rarity of its words, -log2 of (count + 1) by the sum of all those; in bits a word.

    A text without a letter has none.
    """

    higher_is = "harder"

    def fit(self, sample: Pool, seed: int) -> pa.Table:
        return vocabulary_of(sample)

    def rater(self, fitted: pa.Table) -> Rater:
        return _Rarity(vocabulary=fitted)


@dataclass(frozen=True, kw_only=True)
class _Rarity(Rater):
    """Rarity by a frequency list."""

    higher_is = "harder"

    vocabulary: pa.Table = field(repr=False)

    def prepare(self) -> None:
        assert self._bits is not None

    @functools.cached_property
    def _bits(self) -> Ints:
        """For each word of the list, and last for any other."""
        counts = np.append(self.vocabulary["count"].to_numpy(), 0) + 1
        return np.rint(
            (log(np.array([float(counts.sum())])) - log(counts.astype(np.float64))) / math.log(2) * _ONE
        ).astype(np.int64)

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        words = lower_words(batch)
        bits = words.totals(self._bits[places(words, self.vocabulary["word"].combine_chunks())])
        mean = bits / _ONE / np.maximum(words.counts, 1)
        return pa.record_batch({"score": pa.array(mean, mask=words.counts == 0)})
