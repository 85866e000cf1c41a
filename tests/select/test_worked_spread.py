"""Selectors that spread a budget: over what is covered, over a tree, over queries, over forms. Worked cases, and every
answer beside one found by trying everything."""

import functools
import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selector import tables
from selector.errors import PolicyError, SelectorError
from selector.exact import keyed
from selector.exact.vectors import most_alike, vector_column
from selector.select import (
    Budget,
    ManifestPath,
    Pool,
    ScoreName,
    Selector,
    SignalName,
    TablePath,
    TextsPath,
    negatives,
    parallel,
)
from selector.select.facility_location import FacilityLocation, greedy
from selector.select.hierarchical import Hierarchical, grouped, level_cut
from selector.select.negatives import Negatives
from selector.select.parallel import Parallel
from selector.steps import neighbours as step
from selector.testing import EXACT, SCORE, check_selector, documents
from selector.testing._trials import pool_for
from selector.testing.selectors import decide

pytestmark = pytest.mark.slow

QUALITY = ScoreName(SCORE)
SMALL = st.lists(st.tuples(*[st.integers(-2, 2)] * 3).filter(any), min_size=1, max_size=14)


def unit(rows: npt.ArrayLike) -> npt.NDArray[np.float16]:
    values = np.asarray(rows, float)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


TWELVE = unit(np.random.default_rng(5).normal(size=(12, 6)))


def with_vectors(vectors: npt.ArrayLike, count: int = 99, **columns: Sequence[Any]) -> pa.Table:
    """Documents with these vectors and columns, and of each cluster so many neighbours; their ids count from 0."""
    rows = np.asarray(vectors, np.float16)
    table = documents([{name: values[i] for name, values in columns.items()} for i in range(len(rows))])
    column = vector_column(rows)
    bare = table.drop_columns(["embedding", *STORED.names]).append_column("embedding", column)
    ask = functools.partial(_neighbours, count)
    return (
        Pool.of(bare)
        .exchange("cluster", ask, "doc_id", "embedding", returns=STORED)
        .table(*bare.schema.names, *STORED.names)
    )


STORED = pa.schema([tables.NEIGHBOURS.field(name) for name in ("neighbours", "neighbour_cosines")])


def _neighbours(count: int, group: pa.RecordBatch) -> pa.RecordBatch:
    return step.nearest_of_cluster(count, group).select(STORED.names)


def chosen(selector: Selector, table: pa.Table, count: int, seed: int = 0, known: pa.Table | None = None) -> pa.Table:
    """Its verdicts, for a budget of so many documents."""
    pool, budget = pool_for(selector, table, 3, known), Budget(amount=count, unit="documents")
    decisions = selector.select(pool, budget, seed)
    batches = (decisions.pool or pool).batches(*decisions.columns)
    return pa.Table.from_batches([decisions.decide(batch) for batch in batches])


def kept(selector: Selector, table: pa.Table, count: int, seed: int = 0, known: pa.Table | None = None) -> list[int]:
    return np.flatnonzero(chosen(selector, table, count, seed, known)["kept"].to_numpy()).tolist()


def turns(selector: Selector, table: pa.Table, known: pa.Table | None = None) -> list[int]:
    """The documents in the order in which it takes them."""
    taken: list[int] = []
    for count in range(1, table.num_rows + 1):
        taken.extend(place for place in kept(selector, table, count, known=known) if place not in taken)
    return taken


# ---------------------------------------------------------------- M1: facility location


def of_matrix(similar: npt.NDArray[np.int64]) -> tuple[Any, Any, Any, Any]:
    n = len(similar)
    covers = np.tile(np.arange(n), n)
    return np.zeros(n, np.int64), np.arange(n + 1) * n, covers, similar.reshape(-1)


def test_m1_what_covers_most_is_taken_first() -> None:
    points = np.array([0, 1, 2, 10, 11])
    apart = np.abs(points[:, None] - points)
    order, gains = greedy(*of_matrix(apart.max() - apart))
    assert order[:3].tolist() == [2, 3, 0] and gains[:3].tolist() == [35, 16, 2]


def test_twelve_vectors_are_covered_with_the_gains_that_were_worked_out() -> None:
    exact = TWELVE.astype(np.float64)
    similar = np.rint(np.maximum(exact @ exact.T, 0) * 2**24).astype(np.int64)
    order, gains = greedy(*of_matrix(similar))
    assert order[:6].tolist() == [7, 9, 8, 10, 4, 1]
    assert gains[:6].tolist() == [66989888, 41201203, 15527137, 13642759, 12895202, 10600400]
    assert turns(FacilityLocation(), with_vectors(TWELVE))[:6] == [7, 9, 8, 10, 4, 1]


def test_m3_quality_counts_beside_what_is_covered() -> None:
    table = with_vectors(unit([[1, 0], [0.6, 0.8], [0, 1]]), 99, **{SCORE: [0.2, 0.9, 0.5]})
    assert turns(FacilityLocation(score=SignalName(SCORE), weight=0.5), table) == [1, 2, 0]
    assert turns(FacilityLocation(score=SignalName(SCORE), weight=1.0), table) == [1, 2, 0]
    best_last = with_vectors(unit([[1, 0], [0.6, 0.8], [0, 1]]), 99, **{SCORE: [0.9, None, -0.5]})
    assert turns(FacilityLocation(score=SignalName(SCORE), weight=1.0), best_last) == [0, 1, 2]


@settings(max_examples=20, deadline=None)
@given(SMALL.filter(lambda rows: len(rows) < 9), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 99))
def test_quality_and_coverage_are_those_of_trying_every_document(
    rows: list[tuple[int, ...]], weight: float, number: int
) -> None:
    scores = np.round(np.random.default_rng(number).normal(size=len(rows)) * 8) / 8
    table = with_vectors(unit(rows), 99, **{SCORE: scores.tolist()})
    points = np.stack(table["embedding"].to_pylist()).astype(np.float64)
    alike = (points @ points.T).astype(np.float32).astype(np.float64)  # as they are stored
    cosines = np.where(np.eye(len(rows)) > 0, 2**24, np.rint(np.maximum(alike, 0) * 2.0**24)).astype(np.int64)
    share, covered, left, expected = round(1024 * weight), np.zeros(len(rows), np.int64), set(range(len(rows))), []
    while left:
        gains = {
            i: (1024 - share) * int(np.maximum(cosines[i] - covered, 0).sum()) + share * int(scores[i] * 2**24)
            for i in left
        }
        best = min(left, key=lambda i: (-gains[i], i))
        left.remove(best)
        expected.append(best)
        covered = np.maximum(covered, cosines[best])
    assert turns(FacilityLocation(score=SignalName(SCORE), weight=weight), table) == expected


def naive(similar: npt.NDArray[np.int64], covered: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Plain greedy: every gain is worked out again at every turn."""
    taken: list[tuple[int, int]] = []
    while len(similar):
        gains = np.maximum(similar - covered, 0).sum(axis=1)
        best = int(gains.argmax())
        if gains[best] == 0:
            return taken
        taken.append((best, int(gains[best])))
        covered = np.maximum(covered, similar[best])
    return taken


@settings(max_examples=60, deadline=None)
@given(SMALL, st.integers(1, 14), st.integers(0, 3), st.integers(1, 3))
def test_lazy_greedy_is_plain_greedy_on_the_graph_of_neighbours(
    rows: list[tuple[int, ...]], count: int, num_given: int, num_clusters: int
) -> None:
    vectors = unit(np.array(rows, float))
    table = with_vectors(vectors, count, cluster=[i % num_clusters for i in range(len(rows))])
    exact, n = vectors.astype(np.float64), len(rows)
    similar = np.zeros((n, n), np.int64)
    for i in range(n):
        cosines = {
            j: min(int(np.rint(exact[i] @ exact[j] * 2**24)), 2**24)
            for j in range(n)
            if j != i and j % num_clusters == i % num_clusters
        }
        for j in sorted(cosines, key=lambda j: (-cosines[j], j))[:count]:
            similar[i, j] = similar[j, i] = max(cosines[j], 0)
        similar[i, i] = 2**24
    known, waiting = table.slice(0, num_given), table.slice(num_given)
    covered = similar[:num_given, num_given:].max(axis=0, initial=0)
    expected = naive(similar[num_given:, num_given:], covered)
    decided = chosen(FacilityLocation(), waiting, n, known=known)
    gains = dict(expected)
    assert decided["value"].to_pylist() == [gains.get(i, 0) / 2**24 for i in range(waiting.num_rows)]
    order = turns(FacilityLocation(), waiting, known)
    assert order[: len(expected)] == [place for place, _ in expected]
    for k in range(1, min(len(expected), 3) + 1):
        best = max(
            int(np.maximum(similar[list(some)].max(axis=0), 0).sum()) for some in itertools.combinations(range(n), k)
        )
        if num_given == 0:
            assert sum(gain for _, gain in expected[:k]) >= (1 - 1 / math.e) * best


def test_a_published_implementation_takes_the_same_documents() -> None:
    """These are the first twenty that apricot-select 0.6.1 ranks, lazily, over the same cosines."""
    exact = unit(np.random.default_rng(2).normal(size=(60, 8))).astype(np.float64)
    order, _ = greedy(*of_matrix(np.rint(np.maximum(exact @ exact.T, 0) * 2**24).astype(np.int64)))
    theirs = [52, 49, 15, 59, 9, 23, 0, 31, 1, 53, 12, 16, 27, 18, 54, 51, 5, 44, 57, 34]
    assert order[:20].tolist() == theirs


@settings(max_examples=40, deadline=None)
@given(SMALL, st.integers(1, 15))
def test_the_most_alike_are_those_with_the_largest_cosines(rows: list[tuple[int, ...]], count: int) -> None:
    vectors = unit(np.array(rows, float)).astype(np.float64)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("selector.exact.vectors._ROWS", 3)
        places, cosines = most_alike(vectors, count)
    for i in range(len(rows)):
        known = [min(float(np.rint(vectors[i] @ other * 2**24)) / 2**24, 1.0) for other in vectors]
        expected = sorted((j for j in range(len(rows)) if j != i), key=lambda j: (-known[j], j))[:count]
        assert places[i].tolist() == expected and cosines[i].tolist() == [known[j] for j in expected]


# ---------------------------------------------------------------- L1 to L5, S14: level cuts


@pytest.mark.parametrize(
    ("sizes", "target", "level", "left"),
    [
        ([10, 5, 3, 1], 10, 3, 0),
        ([10, 5, 3, 1], 11, 3, 1),
        ([100, 50, 2], 30, 14, 0),
        ([3, 3], 5, 2, 1),
        ([4, 4, 4], 20, 4, 0),
        ([40, 10, 5, 5], 30, 10, 0),
        ([40, 10, 5, 5], 33, 13, 0),
        ([], 7, 0, 0),
        ([0, 0], 7, 0, 0),
    ],
)
def test_l_and_s14_the_level_is_the_largest_that_is_paid_for(
    sizes: list[int], target: int, level: int, left: int
) -> None:
    base = np.minimum(sizes, level).astype(int)
    for order in itertools.permutations(range(len(sizes))):
        shares = level_cut(np.array(sizes, np.int64), target, np.array(order, np.int64))
        more = np.flatnonzero(shares - base)
        assert len(more) == left and (shares - base)[more].tolist() == [1] * left
        assert more.tolist() == sorted([i for i in order if sizes[i] > level][:left])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=8), st.integers(0, 120))
def test_a_level_cut_spends_all_and_is_as_even_as_can_be(sizes: list[int], target: int) -> None:
    shares = level_cut(np.array(sizes, np.int64), target, np.arange(len(sizes))).tolist()
    assert sum(shares) == min(target, sum(sizes)) and all(a <= b for a, b in zip(shares, sizes, strict=True))
    most = max(shares, default=0)
    assert all(share >= most - 1 or share == size for share, size in zip(shares, sizes, strict=True))


def test_clusters_get_the_same_as_far_as_they_go() -> None:
    table = documents([{"cluster": name} for name, count in ((0, 10), (1, 5), (2, 3), (3, 1)) for _ in range(count)])
    decided = chosen(Hierarchical(), table, 10)
    counts = np.bincount(np.array(table["cluster"].to_pylist())[decided["kept"].to_numpy()])
    assert counts.tolist() == [3, 3, 3, 1]
    chances = decided["inclusion_probability"].to_numpy().astype(float)
    np.testing.assert_allclose(chances[[0, 10, 15, 18]], [0.3, 0.6, 1, 1], rtol=1e-6)


def test_branches_get_the_same_before_clusters_do() -> None:
    """Three clusters point one way and one the other way: of two groups each gets a half."""
    vectors = [[1, 0.01 * i] for i in range(30)] + [[-1, 0.01 * i] for i in range(20)]
    clusters = [i // 10 for i in range(30)] + [3] * 20
    table = with_vectors(unit(vectors), cluster=clusters)

    def shares(levels: tuple[int, ...]) -> list[int]:
        places = kept(Hierarchical(levels=levels), table, 16)
        return np.bincount(np.array(clusters)[places], minlength=4).tolist()

    assert shares(()) == [4, 4, 4, 4]
    split = shares((2,))
    assert split[3] == 8 and sorted(split[:3]) == [2, 3, 3]
    assert shares((2, 4))[3] == 8 and shares((1,)) == [4, 4, 4, 4]


def test_the_branches_are_those_of_the_levels_that_clusters_were_fitted_with() -> None:
    """Two levels above five clusters: of three branches one has two twigs of one cluster each, and one has none."""
    branches = [[0, 0], [0, 1], [1, 2], [1, 2], None]
    table = documents(
        [{"cluster": None if i == 4 else i, "branches": branches[i]} for i in range(5) for _ in range(20)]
    )
    places = kept(Hierarchical(), table, 36)
    assert np.bincount(np.array(places) // 20, minlength=5).tolist() == [6, 6, 6, 6, 12]


def test_the_closest_of_a_cluster_come_first_where_the_policy_says_so() -> None:
    table = documents(
        [{"cluster": i % 2, "distance": d} for i, d in enumerate([0.4, 0.1, 0.2, 0.3, 0.3, 0.9, 0.5, 0.2])]
    )
    assert kept(Hierarchical(inside="closest"), table, 4) == [1, 2, 4, 7]


@settings(max_examples=40, deadline=None)
@given(SMALL, st.integers(1, 5), st.integers(0, 3))
def test_groups_of_means_depend_on_the_means_alone(rows: list[tuple[int, ...]], count: int, seed: int) -> None:
    points = np.array(sorted(set(rows)), float)
    groups = grouped(points, count, seed)
    order = np.random.default_rng(seed).permutation(len(points))
    moved = grouped(points[order], count, seed)
    pairs = set(zip(groups[order].tolist(), moved.tolist(), strict=True))
    assert len(np.unique(groups)) <= count
    assert len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})


def test_a_tree_that_does_not_widen_is_refused() -> None:
    for levels in ((8, 8), (0,), (9, 3)):
        with pytest.raises(PolicyError, match=r"hierarchical\.levels=.* is no tree"):
            Hierarchical(levels=levels)


@pytest.mark.parametrize("options", [{"levels": (2, 3)}, {"levels": (1, 2, 4), "inside": "closest"}])
def test_every_law_holds_for_deeper_trees(options: dict[str, Any]) -> None:
    check_selector("hierarchical", examples=4, **options)


# ---------------------------------------------------------------- negatives


def queries(vectors: npt.ArrayLike) -> TextsPath:
    column = vector_column(np.asarray(vectors, np.float16))
    texts = [f"query {i}" for i in range(len(column))]
    path = TextsPath("queries.jsonl").attached(pa.table({"text": texts, "embedding": column}))
    assert isinstance(path, TextsPath)
    return path


def answers(*pairs: tuple[int, int]) -> TablePath:
    """A table that says which document answers which query."""
    return TablePath("answers.jsonl").attached(
        pa.table(
            {
                "query": [f"query {query}" for query, _ in pairs],
                "positive": pa.array([i.to_bytes(16) for _, i in pairs], tables.DOC_ID),
            }
        )
    )


CIRCLE = unit([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in range(0, 90, 5)])


def test_negatives_are_those_of_the_band_and_no_positives_or_duplicates() -> None:
    table, query = with_vectors(CIRCLE), queries([[1, 0]])
    nearest: dict[str, Any] = {"queries": query, "count": 3, "first": 2, "last": 6, "inside": "nearest"}
    assert kept(Negatives(**nearest, most=1.0), table, 99) == [1, 2, 3]
    assert kept(Negatives(**nearest, most=0.99), table, 99) == [3, 4, 5], "0, 5 and 10 degrees are duplicates"
    known = answers((0, 4))  # 20 degrees, so 10 to 30 are like it as well
    assert kept(Negatives(**nearest, most=0.98, positives=known), table, 99) == [8, 9, 10]
    some = kept(Negatives(queries=query, count=3, first=2, last=6, most=1.0), table, 99)
    assert len(some) == 3 and set(some) <= {1, 2, 3, 4, 5}
    decided = chosen(Negatives(**nearest, most=1.0), table, 99)
    assert decided["reason"].to_pylist()[:2] == [
        "of no query's ranks 2 to 6, or not its turn, or like what answers it",
        "query {group}: of its ranks 2 to 6",
    ]


@settings(max_examples=60, deadline=None)
@given(
    SMALL,
    st.lists(st.tuples(*[st.integers(-2, 2)] * 3).filter(any), min_size=1, max_size=3),
    st.integers(1, 4),
    st.integers(0, 5),
    st.integers(1, 3),
    st.sampled_from([0.3, 0.9, 1.0]),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 14)), max_size=3),
)
def test_negatives_are_what_ranking_everything_gives(
    rows: list[tuple[int, ...]],
    wanted: list[tuple[int, ...]],
    first: int,
    width: int,
    count: int,
    most: float,
    positives: list[tuple[int, int]],
) -> None:
    vectors, asked = unit(np.array(rows, float)), unit(np.array(wanted, float))
    exact, cosines = vectors.astype(float), vectors.astype(float) @ asked.astype(float).T
    bands: list[list[int]] = []
    for q in range(len(wanted)):
        own = [i for number, i in positives if number == q]
        near = [exact @ exact[i] > most for i in own if i < len(rows)]
        out = np.any([cosines[:, q] > most, np.isin(np.arange(len(rows)), own), *near], axis=0)
        ranked = [i for i in np.argsort(-cosines[:, q], kind="stable") if not out[i]]
        bands.append([int(i) for i in ranked[first - 1 : first + width]])
    expected: dict[int, int] = {}
    for _ in range(count):
        for q, band in enumerate(bands):
            fresh = [i for i in band if i not in expected]
            if fresh:
                expected[fresh[0]] = q
    selector = Negatives(
        queries=queries(asked), positives=answers(*positives), count=count, first=first, last=first + width, most=most,
        inside="nearest",
    )  # fmt: skip
    decided = decide(selector, with_vectors(vectors), 4, Budget(amount=99, unit="documents"), 0)
    places = np.flatnonzero(decided["kept"].to_numpy()).tolist()
    assert places == sorted(expected)
    for i in places:
        assert decided["reason"][i].as_py().startswith(f"query {expected[i]}: ")
        assert decided["value"][i].as_py() == cosines[i, expected[i]]


def test_positives_that_say_nothing_here_are_counted() -> None:
    table, query = with_vectors(CIRCLE), queries([[1, 0]])
    for known, expected in (
        (answers((0, 4)), {}),
        (answers((0, 4), (7, 4), (0, 99), (0, 98)), {"of_other_queries": 1, "of_other_documents": 2}),
    ):
        selector = Negatives(queries=query, positives=known, count=3)
        decisions = selector.select(pool_for(selector, table, 7), Budget(amount=9, unit="documents"), 1)
        assert decisions.facts.get("positives", {}) == expected


def test_a_smaller_budget_is_spread_over_the_queries() -> None:
    table, both = with_vectors(CIRCLE), queries([[1, 0], [0, 1]])
    selector = Negatives(queries=both, count=4, first=1, last=5, most=1.0, inside="nearest")
    assert kept(selector, table, 99) == [0, 1, 2, 3, 14, 15, 16, 17]
    assert kept(selector, table, 4) == [0, 1, 16, 17]


def test_negatives_that_cannot_be_found_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    query = queries([[1, 0]])
    with pytest.raises(PolicyError, match=r"negatives: 4 documents of the ranks 5 to 2 cannot be taken"):
        Negatives(queries=query, first=5, last=2)
    with pytest.raises(PolicyError, match=r"negatives\.most=1\.5 is not a cosine"):
        Negatives(queries=query, most=1.5)
    monkeypatch.setattr(negatives, "_MOST_LISTED", 5)
    with pytest.raises(SelectorError, match=r"lists of 18 documents for each of 1 queries, and 5 .* smaller negatives"):
        kept(Negatives(queries=query), with_vectors(CIRCLE), 3)
    with pytest.raises(SelectorError, match=r"'queries\.jsonl' has no texts"):
        kept(Negatives(queries=queries(np.empty((0, 2)))), with_vectors(CIRCLE), 3)


# ---------------------------------------------------------------- S9: parallel forms


def forms_of(selector: Parallel, table: pa.Table, count: int, seed: int = 0) -> list[list[int]]:
    """The documents of each form."""
    decided = chosen(selector, table, count, seed)
    numbers, is_kept = decided["round"].to_numpy(), decided["kept"].to_numpy()
    return [np.flatnonzero(is_kept & (numbers == form + 1)).tolist() for form in range(selector.forms)]


def against(numbers: Sequence[int]) -> ManifestPath:
    """A manifest of these documents."""
    ids = pa.array([i.to_bytes(16) for i in numbers], tables.DOC_ID)
    path = ManifestPath("runs/other").attached(pa.table({"doc_id": ids, "position": np.arange(len(numbers))}))
    assert isinstance(path, ManifestPath)
    return path


S9 = [0.8, 1.1, 1.3, 2.6, 3.2, 3.3, 4.1, 5.4, 6.0]


def difference(scores: npt.ArrayLike, some: Sequence[int], wanted: Sequence[int]) -> float:
    """The smallest sum of differences over all ways to pair them."""
    values = np.asarray(scores, float).reshape(-1, np.asarray(scores).shape[-1] if np.ndim(scores) > 1 else 1)
    return min(
        float(sum(np.abs(values[a] - values[b]).sum() for a, b in zip(one, wanted, strict=True)))
        for one in itertools.permutations(some)
    )


def test_s9_two_forms_match_a_reference_as_well_as_can_be() -> None:
    scores = [*S9, 1.0, 3.0, 5.0]
    table = documents([{SCORE: score} for score in scores])
    selector = Parallel(scores=(QUALITY,), forms=2, reference=against([9, 10, 11]))
    one, other = forms_of(selector, table, 6)
    assert len(one) == len(other) == 3 and not set(one) & set(other) and max(one + other) < 9
    assert abs(sum(difference(scores, form, [9, 10, 11]) for form in (one, other)) - 2.1) < 1e-6
    twice = Parallel(scores=(QUALITY, QUALITY), forms=2, reference=against([9, 10, 11]))
    again = forms_of(twice, table, 6)
    assert abs(sum(difference(scores, form, [9, 10, 11]) for form in again) - 2.1) < 1e-6
    reasons = decide(selector, table, 5, Budget(amount=6, unit="documents"), 0)["reason"].to_pylist()
    assert reasons[9:] == ["a document of the reference"] * 3 and "form 1 of 2: alike in quality" in reasons


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=3, max_size=8),
    st.integers(1, 2),
    st.integers(1, 2),
    st.booleans(),
)
def test_partners_are_as_near_as_trying_all_of_them_gives(
    scores: list[tuple[int, int]], num_wanted: int, forms: int, both: bool
) -> None:
    rows = [{SCORE: float(one), EXACT: other} for one, other in scores]
    table, wanted = documents(rows), list(range(num_wanted))
    names = (QUALITY, ScoreName(EXACT)) if both else (QUALITY,)
    found = forms_of(Parallel(scores=names, forms=forms, reference=against(wanted)), table, num_wanted * forms)
    size = min(num_wanted, (len(scores) - num_wanted) // forms)
    assert [len(form) for form in found] == [size] * forms
    values = np.array(scores, float)[:, : len(names)]
    if both:
        spread = values.std(axis=0)
        values = values / np.where(spread == 0, 1, spread)
    if size == num_wanted:
        rest = range(num_wanted, len(scores))
        best = min(difference(values, some, wanted * forms) for some in itertools.permutations(rest, size * forms))
        cost = sum(difference(values, form, wanted) for form in found)
        assert abs(cost - best) < 1e-9


def test_forms_have_one_document_of_every_stratum_each() -> None:
    table = documents([{SCORE: float(i * 37 % 101)} for i in range(100)])
    forms = forms_of(Parallel(scores=(QUALITY,), forms=3), table, 31, seed=4)
    scores = np.array(table[SCORE].to_pylist())
    order = np.argsort(np.argsort(scores))
    for form in forms:
        assert sorted(order[form] // 10) == list(range(10))
    assert len(set(itertools.chain(*forms))) == 30
    decided = chosen(Parallel(scores=(QUALITY,), forms=3), table, 31)
    np.testing.assert_allclose(decided["inclusion_probability"].to_numpy(), 0.3, rtol=1e-6)


def test_forms_are_alike_where_drawn_ones_are_not() -> None:
    """The largest difference of two forms' distributions (Kolmogorov, Smirnov), beside that of two random choices."""
    rng = np.random.default_rng(1)
    scores = rng.lognormal(size=2000).astype(np.float32)
    table = documents([{"doc_id": keyed.digest(b"%d" % i), SCORE: float(score)} for i, score in enumerate(scores)])

    def apart(one: Sequence[int], other: Sequence[int]) -> float:
        at = np.sort(scores)
        shares = [np.searchsorted(np.sort(scores[list(some)]), at, side="right") / len(some) for some in (one, other)]
        return float(np.abs(shares[0] - shares[1]).max())

    one, other = forms_of(Parallel(scores=(QUALITY,)), table, 200)
    places = rng.permutation(2000)
    assert apart(one, other) <= 0.02 < apart(places[:100].tolist(), places[100:200].tolist())
    first, second = forms_of(Parallel(scores=(QUALITY, ScoreName(EXACT))), _with_edits(table), 60)
    assert apart(first, second) <= 0.1


def _with_edits(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index(EXACT)
    return table.set_column(at, table.schema.field(at), pa.array([i % 7 for i in range(table.num_rows)], pa.int64()))


def test_every_document_of_a_stratum_has_the_chance_that_is_said() -> None:
    """Over 20,000 draws, within four standard errors."""
    trials, size = 4000, 5
    scores = np.repeat(np.arange(trials, dtype=float), size)
    table = documents([{"doc_id": keyed.digest(b"%d" % i), SCORE: score} for i, score in enumerate(scores)])
    decided = decide(Parallel(scores=(QUALITY,)), table, 65_536, Budget(amount=2 * trials, unit="documents"), 3)
    assert set(decided["inclusion_probability"].to_pylist()) == {np.float32(0.4)}
    rank = np.argsort(np.lexsort(np.array([keyed.words(table["doc_id"])[:, 0], scores]))) % size
    shares = np.bincount(rank[decided["kept"].to_numpy()], minlength=size) / trials
    assert np.abs(shares - 0.4).max() < 4 * math.sqrt(0.4 * 0.6 / trials)


def test_a_budget_in_tokens_is_not_crossed() -> None:
    table = documents([{SCORE: float(i), "num_tokens": 1 + i * 7 % 13} for i in range(60)])
    for amount in (0, 5, 40, 200, 9999):
        budget = Budget(amount=amount, unit="tokens")
        decided = decide(Parallel(scores=(QUALITY,)), table, 9, budget, 1)
        tokens = np.array(table["num_tokens"].to_pylist())[decided["kept"].to_numpy()].sum()
        assert tokens <= amount and (tokens > amount - 40 or amount == 9999)
        numbers = decided["round"].to_numpy()[decided["kept"].to_numpy()]
        assert (numbers == 1).sum() == (numbers == 2).sum()
        assert decided["inclusion_probability"].null_count == 60


def test_what_cannot_be_matched_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PolicyError, match=r"parallel\.scores names no score"):
        Parallel(scores=())
    with pytest.raises(PolicyError, match=r"parallel\.forms=0 is not a number of forms"):
        Parallel(scores=(QUALITY,), forms=0)
    monkeypatch.setattr(parallel, "_MOST_CELLS", 30)
    table = documents([{SCORE: float(i)} for i in range(10)])
    unknown = Parallel(scores=(QUALITY,), reference=against([99]))
    decisions = unknown.select(Pool.of(table), Budget(amount=4, unit="documents"), 0)
    assert decisions.facts == {"documents_per_form": 0, "mean_scores": {}, "documents_of_the_reference": 0}
    with pytest.raises(SelectorError, match=r"4 partners among 8 documents at once, and 30 pairs .* a smaller budget"):
        forms_of(Parallel(scores=(QUALITY,), reference=against([0, 1])), table, 4)


def test_what_a_selection_chose_is_said_by_form() -> None:
    table = documents([{SCORE: float(i)} for i in range(10)])
    decisions = Parallel(scores=(QUALITY,)).select(Pool.of(table), Budget(amount=4, unit="documents"), 0)
    assert decisions.facts["documents_per_form"] == 2 and list(decisions.facts["mean_scores"]) == ["form 1", "form 2"]
    assert json.dumps(decisions.facts)
