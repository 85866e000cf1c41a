"""Vectors to neighbours and to centroids: the only home of faiss."""

import numpy as np
import numpy.typing as npt

from selector.models.batching import Vectors

LIBRARIES = ("faiss-cpu", "faiss-gpu")


def nearest(vectors: Vectors, base: Vectors, k: int) -> tuple[npt.NDArray[np.int64], Vectors]:
    """Indices into `base` of the k nearest, and the Euclidean distances to them: both (n, k)."""
    import faiss

    index = faiss.IndexFlatL2(base.shape[1])
    index.add(np.ascontiguousarray(base, np.float32))
    squares, labels = index.search(np.ascontiguousarray(vectors, np.float32), k)
    assert (labels >= 0).all(), "faiss found no neighbour: a vector is not finite"
    return labels, np.sqrt(np.maximum(squares, 0))


def kmeans(sample: Vectors, num_clusters: int, iterations: int, seed: int) -> Vectors:
    """Centroids, shape (num_clusters, d): the sample itself where it is no larger."""
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
