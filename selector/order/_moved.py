"""What orders around another one share: the stretches that a visit may not leave, and how visits are kept apart."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from selector.exact import Ints
from selector.order._spacing import spaced


def stretches(phase: pa.ChunkedArray) -> tuple[Ints, Ints]:
    """Where each stretch of one phase begins, and the number of the stretch of every visit."""
    codes = phase.unify_dictionaries().combine_chunks().indices.to_numpy() if len(phase) else np.empty(0, np.int64)
    is_new = np.ones(len(codes), np.bool_)
    is_new[1:] = codes[1:] != codes[:-1]
    return np.flatnonzero(is_new), np.cumsum(is_new) - 1


def kept_apart(phase: pa.ChunkedArray, group: Ints, window_of: Callable[[Ints], int], most: int) -> Ints:
    """The places of visits in another order, in which a window has at most `most` of one group, wherever that can be.

    Every visit comes as early as it can; those of a group stay in their order, and none leaves its stretch of one
    phase. `window_of` says how wide a window is, from the groups of a stretch; windows go on from stretch to stretch.
    Negative groups are of one visit each.
    """
    begins, _ = stretches(phase)
    places = np.empty(0, np.int64)
    for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(group)], strict=False):
        window = window_of(group[begin:end])
        here = spaced(group[begin:end], window, most, group[places[-window:]])
        places = np.concatenate([places, begin + here])
    return places


def moved_by(places: Ints) -> dict[str, float]:
    """How far visits moved, for the facts of a manifest."""
    moved = np.abs(places - np.arange(len(places)))
    return {
        "moved_at_most": int(moved.max(initial=0)),
        "moved_on_average": round(float(moved.mean()), 3) if len(moved) else 0.0,
    }
