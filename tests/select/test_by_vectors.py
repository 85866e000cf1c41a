"""Selectors that compare vectors: the worked cases, and every answer beside one found by trying everything."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import tries
from selector.errors import PolicyError, SelectorError
from selector.exact import keyed
from selector.exact.vectors import vector_column
from selector.select import Budget, Grouped, Pool, ScoreName, Selector, TextsPath, _nearest, matching
from selector.select import _alike as machinery
from selector.select.decorrelated import Decorrelated, correlations, greedy
from selector.select.diverse import Diverse
from selector.select.k_center import KCenter
from selector.select.matching import Matching
from selector.select.prune import Prune
from selector.testing import SCORE, documents
from selector.testing._trials import pool_for
from selector.testing.selectors import decide

pytestmark = pytest.mark.slow

QUALITY = ScoreName(SCORE)
Rule = Literal["kept", "transitive"]


def with_vectors(vectors: npt.ArrayLike, **columns: Sequence[Any]) -> pa.Table:
    """Documents with these vectors and columns; their ids count from 0."""
    rows = np.asarray(vectors, np.float16)
    table = documents([{name: values[i] for name, values in columns.items()} for i in range(len(rows))])
    at = table.schema.get_field_index("embedding")
    column = vector_column(rows)
    return table.set_column(at, pa.field("embedding", column.type), column)


def at_angles(*degrees: float, **columns: Sequence[Any]) -> pa.Table:
    radians = np.radians(degrees)
    return with_vectors(np.stack([np.cos(radians), np.sin(radians)], axis=1), **columns)


def unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float16]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


TWELVE = unit(np.random.default_rng(5).normal(size=(12, 6)))


def chosen(
    selector: Selector, table: pa.Table, count: int = 99, seed: int = 0, known: pa.Table | None = None
) -> pa.Table:
    """Its verdicts, for a budget of so many documents."""
    pool, budget = pool_for(selector, table, 3, known), Budget(amount=count, unit="documents")
    decisions = selector.select(pool, budget, seed)
    batches = (decisions.pool or pool).batches(*decisions.columns)
    return pa.Table.from_batches([decisions.decide(batch) for batch in batches])


def kept(
    selector: Selector, table: pa.Table, count: int = 99, seed: int = 0, known: pa.Table | None = None
) -> list[int]:
    return np.flatnonzero(chosen(selector, table, count, seed, known)["kept"].to_numpy()).tolist()


def turns(selector: Selector, table: pa.Table, seed: int = 0, known: pa.Table | None = None) -> list[int]:
    """The documents in the order in which it takes them."""
    taken: list[int] = []
    for count in range(1, table.num_rows + 1):
        taken.extend(place for place in kept(selector, table, count, seed, known) if place not in taken)
    return taken


# ---------------------------------------------------------------- I3, K1: what is too alike


def test_i3_diverse_keeps_what_is_not_too_like_a_better_one() -> None:
    cosines = np.array(
        [[1, 0.95, 0.8, 0], [0.95, 1, 0.94734994, 0.3122499], [0.8, 0.94734994, 1, 0.6], [0, 0.3122499, 0.6, 1]]
    )
    table = with_vectors([[1, 0], [0.95, math.sqrt(1 - 0.95**2)], [0.8, 0.6], [0, 1]], quality=[4.0, 3.0, 2.0, 1.0])
    vectors = np.stack(table["embedding"].to_numpy()).astype(float)
    np.testing.assert_allclose(vectors @ vectors.T, cosines, atol=1e-3)
    decided = chosen(Diverse(score=QUALITY, most=0.9), table)
    assert np.flatnonzero(decided["kept"].to_numpy()).tolist() == [0, 2, 3]
    assert decided["other"].to_pylist() == [None, table["doc_id"][0].as_py(), None, None]


@pytest.mark.parametrize(("rule", "expected"), [("kept", [0, 2, 3]), ("transitive", [0, 3])])
@pytest.mark.parametrize("first", ["farthest", "closest"])
def test_k1_the_two_rules_tell_a_chain_apart(rule: Rule, expected: list[int], first: Any) -> None:
    distance = [0.4, 0.3, 0.2, 0.1] if first == "farthest" else [0.1, 0.2, 0.3, 0.4]
    table = at_angles(0, 15, 30, 90, distance=distance)
    decided = chosen(Prune(most=0.95, rule=rule, first=first), table)
    assert np.flatnonzero(decided["kept"].to_numpy()).tolist() == expected
    ids = table["doc_id"].to_pylist()
    assert decided["other"].to_pylist() == [None, ids[0], ids[1] if rule == "transitive" else None, None]


@pytest.mark.parametrize(
    ("most", "rule", "expected"),
    [
        (0.3, "kept", [0, 2, 4, 10, 11]),
        (0.3, "transitive", [0, 2, 4, 10]),
        (0.5, "kept", [0, 1, 2, 4, 5, 10, 11]),
        (0.5, "transitive", [0, 1, 2, 4, 5, 10, 11]),
    ],
)
def test_twelve_vectors_are_pruned_as_worked_out(most: float, rule: Rule, expected: list[int]) -> None:
    table = with_vectors(TWELVE, quality=[-float(i) for i in range(12)])
    assert kept(Prune(most=most, rule=rule, first="farthest"), table) == expected
    if rule == "kept":
        assert kept(Diverse(score=QUALITY, most=most), table) == expected


@pytest.mark.parametrize(("budget", "expected"), [(752, 752), (376, 376)])
def test_s12_d4_is_a_budget_over_what_is_left(budget: int, expected: int) -> None:
    """floor(.75 x 1003) = 752 are kept by pruning, floor(.5 x 752) = 376 of those farthest from their centroids."""
    different = unit(np.random.default_rng(12).normal(size=(752, 48)))
    table = with_vectors(np.concatenate([different, different[:251]]), distance=(np.arange(1003) % 97 / 97).tolist())
    selector = Prune(most=0.95, first="farthest")
    everything = chosen(selector, table, 1003)["kept"].to_numpy()
    some = chosen(selector, table, budget)["kept"].to_numpy()
    assert everything.sum() == 752 and some.sum() == expected and not (some & ~everything).any()


def naive(cosines: npt.NDArray[np.float64], order: Sequence[int], most: float, rule: Rule) -> list[int]:
    left: list[int] = []
    for turn, i in enumerate(order):
        earlier = order[:turn] if rule == "transitive" else left
        if all(cosines[i, j] <= most for j in earlier):
            left.append(i)
    return sorted(left)


SMALL = st.lists(st.tuples(*[st.integers(-2, 2)] * 3).filter(any), min_size=1, max_size=14)


@tries(60)
@given(SMALL, st.sampled_from([-0.5, 0.0, 0.5, 0.7, 0.9, 1.0]), st.integers(0, 3), st.integers(0, 4))
def test_what_is_too_alike_is_what_comparing_all_pairs_says(
    rows: list[tuple[int, ...]], most: float, rows_at_once: int, num_given: int
) -> None:
    vectors = unit(np.array(rows, float))
    exact = vectors.astype(np.float64)
    cosines, n = exact @ exact.T, len(rows)
    some, others = exact[:num_given], exact[num_given:]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(machinery, "_ROWS", rows_at_once + 1)
        for rule in ("kept", "transitive"):
            found = machinery.alike(others, some, most, is_transitive=rule == "transitive")
            for i in range(len(others)):
                place = num_given + i
                earlier = [
                    *range(min(num_given, n)),
                    *(num_given + j for j in range(i) if rule == "transitive" or not found.is_alike[j]),
                ]
                best = max((cosines[place, j] for j in earlier), default=-math.inf)
                assert found.is_alike[i] == (best > most)
                first = next((j for j in earlier if cosines[place, j] == best), -1)
                assert found.nearest[i] == first
    table = with_vectors(
        vectors, quality=[float(i * 7 % 5) for i in range(n)], distance=[i * 3 % 4 / 4 for i in range(n)]
    )
    by_quality = sorted(range(n), key=lambda i: (-(i * 7 % 5), i))
    assert kept(Diverse(score=QUALITY, most=most), table) == naive(cosines, by_quality, most, "kept")
    by_distance = sorted(range(n), key=lambda i: (-(i * 3 % 4), i))
    for rule in ("kept", "transitive"):
        assert kept(Prune(most=most, rule=rule, first="farthest"), table) == naive(cosines, by_distance, most, rule)
        drawn = np.argsort(keyed.hashes(table["doc_id"], 0, "prune")).tolist()
        assert kept(Prune(most=most, rule=rule), table) == naive(cosines, drawn, most, rule)


def test_what_is_chosen_already_counts_as_kept() -> None:
    table = at_angles(0, 15, 30, 90, quality=[1.0, 2.0, 3.0, 4.0])
    known = at_angles(3).set_column(0, "doc_id", pa.array([b"\xff" * 16], pa.binary(16)))
    for selector in (Diverse(score=QUALITY, most=0.95), Prune(most=0.95, first="farthest")):
        decided = chosen(selector, table, known=known)
        assert decided["kept"].to_pylist() == [False, False, True, True]
        assert decided["other"].to_pylist()[:2] == [b"\xff" * 16] * 2


def test_removing_a_document_that_was_left_out_changes_no_diverse_selection() -> None:
    table = with_vectors(TWELVE, quality=[-float(i) for i in range(12)])
    selector = Diverse(score=QUALITY, most=0.3)
    left = [0, 2, 4, 10, 11]
    for gone in (1, 3, 5, 6, 7, 8, 9):
        rest = [i for i in range(12) if i != gone]
        assert [rest[i] for i in kept(selector, table.take(rest))] == left


# ---------------------------------------------------------------- M2: k-center


def seed_that_begins_with(first: int, table: pa.Table) -> int:
    """A seed by which k-center draws this document."""
    return next(seed for seed in itertools.count() if keyed.hashes(table["doc_id"], seed, "k_center").argmin() == first)


def test_m2_k_center_from_the_first_document() -> None:
    table = with_vectors([[0, 0], [1, 0], [2, 0], [10, 0], [11, 0]])
    decided = chosen(KCenter(), table, 3, seed_that_begins_with(0, table))
    assert np.flatnonzero(decided["kept"].to_numpy()).tolist() == [0, 2, 4]
    assert turns(KCenter(), table, seed_that_begins_with(0, table))[:3] == [0, 4, 2]
    assert decided["cut"].to_pylist() == [1.0] * 5, "the radius"
    assert decided["value"].to_pylist() == [None, 1.0, 2.0, 1.0, 11.0]


def test_twelve_vectors_are_covered_as_worked_out() -> None:
    table = with_vectors(TWELVE)
    assert turns(KCenter(), table, seed_that_begins_with(0, table))[:5] == [0, 4, 11, 10, 5]
    assert turns(KCenter(), table.slice(1), known=table.slice(0, 1))[:4] == [3, 10, 9, 4]


@pytest.mark.parametrize("quota", ["proportional", "equal"])
def test_k_center_stops_where_the_budget_does_and_takes_what_it_would(
    quota: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(3).normal(size=(60, 6))
    table = with_vectors(unit(rows), cluster=[i % 7 % 3 for i in range(60)])
    selector = KCenter(quota=quota)
    whole = decide(selector, table, 60, Budget(amount=60, unit="documents"), 1)
    assert all(whole["kept"].to_pylist())
    for amount in (0, 1, 7, 31, 59):
        budget = Budget(amount=amount, unit="documents")
        stopped = decide(selector, table, 17, budget, 1)
        with monkeypatch.context() as patch:
            patch.setattr(Grouped, "_most_taken", lambda *_: {})
            ordered = decide(selector, table, 60, budget, 1)
        assert stopped["kept"].equals(ordered["kept"]) and sum(stopped["kept"].to_pylist()) == amount
        kept = np.array(stopped["kept"].to_pylist())
        values, cuts = (stopped[name].to_numpy(zero_copy_only=False) for name in ("value", "cut"))
        assert (np.nan_to_num(values[~kept], nan=np.inf) <= np.nan_to_num(cuts[~kept], nan=np.inf)).all()


def test_the_central_start_is_the_document_nearest_to_the_mean() -> None:
    table = with_vectors([[0, 0], [1, 0], [2, 0], [3, 0], [11, 0]])
    assert kept(KCenter(start="central"), table, 1) == [3]


@tries(40)
@given(SMALL, st.integers(0, 3))
def test_k_center_takes_the_farthest_and_is_within_twice_the_best_radius(
    rows: list[tuple[int, ...]], seed: int
) -> None:
    vectors = unit(np.array(rows, float)).astype(np.float64)
    table, n = with_vectors(vectors), len(rows)
    squares = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2)
    order = turns(KCenter(), table, seed)
    expected = [int(keyed.hashes(table["doc_id"], seed, "k_center").argmin())]
    while len(expected) < n:
        near = squares[:, expected].min(axis=1)
        near[expected] = -1
        expected.append(int(near.argmax()))
    assert order == expected
    for k in range(1, min(n, 4)):
        radius = squares[:, order[:k]].min(axis=1).max() ** 0.5
        best = min(squares[:, list(some)].min(axis=1).max() ** 0.5 for some in itertools.combinations(range(n), k))
        assert radius <= 2 * best + 1e-9


# ---------------------------------------------------------------- what they can hold


@pytest.mark.parametrize("selector", [Diverse(score=QUALITY), Prune(), KCenter()])
def test_a_group_too_large_is_refused_before_any_work(selector: Selector, monkeypatch: pytest.MonkeyPatch) -> None:
    table = with_vectors([[1, 0]] * 7, cluster=[4, 4, 4, 4, None, 5, 5])
    monkeypatch.setattr(type(selector), "largest_group", 3)
    with pytest.raises(
        SelectorError, match=r"at once, 3 at most, and cluster 4 has 4\. Write a larger cluster\.num_cl"
    ):
        selector.select(Pool.of(table, 2), Budget(amount=2, unit="documents"), 0)
    monkeypatch.setattr(type(selector), "largest_group", 4)
    assert selector.select(Pool.of(table, 2), Budget(amount=2, unit="documents"), 0)


@pytest.mark.parametrize("selector", [Diverse(score=QUALITY, most=1.0), Prune(most=1.0, first="closest"), KCenter()])
def test_documents_that_are_all_alike_are_taken_in_the_order_of_their_ids(selector: Selector) -> None:
    table = with_vectors([[1, 0]] * 6, distance=[0.0] * 6)
    first = turns(selector, table, 3)
    rest = [place for place in first if place != first[0]]
    assert rest == sorted(rest) and len(first) == 6
    decided = decide(selector, table, 2, Budget(amount=2, unit="documents"), 3)
    known = decided["kept"].cast(pa.float32()).to_pylist()
    is_drawn = isinstance(selector, KCenter)  # its start is, and no formula says how probable each document is then
    assert decided["inclusion_probability"].to_pylist() == ([None] * 6 if is_drawn else known)
    for by_chance in (Prune(), Decorrelated(batch=6, picks=3)):
        some = decide(by_chance, table, 2, Budget(amount=2, unit="documents"), 3)
        assert some["inclusion_probability"].null_count == 6


# ---------------------------------------------------------------- N6, S13: like examples


def examples(*vectors: npt.ArrayLike) -> TextsPath:
    """A file of texts with these vectors."""
    column = vector_column(np.asarray(vectors, np.float16))
    table = pa.table({"text": [f"example {i}" for i in range(len(vectors))], "embedding": column})
    path = TextsPath("examples.jsonl").attached(table)
    assert isinstance(path, TextsPath)
    return path


def by_similarities(*of_queries: Sequence[float]) -> tuple[pa.Table, list[TextsPath]]:
    """Documents with these cosines to as many queries, each of which is its own axis."""
    queries = np.eye(len(of_queries))
    return with_vectors(np.array(of_queries).T), [examples(query) for query in queries]


def test_n6_a_document_that_was_given_already_costs_the_query_its_turn() -> None:
    table, (a, b) = by_similarities([0.7, 0.6, 0.9, 0.1], [0.5, 0.1, 0.9, 0.8])
    both = examples(*(query.table["embedding"][0].as_py() for query in (a, b)))
    for selector in (Matching(queries=(both,)), Matching(queries=(a, b))):
        assert turns(selector, table)[:3] == [2, 0, 3]


def test_s13_queries_take_turns_and_then_tasks_do() -> None:
    table, (first, second, third) = by_similarities([0.9, 0.2, 0.8, 0.1], [0.3, 0.7, 0.6, 0.5], [0.1, 0.95, 0.2, 0.9])
    one = examples(*(query.table["embedding"][0].as_py() for query in (first, second)))
    assert turns(Matching(queries=(one,)), table) == [0, 1, 2, 3]
    assert turns(Matching(queries=(third,)), table) == [1, 3, 2, 0]
    assert turns(Matching(queries=(one, third)), table)[:3] == [0, 1, 3]
    assert kept(Matching(queries=(one, third)), table, 3) == [0, 1, 3]


def in_turn(lists: Sequence[Sequence[int]]) -> list[int]:
    """What lists give in turn, a repeated one costing the turn, as it would be written by hand."""
    given: list[int] = []
    for row in itertools.zip_longest(*lists):
        given.extend(place for place in dict.fromkeys(row) if place is not None and place not in given)
    return given


@tries(50)
@given(
    st.lists(st.tuples(*[st.integers(-2, 2)] * 3).filter(any), min_size=1, max_size=40),
    st.lists(
        st.lists(st.tuples(*[st.integers(-2, 2)] * 3).filter(any), min_size=1, max_size=3), min_size=1, max_size=3
    ),
    st.integers(0, 40),
    st.integers(1, 5),
)
def test_matching_is_what_the_lists_of_all_queries_give(
    rows: list[tuple[int, ...]], tasks: list[list[tuple[int, ...]]], count: int, shard: int
) -> None:
    vectors, table = unit(np.array(rows, float)).astype(float), with_vectors(unit(np.array(rows, float)))
    given: list[list[int]] = []
    for task in tasks:
        cosines = vectors @ unit(np.array(task, float)).astype(float).T
        given.append(in_turn([np.argsort(-cosines[:, q], kind="stable").tolist() for q in range(len(task))]))
    expected = in_turn(given)
    selector = Matching(queries=tuple(examples(*unit(np.array(task, float))) for task in tasks))
    for depth in (1, 16):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(matching, "_SHALLOWEST", depth)
            patched.setattr(_nearest, "_ROWS", 1)
            decided = decide(selector, table, shard, Budget(amount=count, unit="documents"), 0)
            assert np.flatnonzero(decided["kept"].to_numpy()).tolist() == sorted(expected[:count])


def test_what_cannot_be_matched_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    table, queries = with_vectors(TWELVE[:, :2]), examples([1, 0], [0, 1])
    monkeypatch.setattr(matching, "_MOST_LISTED", 20)
    monkeypatch.setattr(matching, "_SHALLOWEST", 1)
    with pytest.raises(SelectorError, match=r"lists of 12 documents for each of 2 queries, and 20 .* a smaller budget"):
        kept(Matching(queries=(queries,)), table, 12)
    assert kept(Matching(queries=(queries,)), table, 3)
    with pytest.raises(PolicyError, match=r"matching\.queries names no file"):
        Matching(queries=())
    empty = TextsPath("none.jsonl").attached(queries.table.slice(0, 0))
    with pytest.raises(SelectorError, match=r"matching\.queries: 'none\.jsonl' has no texts"):
        kept(Matching(queries=(empty,)), table, 3)


# ---------------------------------------------------------------- S3, P2: correlations

S3 = [[0.0, 0, 0], [1, 2, -1], [2, 0, 1], [0, 3, 2], [3, 1, -2], [1, -1, 0]]


def test_s3_the_next_document_is_the_one_that_correlates_least() -> None:
    rows = np.array(S3)
    assert greedy(rows, 4) == [0, 2, 1, 3]
    np.testing.assert_allclose(correlations(rows, [0])[1:], [6, 2, 2, 6, 2], atol=1e-6)
    np.testing.assert_allclose(correlations(rows, [0, 2])[[1, 3, 4, 5]], [2, 2, 3.428571, 2], atol=1e-6)
    np.testing.assert_allclose(correlations(rows, [0, 2, 1])[3:], [0.499663, 1.265455, 1.342105], atol=1e-6)
    best = min(
        itertools.combinations(range(6), 4), key=lambda some: correlations(rows, list(some[:3]))[some[3]].round(6)
    )
    assert best == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("points", "expected"), [([[0, 0], [1, 1], [2, 2]], 2.0), ([[0, 0], [1, 0], [0, 1], [1, 1]], 0.0)]
)
def test_p2_the_objective_is_the_sum_of_squared_correlations(points: list[list[float]], expected: float) -> None:
    rows = np.array(points, float)
    value = correlations(rows, list(range(len(rows) - 1)))[-1]
    assert abs(value - expected) < 1e-6


@tries(50)
@given(st.lists(st.tuples(*[st.integers(-3, 3)] * 4), min_size=2, max_size=7), st.integers(1, 6))
def test_correlations_are_those_of_the_matrix(rows: list[tuple[int, ...]], count: int) -> None:
    values = np.array(rows, float)
    taken = list(range(min(count, len(rows) - 1)))
    for place, value in enumerate(correlations(values, taken)):
        some = values[[*taken, place]]
        standard = (some - some.mean(axis=0)) / np.sqrt(1e-8 + some.var(axis=0, ddof=1))
        matrix = standard.T @ standard / (len(some) - 1)
        np.testing.assert_allclose(value, (matrix**2).sum() - (np.diag(matrix) ** 2).sum(), atol=1e-9)


def test_batches_are_drawn_by_ids_and_each_gives_its_picks() -> None:
    table = with_vectors(unit(np.random.default_rng(3).normal(size=(400, 5))))
    selector = Decorrelated(batch=50, picks=4)
    decided = chosen(selector, table, 400)
    assert decided["kept"].to_numpy().sum() == 8 * 4
    reasons = sorted(set(decide(selector, table, 9, Budget(amount=20, unit="documents"), 0)["reason"].to_pylist()))
    assert reasons[:3] == [
        "batch 0: among its 4 least correlated",
        "batch 0: among its 4 least correlated, beyond the budget",
        "batch 0: not among its 4 least correlated",
    ]
    ids = [keyed.digest(b"%d" % i) for i in range(400)]
    renamed = chosen(selector, table.set_column(0, "doc_id", pa.array(ids, pa.binary(16))), 400)
    assert not renamed["kept"].equals(decided["kept"])


def test_a_batch_is_worked_out_from_the_first_of_its_hashes() -> None:
    table = with_vectors(unit(np.random.default_rng(3).normal(size=(30, 5))))
    order = np.argsort(keyed.hashes(table["doc_id"], 0, "decorrelated"))
    vectors = np.stack(table["embedding"].to_numpy()).astype(float)[order]
    selector = Decorrelated(batch=30, picks=6)
    assert turns(selector, table)[:6] == order[greedy(vectors, 6)].tolist()


def test_a_batch_that_cannot_be_worked_out_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"picks=20 of decorrelated\.batch=10 cannot be worked out"):
        Decorrelated(batch=10, picks=20)
