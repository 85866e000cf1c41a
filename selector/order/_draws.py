"""Orders that draw again and again, each time the documents with the lowest random numbers: found without a sort.

Think of a raffle in which everybody has a number, and so many of the lowest win. Numbers are evenly spread, so the last
winner's is known to within a little beforehand; only the few numbers that are near it are looked at one by one.
"""

import abc
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.exact import Ints, UInt64, keyed
from selector.order._contract import numbered
from selector.order._placed import Dealt, Drawn, columns_read, random_visits
from selector.plugins.pool import Pool

Bools = npt.NDArray[np.bool_]
Draws = Callable[[pa.RecordBatch], Iterable[tuple[int | Ints, Ints, UInt64]]]
"""Of a batch those that take part in each of some draws: the number of the draw, or of each row's, then the rows, and
their random numbers. Picklable."""

_WHOLE = 1 << 64
_NEAR = 8  # standard deviations; further away no last winner is, but for one in 10**15


@dataclass(frozen=True, kw_only=True)
class Winners:
    """Who wins in each of some draws."""

    cuts: UInt64  # (draws, 3): the number, and the two words of the id, of the first who does not
    everybody: Bools  # (draws,): all win

    def among(self, draw: int | Ints, numbers: UInt64, ids: UInt64) -> Bools:
        """Which of these win in the draw, or each in its own."""
        cut, high, low = self.cuts[draw].T
        is_before = (ids[:, 0] < high) | ((ids[:, 0] == high) & (ids[:, 1] < low))
        return self.everybody[draw] | (numbers < cut) | ((numbers == cut) & is_before)


def winners(chosen: Pool, draws: Draws, columns: Sequence[str], sizes: Ints, wanted: Ints) -> Winners:
    """So many winners of each draw, by the lowest numbers, ties by id; `sizes` are how many take part in it."""
    windows = [_window(size, count) for size, count in zip(sizes.tolist(), wanted.tolist(), strict=True)]
    cuts, everybody = np.zeros((len(wanted), 3), np.uint64), wanted >= sizes
    unknown = ~everybody & (wanted > 0)
    while unknown.any():
        bounds = np.array(
            [window if here else (0, 0) for window, here in zip(windows, unknown, strict=True)], np.uint64
        )
        below, near = np.zeros(len(wanted), np.int64), [np.empty((0, 4), np.uint64)]
        for counts, rows in chosen.map(functools.partial(_near, draws, bounds.reshape(-1, 2)), *columns):
            below += counts
            near.append(rows)
        rows = np.concatenate(near)
        rows = rows[np.lexsort(rows.T[::-1])]
        begins = np.searchsorted(rows[:, 0], np.arange(len(wanted) + 1, dtype=np.uint64))
        nth = wanted - below
        is_near = unknown & (nth >= 0) & (nth < np.diff(begins))
        cuts[is_near] = rows[(begins[:-1] + nth)[is_near], 1:]
        unknown &= ~is_near
        windows = [(0, _WHOLE - 1)] * len(wanted)  # of a draw whose numbers are not evenly spread
    return Winners(cuts=cuts, everybody=everybody)


def _window(size: int, count: int) -> tuple[int, int]:
    """Between which numbers the first who does not win is, of so many who take part."""
    if not 0 < count < size:
        return 0, 0
    room = int(_NEAR * math.sqrt(count * (1 - count / size))) + _NEAR
    low, high = max(count - room, 0), min(count + room + 1, size)
    return low * _WHOLE // size, min(high * _WHOLE // size, _WHOLE - 1)


def _near(draws: Draws, bounds: UInt64, batch: pa.RecordBatch) -> tuple[Ints, UInt64]:
    """By draw, how many numbers of a batch are below its window; and those in one, by draw, number and id: (m, 4)."""
    ids, below, near = keyed.words(batch["doc_id"]), np.zeros(len(bounds), np.int64), [np.empty((0, 4), np.uint64)]
    batch = batch.append_column("visit", pa.array(numbered(ids)))
    for draw, rows, numbers in draws(batch):
        of_draw = np.broadcast_to(draw, len(rows))
        low, high = bounds[draw].T
        below += np.bincount(of_draw[numbers < low], minlength=len(bounds))
        here = np.flatnonzero((numbers >= low) & (numbers <= high) & (high > 0))
        near.append(np.column_stack([of_draw[here].astype(np.uint64), numbers[here], ids[rows[here]]]))
    return below, np.concatenate(near)


def number_of(batch: pa.RecordBatch, rows: Ints, seed: int, purpose: str) -> UInt64:
    """The random number of each of these rows of a batch: another one for each row of a document."""
    return random_visits(batch["doc_id"].take(pa.array(rows)), batch["visit"].to_numpy()[rows], seed, purpose)


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What each step draws from, and how much."""

    known: Any  # what says who is in the pools
    pools: Ints  # how many are
    sizes: Ints  # how many it draws from: where its pool is empty, all
    visits: Ints
    winners: Winners | None = None  # of the last lap of each

    def laps(self, step: int) -> int:
        """How often a step goes through all that it draws from."""
        return int(self.visits[step] // max(self.sizes[step], 1))

    @property
    def rests(self) -> Ints:
        """How many visits the last lap of each step has, which is a random sample."""
        return self.visits % np.maximum(self.sizes, 1)

    @property
    def first_groups(self) -> list[int]:
        """The group of the first lap of each step; laps follow each other."""
        return np.cumsum([0, *(self.laps(step) + 1 for step in range(len(self.visits)))]).tolist()


@dataclass(frozen=True, kw_only=True)
class InSteps(Dealt):
    """Steps that each draw from a pool of their own, lap after lap, each shuffled anew.

    Of the last lap a step has a random sample. A step whose pool is empty draws from everything.
    """

    left_because: ClassVar[str] = "no step of the schedule drew it"
    chance: ClassVar[str]
    """The purpose of what is drawn at random."""

    @abc.abstractmethod
    def visits_of_steps(self, num_rows: int) -> Ints:
        """How many visits each step has."""

    def known(self, chosen: Pool) -> Any:
        """What `is_open` needs to know of the whole pool; small, and picklable."""
        return chosen.num_documents

    @abc.abstractmethod
    def is_open(self, batch: pa.RecordBatch, step: int, known: Any) -> Bools:
        """Which rows are in the pool of a step."""

    def summary(self, chosen: Pool, seed: int) -> Steps:
        known, columns = self.known(chosen), columns_read(self, chosen)
        visits = self.visits_of_steps(chosen.num_documents)
        pools = np.zeros(len(visits), np.int64)
        for counts in chosen.map(functools.partial(_num_open, self, len(visits), known), *columns):
            pools += counts
        sizes = np.where(pools > 0, pools, chosen.num_documents)
        steps = Steps(known=known, pools=pools, sizes=sizes, visits=visits)
        rests = functools.partial(_rests, self, steps, seed)
        return replace(steps, winners=winners(chosen, rests, columns, sizes, steps.rests))

    def drawn(self, batch: pa.RecordBatch, summary: Steps, seed: int) -> Drawn:
        return Drawn.of(self._visits(batch, summary, seed))

    def _visits(self, batch: pa.RecordBatch, summary: Steps, seed: int) -> Iterator[tuple[Ints, int, UInt64]]:
        assert summary.winners is not None
        ids = keyed.words(batch["doc_id"])
        for step, (first, rest) in enumerate(zip(summary.first_groups, summary.rests.tolist(), strict=False)):
            rows, laps = self.open_rows(batch, step, summary), summary.laps(step)
            for lap in range(laps):
                yield rows, first + lap, self.numbers(batch, rows, step, lap, seed)
            if rest:
                numbers = self.numbers(batch, rows, step, laps, seed)
                wins = summary.winners.among(step, numbers, ids[rows])
                yield rows[wins], first + laps, numbers[wins]

    def open_rows(self, batch: pa.RecordBatch, step: int, summary: Steps) -> Ints:
        """The rows of a batch that a step can draw."""
        if not summary.pools[step]:
            return np.arange(batch.num_rows)
        return np.flatnonzero(self.is_open(batch, step, summary.known))

    def numbers(self, batch: pa.RecordBatch, rows: Ints, step: int, lap: int, seed: int) -> UInt64:
        """The random numbers of these rows in a lap of a step."""
        return number_of(batch, rows, seed, f"{self.chance}/{step}/{lap}")


def _num_open(order: InSteps, num_steps: int, known: Any, batch: pa.RecordBatch) -> Ints:
    return np.array([np.count_nonzero(order.is_open(batch, step, known)) for step in range(num_steps)], np.int64)


def _rests(order: InSteps, steps: Steps, seed: int, batch: pa.RecordBatch) -> Iterator[tuple[int, Ints, UInt64]]:
    """Who takes part in the last lap of each step."""
    for step in np.flatnonzero(steps.rests).tolist():
        rows = order.open_rows(batch, step, steps)
        yield step, rows, order.numbers(batch, rows, step, steps.laps(step), seed)
