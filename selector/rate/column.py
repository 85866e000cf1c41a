"""A number that the corpus already has, as a score: a classifier's, a crawl's, an annotator's."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from selector.rate import HigherIs, Rater

_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
_STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_JSON = {"true": "1", "false": "0", "null": None, "": None}


@dataclass(frozen=True, kw_only=True)
class Column(Rater):
    """The number in a column of the corpus, under the column's own name.

    true is 1 and false is 0; a string that spells a JSON number, true or false is one. Null and blank are
    missing; anything else (a word, a list, a date) has failed. Six digits are kept, so a date written
    20240131 or a Unix time ties with its neighbours.
    """

    column: str
    higher_is: HigherIs  # nobody but you knows what a large one means

    @property
    def needs(self) -> tuple[str, ...]:
        return (f"corpus.{self.column}",)

    def scores(self, name: str) -> dict[str, HigherIs]:
        return {self.column: self.higher_is}

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        values = batch[f"corpus.{self.column}"]
        if isinstance(values, pa.ExtensionArray):
            values = values.storage
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if any(test(values.type) for test in _NUMBERS):
            numbers = values.cast(pa.float64(), safe=False)
        elif any(test(values.type) for test in _STRINGS):
            text = pl.Series(values, dtype=pl.String).str.strip_chars(' \t\r\n"').replace(_JSON)
            values, numbers = text.to_arrow(), text.cast(pl.Float64, strict=False).to_arrow()
        else:
            numbers = pa.nulls(len(values), pa.float64())
        is_missing, is_null = (column.is_null().to_numpy(zero_copy_only=False) for column in (values, numbers))
        state = pa.array(np.where(is_missing, "missing", np.where(is_null, "failed", "ok")))
        return pa.record_batch({self.column: numbers, "state": state})
