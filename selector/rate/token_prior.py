"""How common the words of a text are in the corpus, and how evenly so: the token prior.

Source: prior-based filtering ("prior_filter", a perplexity-free filter that its authors report as about a thousand
times as fast as perplexity). The prior of a token is tf * df, how often it occurs times how many documents have it, by
the sum of that over all tokens. A document has the mean and the standard deviation of the log priors of its tokens;
documents in the middle of both are kept, those at the ends (noise, lists, other languages) are not.

Unit: nats. Range: the mean is below 0, of prose about -11 to -7; the deviation is 0 or more, about 3. A high mean means
closer to what is common in the corpus; a high deviation means rarer: common and rare words side by side.

Ours are words in lower case and not a tokenizer's tokens; priors are learned on a keyed sample of the corpus, and a
word that it lacks has the prior of one that occurs once.

Measured (`python -m jobs.bench raters`): by itself neither is difficulty or quality: Spearman of minus the mean with
CEFR levels of sentences 0.339, of the deviation 0.318 (characters 0.494); with GSM8K's steps about 0; 55 % and 56 % of
judgements of arguments.
"""

import functools
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from selector.exact import Floats, log
from selector.rate import Fit, Meaning, Pool, Rater
from selector.rate._vocabulary import lower_words, places, vocabulary_of
from selector.rate._words import sums

_ONE = 1 << 24  # log priors are added up as whole numbers: the sum is then the same wherever a batch is cut


@dataclass(frozen=True, kw_only=True)
class TokenPrior(Fit):
    """The mean log prior of its words, under the rater's name, and with `_deviation` after it their standard deviation.

    A text without a letter has neither.
    """

    def scores(self, name: str) -> dict[str, Meaning]:
        return {name: "closer", f"{name}_deviation": "rarer"}

    def fit(self, sample: Pool, seed: int) -> pa.Table:
        return vocabulary_of(sample)

    def rater(self, fitted: pa.Table) -> Rater:
        return _TokenPrior(vocabulary=fitted)


@dataclass(frozen=True, kw_only=True)
class _TokenPrior(Rater):
    """The mean and deviation of log priors by a list of words."""

    vocabulary: pa.Table = field(repr=False)

    def scores(self, name: str) -> dict[str, Meaning]:
        return {name: "closer", f"{name}_deviation": "rarer"}

    def prepare(self) -> None:
        assert self._log_priors is not None

    @functools.cached_property
    def _log_priors(self) -> Floats:
        """For each word of the list, and last for any other."""
        weights = self.vocabulary["count"].to_numpy() * self.vocabulary["documents"].to_numpy()
        weights = np.append(weights, 1).astype(np.float64)
        total = max(1.0, float(weights[:-1].sum()))
        return log(weights) - log(np.array([total]))

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        words = lower_words(batch)
        per_word = self._log_priors[places(words, self.vocabulary["word"].combine_chunks())][words.codes]
        num_words, is_empty = np.maximum(words.counts, 1), words.counts == 0
        mean = sums(np.rint(per_word * _ONE).astype(np.int64), words.counts) / _ONE / num_words
        from_mean = per_word - np.repeat(mean, words.counts)
        squares = sums(np.rint(from_mean * from_mean * _ONE).astype(np.int64), words.counts) / _ONE
        deviation = np.sqrt(squares / num_words)
        return pa.record_batch(
            {"score": pa.array(mean, mask=is_empty), "score_deviation": pa.array(deviation, mask=is_empty)}
        )
