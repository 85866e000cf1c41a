"""Two sides of a pool, such as easy and hard documents, side by side: the share of the second changes step by step."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from selector.exact import Ints
from selector.order._unmet import some_visits, with_unmet


def in_steps(group: Ints, rank: Ints, sizes: Ints, steps: Ints, second: Ints) -> Ints:
    """The place of each rank of its side: group 0, group 1, and behind both of them any other group.

    Step i has `steps[i]` visits, `second[i]` of them of the second side; they add up to the sizes of the two sides,
    or nearly: where a side has too few documents left for a step, the other one fills it. Inside a step each side is
    spread evenly, so its share of any stretch of the step is that of the step.
    """
    first_size, second_size = sides(sizes)
    ends = np.cumsum(steps)
    of_second = _reached(sizes, ends, second)
    places = np.full(len(group), 2 * (first_size + second_size), np.int64)
    for side, side_ends in enumerate((ends - of_second, of_second)):
        rows = np.flatnonzero(group == side)
        step = np.searchsorted(side_ends, rank[rows], "right")
        counts = np.diff(side_ends, prepend=0)
        nth = rank[rows] - (side_ends - counts)[step]
        places[rows] = 2 * (ends - steps)[step] + (2 * nth + 1) * steps[step] // counts[step]
    return places


def filled(name: str, sizes: Ints, steps: Ints, second: Ints) -> Mapping[str, Any]:
    """The facts of an order of this name: how many visits are of the other side than their step asks for, since that
    has no more documents; nothing, if there are none."""
    given = np.diff(_reached(sizes, np.cumsum(steps), second), prepend=0)
    count = int(np.abs(given - second).sum())
    if count <= len(steps):
        return {}  # it is rounded
    one, several = "is of the other side than its step asks for", "are of the other side than asked for"
    line = f"{some_visits(count, one, several)}: one of both has no more documents"
    return {name: with_unmet({"filled": count}, [line])}


def _reached(sizes: Ints, ends: Ints, second: Ints) -> Ints:
    """How many visits of the second side there are up to the end of each step."""
    first_size, second_size = sides(sizes)
    return np.clip(np.cumsum(second), ends - first_size, second_size)


def sides(sizes: Ints) -> tuple[int, int]:
    """How many documents each of the two sides has."""
    first, second = np.pad(sizes[:2], (0, 2 - len(sizes[:2]))).tolist()
    return first, second
