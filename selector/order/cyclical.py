"""Small steps, then large ones, then small ones again; each draws from all documents by their score."""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar, Literal, TypeVar

import numpy as np
import pyarrow as pa

from selector import exact
from selector.errors import PolicyError
from selector.exact import Floats, Ints, Queued, UInt64, keyed, take
from selector.order import Dealt, Pool, ScoreName, numbered
from selector.order._draws import Bools, number_of
from selector.order._pacing import Course, cycle
from selector.order._placed import Drawn

Answer = TypeVar("Answer")

AGE = 1.2**2
"""What the weight of a document is divided by in the step after one that drew it."""


@dataclass(frozen=True, kw_only=True)
class Cyclical(Dealt):
    """Trains on a share of all documents at a time, and the share goes up and down (Cyclical Curriculum Learning).

    Every step draws int(share * documents) of *all* documents without replacement, with probabilities in proportion to
    their weights, and visits them shuffled; the share starts at `least`, is divided by `factor` at each step up to
    `greatest`, then multiplied by it down to `least`, and so on, until there are `epochs` times as many visits as
    documents; the last step is cut to that (the published code goes beyond it). `sharp_cycle` falls to `least` at once,
    `lower_to_bigger` stays at the top and `bigger_to_lower` goes from `greatest` down and stays there. The weight of a
    document is its score, or 1 divided by it (`weight: inverse`, for a loss); one without a score, or with none above
    0, is drawn after all others. With `ages`, a document weighs 1.44 times less in the step after one that drew it, and
    only in that. Documents that no step draws are told as left.

    Evidence: Cyclical Curriculum Learning, arXiv 2202.05531: image and text classification, e.g. the best validation
    accuracy on CIFAR-10 from 70.3 to 74.1 %, with scores of a model trained before; small networks, one group. A
    schedule of the easiest documents is another thing: `pooled`.

    When: the network is small, several epochs can be paid for, and a model that was trained before has scored the
    documents. For language models it was not tried, as far as we know.
    """

    left_because: ClassVar[str] = "no step of the cycle drew it"

    score: ScoreName
    course: Course = "cycle"
    least: float = 0.25
    greatest: float = 1.0
    factor: float = 0.5
    epochs: float = 1.0
    weight: Literal["score", "inverse"] = "score"
    ages: bool = False

    def __post_init__(self) -> None:
        if not 0.001 <= self.least <= self.greatest <= 1:
            raise PolicyError(
                f"cyclical.least={self.least} and cyclical.greatest={self.greatest} are no shares of the documents, a "
                "small one and a large one: write numbers from 0.001 to 1."
            )
        if not 0.01 <= self.factor <= 0.99:
            raise PolicyError(f"cyclical.factor={self.factor} does not make a share smaller: write 0.01 to 0.99.")
        if not 0 <= self.epochs <= 1000:
            raise PolicyError(f"cyclical.epochs={self.epochs} is no number of epochs: write a number from 0 to 1000.")

    def summary(self, chosen: Pool, seed: int) -> "Cycle":
        count, cycle = chosen.num_documents, Cycle()
        for size in self.sizes(count):

            def queues(work: Callable[[Queued], Answer], so_far: Cycle = cycle) -> Iterable[Answer]:
                return chosen.map(functools.partial(_race, self, so_far, seed, work), "doc_id", self.score)

            paid = take(queues, np.array([size]), "stop", count=count)
            cut = None if paid.whole[0] else paid.cuts[0]
            cycle = Cycle(cuts=(*cycle.cuts, cut), until=(*cycle.until, size - paid.spent))
        return cycle

    def drawn(self, batch: pa.RecordBatch, summary: "Cycle", seed: int) -> Drawn:
        def draws() -> Iterator[tuple[Ints, int, UInt64]]:
            for step, (_, is_drawn) in enumerate(self._steps(batch, summary, seed)):
                rows = np.flatnonzero(is_drawn)
                yield rows, step, number_of(batch, rows, seed, f"cyclical/{step}/turn")

        return Drawn.of(draws())

    def _steps(self, batch: pa.RecordBatch, cycle: "Cycle", seed: int) -> Iterator[tuple[UInt64, Bools]]:
        """By step, when the rows of a batch arrive, and which of them it draws."""
        drawn = np.zeros(batch.num_rows, np.bool_)
        for step in range(len(cycle.cuts)):
            key = self._arrivals(batch, step, drawn, seed)
            drawn = cycle.among(step, batch, key)
            yield key, drawn

    def _arrivals(self, batch: pa.RecordBatch, step: int, before: Bools, seed: int) -> UInt64:
        """When the rows of a batch arrive at a step, as numbers; `before` are those that the step before it drew."""
        scores = exact.floats(batch[self.score])
        weights = np.where(scores > 0, scores, 0.0)
        if self.weight == "inverse":
            weights = np.divide(1, weights, out=np.zeros_like(weights), where=weights > 0)
        if self.ages:
            weights = aged(weights, np.flatnonzero(before))
        chance = number_of(batch, np.arange(batch.num_rows), seed, f"cyclical/{step}")
        return (race(weights, chance) + 0.0).view(np.uint64)  # of numbers from 0 on, in their order

    def arriving(self, batch: pa.RecordBatch, cycle: "Cycle", seed: int) -> UInt64:
        """When the rows of a batch arrive at the step that comes after those."""
        before = np.zeros(batch.num_rows, np.bool_)
        if self.ages:
            before = next(iter(deque((drawn for _, drawn in self._steps(batch, cycle, seed)), maxlen=1)), before)
        return self._arrivals(batch, len(cycle.cuts), before, seed)

    def sizes(self, num_documents: int) -> list[int]:
        """How many documents each step draws, their sum being the number of visits."""
        least, greatest, factor = (Fraction(str(x)) for x in (self.least, self.greatest, self.factor))
        left, sizes = round(Fraction(str(self.epochs)) * num_documents), list[int]()
        shares = cycle(self.course, least, greatest, factor)
        while left > 0:
            sizes.append(min(max(int(next(shares) * num_documents), 1), left))
            left -= sizes[-1]
        return sizes


@dataclass(frozen=True, kw_only=True)
class Cycle:
    """Where the draws of some steps end."""

    cuts: tuple[UInt64 | None, ...] = ()  # the first document that a step cannot draw with all its rows; None: all
    until: tuple[int, ...] = ()  # of which it draws so many rows

    def among(self, step: int, batch: pa.RecordBatch, key: UInt64) -> Bools:
        """Which rows of a batch a step draws."""
        cut = self.cuts[step]
        if cut is None:
            return np.ones(len(key), np.bool_)
        before, on = queued(batch, key).compare(cut)
        return before | on & (batch["visit"].to_numpy() < self.until[step])


def queued(batch: pa.RecordBatch, key: UInt64) -> Queued:
    """The rows of a batch, those that arrive first in front."""
    zeros = np.zeros(len(key), np.int64)
    return Queued(group=zeros, key=key, ids=keyed.words(batch["doc_id"]), sizes=np.ones(len(key), np.int64))


def _race(order: Cyclical, cycle: Cycle, seed: int, work: Callable[[Queued], Answer], batch: pa.RecordBatch) -> Answer:
    """What the work says of the rows of a batch at the next step; rows of a document that arrive together are one."""
    batch = batch.append_column("visit", pa.array(numbered(keyed.words(batch["doc_id"]))))
    rows = queued(batch, order.arriving(batch, cycle, seed))
    is_new = np.ones(len(rows.key), np.bool_)
    is_new[1:] = (rows.ids[1:] != rows.ids[:-1]).any(axis=1) | (rows.key[1:] != rows.key[:-1])
    times = np.diff(np.flatnonzero(is_new), append=len(is_new))
    return work(replace(rows.where(is_new), sizes=times))


def race(weights: Floats, chance: UInt64) -> Floats:
    """When each document arrives: the first k to arrive are k draws without replacement with these weights."""
    times = -exact.log(keyed.fractions(chance))
    return np.divide(times, weights, out=np.full(len(weights), np.inf), where=weights > 0)


def aged(weights: Floats, drawn: Ints) -> Floats:
    """The weights for the step after one that drew these."""
    weights = weights.copy()
    weights[drawn] /= AGE
    return weights
