"""How many years of school a text asks for, by the length of its sentences and words.

Source: Kincaid et al. 1975, "Derivation of new readability formulas for Navy enlisted personnel" (the
Flesch-Kincaid grade). Its weights were fitted to English; elsewhere, trust its order, not its years.

Measured: on the Wikipedia sentences of CEFR-SP its Spearman correlation with the mean of two annotators'
levels is 0.528 (95 % interval 0.509 to 0.546); that of the number of words is 0.374.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyphen

from selector.errors import PolicyError, did_you_mean
from selector.rate import Rater

# Letters with their combining marks; an apostrophe inside a word, straight or curly, belongs to it.
_WORD = r"\p{L}[\p{L}\p{M}]*(?:['\u2019]\p{L}[\p{L}\p{M}]*)*"
_SENTENCE_END = r"[.!?]+"
_REMEMBERED_WORDS = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Readability(Rater):
    """Flesch-Kincaid grade: the years of school that the text asks for, by its words and sentences.

    Syllables are one more than the places where pyphen may hyphenate, which misses some ("idea" has one). A
    text without a letter has no grade; one without a full stop is one sentence, so lists grade high.
    """

    libraries = ("pyphen",)
    higher_is = "harder"

    language: str = "en_US"

    def __post_init__(self) -> None:
        if self.language not in pyphen.LANGUAGES:
            hint = did_you_mean(self.language, pyphen.LANGUAGES)
            raise PolicyError(f"readability.language: pyphen has no language {self.language!r}. {hint}")

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        text = pl.Series(batch["text"], dtype=pl.String).fill_null("")
        words_of_each = text.str.extract_all(_WORD)
        num_words = words_of_each.list.len().to_numpy().astype(np.int64)
        words = words_of_each.explode().drop_nulls().to_arrow().dictionary_encode()
        weights = self._syllables(words.dictionary.to_pylist())[words.indices.to_numpy()]
        ends = np.concatenate(([0], np.cumsum(weights)))[np.cumsum(num_words)]  # syllables up to each document's end
        syllables = np.diff(ends, prepend=0)
        sentences = np.maximum(text.str.count_matches(_SENTENCE_END).to_numpy(), 1)
        grade = 0.39 * num_words / sentences + 11.8 * syllables / np.maximum(num_words, 1) - 15.59
        return pa.record_batch({"score": pa.array(grade, mask=num_words == 0)})

    def _syllables(self, words: list[str]) -> npt.NDArray[np.int64]:
        hyphens = pyphen.Pyphen(lang=self.language)
        if len(hyphens.hd.cache) > _REMEMBERED_WORDS:  # pyphen never forgets a word, and a corpus has no end of them
            hyphens.hd.cache.clear()
        return np.array([1 + len(hyphens.positions(word)) for word in words], np.int64)
