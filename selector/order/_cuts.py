"""Where the documents of a pool would be cut if they were sorted by a score: found without sorting them.

A cut is the first document behind it, so any batch can be asked on which side of it a document lies. Documents without
a score are on no side: they are in no piece.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.exact import LAST, Ints, Queued, UInt64, keyed, take
from selector.order._difficulty import Direction, difficulty_keys
from selector.plugins.pool import Pool

Answer = TypeVar("Answer")
Keys = Callable[[pa.RecordBatch], UInt64]

_AT_ONCE = 4  # cuts that are looked for together: a shard is held once for each


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """Cuts between documents that are sorted by a score, easy to hard or hard to easy, then by doc_id."""

    score: str
    higher_is: str
    direction: Direction
    before: UInt64  # (cuts, 3): the key, and the two words of the id, of the first document behind each cut

    def keys(self, batch: pa.RecordBatch) -> UInt64:
        """What documents are sorted by: LAST without a score."""
        return difficulty_keys(batch, self.score, self.higher_is, self.direction)

    def pieces(self, batch: pa.RecordBatch) -> Ints:
        """How many cuts lie before each document: the number of its piece. One more than any, without a score."""
        keys, ids = self.keys(batch), keyed.words(batch["doc_id"])
        queued = Queued(group=np.zeros(len(keys), np.int64), key=keys, ids=ids, sizes=np.ones(len(keys), np.int64))
        pieces = np.full(len(keys), len(self.before), np.int64)
        for cut in self.before:
            pieces -= queued.compare(cut)[0]
        return np.where(keys == LAST, len(self.before) + 1, pieces)


def cut_at(chosen: Pool, score: str, shares: Sequence[Fraction], direction: Direction = "curriculum") -> Cuts:
    """The cuts before which these shares of the scored documents lie, each number of documents rounded half to even.

    A document that is seen several times counts once, so all of its visits are on one side. Memory grows with the
    number of shares, not with that of documents.
    """
    cuts = Cuts(score=score, higher_is=chosen.higher_is(score), direction=direction, before=np.empty((0, 3), np.uint64))
    num_scored = sum(chosen.map(functools.partial(_num_scored, cuts.keys), "doc_id", score))
    rows = [cuts.before]
    for first in range(0, len(shares), _AT_ONCE):
        counts = [round(share * num_scored) for share in shares[first : first + _AT_ONCE]]
        rows.append(_behind(chosen, cuts.keys, (score,), counts, num_scored))
    return replace(cuts, before=np.concatenate(rows))


def median_key(chosen: Pool, keys: Keys, *columns: str) -> np.uint64:
    """The key of the middle document, of the lower one where two are in the middle; LAST if none has a key.

    `keys` says the key of each document of a batch with these columns and doc_id, LAST for those that do not count; it
    can be sent to a worker. A document that is seen several times counts once.
    """
    num_scored = sum(chosen.map(functools.partial(_num_scored, keys), "doc_id", *columns))
    if not num_scored:
        return LAST
    return _behind(chosen, keys, columns, [(num_scored - 1) // 2], num_scored)[0, 0]


def _behind(chosen: Pool, keys: Keys, columns: Sequence[str], counts: Sequence[int], num_scored: int) -> UInt64:
    """The document that comes after so many others, for each of the counts: its key and the words of its id."""

    def queues(work: Callable[[Queued], Answer]) -> Sequence[Answer]:
        return list(chosen.map(functools.partial(_queue, keys, len(counts), work), "doc_id", *columns))

    taken = take(queues, np.array(counts, np.int64), "stop", count=num_scored * len(counts))
    return np.where(taken.whole[:, None], LAST, taken.cuts)


def _firsts(keys_of: Keys, batch: pa.RecordBatch) -> tuple[UInt64, UInt64, npt.NDArray[np.bool_]]:
    """The keys and ids of a batch, and which rows are the first of a document that has a score."""
    keys, ids = keys_of(batch), keyed.words(batch["doc_id"])
    is_first = np.ones(len(ids), np.bool_)
    is_first[1:] = (ids[1:] != ids[:-1]).any(axis=1)
    return keys, ids, is_first & (keys != LAST)


def _num_scored(keys: Keys, batch: pa.RecordBatch) -> int:
    return int(_firsts(keys, batch)[2].sum())


def _queue(keys_of: Keys, num_cuts: int, work: Callable[[Queued], Answer], batch: pa.RecordBatch) -> Answer:
    """What the work says of the documents, once for each cut that is looked for."""
    keys, ids, chosen = _firsts(keys_of, batch)
    rows = np.tile(np.flatnonzero(chosen), num_cuts)
    group = np.repeat(np.arange(num_cuts), int(chosen.sum()))
    return work(Queued(group=group, key=keys[rows], ids=ids[rows], sizes=np.ones(len(rows), np.int64)))
