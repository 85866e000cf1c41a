"""Worked cases of selectors that weigh what is good against what is alike: MMR (Q12) and a determinant (Q11)."""

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import tries
from selector.errors import PolicyError
from selector.exact.vectors import vector_column, vectors_of
from selector.select import Budget, Grouped, SignalName
from selector.select.determinantal import Determinantal, greedy
from selector.select.marginal_relevance import MarginalRelevance
from selector.testing import SCORE, documents
from selector.testing._trials import pool_for
from selector.testing.selectors import decide

ALIKE = np.array([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]])
ROWS = st.lists(st.tuples(*[st.integers(-2, 2)] * 4).filter(any), min_size=1, max_size=7)


def with_vectors(rows: Any, scores: Any) -> Any:
    """Documents with these directions and scores; their ids count from 0."""
    rows = np.asarray(rows, float)
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    table = documents([{SCORE: score} for score in scores]).drop_columns("embedding")
    return table.append_column("embedding", vector_column(unit))


def turns(selector: Any, table: Any) -> list[int]:
    """The documents in the order in which it takes them."""
    taken: list[int] = []
    for count in range(1, table.num_rows + 1):
        kept = decide(selector, table, 3, Budget(amount=count, unit="documents"), 0)["kept"].to_numpy()
        taken.extend(place for place in np.flatnonzero(kept).tolist() if place not in taken)
    return taken


def test_q11_the_next_document_adds_most_to_the_volume() -> None:
    order, gains = greedy(lambda place: ALIKE[place].copy(), ALIKE.diagonal().copy(), 0, 3)
    assert order.tolist() == [0, 2, 1]
    np.testing.assert_allclose(gains, [0, -0.010050336, -1.727220948], atol=1e-8)


@pytest.mark.parametrize(("weight", "expected"), [(0.7, [0, 1, 2]), (0.5, [0, 2, 1])])
def test_q12_the_next_document_is_good_and_unlike_those_taken(weight: float, expected: list[int]) -> None:
    table = with_vectors(np.linalg.cholesky(ALIKE), [0.9, 0.85, 0.3])
    assert turns(MarginalRelevance(score=SignalName(SCORE), weight=weight), table) == expected


@tries(30)
@given(ROWS, st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 99))
def test_marginal_relevance_is_what_trying_every_document_gives(rows: Any, weight: float, number: int) -> None:
    scores = np.round(np.random.default_rng(number).uniform(size=len(rows)) * 8) / 8
    table = with_vectors(rows, scores)
    points = vectors_of(table["embedding"]).astype(float)
    cosines = np.rint(points @ points.T * 2**24).astype(np.int64)
    share, left, taken = round(1024 * weight), list(range(len(rows))), list[int]()
    while left:
        worth = {
            i: share * int(scores[i] * 2**24) - (1024 - share) * int(max((cosines[i, j] for j in taken), default=0))
            for i in left
        }
        best = min(left, key=lambda i: (-worth[i], i))
        left.remove(best)
        taken.append(best)
    assert turns(MarginalRelevance(score=SignalName(SCORE), weight=weight), table) == taken


@tries(30)
@given(ROWS, st.booleans(), st.integers(0, 99))
def test_a_volume_is_the_determinant_of_what_is_taken(rows: Any, has_scores: bool, number: int) -> None:
    scores = np.random.default_rng(number).normal(size=len(rows)).astype(np.float32).astype(float)
    table = with_vectors(rows, scores)
    points = vectors_of(table["embedding"]).astype(float)
    points = points * np.exp(scores if has_scores else 0 * scores)[:, None]
    order = turns(Determinantal(score=SignalName(SCORE) if has_scores else None), table)
    for count in range(1, min(4, len(rows)) + 1):
        some = [points[[*order[: count - 1], i]] for i in range(len(rows)) if i not in order[: count - 1]]
        volumes = [np.linalg.det(one @ one.T) for one in some]
        chosen = points[order[:count]]
        before = points[order[: count - 1]]
        scale = max(np.linalg.det(before @ before.T), 0) * np.exp(2 * np.abs(scores).max() * has_scores)
        assert np.linalg.det(chosen @ chosen.T) >= max(volumes) - 1e-5 * scale - 1e-9


def test_what_is_chosen_already_counts_as_taken() -> None:
    table = with_vectors([[1, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 0, 1]], [1.0, 0.9, 0.2, 0.1])
    known, others = table.slice(0, 1), table.slice(1)
    budget = Budget(amount=2, unit="documents")
    for selector in (Determinantal(), MarginalRelevance(score=SignalName(SCORE), weight=0.4)):
        pool = pool_for(selector, others, 2, known)
        decisions = selector.select(pool, budget, 0)
        batches = (decisions.pool or pool).batches(*decisions.columns)
        kept = [value for batch in batches for value in decisions.decide(batch)["kept"].to_pylist()]
        assert kept == [False, True, True], "the first of these repeats what is chosen"


@pytest.mark.parametrize("quota", ["proportional", "equal"])
def test_they_stop_where_the_budget_does_and_take_what_they_would(quota: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    table = with_vectors(rng.normal(size=(40, 5)), rng.uniform(size=40))
    clusters = table.schema.get_field_index("cluster")
    table = table.set_column(
        clusters, table.schema.field(clusters), pa.array([i % 7 % 3 for i in range(40)], pa.int32())
    )
    for selector in (Determinantal(quota=quota), MarginalRelevance(score=SignalName(SCORE), quota=quota)):
        for amount in (0, 1, 9, 40):
            budget = Budget(amount=amount, unit="documents")
            stopped = decide(selector, table, 9, budget, 0)
            with monkeypatch.context() as patch:
                patch.setattr(Grouped, "_most_taken", lambda *_: {})
                ordered = decide(selector, table, 40, budget, 0)
            assert stopped["kept"].equals(ordered["kept"]) and sum(stopped["kept"].to_pylist()) == amount


def test_weights_that_are_none_are_refused() -> None:
    for make, weight in itertools.product((Determinantal, MarginalRelevance), (-0.5, 101.0)):
        with pytest.raises(PolicyError, match="weight="):
            make(score=SignalName(SCORE), weight=weight)
