"""Every source, or every cluster, in each of a few rounds."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import Ints, UInt64
from selector.order import Direction, Placed, Pool, ScoreName, difficulty_keys, random_keys


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The names of the groups in their order, where they have names; what a large score means, where there is one."""

    names: tuple[str, ...] = ()
    higher_is: str = ""


@dataclass(frozen=True, kw_only=True)
class Interleaved(Placed):
    """Deals each group's documents over a few rounds, one group after another within a round (arXiv 2408.07888).

    A group is a source, in the order of their names, or a cluster, in the order of their numbers. Its documents are
    arranged by `score` and `direction` as in `by_score`, else shuffled, and cut into `rounds` pieces whose sizes differ
    by one at most. One round is the blocked order: group after group, each whole.
    """

    by: Literal["source", "cluster"] = "source"
    rounds: int = 3
    score: ScoreName | None = None
    direction: Direction = "curriculum"

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise PolicyError(
                f"interleaved.rounds={self.rounds} leaves no place to put a document: write 1 or more, e.g. 3."
            )

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by,)

    def summary(self, chosen: Pool, seed: int) -> Summary:
        names = set[str]().union(*chosen.map(_sources, "source")) if self.by == "source" else ()
        return Summary(names=tuple(sorted(names)), higher_is=chosen.higher_is(self.score) if self.score else "")

    def groups(self, batch: pa.RecordBatch, summary: Summary) -> Ints:
        if self.by == "cluster":
            return batch["cluster"].to_numpy().astype(np.int64)
        place = {name: i for i, name in enumerate(summary.names)}
        words = batch["source"].dictionary.to_pylist()  # of which some may be of no document
        return np.array([place.get(word, 0) for word in words], np.int64)[batch["source"].indices.to_numpy()]

    def keys(self, batch: pa.RecordBatch, summary: Summary, seed: int) -> UInt64:
        if self.score is None:
            return random_keys(batch, seed, "interleaved")
        return difficulty_keys(batch, self.score, summary.higher_is, self.direction)

    def place(self, group: Ints, rank: Ints, sizes: Ints) -> Ints:
        """The piece that each rank of its group falls into: the first `size % rounds` pieces are one longer."""
        short, longer = np.divmod(sizes[group], self.rounds)
        in_longer = rank < longer * (short + 1)
        return np.where(in_longer, rank // (short + 1), longer + (rank - longer * (short + 1)) // np.maximum(short, 1))


def _sources(batch: pa.RecordBatch) -> list[str]:
    """The sources of a batch, each once."""
    return batch["source"].unique().to_pylist()
