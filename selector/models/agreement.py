"""How well numbers agree with what people said: folds that share no near-duplicates, and intervals.

Intervals are of a bootstrap over rows with 1,000 draws, and where documents come in groups (a debate, a book) also over
whole groups, since rows of one group are not independent. A rank correlation is that of the ranks in the whole set.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from selector.models.linear import Floats, Ints

Figures = Callable[[Floats], dict[str, Floats]]
"""Figures by name for each row of means of columns, (draws, columns)."""

DRAWS = 1000
_AT_ONCE = 50  # draws
_ROWS = 1024  # whose cosines to all others are held at once


def groups(vectors: npt.NDArray[np.float16], given: Ints, least: float = 0.9) -> Ints:
    """The group of each text, numbered from 0: texts of one given group are together, and so are two whose cosine is
    above `least`, and whoever is together with either."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    wide, n = vectors.astype(np.float32), len(vectors)
    ends = [(np.arange(n), _first_of_each(given))]
    for start in range(0, n, _ROWS):
        ones, others = np.nonzero(wide[start : start + _ROWS] @ wide.T > least)
        ends.append((ones + start, others))
    ones, others = (np.concatenate(side) for side in zip(*ends, strict=True))
    return connected_components(coo_matrix((np.ones(len(ones), bool), (ones, others)), (n, n)))[1].astype(np.int64)


def folds(group: Ints, num_folds: int, seed: int) -> Ints:
    """The fold of each text: whole groups, in an order that the seed draws, each to the fold that has fewest texts."""
    sizes = np.bincount(group)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_of, filled = np.empty(len(sizes), np.int64), np.zeros(num_folds, np.int64)
    for one in order:
        fold_of[one] = np.argmin(filled)
        filled[fold_of[one]] += sizes[one]
    return fold_of[group]


def ranks(values: Floats) -> Floats:
    """From 1 on; equal values have the mean of theirs."""
    _, place, number = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(number) - (number - 1) / 2)[place]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval over rows, and over groups where there are some."""

    value: float
    low: float
    high: float
    group_low: float | None = None
    group_high: float | None = None


def rank_correlations(
    scores: Mapping[str, Floats], labels: Floats, group: Ints | None, seed: int = 0
) -> dict[str, Estimate]:
    """Spearman's rank correlation of each score with the labels; and under `X - Y` how much more that of the first
    score is than that of each other."""
    tables = [rank_terms(values, labels) for values in scores.values()]

    def figures(means: Floats) -> dict[str, Floats]:
        of_each = np.split(means, len(tables), axis=1)
        correlations = {name: correlation(of_one) for name, of_one in zip(scores, of_each, strict=True)}
        return {**correlations, **_gains(correlations)}

    return _estimates(figures, np.concatenate(tables, axis=1), group, seed)


def accuracies(gaps: Mapping[str, Floats], chances: Floats, group: Ints | None, seed: int = 0) -> dict[str, Estimate]:
    """The share of judgements with which each score agrees, by the gap between the two texts' scores: a gap of 0 is
    half right, and so is a judgement of one half; and the gains of the first over the others."""
    right = {name: 0.5 + 0.5 * np.sign(gap) * np.sign(chances - 0.5) for name, gap in gaps.items()}

    def figures(means: Floats) -> dict[str, Floats]:
        shares = dict(zip(right, means.T, strict=True))
        return {**shares, **_gains(shares)}

    return _estimates(figures, np.stack(list(right.values()), axis=1), group, seed)


def rank_terms(scores: Floats, labels: Floats) -> Floats:
    """Of each row what a rank correlation is made of: `correlation` takes the means of these columns."""
    ours, theirs = _standard(ranks(scores)), _standard(ranks(labels))
    return np.stack([ours, ours**2, ours * theirs, theirs, theirs**2], axis=1)


def correlation(means: Floats) -> Floats:
    """The correlation by the means of columns of `rank_terms`, one for each row; 0 where one side has one value."""
    middle, square, product, other, other_square = means.T
    spread = np.sqrt(np.maximum(square - middle**2, 0) * np.maximum(other_square - other**2, 0))
    return np.divide(product - middle * other, spread, out=np.zeros_like(spread), where=spread > 0)


def drawn_means(table: Floats, group: Ints, seed: int = 0) -> Floats:
    """The means of a table's columns over each draw of whole groups of its rows, (DRAWS, columns)."""
    rng, num_groups = np.random.default_rng(seed), int(group.max()) + 1
    draws: list[Floats] = []
    for _ in range(0, DRAWS, _AT_ONCE):
        times = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), _AT_ONCE).astype(np.float64)
        weights = times[:, group]
        draws.append(weights @ table / weights.sum(axis=1, keepdims=True))
    return np.concatenate(draws)


def calibration_error(predicted: Floats, observed: Floats, num_bins: int = 10) -> float:
    """The mean distance between what is predicted and what is observed, over bins of equally many rows."""
    bins = np.array_split(np.argsort(predicted, kind="stable"), num_bins)
    gaps = [abs(float(predicted[rows].mean() - observed[rows].mean())) * len(rows) for rows in bins if len(rows)]
    return sum(gaps) / len(predicted)


def _gains(figures: Mapping[str, Floats]) -> dict[str, Floats]:
    first, *others = figures
    return {f"{first} - {other}": figures[first] - figures[other] for other in others}


def _estimates(figures: Figures, table: Floats, group: Ints | None, seed: int) -> dict[str, Estimate]:
    plain = figures(table.mean(axis=0, keepdims=True))
    by_row = figures(drawn_means(table, np.arange(len(table)), seed))
    by_group = figures(drawn_means(table, group, seed)) if group is not None and group.max(initial=-1) > 0 else {}
    estimates: dict[str, Estimate] = {}
    for name, value in plain.items():
        low, high = np.quantile(by_row[name], (0.025, 0.975)).tolist()
        group_low, group_high = np.quantile(by_group[name], (0.025, 0.975)).tolist() if by_group else (None, None)
        estimates[name] = Estimate(
            value=float(value[0]), low=low, high=high, group_low=group_low, group_high=group_high
        )
    return estimates


def _standard(values: Floats) -> Floats:
    return (values - values.mean()) / (values.std() or 1.0)


def _first_of_each(given: Ints) -> Ints:
    _, first, place = np.unique(given, return_index=True, return_inverse=True)
    return first[place].astype(np.int64)
