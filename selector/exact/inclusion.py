"""How probable it was that a document was chosen, where documents were drawn with unequal weights.

Think of every document as an alarm clock that rings at a rate proportional to its weight: drawing without
replacement (Plackett-Luce, Gumbel top-k) takes documents as their clocks ring, until a time t. A document
was included if its clock rang by then. `solve` finds t for every group, `probability` applies it.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from selector import exact
from selector.exact import Floats, Ints
from selector.exact.pieces import slices

_MOST_STEPS = 100
_CELLS, _MOST_CELLS = 1 << 18, 1 << 14
_COARSE = 0.5
_ALMOST_NONE, _ALMOST_ALL = -45.0, 10.0  # logarithms of a rate by which nothing is drawn, and everything


Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Documents that chance decided about: their groups, the logarithms of their weights, and what each one spends."""

    group: Ints
    log_weight: Floats
    sizes: Ints

    def where(self, chosen: Any) -> "Drawn":
        """The documents that a mask, a slice or indices choose."""
        return Drawn(group=self.group[chosen], log_weight=self.log_weight[chosen], sizes=self.sizes[chosen])


class Draws(Protocol):
    """Asks every shard of a pool what `work`, which is picklable, says of its documents."""

    def __call__(self, work: Callable[[Drawn], Answer], /) -> Iterable[Answer]: ...


def solve(draws: Draws, spent: Ints, total: Ints) -> Floats:
    """The logarithm of the time for which each group was drawn from, for `probability`.

    Documents drawn without replacement with weights w (Plackett-Luce, Gumbel top-k) arrive like clocks that
    ring at rate w; the draw ends at a time t. Following Rosén (Asymptotic theory for successive sampling,
    1972), a document is included with probability 1 - exp(-w t), where t makes the expected spending of the
    group, the sum of size times probability, what was `spent` of its `total`.

    Exact where the weights are equal or a group is spent whole; else an approximation that improves with the
    number drawn. Against exact Plackett-Luce probabilities for the weights 4, 3, 2, 1 it is off by at most
    0.025 when 2 are drawn and 0.033 when 3 are. Documents that tokens left over by quotas pay for were not
    drawn by weight alone, so theirs are approximate beyond that.

    Any common factor of a group's weights is absorbed by t, which is found on a histogram of the weights and confirmed
    on the weights themselves: three passes over the pool, more where weights lie far apart and not around 0.
    """
    log_time = np.where(spent == 0, -np.inf, np.where(spent < total, 0.0, np.inf))
    is_open = (spent > 0) & (spent < total)
    if is_open.any():
        ranges = functools.reduce(np.maximum, draws(functools.partial(_ranges, len(total))))
        is_equal = is_open & (ranges[0] == -ranges[1])
        share = np.where(is_equal, spent / np.maximum(total, 1), 0.5)
        log_time = np.where(is_equal, exact.log(-exact.log(1 - share)) - ranges[0], log_time)
        which = np.flatnonzero(is_open & ~is_equal)
        is_open &= ~is_equal
        if len(which):
            histogram = _Histogram.over(which, -ranges[1], ranges[0], int(total.max()))
            counted = functools.reduce(np.add, draws(histogram))
            log_time[which] = _times(histogram, counted, spent[which], total[which])
    scale = _scale(total)
    for _ in range(_MOST_STEPS):  # most often once: it only confirms what was found
        if not is_open.any():
            break
        expected = _Expected(log_time=log_time, is_open=is_open, scale=scale)
        drawn, slope = functools.reduce(np.add, draws(expected)) / scale
        is_open &= np.abs(drawn - spent) > 1e-6 * spent
        log_time = np.where(is_open, log_time + _step(drawn, slope, spent, total, scale), log_time)
    return log_time


def _times(histogram: "_Histogram", counted: Ints, spent: Ints, total: Ints) -> Floats:
    """The logarithm of the time of each group, from what its documents spend by the logarithm of their weight."""
    group, cell = np.nonzero(counted[0])
    sizes, firsts, seconds = (sums[group, cell].astype(np.float64) for sums in counted)
    mean = firsts / (sizes * histogram.unit)
    spread = np.maximum(seconds / (sizes * histogram.unit) - mean * mean, 0.0) * histogram.width[group] ** 2
    log_weight = histogram.least[group] + (cell + 0.5 + mean) * histogram.width[group]
    scale = _scale(total)
    log_time, is_open = np.zeros(len(total)), np.ones(len(total), np.bool_)
    for _ in range(_MOST_STEPS):
        if not is_open.any():
            break
        rate = exact.expm1(log_weight + log_time[group]) + 1
        chance = -exact.expm1(-rate)
        growth = rate * (1 - chance)  # by the logarithm of the time, or of the weight
        expected = chance + 0.5 * spread * growth * (1 - rate)  # of weights that are spread about their mean
        drawn, slope = np.zeros((2, len(total)), np.int64)
        np.add.at(drawn, group, np.rint(sizes * scale * expected).astype(np.int64))
        np.add.at(slope, group, np.ceil(sizes * scale * growth).astype(np.int64))
        is_open &= np.abs(drawn / scale - spent) > 1e-9 * spent
        step = _step(drawn / scale, slope / scale, spent, total, scale)
        log_time = np.where(is_open, log_time + step, log_time)
    return log_time


def _scale(total: Ints) -> float:
    """What amounts are multiplied by before they become whole: sums of integers do not depend on their order."""
    return 2.0 ** (62 - int(total.max(initial=1)).bit_length())


def _step(drawn: Floats, slope: Floats, spent: Ints, total: Ints, scale: float) -> Floats:
    """By how much the logarithm of each time must grow.

    Newton's method on log(1 - drawn / total), which is convex in t: from the left it never overshoots. From far on the
    right it would make t negative, so there it is the logarithm of t that takes the step.
    """
    remaining = np.maximum(total - drawn, 1 / scale)
    step = exact.log(remaining / np.maximum(total - spent, 1)) * remaining / np.maximum(slope, 1 / scale)
    return np.where(step < -0.5, np.maximum(step, -30.0), exact.log(1 + np.maximum(step, -0.5)))


def probability(log_time: Floats, group: Ints, log_weight: Floats) -> Floats:
    """The inclusion probability of each document of a batch, from the result of `solve`."""
    return -exact.expm1(-(exact.expm1(log_weight + log_time[group]) + 1))


def _ranges(groups: int, drawn: Drawn) -> Floats:
    """The largest log weight of each group, and minus its smallest one: (2, groups)."""
    ranges = np.full((2, groups), -np.inf)
    np.maximum.at(ranges[0], drawn.group, drawn.log_weight)
    np.maximum.at(ranges[1], drawn.group, -drawn.log_weight)
    return ranges


@dataclass(frozen=True, kw_only=True)
class _Histogram:
    """For each group what its documents spend by cells of the logarithm of their weight: sums of their sizes, of sizes
    times the distance from the middle of the cell, and times its square; in cells, so from -1/2 to 1/2."""

    place: Ints  # of each group among those that are counted, or -1
    least: Floats  # where the first cell of each of these begins
    width: Floats  # of a cell
    num_cells: int
    unit: float  # what distances are multiplied by, to be whole

    @classmethod
    def over(cls, which: Ints, least: Floats, most: Floats, largest: int) -> "_Histogram":
        """The histogram of these groups; where cells would be coarse, what lies far from 0 counts in the last ones."""
        place = np.full(len(least), -1, np.int64)
        place[which] = np.arange(len(which))
        least, most = least[which], most[which]
        num_cells = max(16, min(_CELLS // len(which), _MOST_CELLS))
        is_near = (most - least > _COARSE * num_cells) & (least < _ALMOST_ALL) & (most > _ALMOST_NONE)
        least = np.where(is_near, np.maximum(least, _ALMOST_NONE), least)
        most = np.where(is_near, np.minimum(most, _ALMOST_ALL), most)
        unit = 2.0 ** min(20, 62 - largest.bit_length())
        return cls(place=place, least=least, width=(most - least) / num_cells, num_cells=num_cells, unit=unit)

    def __call__(self, drawn: Drawn) -> Ints:
        counted = np.zeros((3, len(self.least) * self.num_cells), np.int64)
        for piece in slices(len(drawn.group)):
            self._count(drawn.where(piece), counted)
        return counted.reshape(3, -1, self.num_cells)

    def _count(self, drawn: Drawn, counted: Ints) -> None:
        """Adds what these documents spend to what is counted."""
        place = self.place[drawn.group]
        is_counted = place >= 0
        place, sizes, log_weight = place[is_counted], drawn.sizes[is_counted], drawn.log_weight[is_counted]
        at = np.clip((log_weight - self.least[place]) / self.width[place], 0.0, float(self.num_cells))
        cell = np.minimum(at.astype(np.int64), self.num_cells - 1)
        distance = at - cell - 0.5
        flat = place * self.num_cells + cell
        for sums, power in zip(counted, (None, distance, distance * distance), strict=True):
            amounts = sizes if power is None else sizes * np.rint(power * self.unit).astype(np.int64)
            np.add.at(sums, flat, amounts)


@dataclass(frozen=True, kw_only=True)
class _Expected:
    """For each group what its documents spend on average by its time, and how that grows with its logarithm."""

    log_time: Floats
    is_open: npt.NDArray[np.bool_]
    scale: float

    def __call__(self, drawn: Drawn) -> Ints:
        sums = np.zeros((2, len(self.is_open)), np.int64)
        for piece in slices(len(drawn.group)):
            self._add(drawn.where(piece), sums)
        return sums

    def _add(self, drawn: Drawn, sums: Ints) -> None:
        """Adds what these documents spend to the sums."""
        drawn = drawn.where(self.is_open[drawn.group])
        group, sizes = drawn.group, drawn.sizes * self.scale
        rate = exact.expm1(drawn.log_weight + self.log_time[group]) + 1
        chance = -exact.expm1(-rate)
        np.add.at(sums[0], group, np.rint(sizes * chance).astype(np.int64))
        np.add.at(sums[1], group, np.ceil(sizes * (rate * (1 - chance))).astype(np.int64))
