"""Documents that span as much as they can."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from selector import exact
from selector.errors import PolicyError
from selector.exact import Floats, Ints
from selector.select import Keys, SignalName
from selector.select._alike import vectors
from selector.select._quotas import OneByOne

_LEAST = 1e-6  # of what a document adds: less is rounding


@dataclass(frozen=True, kw_only=True)
class Determinantal(OneByOne):
    """Takes, in every cluster, the document that adds most to the volume of those taken (greedy DPP).

    What is maximised is the determinant of the matrix of cosines of the documents taken: the square of the volume that
    their vectors span. With a `score`, documents count the more the better they are: cosines are multiplied by
    exp(`weight` x score) of both. What is chosen already is taken first. A document's value is the logarithm of the
    factor by which it raised the determinant. So many documents as vectors have numbers span all of the space; what
    comes after them repeats them, and is taken by value, ties by doc_id.

    Every cluster is gone through by itself, and gets its share of the budget: `proportional` to its size, or `equal`
    for all. A cluster may have 4,096 documents, and takes time with their number times the square of that of those
    taken. Every number is worked out in a stated order, without BLAS, but for the cosines, which do not round: the same
    bits on every machine. Nothing is drawn.

    Source: Chen, Zhang and Zhou, arXiv 1709.05135 (fast greedy MAP); Kulesza and Taskar, arXiv 1207.6083. Setting:
    recommendation. Reported: better relevance at the same diversity than MMR. Measured on 5 % of 6,936 pages of Debian
    documentation (64 clusters, 5 seeds, of random 25; entropy of packages as a part of the largest): .721 ± .018,
    random .688 ± .009; with equal quotas over `cluster.levels: [128]` .756 ± .029, on 1 % .732 ± .043 (random .634 ±
    .017). `random` is as good where vectors point in all directions alike.
    """

    largest_group: ClassVar[int | None] = 1 << 12

    score: SignalName | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 100:
            raise PolicyError(f"determinantal.weight={self.weight:g} is not from 0 to 100. Write e.g. 1.0.")

    def first_keys(self, group: pa.RecordBatch, given: pa.RecordBatch, seed: int, most_taken: int | None) -> Keys:
        count, known = group.num_rows, given.num_rows
        points = np.concatenate([vectors(given).reshape(known, -1), vectors(group)]) if known else vectors(group)
        factors = np.ones(len(points))
        if self.score is not None:
            scores = np.concatenate([exact.floats(batch[self.score]) for batch in (given, group)])
            factors = exact.expm1(np.clip(self.weight * np.nan_to_num(scores), -50.0, 50.0)) + 1
        limit = count if most_taken is None else min(most_taken, count)

        def row(place: int) -> Floats:
            return (points @ points[place]) * factors * factors[place]

        squares = (points * points).sum(axis=1) * factors * factors
        order, gains = greedy(row, squares, known, known + limit)
        place, values = np.empty(count, np.uint64), np.empty(count)
        place[order - known], values[order - known] = np.arange(count), gains
        return Keys(keys=place, values=values)


def greedy(row: Callable[[int], Floats], diagonal: Floats, known: int, limit: int) -> tuple[Ints, Floats]:
    """All documents after the first `known`, which are taken already: those first that are taken until `limit` are, and
    the logarithm of the factor that each adds to the determinant. `row` gives a row of the matrix.

    Cholesky's decomposition, a row for each document taken: what a document adds is its diagonal less the squares of
    its column so far. Ties go to the lower place.
    """
    left, rows = diagonal.copy(), list[Floats]()
    is_left = np.ones(len(left), np.bool_)
    order: list[int] = []
    gains: list[float] = []
    least = _LEAST * diagonal
    for turn in range(limit):
        open_ = is_left & (left > least)
        best = turn if turn < known else int(np.where(open_, left, -np.inf).argmax())
        if turn >= known and not open_[best]:
            break
        is_left[best] = False
        if turn >= known:
            order.append(best)
            gains.append(float(left[best]))
        if left[best] <= least[best]:
            continue  # what is chosen already may repeat itself
        column = row(best)
        for earlier in rows:
            column = column - earlier[best] * earlier
        column = column / np.sqrt(left[best])
        rows.append(column)
        left = np.maximum(left - column * column, 0.0)
    rest = np.flatnonzero(is_left[known:]) + known
    rest = rest[np.argsort(-left[rest], kind="stable")]
    factors = np.maximum(np.array([*gains, *left[rest]]), 1e-300)
    return np.array([*order, *rest], np.int64), exact.log(factors)
