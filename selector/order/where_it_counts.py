"""Another order, with its best part moved to where training learns most from it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import Ints, keyed
from selector.order import Order, Pool, Positions, ScoreName
from selector.order._ranked import ranked


@dataclass(frozen=True, kw_only=True)
class WhereItCounts(Order):
    """Another order, of which the best part comes where updates count most in the weights at the end.

    The best part is the phase of this name, or the visits with the highest `score`: the share `share` of all visits,
    those with which a curriculum by it would end. It stays together and in its order, and comes where as many
    visits in a row count most by `training.schedule`, the last such place; everything else stays in its order around
    it. Visits keep their phases and loss weights, so a phase can come back after the best part. The fact
    `where_it_counts` says where it is, and how much its visits count there, 1 being the average of all. The driver
    holds all visits.

    Evidence: arXiv 2509.25380 (TREC; 111M to 3.9B parameters, 900B tokens of continued pre-training): good data belongs
    where the loss on data that is trained on again is lowest, which AdamW's averaging coefficients predict: near the
    end with a constant rate, before the end of a decay. 2511.18903 (1.5B parameters, 30B tokens): ascending quality
    beats a random order at a constant rate, and not where the rate decays. That the best stretch is the one with the
    greatest sum of these coefficients is our inference, and was not compared; a fall that is less steep
    (`training.schedule.final`) may do as well. Without weight decay it comes where the rate is highest.
    """

    reads_training: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"score": "quality"})

    inner: Order
    score: ScoreName | None = None
    share: float = 0.1
    phase: str | None = None

    def __post_init__(self) -> None:
        if (self.score is None) == (self.phase is None):
            raise PolicyError(
                "where_it_counts wants one of score and phase, to know what is best: write, for example, "
                "{inner: shuffled, score: readability, share: 0.1}."
            )
        if not 0 <= self.share <= 1:
            raise PolicyError(
                f"where_it_counts.share={self.share} is no share of the visits: write a number from 0 to 1."
            )

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        positions = self.inner.arrange(chosen, seed)
        visits = positions.visits
        is_best = (
            self._by_phase(visits["phase"], self.phase) if self.phase is not None else self._by_score(chosen, visits)
        )
        best, others = np.flatnonzero(is_best), np.flatnonzero(~is_best)
        if chosen.training is None:
            counts = np.ones(len(is_best), np.int64)
        else:
            counts = chosen.training.whole_counts(len(is_best))
        first, mean = _window(counts, len(best))
        places = np.concatenate([others[:first], best, others[first:]])
        facts = {"first_position": first, "visits": len(best), "counts": mean}
        moved = positions.rearranged(places, keyed.words(chosen.table("doc_id")["doc_id"]))
        return replace(moved, facts={**positions.facts, "where_it_counts": facts})

    def _by_phase(self, phase: pa.ChunkedArray, wanted: str) -> npt.NDArray[np.bool_]:
        """Which visits are of the wanted phase. Raises PolicyError where the order has no such phase."""
        if not len(phase):
            return np.zeros(0, np.bool_)
        column = phase.unify_dictionaries().combine_chunks()
        names: list[str] = column.dictionary.to_pylist()
        if wanted not in names:
            raise PolicyError(
                f"where_it_counts.phase: the order has no phase {wanted!r}. It has {', '.join(map(repr, names))}."
            )
        return column.indices.to_numpy() == names.index(wanted)

    def _by_score(self, chosen: Pool, visits: pa.Table) -> npt.NDArray[np.bool_]:
        """Which visits are of the best documents; those of one document first to last."""
        assert self.score is not None
        ids, scores, order = ranked(chosen, self.score, "anti_curriculum")
        is_new = np.ones(len(order), np.bool_)
        is_new[1:] = (ids[order[1:]] != ids[order[:-1]]).any(axis=1)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.cumsum(is_new)  # the rows of a document have one rank, whichever of them comes first
        rows = visits["document"].to_numpy()
        candidates = np.flatnonzero(~np.isnan(scores[rows]))
        count = int(Fraction(str(self.share)) * len(rows))
        is_best = np.zeros(len(rows), np.bool_)
        is_best[candidates[np.argsort(rank[rows[candidates]], kind="stable")[:count]]] = True
        return is_best


def _window(counts: Ints, size: int) -> tuple[int, float]:
    """Where the last of the stretches of so many visits begins that count most, and how much its visits count."""
    before = np.concatenate([[0], np.cumsum(counts)])
    sums = before[size:] - before[: len(counts) - size + 1]
    first = len(sums) - 1 - int(np.argmax(sums[::-1]))
    mean = int(sums[first]) * len(counts) / (size * int(before[-1])) if size else 0.0
    return first, round(mean, 4)
