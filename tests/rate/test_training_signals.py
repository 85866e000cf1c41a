"""What training reported, as scores: the worked cases, and states where there is nothing to say."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import tries
from selector import plugins, tables
from selector.errors import PolicyError
from selector.rate import Rater
from selector.rate._answer import ratings_table, shown_to
from selector.rate.pass_rate import of_rollouts
from selector.testing._trials import made_for


def ids(numbers: list[int]) -> pa.Array:
    return pa.array([i.to_bytes(16) for i in numbers], tables.DOC_ID)


def rated(name: str, options: dict[str, Any], documents: list[int], **attached: pa.Table) -> dict[str, list[Any]]:
    """Every score and every state of documents that are called by numbers."""
    rater = plugins.make("raters", name, options | dict.fromkeys(attached, "a.parquet"), "rate.0", Rater)
    given = {option: getattr(rater, option).attached(table) for option, table in attached.items()}
    rater = plugins.replaced(rater, given)
    rater.prepare()
    (batch,) = made_for(rater, pa.table({"doc_id": ids(documents)})).combine_chunks().to_batches()
    return ratings_table(rater, "it", batch).drop_columns("doc_id").to_pydict()


def feedback(*curves: Sequence[float | None], first_round: int = 0) -> pa.Table:
    """A row for each round of each document, in the order of the rounds."""
    rows = [(i, first_round + r, v) for i, curve in enumerate(curves) for r, v in enumerate(curve)]
    documents, rounds, values = (list(column) for column in zip(*rows, strict=True))
    return pa.table({"doc_id": ids(documents), "round": rounds, "score": pa.array(values, pa.float64())})


R6 = [0.2, 0.6, 0.9, 0.7]
RIGHT, RIGHT2 = [0.0, 1, 1, 0], [0.0, 1, 0, 1, 1]


def test_r6_confidence_variability_and_correctness() -> None:
    scores = rated("cartography", {"score_is": "probability"}, [0], feedback=feedback(R6))
    assert scores["it_confidence"] == [pytest.approx(0.6, abs=1e-6)]
    assert scores["it_variability"] == [pytest.approx(0.254950976, abs=1e-6)]
    right = rated("cartography", {"score_is": "right"}, [0], feedback=feedback(RIGHT))
    assert right["it_correctness"] == [2]


def test_r6_forgetting_and_the_learned_epoch() -> None:
    table = feedback(RIGHT, RIGHT2, [0.0, 0, 0], [1.0, 1, 1])
    forgetting = rated("forgetting", {"score_is": "right"}, [0, 1, 2, 3], feedback=table)
    assert forgetting["it"] == [1, 1, None, 0]
    assert forgetting["it.state"] == ["ok", "ok", "not_applicable", "ok"]
    assert forgetting["it_history"] == ["forgotten", "forgotten", "never_learned", "unforgettable"]
    learned = rated("learned_epoch", {"score_is": "right"}, [0, 1, 2, 3], feedback=table)
    assert learned["it"] == [None, 3, None, 0]


def test_a_loss_is_minus_the_logarithm_of_a_probability() -> None:
    losses = feedback(list(-np.log(R6)))
    for name in ("cartography", "forgetting", "learned_epoch", "early_learning", "training_loss"):
        of_losses = rated(name, {}, [0], feedback=losses)
        of_probabilities = rated(name, {"score_is": "probability"}, [0], feedback=feedback(R6))
        assert {key: pytest.approx(value, abs=1e-5) for key, value in of_losses.items()} == of_probabilities


def test_the_loss_of_the_last_the_first_or_of_all_rounds() -> None:
    table = feedback([3.0, 2.5, None, 1.0], [2.0])
    over = {over: rated("training_loss", {"over": over}, [1, 0], feedback=table)["it"] for over in OVER}
    assert over == {"last": [2.0, 1.0], "first": [2.0, 3.0], "mean": pytest.approx([2.0, 13 / 6], abs=1e-5)}


OVER = ("last", "first", "mean")


def test_the_first_rounds_say_how_wrong_a_document_is_and_how_fast_it_is_learned() -> None:
    table = feedback([0.25, 0.5, 1.0, 0.0], [0.5])
    scores = rated("early_learning", {"score_is": "probability", "rounds": 2}, [0, 1], feedback=table)
    assert scores["it_error"] == [pytest.approx(0.625), 0.5]
    assert scores["it_drop"] == [pytest.approx(np.log(2), abs=1e-6), None]
    assert scores["it_drop.state"] == ["ok", "not_applicable"]


@tries(20)
@given(st.permutations(range(12)))
def test_the_order_of_the_reports_does_not_matter_and_a_round_counts_once(order: list[int]) -> None:
    reports = [(0, 1, 2.0), (0, 1, 4.0), (0, 2, 1.0), (1, 5, 0.3), (1, 7, 0.1), (2, 1, None)]
    rows = [(reports * 2)[i] for i in order]
    documents, rounds, values = (list(column) for column in zip(*rows, strict=True))
    table = pa.table({"doc_id": ids(documents), "round": rounds, "score": pa.array(values, pa.float64())})
    loss = rated("training_loss", {"over": "first"}, [0, 1, 2, 3], feedback=table)
    assert loss["it"] == [3.0, pytest.approx(0.3), None, None] and loss["it.state"][2:] == ["missing"] * 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, 1.5])
@pytest.mark.parametrize("name", ["cartography", "forgetting", "learned_epoch", "early_learning"])
def test_what_cannot_be_a_report_has_failed_and_harms_no_other_document(name: str, value: float) -> None:
    table = feedback([0.5, value, 0.6], [0.5, 0.6, 0.7])
    scores = rated(name, {"score_is": "probability"}, [0, 1], feedback=table)
    states = [values for key, values in scores.items() if key.endswith(".state")]
    assert all(state == ["failed", "ok"] for state in states)


@pytest.mark.parametrize("name", ["cartography", "forgetting", "learned_epoch", "early_learning", "training_loss"])
def test_a_loss_that_is_not_finite_has_failed(name: str) -> None:
    table = feedback([0.5, float("nan")], [0.5, float("inf")], [1e9, -float("inf")], [0.1, 0.2])
    scores = rated(name, {}, [0, 1, 2, 3], feedback=table)
    states = [values for key, values in scores.items() if key.endswith(".state")]
    assert all(state == ["failed", "failed", "failed", "ok"] for state in states)
    of_negative = rated(name, {}, [0], feedback=feedback([-0.5, -0.7])).popitem()[1]
    assert of_negative == ["ok" if name == "training_loss" else "failed"], "no probability is above 1"


@pytest.mark.parametrize("name", ["cartography", "forgetting", "learned_epoch", "early_learning", "training_loss"])
def test_before_training_has_reported_anything_all_is_missing(name: str) -> None:
    with pytest.raises(PolicyError, match="feedback: name the table that training writes"):
        plugins.make("raters", name, {"feedback": None}, "rate.0", Rater)
    nothing = feedback([None])
    scores = rated(name, {}, [0, 1], feedback=nothing)
    assert {state for key, values in scores.items() if key.endswith(".state") for state in values} == {"missing"}


# ---------------------------------------------------------------- G2, R5: teacher and student, rollouts


def test_g2_what_the_student_has_not_learned_of_its_teacher() -> None:
    rater = plugins.make("raters", "fitting_difficulty", {"teacher": "t", "student": "s"}, "rate.0", Rater)
    scores = {"t": pa.array([9, 9, 8, 7, 1, None], pa.float32()), "s": pa.array([6, 9, 4, 8, None, 1], pa.float32())}
    answer = ratings_table(rater, "it", pa.record_batch({"doc_id": ids(list(range(6))), **scores})).to_pydict()
    assert answer["it"] == [3, 0, 4, -1, None, None]
    assert answer["it.state"] == ["ok"] * 4 + ["missing"] * 2


def test_r5_the_pass_rate_of_rollouts_and_what_it_is_worth() -> None:
    table = pa.table({"doc_id": ids([0, 1, 0, 2, 4]), "n": [5, 0, 3, 2, 1], "successes": [2, 0, 0, 3, -1]})
    scores = rated("pass_rate", {}, [0, 1, 2, 3, 4], rollouts=table)
    assert scores["it"][:2] == [pytest.approx(0.277777778, abs=1e-6), 0.5]
    assert scores["it_deviation"][0] == pytest.approx(0.141639431, abs=1e-6)
    assert scores["it_informative"][0] == pytest.approx(0.843778668, abs=2e-6)
    assert scores["it_learnability"][0] == pytest.approx(0.180555556, abs=1e-6)
    assert scores["it.state"] == ["ok", "ok", "failed", "missing", "failed"]


@pytest.mark.parametrize(("successes", "failures", "group"), [(0, 0, 2), (3, 17, 8), (20, 1, 16), (0, 9, 3)])
def test_the_posterior_of_rollouts_is_that_of_quadrature(successes: int, failures: int, group: int) -> None:
    points, weights = np.polynomial.legendre.leggauss(200)
    p = (points + 1) / 2
    density = p ** (successes + 1) * (1 - p) ** (failures + 1)  # a = b = 2: smooth at both ends
    density = density / (density @ weights)
    n = np.array([successes + failures], np.float64)
    posterior = of_rollouts(n, np.array([successes], np.float64), 2, 2, group)
    mean = density @ (weights * p)
    deviation = np.sqrt(density @ (weights * (p - mean) ** 2))
    informative = density @ (weights * (1 - p**group - (1 - p) ** group))
    expected = (mean, deviation, informative, density @ (weights * p * (1 - p)))
    np.testing.assert_allclose(np.ravel(posterior), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior_successes": 0.0}, "are finite and above 0"),
        ({"prior_failures": float("inf")}, "are finite and above 0"),
        ({"group": 1}, "is not from 2 to 4,096"),
    ],
)
def test_a_prior_and_a_group_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        plugins.make("raters", "pass_rate", {"rollouts": "r.jsonl", **options}, "rate.0", Rater)


@pytest.mark.parametrize(("name", "option"), [("cartography", "feedback"), ("pass_rate", "rollouts")])
def test_a_table_with_several_rows_of_a_document_is_joined_to_none(name: str, option: str) -> None:
    rater = plugins.make("raters", name, {option: "a.parquet"}, "rate.0", Rater)
    assert shown_to(rater) == ("doc_id",)
