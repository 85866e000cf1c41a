"""Vectors to neighbours and to centroids: the only home of faiss."""

import numpy as np
import numpy.typing as npt

from selector.models.batching import Vectors

LIBRARIES = ("faiss-cpu", "faiss-gpu")


_ROWS = 4096  # whose distances are worked out together


def nearest(vectors: Vectors, base: Vectors, k: int) -> tuple[npt.NDArray[np.int64], Vectors]:
    """Indices into `base` of the k nearest, and the Euclidean distances to them: both (n, k).

    The last bits of what faiss says depend on how many threads it has. So it only proposes, one more than is asked for,
    and the distances are worked out again in double precision; of equal ones the lower index is nearer.
    """
    import faiss

    index = faiss.IndexFlatL2(base.shape[1])
    index.add(np.ascontiguousarray(base, np.float32))
    proposed: npt.NDArray[np.int64] = index.search(np.ascontiguousarray(vectors, np.float32), min(k + 1, len(base)))[1]
    assert (proposed >= 0).all(), "faiss found no neighbour: a vector is not finite"
    squares = np.empty(proposed.shape)
    for first in range(0, len(vectors), _ROWS):
        rows = slice(first, first + _ROWS)
        for column, labels in enumerate(proposed[rows].T):
            apart = vectors[rows].astype(np.float64) - base[labels]
            squares[rows, column] = (apart * apart).sum(axis=1)
    order = np.lexsort((proposed, squares), axis=1)[:, :k]
    nearer = np.take_along_axis(squares, order, axis=1)
    return np.take_along_axis(proposed, order, axis=1), np.sqrt(nearer).astype(np.float32)


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
