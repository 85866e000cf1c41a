"""How a rater is learned: on features that are made comparable, with the penalty that serves documents that were left
out, and calibrated by what was said of those.

A row is what somebody said: the label of one text, or a judgement of two. Folds are of texts, whole groups at a time. A
row is predicted by a model that saw none of its texts' groups: it was fitted on the rows of which no text is in the
fold. The penalty of a fold is the one that serves the other folds best.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selector.errors import UsageError
from selector.exact import Floats, Ints
from selector.models.linear import Kind, Linear, logistic, ordinal, preference, ridge
from selector.rate._learned import combined

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""That are tried, for each row: features have a deviation of 1."""

MOST_LEVELS = 24
"""Different labels that `ordinal` takes."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Features of texts, and rows: of each its text (of a judgement both), and what was said."""

    features: Floats
    rows: Ints  # (rows, 1), or (rows, 2) of judgements
    labels: Floats  # the label; or the probability that the first text is better

    def some(self, chosen: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> "Examples":
        return Examples(features=self.features, rows=self.rows[chosen], labels=self.labels[chosen])


@dataclass(frozen=True, kw_only=True)
class Standard:
    """What makes features comparable: their means and deviations over the texts of some rows, and their range."""

    lows: Floats
    highs: Floats
    means: Floats
    scales: Floats

    @classmethod
    def of(cls, examples: Examples) -> "Standard":
        seen = examples.features[np.unique(examples.rows)]
        scales = seen.std(axis=0)
        return cls(
            lows=seen.min(axis=0), highs=seen.max(axis=0), means=seen.mean(axis=0),
            scales=np.where(scales > 1e-9, scales, 1.0),
        )  # fmt: skip

    def __call__(self, features: Floats) -> Floats:
        return (np.clip(features, self.lows, self.highs) - self.means) / self.scales


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was learned of all examples, and what was predicted of each row by a model that had not seen it."""

    standard: Standard
    model: Linear
    levels: Floats
    penalty: float
    slope: float
    offset: float
    predicted: Floats  # calibrated: a label, a probability
    gaps: Floats  # before: of a judgement the first text's score less the second's


def learn(kind: Kind, examples: Examples, fold: Ints) -> Outcome:
    """The model of all examples, and its agreement with rows that it was not fitted on; `fold` is that of each text."""
    levels = np.unique(examples.labels) if kind == "ordinal" else np.empty(0)
    _check(kind, examples)
    num_folds = int(fold.max()) + 1
    within = fold[examples.rows]
    raw = np.full((len(PENALTIES), len(examples.labels)), np.nan)
    for one in range(num_folds):
        tested, fitted_on = (within == one).all(axis=1), (within != one).all(axis=1)
        if not tested.any():
            continue
        if not fitted_on.any():
            raise UsageError("There are too few documents to leave some out: give more, or fewer --folds.")
        some, standard = examples.some(fitted_on), Standard.of(examples.some(fitted_on))
        features = standard(examples.features)
        for i, model in enumerate(_models(kind, features, some, levels, PENALTIES)):
            raw[i, tested] = _said_by(kind, model, features, examples.rows[tested], levels)
    known = ~np.isnan(raw[0])
    row_fold = np.where(known, within[:, 0], -1)
    picked = np.full(len(examples.labels), np.nan)
    for one in range(num_folds):
        others = known & (row_fold != one)
        best = _best(kind, raw, examples.labels, others if others.any() else known)
        picked[row_fold == one] = raw[best, row_fold == one]
    best = _best(kind, raw, examples.labels, known)
    slope, offset = _calibration(kind, picked[known], examples.labels[known])
    standard = Standard.of(examples)
    (model,) = _models(kind, standard(examples.features), examples, levels, [PENALTIES[best]])
    calibrated = slope * picked + offset
    predicted = 1 / (1 + np.exp(-calibrated)) if kind in ("logistic", "preference") else calibrated
    return Outcome(
        standard=standard, model=model, levels=levels, penalty=PENALTIES[best], slope=slope, offset=offset,
        predicted=predicted, gaps=picked,
    )  # fmt: skip


def _models(
    kind: Kind, features: Floats, examples: Examples, levels: Floats, penalties: Sequence[float]
) -> list[Linear]:
    rows, labels = examples.rows, examples.labels
    whole = [penalty * len(labels) for penalty in penalties]
    if kind == "preference":
        return preference(features, rows[:, 0], rows[:, 1], labels, [penalty / 4 for penalty in whole])
    if kind == "ridge":
        return ridge(features[rows[:, 0]], labels, whole)
    halved = [penalty / 4 for penalty in whole]  # a quarter is the most that a row of a logistic loss is curved
    if kind == "logistic":
        return logistic(features[rows[:, 0]], labels, halved)
    return ordinal(features[rows[:, 0]], labels, levels, halved)


def _said_by(kind: Kind, model: Linear, features: Floats, rows: Ints, levels: Floats) -> Floats:
    """What a model says of each row, before calibration."""
    of_each = [combined(kind, model.outputs(features[texts]), levels) for texts in rows.T]
    return of_each[0] if kind != "preference" else of_each[0] - of_each[1]


def _losses(kind: Kind, raw: Floats, labels: Floats) -> Floats:
    if kind in ("ridge", "ordinal"):
        return (raw - labels) ** 2
    return np.logaddexp(0, raw) - labels * raw


def _best(kind: Kind, raw: Floats, labels: Floats, rows: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> int:
    """The place of the penalty that serves these rows best, each calibrated: the scale of a score is nobody's fault."""
    losses: list[float] = []
    for of_penalty in raw[:, rows]:
        slope, offset = _calibration(kind, of_penalty, labels[rows])
        losses.append(float(_losses(kind, slope * of_penalty + offset, labels[rows]).mean()))
    return int(np.argmin(losses))


def _calibration(kind: Kind, raw: Floats, labels: Floats) -> tuple[float, float]:
    """Slope and offset with which what was predicted of rows that were left out is right on average; an order of
    documents is never turned round."""
    if kind in ("ridge", "ordinal"):
        spread = float(raw.var())
        slope = float(((raw - raw.mean()) * (labels - labels.mean())).mean()) / spread if spread > 0 else 0.0
        slope = slope if slope > 0 else 1.0
        return slope, float(labels.mean() - slope * raw.mean())
    (line,) = logistic(raw[:, None], labels, [1e-3], intercept=kind == "logistic")
    slope = float(line.weights[0, 0])
    return (slope, float(line.intercepts[0])) if slope > 0 else (1.0, 0.0)


def _check(kind: Kind, examples: Examples) -> None:
    values = np.unique(examples.labels)
    if kind != "preference" and len(values) < 2:
        raise UsageError(f"All labels are {values[0]:g}: there is nothing to learn from them.")
    if kind == "preference" and (examples.labels == 0.5).all():
        raise UsageError("All judgements are undecided: there is nothing to learn from them.")
    if kind == "logistic" and not np.isin(values, (0, 1)).all():
        raise UsageError("logistic learns two labels, 0 and 1. Take ridge or ordinal for others.")
    if kind == "ordinal" and len(values) > MOST_LEVELS:
        raise UsageError(f"ordinal takes at most {MOST_LEVELS} different labels; these are {len(values)}. Take ridge.")
