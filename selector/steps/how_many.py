"""How many clusters: `num_clusters: auto`, with the evidence for the number.

Each power of two in question is fitted five times, from different starts. The largest number is taken that separates as
well as the best one, to within a standard error, and of which two fits agree as well as those of the best, to within
.05.
The published tables show separation to be a weak proxy of quality: look at all of the evidence.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from selector.engine.canonical import fingerprint
from selector.engine.store import Store
from selector.models import kmeans
from selector.models.kmeans import Method
from selector.models.neighbours import Ints, nearest
from selector.steps.sample import Sample, given, vectors_in

NUM_FITS = 5
"""Fits of each number of clusters."""

_ITERATIONS = 10
_ROWS = 65_536  # of the sample, at most
_MOST_APART = 0.05  # of the agreement of fits, from the best
_ITEM_COST = 1 << 34  # multiplications, about: less work is not worth a worker of its own

EVIDENCE = pa.schema(
    [
        ("num_clusters", pa.int64()),
        ("silhouette", pa.float64()),  # the mean over the fits
        ("standard_error", pa.float64()),  # of that mean
        ("agreement", pa.float64()),  # the adjusted Rand index of two fits, the mean over all pairs
        ("mean_distance", pa.float64()),
        ("is_chosen", pa.bool_()),
    ]
)

_SUMMARY = pa.schema([("silhouette", pa.float64()), ("distance", pa.float64())])


def most_clusters(num_documents: int) -> int:
    """The largest number that `auto` tries: forty documents to a cluster, at most 4,096 and at least 1.

    The smallest is a quarter of it, or 64 if that is less: few clusters separate well and balance nothing.
    """
    return max(1, min(4096, num_documents // 40))


def numbers_to_try(most: int) -> list[int]:
    """The powers of two in question, ascending; 1 only where there is no other."""
    return [2**power for power in range(13) if min(64, most / 4) <= 2**power <= most and (power or most == 1)]


def number_of_clusters(sample: Sample, most: int, method: Method) -> tuple[int, pa.Table]:
    """The number to take, and `EVIDENCE`, a row for each number that was tried."""
    done, held = sample.done, sample.first(_ROWS)
    along = kmeans.projected(held, kmeans.components(held))
    numbers = numbers_to_try(most)
    trials = [(number, fit) for number in numbers for fit in range(NUM_FITS)]
    work = functools.partial(_fit_all, done.store, done.passing, given(done, along), method)
    items = list(_grouped(trials, along.size * _ITERATIONS))
    keys = list(itertools.chain.from_iterable(done.map(work, items)))
    rows = [_evidence(done.store, number, keys[NUM_FITS * i :][:NUM_FITS]) for i, number in enumerate(numbers)]
    chosen = largest_sound(rows)
    rows = [{**row, "is_chosen": row["num_clusters"] == chosen} for row in rows]
    return chosen, pa.Table.from_pylist(rows, schema=EVIDENCE)


def largest_sound(evidence: Sequence[Mapping[str, Any]]) -> int:
    """The largest number whose silhouette is within one standard error of the best (of the best's own), and whose
    agreement is within .05 of the best. Where no number is both: of those that agree so well, the one with the best
    silhouette, and of equal ones the largest."""
    best = max(evidence, key=lambda row: (row["silhouette"], row["num_clusters"]))
    agreement = max(row["agreement"] for row in evidence)
    stable = [row for row in evidence if row["agreement"] >= agreement - _MOST_APART]
    sound = [row for row in stable if row["silhouette"] >= best["silhouette"] - best["standard_error"]]
    if sound:
        return max(row["num_clusters"] for row in sound)
    return max(stable, key=lambda row: (row["silhouette"], row["num_clusters"]))["num_clusters"]


def adjusted_rand(one: Ints, other: Ints) -> float:
    """How well two partitions of the same documents agree (Hubert and Arabie, 1985): 1 where they are the same, about 0
    where they are so by chance. The names of clusters do not count, and pairs are counted in whole numbers."""
    together, first, second = (
        int((counts.astype(np.int64) * (counts.astype(np.int64) - 1)).sum()) // 2
        for counts in (
            np.unique(np.column_stack([one, other]), axis=0, return_counts=True)[1],
            np.unique(one, return_counts=True)[1],
            np.unique(other, return_counts=True)[1],
        )
    )
    pairs = len(one) * (len(one) - 1) // 2
    above = together * pairs - first * second
    below = (first + second) * pairs - 2 * first * second
    return 2 * above / below if below else 1.0


def _evidence(store: Store, number: int, keys: Sequence[str]) -> dict[str, Any]:
    """What the fits of a number of clusters come to."""
    summaries = [store.read(key, "summary").to_pylist()[0] for key in keys]
    labels = [store.read(key, "labels")["label"].to_numpy() for key in keys]
    silhouettes = np.array([summary["silhouette"] for summary in summaries])
    agreements = [adjusted_rand(one, other) for one, other in itertools.combinations(labels, 2)]
    return {
        "num_clusters": number,
        "silhouette": round(float(silhouettes.mean()), 6),
        "standard_error": round(float(silhouettes.std(ddof=1) / np.sqrt(len(keys))), 6),
        "agreement": round(float(np.mean(agreements)), 6),
        "mean_distance": round(float(np.mean([summary["distance"] for summary in summaries])), 6),
    }


def _grouped(trials: Sequence[tuple[int, int]], cost: int) -> Iterator[list[tuple[int, int]]]:
    """The trials in consecutive groups that are each worth a worker; a trial costs as much for each cluster."""
    group: list[tuple[int, int]] = []
    for trial in trials:
        group.append(trial)
        if cost * sum(number for number, _ in group) >= _ITEM_COST:
            yield group
            group = []
    if group:
        yield group


# What is asked of workers.


def _fit_all(store: Store, passing: str, vectors: str, method: Method, trials: Sequence[tuple[int, int]]) -> list[str]:
    """Stores what each fit says of the documents of the sample: their clusters, and how well these are apart.

    A document's silhouette is (b - a) / b, a being the distance to its own centroid and b to the next one: the
    simplified silhouette (Hruschka et al., 2004).
    """
    keys: list[str] = []
    for number, fit in trials:
        key = f"{passing}/fits/{fingerprint([vectors, method.to_json(), number, fit])}"
        keys.append(key)
        if store.find(key) is not None:
            continue
        along = vectors_in(store, vectors)
        begin = kmeans.start(along, number, method, fit)
        fitted = kmeans.lloyd(begin, kmeans.Measure(along), _ITERATIONS, method.kind)
        near, distances = nearest(along, fitted.centroids, 2)
        own, other = distances[:, 0].astype(np.float64), distances[:, -1].astype(np.float64)
        silhouette = np.divide(other - own, other, out=np.zeros_like(other), where=other > 0)
        summary = pa.table([[float(silhouette.mean())], [float(own.mean())]], schema=_SUMMARY)
        labels = pa.table([near[:, 0].astype(np.int32)], names=["label"])
        store.seal(key, [("labels", labels), ("summary", summary)], form="arrow")
    return keys
