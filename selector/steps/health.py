"""Whether clusters are of use: sizes that differ too much, clusters of almost nothing, of one text, of no sense.

What a document says of its cluster is counted part by part, in whole numbers; neighbours are looked at in a sample.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.engine.step import Done
from selector.errors import SelectorError
from selector.exact.vectors import vectors_of
from selector.models.neighbours import Halves, Ints, closest, nearest
from selector.steps.sample import Sample

logger = logging.getLogger(__name__)

Gates = Literal["stop", "warn"]

SIZES = pa.schema(
    [
        ("cluster", pa.int32()),
        ("documents", pa.int64()),
        ("distance", pa.int64()),  # the sum, in units of 2^-20, so that it does not round
        ("unassignable", pa.int64()),  # documents that are no nearer to their centroid than to the origin
    ]
)

HEALTH = pa.schema(
    [
        ("clusters", pa.int64()),
        ("documents", pa.int64()),
        ("without_vector", pa.int64()),
        ("imbalance", pa.float64()),
        ("largest", pa.int64()),
        ("near_empty", pa.int64()),
        ("collapsed", pa.int64()),
        ("unassignable", pa.int64()),
        ("coherence", pa.float64()),
        ("coherence_by_chance", pa.float64()),
    ]
)
"""One row. `imbalance` is the number of clusters times the sum of the squares of their shares: 1 where all are equal.

`near_empty` clusters have less than a tenth of the mean. `collapsed` ones have two documents or more and these lie in
one spot (their mean distance is below .01), or their centroid lies where another one does. `coherence` is the share of
sampled documents whose nearest neighbour in the sample is in their cluster, beside the share that chance would give.
"""

MOST_IMBALANCE, MOST_CLUSTERS, MOST_DOCUMENTS, LEAST_COHERENCE = 10.0, 0.1, 0.01, 0.1
_SPOT = 0.01  # of a length of 1
_UNIT = 2**20
_SAMPLED = 2048, 8, 16_384  # documents whose neighbours are looked at: at least, for each cluster, at most


def sizes_of(labels: Ints, distances: npt.NDArray[np.float32], vectors: Halves) -> pa.Table:
    """`SIZES` of a part's documents: a row for each cluster that one of them is in."""
    clusters, places = np.unique(labels, return_inverse=True)
    wide = vectors.astype(np.float64)
    lost = distances.astype(np.float64) ** 2 >= np.einsum("ij,ij->i", wide, wide)
    sums = [np.ones(len(labels), np.int64), np.rint(distances.astype(np.float64) * _UNIT).astype(np.int64), lost]
    columns = [np.zeros(len(clusters), np.int64) for _ in sums]
    for column, values in zip(columns, sums, strict=True):
        np.add.at(column, places, values)
    return pa.table([clusters.astype(np.int32), *columns], schema=SIZES)


def examined(done: Done, parts: Iterable[pa.Table]) -> pa.Table:
    """`HEALTH` of the clusters, from the sizes of all parts."""
    centroids = vectors_of(done.table("centroids", "centroids")["centroid"])
    total = np.zeros((3, len(centroids)), np.int64)
    for part in parts:
        for row, name in enumerate(SIZES.names[1:]):
            np.add.at(total[row], part["cluster"].to_numpy(), part[name].to_numpy())
    documents, distance, unassignable = total
    number = int(documents.sum())
    shares = documents / max(1, number)
    is_spot = (documents > 1) & (distance < documents * int(_SPOT * _UNIT))
    by_chance = float((shares**2).sum())
    row = {
        "clusters": len(centroids),
        "documents": number,
        "without_vector": done["dedup"].rows_out - number,
        "imbalance": round(len(centroids) * by_chance, 6),
        "largest": int(documents.max(initial=0)),
        "near_empty": int((documents * len(centroids) * 10 < number).sum()),
        "collapsed": int((is_spot | _coincide(centroids)).sum()),
        "unassignable": int(unassignable.sum()),
        "coherence": _coherence(done, centroids) if number > 1 else None,
        "coherence_by_chance": round(by_chance, 6),
    }
    return pa.Table.from_pylist([row], schema=HEALTH)


def check(done: Done, gates: Gates) -> None:
    """Says what is wrong with the clusters: as warnings, or by SelectorError where the policy says stop."""
    (health,) = done.table("cluster", "health").to_pylist()
    problems = list(problems_of(health))
    if problems and gates == "stop":
        raise SelectorError(
            f"cluster.gates is stop, and the clusters do not pass: {'; '.join(problems)}. Try another"
            " cluster.num_clusters or another model, or write cluster.gates: warn to go on with them."
        )
    for problem in problems:
        logger.warning("clusters: %s", problem)


def problems_of(health: dict[str, Any]) -> Iterator[str]:
    """A line for each gate that the clusters do not pass."""
    number, documents = health["clusters"], health["documents"]
    lost = health["unassignable"] + health["without_vector"]
    if health["imbalance"] > MOST_IMBALANCE:
        yield (
            f"their imbalance is {health['imbalance']:.3g}, {MOST_IMBALANCE:g} at most: the largest of {number:,} has"
            f" {health['largest']:,} of {documents:,} documents"
        )
    if health["near_empty"] > MOST_CLUSTERS * number:
        yield f"{health['near_empty']:,} of {number:,} are nearly empty: less than a tenth of the mean"
    if health["collapsed"] > MOST_CLUSTERS * number:
        yield f"{health['collapsed']:,} of {number:,} have collapsed: all of one lies in one spot, or two in the same"
    if lost > MOST_DOCUMENTS * (documents + health["without_vector"]):
        yield (
            f"{lost:,} documents are of no cluster in particular: they have no vector, or are no nearer to a centroid"
            " than to the origin"
        )
    coherence, chance = health["coherence"], health["coherence_by_chance"]
    if coherence is not None and chance < 1 and (coherence - chance) / (1 - chance) < LEAST_COHERENCE:
        yield (
            f"neighbours are together in {coherence:.3g} of the sampled cases, and {chance:.3g} would be by chance:"
            " the clusters say little of what documents are about"
        )


def _coincide(centroids: Halves) -> npt.NDArray[np.bool_]:
    """Which centroids have another one in the same spot."""
    if len(centroids) < 2:
        return np.zeros(len(centroids), np.bool_)
    return nearest(centroids, centroids, 2)[1][:, 1] < _SPOT


def _coherence(done: Done, centroids: Halves) -> float | None:
    least, each, most = _SAMPLED
    sample = Sample.of(done, min(most, max(least, each * len(centroids))), 0, "neighbours")
    vectors = sample.first(len(sample))
    if len(vectors) < 2:
        return None
    near = nearest(vectors, vectors, 2)[0]
    others = np.where(near[:, 0] == np.arange(len(vectors)), near[:, 1], near[:, 0])
    labels = closest(vectors, centroids)
    return round(float((labels == labels[others]).mean()), 6)
