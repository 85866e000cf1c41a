"""The documents of each group in a queue: all of them at random, then all again in another order, lap after lap.

Nobody holds a queue: where a document stands in a lap is its rank by a random number, so a placed order sorts them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from selector.exact import Ints, UInt64, keyed
from selector.order._draws import Winners, number_of, winners
from selector.order._groups import Groups
from selector.order._placed import Drawn
from selector.plugins.pool import Pool


@dataclass(frozen=True, kw_only=True)
class Queues:
    """A queue of so many visits for each group. A document is not in it again before all others of its group are."""

    groups: Groups
    sizes: Ints  # by group, how many rows it has
    lengths: Ints  # and how many visits its queue has
    purpose: str
    winners: Winners | None = None  # of the last lap of each group

    @classmethod
    def of(cls, chosen: Pool, groups: Groups, sizes: Ints, lengths: Ints, seed: int, purpose: str) -> "Queues":
        """The queues of a pool; a group without documents has none."""
        queues = cls(groups=groups, sizes=sizes, lengths=np.where(sizes > 0, lengths, 0), purpose=purpose)
        draws = _Draws(queues=queues, seed=seed)
        return replace(queues, winners=winners(chosen, draws, ["doc_id", groups.by], sizes, queues.rests))

    @property
    def laps(self) -> Ints:
        """By group, how often its queue has all of it."""
        return self.lengths // np.maximum(self.sizes, 1)

    @property
    def rests(self) -> Ints:
        """By group, how many of it are in the last lap."""
        return self.lengths % np.maximum(self.sizes, 1)

    @property
    def begins(self) -> Ints:
        """By group, the number of its first lap: laps are numbered group after group."""
        return np.concatenate([[0], np.cumsum(self.laps + 1)])

    def drawn(self, batch: pa.RecordBatch, seed: int) -> Drawn:
        """The visits of a batch: of each its lap, as a group, and its random number in it."""
        return Drawn.of(self._visits(batch, seed))

    def numbers(self, lap: Ints, rank: Ints) -> tuple[Ints, Ints]:
        """The group of each visit, and its number in the queue of that, by its lap and its rank in it."""
        group = np.searchsorted(self.begins, lap, "right") - 1
        return group, (lap - self.begins[group]) * self.sizes[group] + rank

    def in_last_lap(self, batch: pa.RecordBatch, seed: int) -> Iterator[tuple[Ints, Ints, UInt64]]:
        """The groups, rows and random numbers of those that take part in the last lap of their group."""
        group = self.groups.of(batch)
        laps = np.where(self.rests > 0, self.laps, -1)[group]
        for lap in np.unique(laps[laps >= 0]).tolist():
            rows = np.flatnonzero(laps == lap)
            yield group[rows], rows, number_of(batch, rows, seed, f"{self.purpose}/{lap}")

    def _visits(self, batch: pa.RecordBatch, seed: int) -> Iterator[tuple[Ints, Ints, UInt64]]:
        assert self.winners is not None
        group, ids, begins = self.groups.of(batch), keyed.words(batch["doc_id"]), self.begins
        laps = self.laps[group]
        for lap in range(int(laps.max(initial=0))):
            rows = np.flatnonzero(laps > lap)
            yield rows, begins[group[rows]] + lap, number_of(batch, rows, seed, f"{self.purpose}/{lap}")
        for of_group, rows, numbers in self.in_last_lap(batch, seed):
            wins = self.winners.among(of_group, numbers, ids[rows])
            rows, of_group = rows[wins], of_group[wins]
            yield rows, begins[of_group] + self.laps[of_group], numbers[wins]


@dataclass(frozen=True, kw_only=True)
class _Draws:
    """The last laps of queues."""

    queues: Queues
    seed: int

    def __call__(self, batch: pa.RecordBatch) -> Iterator[tuple[Ints, Ints, UInt64]]:
        return self.queues.in_last_lap(batch, self.seed)
