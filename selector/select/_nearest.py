"""The documents that are nearest to each of some queries, by exact cosines, whatever the number of shards.

Each shard says the beginning of every query's list; two beginnings make one. So no more is held than is asked for.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.exact import Floats, UInt64, keyed
from selector.plugins.pool import Pool
from selector.select._alike import vectors

_ROWS = 1 << 24  # cosines that are held at once

LeftOut = Callable[[UInt64, Floats, Floats], npt.NDArray[np.bool_]]
"""Of some documents' ids (n, 2), their vectors (n, d) and their cosines to the queries (n, queries): which of them are
left out of which list, (n, queries). Picklable."""


@dataclass(frozen=True, kw_only=True)
class Lists:
    """For each query the beginning of its list: cosines and doc_ids, (depth, queries), the nearest first, ties by
    doc_id. Where a list has no more documents the cosine is -infinity."""

    cosines: Floats
    ids: UInt64  # (depth, queries, 2)

    @classmethod
    def of(cls, pool: Pool, queries: Floats, depth: int, left_out: LeftOut | None = None) -> "Lists":
        """The beginnings of so many documents, or of all where there are fewer."""
        lists = pool.map(functools.partial(_list, queries, depth, left_out), "doc_id", "embedding")
        empty = cls(cosines=np.empty((0, len(queries))), ids=np.empty((0, len(queries), 2), np.uint64))
        return functools.reduce(functools.partial(_merged, depth), lists, empty)


def largest_cosines(queries: Floats, batch: pa.RecordBatch) -> Floats:
    """The largest cosine of each document to any query; sums of products of float16 do not round in float64."""
    cosines = np.empty(batch.num_rows)
    for rows in _stretches(batch.num_rows, len(queries)):
        cosines[rows] = (vectors(batch.slice(rows.start, rows.stop - rows.start)) @ queries.T).max(axis=1)
    return cosines


def _list(queries: Floats, depth: int, left_out: LeftOut | None, batch: pa.RecordBatch) -> Lists:
    """The beginnings of the queries' lists of the documents of a shard."""
    words = keyed.words(batch["doc_id"])
    order = np.lexsort((words[:, 1], words[:, 0]))
    by_id, words = batch.take(pa.array(order)), words[order]
    cosines, places = np.empty((0, len(queries))), np.empty((0, len(queries)), np.int64)
    for rows in _stretches(batch.num_rows, len(queries)):
        points = vectors(by_id.slice(rows.start, rows.stop - rows.start))
        more = points @ queries.T
        if left_out is not None:
            more[left_out(words[rows], points, more)] = -np.inf
        cosines = np.concatenate([cosines, more])
        numbers = np.broadcast_to(np.arange(rows.start, rows.stop)[:, None], more.shape)
        places = np.concatenate([places, numbers])
        best = np.argsort(-cosines, axis=0, kind="stable")[:depth]  # of equal ones the lower id, which came before
        cosines, places = np.take_along_axis(cosines, best, 0), np.take_along_axis(places, best, 0)
    return Lists(cosines=cosines, ids=words[places])


def _merged(depth: int, one: Lists, other: Lists) -> Lists:
    cosines, ids = np.concatenate([one.cosines, other.cosines]), np.concatenate([one.ids, other.ids])
    best = np.lexsort((ids[..., 1], ids[..., 0], -cosines), axis=0)[:depth]
    return Lists(cosines=np.take_along_axis(cosines, best, 0), ids=np.take_along_axis(ids, best[..., None], 0))


def _stretches(num_rows: int, width: int) -> list[slice]:
    step = max(1, _ROWS // max(width, 1))
    return [slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]
