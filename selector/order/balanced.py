"""From easy to hard, with as many documents of each class at any time as there are of the others."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector import exact
from selector.exact import Ints, UInt64, keyed
from selector.order import Direction, Groups, Order, Pool, Positions, ScoreName, difficulty_keys, groups_in


@dataclass(frozen=True, kw_only=True)
class Balanced(Order):
    """Visits the easiest document of each class, then the second easiest of each, and so on (class-balanced).

    A class is all documents with one value of the column `by` (source, cluster, a label, corpus.x). Those of one round
    are in the order of their scores, whatever their class; a class that has no more documents is passed over. The
    driver holds the keys and ids of all documents, 48 bytes each; `round_robin` does not, and differs from this only
    in going round the classes always in the same order.

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

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        read = _Read(
            groups=groups_in(chosen, self.by),
            score=self.score,
            higher_is=chosen.higher_is(self.score),
            direction=self.direction,
        )
        none = np.empty(0, np.int64), np.empty((0, 2), np.uint64), np.empty(0, np.uint64)
        shards = chosen.map(read, "doc_id", self.by, self.score)
        group, ids, keys = (np.concatenate(arrays) for arrays in zip(none, *shards, strict=True))
        by_key = exact.argsort(keys, ids)
        by_group = by_key[np.argsort(group[by_key], kind="stable")]
        sizes = np.bincount(group)
        rank = np.empty(len(group), np.int64)
        rank[by_group] = np.arange(len(group)) - (np.cumsum(sizes) - sizes)[group[by_group]]
        return Positions.of(by_key[np.argsort(rank[by_key], kind="stable")], ids)


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What the order needs of a batch: the group, the id and the key of each document."""

    groups: Groups
    score: str
    higher_is: str
    direction: Direction

    def __call__(self, batch: pa.RecordBatch) -> tuple[Ints, UInt64, UInt64]:
        keys = difficulty_keys(batch, self.score, self.higher_is, self.direction)
        return self.groups.of(batch), keyed.words(batch["doc_id"]), keys
