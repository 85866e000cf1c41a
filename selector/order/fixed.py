"""DeepSpeed's curricula: a pool whose limit rises step by step, in one metric or in several at once."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np

from selector import exact
from selector.errors import PolicyError
from selector.exact import Floats, Ints, keyed
from selector.order import Direction, Order, Pool, Positions, ScoreName
from selector.order._ranked import laps, left_out, ranked

Schedule = Literal["fixed_linear", "fixed_root", "fixed_discrete"]


@dataclass(frozen=True, kw_only=True)
class _Limit:
    """A limit that rises from step to step, in DeepSpeed's settings."""

    schedule: Schedule = "fixed_linear"
    least: int = 1
    greatest: int = 100
    multiple: int = 1
    degree: int = 2
    full: float = 0.5
    limits: tuple[int, ...] = (10, 50, 100)
    until: tuple[int, ...] = (5, 10)

    def limit(self, step: int, steps: int) -> int:
        """The limit of a step, of so many."""
        if self.schedule == "fixed_discrete":
            limits = zip(self.limits, self.until, strict=False)
            return next((limit for limit, last in limits if step <= last), self.limits[-1])
        over = Fraction(step) / (Fraction(str(self.full)) * steps)
        degree = self.degree if self.schedule == "fixed_root" else 1
        risen = _root(min(over, Fraction(1)), degree, self.greatest - self.least)
        return (self.least + risen) // self.multiple * self.multiple


@dataclass(frozen=True, kw_only=True)
class Metric(_Limit):
    """A score with a limit of its own, which is a percentile or a value of the score."""

    score: ScoreName
    difficulty: Literal["percentile", "value"] = "percentile"

    def __post_init__(self) -> None:
        _check(self, f"fixed.metrics, {self.score}: ", is_percentile=self.difficulty == "percentile")


@dataclass(frozen=True, kw_only=True)
class Fixed(_Limit, Order):
    """Draws each step from the documents below a limit in every one of some scores, and the limit rises.

    `schedule` says how (DeepSpeed's names): fixed_linear from `least` to `greatest` until the share `full` of the steps
    is over, fixed_root with the root of this `degree`, rounded down to a multiple of `multiple`; fixed_discrete has the
    limits `limits`, each but the last up to and with the step of `until`. A limit is a percentile: 8 are the easiest 8
    % by rank. The `scores` share one limit; `metrics` are further scores, each with the settings of a limit of its own,
    {score, schedule, least, …}, and with `difficulty: value` that is the greatest value that the score may have. A
    document must be within every limit, so the pool can be smaller than a step, which then goes through it several
    times: the fact `smallest_pool` tells of that, `empty_steps` of those that drew from everything because the pool was
    empty. There are `epochs` times as many visits as documents, evenly over the steps; what no step draws is told as
    left. The driver holds all keys and visits.

    Evidence: DeepSpeed's data efficiency library, whose schedules these are; we read its code, and know its reported
    savings from summaries only, which are those of a curriculum together with dropping tokens at random. A resumed run
    of its own sampler draws other documents.

    When: an experiment with DeepSpeed is to be repeated, or several scores are to rise together. For one score
    `paced` and `pooled` are simpler; with many steps `shuffled` is as good.
    """

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"scores": ["difficulty"]})

    scores: tuple[ScoreName, ...] = ()
    steps: int = 20
    epochs: float = 1.0
    direction: Direction = "curriculum"
    metrics: tuple[Metric, ...] = ()

    def __post_init__(self) -> None:
        if not self.scores and not self.metrics:
            raise PolicyError("fixed.scores names no score: write at least one, e.g. [readability].")
        _check(self, "fixed.", is_percentile=True)
        if not 1 <= self.steps <= 1000:
            raise PolicyError(f"fixed.steps={self.steps} is no number of steps: write a whole number from 1 to 1000.")
        if not 0 <= self.epochs <= 1000:
            raise PolicyError(f"fixed.epochs={self.epochs} is no number of epochs: write a number from 0 to 1000.")

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        ids, worst = keyed.words(chosen.table("doc_id")["doc_id"]), np.zeros(chosen.num_documents, np.int64)
        for score in self.scores:  # of these the greatest of its ranks
            worst = np.maximum(worst, self._rank(chosen, score))
        measured = [
            self._rank(chosen, one.score) if one.difficulty == "percentile" else _values(chosen, one.score)
            for one in self.metrics
        ]
        drawn, sizes = [np.empty(0, np.int64)], list[int]()
        total = round(Fraction(str(self.epochs)) * len(ids))
        for step, visits in enumerate(exact.apportion(total, [1] * self.steps).tolist()):
            is_open = (
                worst < len(ids) * self.limit(step, self.steps) // 100 if self.scores else np.ones(len(ids), np.bool_)
            )
            for one, values in zip(self.metrics, measured, strict=True):
                limit = one.limit(step, self.steps)
                is_open &= values < len(ids) * limit // 100 if one.difficulty == "percentile" else values <= limit
            pool = np.flatnonzero(is_open)
            sizes.append(len(pool))
            drawn += laps(pool if len(pool) else np.arange(len(ids)), ids, visits, seed, f"fixed/{step}")
        positions = Positions.of(np.concatenate(drawn), ids)
        facts = {"smallest_pool": min(sizes), "empty_steps": sizes.count(0)}
        return replace(left_out(positions, len(ids), "no step of the schedule drew it"), facts={"fixed": facts})

    def _rank(self, chosen: Pool, score: str) -> Ints:
        """The rank of each row of the pool by a score."""
        _, _, order = ranked(chosen, score, self.direction)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return rank


def _values(chosen: Pool, score: str) -> Floats:
    """The value of a score for each row of the pool; infinite where there is none."""
    values = exact.floats(chosen.table(score)[score])
    return np.where(np.isnan(values), np.inf, values)


def _check(of: _Limit, called: str, *, is_percentile: bool) -> None:
    """Raises PolicyError where these are no settings of a limit."""
    if not of.least <= of.greatest or (is_percentile and not 0 <= of.least <= of.greatest <= 100):
        kind = "percentiles, the smaller one first: write numbers from 0 to 100"
        raise PolicyError(
            f"{called}least={of.least} and {called}greatest={of.greatest} are no "
            f"{kind if is_percentile else 'values, the smaller one first'}."
        )
    if of.multiple < 1 or of.degree < 1:
        raise PolicyError(f"{called}multiple={of.multiple} and {called}degree={of.degree}: write 1 or more.")
    if not 0 < of.full <= 1:
        raise PolicyError(f"{called}full={of.full} is no share of the steps: write a number above 0, up to 1.")
    if len(of.limits) != len(of.until) + 1:
        raise PolicyError(
            f"{called}limits has {len(of.limits)} limits and {called}until {len(of.until)} steps: write one limit "
            "more than there are steps at which it changes."
        )


def _root(share: Fraction, degree: int, of: int) -> int:
    """The root of a share, times a whole number, rounded down: the greatest n whose power n^degree is within."""
    within = share.numerator * of**degree // share.denominator
    return bisect_right(range(of + 1), within, key=lambda n: n**degree) - 1
