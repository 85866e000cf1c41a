"""Another order in which some groups have at least their share of every window, from the first position on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from selector.errors import PolicyError, did_you_mean
from selector.exact import Ints
from selector.order import Along, Groups, groups_in
from selector.order._around import Visits
from selector.order._moved import Moved, Moves
from selector.order._spacing import Numbers
from selector.order._unmet import some_visits, with_unmet

_MOST_PARTS = 10**9  # a share is a fraction of at most so many parts
_AT_ONCE = 1 << 18  # visits that are looked at together

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class LeastShare(Moved):
    """Another order, moved so that any w visits in a row have at least floor(w x share) of a group, for every w.

    A group is all documents with one value of the column `by` (source, cluster, a label, corpus.x), in `shares` as
    text. A visit of it has every place at which its share makes one more: of 1/4 the places 3, 7, 11 … (`at: end`), or
    0, 4, 8 … (`at: start`). The other places are filled by the other order, with what the group has beyond its share
    taken evenly out of it. With several groups whose places collide a window may lack one of each. Without `shares`
    each group has its share of all visits. Groups, and what is in none of them, stay in their order, and no visit
    leaves its phase. The driver holds the group of each visit, up to 10 bytes a visit and 100 million visits.

    Where a group has too few documents, its share is kept for as long as they last; the facts of the manifest say so:
    `missing` has how many there were too few of, by group, and `late` how many visits come after their place.

    Evidence: Physics of language models 3.1, arXiv 2309.14316 (small models on made-up biographies): knowledge that was
    read without questions about it cannot be asked for after any fine-tuning, and can where questions were mixed in
    from the beginning. Reasoning data early: 2510.03264, +19 % after all later training. What share is enough in a
    real corpus was not compared; too much of it is taken from everything else.

    When: instructions, reasoning or paraphrases are to be part of training from its beginning, whatever the order.
    """

    version: ClassVar[int] = 2

    by: str = "source"
    shares: Mapping[str, float] = field(default_factory=dict[str, float])
    at: Literal["end", "start"] = "end"

    def __post_init__(self) -> None:
        for name, share in self.shares.items():
            if not 0 <= share <= 1:
                raise PolicyError(
                    f"least_share.shares.{name}={share} is no share of visits: write a number from 0 to 1."
                )
        if sum(Fraction(str(share)) for share in self.shares.values()) > 1:
            raise PolicyError(
                f"least_share.shares={dict(self.shares)} are more than all visits: write shares of 1 or less together."
            )

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by,)

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.by,)

    def summary(self, visits: Visits, seed: int) -> Groups:
        groups = groups_in(visits.chosen, self.by)
        names = [str(name) for name in groups.names]
        absent = [name for name in self.shares if name not in names] if visits.chosen.num_documents else []
        if absent:
            hint = did_you_mean(absent[0], names)
            raise PolicyError(f"least_share.shares: no chosen document has {self.by} {absent[0]!r}. {hint}")
        return groups

    def groups(self, along: Along, summary: Groups) -> Ints:
        return summary.of(along.batch)

    def laid(self, groups: Numbers, visits: Visits, summary: Groups) -> Numbers:
        shares, laid = self._shares(groups, summary), np.empty_like(groups)
        ends = [*visits.begins[1:].tolist(), len(groups)]
        for begin, end in zip(visits.begins.tolist(), ends, strict=False):
            laid[begin:end] = shares.laid(groups[begin:end], begin)
        return laid

    def facts(self, laid: Numbers, moved: Moves, visits: Visits, summary: Groups) -> Mapping[str, Any]:
        missing, late = self._shares(laid, summary).missing(laid, [str(name) for name in summary.names])
        lines = [
            f"{some_visits(count, 'is', 'are')} missing of {name} for its least share"
            for name, count in missing.items()
        ]
        if late:
            lines.append(f"{some_visits(late, 'comes', 'come')} later than its least share asks for")
        return with_unmet({"by": self.by, "missing": missing, "late": late}, lines)

    def _shares(self, group: Numbers, groups: Groups) -> "Shares":
        """The share of each group, by its number; the last one is that of what is in no group."""
        if not self.shares:
            counts = np.bincount(group, minlength=groups.count + 1)
            counts[-1] = 0
            return Shares(part=counts, parts=np.full(len(counts), max(len(group), 1)), at=self.at)
        exact_ones = [Fraction(str(self.shares.get(str(name), 0))) for name in groups.names]
        exact_ones = [share.limit_denominator(_MOST_PARTS) for share in exact_ones]
        return Shares(
            part=np.array([*(share.numerator for share in exact_ones), 0], np.int64),
            parts=np.array([*(share.denominator for share in exact_ones), 1], np.int64),
            at=self.at,
        )


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The share of each group, `part` of `parts`, and which places of the order it stands for."""

    part: Ints
    parts: Ints
    at: Literal["end", "start"]

    def before(self, place: int) -> Ints:
        """By group, how many of its places come before this one."""
        whole = place * self.part
        return whole // self.parts if self.at == "end" else -(-whole // self.parts)

    def place(self, group: Ints, number: Ints) -> Ints:
        """The place of each of these, which is the visit of this number of its group, counted from 0."""
        part, parts = self.part[group], self.parts[group]
        if self.at == "end":
            return -(-(number + 1) * parts // part) - 1
        return number * parts // part

    def laid(self, group: Numbers, first: int) -> Numbers:
        """The groups of a stretch in their new order; it begins at the position `first`."""
        sizes = np.bincount(group, minlength=len(self.part))
        begin = self.before(first)
        wanted = np.minimum(self.before(first + len(group)) - begin, sizes)
        laid = np.full(len(group), -1, group.dtype)
        for places, of_group in self._kept(begin, wanted, first, len(group)):
            laid[places] = of_group
        laid[laid < 0] = group[self._is_beyond(group, sizes, sizes - wanted)]
        return laid

    def _kept(self, begin: Ints, wanted: Ints, first: int, length: int) -> Iterator[tuple[Ints, Ints]]:
        """The places that groups have for their shares, and their groups, some at a time and the last ones first."""
        bound = length
        for start in reversed(range(0, length, _AT_ONCE)):
            stop = min(start + _AT_ONCE, length)
            done, upto = (np.minimum(self.before(first + place) - begin, wanted) for place in (start, stop))
            of_place = np.repeat(np.arange(len(wanted)), upto - done)
            place = self.place(of_place, (begin + done)[of_place] + _counted(upto - done)) - first
            turn = np.lexsort((of_place, place))
            nth = int(done.sum()) + np.arange(len(turn))
            latest = np.minimum.accumulate(np.append(bound, (place[turn] - nth)[::-1]))[:0:-1]  # so that none is late
            bound = int(latest.min(initial=bound))
            yield nth + np.maximum(latest, 0), of_place[turn]

    def _is_beyond(self, group: Numbers, sizes: Ints, surplus: Ints) -> Bools:
        """Which visits are what their groups have beyond their shares: so many of each, evenly among its own."""
        is_beyond, seen = np.empty(len(group), np.bool_), np.zeros_like(sizes)
        for first in range(0, len(group), _AT_ONCE):
            here = group[first : first + _AT_ONCE]
            by_group = np.argsort(here, kind="stable")
            of_group, counts = here[by_group], np.bincount(here, minlength=len(sizes))
            rank, more, size = seen[of_group] + _counted(counts), surplus[of_group], sizes[of_group]
            is_beyond[first + by_group] = (rank + 1) * more // size > rank * more // size
            seen += counts
        return is_beyond

    def missing(self, group: Numbers, names: list[str]) -> tuple[dict[str, int], int]:
        """Of an order whose visits are of these groups: of which there are too few, how many, and how many are late."""
        sizes, late = np.zeros(len(self.part), np.int64), 0
        for first in range(0, len(group), _AT_ONCE):
            here = group[first : first + _AT_ONCE]
            by_group, counts = np.argsort(here, kind="stable"), np.bincount(here, minlength=len(sizes))
            of_group = here[by_group].astype(np.int64)
            number = sizes[of_group] + _counted(counts)
            shared = self.part[of_group] > 0
            late += int((first + by_group[shared] > self.place(of_group[shared], number[shared])).sum())
            sizes += counts
        missing = np.maximum(self.before(len(group)) - sizes, 0)
        return {names[g]: int(missing[g]) for g in np.flatnonzero(missing)}, late


def _counted(counts: Ints) -> Ints:
    """0, 1, 2 … for each of the counts, one after another."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
