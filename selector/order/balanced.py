"""From easy to hard, with as many documents of each class at any time as there are of the others."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector.exact import Ints, UInt64
from selector.order import Direction, Groups, Order, Placed, Pool, ScoreName, groups_in
from selector.order._groups import group_sizes
from selector.order._ranked import ByClass, ByDifficulty


@dataclass(frozen=True, kw_only=True)
class Balanced(Placed):
    """Visits the easiest document of each class, then the second easiest of each, and so on (class-balanced).

    A class is all documents with one value of the column `by` (source, cluster, a label, corpus.x). Those of one round
    are in the order of their scores, whatever their class; a class that has no more documents is passed over. It takes
    three sorts, where `round_robin` takes two and differs from this only in going round the classes always in the same
    order.

    Evidence: arXiv 2012.03107 (When do curricula work?), image classification: curriculum, anti-curriculum and random
    orders end alike with the usual budget of steps; a curriculum gains where steps are few or labels are noisy. Its
    orders are balanced like this so that classes do not arrive one by one.

    When: there are few classes, a batch is to have several documents of each, and steps are few or labels noisy.
    With the usual budget of steps `shuffled` is as good.
    """

    by: str = "source"
    score: ScoreName
    direction: Direction = "curriculum"

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by,)

    @property
    def ranks(self) -> Mapping[str, Order]:
        return {
            "rank": ByDifficulty(score=self.score, direction=self.direction),
            "in class": ByClass(by=self.by, score=self.score, direction=self.direction),
        }

    def summary(self, chosen: Pool, seed: int) -> "Classes":
        groups = groups_in(chosen, self.by)
        sizes = group_sizes(chosen, groups)
        return Classes(groups=groups, begins=np.cumsum(sizes) - sizes, num_rows=chosen.num_documents)

    def keys(self, batch: pa.RecordBatch, summary: "Classes", seed: int) -> UInt64:
        """By the rank of a document in its class, and then by its rank among all: 2**32 documents at most."""
        in_class = batch["in class"].to_numpy() - summary.begins[summary.groups.of(batch)]
        return (in_class * summary.num_rows).astype(np.uint64) + batch["rank"].to_numpy().astype(np.uint64)


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The classes, how many documents are in those before each, and how many there are."""

    groups: Groups
    begins: Ints
    num_rows: int
