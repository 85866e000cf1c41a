"""The orders of groups that follow from what the groups are: the Curriculum Designer's, a taxonomy's, a graph's."""

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import tries
from selector.exact import keyed
from selector.order import Order, ScoreName, TablePath
from selector.order.designed import Designed, best_order, scores
from selector.order.prerequisites import Prerequisites, in_turn
from selector.order.taxonomy import Taxonomy
from selector.testing import SCORE, TOPIC, documents
from selector.testing._trials import pool_for

NAME = ScoreName(SCORE)


def visited(order: Order, table: pa.Table) -> list[int]:
    """The documents first to last, by their row."""
    return order.arrange(pool_for(order, table, 5), 7).visits["document"].to_pylist()


# ---------------------------------------------------------------- designed

VARIANCE = [0.3, 0.1, 0.2, 0.4, 0.25]
DISTANCE = [
    [0.0, 0.2, 0.5, 0.7, 0.6], [0.2, 0.0, 0.4, 0.9, 0.35], [0.5, 0.4, 0.0, 0.3, 0.8], [0.7, 0.9, 0.3, 0.0, 0.1],
    [0.6, 0.35, 0.8, 0.1, 0.0],
]  # fmt: skip
O1: list[tuple[int, list[int], float]] = [
    (4, [0, 1, 2, 3], 2.2), (4, [1, 0, 3, 2], 2.7), (4, [1, 3, 2, 0], 3.6), (4, [1, 3, 0, 2], 3.4),
    (4, [3, 2, 0, 1], 2.0), (5, [0, 1, 2, 3, 4], 1.8), (5, [1, 3, 0, 4, 2], 4.0), (5, [1, 3, 0, 2, 4], 3.85),
]  # fmt: skip


def measured(count: int) -> tuple[Any, Any]:
    """Variances and distances of the worked cases, in thousandths."""
    whole = np.rint(np.array(DISTANCE)[:count, :count] * 1000).astype(np.int64)
    return np.rint(np.array(VARIANCE)[:count] * 1000).astype(np.int64), whole


@pytest.mark.parametrize(("count", "order", "score"), O1)
def test_o1_the_curriculum_designers_score(count: int, order: list[int], score: float) -> None:
    assert scores(np.array([order]), *measured(count), 1000).tolist() == [round(score * 1000)]


@pytest.mark.parametrize(("count", "best", "worst"), [(4, [1, 3, 2, 0], [3, 2, 0, 1]), (5, [1, 3, 0, 4, 2], None)])
def test_o1_the_best_order_is_found(count: int, best: list[int], worst: list[int] | None) -> None:
    variance, distance = measured(count)
    assert best_order(variance, distance.__getitem__, 1000) == best
    orders = np.array(list(itertools.permutations(range(count))))
    assert worst in (None, orders[np.argmin(scores(orders, *measured(count), 1000))].tolist())


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9, 10, 40])
def test_any_number_of_groups_is_ordered(count: int) -> None:
    chance = np.random.default_rng(count)
    distance = chance.integers(0, 1000, (count, count))
    distance, variance = distance + distance.T, chance.integers(0, 1000, count)
    order = best_order(variance, distance.__getitem__, 2000)
    assert sorted(order) == list(range(count))
    if count > 8:
        others = np.array([chance.permutation(count) for _ in range(200)])
        mean = scores(others, variance, distance, 2000).mean()
        assert scores(np.array([order]), variance, distance, 2000)[0] > mean


def test_neighbours_lie_apart_and_the_first_is_compact() -> None:
    """Two clusters in each of two directions; the one whose documents are all alike comes first."""
    vectors = {
        0: [(1, 0, 0, 0)] * 4,
        1: [(0.8, 0.6, 0, 0), (0.8, -0.6, 0, 0)],
        2: [(0, 0, 0.8, 0.6), (0, 0, 0.8, -0.6)],
    }
    rows = [
        {"cluster": cluster, "embedding": [np.float16(x) for x in vector]}
        for cluster, some in vectors.items()
        for vector in some
    ]
    clusters = [rows[i]["cluster"] for i in visited(Designed(), documents(rows))]
    assert [cluster for cluster, _ in itertools.groupby(clusters)] == [0, 2, 1]


# ---------------------------------------------------------------- taxonomy

O16 = ["b", "a/y", "a", "a/x", "a/x", "a"]


def syllabus(*paths: str) -> Any:
    return TablePath("syllabus.jsonl").attached(pa.table({"path": pa.array(paths, pa.string())}))


def test_o16_a_topic_comes_before_its_children_and_siblings_stand_together() -> None:
    table = documents([{TOPIC: path} for path in O16])
    assert visited(Taxonomy(by=TOPIC), table) == [2, 5, 3, 4, 1, 0]
    assert visited(Taxonomy(by=TOPIC, syllabus=syllabus("b", "a", "a/y")), table) == [0, 2, 5, 1, 3, 4]


@pytest.mark.slow
@tries(40)
@given(st.lists(st.sampled_from([None, "a", "b", "a/x", "a/y", "a/x/1", "b/x", "c/x/1"]), max_size=20))
def test_a_branch_of_the_taxonomy_is_contiguous(paths: list[str | None]) -> None:
    table = documents([{TOPIC: path} for path in paths])
    order = [paths[i] for i in visited(Taxonomy(by=TOPIC, syllabus=syllabus("c", "a/y", "nothing")), table)]
    named = [path for path in order if path is not None]
    assert order == named + [None] * (len(order) - len(named))
    for depth in (1, 2, 3):
        branches = [branch for branch, _ in itertools.groupby("/".join(path.split("/")[:depth]) for path in named)]
        assert len(branches) == len(set(branches))


# ---------------------------------------------------------------- prerequisites

O17 = [("a", "b"), ("b", "c"), ("c", "b"), ("c", "d"), ("a", "e")]


def graph(pairs: list[tuple[str, str]]) -> Any:
    columns = [pa.array(column, pa.string()) for column in zip(*pairs, strict=True)] or [pa.array([], pa.string())] * 2
    return TablePath("graph.jsonl").attached(pa.table(columns, names=["before", "after"]))


def concepts(difficulty: dict[str, float], pairs: list[tuple[str, str]]) -> str:
    """One document of each concept, in the order in which they are visited."""
    names = sorted(difficulty, key=lambda name: keyed.digest(name.encode()))
    rows = [{TOPIC: name, SCORE: difficulty[name], "doc_id": name.encode().ljust(16, b"\0")} for name in names]
    order = Prerequisites(by=TOPIC, score=NAME, graph=graph(pairs))
    return " ".join(names[i] for i in visited(order, documents(rows)))


def test_o17_a_circle_counts_as_one_and_difficulty_decides_between_those_whose_turn_it_is() -> None:
    difficulty = {"a": 0.5, "b": 0.4, "c": 0.1, "d": 0.2, "e": 0.3}
    table = documents([{TOPIC: name, SCORE: d} for name, d in difficulty.items()])
    # SCORE means better here, and low comes first
    order = Prerequisites(by=TOPIC, score=NAME, graph=graph(O17))
    assert [list(difficulty)[i] for i in visited(order, table)] == ["a", "c", "b", "d", "e"]
    assert in_turn(difficulty, O17) == [["a"], ["b", "c"], ["d"], ["e"]]


def test_11_1_prerequisites_are_those_of_the_worked_case() -> None:
    difficulty = {"01": 0.1, "02": 0.35, "03": 0.2, "04": 0.05, "05": 0.6, "07": 0.5, "08": 0.35, "10": 0.3}
    pairs = [("03", "10"), ("10", "07"), ("10", "05"), ("01", "08"), ("08", "05"), ("04", "02")]
    assert concepts(difficulty, pairs) == "04 01 03 10 02 08 07 05"


def test_a_concept_without_documents_still_stands_between_two_others() -> None:
    pairs = [("late", "nothing"), ("nothing", "early")]
    assert concepts({"early": 0.1, "late": 0.9, "free": 0.5}, pairs) == "free late early"
    assert concepts({"a": 0.3, "b": 0.2}, []) == "b a", "a graph may be empty"


@tries(60)
@given(st.lists(st.tuples(*[st.sampled_from("abcdefg")] * 2), max_size=12), st.permutations(range(7)))
def test_no_concept_comes_before_what_it_builds_on(pairs: list[tuple[str, str]], difficulty: list[int]) -> None:
    easy = dict(zip("abcdefg", difficulty, strict=True))
    groups = in_turn(easy, pairs)
    assert sorted(itertools.chain(*groups)) == list("abcdefg")
    turn = {name: i for i, group in enumerate(groups) for name in group}
    reaches = {name: {name} for name in easy}
    for _ in easy:
        for first, then in pairs:
            reaches[first] |= reaches[then]
    for one, other in itertools.permutations(easy, 2):
        assert (turn[one] == turn[other]) == (other in reaches[one] and one in reaches[other])
        assert other not in reaches[one] or turn[one] <= turn[other]


def test_a_long_chain_of_concepts_is_followed_to_its_end() -> None:
    names = [f"{i:05}" for i in range(20_000)]
    assert in_turn(dict.fromkeys(names, 0), list(itertools.pairwise(names))) == [[name] for name in names]
    assert in_turn(dict.fromkeys(names, 0), [*itertools.pairwise(names), (names[-1], names[0])]) == [names]
