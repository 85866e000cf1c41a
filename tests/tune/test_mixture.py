"""Weights that a law proposes: the law that was planted is found, and no limit is passed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector.tune.mixture import Law, capped, fitted, limits, proposed

PLANTED = Law(floor=np.array([1.0, 0.5]), slopes=np.array([[-1.5, 0.5, 0.3], [0.2, -1.0, 0.4]]))


def runs(count: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(4)
    weights = generator.dirichlet(np.ones(3), count)
    return weights, PLANTED(weights) * (1 + noise * generator.normal(size=(count, 2)))


def test_a_law_of_few_runs_foretells_runs_that_it_has_not_seen() -> None:
    fit = fitted(*runs(9, 0.005))
    assert fit.error < 0.02 and fit.rank_correlation > 0.85
    others = np.random.default_rng(5).dirichlet(np.ones(3), 50)
    assert np.abs(fit.law(others) / PLANTED(others) - 1).mean() < 0.03


def test_runs_that_tell_nothing_are_foretold_badly_and_that_is_said() -> None:
    weights, _ = runs(9, 0)
    nothing = 1 + 0.1 * np.random.default_rng(6).random((9, 2))
    assert fitted(weights, nothing).rank_correlation < 0.6


def test_the_proposed_weights_have_the_least_loss_of_all_that_the_limits_allow() -> None:
    prior, most = np.array([0.2, 0.2, 0.6]), np.array([0.5, 1.0, 1.0])
    best = proposed(PLANTED, prior, most, divergence=0.0)
    own = PLANTED(prior)
    grid = np.random.default_rng(7).dirichlet(np.ones(3), 4000)
    grid = grid[(grid <= most).all(axis=1)]
    assert (PLANTED(best) / own).mean() <= (PLANTED(grid) / own).mean(axis=1).min() + 1e-3
    assert best.sum() == pytest.approx(1) and (best <= most + 1e-9).all()


def test_a_strong_divergence_keeps_the_shares_of_the_corpus() -> None:
    prior = np.array([0.2, 0.2, 0.6])
    assert np.abs(proposed(PLANTED, prior, np.ones(3), divergence=100.0) - prior).max() < 0.01


def test_limits_are_those_of_the_worked_case() -> None:
    assert limits(np.array([10.0, 5.0, 85.0]), 50, 4).tolist() == pytest.approx([0.8, 0.4, 1.0])
    assert capped(np.array([0.5, 0.3, 0.2]), np.array([0.4, 1.0, 1.0])).tolist() == pytest.approx([0.4, 0.36, 0.24])
    with pytest.raises(ValueError, match="less than one"):
        proposed(PLANTED, np.ones(3), np.full(3, 0.2), 0.1)


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=6), st.integers(0, 1 << 20))
def test_capped_weights_come_to_one_and_pass_no_limit(weights: list[float], seed: int) -> None:
    most = np.random.default_rng(seed).uniform(0.2, 1, len(weights))
    most *= max(1, 1.01 / most.sum())
    given_back = capped(np.array(weights), most)
    assert given_back.sum() == pytest.approx(1) and (given_back <= most + 1e-9).all() and (given_back >= 0).all()
