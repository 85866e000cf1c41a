"""Agreement is counted by the book, and no fold shares a near-duplicate with another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from selector.models.agreement import accuracies, calibration_error, folds, groups, rank_correlations, ranks


@given(st.lists(st.integers(0, 5), min_size=3, max_size=30), st.integers(0, 99))
def test_the_rank_correlation_is_spearmans(labels: list[int], number: int) -> None:
    said = np.array(labels, np.float64)
    score = said + np.random.default_rng(number).integers(0, 4, len(said))
    if np.ptp(said) and np.ptp(score):
        of_each = rank_correlations({"ours": score, "zero": np.zeros(len(said))}, said, None)
        assert of_each["ours"].value == pytest.approx(spearmanr(score, said)[0])
        assert of_each["zero"].value == 0
        assert of_each["ours - zero"].value == of_each["ours"].value


def test_equal_values_share_their_rank() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 7.0])).tolist() == [2.5, 1.0, 2.5, 4.0]


def test_an_interval_holds_its_figure_and_is_wider_over_few_groups() -> None:
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(8), 50)
    said = rng.standard_normal(400) + rng.standard_normal(8)[group] * 2
    score = said + rng.standard_normal(400) + rng.standard_normal(8)[group] * 3
    (figure,) = rank_correlations({"ours": score}, said, group).values()
    assert figure.low < figure.value < figure.high
    assert figure.group_low is not None and figure.group_high is not None
    assert figure.group_high - figure.group_low > figure.high - figure.low


def test_a_gap_of_nothing_is_half_right() -> None:
    gaps = {"ours": np.array([1.0, -2.0, 0.0, 5.0]), "none": np.zeros(4)}
    figures = accuracies(gaps, np.array([1.0, 0.9, 0.2, 0.5]), None)
    assert figures["ours"].value == (1 + 0 + 0.5 + 0.5) / 4
    assert figures["none"].value == 0.5
    assert figures["ours - none"].value == 0


@given(st.integers(0, 2**16), st.integers(2, 5))
def test_near_duplicates_and_what_was_given_together_never_cross_folds(number: int, num_folds: int) -> None:
    rng = np.random.default_rng(number)
    centres = rng.standard_normal((6, 16))
    vectors = centres[rng.integers(6, size=30)] + 0.05 * rng.standard_normal((30, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    given_groups = rng.integers(20, size=30)
    group = groups(vectors.astype(np.float16), given_groups)
    fold = folds(group, num_folds, seed=3)
    together = vectors.astype(np.float16).astype(np.float64) @ vectors.astype(np.float16).astype(np.float64).T > 0.9
    together |= given_groups[:, None] == given_groups
    assert (fold[:, None] == fold)[together].all()
    assert (group[:, None] == group)[together].all()


def test_a_calibrated_chance_has_a_small_error() -> None:
    rng = np.random.default_rng(2)
    chances = rng.uniform(size=20_000)
    happened = (rng.uniform(size=20_000) < chances).astype(np.float64)
    assert calibration_error(chances, happened) < 0.02
    assert calibration_error(chances**3, happened) > 0.1
