"""Which of several arms is better, and how sure that is: pure functions on arrays of measurements.

An array of measurements has the shape (seeds, documents), or (arms, seeds, documents): the value of each held-out
document after training by each seed. A metric with one number per manifest has one document. Arms share seeds and
documents, so what is compared are differences, in which what makes a document hard or a seed lucky falls out.

A difference varies with the seeds and with the documents. Both are estimated, as a bootstrap over seeds x documents
does (the noise between them counts in each, so an interval is rather too wide), and Student's t with the degrees of
freedom that both have together (Satterthwaite) gives the tails that three seeds need.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtr, stdtrit

from selector.exact import Floats, keyed

DRAWS = 1000
ALPHA = 0.05
"""The chance that a study without any difference finds one."""
_Z = float(ndtri(1 - ALPHA / 2))


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its 95 % interval, and the probability of one so far from 0 if the truth were 0."""

    mean: float
    low: float
    high: float
    p: float


def estimate(values: Floats, weights: Floats) -> Estimate:
    """The mean over seeds and documents. With one seed nothing is known of its interval: it is infinite."""
    mean, error, freedom = spread(values, weights)
    if error == 0:
        same = mean == 0
        return Estimate(mean=mean, low=mean, high=mean, p=1.0 if same else 0.0)
    if not math.isfinite(error):
        return Estimate(mean=mean, low=-math.inf, high=math.inf, p=1.0)
    reach = float(stdtrit(freedom, 1 - ALPHA / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(mean) / error))
    return Estimate(mean=mean, low=mean - reach, high=mean + reach, p=p)


def spread(values: Floats, weights: Floats) -> tuple[float, float, float]:
    """The weighted mean, its standard error, and the degrees of freedom of that."""
    share = weights / weights.sum()
    num_seeds, num_documents = values.shape
    of_seeds, of_documents = values @ share, values.mean(axis=0)
    mean = float(of_seeds.mean())
    if np.ptp(values) == 0 and num_seeds > 1:
        return mean, 0.0, 1.0
    if num_seeds < 2:
        return mean, math.inf, 1.0
    by_seed = float(of_seeds.var(ddof=1)) / num_seeds
    by_document = 0.0
    if num_documents > 1:
        by_document = float((share**2 * (of_documents - mean) ** 2).sum()) * num_documents / (num_documents - 1)
    whole = by_seed + by_document
    if whole == 0:
        return mean, 0.0, 1.0
    freedom = whole**2 / (by_seed**2 / (num_seeds - 1) + by_document**2 / max(1, num_documents - 1))
    return mean, math.sqrt(whole), freedom


def holm(p: Sequence[float]) -> Floats:
    """The probabilities, adjusted for their number (Holm 1979): each is below a level only with that chance for all."""
    given = np.asarray(p, np.float64)
    order = np.argsort(given, kind="stable")
    adjusted = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    back = np.empty_like(adjusted)
    back[order] = np.minimum(adjusted, 1.0)
    return back


def level(look: int, looks: int) -> float:
    """The level at a look, counted from 1, of so many: later looks have more of it, and all of them together ALPHA."""
    return ALPHA * 2 * look / (looks * (looks + 1))


def pairs_of(num_arms: int) -> list[tuple[int, int]]:
    """Every two arms, once."""
    return [(first, second) for first in range(num_arms) for second in range(first + 1, num_arms)]


def differences(values: Floats, weights: Floats) -> dict[tuple[int, int], Estimate]:
    """How much more each arm has than each later one, with p adjusted for all pairs."""
    pairs = pairs_of(len(values))
    plain = [estimate(values[first] - values[second], weights) for first, second in pairs]
    adjusted = holm([one.p for one in plain])
    return {
        pair: Estimate(mean=one.mean, low=one.low, high=one.high, p=float(p))
        for pair, one, p in zip(pairs, plain, adjusted, strict=True)
    }


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What a bootstrap over seeds x documents says of each arm."""

    low: Floats
    high: Floats
    chance: Floats  # of being best


def bootstrap(values: Floats, weights: Floats, *, higher: bool, seed: int = 0) -> Drawn:
    """95 % intervals of the arms' means, and the chance of each to be the best.

    Seeds and documents are drawn again, both independently and for all arms alike. Deviations are widened to what
    `spread` says, since so few seeds vary less among themselves than seeds do. With one seed nothing is known.
    """
    num_arms, num_seeds, num_documents = values.shape
    means = np.array([spread(one, weights)[0] for one in values])
    if num_seeds < 2:
        return Drawn(low=np.full(num_arms, -np.inf), high=np.full(num_arms, np.inf), chance=np.full(num_arms, np.nan))
    times_seeds, times_documents = _drawn(num_seeds, seed, "seeds"), _drawn(num_documents, seed, "documents")
    weighted = times_documents * weights
    of_documents = values.reshape(num_arms * num_seeds, num_documents) @ (weighted / weighted.sum(1, keepdims=True)).T
    of_draws = np.einsum("asd,ds->ad", of_documents.reshape(num_arms, num_seeds, DRAWS), times_seeds / num_seeds)
    apart = of_draws - means[:, None]
    low, high = means + np.quantile(_widened(apart, values, weights), [ALPHA / 2, 1 - ALPHA / 2], axis=1)
    # What all arms share in a draw does not make one of them better.
    at = means[:, None] + _widened(apart - apart.mean(axis=0), values - values.mean(axis=0), weights)
    # Sums of the same numbers may differ in their last bits by where they stand in an array.
    best = np.isclose(at, at.max(axis=0) if higher else at.min(axis=0), rtol=1e-9, atol=0)
    return Drawn(low=low, high=high, chance=(best / best.sum(axis=0)).mean(axis=1))


def _widened(apart: Floats, values: Floats, weights: Floats) -> Floats:
    """Deviations of draws, made as wide as `spread` says of the values that were drawn from."""
    reach = np.empty(len(values))
    for arm, one in enumerate(values):
        _, error, freedom = spread(one, weights)
        reach[arm] = float(stdtrit(freedom, 1 - ALPHA / 2)) / _Z * error
    own = apart.std(axis=1)
    return apart * np.divide(reach, own, out=np.zeros(len(own)), where=own > 0)[:, None]


def _drawn(count: int, seed: int, purpose: str) -> Floats:
    """How often each of so many things is drawn in each draw; shape (draws, things)."""
    number = np.arange(DRAWS * count, dtype=np.uint64)
    words = np.column_stack([number, np.full_like(number, seed)])
    drawn = (keyed.fractions(keyed.siphash(words, keyed.digest(f"bootstrap {purpose}".encode()))) * count).astype(int)
    row: npt.NDArray[np.int64] = np.repeat(np.arange(DRAWS), count)
    return np.bincount(row * count + drawn, minlength=DRAWS * count).reshape(DRAWS, count).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The best arm, or why there is none; `flags` are what speaks against it all the same."""

    winner: int | None
    reason: str = ""
    flags: tuple[str, ...] = ()
    is_separated: bool = False  # the best two of the largest scale are told apart: more seeds are of no use


def decide(
    values: Sequence[Sequence[Floats]],
    weights: Floats,
    *,
    higher: bool,
    names: Sequence[str],
    conditions: Sequence[str],
    settings: Sequence[str],
    look: int = 1,
    looks: int = 1,
) -> Decision:
    """Which arm is the best, if one is.

    `values` are the measurements for each condition, the largest last, and there for each setting; shape (arms, seeds,
    documents). The winner has the best mean in the last condition and is told apart from every other arm there, over
    all settings together, at the level of this look; and in no other condition is an arm better whose 95 % interval
    beside it leaves out 0. Where another arm is ahead within the noise, in a condition or at a setting, that is a flag.
    """
    pooled, sign = [np.mean(np.stack(of_settings), axis=0) for of_settings in values], 1 if higher else -1
    means = [sign * _means(one, weights) for one in pooled]
    best = int(np.argmax(means[-1]))
    if len(names) == 1:
        return Decision(winner=None, reason="there is one arm", is_separated=True)
    largest = differences(pooled[-1], weights)
    second = int(np.argsort(-means[-1], kind="stable")[1])
    most = level(look, looks)
    unlike = {other: _of(largest, best, other) for other in range(len(names)) if other != best}
    is_separated = unlike[second].p <= most
    alike = [names[other] for other, one in unlike.items() if one.p > most]
    ahead = [
        [arm for arm in np.argsort(-mean, kind="stable") if sign * beside(one, int(arm), best, weights) > 0]
        for mean, one in zip(means, pooled, strict=True)
    ]
    if any(ahead):
        elsewhere = [f"{names[arms[0]]} at {where}" for arms, where in zip(ahead, conditions, strict=True) if arms]
        reason = f"ranks change with the scale: {names[best]} is ahead at {conditions[-1]}, and behind "
        return Decision(winner=None, reason=reason + ", ".join(elsewhere), is_separated=is_separated)
    if alike:
        return Decision(winner=None, reason=f"{names[best]} is not told apart from {', '.join(alike)}")
    firsts = [int(np.argmax(mean)) for mean in means]
    flags = [
        f"{names[first]} is ahead at {where}, which is not told from noise"
        for first, where in zip(firsts, conditions, strict=True)
        if first != best
    ]
    firsts = [int(np.argmax(sign * _means(one, weights))) for one in values[-1]]
    flags += [
        f"{names[first]} is the best at {setting}"
        for setting, first in zip(settings, firsts, strict=True)
        if first != best
    ]
    return Decision(winner=best, flags=tuple(flags), is_separated=True)


def beside(values: Floats, first: int, second: int, weights: Floats) -> int:
    """1 if the first of two arms has more, -1 if it has less, and 0 where that is not told from noise: where the 95 %
    interval of their difference holds 0."""
    one = estimate(values[first] - values[second], weights)
    return int(one.low > 0) - int(one.high < 0)


def _means(values: Floats, weights: Floats) -> Floats:
    """The mean of each arm over seeds and weighted documents; shape (arms, seeds, documents) to (arms,)."""
    return (values @ (weights / weights.sum())).mean(axis=1)


def _of(pairs: dict[tuple[int, int], Estimate], first: int, second: int) -> Estimate:
    return pairs[min(first, second), max(first, second)]
