"""Group after group, each of them whole."""

from dataclasses import dataclass

from selector.order import GroupName, GroupSummary, InGroups, Pool, ScoreName
from selector.order._groups import mean_order


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

    When: the last groups are what the model is to be good at in the end, or groups build on each other. Otherwise
    `interleaved`, `mixed` or `shuffled` is at least as good.
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
