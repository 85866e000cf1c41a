"""Words and hashed n-grams of texts, without a loop over documents.

A word is a run of letters, digits and underscores, or a run of other characters that are no white space; it is in lower
case. An n-gram is n words of one text with a blank between them, and its bucket is the sha256 of that, as a number,
modulo the number of buckets: so other programs that hash like this find the same buckets.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from selector.exact import Floats, Ints
from selector.rate._words import Words, words_of

_WORD = r"\w+|[^\w\s]+"


@dataclass(frozen=True, kw_only=True)
class Runs:
    """The runs of so many words of some texts: how each different one is spelt, and of each one that there is, which of
    those it is and the number of its text."""

    spelt: list[str]
    codes: Ints
    texts: Ints


def runs(words: Words, count: int) -> Runs:
    """All runs of `count` words of one text, with blanks between them."""
    vocabulary: list[str] = words.vocabulary.to_pylist()
    texts = np.repeat(np.arange(len(words.counts)), words.counts)
    run = Runs(spelt=vocabulary, codes=words.codes, texts=texts)
    starts = np.arange(len(words.codes))
    for further in range(1, count):
        ends = starts + further
        is_inside = ends < len(texts)
        is_inside[is_inside] = texts[starts[is_inside]] == texts[ends[is_inside]]
        starts, ends, codes = starts[is_inside], ends[is_inside], run.codes[is_inside]
        pairs, inverse = np.unique(codes * len(vocabulary) + words.codes[ends], return_inverse=True)
        first, last = (part.tolist() for part in np.divmod(pairs, max(len(vocabulary), 1)))
        spelt = [f"{run.spelt[i]} {vocabulary[j]}" for i, j in zip(first, last, strict=True)]
        run = Runs(spelt=spelt, codes=inverse, texts=texts[starts])
    return run


def lowered(texts: pa.Array | pa.ChunkedArray, pattern: str) -> Words:
    """The words of texts in lower case; one that is null is empty."""
    return words_of(pl.Series(texts, dtype=pl.String).fill_null("").str.to_lowercase(), pattern)


@dataclass(frozen=True, kw_only=True)
class Ngrams:
    """The n-grams of some texts: the bucket of each, and the number of its text."""

    buckets: Ints
    texts: Ints
    num_texts: int

    @classmethod
    def of(cls, texts: pa.Array | pa.ChunkedArray, most_words: int, num_buckets: int) -> "Ngrams":
        """Those of 1 to `most_words` words: first all single words, then all pairs, and so on."""
        words = lowered(texts, _WORD)
        of_counts = [runs(words, count) for count in range(1, most_words + 1)]
        return cls(
            buckets=np.concatenate([_buckets(run.spelt, num_buckets)[run.codes] for run in of_counts]),
            texts=np.concatenate([run.texts for run in of_counts]),
            num_texts=len(words.counts),
        )

    def counts(self, num_buckets: int) -> Ints:
        """How often each bucket is met in all texts together."""
        return np.bincount(self.buckets, minlength=num_buckets).astype(np.int64)

    def sums(self, values: Floats) -> Floats:
        """Per text the sum of its n-grams' values, given one for each bucket."""
        return np.bincount(self.texts, values[self.buckets], minlength=self.num_texts).astype(np.float64)


def _buckets(spelt: list[str], num_buckets: int) -> Ints:
    digests = (hashlib.sha256(ngram.encode()).digest() for ngram in spelt)
    return np.array([int.from_bytes(digest, "big") % num_buckets for digest in digests], np.int64)
