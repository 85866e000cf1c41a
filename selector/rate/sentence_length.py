"""How long the sentences of a text are.

Source: the other classic part of readability formulas (Flesch 1948), beside the length of words.

Unit: words a sentence. Range: above 0, of English prose about 10 to 30. A high value means harder. A list without full
stops is one long sentence, so lists count as hard.

Measured (`python -m jobs.bench raters`): Spearman with CEFR levels of sentences 0.418 (0.395 to 0.440; characters
0.494), with GSM8K's steps 0.139 (words 0.387); of judgements of arguments 54 % are right (characters 77 %).
"""

from dataclasses import dataclass

import pyarrow as pa

from selector.rate import Rater
from selector.rate._words import num_sentences, texts_of, words_of


@dataclass(frozen=True, kw_only=True)
class SentenceLength(Rater):
    """The mean length of its sentences in words. A text without a letter has none."""

    version = 2
    higher_is = "harder"

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = texts_of(batch)
        counts = words_of(texts).counts
        return pa.record_batch({"score": pa.array(counts / num_sentences(texts), mask=counts == 0)})
