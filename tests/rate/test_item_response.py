"""Item response theory: the worked cases, and parameters that come back from simulated answers."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import write_jsonl
from selector import plugins, tables
from selector.errors import PolicyError
from selector.exact import Floats
from selector.plugins import Pool, attached
from selector.plugins.options import options_of
from selector.rate import Fit, TablePath
from selector.rate._answer import ratings_table
from selector.rate._fitted import learned, rater_of
from selector.rate.item_response import Answers, Items, Model, fitted
from selector.testing._trials import made_for

R4 = [[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 0, 1]]


def answers(matrix: Any) -> pa.Table:
    """A row for each answer of a matrix (learners, documents); NaN: not tried."""
    matrix = np.asarray(matrix, np.float64)
    rows = [(i, j, bool(matrix[i, j])) for i, j in np.argwhere(~np.isnan(matrix)).tolist()]
    return pa.table(
        {
            "doc_id": pa.array([j.to_bytes(16) for _, j, _ in rows], tables.DOC_ID),
            "learner": [f"learner {i:04}" for i, _, _ in rows],
            "correct": [right for _, _, right in rows],
        }
    )


def rated(matrix: Any, num_documents: int, **options: Any) -> dict[str, list[Any]]:
    """The scores and states of documents, after a fit to the answers of a matrix."""
    fit = plugins.make("raters", "item_response", {"responses": "r.parquet", **options}, "rate.0", Fit)
    fit = plugins.replaced(fit, {"responses": getattr(fit, "responses").attached(answers(matrix))})  # noqa: B009
    documents = pa.table({"doc_id": pa.array([i.to_bytes(16) for i in range(num_documents)], tables.DOC_ID)})
    rater = rater_of("it", fit, learned("it", fit, Pool.of(documents), 7))
    (batch,) = made_for(fit, documents).combine_chunks().to_batches()
    return ratings_table(rater, "it", batch, fit).drop_columns("doc_id").to_pydict()


def test_r4_difficulties_and_abilities_are_those_of_the_worked_case() -> None:
    items, abilities = fitted(Answers.of(answers(R4)), "rasch")
    np.testing.assert_allclose(items.difficulty, [-1.309891, 0, 1.309891], atol=1e-5)
    assert abilities.log_likelihood == pytest.approx(-14.447862, abs=1e-5)
    means = [0.323985, -0.323985, 0.982512, -0.323985, -0.323985, -0.982512, 0.323985, 0.323985]
    np.testing.assert_allclose(abilities.means, means, atol=1e-5)
    deviations = [0.806051, 0.806051, 0.819105, 0.806051, 0.806051, 0.819105, 0.806051, 0.806051]
    np.testing.assert_allclose(abilities.deviations, deviations, atol=1e-5)
    assert rated(R4, 4)["it"] == [
        pytest.approx(-1.309891, abs=1e-5),
        pytest.approx(0, abs=1e-6),
        *rated(R4, 4)["it"][2:],
    ]


def test_r4b_the_information_of_an_answer() -> None:
    items = Items(difficulty=np.array([0.5]), discrimination=np.array([1.5]))
    np.testing.assert_allclose(items.chances(np.array([-1, 0.5, 2]))[0], [0.095349465, 0.5, 0.904650535], atol=1e-9)
    information = [items.information(ability)[0] for ability in (-1, 0.5, 2)]
    np.testing.assert_allclose(information, [0.194080375, 0.5625, 0.194080375], atol=1e-9)


@pytest.mark.parametrize("model", ["rasch", "2pl"])
def test_r4c_an_item_that_all_or_none_got_right_has_a_state(model: str) -> None:
    matrix = [[1, 0, 0, np.nan], [1, 1, 0, np.nan], [1, 0, 0, np.nan]]
    scores = rated(matrix, 4, model=model)
    assert scores["it.state"] == ["not_applicable", "ok", "not_applicable", "missing"]
    assert scores["it"][0] is None and scores["it"][1] > 0
    nothing = rated([[1.0], [1.0]], 1, model=model)
    assert nothing["it_information.state"] == ["not_applicable"]


def simulated(num_learners: int, num_items: int, model: Model, seed: int) -> tuple[Any, Floats, Floats]:
    """Answers with a fifth left out, and the difficulties and discriminations that they come from."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=num_items)
    slope = np.exp(0.4 * rng.normal(size=num_items)) if model == "2pl" else np.ones(num_items)
    ability = rng.normal(size=(num_learners, 1))
    matrix = (rng.uniform(size=(num_learners, num_items)) < 1 / (1 + np.exp(-slope * (ability - difficulty)))) * 1.0
    matrix[rng.uniform(size=matrix.shape) < 0.2] = np.nan
    return matrix, difficulty, slope


@pytest.mark.parametrize(("model", "most"), [("rasch", 0.15), ("2pl", 0.3)])
def test_parameters_come_back_from_simulated_answers(model: Model, most: float) -> None:
    matrix, difficulty, slope = simulated(500, 40, model, 3)
    items, _ = fitted(Answers.of(answers(matrix)), model)
    assert spearman(items.difficulty, difficulty) > 0.97
    error = items.difficulty - difficulty
    assert np.sqrt(np.mean(error**2)) < most and abs(error.mean()) < 0.1
    if model == "2pl":
        assert spearman(items.discrimination, slope) > 0.8
        assert np.sqrt(np.mean(np.log(items.discrimination / slope) ** 2)) < 0.25


def test_rows_in_another_order_and_answers_twice_change_what_they_should() -> None:
    matrix, _, _ = simulated(30, 6, "rasch", 5)
    table = answers(matrix)
    once, _ = fitted(Answers.of(table), "2pl")
    shuffled = table.take(np.random.default_rng(0).permutation(table.num_rows))
    again, _ = fitted(Answers.of(shuffled), "2pl")
    assert (once.difficulty == again.difficulty).all() and (once.discrimination == again.discrimination).all()


def test_information_is_that_for_a_learner_who_is_named() -> None:
    of_best = rated(R4, 3, learner="learner 0002")["it_information"]
    assert of_best == rated(R4, 3, ability=0.982512)["it_information"]
    assert rated(R4, 3)["it_discrimination"] == [1, 1, 1]
    with pytest.raises(PolicyError, match=r"no row of the table is of 'learner 2'\. Did you mean 'learner 000"):
        rated(R4, 3, learner="learner 2")


def spearman(a: Floats, b: Floats) -> float:
    ranks = np.array([pl.Series(values).rank("average").to_numpy() for values in (a, b)])
    return float(np.corrcoef(ranks)[0, 1])


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "parquet with a dictionary"])
@pytest.mark.parametrize("right", [0.1, 7, -1, 0.5, 2**60, "yes"])
def test_what_is_neither_true_nor_false_is_refused(right: Any, kind: str, tmp_path: Path) -> None:
    """Arrow would take any number but 0 for true, so an answer that is half right for a right one."""
    rows = [{"doc_id": "00" * 16, "learner": "a", "correct": one} for one in (None, right)]
    file = tmp_path / f"answers.{kind.partition(' ')[0]}"
    if kind == "jsonl":
        write_jsonl(file, rows)
    else:
        table = pa.Table.from_pylist(rows)
        by_code = table.set_column(2, "correct", table["correct"].combine_chunks().dictionary_encode())
        pq.write_table(by_code if "dictionary" in kind else table, file)
    fit = plugins.make("raters", "item_response", {"responses": str(file)}, "rate.0", Fit)
    message = rf"a column 'correct' that is not bool: .*{re.escape(str(right))}.*\. Write true or false, or 1 or 0\.$"
    with pytest.raises(PolicyError, match=message):
        attached.checksums(fit, "rate.0")


@pytest.mark.parametrize("right", [True, 1, 1.0])
def test_one_and_nought_are_true_and_false(right: Any, tmp_path: Path) -> None:
    wrong = type(right)(0)
    rows = [{"doc_id": "00" * 16, "learner": "a", "correct": one} for one in (right, None, wrong)]
    file = write_jsonl(tmp_path / "answers.jsonl", rows)
    fit = plugins.make("raters", "item_response", {"responses": str(file)}, "rate.0", Fit)
    (option,) = options_of(fit, TablePath)
    assert attached.load(option, "rate.0")["correct"].to_pylist() == [True, None, False]
