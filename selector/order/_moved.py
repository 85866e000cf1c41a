"""Orders around another one in which the visits of a group stay in their order, and groups change places.

Think of the visits as beads on a string, each in the colour of its group. Which colour comes where is all that must be
known at once: a few bytes for each visit; what else is known of it stays with its document. The first bead of a colour
afterwards is the first one before, the second is the second, and so on.
"""

import abc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np

from selector.exact import Ints, keyed
from selector.order._around import Along, Around, Visits, in_one_piece
from selector.order._contract import Positions
from selector.order._placed import with_ranks
from selector.order._spacing import Numbers, by_group, counted_on, sizes_of, small, spaced
from selector.plugins.families import name_of
from selector.plugins.pool import Pool


@dataclass(frozen=True, kw_only=True)
class Moved(Around):
    """Moves the visits of another order by the groups of them all; none leaves its stretch of one phase."""

    def summary(self, visits: Visits, seed: int) -> Any:
        """What groups need to know of all visits; small, and picklable."""
        return None

    @abc.abstractmethod
    def groups(self, along: Along, summary: Any) -> Ints:
        """The group of each visit, from 0 on and below 2**31; negative: it is in none."""

    @abc.abstractmethod
    def laid(self, groups: Numbers, visits: Visits, summary: Any) -> Numbers:
        """The groups of all visits in their new order, from those in the order inside; all that are in no group stay in
        their order too."""

    @abc.abstractmethod
    def facts(self, laid: Numbers, moved: "Moves", visits: Visits, summary: Any) -> Mapping[str, Any]:
        """What the manifest says of the order: from the groups in their new order, and how far visits moved."""

    @final
    def arrange(self, chosen: Pool, seed: int) -> Positions:
        positions = self.inner.arrange(chosen, seed)
        along, every = in_one_piece(self, with_ranks(self, chosen, seed), positions)
        every.check_room(self)
        summary = self.summary(every, seed)
        moves = self.moves(small(self.groups(along, summary)), every, summary)
        order = np.concatenate([np.empty(0, np.int64), *moves.stretches(max(every.count, 1))])
        moved = positions.rearranged(order, keyed.words(chosen.table("doc_id")["doc_id"]))
        return replace(moved, facts={**moved.facts, **self.facts_of(moves, every, summary)})

    @final
    def moves(self, groups: Numbers, visits: Visits, summary: Any) -> "Moves":
        """Where visits go, from their groups in the order inside."""
        return Moves.of(groups, self.laid(groups, visits, summary))

    @final
    def facts_of(self, moves: "Moves", visits: Visits, summary: Any) -> dict[str, Any]:
        """What the manifest says of the order, once all moves were looked at."""
        return {name_of(self): dict(self.facts(moves.laid, moves, visits, summary))}


@dataclass(kw_only=True)
class Moves:
    """The places of visits before and after, those of a group in the same order: a few bytes for each."""

    laid: Numbers  # the groups of all visits in their new order
    places: Numbers  # where they were before, group after group
    sizes: Numbers  # of the groups; the last one is of those in none
    greatest: int = field(default=0, init=False)  # distance of those that were looked at
    total: int = field(default=0, init=False)

    @classmethod
    def of(cls, groups: Numbers, laid: Numbers) -> "Moves":
        """From the groups of visits before and after; a negative one is none."""
        num_groups = int(groups.max(initial=0)) + 2
        sizes = sizes_of(groups, num_groups)
        return cls(laid=laid, places=by_group(groups, sizes), sizes=sizes)

    def stretches(self, length: int) -> Iterator[Numbers]:
        """Stretch after stretch of the new order, where each visit was before."""
        seen = np.cumsum(self.sizes, dtype=np.int32) - self.sizes
        for first in range(0, len(self.laid), length):
            here = self.places[counted_on(self.laid[first : first + length], seen)]
            moved = np.abs(here.astype(np.int64) - np.arange(first, first + len(here)))
            self.greatest, self.total = max(self.greatest, int(moved.max())), self.total + int(moved.sum())
            yield here

    @property
    def distances(self) -> dict[str, float]:
        """How far visits moved, for the facts of a manifest."""
        return {
            "moved_at_most": self.greatest,
            "moved_on_average": round(self.total / len(self.laid), 3) if len(self.laid) else 0.0,
        }


def kept_apart(groups: Numbers, begins: Ints, window_of: Callable[[Numbers], int], most: int) -> Numbers:
    """The groups of visits in another order, in which a window has at most `most` of one group, wherever that can be.

    Every visit comes as early as it can; those of a group stay in their order, and none leaves its stretch of one
    phase. `window_of` says how wide a window is, from the groups of a stretch; windows go on from stretch to stretch.
    Negative groups are of one visit each.
    """
    laid = np.empty_like(groups)
    for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(groups)], strict=False):
        window = window_of(groups[begin:end])
        laid[begin:end] = spaced(groups[begin:end], window, most, laid[max(begin - window, 0) : begin])
    return laid
