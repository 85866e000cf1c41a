"""Orders around another one in which the visits of a group stay in their order, and groups change places.

Think of the visits as beads on a string, each in the colour of its group. Which colour comes where is all that must be
known at once: a number for each visit; what else is known of it stays with its document. The first bead of a colour
afterwards is the first one before, the second is the second, and so on.
"""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np

from selector.exact import Ints, keyed
from selector.order._around import Along, Around, Visits, in_one_piece
from selector.order._contract import Positions
from selector.order._placed import with_ranks
from selector.order._spacing import Numbers, spaced
from selector.plugins.families import name_of
from selector.plugins.pool import Pool

_MOST_SMALL = 2**31 - 1
_AT_ONCE = 1 << 20  # places that are looked at together


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
    def facts(self, laid: Numbers, order: Numbers, visits: Visits, summary: Any) -> Mapping[str, Any]:
        """What the manifest says of the order: from the groups in their new order, and from the positions that visits
        have in the order inside."""

    @final
    def arrange(self, chosen: Pool, seed: int) -> Positions:
        positions = self.inner.arrange(chosen, seed)
        along, every = in_one_piece(self, with_ranks(self, chosen, seed), positions)
        summary = self.summary(every, seed)
        order, facts = self.moved(self.groups(along, summary).astype(np.int32), every, summary)
        moved = positions.rearranged(order, keyed.words(chosen.table("doc_id")["doc_id"]))
        return replace(moved, facts={**moved.facts, **facts})

    @final
    def moved(self, groups: Numbers, visits: Visits, summary: Any) -> tuple[Numbers, dict[str, Any]]:
        """The positions that visits have in the order inside, in their new order, and the facts."""
        laid = self.laid(groups, visits, summary)
        order = matched(groups, laid)
        return order, {name_of(self): dict(self.facts(laid, order, visits, summary))}


def matched(before: Numbers, after: Numbers) -> Numbers:
    """Where each place's visit was before, from the groups before and after: those of a group stay in their order."""
    order = np.empty(len(before), np.int32 if len(before) <= _MOST_SMALL else np.int64)
    order[_by_group(after)] = _by_group(before)
    return order


def _by_group(groups: Numbers) -> Ints:
    is_few = int(groups.max(initial=0)) < 1 << 15
    return np.argsort(groups.astype(np.int16) if is_few else groups, kind="stable")  # of such numbers it is quicker


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


def moved_by(order: Numbers) -> dict[str, float]:
    """How far visits moved, for the facts of a manifest."""
    greatest = total = 0
    for first in range(0, len(order), _AT_ONCE):
        here = order[first : first + _AT_ONCE]
        moved = np.abs(here.astype(np.int64) - np.arange(first, first + len(here)))
        greatest, total = max(greatest, int(moved.max())), total + int(moved.sum())
    return {
        "moved_at_most": greatest,
        "moved_on_average": round(total / len(order), 3) if len(order) else 0.0,
    }
