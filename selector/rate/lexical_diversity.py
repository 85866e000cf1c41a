"""How varied the words of a text are, whatever its length: MTLD.

Source: McCarthy and Jarvis 2010, "MTLD, vocd-D, and HD-D: a validation study of sophisticated approaches to lexical
diversity assessment". Reading on, the share of different words among those since the last cut falls; where it has
fallen to the threshold, a factor is complete, and one cuts. MTLD is words by factors, the last one counting for the
part of the way that it went; it is the mean of reading forward and backward.

Unit: words; about how many can be read until too many repeat. Range: above 1, of English prose about 40 to 120. A high
value means harder (more varied). Fewer than about 100 words make it unsteady; a text in which no word repeats has none.
As in lexicalrichness, with which it agrees but for that case, a factor ends at 0.72 and not only below it.

Measured (`python -m jobs.bench raters`): on short texts next to nothing: Spearman with CEFR levels of sentences 0.145,
with GSM8K's steps 0.011; 56 % of judgements of arguments. Of long texts nothing was at hand.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import Floats, Ints
from selector.rate import Rater
from selector.rate._words import texts_of, words_of

_AT_ONCE = 64  # words in which the end of a factor is looked for


@dataclass(frozen=True, kw_only=True)
class LexicalDiversity(Rater):
    """MTLD: the mean length of runs of words in which a share `threshold` are different ones.

    Upper case and lower case are the same.
    """

    higher_is = "harder"

    threshold: float = 0.72

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise PolicyError(
                f"lexical_diversity.threshold is {self.threshold}: write a share of different words between 0 and 1."
            )

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        words = words_of(texts_of(batch).str.to_lowercase())
        owners = np.repeat(np.arange(len(words.counts)), words.counts)
        ends = np.cumsum(words.counts)
        forward = _factors(_previous(words.codes, owners), ends - words.counts, ends, self.threshold)
        last = len(owners)
        previous = _previous(words.codes[::-1], owners[::-1])
        backward = _factors(previous, last - ends, last - ends + words.counts, self.threshold)
        is_varied = (forward == 0) | (backward == 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            mtld = (words.counts / forward + words.counts / backward) / 2
        return pa.record_batch({"score": pa.array(mtld, mask=is_varied)})


def _previous(codes: Ints, owners: Ints) -> Ints:
    """For each word the place of the same word before it in its text; -1 for the first."""
    order = np.lexsort((np.arange(len(codes)), codes, owners))
    is_same = (codes[order[1:]] == codes[order[:-1]]) & (owners[order[1:]] == owners[order[:-1]])
    previous = np.full(len(codes), -1, np.int64)
    previous[order[1:][is_same]] = order[:-1][is_same]
    return previous


def _factors(previous: Ints, starts: Ints, ends: Ints, threshold: float) -> Floats:
    """How many factors each text has, the last one in part. All texts go on together, a window of words at a time."""
    factors = np.zeros(len(starts))
    start, at = starts.copy(), starts.copy()  # of the factor, and of the window
    types = np.zeros(len(starts), np.int64)  # different words since the start of the factor
    texts = np.flatnonzero(starts < ends)
    while len(texts):
        width = int(min(_AT_ONCE, (ends[texts] - at[texts]).max()))
        places = at[texts, None] + np.arange(width)
        is_inside = places < ends[texts, None]
        is_new = (previous[np.minimum(places, len(previous) - 1)] < start[texts, None]) & is_inside
        num_types = types[texts, None] + np.cumsum(is_new, axis=1)
        num_words = places - start[texts, None] + 1
        is_end: npt.NDArray[np.bool_] = (num_types / num_words <= threshold) & is_inside
        has_end, first = is_end.any(axis=1), is_end.argmax(axis=1)
        cut, rest = texts[has_end], texts[~has_end]
        factors[cut] += 1
        at[cut] += first[has_end] + 1
        start[cut], types[cut] = at[cut], 0
        types[rest] = num_types[~has_end, -1]
        at[rest] = np.minimum(at[rest] + width, ends[rest])
        texts = texts[at[texts] < ends[texts]]
    left = ends - start
    is_left = left > 0
    factors[is_left] += (1 - types[is_left] / left[is_left]) / (1 - threshold)
    return factors
