"""The unusual documents of every cluster."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from selector import exact
from selector.exact import Floats, UInt64
from selector.select._quotas import InClusters


@dataclass(frozen=True, kw_only=True)
class Farthest(InClusters):
    """Takes the documents that are farthest from the centroid of their cluster.

    A cluster's quota is its share of the budget, by largest remainder: `proportional` to its size, or `equal` for all;
    what a small cluster has no documents for, the others get. Ties by doc_id. A
    document's value is its distance. Nothing is drawn. What is farthest is what is rare, and also what is broken: use
    it on a clean corpus.

    Source: the "hard" end of the rank inside a cluster (arXiv 2206.14486, and SemDeDup, arXiv 2303.09540, keeps it).
    Setting there: images. Reported: hard examples are the better ones where data are many, the worse ones where they
    are few. Measured on 5 % of 6,936 pages of Debian documentation (64 clusters, 5 seeds, of random 25; entropy of
    packages as a part of the largest): .712 ± .029, random .688 ± .009, of 31 packages instead of 28; on 1 % .655 ±
    .046, random .634 ± .017. With equal quotas over `cluster.levels: [128]` .757 ± .032, on 1 % .742 ± .021. `random`
    is as good, or better, on a corpus with noise.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        return (*super().needs, "distance")

    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> UInt64:
        return exact.descending(batch["distance"])

    def values(self, batch: pa.RecordBatch, summary: Any, seed: int) -> Floats:
        return exact.floats(batch["distance"])
