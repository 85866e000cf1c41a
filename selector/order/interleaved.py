"""Every source, or every cluster, in each of a few rounds."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import Ints, keyed
from selector.order import Order, Positions
from selector.order import _difficulty as difficulty
from selector.order._difficulty import Direction
from selector.plugins.options import Score
from selector.plugins.pool import Pool


@dataclass(frozen=True, kw_only=True)
class Interleaved(Order):
    """Deals each group's documents over a few rounds, one group after another within a round (arXiv 2408.07888).

    A group is a source, in the order of their names, or a cluster, in the order of their numbers. Its
    documents are arranged by `score` and `direction` as in `by_score`, else shuffled, and cut into `rounds`
    pieces whose sizes differ by one at most. One round is the blocked order: group after group, each whole.
    """

    needs: ClassVar[tuple[str, ...]] = ("source", "cluster")

    by: Literal["source", "cluster"] = "source"
    rounds: int = 3
    score: Score | None = None
    direction: Direction = "curriculum"

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise PolicyError(
                f"interleaved.rounds={self.rounds} leaves no place to put a document: write 1 or more, e.g. 3."
            )

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        table = chosen.table("doc_id", self.by)
        ids = keyed.words(table["doc_id"])
        if self.score is None:
            keys = keyed.hashes(table["doc_id"], seed, "interleaved")
        else:
            keys = difficulty.keys(chosen, self.score, self.direction)
        group = _by_name(table[self.by]) if self.by == "source" else table[self.by].to_numpy().astype(np.int64)
        by_group = np.lexsort((ids[:, 1], ids[:, 0], keys, group))
        sizes = np.bincount(group)
        starts = np.cumsum(sizes) - sizes
        rank = np.arange(len(group)) - starts[group[by_group]]
        piece = _pieces(rank, sizes[group[by_group]], self.rounds)
        return Positions.of(by_group[np.argsort(piece, kind="stable")])


def _by_name(labels: pa.ChunkedArray) -> Ints:
    """The place of each label among all labels, sorted."""
    encoded = labels.combine_chunks().dictionary_encode()
    names: list[str] = encoded.dictionary.to_pylist()
    place = {name: i for i, name in enumerate(sorted(names))}
    return np.array([place[name] for name in names], np.int64)[encoded.indices.to_numpy()]


def _pieces(rank: Ints, size: Ints, pieces: int) -> Ints:
    """The piece that each rank of a group of this size falls into: the first `size % pieces` are one longer."""
    short, longer = np.divmod(size, pieces)
    in_longer = rank < longer * (short + 1)
    return np.where(in_longer, rank // (short + 1), longer + (rank - longer * (short + 1)) // np.maximum(short, 1))
