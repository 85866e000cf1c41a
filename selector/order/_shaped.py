"""Orders that bend the way from easy to hard: a document's place follows from its rank and from nothing else.

Think of the documents sorted from easy to hard and numbered from 0: a shape moves the numbers. Documents without a
score come behind the shape, in the order of their doc_ids.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import LAST, Ints, UInt64
from selector.order._difficulty import Direction, difficulty_keys
from selector.order._placed import Placed
from selector.plugins.options import ScoreName
from selector.plugins.pool import Pool


@dataclass(frozen=True, kw_only=True)
class Shaped(Placed):
    """Sorts by one score like `by_score`, then moves the ranks. Only `shape` must be written."""

    score: ScoreName
    direction: Direction = "curriculum"

    @abc.abstractmethod
    def shape(self, rank: Ints, length: int) -> Ints:
        """The place of each rank, where there are `length` ranks; a permutation of 0 to length - 1."""

    def summary(self, chosen: Pool, seed: int) -> str:
        return chosen.higher_is(self.score)

    def groups(self, batch: pa.RecordBatch, summary: str) -> Ints:
        return (difficulty_keys(batch, self.score, summary, self.direction) == LAST).astype(np.int64)

    def keys(self, batch: pa.RecordBatch, summary: str, seed: int) -> UInt64:
        return difficulty_keys(batch, self.score, summary, self.direction)

    def place(self, group: Ints, rank: Ints, sizes: Ints) -> Ints:
        length = int(sizes[0]) if len(sizes) else 0
        places, is_scored = np.full(len(rank), length, np.int64), group == 0
        places[is_scored] = self.shape(rank[is_scored], length)
        return places


Layers = Callable[[Ints, int, int], Ints]
"""The place of each rank, of so many ranks, in so many layers: `folded` or `zigzagged`."""


def folded(rank: Ints, length: int, layers: int) -> Ints:
    """Every rank that is 0 modulo `layers`, then every one that is 1, and so on: each layer goes from easy to hard."""
    layer, step = rank % layers, rank // layers
    return _begin(layer, length, layers) + step


def zigzagged(rank: Ints, length: int, layers: int) -> Ints:
    """Like `folded`, with every second layer from hard to easy."""
    layer, step = rank % layers, rank // layers
    last = _begin(layer + 1, length, layers) - _begin(layer, length, layers) - 1
    return _begin(layer, length, layers) + np.where(layer % 2, last - step, step)


def _begin(layer: Ints, length: int, layers: int) -> Ints:
    """How many ranks are in the layers before this one."""
    return layer * (length // layers) + np.minimum(layer, length % layers)


def in_transitions(rank: Ints, length: int, sections: int, ratio: float, arrange: Layers, layers: int) -> Ints:
    """From easy to hard in so many sections, with the ranks around every border between two of them arranged in layers.

    A border lies at length * k / sections, and `ratio` of the length before it and behind it is arranged; all of these
    numbers are rounded half to even, as the published code does. Where two stretches would overlap (the published code
    does not say what then), all of them are as long as there is room for.
    """
    borders = _rounded(length * np.arange(1, sections, dtype=np.int64), sections)
    room = min(int(borders[0]), length - int(borders[-1]), int(np.diff(borders).min(initial=length)) // 2)
    radius = min(round(Fraction(str(ratio)) * length), room)
    if radius == 0:
        return rank
    number = np.searchsorted(borders - radius, rank, "right") - 1
    begin = borders[number] - radius  # of rank 0 that of the last border, which is behind it
    inside = (rank >= begin) & (rank < begin + 2 * radius)
    return np.where(inside, begin + arrange(rank - begin, 2 * radius, layers), rank)


def _rounded(numerators: Ints, denominator: int) -> Ints:
    """The quotients, half to even."""
    whole, rest = np.divmod(numerators, denominator)
    return whole + ((2 * rest > denominator) | (2 * rest == denominator) & (whole % 2 == 1))


def check_layers(order: str, layers: int) -> None:
    """Raises PolicyError if that is no number of layers."""
    if layers < 1:
        raise PolicyError(f"{order}.layers={layers} leaves no layer to put a document in: write 1 or more, e.g. 3.")


def check_transitions(order: str, sections: int, ratio: float, layers: int) -> None:
    """Raises PolicyError unless there is a border, and a share of the documents is arranged around it."""
    check_layers(order, layers)
    if sections < 2:
        raise PolicyError(f"{order}.sections={sections} has no border between two sections: write 2 or more.")
    if not 0 <= ratio <= 0.5:
        raise PolicyError(
            f"{order}.ratio={ratio} is no share of the documents that is arranged on each side of a border: write a "
            "number from 0 to 0.5, e.g. 0.1."
        )
