"""How long the words of a text are.

Source: a classic part of readability formulas (Flesch 1948; Senter and Smith 1967, ARI), and one of the Gopher rules
(Rae et al. 2021, arXiv:2112.11446: 3 to 10 characters).

Unit: characters, combining marks and apostrophes among them. Range: 1 or more, of English prose about 4 to 6. A high
value means harder: rare and learned words are longer.

Measured (`python -m jobs.bench raters`): Spearman with CEFR levels of sentences 0.382 (0.360 to 0.405; characters
0.494), with GSM8K's steps 0.031; of judgements of arguments 59 % are right, of those of equally long ones 61.5 %
(characters 62.1 %).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from selector.rate import Rater
from selector.rate._words import texts_of, words_of


@dataclass(frozen=True, kw_only=True)
class WordLength(Rater):
    """The mean length of its words in characters. A text without a letter has none."""

    higher_is = "harder"

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        words = words_of(texts_of(batch))
        lengths = pl.Series(words.vocabulary, dtype=pl.String).str.len_chars().to_numpy().astype(np.int64)
        mean = words.totals(lengths) / np.maximum(words.counts, 1)
        return pa.record_batch({"score": pa.array(mean, mask=words.counts == 0)})
