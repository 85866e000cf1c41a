"""Group after group, each of them whole."""

import functools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pyarrow as pa

from selector import exact
from selector.exact import Ints
from selector.order import Direction, GroupName, Groups, GroupSummary, InGroups, Pool, ScoreName, is_high_first


@dataclass(frozen=True, kw_only=True)
class Blocked(InGroups):
    """Visits one group after another, each of them whole, and inside in the order of a score or at random.

    A group is all documents with one value of the column `by` (source, cluster, a label, corpus.x). The groups of
    `first` come first, in this order, the others in that of their values, or in that of their mean of the score
    `groups_by` (clients of federated training by their loss); documents that have none come last. `score` and
    `direction` arrange a group as in `by_score`; where `sorted_groups` names some, only those, and the others are
    shuffled. Groups that are objectives, with difficulty inside, are the dual curriculum of FiGRet (whose details are
    ours: we read its abstract).

    Evidence: arXiv 2408.07888 (medical question answering, fine-tuning, 1B to 13B parameters) calls it blocked, and
    with a score blocked curriculum: on average behind the interleaved orders, and not always better than random. CORGI
    (2310.09518) found blocks worse than going round (`round_robin`). One language by perplexity and the others as they
    come: Llama-3-SynE, continued pre-training on 100B tokens. Groups that are not seen again are forgotten: 2309.12927.
    """

    chance = "blocked"

    groups_by: ScoreName | None = None
    first: tuple[GroupName, ...] = ()
    sorted_groups: tuple[GroupName, ...] = ()

    def summary(self, chosen: Pool, seed: int) -> GroupSummary:
        first = self.first
        if self.groups_by is not None:
            others = mean_order(self.named_groups(chosen, first), chosen, self.groups_by, self.direction)
            first = (*first, *(name for name in others if name not in first))
        return self.summarised(chosen, first, self.sorted_groups)


def mean_order(groups: Groups, chosen: Pool, score: str, direction: Direction) -> list[GroupName]:
    """The groups in the order of their mean scores, easy ones first or hard ones first; without a score last.

    Scores are added up as whole parts of the largest one, so that no sum rounds: 2**-30 of it is the smallest
    difference between means that counts.
    """
    largest = max(chosen.map(functools.partial(_largest, score), score), default=0.0) or 1.0
    sums, counts = np.zeros((2, groups.count), np.int64)
    for added, number in chosen.map(functools.partial(_added, groups, score, largest), groups.by, score):
        sums, counts = sums + added, counts + number
    sign = -1 if is_high_first(chosen.higher_is(score), direction) else 1
    means = [
        sign * Fraction(total, count) if count else None
        for total, count in zip(sums.tolist(), counts.tolist(), strict=True)
    ]
    places = sorted(range(groups.count), key=lambda group: (means[group] is None, means[group] or 0, group))
    return [groups.names[group] for group in places]


def _largest(score: str, batch: pa.RecordBatch) -> float:
    """The largest absolute score of a batch."""
    scores = exact.floats(batch[score])
    return float(np.abs(scores[~np.isnan(scores)]).max(initial=0.0))


def _added(groups: Groups, score: str, largest: float, batch: pa.RecordBatch) -> tuple[Ints, Ints]:
    """By group, the sum of its scores in parts of 2**-30 of the largest, and how many documents have one."""
    scores, group = exact.floats(batch[score]), groups.of(batch)
    known = ~np.isnan(scores) & (group < groups.count)
    sums = np.zeros(groups.count, np.int64)
    np.add.at(sums, group[known], np.rint(scores[known] / largest * 2.0**30).astype(np.int64))
    return sums, np.bincount(group[known], minlength=groups.count)
