"""How often a model solved a problem, and how much that is worth knowing.

Source: rollouts of reinforcement learning with verifiable answers. A group of k answers of which all or none are right
has no advantage to learn from (GRPO, arXiv:2402.03300; DAPO, arXiv:2503.14476, leaves such groups out), and p(1 - p) is
the variance of the reward, largest where every second answer is right. The posterior is Beta(a + successes, b +
failures), by default with Jeffreys's prior (a = b = 0.5), so that one lucky answer is not a rate of 1.

Unit: probabilities. Range: 0 to 1. A high rate means easier. Not measured here.
"""

import functools
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import Floats, keyed
from selector.rate import Columns, Meaning, Rater, TablePath
from selector.rate._known import Known

_LARGEST_GROUP = 4096


@dataclass(frozen=True, kw_only=True)
class PassRate(Rater):
    """How likely the model is to solve the document's problem, by its rollouts, with how sure that is.

    The table has a row for each time that a prompt was tried: `n` answers of which `successes` were right; rows of one
    doc_id are added up. The score is the posterior's mean (high: easy), `deviation` its standard deviation (high: tried
    too seldom to know), `informative` the probability that of a group of `group` answers some are right and some are
    wrong, `learnability` the expected p(1 - p); both are highest where practice pays. A prompt of 0 answers has the
    prior; one without a row is missing; one with more successes than answers has failed.
    """

    rollouts: Annotated[TablePath, Columns.several(doc_id="doc_id", n="int64", successes="int64")] | None
    prior_successes: float = 0.5
    prior_failures: float = 0.5
    group: int = 8

    def __post_init__(self) -> None:
        if self.rollouts is None:
            raise PolicyError("rollouts: name the table of rollouts (doc_id, n, successes), e.g. rollouts.parquet.")
        if not (0 < self.prior_successes < np.inf and 0 < self.prior_failures < np.inf):
            raise PolicyError(
                f"pass_rate: prior_successes={self.prior_successes:g} and prior_failures={self.prior_failures:g} are "
                "finite and above 0. Write 0.5 for each (Jeffreys), or 1 for each (all rates alike)."
            )
        if not 2 <= self.group <= _LARGEST_GROUP:
            raise PolicyError(
                f"pass_rate.group={self.group} is not from 2 to {_LARGEST_GROUP:,}. Write how many answers your "
                "training draws for a prompt at once."
            )

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def scores(self, name: str) -> dict[str, Meaning]:
        return {
            name: "easier",
            f"{name}_deviation": "rarer",
            f"{name}_informative": "better",
            f"{name}_learnability": "better",
        }

    def prepare(self) -> None:
        super().prepare()
        assert self._known is not None

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self._known.of(batch["doc_id"])

    @functools.cached_property
    def _known(self) -> Known:
        """The documents of the table, and their scores."""
        assert self.rollouts is not None
        table = self.rollouts.table.drop_null().combine_chunks()
        ids, place = np.unique(keyed.sortable(table["doc_id"]), return_inverse=True)
        tried, solved = (
            np.bincount(place, weights=table[name].to_numpy(), minlength=len(ids)) for name in ("n", "successes")
        )
        is_possible = (solved >= 0) & (tried >= solved)
        solved = np.where(is_possible, solved, 0)
        posterior = of_rollouts(np.maximum(tried, 0), solved, self.prior_successes, self.prior_failures, self.group)
        scores = dict(zip(self.scores("score"), map(pa.array, posterior), strict=True))
        return Known(ids=ids, scores=scores, has_failed=~is_possible)


def of_rollouts(n: Floats, successes: Floats, a: float, b: float, group: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Of the posterior Beta(a + s, b + n - s): its mean and standard deviation, the probability that of so many answers
    at least one is right and one is wrong, and the expected p(1 - p)."""
    a_after, b_after = a + successes, b + n - successes
    total = a_after + b_after
    mean = a_after / total
    all_right, all_wrong = np.ones_like(mean), np.ones_like(mean)
    for i in range(group):
        all_right *= (a_after + i) / (total + i)
        all_wrong *= (b_after + i) / (total + i)
    deviation = np.sqrt(a_after * b_after / (total**2 * (total + 1)))
    return mean, deviation, 1 - all_right - all_wrong, a_after * b_after / (total * (total + 1))
