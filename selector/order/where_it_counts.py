"""Another order, with its best part moved to where training learns most from it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from selector.errors import PolicyError
from selector.exact import LAST, Ints, Queued, UInt64, take
from selector.order import Along, Resorted, ScoreName, difficulty_keys
from selector.order._around import Visits
from selector.order._resorted import by_position
from selector.order._unmet import some_visits, with_unmet

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class WhereItCounts(Resorted):
    """Another order, of which the best part comes where updates count most in the weights at the end.

    The best part is the phase of this name, or the visits with the highest `score`: the share `share` of all visits,
    those with which a curriculum by it would end. It stays together and in its order, and comes where as many
    visits in a row count most by `training.schedule`, the last such place; everything else stays in its order around
    it. Visits keep their phases and loss weights, so a phase can come back after the best part. The fact
    `where_it_counts` says where it is, and how much its visits count there, 1 being the average of all. The driver
    holds 24 bytes for each visit, of 100 million at most.

    Evidence: arXiv 2509.25380 (TREC; 111M to 3.9B parameters, 900B tokens of continued pre-training): good data belongs
    where the loss on data that is trained on again is lowest, which AdamW's averaging coefficients predict: near the
    end with a constant rate, before the end of a decay. 2511.18903 (1.5B parameters, 30B tokens): ascending quality
    beats a random order at a constant rate, and not where the rate decays. That the best stretch is the one with the
    greatest sum of these coefficients is our inference, and was not compared; a fall that is less steep
    (`training.schedule.final`) may do as well. Without weight decay it comes where the rate is highest.
    """

    reads_training: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"score": "quality"})

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

    @property
    def reads(self) -> tuple[str, ...]:
        return () if self.score is None else (self.score,)

    def summary(self, visits: Visits, seed: int) -> "Best":
        visits.check_room(self)
        best = self._best_phase(visits) if self.score is None else self._best_by_score(visits, self.score)
        num_best = sum(visits.each(partial(_num_best, best)))
        training = visits.chosen.training
        counts = np.ones(visits.count, np.int64) if training is None else training.whole_counts(visits.count)
        first, mean = _window(counts, num_best)

        def others(work: Callable[[Queued], Answer]) -> Iterable[Answer]:
            return visits.each(partial(_of_others, work, best))

        before = take(others, np.array([first]), "stop", count=visits.count)
        border = visits.count if before.whole[0] else int(before.cuts[0, 0])
        wanted = 0 if self.score is None else int(Fraction(str(self.share)) * visits.count)
        missing = max(wanted - num_best, 0)
        return replace(best, border=border, first=first, visits=num_best, counts=mean, missing=missing)

    def keys(self, along: Along, summary: "Best", seed: int) -> Sequence[UInt64 | Ints]:
        return [np.where(summary.mask(along), 1, np.where(along.position < summary.border, 0, 2))]

    def facts(self, summary: "Best") -> Mapping[str, Any]:
        facts = {"first_position": summary.first, "visits": summary.visits, "counts": summary.counts}
        if not summary.missing:
            return {"where_it_counts": facts}
        visits = some_visits(summary.missing, "of those", "of those")
        line = f"the best part lacks {visits} that where_it_counts asks for: no more have a score"
        return {"where_it_counts": with_unmet({**facts, "missing": summary.missing}, [line])}

    def _best_phase(self, visits: Visits) -> "Best":
        """The visits of the wanted phase. Raises PolicyError where the order has no such phase."""
        names: list[str] = list(dict.fromkeys(visits.phases.dictionary.to_pylist()))
        if visits.count and self.phase not in names:
            raise PolicyError(
                f"where_it_counts.phase: the order has no phase {self.phase!r}. It has {', '.join(map(repr, names))}."
            )
        is_wanted = [name == self.phase for name in visits.phases.dictionary.to_pylist()]
        return Best(stretches=np.array(is_wanted, np.bool_)[visits.phases.indices.to_numpy()])

    def _best_by_score(self, visits: Visits, score: str) -> "Best":
        """The visits of the best documents; of the last one as many as there is room for, first to last."""
        best = Best(score=score, higher_is=visits.chosen.higher_is(score))
        count = int(Fraction(str(self.share)) * visits.count)

        def documents(work: Callable[[Queued], Answer]) -> Iterable[Answer]:
            return visits.each(partial(_of_documents, work, best))

        paid = take(documents, np.array([count]), "stop", count=visits.count)
        if paid.whole[0]:
            return best
        best = replace(best, cut=paid.cuts[0])
        on_it = np.sort(np.concatenate([*visits.each(partial(_on_the_cut, best))]))
        return replace(best, until=int(on_it[count - paid.spent]))


@dataclass(frozen=True, kw_only=True)
class Best:
    """Which visits are the best, and where they come."""

    stretches: npt.NDArray[np.bool_] | None = None  # which stretches of one phase, where a phase is the best
    score: str = ""
    higher_is: str = ""
    cut: UInt64 | None = None  # the document that is the best only up to a position, all after it not; None: none is
    until: int = 0  # that position
    border: int = 0  # the position from which on others come after the best
    first: int = 0  # the position of the first of the best afterwards
    visits: int = 0
    counts: float = 0.0
    missing: int = 0  # visits that are asked for

    def queued(self, along: Along) -> Queued:
        """The visits, the best document first."""
        keys = difficulty_keys(along.batch, self.score, self.higher_is, "anti_curriculum")
        return replace(by_position(along), key=keys, ids=along.ids)

    def mask(self, along: Along) -> npt.NDArray[np.bool_]:
        """Which visits are the best."""
        if self.stretches is not None:
            return self.stretches[along.stretch]
        queued = self.queued(along)
        is_known = queued.key != LAST
        if self.cut is None:
            return is_known
        before, on = queued.compare(self.cut)
        return is_known & (before | on & (along.position < self.until))


def _num_best(best: Best, along: Along) -> int:
    return int(best.mask(along).sum())


def _of_others(work: Callable[[Queued], Answer], best: Best, along: Along) -> Answer:
    """What the work says of the visits that are not the best, first to last."""
    return work(by_position(along).where(~best.mask(along)))


def _of_documents(work: Callable[[Queued], Answer], best: Best, along: Along) -> Answer:
    """What the work says of the documents with a score, each as large as it has visits; those are all in one shard."""
    queued = best.queued(along)
    queued = queued.where(queued.key != LAST).in_turn()
    is_new = np.ones(len(queued.key), np.bool_)
    is_new[1:] = (queued.ids[1:] != queued.ids[:-1]).any(axis=1)
    times = np.diff(np.flatnonzero(is_new), append=len(is_new))
    return work(replace(queued.where(is_new), sizes=times))


def _on_the_cut(best: Best, along: Along) -> Ints:
    """The positions of the visits of the document that is the best only in part."""
    assert best.cut is not None
    return along.position[best.queued(along).compare(best.cut)[1]]


def _window(counts: Ints, size: int) -> tuple[int, float]:
    """Where the last of the stretches of so many visits begins that count most, and how much its visits count."""
    before = np.concatenate([[0], np.cumsum(counts)])
    sums = before[size:] - before[: len(counts) - size + 1]
    first = len(sums) - 1 - int(np.argmax(sums[::-1]))
    mean = int(sums[first]) * len(counts) / (size * int(before[-1])) if size else 0.0
    return first, round(mean, 4)
