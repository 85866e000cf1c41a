"""k-means on the embeddings, and every document's nearest centroid: the only home of faiss.

Centroids are fitted on a keyed sample of stated size, stored, and only then used, so whatever a library or
a thread count may change in the last bits of a fit cannot change one run's answer twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.corpus.texts import align, live_documents
from selector.engine.part import Task
from selector.engine.step import Stage, versions
from selector.engine.store import Seal, Store
from selector.exact import keyed
from selector.models.encoder import vector_column, vectors_of
from selector.policy.sections import ClusterPolicy

VERSION = 1
LIBRARIES = ("faiss-cpu", "faiss-gpu")

_ITERATIONS_TO_COMPARE = 10
_SAMPLE_TO_COMPARE = 65_536

EVIDENCE = pa.schema([("num_clusters", pa.int64()), ("silhouette", pa.float64()), ("mean_distance", pa.float64())])

Vectors = npt.NDArray[np.float32]


def fit(store: Store, embeddings: Sequence[Seal], policy: ClusterPolicy, seed: int) -> dict[str, pa.Table]:
    """Tables: `centroids`, and `evidence` for the number of clusters (a row for each number that was tried)."""
    num_documents = sum(seal.tables["embeddings"].num_rows for seal in embeddings)
    most = most_clusters(num_documents) if policy.num_clusters == "auto" else policy.num_clusters
    sample = _sample(store, embeddings, num_documents, most * policy.documents_per_cluster, seed)
    num_clusters, evidence = most, []
    if policy.num_clusters == "auto":
        num_clusters, evidence = _choose(sample, most, seed)
    sample = sample[: num_clusters * policy.documents_per_cluster]
    vectors = _kmeans(sample, num_clusters, policy.iterations, seed)
    schema = tables.centroids(sample.shape[1])
    columns = [pa.array(np.arange(num_clusters, dtype=np.int32)), vector_column(vectors)]
    return {
        "centroids": pa.table(columns, schema=schema),
        "evidence": pa.Table.from_pylist(evidence, schema=EVIDENCE),
    }


def most_clusters(num_documents: int) -> int:
    """The largest number that `auto` tries: forty documents to a cluster, at most 4,096 and at least 1.

    The smallest is a quarter of it, or 64 if that is less: few clusters separate well and balance nothing.
    """
    return max(1, min(4096, num_documents // 40))


@dataclass(frozen=True, kw_only=True)
class Assign(Stage):
    """Gives every document its nearest centroid and the distance to it."""

    name = "cluster"
    output = "clusters"
    libraries = LIBRARIES

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        documents = live_documents(task, store)
        embeddings = store.read(task.inputs["embeddings"], "embeddings")
        embeddings = embeddings.take(
            pa.array([row for row in align(documents["doc_id"], embeddings) if row >= 0], pa.int64())
        )
        centroids = vectors_of(store.read(task.inputs["centroids"], "centroids")["centroid"])
        labels, distances = nearest(vectors_of(embeddings["embedding"]).astype(np.float32), centroids, 1)
        columns: list[Any] = [embeddings["doc_id"], labels[:, 0].astype(np.int32), distances[:, 0]]
        return {"clusters": pa.table(columns, schema=tables.CLUSTERS)}


def nearest(vectors: Vectors, base: Vectors, k: int) -> tuple[npt.NDArray[np.int64], Vectors]:
    """Indices into `base` of the k nearest, and the Euclidean distances to them: both (n, k)."""
    import faiss

    index = faiss.IndexFlatL2(base.shape[1])
    index.add(np.ascontiguousarray(base, np.float32))
    squares, labels = index.search(np.ascontiguousarray(vectors, np.float32), k)
    assert (labels >= 0).all(), "faiss found no neighbour: a vector is not finite"
    return labels, np.sqrt(np.maximum(squares, 0))


def identity(policy: ClusterPolicy, seed: int) -> dict[str, Any]:
    """All that decides a fit beside the embeddings."""
    return {"version": VERSION, "options": policy.model_dump(), "seed": seed, "libraries": versions(LIBRARIES)}


def _sample(store: Store, embeddings: Sequence[Seal], num_documents: int, wanted: int, seed: int) -> Vectors:
    """The vectors of the `wanted` documents with the smallest keyed hash, in that order: (wanted, d) float32."""
    share = min(1.0, 1.1 * wanted / max(1, num_documents) + 1000 / max(1, num_documents))
    limit = np.uint64(min(2**64 - 1, int(share * 2**64)))
    keys, vectors = (np.concatenate(arrays) for arrays in zip(*_drawn(store, embeddings, limit, seed), strict=True))
    order = np.lexsort((keys[:, 2], keys[:, 1], keys[:, 0]))[:wanted]
    return vectors[order].astype(np.float32)


def _drawn(
    store: Store, embeddings: Sequence[Seal], limit: np.uint64, seed: int
) -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.float16]]]:
    for seal in embeddings:
        table = store.table(seal, "embeddings")
        hashes = keyed.hashes(table["doc_id"], seed, "kmeans")
        drawn = np.flatnonzero(hashes <= limit)
        ids = keyed.words(table["doc_id"])[drawn]
        yield np.column_stack([hashes[drawn], ids]), vectors_of(table["embedding"])[drawn]


def _kmeans(sample: Vectors, num_clusters: int, iterations: int, seed: int) -> Vectors:
    import faiss

    if num_clusters >= len(sample):
        return sample
    kmeans = faiss.Kmeans(
        sample.shape[1], num_clusters, niter=iterations, seed=seed % 2**31,
        min_points_per_centroid=1, max_points_per_centroid=1 + len(sample) // num_clusters,
    )  # fmt: skip
    kmeans.train(sample)
    assert kmeans.centroids is not None
    return kmeans.centroids


def _choose(sample: Vectors, most: int, seed: int) -> tuple[int, list[dict[str, float]]]:
    """The number of clusters with the best simplified silhouette among powers of two (Hruschka et al., 2004).

    A document's silhouette is (b - a) / b, a being the distance to its own centroid and b to the next one.
    The published tables show it to be a weak proxy of quality: look at all of the evidence.
    """
    sample = sample[:_SAMPLE_TO_COMPARE]
    tried = [2**power for power in range(13) if min(64, most / 4) <= 2**power <= most]
    evidence: list[dict[str, float]] = []
    for num_clusters in tried:
        centroids = _kmeans(sample, num_clusters, _ITERATIONS_TO_COMPARE, seed)
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
