"""Linear models learned from labels or from judgements: the home of scikit-learn.

All of them minimise a loss plus half the penalty times the squared length of the weights; what is added to a score
(an intercept) is not penalised. Features are given as they are: who calls makes them comparable.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Kind = Literal["ridge", "logistic", "ordinal", "preference"]
"""What is learned: a number, one of two classes, a level among several, or which of two texts is better."""


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Weights, (outputs, features), and what each output has added: for `ordinal` an output for each border between
    levels, else one."""

    weights: Floats
    intercepts: Floats

    def outputs(self, features: Floats) -> Floats:
        """(n, outputs)."""
        return features @ self.weights.T + self.intercepts


def ridge(features: Floats, labels: Floats, penalties: Sequence[float]) -> list[Linear]:
    """Least squares, one model for each penalty."""
    means, middle = features.mean(axis=0), labels.mean()
    centred = features - means
    values, vectors = np.linalg.eigh(centred.T @ centred)
    turned = vectors.T @ (centred.T @ (labels - middle))
    models: list[Linear] = []
    for penalty in penalties:
        weights = vectors @ (turned / np.maximum(values + penalty, 1e-12))
        models.append(Linear(weights=weights[None], intercepts=np.array([middle - weights @ means])))
    return models


def logistic(features: Floats, chances: Floats, penalties: Sequence[float], *, intercept: bool = True) -> list[Linear]:
    """Logistic regression on the probability of each row's event (0 and 1 where it is known), one model for each
    penalty."""
    from sklearn.linear_model import LogisticRegression

    is_hard = bool(np.isin(chances, (0, 1)).all())
    rows = features if is_hard else np.concatenate([features, features])
    happened = chances if is_hard else np.repeat([1.0, 0.0], len(chances))
    weights = None if is_hard else np.concatenate([chances, 1 - chances])
    if not intercept:  # a row and its mirror image say the same, and the solver wants both classes
        rows, happened = np.concatenate([rows, -rows[:1]]), np.append(happened, 1 - happened[0])
        weights = np.append(np.ones(len(features)) if weights is None else weights, 0.0)
    models: list[Linear] = []
    solver: Any = LogisticRegression(fit_intercept=intercept, tol=1e-7, max_iter=2000, warm_start=True)
    for penalty in sorted(penalties, reverse=True):
        solver.set_params(C=1 / penalty).fit(rows, happened, sample_weight=weights)
        added = solver.intercept_ if intercept else np.zeros(1)
        models.append(Linear(weights=solver.coef_.copy(), intercepts=np.array(added, np.float64)))
    return [models[sorted(penalties, reverse=True).index(penalty)] for penalty in penalties]


def ordinal(features: Floats, labels: Floats, levels: Floats, penalties: Sequence[float]) -> list[Linear]:
    """For each border between neighbouring levels a logistic regression on being above it; one model for each penalty.

    Source: Frank and Hall 2001, "A simple approach to ordinal classification".
    """
    borders = [logistic(features, (labels > level).astype(np.float64), penalties) for level in levels[:-1]]
    return [
        Linear(
            weights=np.concatenate([border[i].weights for border in borders]),
            intercepts=np.concatenate([border[i].intercepts for border in borders]),
        )
        for i in range(len(penalties))
    ]


def preference(
    features: Floats, first: Ints, second: Ints, chances: Floats, penalties: Sequence[float]
) -> list[Linear]:
    """Bradley-Terry's model of scores that are linear in the features: `chances` are the probabilities that the first
    of two texts is better; one model for each penalty.

    Source: Bradley and Terry 1952. With a column for each text as features these are its free scores.
    """
    return logistic(features[first] - features[second], chances, penalties, intercept=False)


def bradley_terry(first: Ints, second: Ints, chances: Floats, num_texts: int, penalty: float) -> Floats:
    """The free scores of texts that were compared, which sum to 0: log-odds of being the better one."""
    (model,) = preference(np.eye(num_texts), first, second, chances, [penalty])
    return model.weights[0] - model.weights[0].mean()
