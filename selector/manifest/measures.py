"""How an order goes through its scores and its groups, in a few numbers that `show` has beside its counts.

The visits are taken in from first to last, part after part. What is held does not grow with them: some millions are
ranked against each other at most, and of more a sample is drawn.

The definitions, where no paper fixes them, are ours:

* tau: Kendall's tau-b between positions and scores: 1 where the lowest score comes first and so on, -1 where the
  highest does, about 0 at random. Equal scores bring it nearer to 0.
* displacement: the mean of |position - rank|, in visits, where rank is the place by score; equal scores in the order
  in which they come. `displaced_at_most` is the largest.
* continuity: the mean step |s(i+1) - s(i)| from one visit to the next, divided by that of the random order in
  expectation, which is the mean difference of two of its scores: 0 is smooth, 1 is as at random.
* difference at a position: the mean score of the next `window` visits minus that of the `window` before. It is told for
  where phases meet, and for the position where it is greatest.
* diversity: the mean, over all windows of `window` visits in a row, of the number of different groups in it, divided by
  the number that there could be: the window's length, or that of all groups if that is less.

Visits without a score are passed over, as if they were not there.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from selector.exact import Floats, Ints, keyed

MOST_RANKED = 1 << 22
"""Visits that are ranked against each other. Of more, one is drawn from each stretch of so many that this is kept."""
WIDEST = 512
"""Visits in a window; of few visits it is a tenth of them."""


class ScoreMeasures:
    """What is measured of one score of the visits."""

    def __init__(self, num_visits: int, borders: Sequence[tuple[str, int]] = (), window: int | None = None) -> None:
        """`borders` are the phases, each with the position at which it begins."""
        self._window = window or window_of(num_visits)
        self._every = max(-(-num_visits // MOST_RANKED), 1)
        self._ranked = [np.empty(0, np.float32)]  # the scores that are ranked, in the order of their positions
        self._num_scored = 0
        self._last = np.empty(0)  # the score of the last visit that has one
        self._steps, self._num_steps = 0.0, 0
        self._recent = np.empty(0)  # scores of the last visits, with which windows of the next ones begin
        self._phases = [name for name, _ in borders]
        self._borders = np.array([position for _, position in borders], np.int64)
        self._differences = np.full(len(borders), np.nan)
        self._greatest = (-1, 0.0)

    def take_in(self, first: int, scores: Floats) -> None:
        """The scores of the visits from position `first` on, which is the next; NaN where one has none."""
        scores = np.where(np.isfinite(scores), scores, np.nan)
        known = scores[~np.isnan(scores)]
        steps = np.abs(np.diff(known, prepend=self._last))
        self._num_scored += len(known)
        self._steps, self._num_steps = self._steps + float(steps.sum()), self._num_steps + len(steps)
        self._last = known[-1:] if len(known) else self._last
        drawn = scores[_drawn(first, len(scores), self._every)]
        self._ranked.append(drawn[~np.isnan(drawn)].astype(np.float32))
        self._compare(first, scores)

    def _compare(self, first: int, scores: Floats) -> None:
        """Works out the differences at positions of which both windows are known by now, and were not before."""
        width, around = self._window, np.concatenate([self._recent, scores])
        begin = first - len(self._recent)
        self._recent = around[1 - 2 * width :]
        places = np.arange(width, len(around) - width + 1)
        if not len(places):
            return
        known = ~np.isnan(around)
        sums = np.concatenate([[0.0], np.cumsum(np.where(known, around, 0.0))])
        counts = np.concatenate([[0], np.cumsum(known)])
        before, after = (
            np.divide(
                sums[places + stop] - sums[places + start],
                counts[places + stop] - counts[places + start],
                out=np.full(len(places), np.nan),
                where=counts[places + stop] > counts[places + start],
            )
            for start, stop in ((-width, 0), (0, width))
        )
        differences = after - before
        at = int(np.argmax(np.where(np.isnan(differences), -1, np.abs(differences))))
        if abs(differences[at]) > abs(self._greatest[1]):
            self._greatest = begin + int(places[at]), float(differences[at])
        inside = (self._borders >= begin + width) & (self._borders <= begin + len(around) - width)
        self._differences[inside] = differences[self._borders[inside] - begin - width]

    def to_json(self) -> dict[str, Any] | None:
        """What was measured; None where no visit has a score, and null for what so few of them do not have."""
        if not self._num_scored:
            return None
        scores = np.concatenate(self._ranked)
        order = np.argsort(scores, kind="stable")
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        displaced = np.abs(rank - np.arange(len(rank))) * self._every
        step, expected = self._steps / max(self._num_steps, 1), _mean_difference(scores[order])
        position, difference = self._greatest
        return {
            "scored": self._num_scored,
            "ranked": len(scores),
            "tau": tau(rank, scores[order]),
            "displacement": float(displaced.mean()) if len(displaced) else None,
            "displaced_at_most": int(displaced.max(initial=0)),
            "continuity": step / expected if expected else None,
            "greatest_difference": {"position": position, "difference": difference} if position >= 0 else None,
            "borders": [
                {"phase": phase, "position": border, "difference": None if np.isnan(jump) else jump}
                for phase, border, jump in zip(
                    self._phases, self._borders.tolist(), self._differences.tolist(), strict=True
                )
            ],
        }


class GroupMeasures:
    """How many different groups a window has."""

    def __init__(self, num_visits: int, window: int | None = None) -> None:
        self._num_visits = num_visits
        self._window = window or window_of(num_visits)
        self._numbers: dict[Any, int] = {}
        self._last = np.empty(0, np.int64)  # by group: the last position of one of it, -1 before there is one
        self._distinct = 0

    def take_in(self, first: int, names: Sequence[Any], codes: npt.NDArray[Any]) -> None:
        """The groups of the visits from position `first` on, which is the next: each an index into `names`."""
        if not len(codes):
            return
        used, codes = np.unique(codes, return_inverse=True)
        own = np.array([self._numbers.setdefault(names[code], len(self._numbers)) for code in used], np.int64)
        self._last = np.pad(self._last, (0, len(self._numbers) - len(self._last)), constant_values=-1)
        places, group = first + np.arange(len(codes)), own[codes]
        order = np.argsort(group, kind="stable")
        begins = np.flatnonzero(np.diff(group[order], prepend=-1))
        before = np.empty(len(order), np.int64)  # where the one before of its group is
        before[order[1:]] = places[order[:-1]]
        before[order[begins]] = self._last[group[order[begins]]]
        self._last[group[order[begins]]] = places[order[[*(begins[1:] - 1), len(order) - 1]]]
        # a visit counts in those windows in which it is the first of its group
        earliest = np.maximum(before + 1, np.maximum(places - self._window + 1, 0))
        latest = np.minimum(places, self._num_visits - self._window)
        self._distinct += int(np.maximum(latest - earliest + 1, 0).sum())

    def to_json(self) -> float | None:
        """The diversity; None where there are no visits, or all of them have no group."""
        num_windows, groups = self._num_visits - self._window + 1, len(self._numbers)
        if num_windows < 1 or not set(self._numbers) - {None}:
            return None
        return self._distinct / (num_windows * min(self._window, groups))


def window_of(num_visits: int) -> int:
    """How long windows are where there are so many visits."""
    return min(WIDEST, max(num_visits // 10, 1))


def tau(rank: Ints, ascending: npt.NDArray[Any]) -> float | None:
    """Kendall's tau-b of places and scores. `rank` is each place's rank by score, equal ones in the order of their
    places, and `ascending` has the scores by rank. None where all of them are equal."""
    pairs = len(rank) * (len(rank) - 1) // 2
    begins = np.flatnonzero(np.r_[True, ascending[1:] != ascending[:-1]]) if len(ascending) else np.empty(0, np.int64)
    sizes = np.diff(begins, append=len(ascending))
    unequal = pairs - int((sizes * (sizes - 1) // 2).sum())
    if not unequal:
        return None
    return (unequal - 2 * inversions(rank)) / (unequal**0.5 * pairs**0.5)


def inversions(rank: Ints) -> int:
    """How many pairs of a permutation of 0 to n - 1 are in the wrong order: in time n log n.

    Bit by bit from the highest: places whose ranks agree in the bits above stand together, and among those each rank
    without the bit is in the wrong order with every one before it that has it.
    """
    count, places = 0, np.arange(len(rank))
    for bit in reversed(range(len(rank).bit_length())):
        has_bit = (rank >> bit) & 1
        before = np.cumsum(has_bit) - has_bit
        begin = places >> (bit + 1) << (bit + 1)  # of those that stand together
        before -= before[begin]
        count += int(before[has_bit == 0].sum())
        moved = np.where(has_bit, begin + (1 << bit) + before, places - before)
        divided = np.empty_like(rank)
        divided[moved] = rank
        rank = divided
    return count


def _mean_difference(ascending: npt.NDArray[Any]) -> float:
    """The mean of |a - b| over all pairs of two of these sorted scores."""
    n = len(ascending)
    if n < 2:
        return 0.0
    return float(((2 * np.arange(n) - n + 1) * ascending.astype(np.float64)).sum() / (n * (n - 1) / 2))


def _drawn(first: int, count: int, every: int) -> Ints:
    """Which of so many visits from a position on are ranked: one of each stretch of `every`, by a keyed draw."""
    if every == 1:
        return np.arange(count)
    stretches = np.arange(first // every, (first + count - 1) // every + 1) if count else np.empty(0, np.int64)
    ids = keyed.ids(np.column_stack([np.zeros_like(stretches), stretches]).astype(np.uint64))
    drawn = (keyed.hashes(ids, 0, "measured") % np.uint64(every)).astype(np.int64)
    places = stretches * every + drawn - first
    return places[(places >= 0) & (places < count)]
