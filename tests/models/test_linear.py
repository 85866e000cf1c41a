"""Linear models are what their formulas say, by other programs and by the worked case."""

import choix
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge

from selector.models.linear import bradley_terry, logistic, ordinal, preference, ridge

RNG = np.random.default_rng(4)
FEATURES = RNG.standard_normal((60, 5)) @ np.diag([1, 2, 0.5, 1, 3.0])


def test_bradley_terry_follows_confidences() -> None:
    first, second, chances = zip((0, 1, 0.9), (1, 2, 0.7), (0, 2, 0.8), (2, 0, 0.35), strict=True)
    scores = bradley_terry(np.array(first), np.array(second), np.array(chances), 3, 0.1)
    assert scores == pytest.approx([0.740371, -0.25714, -0.483231], abs=1e-5)


def test_nine_wins_to_one_are_a_gap_of_log_nine() -> None:
    first, second, chances = np.array([0] * 10), np.array([1] * 10), np.array([1.0] * 9 + [0.0])
    scores = bradley_terry(first, second, chances, 2, 1e-9)
    theirs = choix.ilsr_pairwise(2, [(0, 1)] * 9 + [(1, 0)])
    assert scores[0] - scores[1] == pytest.approx(np.log(9), abs=1e-4)
    assert scores == pytest.approx(theirs, abs=1e-4)


@given(st.integers(0, 2**16))
def test_bradley_terry_is_that_of_another_program(number: int) -> None:
    rng = np.random.default_rng(number)
    pairs = [(int(a), int(b)) for a, b in (rng.choice(5, 2, replace=False) for _ in range(60))]
    wins, losses = np.array(pairs + [pair[::-1] for pair in pairs[:20]]).T
    ours = bradley_terry(wins, losses, np.ones(len(wins)), 5, 0.2)
    theirs = choix.opt_pairwise(5, list(zip(wins.tolist(), losses.tolist(), strict=True)), alpha=0.1)
    assert ours == pytest.approx(theirs - theirs.mean(), abs=1e-3)


def test_ridge_is_that_of_scikit_learn() -> None:
    labels = FEATURES @ np.arange(5) + RNG.standard_normal(60) + 7
    for model, penalty in zip(ridge(FEATURES, labels, [0.1, 30.0]), (0.1, 30.0), strict=True):
        theirs = Ridge(penalty).fit(FEATURES, labels)
        assert model.outputs(FEATURES)[:, 0] == pytest.approx(theirs.predict(FEATURES), abs=1e-9)


def test_a_chance_counts_as_that_part_of_an_event_and_the_rest_of_its_absence() -> None:
    chances = 1 / (1 + np.exp(-FEATURES[:, 0] - 0.3))
    (model,) = logistic(FEATURES, chances, [1e-3])
    assert model.weights[0] == pytest.approx([1, 0, 0, 0, 0], abs=2e-3)
    assert model.intercepts[0] == pytest.approx(0.3, abs=2e-3)


def test_ordinal_is_a_logistic_regression_for_each_border() -> None:
    labels = np.clip(np.rint(FEATURES[:, 0] + 0.4 * RNG.standard_normal(60)), -1, 1)
    weak, strong = ordinal(FEATURES, labels, np.array([-1.0, 0.0, 1.0]), [1.0, 20.0])
    for model, penalty in ((weak, 1.0), (strong, 20.0)):
        for k, border in enumerate((-1, 0)):
            theirs = LogisticRegression(C=1 / penalty, tol=1e-9, max_iter=5000).fit(FEATURES, labels > border)
            assert model.weights[k] == pytest.approx(theirs.coef_[0], abs=1e-3)
            assert model.intercepts[k] == pytest.approx(theirs.intercept_[0], abs=1e-3)


def test_a_judgement_and_its_mirror_image_say_the_same() -> None:
    first, second = np.arange(30), np.arange(30, 60)
    chances = RNG.uniform(size=30)
    (one,) = preference(FEATURES, first, second, chances, [0.5])
    (other,) = preference(FEATURES, second, first, 1 - chances, [0.5])
    assert one.weights == pytest.approx(other.weights, abs=1e-5)
