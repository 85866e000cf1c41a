"""What training reported between rounds: one number for each document of a round, or that there is none.

The table may have rows of all rounds, in any order, and about anybody. A round reads its own rows alone; all others are
counted, and said.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.errors import SelectorError
from selector.exact import Floats, Ints, keyed

_LARGEST = float(np.finfo(np.float32).max)  # of a score
_MOST_NAMED = 8  # numbers of rounds in the facts


@dataclass(frozen=True, kw_only=True)
class Reports:
    """What was reported of the documents of one round, each once."""

    ids: npt.NDArray[np.bytes_]  # sorted
    scores: Floats  # NaN: it was reported that there is none
    num_repeated: int  # rows that say what another one says

    @classmethod
    def of(cls, table: pa.Table, number: int) -> "Reports":
        """The rows of a round, counted from 1. A number that is null, infinite or too large for 32 bits is none.

        Raises SelectorError where two rows of one document say different things.
        """
        is_its = (table["round"].fill_null(0).to_numpy() == number) & table["doc_id"].is_valid().to_numpy()
        rows = table.filter(pa.array(is_its)).combine_chunks()
        values = rows["score"].cast(pa.float64()).to_numpy()
        scores = np.where(np.abs(values) <= _LARGEST, values, np.nan)
        ids = keyed.sortable(rows["doc_id"])
        order = np.argsort(ids, kind="stable")
        ids, scores = ids[order], scores[order]
        is_again = np.r_[False, ids[1:] == ids[:-1]][: len(ids)]
        before = np.r_[np.nan, scores[:-1]][: len(ids)]
        is_other = is_again & ~((scores == before) | (np.isnan(scores) & np.isnan(before)))
        if is_other.any():
            at = int(np.flatnonzero(is_other)[0])
            words = ["none" if np.isnan(score) else f"{score:g}" for score in (before[at], scores[at])]
            doc_id = bytes(ids[at]).ljust(16, b"\0").hex()
            raise SelectorError(
                f"iterative.feedback: document {doc_id} has the scores {words[0]} and {words[1]} in round {number}, "
                f"and nobody knows which one counts ({int(is_other.sum()):,} rows like that). Leave one row of each "
                "document and round; `selector feedback` writes such tables."
            )
        return cls(ids=ids[~is_again], scores=scores[~is_again], num_repeated=int(is_again.sum()))

    def __call__(self, batch: pa.RecordBatch) -> tuple[Floats, int]:
        """The score of each document, NaN where there is none, and how many have no row."""
        if not len(self.ids):
            return np.full(batch.num_rows, np.nan), batch.num_rows
        ids = keyed.sortable(batch["doc_id"])
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        is_reported = self.ids[at] == ids
        return np.where(is_reported, self.scores[at], np.nan), int((~is_reported).sum())


def rows_read(table: pa.Table, read: int, repeated: int, num_rounds: int) -> dict[str, Any]:
    """What became of the rows of a table of which the first rounds were asked for: `read` of them, `repeated` that say
    the same again, `unknown` about documents that their round did not take, and the others, by their rounds."""
    rounds: Ints = table["round"].fill_null(0).to_numpy()
    others = rounds[(rounds < 1) | (rounds > num_rounds)]
    numbers, counts = np.unique(others, return_counts=True)
    largest = np.argsort(-counts, kind="stable")[:_MOST_NAMED]
    return {
        "rows": table.num_rows,
        "read": read,
        "repeated": repeated,
        "unknown": table.num_rows - len(others) - read - repeated,
        "of_other_rounds": len(others),
        "other_rounds": np.sort(numbers[largest]).tolist(),
    }
