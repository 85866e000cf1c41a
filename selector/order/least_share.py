"""Another order in which some groups have at least their share of every window, from the first position on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import ClassVar, Literal

import numpy as np

from selector.errors import PolicyError, did_you_mean
from selector.exact import Ints, keyed
from selector.order import Groups, Order, Pool, Positions, groups_in
from selector.order._moved import stretches

_MOST_PARTS = 10**9  # a share is a fraction of at most so many parts


@dataclass(frozen=True, kw_only=True)
class LeastShare(Order):
    """Another order, moved so that any w visits in a row have at least floor(w x share) of a group, for every w.

    A group is all documents with one value of the column `by` (source, cluster, a label, corpus.x), in `shares` as
    text. A visit of it has every place at which its share makes one more: of 1/4 the places 3, 7, 11 … (`at: end`), or
    0, 4, 8 … (`at: start`). The other places are filled by the other order, with what the group has beyond its share
    taken evenly out of it. With several groups whose places collide a window may lack one of each. Without `shares`
    each group has its share of all visits. Groups, and what is in none of them, stay in their order, and no visit
    leaves its phase. The driver holds all visits.

    Where a group has too few documents, its share is kept for as long as they last; the facts of the manifest say so:
    `missing` has how many there were too few of, by group, and `late` how many visits come after their place.

    Evidence: Physics of language models 3.1, arXiv 2309.14316 (small models on made-up biographies): knowledge that was
    read without questions about it cannot be asked for after any fine-tuning, and can where questions were mixed in
    from the beginning. Reasoning data early: 2510.03264, +19 % after all later training. What share is enough in a
    real corpus was not compared; too much of it is taken from everything else.

    When: instructions, reasoning or paraphrases are to be part of training from its beginning, whatever the order.
    """

    version: ClassVar[int] = 2

    inner: Order
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

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        positions = self.inner.arrange(chosen, seed)
        groups = groups_in(chosen, self.by)
        of_row = np.concatenate([np.empty(0, np.int64), *chosen.map(groups.of, self.by)])
        group = of_row[positions.visits["document"].to_numpy()]
        shares = self._shares(chosen, groups, group)
        begins, _ = stretches(positions.visits["phase"])
        ends = [*begins.tolist()[1:], len(group)]
        places = [np.empty(0, np.int64)]
        for begin, end in zip(begins.tolist(), ends, strict=False):
            places.append(begin + shares.laid(group[begin:end], begin))
        order = np.concatenate(places)
        ids = keyed.words(chosen.table("doc_id")["doc_id"])
        facts = {"by": self.by, **shares.unmet(group[order], [str(name) for name in groups.names])}
        return replace(positions.rearranged(order, ids), facts={**positions.facts, "least_share": facts})

    def _shares(self, chosen: Pool, groups: Groups, group: Ints) -> "Shares":
        """The share of each group, by its number; the last one is that of what is in no group."""
        if not self.shares:
            counts = np.bincount(group, minlength=groups.count + 1)
            counts[-1] = 0
            return Shares(part=counts, parts=np.full(len(counts), max(len(group), 1)), at=self.at)
        names = [str(name) for name in groups.names]
        absent = [name for name in self.shares if name not in names] if chosen.num_documents else []
        if absent:
            hint = did_you_mean(absent[0], names)
            raise PolicyError(f"least_share.shares: no chosen document has {self.by} {absent[0]!r}. {hint}")
        exact_ones = [Fraction(str(self.shares.get(name, 0))).limit_denominator(_MOST_PARTS) for name in names]
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

    def laid(self, group: Ints, first: int) -> Ints:
        """The rows of a stretch in their new order; it begins at the position `first`, and row i is of `group[i]`."""
        sizes = np.bincount(group, minlength=len(self.part))
        begin = self.before(first)
        wanted = np.minimum(self.before(first + len(group)) - begin, sizes)
        of_place = np.repeat(np.arange(len(sizes)), wanted)
        place = self.place(of_place, begin[of_place] + _counted(wanted)) - first
        turn = np.lexsort((of_place, place))
        nth = np.arange(len(turn))
        latest = np.minimum.accumulate((place[turn] - nth)[::-1])[::-1]  # so that none of the later ones has to be late
        places = nth + np.maximum(latest, 0)

        by_group = np.argsort(group, kind="stable")
        surplus, rank = (sizes - wanted)[group[by_group]], _counted(sizes)
        size = sizes[group[by_group]]
        is_free = np.empty(len(group), np.bool_)
        is_free[by_group] = (rank + 1) * surplus // size > rank * surplus // size
        laid, is_kept = np.empty(len(group), np.int64), np.zeros(len(group), np.bool_)
        laid[places], is_kept[places] = of_place[turn], True
        laid[~is_kept] = group[is_free]
        order = np.empty(len(group), np.int64)
        order[np.argsort(laid, kind="stable")] = by_group
        return order

    def unmet(self, group: Ints, names: list[str]) -> dict[str, object]:
        """What the manifest says of an order whose visits are of these groups: of which there are too few or late."""
        sizes = np.bincount(group, minlength=len(self.part))
        missing = np.maximum(self.before(len(group)) - sizes, 0)
        by_group = np.argsort(group, kind="stable")
        shared = self.part[group[by_group]] > 0
        number, visits = _counted(sizes)[shared], by_group[shared]
        late = int((visits > self.place(group[visits], number)).sum())
        return {"missing": {names[g]: int(missing[g]) for g in np.flatnonzero(missing)}, "late": late}


def _counted(counts: Ints) -> Ints:
    """0, 1, 2 … for each of the counts, one after another."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
