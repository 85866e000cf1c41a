"""Neighbours: for every document those of its cluster that are most like it, once and for all who select by them.

The vectors of a cluster meet on a worker; every part gets back what concerns its documents. What is selected later
reads a few ids and cosines of each document, and no vectors.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from selector import tables
from selector.corpus.joined import align
from selector.engine.step import APART, Done, Exchange, Tables
from selector.engine.store import Seal, Store
from selector.errors import SelectorError
from selector.exact.vectors import most_alike, vectors_of
from selector.plugins.pool import Extension, Pool
from selector.steps.regroup import Exchanged

LARGEST_CLUSTER = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Neighbours(Exchange):
    """The nearest documents of each document of a part that has a vector (`tables.NEIGHBOURS`)."""

    name: str = field(default="neighbours", metadata=APART)
    version = 1
    reads: tuple[str, ...] = field(default=("cluster", "embed"), metadata=APART)

    count: int

    def inputs(self, done: Done) -> Any:
        return [[seal.key for seal in done[step].parts] for step in self.reads]

    def rows_out(self, seal: Seal, store: Store) -> int:
        return int(store.table(seal, "parts", ["num_documents"])["num_documents"].to_numpy().sum())

    def compute(self, done: Done) -> Tables:
        shards = [
            _Vectors(
                store=done.store, cluster=cluster.key, embed=vectors.key, num_rows=cluster.tables["clusters"].num_rows
            )
            for cluster, vectors in zip(done["cluster"].parts, done["embed"].parts, strict=True)
        ]
        _check_sizes(done, shards)
        own = self.fingerprint(done)
        schema = shards[0].read(["doc_id", "cluster", "embedding"]).schema if shards else pa.schema([])
        parts = _Parts(store=done.store, prefix=f"{self.name}.parts/{own}")
        pool = Pool(
            schema=schema,
            num_documents=sum(shard.num_rows for shard in shards),
            shards=shards,
            mapper=done.map,
            extender=parts,
        )
        work = functools.partial(nearest_of_cluster, self.count)
        shares = Exchanged(done=done, inputs=own)(pool, "cluster", work, ("doc_id", "embedding"), tables.NEIGHBOURS)
        rows = [{"key": parts.key(i), "num_documents": share.num_rows} for i, share in enumerate(shares)]
        yield "parts", pa.Table.from_pylist(rows, schema=tables.SHARES_OF_PARTS)


@dataclass(frozen=True, kw_only=True)
class _Vectors:
    """The documents of a part that have a cluster, with their vectors."""

    store: Store
    cluster: str
    embed: str
    num_rows: int

    def read(self, columns: Sequence[str]) -> pa.RecordBatch:
        clusters = self.store.read(self.cluster, "clusters", ["doc_id", "cluster"])
        if "embedding" in columns:
            stored = self.store.read(self.embed, "embeddings")
            rows = align(clusters["doc_id"], stored)
            clusters = clusters.append_column(
                stored.schema.field("embedding"), stored["embedding"].take(pa.array(rows))
            )
        return pa.RecordBatch.from_arrays(
            [tables.whole(clusters[name]) for name in columns],
            schema=pa.schema([clusters.schema.field(name) for name in columns]),
        )


@dataclass(frozen=True, kw_only=True)
class _Share:
    """What is stored of a part."""

    store: Store
    key: str
    num_rows: int

    def read(self, columns: Sequence[str]) -> pa.RecordBatch:
        (batch,) = self.store.read(self.key, "neighbours", columns).combine_chunks().to_batches()
        return batch


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """Stores the share of each part, for good."""

    store: Store
    prefix: str

    def begin(self) -> Extension:
        return self

    def key(self, number: int) -> str:
        return f"{self.prefix}-{number}"

    def __call__(self, number: int, work: Callable[[], pa.RecordBatch]) -> _Share:
        key = self.key(number)
        seal = self.store.find(key) or self.store.seal(key, [("neighbours", pa.Table.from_batches([work()]))])
        return _Share(store=self.store, key=key, num_rows=seal.tables["neighbours"].num_rows)


def _check_sizes(done: Done, shards: Sequence[_Vectors]) -> None:
    """Raises SelectorError where a cluster is larger than can be looked at."""
    counts = np.zeros(0, np.int64)
    for counted in done.map(_counted, shards):
        longer = np.zeros(max(len(counts), len(counted)), np.int64)
        longer[: len(counts)] += counts
        longer[: len(counted)] += counted
        counts = longer
    if counts.max(initial=0) > LARGEST_CLUSTER:
        raise SelectorError(
            f"The neighbours of all documents of a cluster are found at once, {LARGEST_CLUSTER:,} at most, and cluster "
            f"{int(counts.argmax())} has {int(counts.max()):,}. Write a larger cluster.num_clusters."
        )


# What is asked of workers.


def _counted(shard: _Vectors) -> Any:
    return np.bincount(shard.read(["cluster"])["cluster"].to_numpy())


def nearest_of_cluster(count: int, group: pa.RecordBatch) -> pa.RecordBatch:
    """The nearest ones of each document of a cluster; the documents are sorted by doc_id."""
    places, cosines = most_alike(vectors_of(group["embedding"]).astype(np.float64), count)
    offsets = pa.array(np.arange(len(places) + 1, dtype=np.int32) * places.shape[1])
    ids = group["doc_id"].take(pa.array(places.reshape(-1)))
    columns: list[Any] = [
        group["doc_id"],
        pa.ListArray.from_arrays(offsets, ids),
        pa.ListArray.from_arrays(offsets, pa.array(cosines.reshape(-1))),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=tables.NEIGHBOURS)
