"""The best documents by one score, and nothing else."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from selector import exact
from selector.exact import Floats, UInt64
from selector.select import Group, Ranked, Reasons, ScoreName


@dataclass(frozen=True, kw_only=True)
class Top(Ranked):
    """Takes the documents with the highest score, whatever the score means; ties by doc_id, no score last.

    Nothing is drawn: a document is kept with probability 1 or 0, so no estimate can be corrected for what
    was left out. Prefer `kmeans_quality`, or use this as its comparison (QuRating, arXiv 2402.09739, found
    plain top-k poor).
    """

    score: ScoreName

    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> UInt64:
        return exact.descending(batch[self.score])

    def values(self, batch: pa.RecordBatch, summary: Any, seed: int) -> Floats:
        return exact.floats(batch[self.score])

    def reasons(self, group: Group) -> Reasons:
        best = "among the best by {score}, {spent} {unit} in all"
        return Reasons(kept=(best, {"score": self.score}), left_out=(f"not {best}", {"score": self.score}))
