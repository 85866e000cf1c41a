"""Rounds: what clusters weigh in the next one, from what the last one showed; and whether that can be believed.

All numbers here are of a few hundred clusters. Sums are `math.fsum`, which rounds once, so they depend on no order.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import exact
from selector.exact import Floats, Ints, UInt64
from selector.exact.apportion import apportion
from selector.exact.spend import Budget
from selector.plugins.pool import Pool
from selector.select._ranked import Group, Ranked, Reasons

Bools = npt.NDArray[np.bool_]

_FIELLER = 1.06  # the variance of Fisher's z of a rank correlation, times n - 3 (Fieller, Hartley and Pearson, 1957)
_NORMAL = 1.959963984540054  # 97.5 % of a normal distribution lie below it
_FEWEST = 5  # clusters by which a signal can be believed
_GRID = 2.0**-20
_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class Means:
    """The mean signal of each cluster (NaN: none was seen), and of how many documents."""

    means: Floats
    counts: Ints

    @classmethod
    def of(cls, cluster: Ints, values: Floats, num_clusters: int) -> "Means":
        known = ~np.isnan(values)
        cluster, values = cluster[known], values[known]
        order = np.argsort(cluster, kind="stable")
        counts = np.bincount(cluster, minlength=num_clusters)
        pieces = np.split(values[order], np.cumsum(counts))[:num_clusters]
        means = [math.fsum(piece.tolist()) / len(piece) if len(piece) else math.nan for piece in pieces]
        return cls(means=np.array(means), counts=counts.astype(np.int64))


def shrunk(seen: Means, strength: float) -> Floats:
    """The means, each drawn to the mean of all by so many documents' worth; without evidence it is that."""
    sums = [
        mean * count if count else 0.0 for mean, count in zip(seen.means.tolist(), seen.counts.tolist(), strict=True)
    ]
    num_seen = int(seen.counts.sum())
    whole = math.fsum(sums) / num_seen if num_seen else 0.0
    weights = seen.counts + strength
    return np.where(weights > 0, (np.array(sums) + strength * whole) / np.where(weights > 0, weights, 1), whole)


def exponential(before: Floats, signal: Floats, sizes: Ints, beta: float, floor: float) -> Floats:
    """w exp(beta z(signal)), normalised, then mixed with the clusters' shares of the corpus."""
    values: list[float] = signal.tolist()
    mean = math.fsum(values) / max(len(values), 1)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / max(len(values), 1))
    z = (signal - mean) / spread if spread > 0 else np.zeros(len(signal))
    raised = normalised(before * (exact.expm1(np.clip(beta * z, -50.0, 50.0)) + 1), before)
    return normalised((1 - floor) * raised + floor * normalised(sizes.astype(np.float64), before), before)


def in_proportion(before: Floats, signal: Floats) -> Floats:
    """Equation 6 of the paper, normalised: w times the signal; a signal below 0 counts as 0."""
    return normalised(before * np.maximum(signal, 0.0), before)


def softmax(before: Floats, signal: Floats) -> Floats:
    """What the published code does: the softmax of the signal, whatever weighed before."""
    return normalised(exact.expm1(np.maximum(signal - signal.max(initial=-np.inf), -700.0)) + 1, before)


def normalised(weights: Floats, otherwise: Floats) -> Floats:
    total = math.fsum(weights.tolist())
    return weights / total if total > 0 else otherwise


@dataclass(frozen=True, kw_only=True)
class Trust:
    """How well what was predicted of clusters agrees with what was held out."""

    num_clusters: int
    correlation: float | None  # of ranks; None: too few clusters, or all are alike
    lower: float | None  # the lower end of its 95 % interval

    @property
    def is_enough(self) -> bool:
        return self.lower is not None and self.lower > 0

    @classmethod
    def of(cls, predicted: Floats, held_out: Floats) -> "Trust":
        both = ~np.isnan(predicted) & ~np.isnan(held_out)
        n = int(both.sum())
        first, second = _ranks(predicted[both]), _ranks(held_out[both])
        spread = math.sqrt(float((first * first).sum()) * float((second * second).sum()))
        if n < _FEWEST or spread == 0:
            return cls(num_clusters=n, correlation=None, lower=None)
        correlation = float((first * second).sum()) / spread
        if abs(correlation) >= 1:
            return cls(num_clusters=n, correlation=correlation, lower=correlation)
        z = float(exact.log(np.array([(1 + correlation) / (1 - correlation)]))[0]) / 2
        low = 2 * (z - _NORMAL * math.sqrt(_FIELLER / (n - 3)))
        grown = float(exact.expm1(np.array([low]))[0])  # tanh(x) = expm1(2x) / (expm1(2x) + 2)
        return cls(num_clusters=n, correlation=correlation, lower=grown / (grown + 2))


def _ranks(values: Floats) -> Floats:
    """Ranks about their mean; those of equal values are their mean. Halves of whole numbers, so no sum rounds."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place] - (len(values) + 1) / 2


def head(wanted: npt.NDArray[Any], others: npt.NDArray[Any]) -> Floats:
    """The weights of a logistic head that tells wanted vectors from others, and its bias last; both weigh the same.

    Gradient descent from 0 in a fixed number of steps, with all numbers on grids on which no sum rounds: the same bits
    on every machine. Vectors have length 1.
    """
    rows = np.concatenate([wanted, others]).astype(np.float64)
    rows = np.concatenate([np.rint(rows * 2**14) * 2.0**-14, np.ones((len(rows), 1))], axis=1)
    truth = np.repeat([1.0, 0.0], [len(wanted), len(others)])
    share = np.repeat([0.5 / max(len(wanted), 1), 0.5 / max(len(others), 1)], [len(wanted), len(others)])
    weights = np.zeros(rows.shape[1])
    for _ in range(_STEPS):
        chance = 1 / (2 + exact.expm1(-(rows @ weights)))
        error = np.rint((truth - chance) * share * 2.0**34) * 2.0**-34
        weights = np.rint((weights + 8.0 * (rows.T @ error) - 0.002 * weights) / _GRID) * _GRID
    return weights


def logits(vectors: npt.NDArray[Any], weights: Floats) -> Floats:
    rows = np.rint(vectors.astype(np.float64) * 2**14) * 2.0**-14
    return rows @ weights[:-1] + weights[-1]


def rounded(weights: Sequence[float] | Floats) -> list[float]:
    """Weights to nine digits, so that shares are dealt out in fractions of few digits."""
    return [float(f"{weight:.9g}") for weight in np.asarray(weights).tolist()]


@dataclass(frozen=True, kw_only=True)
class InClusters(Ranked):
    """Another selector's order, in queues that are clusters."""

    inner: Ranked
    frozen: Any  # what the other selector knows of the whole pool

    @property
    def grouped_by(self) -> str:
        return "cluster"

    def sizes(self, pool: Pool, budget: Budget) -> tuple[list[Any], Ints]:
        """The clusters, in the order of a `Ranked`, and what the documents of each that may be taken spend."""
        whole: dict[Any, int] = {}
        for answer in pool.map(functools.partial(_sizes, self, budget), *self._columns()):
            for name, size in answer.items():
                whole[name] = whole.get(name, 0) + size
        names = sorted(whole, key=lambda name: (name is None, name))
        return names, np.array([whole[name] for name in names], np.int64)

    def summary_for(self, pool: Pool, budget: Budget, seed: int) -> Any:
        return self.frozen

    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> UInt64:
        return self.inner.keys(batch, summary, seed)

    def values(self, batch: pa.RecordBatch, summary: Any, seed: int) -> Floats | None:
        return self.inner.values(batch, summary, seed)

    def keys_and_values(self, batch: pa.RecordBatch, summary: Any, seed: int) -> tuple[UInt64, Floats | None]:
        return self.inner.keys_and_values(batch, summary, seed)

    def allowed(self, batch: pa.RecordBatch, summary: Any) -> Bools | None:
        return self.inner.allowed(batch, summary)

    def others(self, batch: pa.RecordBatch, summary: Any) -> pa.Array | None:
        return self.inner.others(batch, summary)

    def strata(self, batch: pa.RecordBatch, summary: Any) -> Ints:
        return self.inner.strata(batch, summary)

    def log_weights(self, batch: pa.RecordBatch, summary: Any, cuts: UInt64) -> Floats | None:
        return self.inner.log_weights(batch, summary, cuts)

    def reasons(self, group: Group) -> Reasons:
        return replace(super().reasons(group), never=self.inner.reasons(group).never)

    def _is_given(self, groups: Sequence[int | str], sizes: Ints, budget: Budget, summary: Any) -> Bools:
        return np.ones(len(sizes), np.bool_)

    def _columns(self) -> tuple[str, ...]:
        own = self.inner._columns()  # pyright: ignore[reportPrivateUsage] (of one family)
        return tuple(dict.fromkeys((*own, "cluster")))


@dataclass(frozen=True, kw_only=True)
class ByAmounts(InClusters):
    """Of every cluster so much, all rounds so far together."""

    names: tuple[Any, ...]
    amounts: tuple[int, ...]
    is_drawn: bool

    def quotas(self, groups: Sequence[Any], sizes: Ints, budget: Budget, summary: Any) -> Ints:
        by_name = dict(zip(self.names, self.amounts, strict=True))
        return np.array([by_name[name] for name in groups], np.int64)

    def log_weights(self, batch: pa.RecordBatch, summary: Any, cuts: UInt64) -> Floats | None:
        return super().log_weights(batch, summary, cuts) if self.is_drawn else None


@dataclass(frozen=True, kw_only=True)
class ByWeights(InClusters):
    """One round of its own, of whatever documents earlier ones left: of every cluster by its weight.

    No probability follows, since what a round leaves hangs on all rounds before it.
    """

    fills_budget = False  # a cluster may weigh nothing

    names: tuple[Any, ...]
    weights: tuple[float, ...]

    @property
    def is_probability_defined(self) -> bool:
        return False

    def quotas(self, groups: Sequence[Any], sizes: Ints, budget: Budget, summary: Any) -> Ints:
        by_name = dict(zip(self.names, self.weights, strict=True))
        return apportion(budget.amount, [by_name[name] for name in groups], sizes)


def _sizes(selector: InClusters, budget: Budget, batch: pa.RecordBatch) -> Mapping[Any, int]:
    allowed = selector.allowed(batch, selector.frozen)
    sizes = budget.sizes(batch) * (1 if allowed is None else allowed)
    encoded = batch["cluster"].dictionary_encode("encode")
    sums = np.zeros(len(encoded.dictionary), np.int64)
    np.add.at(sums, encoded.indices.to_numpy(zero_copy_only=False), sizes)
    return dict(zip(encoded.dictionary.to_pylist(), sums.tolist(), strict=True))
