"""The documents of each group in a queue: all of them at random, then all again in another order, lap after lap."""

from dataclasses import dataclass

import numpy as np

from selector import exact
from selector.exact import Ints, UInt64, keyed
from selector.order._contract import numbered
from selector.order._placed import random_visits


@dataclass(frozen=True, kw_only=True)
class Queues:
    """The rows of a pool, group after group: group g has those from `begins[g]` to `begins[g + 1]`. Of each row `laps`
    says how often it comes before."""

    rows: Ints
    laps: Ints
    begins: Ints

    def taken(self, first: Ints, counts: Ints) -> tuple[Ints, Ints]:
        """So many rows of each group from its `first` one on, and the group of each."""
        group = np.repeat(np.arange(len(counts)), counts)
        nth = np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.rows[self.begins[group] + first[group] + nth], group


def queues(group: Ints, ids: UInt64, lengths: Ints, seed: int, purpose: str) -> Queues:
    """Of each group a queue of so many visits; row i of the pool is of `group[i]`.

    A document is not in it again before all others of its group are, and each lap is shuffled anew.
    """
    sizes = np.bincount(group, minlength=len(lengths))
    again, rows_of, groups = numbered(ids), [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    left = np.where(sizes > 0, lengths, 0)
    while left.any():
        rows = np.flatnonzero(left[group] > 0)
        chance = random_visits(keyed.ids(ids[rows]), again[rows], seed, f"{purpose}/{len(rows_of) - 1}")
        shuffled = rows[exact.argsort(chance, ids[rows])]
        shuffled = shuffled[np.argsort(group[shuffled], kind="stable")]
        counts = np.where(left > 0, sizes, 0)
        rank = np.arange(len(shuffled)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = shuffled[rank < left[group[shuffled]]]
        rows_of.append(kept)
        groups.append(group[kept])
        left = np.maximum(left - sizes, 0)
    lined_up, of_group = np.concatenate(rows_of), np.concatenate(groups)
    lap = np.repeat(np.arange(len(rows_of)) - 1, [len(rows) for rows in rows_of])
    begins = np.concatenate([[0], np.cumsum(np.bincount(of_group, minlength=len(lengths)))])
    by_group = np.argsort(of_group, kind="stable")
    return Queues(rows=lined_up[by_group], laps=lap[by_group], begins=begins)
