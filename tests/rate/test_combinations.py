"""Scores made comparable and put together: the worked cases of ranks, and what becomes of missing parts."""

from typing import Any

import numpy as np
import pytest

from rated import scores_of
from selector import plugins
from selector.errors import PolicyError

BETTER = {"higher_is": "better"}
X, Y = [1.0, 2.0, 2.0, 4.0], [4.0, 3.0, 2.0, 1.0]


def calibrated(options: dict[str, Any], fitted_on: dict[str, Any], **columns: Any) -> list[Any]:
    return scores_of("calibrated", {"score": "x", **BETTER, **options}, fitted_on=fitted_on, **columns)["calibrated"]


def test_a_quantile_is_the_mid_rank_in_the_sample() -> None:
    new = [1.0, 2.0, 4.0, 3.0, 0.0, 9.0, None]  # R11
    quantiles = calibrated({"method": "quantile"}, {"x": X}, x=new)
    assert quantiles == [*(pytest.approx(q) for q in (0.125, 0.5, 0.875, 0.6875, 0.125, 0.875)), None]


def test_a_z_score_has_the_deviation_of_the_population() -> None:
    scores = calibrated({}, {"x": [1.0, 2.0, 3.0, 4.0, 10.0, None]}, x=[1.0, 10.0])  # C6
    assert scores == [pytest.approx(-0.948683, rel=2e-6), pytest.approx(1.897367, rel=2e-6)]
    assert calibrated({}, {"x": [3, 3]}, x=[3, 7, None]) == [0, 0, None]
    assert calibrated({"method": "quantile"}, {"x": [3, 3]}, x=[3, 7]) == [0.5, 0.5]


def test_each_source_is_calibrated_by_itself_and_an_unknown_one_by_all() -> None:
    sample = {"x": [0.0, 2.0, 10.0, 30.0], "source": ["web", "web", "books", "books"]}
    scores = calibrated({"within": "source"}, sample, x=[2.0, 30.0, 10.5], source=["web", "books", "code"])
    assert scores == [1, 1, pytest.approx((10.5 - 10.5) / 12, abs=1e-6)]
    quantiles = calibrated({"within": "source", "method": "quantile"}, sample, x=[2.0, 30.0], source=["web", "code"])
    assert quantiles == [0.75, 0.875]


def test_a_calibrated_score_says_missing_where_the_score_is() -> None:
    options = {"score": "x", **BETTER}
    answer = scores_of("calibrated", options, fitted_on={"x": X}, x=[1.0, None])
    assert answer["calibrated.state"] == ["ok", "missing"]
    empty = scores_of("calibrated", options, fitted_on={"x": [None]}, x=[1.0, None])
    assert empty["calibrated"] == [0, None]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"weights": [0.7, 0.3]}, [0.7, 0.3, 0.5, None, None]),  # P1
        ({}, [1, 1, 1, None, None]),
        ({"weights": [1, -1]}, [1, -1, 0, None, None]),
        ({"how": "product"}, [0, 0, 0.25, None, None]),
        ({"how": "minimum"}, [0, 0, 0.5, None, None]),
        ({"how": "minimum", "impute": 0.25}, [0, 0, 0.5, 0.25, 0.25]),
    ],
)
def test_scores_are_combined_as_the_policy_says(options: dict[str, Any], expected: list[Any]) -> None:
    x, y = [1.0, 0.0, 0.5, None, 3.0], [0.0, 1.0, 0.5, 2.0, None]
    answer = scores_of("combined", {"of": ["x", "y"], **BETTER, **options}, x=x, y=y)
    assert answer["combined"] == [each if each is None else pytest.approx(each, rel=2e-6) for each in expected]
    states = ["missing" if each is None else "ok" for each in expected]
    assert answer["combined.state"] == states


def test_a_product_that_overflows_has_failed() -> None:
    answer = scores_of("combined", {"of": ["x", "x"], "how": "product", **BETTER}, x=[1e300])
    assert answer["combined"] == [None] and answer["combined.state"] == ["failed"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.5625, 0.4375, 0.5]),  # R11b
        ({"weights": [1, 0]}, [0.125, 0.5, 0.5, 0.875]),
        ({"weights": [1, -1]}, [0.125, 0.4375, 0.5625, 0.875]),
    ],
)
def test_the_mean_rank_is_that_of_the_worked_case(options: dict[str, Any], expected: list[float]) -> None:
    answer = scores_of("mean_rank", {"of": ["x", "y"], **BETTER, **options}, x=X, y=Y)
    assert answer["mean_rank"] == [pytest.approx(each) for each in expected]


def test_a_missing_part_makes_a_mean_rank_missing_unless_a_quantile_stands_for_it() -> None:
    options = {"of": ["x", "y"], **BETTER}
    fitted_on = {"x": X, "y": Y}
    answer = scores_of("mean_rank", options, fitted_on=fitted_on, x=[1.0, None], y=[None, 1.0])
    assert answer["mean_rank.state"] == ["missing", "missing"]
    imputed = scores_of("mean_rank", {**options, "impute": 0.5}, fitted_on=fitted_on, x=[1.0, None], y=[None, 1.0])
    assert imputed["mean_rank"] == [pytest.approx((0.125 + 0.5) / 2), pytest.approx((0.5 + 0.125) / 2)]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("combined", {"of": []}, "combined.of names no score"),
        ("combined", {"of": ["x"], "weights": [1, 2]}, "combined.weights has 2 numbers for 1 scores"),
        ("combined", {"of": ["x"], "weights": [1], "how": "product"}, "are for how: weighted; it is how: product"),
        ("mean_rank", {"of": []}, "mean_rank.of names no score"),
        ("mean_rank", {"of": ["x"], "weights": [0]}, "are all 0"),
        ("mean_rank", {"of": ["x"], "weights": [1, 2]}, "has 2 numbers for 1 scores"),
        ("mean_rank", {"of": ["x"], "impute": 2}, r"mean_rank.impute is 2.0: write a quantile"),
    ],
)
def test_what_cannot_be_combined_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        plugins.make("raters", name, {**options, **BETTER}, "rate.0", object)


def test_quantiles_of_many_values_are_those_of_ranks() -> None:
    values = np.random.default_rng(3).normal(size=500)
    ranks = values.argsort().argsort()
    quantiles = calibrated({"method": "quantile"}, {"x": values}, x=values)
    assert quantiles == pytest.approx(((ranks + 0.5) / 500).tolist(), rel=2e-6)
