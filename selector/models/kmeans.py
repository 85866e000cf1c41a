"""k-means of which every step is exact, so that nobody can tell how many machines took it.

Vectors and centroids are float16. A sum of float16 numbers in double precision does not round (below about 2^28
documents of length 1), so the sums of parts add up to the sums of the whole, in any order; and which centroid is the
nearest is exact too (`selector.models.neighbours`). What is left of a Lloyd step is a division for each centroid.

Most of the work is done on the principal components of the vectors; the centroids that a fit ends with are the means of
whole vectors.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from selector.exact import keyed
from selector.models.neighbours import Floats, Halves, Ints, Singles, closest, closest_within, distances

COMPONENTS = 128
"""Principal components that Lloyd's steps look at; shorter vectors are looked at whole."""

PCA_ROWS = 16_384
"""Documents of which the principal components are found: the first of the sample."""

RESAMPLINGS = 10
"""Times that a level of a hierarchy is fitted again, on what is closest to its centroids."""

Kind = Literal["euclidean", "spherical"]
Start = Literal["sampled", "k-means++"]

_SPLIT = 1 / 128  # how far the halves of a split cluster are moved apart, as a part of each number
_START_ROWS = 32  # for each centroid, documents among which a start is looked for


@dataclass(frozen=True, kw_only=True)
class Method:
    """How a fit is done."""

    kind: Kind
    start: Start
    restarts: int
    iterations: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rows_to_start(num_clusters: int) -> int:
    """How many documents must be at hand for the directions and the start of a fit: the first of the sample."""
    return max(PCA_ROWS, _START_ROWS * num_clusters)


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Of the vectors that are nearest to each centroid: their sum and how many they are."""

    vectors: Floats  # (k, d)
    sizes: Ints  # (k,)

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(vectors=self.vectors + other.vectors, sizes=self.sizes + other.sizes)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Centroids, and the sum of squared distances to them, less that of the vectors' squared lengths."""

    centroids: Halves
    objective: float


def components(vectors: Halves, most: int = COMPONENTS) -> Halves | None:
    """The directions in which the first `PCA_ROWS` vectors extend most, (d, most); None where d is no larger.

    They are those of the second moments, not of the variance: what all vectors have in common stays. The moments are
    sums of whole numbers, and the directions are rounded to float16, so a projection on them does not round.
    """
    if vectors.shape[1] <= most:
        return None
    whole = np.rint(vectors[:PCA_ROWS].astype(np.float64) * 2.0**12)
    directions = np.linalg.eigh(whole.T @ whole)[1][:, : -most - 1 : -1]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=0)[None], axis=0)
    return (directions * np.sign(largest)).astype(np.float16)


def projected(vectors: Halves, directions: Halves | None) -> Halves:
    """The vectors along these directions; as they are for None."""
    if directions is None:
        return vectors
    answer = np.empty((len(vectors), directions.shape[1]), np.float16)
    wide = directions.astype(np.float64)
    for first in range(0, len(vectors), 8192):
        answer[first : first + 8192] = vectors[first : first + 8192].astype(np.float64) @ wide
    return answer


def start(vectors: Halves, num_clusters: int, method: Method, number: int) -> Halves:
    """The vectors with which a fit begins: drawn by keyed numbers from a sample in keyed order.

    `sampled` draws them equally; `k-means++` (Arthur and Vassilvitskii, 2007) each with a chance in proportion to the
    squared distance from those drawn so far. Both look at the first 32 documents for each cluster. `number` tells one
    start from another.
    """
    vectors = vectors[: _START_ROWS * num_clusters]
    if method.start == "sampled":
        draws = _draws(len(vectors), method.seed, f"k-means start {number}")
        return vectors[np.argsort(draws, kind="stable")[:num_clusters]]
    draws = keyed.fractions(_draws(num_clusters, method.seed, f"k-means++ start {number}"))
    wide = vectors.astype(np.float64)
    lengths = np.einsum("ij,ij->i", wide, wide)
    left = np.ones(len(vectors))
    places: list[int] = []
    for draw in draws.tolist():
        chances = np.cumsum(left)
        place = int(np.searchsorted(chances, draw * chances[-1], side="right")) if chances[-1] > 0 else len(places)
        places.append(min(place, len(vectors) - 1))
        squares = np.maximum(lengths - 2 * (wide @ wide[places[-1]]) + lengths[places[-1]], 0)
        left = squares if len(places) == 1 else np.minimum(left, squares)
    return vectors[places]


def fitted(beginning: Halves, num_clusters: int, measure: Callable[[Halves], Sums], method: Method) -> Halves:
    """The best centroids of all restarts, the first of equally good ones. Starts are drawn from the beginning of a
    sample, over which `measure` gives the sums for some centroids."""
    beginning = beginning[: rows_to_start(num_clusters)]
    starts = (start(beginning, num_clusters, method, number) for number in range(method.restarts))
    fits = [lloyd(begin, measure, method.iterations, method.kind) for begin in starts]
    return min(fits, key=lambda fit: fit.objective).centroids


def centroids_of(sample: Halves, num_clusters: int, method: Method) -> Halves:
    """The centroids of a sample in memory, (num_clusters, d); its own vectors, where it has no more of them."""
    if num_clusters >= len(sample):
        return sample
    directions = components(sample)
    along = projected(sample, directions)
    measure = Measure(along)
    best = fitted(along, num_clusters, measure, method)
    return lifted(sums(along, best, sample), best, directions, method.kind)


def hierarchy(sample: Halves, levels: Sequence[int], method: Method) -> list[Halves]:
    """The centroids of every level, the finest first; those of a level are made of the ones before it.

    After a fit the documents that are closest to each centroid are taken, half as many as a cluster has on average, and
    fitted anew, ten times over. So dense regions lose centroids to sparse ones, until these stand about evenly wherever
    there are documents at all (Vo et al., 2024, arXiv 2405.15613). Starts are drawn by `k-means++`, as published:
    equally drawn ones would keep the density that they come from.
    """
    method = replace(method, start="k-means++")
    answer: list[Halves] = []
    points = sample
    for number in levels:
        centroids = centroids_of(points, number, method)
        for _ in range(RESAMPLINGS):
            kept = points[_closest_of_each(points, centroids, -(-len(points) // (2 * number)))]
            centroids = centroids_of(kept, number, method) if len(kept) > number else centroids
        answer.append(centroids)
        points = centroids
    return answer


def _closest_of_each(vectors: Halves, centroids: Halves, most: int) -> Ints:
    """The places of the vectors that are among so many closest of their cluster; of equal ones the first."""
    labels = closest(vectors, centroids)
    order = np.lexsort((distances(vectors, centroids, labels), labels))
    sizes = np.bincount(labels, minlength=len(centroids))
    ranks = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[ranks < most])


def lifted(whole: Sums, centroids: Halves, directions: Halves | None, kind: Kind) -> Halves:
    """The means of the whole vectors that are nearest to each centroid; an empty one is lifted as it is."""
    if directions is not None:
        centroids = (centroids.astype(np.float64) @ directions.astype(np.float64).T).astype(np.float16)
    return means(whole, centroids, kind)


class Measure:
    """The sums over vectors in memory, for one set of centroids after another: `measure(centroids)`.

    It remembers how near each vector was (Hamerly, 2010). Where the centroids have moved too little to change which is
    the nearest, a vector is not looked at again; and since sums are exact, only what changed its cluster is added and
    taken away.
    """

    def __init__(self, vectors: Halves) -> None:
        self.vectors = vectors.astype(np.float32)  # so that no step has to unpack them
        self._centroids: Halves | None = None

    def __call__(self, centroids: Halves) -> Sums:
        before = self._centroids
        self._centroids = centroids
        if before is None or before.shape != centroids.shape:
            near = closest_within(self.vectors, centroids)
            self.labels, self._upper, self._lower = near.labels, near.upper, near.lower
            self._sums = sums_by(self.labels, len(centroids), self.vectors)
            return self._sums
        drift = np.sqrt(np.square(centroids.astype(np.float64) - before.astype(np.float64)).sum(axis=1)) * (1 + 1e-6)
        most = np.full(len(drift), drift.max())  # of all others
        if len(drift) > 1:
            most[drift.argmax()] = np.partition(drift, -2)[-2]
        self._upper += (drift[self.labels] + 1e-6).astype(np.float32)
        self._lower -= (most[self.labels] + 1e-6).astype(np.float32)
        places = np.flatnonzero(self._upper >= self._lower)
        near = closest_within(self.vectors[places], centroids)
        changed = near.labels != self.labels[places]
        rows = self.vectors[places[changed]]
        gone = sums_by(self.labels[places[changed]], len(centroids), rows)
        come = sums_by(near.labels[changed], len(centroids), rows)
        self.labels[places], self._upper[places], self._lower[places] = near.labels, near.upper, near.lower
        self._sums = Sums(
            vectors=self._sums.vectors - gone.vectors + come.vectors, sizes=self._sums.sizes - gone.sizes + come.sizes
        )
        return self._sums


def sums(vectors: Halves, centroids: Halves, of: Halves) -> Sums:
    """The sums over the vectors that are nearest to each centroid: of what stands in their rows of another array."""
    return sums_by(closest(vectors, centroids), len(centroids), of)


def sums_by(labels: Ints, num_clusters: int, vectors: Halves | Singles) -> Sums:
    """The sums over the vectors with each label."""
    total = np.zeros((num_clusters, vectors.shape[1]))
    sizes = np.bincount(labels, minlength=num_clusters)
    block = max(1 << 16, 32 * num_clusters)
    for first in range(0, len(vectors), block):
        some = labels[first : first + block]
        rows = vectors[first : first + block][np.argsort(some, kind="stable")].astype(np.float32, copy=False)
        start = 0
        for label, size in enumerate(np.bincount(some, minlength=num_clusters).tolist()):
            if size:
                total[label] += rows[start : start + size].sum(axis=0, dtype=np.float64)
                start += size
    return Sums(vectors=total, sizes=sizes)


def means(of: Sums, centroids: Halves, kind: Kind) -> Halves:
    """The mean of each cluster, of length 1 where clusters are spherical; an empty one keeps its centroid."""
    wide = np.where(of.sizes[:, None] > 0, of.vectors / np.maximum(of.sizes, 1)[:, None], centroids.astype(np.float64))
    return _of_kind(wide, kind)


def moved(of: Sums, centroids: Halves, kind: Kind) -> Halves:
    """The centroids after one step: the means, where an empty cluster is given half of the largest one.

    The two halves begin a little apart, one number up and the next one down. Of equally large clusters the first is
    split; a cluster of one document is not.
    """
    wide = means(of, centroids, "euclidean").astype(np.float64)
    sizes = of.sizes.copy()
    apart = np.where(np.arange(wide.shape[1]) % 2 == 0, _SPLIT, -_SPLIT)
    for empty in np.flatnonzero(sizes == 0).tolist():
        largest = int(sizes.argmax())
        if sizes[largest] < 2:
            break
        wide[empty], wide[largest] = wide[largest] * (1 + apart), wide[largest] * (1 - apart)
        sizes[empty] = sizes[largest] // 2
        sizes[largest] -= sizes[empty]
    return _of_kind(wide, kind)


def lloyd(begin: Halves, measure: Callable[[Halves], Sums], iterations: int, kind: Kind) -> Fit:
    """The centroids after so many steps, or fewer where a step changes nothing. `measure` gives the sums for some
    centroids, whoever works them out."""
    centroids = begin
    for _ in range(iterations):
        after = moved(measure(centroids), centroids, kind)
        if np.array_equal(after, centroids):
            break
        centroids = after
    return Fit(centroids=centroids, objective=objective(measure(centroids), centroids))


def objective(of: Sums, centroids: Halves) -> float:
    """The sum of squared distances to the centroids, less that of the vectors' own squared lengths."""
    wide = centroids.astype(np.float64)
    return float((of.sizes * np.einsum("ij,ij->i", wide, wide) - 2 * np.einsum("ij,ij->i", of.vectors, wide)).sum())


def _of_kind(wide: Floats, kind: Kind) -> Halves:
    if kind == "spherical":
        lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
        wide = np.divide(wide, lengths, out=wide.copy(), where=lengths > 0)
    return wide.astype(np.float16)


def _draws(num: int, seed: int, purpose: str) -> npt.NDArray[np.uint64]:
    """Keyed numbers, one for each of the first whole numbers."""
    numbers = np.column_stack([np.zeros(num, np.uint64), np.arange(num, dtype=np.uint64)])
    return keyed.hashes(keyed.ids(numbers), seed, purpose)
