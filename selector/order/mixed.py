"""All groups side by side, in the proportions that the policy wants."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from selector.errors import PolicyError, listed
from selector.exact import Ints
from selector.order import GroupName, GroupSummary, InGroups, Pool
from selector.order._unmet import with_unmet

_MOST_GROUPS, _MOST_TURNS = 1_000, 10_000


@dataclass(frozen=True, kw_only=True)
class Mixed(InGroups):
    """Takes at every position a document of the group that is most behind its weight (deficit round robin).

    Every stretch of the order then has the mixture of `weights`, to within one document of each group. After i
    documents a group is behind by weight * max(i, 1) - its documents so far, the rule of Megatron's blends; ties go to
    the group that `weights` names first. These are fractions here, which Megatron computes in doubles: with .6, .3 and
    .1 its fourth document can be another one. Once a group has no more documents, the others go on as if it had never
    been there (ours). Groups of weight 0, and documents without a value, come last. Without `weights` every group is
    spread evenly over the whole order: its share of any stretch is its share of all documents.

    A group is all documents with one value of the column `by` (source, cluster, a label, corpus.x), in `weights` as
    text. Inside it is arranged by `score` and `direction` as in `by_score`; where `sorted_groups` names some, only
    those, and the others are shuffled, as Llama-3-SynE does with one of its two languages (we did not find how it
    normalises; the ranks inside a language need no normalising).

    Evidence: mixtures decide more than orders do; that they should hold in every stretch is practice in pre-training
    (Megatron, OLMo-core, Levanter), not a published comparison. For its mixtures, sorted by perplexity in the first
    phase, Llama-3-SynE reports +8.8 on C-Eval and +6.3 on CMMLU over the model that it began with, not over another
    order.

    When: sources are few and their shares matter: then no stretch lacks one by chance. On the whole the mixture is
    that of `shuffled`, and over long stretches no difference is reported.
    """

    chance = "mixed"

    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    sorted_groups: tuple[GroupName, ...] = ()

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise PolicyError(f"mixed.weights.{name}={weight} is no weight: write a number from 0 on.")
        if self.weights and not any(self.weights.values()):
            raise PolicyError("mixed.weights gives no group a weight: write, for example, {web: 0.7, code: 0.3}.")
        if len(self.weights) > _MOST_GROUPS or sum(self._turns.values()) > _MOST_TURNS:
            raise PolicyError(
                f"mixed.weights has {len(self.weights):,} groups whose mixture repeats every "
                f"{sum(self._turns.values()):,} documents. Write at most {_MOST_GROUPS:,} groups, and weights of so "
                f"few digits that it repeats within {_MOST_TURNS:,}: 0.333 rather than 0.3333333."
            )

    @property
    def _turns(self) -> dict[str, int]:
        """The weights as the smallest whole numbers."""
        weights = {name: Fraction(str(weight)) for name, weight in self.weights.items()}
        scale = math.lcm(*(weight.denominator for weight in weights.values()))
        whole = {name: int(weight * scale) for name, weight in weights.items()}
        divisor = math.gcd(*whole.values())
        return {name: weight // divisor for name, weight in whole.items()}

    def summary(self, chosen: Pool, seed: int) -> GroupSummary:
        if not self.weights:
            return self.summarised(chosen, sorted_groups=self.sorted_groups)
        names = self.named_groups(chosen).names
        missing = [name for name in names if str(name) not in self.weights]
        if missing:
            raise PolicyError(
                f"mixed.weights says nothing of {self.by} {missing[0]!r}, which has chosen documents: add it, with 0 "
                "if its documents shall come last."
            )
        known = {str(name): name for name in names}
        return self.summarised(chosen, [known[name] for name in self.weights if name in known], self.sorted_groups)

    def places(self, group: Ints, rank: Ints, sizes: Ints, summary: GroupSummary) -> Ints:
        if not self.weights:
            return (2 * rank + 1) * int(sizes.sum()) // sizes[group]
        return _taken_in_turn(group, rank, *self._sizes_and_turns(sizes, summary))

    def facts(self, sizes: Ints, summary: GroupSummary) -> Mapping[str, Any]:
        """Names that no document has, and for how many visits the weights hold, if some group ends before others."""
        facts, lines, names = dict[str, Any](), list[str](), [str(name) for name in summary.groups.names]
        if absent := sorted(name for name in self.weights if name not in names):
            nearest = {name: near for name in absent for near in difflib.get_close_matches(name, names, n=1)}
            facts["absent"] = {"column": self.by, "names": absent, "nearest": nearest}
            hint = f". Did you mean {listed([repr(near) for near in nearest.values()])}?" if nearest else ""
            lines.append(f"mixed.weights: no chosen document has the {self.by} {listed(absent)}{hint}")
        stretches = _stretches(*self._sizes_and_turns(sizes, summary)) if self.weights and len(sizes) else []
        if len(stretches) > 1 and (stretches[-1].ends - stretches[0].ends).sum() > sum(self._turns.values()):
            is_over = stretches[0].ends[: len(names)] == np.pad(sizes, (0, len(names)))[: len(names)]
            ended = np.flatnonzero(is_over & (stretches[0].ends[: len(names)] > 0)).tolist()
            facts |= {"holds": int(stretches[0].ends.sum()), "ended": [names[g] for g in ended]}
            if ended:
                over = f"after them there is no more of {listed(facts['ended'])}"
                lines.append(f"the weights of mixed hold for {facts['holds']:,} visits: {over}")
        return {"mixed": with_unmet(facts, lines)} if facts else {}

    def _sizes_and_turns(self, sizes: Ints, summary: GroupSummary) -> tuple[Ints, Ints]:
        """By group how many documents it has, and how many turns of a round."""
        turns = np.zeros(max(len(sizes), summary.groups.count + 1), np.int64)
        of_group = self._turns
        turns[: summary.groups.count] = [of_group[str(name)] for name in summary.groups.names]
        return np.pad(sizes, (0, len(turns) - len(sizes))), turns


def _taken_in_turn(group: Ints, rank: Ints, sizes: Ints, turns: Ints) -> Ints:
    """The place of each rank of a group of so many documents, which gets so many of a round of `turns.sum()` turns."""
    stretches = _stretches(sizes, turns)
    places = np.full(len(group), sizes[turns > 0].sum(), np.int64)
    ends = np.array([stretch.ends for stretch in stretches], np.int64).reshape(len(stretches), len(sizes))
    for g in np.unique(group[turns[group] > 0]).tolist():
        rows = np.flatnonzero(group == g)
        number = np.searchsorted(ends[:, g], rank[rows], "right")
        for s in np.unique(number).tolist():
            here = rows[number == s]
            places[here] = stretches[s].places(g, rank[here])
    return places


@dataclass(frozen=True, kw_only=True)
class _Stretch:
    """A stretch of the order in which the same groups take turns, until one of them has no more documents."""

    first: int  # its first position
    begins: Ints  # by group: how many of its documents come before the stretch
    ends: Ints  # and how many before the next one
    opening: list[Ints]  # by group: which of the first turns it has, until nobody is behind
    round: list[Ints]  # by group: which turns of every round after that it has

    def places(self, group: int, rank: Ints) -> Ints:
        """The positions of these ranks of a group."""
        opening, taken = self.opening[group], self.round[group]
        opened, length = (sum(map(len, turns)) for turns in (self.opening, self.round))
        nth = rank - self.begins[group]
        number, which = np.divmod(nth - len(opening), max(len(taken), 1))
        later = opened + number * length + _pick(taken, which)
        return self.first + np.where(nth < len(opening), _pick(opening, nth), later)


def _pick(turns: Ints, which: Ints) -> Ints:
    """These of the turns; any number where there are not so many."""
    return np.concatenate([turns, [0]])[np.clip(which, 0, len(turns))]


def _stretches(sizes: Ints, turns: Ints) -> list[_Stretch]:
    """The stretches of the order, first to last."""
    stretches: list[_Stretch] = []
    begins, first = np.zeros_like(sizes), 0
    while ((left := sizes - begins) * turns > 0).any():
        active = np.where(left > 0, turns, 0)
        active //= np.gcd.reduce(active)
        opening = _turns(active, begins, left)
        counts = np.array([len(taken) for taken in opening])
        later = opening
        if (counts < left)[active > 0].all():
            later = _turns(active, active, np.full_like(left, active.sum() + 1), num_turns=int(active.sum()))
            counts = counts + _before_one_ends(left - counts, active, later)
        stretches.append(_Stretch(first=first, begins=begins, ends=begins + counts, opening=opening, round=later))
        begins, first = begins + counts, first + int(counts.sum())
    return stretches


def _before_one_ends(left: Ints, active: Ints, round_: list[Ints]) -> Ints:
    """How many documents of each group are placed, round after round, until one has none left."""
    groups = np.flatnonzero(active)
    number, which = np.divmod(left[groups] - 1, active[groups])
    lasts = number * active.sum() + [round_[group][turn] for group, turn in zip(groups, which, strict=True)]
    rounds, rest = divmod(int(lasts.min()) + 1, int(active.sum()))
    return rounds * active + [np.searchsorted(taken, rest) for taken in round_]


def _turns(active: Ints, placed: Ints, left: Ints, *, num_turns: int | None = None) -> list[Ints]:
    """By group, which turns it takes: until a group has no more documents, or nobody is behind, or so many turns.

    Of each group that takes part so many documents are placed already.
    """
    length, num_placed = int(active.sum()), int(placed[active > 0].sum())
    behind = active * max(num_placed, 1) - placed * length
    behind[active == 0] = -(2**62)
    left, taken = left.copy(), list[int]()
    while len(taken) != num_turns and (num_turns or num_placed == 0 or behind[active > 0].any()):
        group = int(behind.argmax())
        taken.append(group)
        left[group] -= 1
        if left[group] == 0:
            break
        behind[group] -= length
        behind += active if num_placed else 0
        num_placed += 1
    groups = np.array(taken, np.int64)
    return [np.flatnonzero(groups == g) for g in range(len(active))]
