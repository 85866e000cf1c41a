"""Clusters one after another, so that each is unlike the one before it and the last are like the first."""

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.exact import Ints
from selector.exact.vectors import vectors_of
from selector.order import Groups, GroupSummary, InGroups, Pool

_MOST_TRIED = 8  # groups of which every order is tried
_ONE = 1 << 41


@dataclass(frozen=True, kw_only=True)
class Designed(InGroups):
    """Visits the groups one after another in the order that the Curriculum Designer's score is highest for.

    A group is all documents with one value of the column `by` (cluster, source, a label, corpus.x), and inside it is
    arranged by `score` and `direction` as in `by_score`, else shuffled. A compact group comes first, each group is far
    from its neighbour, and the first groups are like the last ones: the score is 1 minus the variance inside the first
    group, and for each pair from the outside in 1 - distance, plus the distance to the next group. Distance is
    (1 - cosine) / 2 of the groups' mean embeddings; the variance is 1 minus the squared length of the mean (ours: the
    paper has the distances of optimal transport, and does not fix the variance). Up to 8 groups the best of all orders
    is found; of more, the most compact comes first, and each further one is the best for the one before it (ours).
    Documents without a value come last.

    Evidence: Learning to learn curricula, ICCV 2023, class-incremental image classification: orders with a high score
    forget less than random ones. For language models it was not tried, as far as we know.

    When: groups must come one after another anyway, as tasks of continual learning do. Where groups can be mixed,
    mix them (`mixed`, `shuffled`).
    """

    chance = "designed"

    by: str = "cluster"

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by, "embedding")

    def summary(self, chosen: Pool, seed: int) -> GroupSummary:
        groups = self.named_groups(chosen)
        width = chosen.schema.field("embedding").type.list_size
        sums = np.zeros((groups.count, width), np.int64)
        counts = np.zeros(groups.count, np.int64)
        for counted in chosen.map(functools.partial(_sums, groups), self.by, "embedding"):
            sums, counts = sums + counted[0], counts + counted[1]
        names = tuple(groups.names[i] for i in best_order(*_measured(sums, counts), _ONE))
        higher_is = chosen.higher_is(self.score) if self.score else ""
        return GroupSummary(groups=Groups(by=self.by, names=names), higher_is=higher_is)


def best_order(variance: Ints, distance: Callable[[int], Ints], one: int) -> list[int]:
    """The order of groups with these variances, and these distances from one to all, in parts of which `one` is 1."""
    count = len(variance)
    if count <= _MOST_TRIED:
        orders = np.array(list(itertools.permutations(range(count))), np.int64).reshape(math.factorial(count), count)
        rows = np.array([distance(group) for group in range(count)], np.int64).reshape(count, count)
        return orders[int(np.argmax(scores(orders, variance, rows, one)))].tolist()
    free = np.ones(count, np.bool_)
    front, back = [int(np.argmin(variance))], list[int]()
    free[front] = False
    while free.any():
        away = distance(front[-1])
        back.append(int(np.argmin(np.where(free, away, np.iinfo(np.int64).max))))
        free[back[-1]] = False
        if free.any():
            front.append(int(np.argmax(np.where(free, away, -1))))
            free[front[-1]] = False
    return front + back[::-1]


def scores(orders: Ints, variance: Ints, distance: Ints, one: int) -> Ints:
    """The Curriculum Designer's score of each of these orders, a row of groups each."""
    num_orders, count = orders.shape
    if not count:
        return np.zeros(num_orders, np.int64)
    score = one - variance[orders[:, 0]]
    for i in range(count // 2):
        now, last, following = orders[:, i], orders[:, count - 1 - i], orders[:, i + 1]
        score = score + one - distance[now, last] + distance[now, following]
    return score


def _sums(groups: Groups, batch: pa.RecordBatch) -> tuple[Ints, Ints]:
    """The sum of the embeddings of each group in units of 2**-24, in which float16 has no fractions; and its size."""
    group = groups.of(batch)
    vectors = (vectors_of(batch["embedding"]).astype(np.float64) * 2.0**24).astype(np.int64)
    sums = np.zeros((groups.count + 1, vectors.shape[1]), np.int64)
    np.add.at(sums, group, vectors)
    return sums[:-1], np.bincount(group, minlength=groups.count + 1)[:-1]


def _measured(sums: Ints, counts: Ints) -> tuple[Ints, Callable[[int], Ints]]:
    """The variance of each group, and its distances, in parts of `_ONE`, the same on every machine."""
    squares = [sum(x * x for x in row) for row in sums.tolist()]  # whole numbers of any size
    variance = [
        max(_ONE - square * _ONE // (count << 24) ** 2, 0)
        for square, count in zip(squares, counts.tolist(), strict=True)
    ]
    lengths: npt.NDArray[np.float64] = np.array([math.isqrt(square) or 1 for square in squares], np.float64)
    means = np.rint(sums / lengths[:, None] * 2.0**20)  # whole, and so are their products: no sum of them rounds
    return np.array(variance, np.int64), lambda group: (_ONE // 2 - (means @ means[group]).astype(np.int64)).clip(0)
