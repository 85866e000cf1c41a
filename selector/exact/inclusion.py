"""How probable it was that a document was chosen, where documents were drawn with unequal weights.

Think of every document as an alarm clock that rings at a rate proportional to its weight: drawing without
replacement (Plackett-Luce, Gumbel top-k) takes documents as their clocks ring, until a time t. A document
was included if its clock rang by then. `solve` finds the t by which as many are expected as were drawn; the exact t is
drawn too, and `inclusion` sees to that where a group is small.
"""

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from selector import exact
from selector.exact import Floats, Ints
from selector.exact.pieces import slices
from selector.exact.spend import Overshoot

_MOST_STEPS = 100
_CELLS, _MOST_CELLS = 1 << 18, 1 << 14
_COARSE = 0.5
_ALMOST_NONE, _ALMOST_ALL = -45.0, 10.0  # logarithms of a rate by which nothing is drawn, and everything

_MOST_EXACT = 256  # documents of a group whose probabilities can be exact
_FEW = 64  # in so small a group steps may be wide
_MOST_COST = 1 << 22  # squares of the sizes of such groups, added up: seconds
_EXACT_ENOUGH, _MOST_ERROR = 1e-5, 0.02  # of the correction; squared, it is about the error that it leaves
_MOST_BY_LENGTH = 0.005  # that documents' own lengths may move a probability which is told
_STEP, _BEFORE, _AFTER = 0.2, 18.0, 5.0  # of the logarithm of time: between nodes, and of these about the centre
_BLOCK = 1 << 18  # numbers that are worked on at once
_UNIT = 2.0**34

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


@dataclass(frozen=True, kw_only=True)
class Inclusion:
    """How probable every document was, by its group and the logarithm of its weight."""

    log_time: Floats  # (groups,), for which each was drawn from; NaN: not known well enough
    spread: Floats  # (groups,), half of the variance of that time, as a part of it
    growth: (
        Floats  # (groups,), of how many are drawn, by the logarithm of the time; infinite: the time is not corrected
    )
    shift: Floats  # (groups,), of that number
    values: Floats  # the logarithms of weights in small groups, ascending
    keys: Ints  # of a group and a place among the values, ascending
    chances: Floats  # of each key

    def __call__(self, group: Ints, log_weight: Floats) -> Floats:
        """The inclusion probability of each document of a batch; NaN where it is not known well enough."""
        log_time = self.log_time[group]
        is_known = ~np.isnan(log_time)
        rate = exact.expm1(log_weight + np.where(is_known, log_time, 0.0)) + 1
        chance = -exact.expm1(-rate)
        growth, rate = self.growth[group], np.minimum(rate, 700.0)
        moved = (chance + self.shift[group]) / growth - self.spread[group] * rate
        corrected = np.clip(chance + rate * (1 - chance) * moved, 0.0, 1.0)
        chance = np.where(np.isfinite(growth), corrected, chance)
        chance = np.where(is_known, chance, np.nan)
        if len(self.keys):
            place = np.minimum(np.searchsorted(self.values, log_weight), len(self.values) - 1)
            key = group * len(self.values) + place
            at = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
            chance = np.where((self.keys[at] == key) & (self.values[place] == log_weight), self.chances[at], chance)
        return chance


def inclusion(draws: Draws, spent: Ints, total: Ints, *, is_counted: bool) -> Inclusion:
    """The inclusion probabilities of documents that are drawn without replacement, with weights (Plackett-Luce).

    `spent` is what each group spent of its `total`; `is_counted` says that every document spends 1, so that as many
    were drawn. Then the probabilities of a group of up to 256 documents are exact, to about 1e-8 (of all such groups
    while that costs seconds, the smallest first). Those of a larger one are corrected for the chance by which the draw
    ends sooner or later, which leaves less than 0.002, and 0.0001 where a hundred are drawn; where a few documents
    weigh so much that it could leave more, they are not known. Where a document's own length decides too, they are
    those of `solve`, and `within` says how far they can be off.
    """
    log_time = solve(draws, spent, total)
    zeros = np.zeros(len(total))
    plain = Inclusion(
        log_time=log_time, spread=zeros, growth=np.full(len(total), np.inf), shift=zeros, values=np.empty(0),
        keys=np.empty(0, np.int64), chances=np.empty(0),
    )  # fmt: skip
    is_open = (spent > 0) & (spent < total)
    if not is_counted or not is_open.any():
        return plain
    about, errors = _corrected(draws, plain, is_open)
    order = np.argsort(total, kind="stable")
    order = order[is_open[order] & (errors[order] > _EXACT_ENOUGH) & (total[order] <= _MOST_EXACT)]
    costs = np.cumsum(total[order] ** 2 * (1 + (total[order] > _FEW)))
    is_small = np.zeros(len(total), np.bool_)
    is_small[order[costs <= _MOST_COST]] = True
    about = replace(about, log_time=np.where((errors > _MOST_ERROR) & ~is_small, np.nan, log_time))
    if not is_small.any():
        return about
    members = list(draws(functools.partial(_members, is_small)))
    group = np.concatenate([pair[0] for pair in members])
    log_weight = np.concatenate([pair[1] for pair in members])
    by_group = np.lexsort((log_weight, group))
    group, log_weight = group[by_group], log_weight[by_group]
    chances = _exactly(group, log_weight, spent, log_time)
    values, place = np.unique(log_weight, return_inverse=True)
    keys, first = np.unique(group * len(values) + place, return_index=True)
    return replace(about, values=values, keys=keys, chances=chances[first])


def within(
    draws: Draws,
    about: Inclusion,
    spent: Ints,
    total: Ints,
    quotas: Ints,
    is_settled: npt.NDArray[np.bool_],
    overshoot: Overshoot,
) -> float | None:
    """How far the probabilities of `about` can be from those of the draw, where documents' own lengths decide too;
    None: too far for them to be told, which is more than 0.005. 0: nothing was left to chance.

    `spent` and `total` are of groups and their strata, (groups, strata), `quotas` what each group might spend, unless
    what it gets is settled: nothing, or all of it. It is the largest of what three things move, to the first order:
    that the time at which a group is spent is itself drawn; that a document is taken only while there is room for all
    of it; and that some of each quota strayed to or from other groups, which another draw would have spent otherwise.
    With `fill` short documents are taken out of turn, which nothing here says. So it is an estimate, and a cautious
    one: it was never below the largest difference from 20,000 draws by more than those waver, for groups of 4 to 2,000
    documents.
    """
    is_certain = (quotas >= total.sum(axis=1)) | is_settled
    if is_certain.all():
        return 0.0
    is_open = (spent > 0) & (spent < total) & ~is_certain[:, None]
    if overshoot == "fill" or not (is_open.any(axis=1) | is_certain).all():
        return None
    flat = is_open.reshape(-1)
    unit = 2.0 ** functools.reduce(max, draws(_largest_size)).bit_length()
    moments = _Moments(log_time=about.log_time, is_open=flat, unit=unit)
    variance, growth, shortened, squares = functools.reduce(np.add, draws(moments)) / _UNIT
    growth = np.where(flat & (growth > 0), growth, np.inf)
    spread = variance / growth**2 / 2
    shift = shortened / growth + spread * squares
    moved = _Moved(log_time=about.log_time, is_open=flat, unit=unit, growth=growth, spread=spread, shift=shift)
    strayed = np.repeat(np.abs(quotas - spent.sum(axis=1)), spent.shape[1]) / unit
    most = float((functools.reduce(np.maximum, draws(moved)) + strayed / growth / math.e)[flat].max())
    return most if most <= _MOST_BY_LENGTH else None


def _corrected(draws: Draws, plain: Inclusion, is_open: npt.NDArray[np.bool_]) -> tuple[Inclusion, Floats]:
    """The probabilities to the second order, and how much the correction of a group can be.

    The time at which a group is spent is not t: it spreads about t by v t^2, v being the variance of what is drawn
    until t divided by the square of its growth g, and it is later for a document that is not counted itself. That
    turns p = 1 - exp(-x), x being w t, into p + x exp(-x) ((p + c) / g - v x / 2), where c makes all add up.
    """
    sums = functools.reduce(np.add, draws(_Spread(log_time=plain.log_time, is_open=is_open))) / _UNIT
    variance, growth, weighed, squares = sums
    growth = np.where(is_open & (growth > 0), growth, np.inf)
    spread = variance / growth**2 / 2
    shift = np.where(is_open, spread * squares - weighed / growth, 0.0)
    most = functools.reduce(np.maximum, draws(functools.partial(_ranges, len(growth))))[0]
    rate = np.where(is_open, exact.expm1(np.minimum(most + np.where(is_open, plain.log_time, 0.0), 1.0)) + 1, 0.0)
    largest = np.where(rate < 2, rate * rate * (exact.expm1(-rate) + 1), 4 * math.exp(-2))
    return replace(plain, spread=spread, growth=growth, shift=shift), largest * spread


def _largest_size(drawn: Drawn) -> int:
    return int(drawn.sizes.max(initial=1))


@dataclass(frozen=True, kw_only=True)
class _Moments:
    """For each group, x, p as in `_Spread` and s a document's size in units: the sums of s^2 p (1 - p), s x exp(-x),
    s^2 (1 - p) x exp(-x) and s x^2 exp(-x)."""

    log_time: Floats
    is_open: npt.NDArray[np.bool_]
    unit: float

    def __call__(self, drawn: Drawn) -> Ints:
        sums = np.zeros((4, len(self.is_open)), np.int64)
        for piece in slices(len(drawn.group)):
            some = drawn.where(piece)
            some = some.where(self.is_open[some.group])
            sizes, rate, chance = _at(some, self.log_time, self.unit)
            growth = sizes * rate * (1 - chance)
            terms = (sizes * sizes * chance * (1 - chance), growth, sizes * (1 - chance) * growth, rate * growth)
            for one, term in zip(sums, terms, strict=True):
                np.add.at(one, some.group, np.rint(_UNIT * term).astype(np.int64))
        return sums


@dataclass(frozen=True, kw_only=True)
class _Moved:
    """For each group by how much the probability of one of its documents moves at most."""

    log_time: Floats
    is_open: npt.NDArray[np.bool_]
    unit: float
    growth: Floats
    spread: Floats
    shift: Floats

    def __call__(self, drawn: Drawn) -> Floats:
        largest = np.zeros(len(self.is_open))
        some = drawn.where(self.is_open[drawn.group])
        sizes, rate, chance = _at(some, self.log_time, self.unit)
        later = (self.shift[some.group] - sizes * (1 - chance)) / self.growth[some.group]
        moved = rate * (1 - chance) * (np.abs(later) + self.spread[some.group] * rate)
        np.maximum.at(largest, some.group, moved)
        return largest


def _at(drawn: Drawn, log_time: Floats, unit: float) -> tuple[Floats, Floats, Floats]:
    """The sizes of documents in units, their rates until their groups' times, and their probabilities by then."""
    rate = np.minimum(exact.expm1(drawn.log_weight + log_time[drawn.group]) + 1, 700.0)
    return drawn.sizes / unit, rate, -exact.expm1(-rate)


def _members(is_small: npt.NDArray[np.bool_], drawn: Drawn) -> tuple[Ints, Floats]:
    """The documents of small groups."""
    chosen = is_small[drawn.group]
    return drawn.group[chosen], drawn.log_weight[chosen]


def _exactly(group: Ints, log_weight: Floats, spent: Ints, log_time: Floats) -> Floats:
    """The exact probabilities of documents that are sorted by their group.

    Document i is included if its clock rings before those of k others have, so with F_i(t) as the probability that
    fewer than k others have by t, its probability is the integral of w exp(-w t) F_i(t). It is summed over the
    logarithm of t by the trapezoidal rule; before the first node F is 1. How many have rung is worked out document by
    document (Poisson binomial), and one is taken out again by the recurrence that is stable for it.
    """
    names, first, sizes = np.unique(group, return_index=True, return_counts=True)
    chances = np.empty(len(group))
    order = np.argsort(sizes, kind="stable")
    start = 0
    while start < len(order):
        step = _STEP if sizes[order[start]] <= _FEW else _STEP / 2
        nodes = step * np.arange(-round(_BEFORE / step), round(_AFTER / step) + 1)
        end = start + 1
        while end < len(order) and (end - start + 1) * sizes[order[end]] * len(nodes) <= _BLOCK:
            if sizes[order[end]] > _FEW >= sizes[order[start]]:
                break
            end += 1
        some = order[start:end]
        width = int(sizes[order[end - 1]])
        at = first[some, None] + np.arange(width)
        is_one = np.arange(width) < sizes[some, None]
        weights = np.where(is_one, log_weight[np.minimum(at, len(group) - 1)], -np.inf)
        centre = log_time[names[some]]
        chances[at[is_one]] = _integrated(weights, spent[names[some]], centre[:, None] + nodes, step)[is_one]
        start = end
    return chances


def _integrated(log_weight: Floats, drawn: Ints, log_times: Floats, step: float) -> Floats:
    """The probabilities in some groups, (g, n): their log weights (-inf: there is no document), how many are drawn, and
    the nodes, (g, nodes)."""
    rate = exact.expm1(np.maximum(log_weight[:, :, None], -1e4) + log_times[:, None, :]) + 1  # (g, n, nodes)
    rate = np.where(np.isinf(log_weight)[:, :, None], 0.0, rate)
    rung = -exact.expm1(-rate)
    waits, width = 1 - rung, log_weight.shape[1]
    counts = np.zeros((width + 1, len(drawn), log_times.shape[1]))  # how probable it is that so many have rung
    counts[0] = 1.0
    for i in range(width):
        after = counts[1 : i + 2] * waits[:, i] + counts[: i + 1] * rung[:, i]
        counts[0] *= waits[:, i]
        counts[1 : i + 2] = after
    fewer, more, before = (np.zeros_like(rung) for _ in range(3))  # without the one: fewer than k, and the others
    needed = drawn[:, None, None]
    wide, narrow = np.maximum(waits, 0.25), np.maximum(rung, 0.25)
    for m in range(int(drawn.max())):
        before = (counts[m][:, None] - rung * before) / wide
        fewer += np.where(m < needed, before, 0.0)
    before = np.zeros_like(rung)
    for m in range(width, int(drawn.min()), -1):
        before = (counts[m][:, None] - waits * before) / narrow
        more += np.where(m > needed, before, 0.0)
    is_few = np.clip(np.where(rung <= 0.5, fewer, 1 - more), 0.0, 1.0)
    heights = rate * waits * is_few
    heights[..., 0] /= 2
    sums = np.rint(heights * step * _UNIT).astype(np.int64).sum(axis=2) / _UNIT
    x = np.minimum(rate[..., 0], 700.0)  # beyond, no clock waits
    slope = x * (1 - x) * waits[..., 0]
    third = x * (1 - 7 * x + 6 * x * x - x * x * x) * waits[..., 0]
    return np.clip(rung[..., 0] + sums + step**2 / 12 * slope - step**4 / 720 * third, 0.0, 1.0)


def solve(draws: Draws, spent: Ints, total: Ints) -> Floats:
    """The logarithm of the time for which each group was drawn from, about.

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
class _Spread:
    """For each group, x being the rate of a document until the group's time and p = 1 - exp(-x): the sums of p (1 - p),
    x exp(-x), p x exp(-x) and x^2 exp(-x)."""

    log_time: Floats
    is_open: npt.NDArray[np.bool_]

    def __call__(self, drawn: Drawn) -> Ints:
        sums = np.zeros((4, len(self.is_open)), np.int64)
        for piece in slices(len(drawn.group)):
            chosen = self.is_open[drawn.group[piece]]
            group = drawn.group[piece][chosen]
            rate = np.minimum(exact.expm1(drawn.log_weight[piece][chosen] + self.log_time[group]) + 1, 700.0)
            chance = -exact.expm1(-rate)
            growth = rate * (1 - chance)
            for one, terms in zip(sums, (chance * (1 - chance), growth, chance * growth, rate * growth), strict=True):
                np.add.at(one, group, np.rint(_UNIT * terms).astype(np.int64))
        return sums


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
