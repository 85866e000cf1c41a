"""How far a student model is behind its teacher on a document.

Source: TAPIR (Yue et al. 2024, EMNLP Findings, arXiv:2405.13448), model fitting difficulty: a judge's grade (1 to 10)
of the teacher's answer minus its grade of the fitted student's. They train the student on what has a gap of at least a
limit (about 2; unverified) and raise its share from round to round. No code was published.

Unit: that of the two scores. Range: any number. A high value means that there is much to learn from the teacher; below
0 the student is better. Not measured here.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector import exact
from selector.rate import Rater, ScoreName


@dataclass(frozen=True, kw_only=True)
class FittingDifficulty(Rater):
    """The teacher's score minus the student's: what the student has not learned of the document yet.

    Both are scores of which a large one is better, such as a judge's grades of the two answers. Without one of them
    there is no difference: missing. To keep what has a gap of 2 or more, write `threshold: {least: 2}`.
    """

    higher_is = "harder"

    teacher: ScoreName
    student: ScoreName

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        gap = exact.floats(batch[self.teacher]) - exact.floats(batch[self.student])
        is_missing = np.isnan(gap)
        state = pa.array(np.where(is_missing, "missing", "ok"), pa.string())
        return pa.record_batch({"score": pa.array(gap, mask=is_missing), "state": state})
