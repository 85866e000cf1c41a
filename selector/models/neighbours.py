"""Vectors to their nearest neighbours, with the same answer on every machine: the only home of faiss.

Whoever is fast rounds: a library, a graphics card. So it only proposes, with a bound of its error, and what the bound
leaves open is worked out again in double precision. There nothing rounds: vectors are stored as float16, whose products
and sums fit into 53 bits as long as no vector is longer than about 4.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from selector.engine.step import versions

Halves = npt.NDArray[np.float16]
Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_ROWS = 2048  # whose distances to some hundred vectors stay in a core's cache
_PROPOSED = 8  # by a graphics card, of which most documents need two


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """For each vector some of the base, the best first: how near they are about, as `x·c - |c|²/2`."""

    scores: npt.NDArray[np.float32]  # (n, m), descending
    labels: Ints  # (n, m)
    error: float  # of a score, at most, as a part of the longest vectors' product


FAISS = ("faiss-cpu", "faiss-gpu")
"""Its distributions, of which one may be installed: both bring the module `faiss`. None is needed without a GPU."""

Propose = Callable[[Halves | Singles, Halves], Proposals]
"""Proposes neighbours in a base, at least two for each vector where the base has two."""


def closest(vectors: Halves | Singles, base: Halves, propose: Propose | None = None) -> Ints:
    """The index into `base` of each vector's nearest, by Euclidean distance; of equally near ones the lowest.

    The answer is exact, whoever proposes: numpy on a CPU, faiss on a graphics card. Vectors are float16 numbers, be it
    in an array of float32.
    """
    return closest_within(vectors, base, propose).labels


@dataclass(frozen=True, kw_only=True)
class Within:
    """The nearest of each vector, and bounds of the distance to it and to the next one."""

    labels: Ints
    upper: npt.NDArray[np.float32]  # no nearest is farther
    lower: npt.NDArray[np.float32]  # no other is nearer


def closest_within(vectors: Halves | Singles, base: Halves, propose: Propose | None = None) -> Within:
    """As `closest`, with bounds."""
    propose = propose or (on_gpu if has_gpu() else on_cpu)
    labels = np.zeros(len(vectors), np.int64)
    upper, lower = np.full(len(vectors), np.inf, np.float32), np.zeros(len(vectors), np.float32)
    for rows in _blocks(len(vectors), 1 << 16) if len(base) > 1 else ():
        proposed = propose(vectors[rows], base)
        labels[rows], upper[rows], lower[rows] = _settled(vectors[rows], base, proposed)
    return Within(labels=labels, upper=upper, lower=lower)


def distances(vectors: Halves, base: Halves, labels: Ints) -> npt.NDArray[np.float32]:
    """How far each vector is from the one of the base that its label names."""
    squares = np.empty(len(vectors))
    for rows in _blocks(len(vectors), _ROWS):
        apart = vectors[rows].astype(np.float64) - base[labels[rows]].astype(np.float64)
        squares[rows] = np.einsum("ij,ij->i", apart, apart)
    return np.sqrt(squares).astype(np.float32)


def nearest(vectors: Halves, base: Halves, k: int) -> tuple[Ints, npt.NDArray[np.float32]]:
    """Indices into `base` of the k nearest, and the Euclidean distances to them, both (n, k); equal ones by index."""
    k = min(k, len(base))
    labels, squares = np.empty((len(vectors), k), np.int64), np.empty((len(vectors), k))
    for rows in _blocks(len(vectors), max(1, (1 << 22) // max(1, len(base)))):
        every = _squares(vectors[rows], base)
        # Ties at the border are broken by index, so all that are as near as the k-th are sorted.
        limit = np.partition(every, k - 1, axis=1)[:, k - 1 : k]
        most = int((every <= limit).sum(axis=1).max(initial=k))
        some = np.sort(np.argpartition(every, most - 1, axis=1)[:, :most], axis=1) if most < len(base) else None
        near = every if some is None else np.take_along_axis(every, some, axis=1)
        order = np.argsort(near, axis=1, kind="stable")[:, :k]
        squares[rows] = np.take_along_axis(near, order, axis=1)
        labels[rows] = order if some is None else np.take_along_axis(some, order, axis=1)
    return labels, np.sqrt(np.maximum(squares, 0)).astype(np.float32)


def on_cpu(vectors: Halves | Singles, base: Halves) -> Proposals:
    """The two best by single precision."""
    scores = np.empty((len(vectors), 2), np.float32)
    labels = np.empty((len(vectors), 2), np.int64)
    small = base.astype(np.float32)
    transposed = np.ascontiguousarray(small.T)
    halves = (small * small).sum(axis=1) / np.float32(2)
    each = np.arange(_ROWS)
    for rows in _blocks(len(vectors), _ROWS):
        near = vectors[rows].astype(np.float32, copy=False) @ transposed
        near -= halves
        for place in range(2):
            best = near.argmax(axis=1)
            labels[rows, place] = best
            scores[rows, place] = near[each[: len(near)], best]
            near[each[: len(near)], best] = -np.inf
    # A sum of d products in any order, then a difference (Higham, 2002, section 3.1), and half again.
    return Proposals(scores=scores, labels=labels, error=1.5 * (vectors.shape[1] + 3) * 2.0**-24)


def has_faiss_gpu() -> bool:
    """Whether faiss is installed for graphics cards."""
    return "faiss-gpu" in versions(FAISS)


@functools.cache
def has_gpu() -> bool:
    """Whether faiss is here for graphics cards, and finds one."""
    if not has_faiss_gpu():
        return False
    import faiss

    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


@functools.cache
def _resources() -> Any:
    import faiss

    library: Any = faiss
    return library.StandardGpuResources()


def on_gpu(vectors: Halves | Singles, base: Halves) -> Proposals:
    """The eight best by a graphics card: float16 goes in as it is (exact in tf32 too), sums are single precision."""
    import faiss

    library: Any = faiss
    squares, labels = library.knn_gpu(
        _resources(), np.ascontiguousarray(vectors, np.float16), np.ascontiguousarray(base), min(_PROPOSED, len(base))
    )
    # Its sums may be cut instead of rounded, and |x|² is in them: eight times the bound of a CPU.
    return Proposals(scores=-squares / 2, labels=labels, error=12.0 * (vectors.shape[1] + 3) * 2.0**-24)


def faiss_kmeans(vectors: Singles, num_clusters: int, iterations: int, seed: int) -> Singles:
    """The centroids that faiss itself finds, on all of the vectors: what our own are measured beside."""
    import faiss

    kmeans = faiss.Kmeans(
        vectors.shape[1], num_clusters, niter=iterations, seed=seed, min_points_per_centroid=1,
        max_points_per_centroid=len(vectors),
    )  # fmt: skip
    kmeans.train(vectors)
    assert kmeans.centroids is not None
    return kmeans.centroids


def _settled(vectors: Halves | Singles, base: Halves, proposed: Proposals) -> tuple[Ints, Floats, Floats]:
    """The nearest of each vector, once whatever the proposals leave open is worked out; and bounds, as in `Within`."""
    scores, labels = proposed.scores.astype(np.float64), proposed.labels
    assert np.isfinite(scores[:, :2]).all(), "a vector is not finite"
    lengths = _squared_lengths(vectors)
    longest = float(max(lengths.max(initial=0), _squared_lengths(base).max()))
    slack = 2 * proposed.error * 1.5 * longest  # of the difference of two scores
    behind = scores[:, :1] - scores[:, 1:]
    answer = labels[:, 0].copy()
    is_open = behind[:, 0] <= slack
    is_any = is_open & (behind[:, -1] <= slack) if scores.shape[1] < len(base) else np.zeros_like(is_open)
    for chosen in _places(is_any, max(1, (1 << 22) // len(base))):
        answer[chosen] = _squares(vectors[chosen], base).argmin(axis=1)
    for chosen in _places(is_open & ~is_any, _ROWS):
        of_each = np.sort(labels[chosen], axis=1)
        apart = vectors[chosen, None].astype(np.float64) - base[of_each].astype(np.float64)
        best = np.einsum("ijk,ijk->ij", apart, apart).argmin(axis=1)
        answer[chosen] = np.take_along_axis(of_each, best[:, None], axis=1)[:, 0]
    upper = np.sqrt(np.maximum(lengths - 2 * scores[:, 0] + 2 * slack, 0))
    lower = np.sqrt(np.maximum(lengths - 2 * scores[:, 1] - 2 * slack, 0))
    return answer, upper, np.where(is_open, 0, lower)


def _squares(vectors: Halves | Singles, base: Halves) -> Floats:
    """The squares of all distances, (n, len(base)); exact, so that the order of their sums is nothing to them."""
    wide, other = vectors.astype(np.float64), base.astype(np.float64)
    products = wide @ other.T
    products *= -2
    products += np.einsum("ij,ij->i", wide, wide)[:, None]
    products += np.einsum("ij,ij->i", other, other)
    return products


def _squared_lengths(vectors: Halves | Singles) -> Floats:
    wide = vectors.astype(np.float32, copy=False)
    return np.einsum("ij,ij->i", wide, wide).astype(np.float64)


def _blocks(num_rows: int, size: int) -> Iterator[slice]:
    return (slice(first, min(first + size, num_rows)) for first in range(0, num_rows, size))


def _places(mask: npt.NDArray[np.bool_], size: int) -> Iterator[Ints]:
    places = np.flatnonzero(mask)
    return (places[rows] for rows in _blocks(len(places), size))
