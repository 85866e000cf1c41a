"""How much schooling a text asks for, by the length of its sentences and words.

Source: Kincaid et al. 1975, "Derivation of new readability formulas for Navy enlisted personnel" (the Flesch-Kincaid
grade and ARI); Flesch 1948, "A new readability yardstick" (ease); McLaughlin 1969, "SMOG grading" (its 30 sentences are
scaled to those that there are). The weights were fitted to English; elsewhere, trust the order, not the years.

Unit: years of school; of `flesch_ease` points. Range: any number, of school texts about 0 to 18 years, 0 to 100 points.
A high value means harder; of `flesch_ease` easier.

Measured (`python -m jobs.bench raters`): on the Wikipedia sentences of CEFR-SP the Spearman
correlation of the Flesch-Kincaid grade with the mean of two annotators' levels is 0.556 (95 % interval 0.536 to 0.574);
that of ARI is 0.568, of SMOG 0.517, of Flesch's ease 0.476, of the number of words 0.374, of characters 0.494. With the
steps of GSM8K's solutions all formulas have about 0.1 (words 0.387); of judgements of arguments about 57 % are right
(characters 77 %). Of 8,416 different English words of those sentences 92 % have the syllables that a dictionary of
pronunciations gives them (by hyphenation alone 80 %, by vowels alone 88 %).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyphen

from selector.errors import PolicyError, did_you_mean
from selector.exact import Ints
from selector.rate import Meaning, Rater
from selector.rate._words import num_sentences, texts_of, words_of

_REMEMBERED_WORDS = 1 << 18
_MANY_SYLLABLES = 3
_VOWELS, _SILENT = "[aeiouy]+", "[^aeiouyl]e$|[^aeiouy]es$|[^aeiouytd]ed$"  # of English words


@dataclass(frozen=True, kw_only=True)
class Readability(Rater):
    """A readability formula; by default the Flesch-Kincaid grade, the years of school that the text asks for.

    With W words, S sentences, Y syllables, C letters, and P words of three syllables or more:
    `flesch_kincaid` is 0.39 W/S + 11.8 Y/W - 15.59, `flesch_ease` 206.835 - 1.015 W/S - 84.6 Y/W, `smog`
    1.043 sqrt(30 P/S) + 3.1291, `ari` 4.71 C/W + 0.5 W/S - 21.43.

    Syllables are one more than the places where pyphen may hyphenate; in English at least the runs of vowels, without a
    silent e at the end, since hyphenation leaves single letters alone ("idea" has two by vowels, none to hyphenate). A
    text without a letter has no grade; one without a full stop is one sentence, so lists grade high.
    """

    version = 2
    libraries = ("pyphen",)

    formula: Literal["flesch_kincaid", "flesch_ease", "smog", "ari"] = "flesch_kincaid"
    language: str = "en_US"

    def __post_init__(self) -> None:
        if self.language not in pyphen.LANGUAGES:
            hint = did_you_mean(self.language, pyphen.LANGUAGES)
            raise PolicyError(f"readability.language: pyphen has no language {self.language!r}. {hint}")

    def scores(self, name: str) -> dict[str, Meaning]:
        return {name: "easier" if self.formula == "flesch_ease" else "harder"}

    def prepare(self) -> None:
        super().prepare()
        assert pyphen.Pyphen(lang=self.language) is not None  # which reads its patterns once

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = texts_of(batch)
        words = words_of(texts)
        has_words = words.counts > 0
        num_words, sentences = np.maximum(words.counts, 1), num_sentences(texts)
        words_per_sentence = words.counts / sentences
        if self.formula == "ari":
            letters = pl.Series(words.vocabulary, dtype=pl.String).str.count_matches(r"\p{L}").to_numpy()
            grade = 4.71 * words.totals(letters.astype(np.int64)) / num_words + 0.5 * words_per_sentence - 21.43
        else:
            syllables = self._syllables(words.vocabulary.to_pylist())
            per_word = words.totals(syllables) / num_words
            if self.formula == "smog":
                long_words = words.totals((syllables >= _MANY_SYLLABLES).astype(np.int64))
                grade = 1.043 * np.sqrt(30 * long_words / sentences) + 3.1291
            elif self.formula == "flesch_ease":
                grade = 206.835 - 1.015 * words_per_sentence - 84.6 * per_word
            else:
                grade = 0.39 * words_per_sentence + 11.8 * per_word - 15.59
        return pa.record_batch({"score": pa.array(grade, mask=~has_words)})

    def _syllables(self, words: list[str]) -> Ints:
        hyphens = pyphen.Pyphen(lang=self.language)
        if len(hyphens.hd.cache) > _REMEMBERED_WORDS:  # pyphen never forgets a word, and a corpus has no end of them
            hyphens.hd.cache.clear()
        hyphenated = np.array([1 + len(hyphens.positions(word)) for word in words], np.int64)
        if not self.language.startswith("en"):
            return hyphenated
        lower = pl.Series(words, dtype=pl.String).str.to_lowercase()
        vowels = lower.str.count_matches(_VOWELS).to_numpy().astype(np.int64)
        return np.maximum(hyphenated, vowels - lower.str.contains(_SILENT).to_numpy())
