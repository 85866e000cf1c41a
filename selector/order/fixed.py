"""DeepSpeed's curricula: a pool whose limit rises step by step, in one metric or in several at once."""

import functools
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from selector import exact
from selector.errors import PolicyError
from selector.exact import Ints
from selector.order import Direction, Order, ScoreName
from selector.order._draws import Bools, InSteps, Steps
from selector.order._ranked import ByDifficulty
from selector.order._unmet import with_unmet

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
        return _limit(self, step, steps)


@dataclass(frozen=True, kw_only=True)
class Metric(_Limit):
    """A score with a limit of its own, which is a percentile or a value of the score."""

    score: ScoreName
    difficulty: Literal["percentile", "value"] = "percentile"

    def __post_init__(self) -> None:
        _check(self, f"fixed.metrics, {self.score}: ", is_percentile=self.difficulty == "percentile")


@dataclass(frozen=True, kw_only=True)
class Fixed(_Limit, InSteps):
    """Draws each step from the documents below a limit in every one of some scores, and the limit rises.

    `schedule` says how (DeepSpeed's names): fixed_linear from `least` to `greatest` until the share `full` of the steps
    is over, fixed_root with the root of this `degree`, rounded down to a multiple of `multiple`; fixed_discrete has the
    limits `limits`, each but the last up to and with the step of `until`. A limit is a percentile: 8 are the easiest 8
    % by rank. The `scores` share one limit; `metrics` are further scores, each with the settings of a limit of its own,
    {score, schedule, least, …}, and with `difficulty: value` that is the greatest value that the score may have. A
    document must be within every limit, so the pool can be smaller than a step, which then goes through it several
    times: the fact `smallest_pool` tells of that, `empty_steps` of those that drew from everything because the pool was
    empty. There are `epochs` times as many visits as documents, evenly over the steps; what no step draws is told as
    left.

    Evidence: DeepSpeed's data efficiency library, whose schedules these are; we read its code, and know its reported
    savings from summaries only, which are those of a curriculum together with dropping tokens at random. A resumed run
    of its own sampler draws other documents.

    When: an experiment with DeepSpeed is to be repeated, or several scores are to rise together. For one score
    `paced` and `pooled` are simpler; with many steps `shuffled` is as good.
    """

    chance = "fixed"
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

    @property
    def ranks(self) -> Mapping[str, Order]:
        ranked = [*self.scores, *(one.score for one in self.metrics if one.difficulty == "percentile")]
        return {_rank_by(score): ByDifficulty(score=score, direction=self.direction) for score in ranked}

    def visits_of_steps(self, num_rows: int) -> Ints:
        return exact.apportion(round(Fraction(str(self.epochs)) * num_rows), [1] * self.steps)

    def is_open(self, batch: pa.RecordBatch, step: int, known: int) -> Bools:
        """Which rows are within every limit; `known` is the number of rows of the pool."""
        limits = [(score, self.limit(step, self.steps), True) for score in self.scores]
        limits += [(one.score, one.limit(step, self.steps), one.difficulty == "percentile") for one in self.metrics]
        is_open = np.ones(batch.num_rows, np.bool_)
        for score, limit, is_percentile in limits:
            if is_percentile:
                is_open &= batch[_rank_by(score)].to_numpy() < known * limit // 100
            else:
                is_open &= exact.floats(batch[score]) <= limit  # not where there is none
        return is_open

    def facts(self, sizes: Ints, summary: Steps) -> Mapping[str, Any]:
        pools, lines = summary.pools.tolist(), list[str]()
        if count := pools.count(0):
            steps = "1 step draws" if count == 1 else f"{count:,} steps draw"
            lines.append(f"{steps} from all documents, as none is within every limit of fixed")
        return {"fixed": with_unmet({"smallest_pool": min(pools), "empty_steps": count}, lines)}


@functools.lru_cache(maxsize=4096)  # each shard is asked for each step
def _limit(of: _Limit, step: int, steps: int) -> int:
    if of.schedule == "fixed_discrete":
        limits = zip(of.limits, of.until, strict=False)
        return next((limit for limit, last in limits if step <= last), of.limits[-1])
    over = Fraction(step) / (Fraction(str(of.full)) * steps)
    degree = of.degree if of.schedule == "fixed_root" else 1
    risen = _root(min(over, Fraction(1)), degree, of.greatest - of.least)
    return (of.least + risen) // of.multiple * of.multiple


def _rank_by(score: str) -> str:
    return f"rank by {score}"


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
