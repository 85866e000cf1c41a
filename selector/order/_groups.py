"""Orders that go by groups: what the groups are, in which order, and how each of them is arranged inside.

A group is all documents with one value of a column: one source, cluster, label, or value of a column of the corpus.
Documents that have no value are a group too, the last one.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import exact
from selector.errors import PolicyError, did_you_mean
from selector.exact import Ints, UInt64
from selector.order._difficulty import Direction, difficulty_keys, is_high_first
from selector.order._placed import Placed, random_keys
from selector.plugins.families import name_of
from selector.plugins.options import ScoreName
from selector.plugins.pool import Pool

GroupName = str | int
"""What a policy calls a group: the value of the column."""


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The groups of a pool in their order. Without names they are the clusters, by their own numbers."""

    by: str
    names: tuple[Any, ...] = ()

    @property
    def count(self) -> int:
        """How many groups with a name there are."""
        return len(self.names)

    def of(self, batch: pa.RecordBatch) -> Ints:
        """The number of each document's group, from 0 on."""
        column = batch[self.by]
        if not self.names and self.by == "cluster":
            return column.to_numpy().astype(np.int64)
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        number = {name: i for i, name in enumerate(self.names)}
        words = [number.get(word, self.count) for word in encoded.dictionary.to_pylist()]  # some may be of no document
        codes = encoded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)
        return np.array([*words, self.count], np.int64)[codes]

    def having(self, names: Sequence[GroupName]) -> npt.NDArray[np.bool_]:
        """Which groups have one of these names, by their numbers; the last one stands for no value."""
        return np.array([*(name in names for name in self.names), False], np.bool_)


def groups_in(chosen: Pool, by: str, first: Sequence[GroupName] = (), where: str = "") -> Groups:
    """The groups of a pool: those of `first` in this order, then the others in that of their values.

    Raises PolicyError if `first` names a group that is not there, and says so of the option `where`.
    """
    values = set[Any]().union(*chosen.map(functools.partial(_values, by), by)) - {None}
    absent = [name for name in first if name not in values] if chosen.num_documents else []
    if absent:
        raise PolicyError(
            f"{where}: no chosen document has {by} {absent[0]!r}. {did_you_mean(str(absent[0]), map(str, values))}"
        )
    return Groups(by=by, names=(*(name for name in first if name in values), *sorted(values - set(first))))


def group_sizes(chosen: Pool, groups: Groups) -> Ints:
    """How many rows of a pool each group has, the last one being what is in none."""
    sizes = np.zeros(groups.count + 1, np.int64)
    for counts in chosen.map(functools.partial(_sizes, groups), groups.by):
        sizes += counts
    return sizes


def _sizes(groups: Groups, batch: pa.RecordBatch) -> Ints:
    return np.bincount(groups.of(batch), minlength=groups.count + 1)


def _values(by: str, batch: pa.RecordBatch) -> list[Any]:
    """The values of a batch, each once."""
    return batch[by].unique().to_pylist()


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """The groups, what a large score means, where there is one, and which groups it does not arrange."""

    groups: Groups
    higher_is: str = ""
    shuffled: npt.NDArray[np.bool_] | None = None  # by the number of the group; None: it arranges all of them


@dataclass(frozen=True, kw_only=True)
class InGroups(Placed):
    """Arranges every group by itself: by a score like `by_score`, or else at random.

    Group follows group, unless an order says by `place` or `places` how they go together.
    """

    chance: ClassVar[str]
    """The purpose of what is drawn at random."""

    by: str = "source"
    score: ScoreName | None = None
    direction: Direction = "curriculum"

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by,)

    def summary(self, chosen: Pool, seed: int) -> Any:
        return self.summarised(chosen)

    def summarised(
        self, chosen: Pool, first: Sequence[GroupName] = (), sorted_groups: Sequence[GroupName] = ()
    ) -> GroupSummary:
        """The summary where these groups come first, and the score arranges only those groups; none: all of them."""
        if sorted_groups and self.score is None:
            raise PolicyError(f"{name_of(self)}.sorted_groups needs a score to sort them by: add score: NAME.")
        named = (*first, *(name for name in sorted_groups if name not in first))
        known = Groups(by=self.by) if self.by == "cluster" and not named else self.named_groups(chosen, named)
        others = sorted(set(known.names) - set(first))
        groups = Groups(by=self.by, names=(*(name for name in known.names if name in first), *others))
        return GroupSummary(
            groups=groups,
            higher_is=chosen.higher_is(self.score) if self.score else "",
            shuffled=~groups.having(sorted_groups) if sorted_groups else None,
        )

    def named_groups(self, chosen: Pool, first: Sequence[GroupName] = ()) -> Groups:
        """The groups of the pool, each with its name."""
        return groups_in(chosen, self.by, first, name_of(self))

    def groups(self, batch: pa.RecordBatch, summary: GroupSummary) -> Ints:
        return summary.groups.of(batch)

    def keys(self, batch: pa.RecordBatch, summary: GroupSummary, seed: int) -> UInt64:
        if self.score is None:
            return random_keys(batch, seed, self.chance)
        keys = difficulty_keys(batch, self.score, summary.higher_is, self.direction)
        if summary.shuffled is None:
            return keys
        return np.where(summary.shuffled[summary.groups.of(batch)], random_keys(batch, seed, self.chance), keys)


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
