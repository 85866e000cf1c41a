"""The words and sentences of texts, counted for a whole batch at once.

A word is a run of letters with their combining marks; an apostrophe inside of it, straight or curly, belongs to it. So
a script that puts no spaces between words has few and long ones, and a number is none. A sentence ends in a run of full
stops, exclamation and question marks, perhaps with what closes behind it (quotes, brackets), and then white space or
the end of the text: so 3.14 and a web address end none. Those of Chinese and Japanese end it wherever they stand. A
text without one is one sentence.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from selector.exact import Ints

WORD = r"\p{L}[\p{L}\p{M}]*(?:['\u2019]\p{L}[\p{L}\p{M}]*)*"
_SENTENCE_END = r"[.!?]+[\"'\u2019\u201d)\]]*(?:\s|$)|[\u3002\uff01\uff1f]+"


@dataclass(frozen=True, kw_only=True)
class Words:
    """The words of some texts: one text after another, as places in a vocabulary."""

    codes: Ints
    vocabulary: pa.Array  # each once, in the order in which they first appear
    counts: Ints  # of words, for each text

    def totals(self, weights: Ints) -> Ints:
        """For each text the sum of its words' weights, one for each word of the vocabulary."""
        return sums(weights[self.codes], self.counts)


def texts_of(batch: pa.RecordBatch, column: str = "text") -> pl.Series:
    """The texts of a batch; one that is null is empty."""
    return pl.Series(batch[column], dtype=pl.String).fill_null("")


def words_of(texts: pl.Series, pattern: str = WORD) -> Words:
    """All words of the texts, or all that matches another pattern."""
    words_of_each = texts.str.extract_all(pattern)
    words = words_of_each.explode().drop_nulls().to_arrow().dictionary_encode()
    return Words(
        codes=words.indices.to_numpy().astype(np.int64),
        vocabulary=words.dictionary,
        counts=words_of_each.list.len().to_numpy().astype(np.int64),
    )


def num_sentences(texts: pl.Series) -> Ints:
    """The sentences of each text, at least one."""
    return np.maximum(texts.str.count_matches(_SENTENCE_END).to_numpy(), 1).astype(np.int64)


def sums(values: Ints, counts: Ints) -> Ints:
    """The sums of runs of whole numbers, each as long as `counts` says: exact, wherever a batch is cut."""
    ends = np.concatenate(([0], np.cumsum(values)))[np.cumsum(counts)]
    return np.diff(ends, prepend=0)
