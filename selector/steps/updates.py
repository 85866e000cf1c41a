"""Where updates count: what a manifest says of the learning rate, beside its order and its quality.

The best tenth of all visits by quality is found without sorting them: by the first 24 bits of their sort keys (15 of
the mantissa), of which each part tells how many visits have them, and how much those count. The key at the border is
taken in proportion.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from selector import exact
from selector.engine.step import Done
from selector.exact import LAST, Floats, Ints, UInt64
from selector.exact.rates import Training
from selector.manifest import Visits

_BEST = 10  # one in so many is among the best
_DROPPED_BITS = np.uint64(40)


def facts_of(done: Done, training: Training, parts: Sequence[Visits], *, has_quality: bool) -> dict[str, Any]:
    """The manifest's facts: see `selector.manifest.header.Facts`. `best` is there where a visit has a quality; where
    none can have one, no part is read."""
    num_visits = sum(part.rows for part in parts)
    counts = training.mean_counts(num_visits)
    facts: dict[str, Any] = {
        "steps": training.num_steps(num_visits),
        "counts": [None if count is None else round(count, 4) for count in counts],
        "average": {"after_steps": training.checkpoint_steps(num_visits), "weights": "equal"},
    }
    if not has_quality:
        return facts
    firsts = np.cumsum([0, *(part.rows for part in parts)]).tolist()
    items = list(zip(firsts, parts, strict=False))
    tallies = list(done.map(functools.partial(_tally, training, num_visits), items))
    best = _best(*(np.concatenate(arrays) for arrays in zip(_NO_VISITS, *tallies, strict=True)))
    return facts if best is None else {**facts, "best": {"share": 1 / _BEST, "counts": round(best, 4)}}


_NO_VISITS = np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0)


def _tally(training: Training, num_visits: int, item: tuple[int, Visits]) -> tuple[UInt64, Ints, Floats]:
    """The beginnings of the keys of a part's visits, best first; how many visits have each, and what those count."""
    first, part = item
    keys = exact.descending(part.read()["quality"])
    steps = np.arange(first, first + len(keys)) // training.global_batch_size
    is_rated = keys != LAST
    begins, codes = np.unique(keys[is_rated] >> _DROPPED_BITS, return_inverse=True)
    counts = training.counts(num_visits)[steps[is_rated]]
    sums = np.bincount(codes, counts, len(begins)).astype(np.float64)
    return begins, np.bincount(codes, minlength=len(begins)), sums


def _best(begins: UInt64, numbers: Ints, counts: Floats) -> float | None:
    """How much the best tenth of these visits counts on average; None where there are none."""
    _, codes = np.unique(begins, return_inverse=True)
    visits, sums = np.bincount(codes, numbers), np.bincount(codes, counts)
    wanted = float(numbers.sum()) / _BEST
    if not wanted:
        return None
    before = np.cumsum(visits) - visits
    shares = np.clip((wanted - before) / visits, 0, 1)
    return float(np.cumsum(sums * shares)[-1]) / wanted
