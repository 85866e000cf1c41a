"""Centroids: k-means on a keyed sample of the vectors.

Centroids are fitted, stored, and only then used. The steps of a fit are exact (`selector.models.kmeans`), so it does
not matter whether one machine holds the sample or workers look at it block by block.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from selector import tables
from selector.engine.step import APART, Done, Tables, Whole
from selector.engine.store import Seal, Store
from selector.exact.vectors import vector_column
from selector.models import kmeans
from selector.models.kmeans import Method
from selector.models.neighbours import Halves, Ints, closest
from selector.steps.how_many import EVIDENCE, most_clusters, number_of_clusters
from selector.steps.sample import Blocks, Sample

LEVELS = pa.schema([("level", pa.int32()), ("cluster", pa.int32()), ("parent", pa.int32())])


@dataclass(frozen=True, kw_only=True)
class Centroids(Whole):
    """`centroids`, the `evidence` for their number (a row for each that was tried), and `levels` above them."""

    name: str = field(default="centroids", metadata=APART)
    version = 4
    reads: tuple[str, ...] = field(default=("embed",), metadata=APART)

    num_clusters: int | Literal["auto"]
    documents_per_cluster: int
    levels: tuple[int, ...] = ()
    method: Method = field(metadata=APART)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "method": self.method.to_json()}

    def inputs(self, done: Done) -> Any:
        return [seal.key for seal in done["embed"].parts]

    def rows_out(self, seal: Seal, store: Store) -> int:
        return seal.tables["centroids"].num_rows

    def compute(self, done: Done) -> Tables:
        most = most_clusters(done["embed"].rows_out) if self.num_clusters == "auto" else self.num_clusters
        sample = Sample.of(done, most * self.documents_per_cluster, self.method.seed, "kmeans")
        number, evidence = most, EVIDENCE.empty_table()
        if self.num_clusters == "auto":
            number, evidence = number_of_clusters(sample, most, self.method)
        sample = sample.limited(number * self.documents_per_cluster)
        levels = [] if self.levels else [_fitted(sample, number, self.method)]
        if self.levels:
            levels = kmeans.hierarchy(sample.first(sample.most_held), self.levels, self.method)
        centroids = levels[0]
        columns = [pa.array(np.arange(len(centroids), dtype=np.int32)), vector_column(centroids)]
        yield "centroids", pa.table(columns, schema=tables.centroids(sample.dimension))
        yield "evidence", evidence
        yield "levels", tree(levels)


def tree(levels: Sequence[Halves]) -> pa.Table:
    """`LEVELS`: to which cluster of the next level each cluster of a level belongs."""
    tables_of = [
        pa.table(
            [
                np.full(len(low), level, np.int32),
                np.arange(len(low), dtype=np.int32),
                closest(low, high).astype(np.int32),
            ],
            schema=LEVELS,
        )
        for level, (low, high) in enumerate(itertools.pairwise(levels))
    ]
    return pa.concat_tables([LEVELS.empty_table(), *tables_of])


def branches_of(store: Store, key: str, num_clusters: int) -> pa.ListArray:
    """For each of the finest clusters those of the coarser levels that hold it, the coarsest first.

    `key` is that of the centroids. Without levels there are none.
    """
    levels = store.read(key, "levels")
    level, parent = levels["level"].to_numpy(), levels["parent"].to_numpy()
    own, above = np.arange(num_clusters), list[Ints]()
    for number in np.unique(level):
        own = parent[level == number][own]
        above.insert(0, own)
    flat = np.stack(above, axis=1).reshape(-1) if above else np.empty(0)
    offsets = np.arange(num_clusters + 1) * len(above)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat, pa.int32()))


def _fitted(sample: Sample, num_clusters: int, method: Method) -> Halves:
    """The centroids of a sample, wherever it is; the answer is that of `kmeans.centroids_of`, to the last bit."""
    if sample.is_held or num_clusters >= len(sample):
        return kmeans.centroids_of(sample.first(len(sample)), num_clusters, method)
    beginning = sample.first(kmeans.rows_to_start(num_clusters))
    directions = kmeans.components(beginning)
    blocks = Blocks.of(sample, directions)
    best = kmeans.fitted(kmeans.projected(beginning, directions), num_clusters, blocks.sums, method)
    return kmeans.lifted(blocks.sums(best, "vectors"), best, directions, method.kind)
