"""How long a document is: the plainest difficulty there is, and the one every other rater has to beat.

Unit: words, characters, tokens or bytes. Range: 0 or more. A high value means harder.

Measured (`python -m jobs.bench raters`): Spearman with CEFR levels of sentences 0.374 (words), 0.494 (characters); with
the steps of GSM8K's solutions 0.387 and 0.375; of people's judgements of arguments the longer one is right 76 % and 77
% of the time, and of those equally long in words 62 % by characters.
"""

from dataclasses import dataclass
from typing import Literal

import polars as pl
import pyarrow as pa

from selector.rate import Rater


@dataclass(frozen=True, kw_only=True)
class Length(Rater):
    """How long the text is.

    `words` are runs of anything but white space, so a language written without spaces has few. `tokens` are
    those of the corpus's tokenizer, `bytes` those of the text in UTF-8, `characters` its code points.
    """

    higher_is = "harder"

    unit: Literal["words", "characters", "tokens", "bytes"] = "words"

    @property
    def needs(self) -> tuple[str, ...]:
        return {"tokens": ("num_tokens",), "bytes": ("num_bytes",)}.get(self.unit, ("text",))

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        (column,) = self.needs
        if column != "text":
            return pa.record_batch({"score": batch[column]})
        text = pl.Series(batch["text"], dtype=pl.String)
        length = text.str.len_chars() if self.unit == "characters" else text.str.count_matches(r"\S+")
        return pa.record_batch({"score": length.to_arrow()})
