"""Centroids: k-means on a keyed sample of the vectors, which workers draw.

Centroids are fitted, stored, and only then used, so whatever a library or a thread count may change in the last bits of
a fit cannot change one run's answer twice.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from selector import tables
from selector.engine.step import APART, Done, Tables, Whole
from selector.engine.store import Seal, Store, fingerprint
from selector.exact import keyed
from selector.exact.vectors import vector_column, vectors_of
from selector.models.batching import Vectors
from selector.models.neighbours import LIBRARIES, kmeans, nearest
from selector.steps.embed import SAMPLES, sampled

_ITERATIONS_TO_COMPARE = 10
_SAMPLE_TO_COMPARE = 65_536
_PARTS_AT_ONCE = 16

EVIDENCE = pa.schema([("num_clusters", pa.int64()), ("silhouette", pa.float64()), ("mean_distance", pa.float64())])


@dataclass(frozen=True, kw_only=True)
class Centroids(Whole):
    """`centroids`, and the `evidence` for their number (a row for each number that was tried)."""

    name: str = field(default="centroids", metadata=APART)
    version = 3
    libraries = LIBRARIES
    reads: tuple[str, ...] = field(default=("embed",), metadata=APART)

    num_clusters: int | Literal["auto"]
    iterations: int
    documents_per_cluster: int
    seed: int

    def inputs(self, done: Done) -> Any:
        return [seal.key for seal in done["embed"].parts]

    def rows_out(self, seal: Seal, store: Store) -> int:
        return seal.tables["centroids"].num_rows

    def compute(self, done: Done) -> Tables:
        embeddings, num_documents = done["embed"].parts, done["embed"].rows_out
        most = most_clusters(num_documents) if self.num_clusters == "auto" else self.num_clusters
        sample = _sample(done, embeddings, num_documents, most * self.documents_per_cluster, self.seed)
        num_clusters, evidence = most, []
        if self.num_clusters == "auto":
            num_clusters, evidence = _choose(sample, most, self.seed)
        sample = sample[: num_clusters * self.documents_per_cluster]
        vectors = kmeans(sample, num_clusters, self.iterations, self.seed)
        columns = [pa.array(np.arange(num_clusters, dtype=np.int32)), vector_column(vectors)]
        yield "centroids", pa.table(columns, schema=tables.centroids(sample.shape[1]))
        yield "evidence", pa.Table.from_pylist(evidence, schema=EVIDENCE)


def _sample(done: Done, embeddings: Sequence[Seal], num_documents: int, wanted: int, seed: int) -> Vectors:
    """The vectors of the `wanted` documents with the smallest keyed hash, in that order: (wanted, d) float32.

    They are those of all documents, or of the smallest sample that surely has enough (`selector.steps.embed`).
    """
    enough = int(1.1 * wanted) + 1000
    one_of = next((n for n in reversed(SAMPLES) if num_documents // n >= enough), 1)
    limit = np.uint64(min(2**64 - 1, int(min(1.0, enough * one_of / max(1, num_documents)) * 2**64)))
    draw = functools.partial(_draw, done.store, done.passing, one_of, limit, seed)
    items = [embeddings[first : first + _PARTS_AT_ONCE] for first in range(0, len(embeddings), _PARTS_AT_ONCE)]
    drawn = [done.store.read(key, "drawn") for key in done.map(draw, items)]
    keys = np.concatenate([np.column_stack([t["hash"].to_numpy(), keyed.words(t["doc_id"])]) for t in drawn])
    order = np.lexsort((keys[:, 2], keys[:, 1], keys[:, 0]))[:wanted]
    vectors = np.concatenate([vectors_of(table["embedding"]) for table in drawn])
    return vectors[order].astype(np.float32)


def _draw(store: Store, passing: str, one_of: int, limit: np.uint64, seed: int, parts: Sequence[Seal]) -> str:
    """Stores the vectors of some parts' documents whose keyed hash is within the limit; the key."""
    key = f"{passing}/drawn/{fingerprint([one_of, int(limit), seed, [seal.key for seal in parts]])}"
    if store.find(key) is None:
        pieces: list[pa.Table] = []
        for seal in parts:
            table = sampled(store, seal, one_of)
            hashes = keyed.hashes(table["doc_id"], seed, "kmeans")
            pieces.append(table.append_column("hash", pa.array(hashes)).filter(pa.array(hashes <= limit)))
        store.seal(key, [("drawn", pa.concat_tables(pieces))], form="arrow")
    return key


def most_clusters(num_documents: int) -> int:
    """The largest number that `auto` tries: forty documents to a cluster, at most 4,096 and at least 1.

    The smallest is a quarter of it, or 64 if that is less: few clusters separate well and balance nothing.
    """
    return max(1, min(4096, num_documents // 40))


def _choose(sample: Vectors, most: int, seed: int) -> tuple[int, list[dict[str, float]]]:
    """The number of clusters with the best simplified silhouette among powers of two (Hruschka et al., 2004).

    A document's silhouette is (b - a) / b, a being the distance to its own centroid and b to the next one.
    The published tables show it to be a weak proxy of quality: look at all of the evidence.
    """
    sample = sample[:_SAMPLE_TO_COMPARE]
    tried = [2**power for power in range(13) if min(64, most / 4) <= 2**power <= most]
    evidence: list[dict[str, float]] = []
    for num_clusters in tried:
        centroids = kmeans(sample, num_clusters, _ITERATIONS_TO_COMPARE, seed)
        _, distances = nearest(sample, centroids, min(2, num_clusters))
        own, other = distances[:, 0].astype(np.float64), distances[:, -1].astype(np.float64)
        silhouette = np.divide(other - own, other, out=np.zeros_like(other), where=other > 0)
        evidence.append(
            {
                "num_clusters": num_clusters,
                "silhouette": round(float(silhouette.mean()), 6),
                "mean_distance": round(float(own.mean()), 6),
            }
        )
    return int(max(evidence, key=lambda row: (row["silhouette"], -row["num_clusters"]))["num_clusters"]), evidence
