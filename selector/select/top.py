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

    Nothing is drawn: a document is kept with probability 1 or 0, so no estimate can be corrected for what was left out.
    Prefer `kmeans_quality`, or use this as its comparison.

    Source: the plain top-k of QuRating (arXiv 2402.09739). Setting: 30 of 260 billion tokens for models of 1.3 billion
    parameters. Reported: poor beside draws by the same score. Measured on 5 % of 6,936 pages of Debian documentation
    (64 clusters, 5 seeds, of random 25; entropy of packages as a part of the largest): .017 ± .041 by prototypicality,
    which leaves 1.4 of 37 packages and is far worse than random, .688 ± .009. `random` is better wherever the score
    prefers one kind of document, and as good where it says nothing.
    """

    score: ScoreName

    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> UInt64:
        return exact.descending(batch[self.score])

    def values(self, batch: pa.RecordBatch, summary: Any, seed: int) -> Floats:
        return exact.floats(batch[self.score])

    def reasons(self, group: Group) -> Reasons:
        best = "among the best by {score}, {spent} {unit} in all"
        return Reasons(kept=(best, {"score": self.score}), left_out=(f"not {best}", {"score": self.score}))
