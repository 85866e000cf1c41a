"""The typical documents of every cluster."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from selector import exact
from selector.exact import Floats, UInt64
from selector.select._quotas import InClusters


@dataclass(frozen=True, kw_only=True)
class Closest(InClusters):
    """Takes the documents that are closest to the centroid of their cluster (kM-Closest).

    A cluster's quota is its share of the budget, by largest remainder: `proportional` to its size, or `equal` for all;
    what a small cluster has no documents for, the others get. Ties by doc_id. A
    document's value is minus its distance. Nothing is drawn.

    Source: a baseline of arXiv 2409.11378. Setting: Llama-2-7B on 10,000 of 196,000 WizardLM examples. Reported: 44.6,
    random 43.8, k-means with quality 46.2 (mean of six benchmarks). Measured on 5 % of 6,936 pages of Debian
    documentation (64 clusters, 5 seeds, of random 25; entropy of packages as a part of the largest): .683 ± .012,
    random .688 ± .009, of 24 packages instead of 28. It repeats what is typical, and near-duplicates sit together:
    `random` is as good where clusters are tight, and more diverse.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        return (*super().needs, "distance")

    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> UInt64:
        return exact.ascending(batch["distance"])

    def values(self, batch: pa.RecordBatch, summary: Any, seed: int) -> Floats:
        return -exact.floats(batch["distance"])
