"""Another order for a while, then no order."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Literal, TypeVar

import numpy as np

from selector.errors import PolicyError
from selector.exact import Ints, Queued, UInt64, take
from selector.order import Along, Resorted
from selector.order._around import Visits
from selector.order._resorted import Labels, by_position

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Warmup(Resorted):
    """Begins with another order for a share of all visits, and goes on at random.

    The visits of the warm-up are a random sample, in the other order: so difficulty is the same on both sides of the
    border. With `of: beginning` they are those with which the other order begins, and the rest lacks them. The two
    stretches are the phases warmup and main.

    Evidence: arXiv 2506.11300 (more than 200 models, up to 100B tokens): curricula by compression, lexical diversity or
    readability as a warm-up before a random order: up to 3.5 % better than random throughout. Gains shrink with scale:
    little is left at 410M to 1B parameters (2601.21698).

    When: a curriculum is wanted and the rest of training shall have no part in it; models are small or steps few.
    Otherwise `shuffled` throughout is as good.
    """

    share: float = 0.1
    of: Literal["sample", "beginning"] = "sample"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise PolicyError(f"warmup.share={self.share} is no share of the visits: write a number from 0 to 1.")

    def summary(self, visits: Visits, seed: int) -> UInt64 | None:
        """The first visit beyond the warm-up, by what visits are drawn by; None: there is none."""
        count = self.count(visits.count)
        if self.of == "beginning":
            return None if count == visits.count else np.array([count, 0, 0], np.uint64)

        def queues(work: Callable[[Queued], Answer]) -> Iterable[Answer]:
            return visits.each(partial(_of_chance, work, seed))

        taken = take(queues, np.array([count]), "stop", count=visits.count)
        return None if taken.whole[0] else taken.cuts[0]

    def keys(self, along: Along, summary: UInt64 | None, seed: int) -> Sequence[UInt64 | Ints]:
        is_first = np.ones(len(along.position), np.bool_)
        if summary is not None:
            drawn = by_position(along) if self.of == "beginning" else _by_chance(along, seed)
            is_first = drawn.compare(summary)[0]
        rest = along.chance(seed, "warmup")
        return (~is_first).astype(np.int64), np.where(is_first, along.position.astype(np.uint64), rest)

    def phases(self, position: Ints, num_visits: int) -> Labels:
        return (position >= self.count(num_visits)).astype(np.int64), ["warmup", "main"]

    def count(self, num_visits: int) -> int:
        """How many visits the warm-up has."""
        return int(Fraction(str(self.share)) * num_visits)


def _of_chance(work: Callable[[Queued], Answer], seed: int, along: Along) -> Answer:
    return work(_by_chance(along, seed))


def _by_chance(along: Along, seed: int) -> Queued:
    """The visits as they are drawn: at random."""
    return replace(by_position(along), key=along.chance(seed, "warmup"))
