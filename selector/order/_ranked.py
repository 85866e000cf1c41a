"""What orders share that go by ranks: the documents from easy to hard, class after class, or by their ids."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import exact
from selector.exact import Ints, UInt64, keyed
from selector.order._difficulty import Direction, difficulty_keys
from selector.order._groups import Groups, groups_in
from selector.order._placed import Placed
from selector.plugins.options import ScoreName
from selector.plugins.pool import Pool


@dataclass(frozen=True, kw_only=True)
class ByDifficulty(Placed):
    """The rows of a pool from easy to hard or from hard to easy, for the ranks of another order (`Order.ranks`).

    With `once`, of the rows of a document only the first.
    """

    score: ScoreName
    direction: Direction
    once: bool = False

    def summary(self, chosen: Pool, seed: int) -> str:
        return chosen.higher_is(self.score)

    def visits(self, batch: pa.RecordBatch, summary: str, seed: int) -> Ints | None:
        return first_rows(batch).astype(np.int64) if self.once else None

    def keys(self, batch: pa.RecordBatch, summary: str, seed: int) -> UInt64:
        return difficulty_keys(batch, self.score, summary, self.direction)


@dataclass(frozen=True, kw_only=True)
class ByClass(Placed):
    """Class after class, each by its scores."""

    by: str
    score: ScoreName
    direction: Direction

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by,)

    def summary(self, chosen: Pool, seed: int) -> tuple[Groups, str]:
        return groups_in(chosen, self.by), chosen.higher_is(self.score)

    def groups(self, batch: pa.RecordBatch, summary: tuple[Groups, str]) -> Ints:
        return summary[0].of(batch)

    def keys(self, batch: pa.RecordBatch, summary: tuple[Groups, str], seed: int) -> UInt64:
        return difficulty_keys(batch, self.score, summary[1], self.direction)


@dataclass(frozen=True, kw_only=True)
class ById(Placed):
    """The documents of a pool by their ids, each once."""

    def visits(self, batch: pa.RecordBatch, summary: None, seed: int) -> Ints:
        return first_rows(batch).astype(np.int64)

    def keys(self, batch: pa.RecordBatch, summary: None, seed: int) -> UInt64:
        return np.zeros(batch.num_rows, np.uint64)


def first_rows(batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """Which rows of a batch are the first of their document."""
    ids = keyed.words(batch["doc_id"])
    is_first = np.ones(len(ids), np.bool_)
    is_first[1:] = (ids[1:] != ids[:-1]).any(axis=1)
    return is_first


def num_scored(score: str, batch: pa.RecordBatch) -> int:
    """How many documents of a batch have a score."""
    return int(np.count_nonzero(first_rows(batch) & ~np.isnan(exact.floats(batch[score]))))
