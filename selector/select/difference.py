"""What a large model has learned and a small one has not."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from selector import exact
from selector.exact import Floats, UInt64
from selector.select import Group, Ranked, Reasons, ScoreName


@dataclass(frozen=True, kw_only=True)
class Difference(Ranked):
    """Takes the documents whose loss under a small reference model exceeds that under a teacher by most (MiniPLM).

    Both scores are mean losses per token; the value is reference minus teacher, computed from the stored scores
    without rounding. The ratio of log-probabilities that the published readme writes ranks otherwise; this is what the
    published code does. Ties by doc_id; a document that lacks one of the scores comes last. The published share is
    half: `budget: {fraction: 0.5}`. Nothing is drawn.

    Source: arXiv 2410.17215. Setting: 50 of 100 billion tokens of the Pile, a teacher of 1.8 billion parameters and a
    reference of 104 million. Reported: 2.2 times less compute for the same loss. Not measured here. There is no
    diversity in it; `random` is as good where the two models disagree about noise only.
    """

    reference: ScoreName
    teacher: ScoreName

    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> UInt64:
        return exact.largest_first(self.values(batch, summary, seed))

    def values(self, batch: pa.RecordBatch, summary: Any, seed: int) -> Floats:
        return exact.floats(batch[self.reference]) - exact.floats(batch[self.teacher])

    def reasons(self, group: Group) -> Reasons:
        best = f"among the largest {self.reference} - {self.teacher}, {{spent}} {{unit}} in all"
        return Reasons(kept=best, left_out=f"not {best}")
