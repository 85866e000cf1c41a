"""What the corpus already says of a document, as a score: a classifier's grade, a date, an annotator's word.

Unit: the column's. Range: the column's. What a high value means only you know: say it in `higher_is`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from selector.errors import CorpusError, PolicyError
from selector.exact import quantise
from selector.rate import Meaning, Rater

_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_date, pa.types.is_timestamp)
_MOST_DIGITS = 18  # of a decimal
_FLOAT_HOLDS = 1 << 53
_JSON = {"true": "1", "false": "0", "null": None, "": None}


@dataclass(frozen=True, kw_only=True)
class Column(Rater):
    """The value in a column of the corpus, under the column's own name, or the one that `as:` gives it.

    Integers, dates, timestamps and decimals of at most 18 digits are passed on exactly; true is 1 and false is 0. A
    string that spells a JSON number, true or false is that number, to six digits; a whole number of which that is not
    all is refused. With `higher_is: label` a string is
    the document's word, and integers and booleans are spelt out. Null and blank are missing; anything else (a word
    where a number is wanted, a list, a time of day) has failed.
    """

    column: str
    higher_is: Meaning  # nobody but you knows what a large one means

    def __post_init__(self) -> None:
        if not self.column.strip():
            raise PolicyError("column: the name of the column is blank. Write that of a column of the corpus.")

    @property
    def needs(self) -> tuple[str, ...]:
        return (f"corpus.{self.column}",)

    def scores(self, name: str) -> dict[str, Meaning]:
        return {self.column if name.lower() == "column" else name: self.higher_is}

    def check_types(self, types: Mapping[str, pa.DataType]) -> None:
        kind = types[self.needs[0]]
        if self.higher_is != "label" and kind == pa.uint64():  # of which some are larger than those of int64
            raise self._too_wide(kind, "whole numbers up to 9223372036854775807")
        if self.higher_is != "label" and pa.types.is_decimal(kind) and kind.precision > _MOST_DIGITS:
            raise self._too_wide(kind, f"decimals of at most {_MOST_DIGITS} digits")

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        raw = _plain(batch[f"corpus.{self.column}"])
        if not (raw.type == pa.uint64() and _fits(raw, pa.int64())):
            self.check_types({self.needs[0]: raw.type})
        values, scores = (_words if self.higher_is == "label" else _numbers)(raw)
        if self.higher_is != "label" and (rounded := _rounded(values)) is not None:
            raise CorpusError(
                f"The column {self.column!r} of the corpus is text that spells whole numbers, such as {rounded!r}, and"
                " a score keeps six digits of such a text. Write them to the corpus as numbers."
            )
        is_missing, is_null = (column.is_null().to_numpy(zero_copy_only=False) for column in (values, scores))
        state = pa.array(np.where(is_missing, "missing", np.where(is_null, "failed", "ok")))
        return pa.record_batch({"score": scores, "state": state})

    def _too_wide(self, kind: pa.DataType, widest: str) -> CorpusError:
        return CorpusError(
            f"The column {self.column!r} of the corpus is {kind}, and a score holds {widest}."
            " Write it to the corpus in a narrower type, or as a float where six digits are enough."
        )


def _plain(values: pa.Array) -> pa.Array:
    """The values without an extension type around them, and not as a dictionary."""
    values = values.storage if isinstance(values, pa.ExtensionArray) else values
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _fits(values: pa.Array, kind: pa.DataType) -> bool:
    try:
        values.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _numbers(raw: pa.Array) -> tuple[pa.Array, pa.Array]:
    """What was found, null where nothing was, and the numbers that it is."""
    if any(test(raw.type) for test in _TEXT):
        text = pl.Series(raw, dtype=pl.String).str.strip_chars(' \t\r\n"').replace(_JSON)
        return text.to_arrow(), text.cast(pl.Float64, strict=False).to_arrow()
    if pa.types.is_boolean(raw.type):
        return raw, raw.cast(pa.int64())
    return raw, raw if any(test(raw.type) for test in _NUMBERS) else pa.nulls(len(raw))


def _rounded(values: pa.Array) -> str | None:
    """A text that spells a whole number of which a score would keep less than that; None if there is none."""
    if not any(test(values.type) for test in _TEXT):
        return None
    spelt = pl.Series(values, dtype=pl.String)
    spelt = spelt.filter(spelt.str.contains(r"^[+-]?[0-9]{7,}$").fill_null(value=False))
    numbers = spelt.cast(pl.Float64).to_numpy()
    is_kept = (quantise(numbers.astype(np.float32)) == numbers) & (np.abs(numbers) < _FLOAT_HOLDS)
    lost = np.flatnonzero(~is_kept)
    return str(spelt[int(lost[0])]) if len(lost) else None


def _words(raw: pa.Array) -> tuple[pa.Array, pa.Array]:
    """What was found, null where nothing was, and the words that it is."""
    if any(test(raw.type) for test in _TEXT):
        text = pl.Series(raw, dtype=pl.String)
        words = text.set(text.str.strip_chars() == "", None).to_arrow()
        return words, words
    if pa.types.is_integer(raw.type) or pa.types.is_boolean(raw.type):
        return raw, raw.cast(pa.string())
    return raw, pa.nulls(len(raw))
