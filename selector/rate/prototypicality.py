"""How typical a document is of its cluster.

Source: Sorscher et al. 2022, "Beyond neural scaling laws", arXiv:2206.14486, section 4 ("SSL prototypes"):
the distance of an embedding to the nearest k-means centroid. They find that with much data the far,
untypical examples are the ones worth keeping, and with little data the near ones.

Unit: a Euclidean distance between unit vectors, negative. Range: -2 to 0. A high value means closer to its cluster.
"""

from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from selector.rate import Rater


@dataclass(frozen=True, kw_only=True)
class Prototypicality(Rater):
    """How close the document is to its nearest centroid: minus the Euclidean distance, so at most 0."""

    higher_is = "closer"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("distance",)

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"score": (-pl.Series(batch["distance"], dtype=pl.Float32)).to_arrow()})
