"""The best documents several times, as long as another visit is worth more than a new document."""

import functools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from selector import exact
from selector.errors import PolicyError
from selector.exact import Floats, Ints, Queued, Taken, keyed
from selector.select import Budget, Decisions, Pool, ScoreName, Selector, reasons, verdicts

Answer = TypeVar("Answer")

_MOST_VISITS = 64
_PLACES = np.uint64(2**16 - 1)  # of a key, which tell the visits of one document apart


@dataclass(frozen=True, kw_only=True)
class Repeats(Selector):
    """Spends the budget on visits: the k-th further visit of a document is worth its score x `decay` ** k.

    The most valuable visits are taken until the budget is spent, at most `visits` of each document; values that are
    equal, within 1e-11, by the number of the visit and then by doc_id. So a small set of the best documents is seen
    several times beside a large set of good ones that is seen once. The score must be a worth: a document whose score
    is 0 or less, or that has none, is never taken. Nothing is drawn.

    The default decay is exp(-1 / 15.387756), by which the worth of a repetition falls in the source's fitted law; 1
    repeats all documents alike, a small one repeats none. That law counts repetitions of a whole corpus; to give each
    document its own number of visits is our design.

    Source: Muennighoff et al., arXiv 2305.16264. Setting: C4, up to 9 billion parameters. Reported: up to 4 repetitions
    are almost as good as new data. Not measured here. `random` is as good where the score says nothing; `top` where the
    budget is small beside what is good.
    """

    fills_budget = False

    score: ScoreName
    decay: float = 0.93708
    visits: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1:
            raise PolicyError(
                f"repeats.decay={self.decay} is not above 0 and at most 1. Write 1.0 where a repetition is worth as "
                "much as the first visit, less where it is worth less."
            )
        if not 1 <= self.visits <= _MOST_VISITS:
            raise PolicyError(
                f"repeats.visits={self.visits} is not from 1 to {_MOST_VISITS}. Write how often a document may be "
                "visited."
            )

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        columns = ("doc_id", "num_tokens", self.score)

        def queues(work: Callable[[Queued], Answer]) -> Iterable[Answer]:
            return pool.map(functools.partial(_queue, self, budget, work), *columns)

        count = self.visits * pool.num_documents
        taken = exact.take(queues, np.array([budget.amount]), budget.overshoot, count=count)
        counts, cut = Counter[int](), -np.inf
        for numbers, left in pool.map(functools.partial(_outcome, self, budget, taken), *columns):
            counts.update(numbers)
            cut = max(cut, left)
        facts = {"documents_by_visits": {str(visits): counts[visits] for visits in sorted(counts)}}
        decide = _Decide(selector=self, budget=budget, taken=taken, cut=cut if np.isfinite(cut) else np.nan)
        return Decisions(decide=decide, columns=columns, facts=facts)

    def worth(self, batch: pa.RecordBatch) -> Floats:
        """What each visit of each document is worth, (visits, n); NaN: it is never taken."""
        first = exact.floats(batch[self.score])
        factors = np.cumprod(np.r_[1.0, np.full(self.visits - 1, self.decay)])
        return np.where(first > 0, first, np.nan) * factors[:, None]

    def queued(self, batch: pa.RecordBatch, budget: Budget) -> Queued:
        """The visits of the documents in one queue, all first ones before all second ones of the batch."""
        worth = self.worth(batch)
        number = np.arange(self.visits, dtype=np.uint64)[:, None]
        key = (exact.largest_first(worth.reshape(-1)).reshape(worth.shape) & ~_PLACES) | number
        return Queued(
            group=np.zeros(worth.size, np.int64),
            key=key.reshape(-1),
            ids=np.tile(keyed.words(batch["doc_id"]), (self.visits, 1)),
            sizes=np.tile(budget.sizes(batch), self.visits),
        )


def _queue(selector: Repeats, budget: Budget, work: Callable[[Queued], Answer], batch: pa.RecordBatch) -> Answer:
    """What work says of those visits of a shard that may be taken."""
    return work(selector.queued(batch, budget).where(~np.isnan(selector.worth(batch).reshape(-1))))


def _visits(selector: Repeats, budget: Budget, taken: Taken, batch: pa.RecordBatch) -> tuple[Ints, float]:
    """How often each document is visited, and the largest worth of a visit that was not taken; -inf: there is none."""
    worth = selector.worth(batch)
    is_taken = taken.mask(selector.queued(batch, budget)).reshape(worth.shape) & ~np.isnan(worth)
    return is_taken.sum(axis=0), float(np.nan_to_num(worth, nan=-np.inf).max(where=~is_taken, initial=-np.inf))


def _outcome(selector: Repeats, budget: Budget, taken: Taken, batch: pa.RecordBatch) -> tuple[dict[int, int], float]:
    """How many documents are visited so often, and the largest worth that was left."""
    visits, left = _visits(selector, budget, taken, batch)
    numbers, counts = np.unique(visits[visits > 0], return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True)), left


@dataclass(frozen=True, kw_only=True)
class _Decide:
    """The verdict on any batch."""

    selector: Repeats
    budget: Budget
    taken: Taken
    cut: float

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        visits, _ = _visits(self.selector, self.budget, self.taken, batch)
        kept, first = visits > 0, exact.floats(batch[self.selector.score])
        score = self.selector.score
        arguments: list[Any] = [
            f"a visit is worth more by {score} than any that was left",
            f"a visit is worth less by {score} than those that were paid for",
            f"{score} is not above 0, or not known",
        ]
        return verdicts(
            kept,
            **reasons(np.where(kept, 0, np.where(first > 0, 1, 2)), arguments),
            visits=np.maximum(visits, 1).astype(np.uint16),
            inclusion_probability=kept.astype(np.float32),
            value=first,
            cut=np.full(batch.num_rows, self.cut),
        )
