"""What somebody else has said of documents: scores and labels from a table outside of the corpus.

Source: annotations that are published apart from the texts (propella, Essential-Web's taxonomy labels, grades of
FineWeb-Edu's classifier), and judgements of your own.

Unit: the table's. Range: the table's. What a high value means only you know: say it in `higher_is`. How many documents
have a value is what `selector rate` shows; a document that the table lacks, or for which it has null, is `missing`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.rate import Columns, Meaning, Rater, TablePath


@dataclass(frozen=True, kw_only=True)
class Table(Rater):
    """The value in a column of a table that is keyed by `doc_id`, or by `key`.

    `table` is a JSONL or Parquet file. `doc_id` is 32 hex digits or 16 bytes; `key` the value of the column that
    `corpus.key` names. The score has the column's name, or the one that `as:` gives it. Of a key that stands there
    twice nobody knows which value counts: that is refused. Numbers are kept to six digits; with `higher_is: label` the
    value is the document's word.
    """

    table: TablePath
    column: str
    higher_is: Meaning  # nobody but you knows what a large one means

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    @property
    def table_columns(self) -> Mapping[str, Columns]:
        """The columns that the table must have."""
        kind = "string" if self.higher_is == "label" else "float64"
        return {"table": Columns(doc_id="doc_id", **{self.column: kind})}

    def __post_init__(self) -> None:
        if self.column in ("", "doc_id", "key"):
            raise PolicyError(f"table.column is {self.column!r}: name the column with the scores or labels.")

    def scores(self, name: str) -> dict[str, Meaning]:
        return {self.column if name == "table" else name: self.higher_is}

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        values = batch[f"table.{self.column}"]
        is_missing = values.is_null().to_numpy(zero_copy_only=False)
        state = pa.array(np.where(is_missing, "missing", "ok").tolist(), pa.string())
        return pa.record_batch({"score": values, "state": state})
