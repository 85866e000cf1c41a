"""How many others are like a document: the mean cosine to its nearest neighbours.

Source: k-nearest-neighbour density, as in Sener and Savarese 2018 (arXiv:1708.00489), in D4 (Tirumala et al. 2023,
arXiv:2308.12284, where dense regions are thinned out), and the indicator Knn-i of InstructMining (arXiv:2307.06290):
the distance to the i-th neighbour.

Unit: a cosine, and a Euclidean distance between unit vectors. Range: -1 to 1, and 0 to 2. A high density means closer,
a high distance rarer. Neighbours are those inside the document's cluster, which a step finds exactly: at a border they
are not all of the corpus's. Not measured here.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import Ints, floats
from selector.rate import Meaning, Rater


@dataclass(frozen=True, kw_only=True)
class Density(Rater):
    """The mean cosine to the nearest other documents of its cluster, and the distance to the last of them.

    A high mean says that the document is typical of many, near duplicates among them; a high `distance` that it is
    rare. It is by `neighbours` of them, of which no more are known than `cluster.num_neighbours`. In a smaller cluster
    the mean is that over all others, and the distance is not_applicable; alone in its cluster a document has neither.
    """

    neighbours: int = 8

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise PolicyError(f"density.neighbours={self.neighbours} is no number of neighbours. Write 1 or more.")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("neighbour_cosines",)

    def scores(self, name: str) -> dict[str, Meaning]:
        return {name: "closer", f"{name}_distance": "rarer"}

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        lists = batch["neighbour_cosines"]
        counts = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        cosines = floats(lists.flatten())
        first = np.cumsum(counts) - counts
        used = np.minimum(counts, self.neighbours)
        place = np.arange(len(cosines)) - np.repeat(first, counts)
        of_document = np.repeat(np.arange(len(counts)), counts)
        is_used = place < self.neighbours
        sums = np.bincount(of_document[is_used], cosines[is_used], minlength=len(counts))
        mean = sums / np.maximum(used, 1)
        last = cosines[_inside(first + self.neighbours - 1, len(cosines))] if len(cosines) else np.zeros(len(counts))
        distance = np.sqrt(np.maximum(2 - 2 * last, 0))
        return pa.record_batch(
            {
                "score": pa.array(mean, mask=used == 0),
                "score_distance": pa.array(distance, mask=counts < self.neighbours),
            }
        )


def _inside(places: Ints, count: int) -> Ints:
    return np.minimum(places, count - 1)
