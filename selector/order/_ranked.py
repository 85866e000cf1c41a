"""What orders share that go by ranks: the documents from easy to hard, and those that are not visited."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import exact, tables
from selector.exact import Floats, Ints, UInt64, keyed
from selector.order._contract import Positions, numbered
from selector.order._difficulty import Direction, difficulty_keys
from selector.order._placed import Placed, random_visits
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


def ranked(chosen: Pool, score: str, direction: Direction) -> tuple[UInt64, Floats, Ints]:
    """The ids and the scores of the pool's rows, and the rows in the order of the score, ties by id."""
    read = functools.partial(_read, score, chosen.higher_is(score), direction)
    none = np.empty((0, 2), np.uint64), np.empty(0), np.empty(0, np.uint64)
    ids, scores, keys = (
        np.concatenate(arrays) for arrays in zip(none, *chosen.map(read, "doc_id", score), strict=True)
    )
    return ids, scores, exact.argsort(keys, ids)


def laps(pool: Ints, ids: UInt64, num_visits: int, seed: int, purpose: str) -> Iterator[Ints]:
    """So many visits of these rows, lap after lap, each shuffled anew; of the last lap a random sample."""
    documents, again = keyed.ids(ids[pool]), numbered(ids)[pool]
    for lap in range(-(-num_visits // max(len(pool), 1))):
        chance = random_visits(documents, again, seed, f"{purpose}/{lap}")
        yield pool[exact.argsort(chance, ids[pool])[: num_visits - lap * len(pool)]]


def left_out(positions: Positions, num_rows: int, because: str) -> Positions:
    """The same visits, with the rows that have none told as left."""
    visited = np.bincount(positions.visits["document"].to_numpy(), minlength=num_rows)
    rows = np.flatnonzero(visited == 0)
    reason = pa.DictionaryArray.from_arrays(np.zeros(len(rows), np.int32), pa.array([because]))
    left = pa.table([rows.astype(np.int64), reason, pa.nulls(len(rows), tables.LABEL)], schema=tables.LEFT)
    return replace(positions, left=left)


def _read(
    score: str, higher_is: str, direction: Direction, batch: pa.RecordBatch
) -> tuple[UInt64, npt.NDArray[np.float64], UInt64]:
    keys = difficulty_keys(batch, score, higher_is, direction)
    return keyed.words(batch["doc_id"]), exact.floats(batch[score]), keys
