"""The centroids of the cluster step beside those of FAISS on all points: how near they are, and what they cost.

The vectors are drawn, unless there are real ones: topics of different sizes in a few dimensions, and noise in all of
them, less in each than in the one before, as the vectors of texts have it.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from selector.models import kmeans
from selector.models.kmeans import Method
from selector.models.neighbours import Halves, closest, distances, faiss_kmeans
from selector.policy.sections import ClusterPolicy

_TOPICS, _OF_TOPICS, _DIMENSION = 1000, 48, 384
_NOISE = 0.9


def cluster(num_documents: int, num_clusters: int, num_seeds: int, vectors: str | None) -> None:
    """Prints the mean squared distance to the nearest centroid and the CPU seconds of both, seed by seed, in turns; at
    last the ratios of means."""
    points = drawn(num_documents) if vectors is None else np.load(Path(vectors))[:num_documents].astype(np.float16)
    options = ClusterPolicy.model_validate({})
    wide = points.astype(np.float32)
    print(f"{len(points):,} vectors of {points.shape[1]}, {num_clusters:,} clusters, {options.iterations} iterations")

    def plain(seed: int) -> Halves:
        return faiss_kmeans(wide, num_clusters, options.iterations, seed).astype(np.float16)

    def ours(seed: int) -> Halves:
        sample = points[: num_clusters * options.documents_per_cluster]
        method = Method(
            kind=options.kind, start=options.start, restarts=options.restarts, iterations=options.iterations, seed=seed
        )
        return kmeans.centroids_of(sample, num_clusters, method)

    contenders: dict[str, Callable[[int], Halves]] = {"FAISS, all points": plain, "cluster step": ours}
    objectives: dict[str, list[float]] = {name: [] for name in contenders}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for seed in range(num_seeds):
        for name, contender in contenders.items():
            began = time.process_time()
            centroids = contender(seed)
            seconds[name].append(time.process_time() - began)
            apart = distances(points, centroids, closest(points, centroids)).astype(np.float64)
            objectives[name].append(float(np.square(apart).mean()))
            print(f"seed {seed}  {name:<18} {objectives[name][-1]:.6f} in {seconds[name][-1]:6.2f} CPU s", flush=True)
    first, second = contenders
    nearer = statistics.mean(objectives[second]) / statistics.mean(objectives[first])
    faster = statistics.mean(seconds[second]) / statistics.mean(seconds[first])
    print(f"mean objective x{nearer:.5f}, CPU seconds x{faster:.3f}, of {second} to {first}, {num_seeds} seeds")


def drawn(num: int) -> Halves:
    """So many unit vectors."""
    random = np.random.default_rng(20_261_126)
    falling = np.arange(1, _DIMENSION + 1) ** -0.5
    topics = np.zeros((_TOPICS, _DIMENSION))
    topics[:, :_OF_TOPICS] = random.normal(size=(_TOPICS, _OF_TOPICS))
    of = (_TOPICS * random.random(num) ** 2).astype(np.int64)  # the first topics are the largest
    answer = np.empty((num, _DIMENSION), np.float16)
    for first in range(0, num, 1 << 14):
        some = of[first : first + (1 << 14)]
        noise = random.normal(size=(len(some), _DIMENSION)) * (_NOISE * falling * np.sqrt(_DIMENSION / 20))
        vectors = topics[some] + noise
        answer[first : first + len(some)] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return answer
