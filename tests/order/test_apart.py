"""Visits of a document that lie apart: the worked case, and what is possible."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector.exact import Ints, keyed
from selector.order import Positions, ScoreName
from selector.order.apart import Apart, possible_gap
from selector.order.by_score import ByScore
from selector.order.cyclical import Cyclical
from selector.order.shuffled import Shuffled
from selector.testing import SCORE, documents
from selector.testing._awkward import Repeating
from selector.testing._trials import pool_for
from selector.testing.orders import with_visits

NAME = ScoreName(SCORE)


def arranged(order: Apart, times: list[int], seed: int = 7) -> tuple[Positions, list[int]]:
    """The positions, and the documents that are visited first to last; each is to be seen so often."""
    table = with_visits(documents([{SCORE: float(i)} for i in range(len(times))]), times)
    positions = order.arrange(pool_for(order, table, 3), seed)
    of_row = np.repeat(np.arange(len(times)), times)
    return positions, of_row[positions.visits["document"].to_numpy()].tolist()


def gaps(visited: list[int]) -> list[int]:
    """How far each visit is from the one before of the same document."""
    last, distances = dict[int, int](), list[int]()
    for place, document in enumerate(visited):
        distances += [place - last[document]] if document in last else []
        last[document] = place
    return distances


def test_o14_laps_of_a_fixed_order_have_a_gap_of_all_documents_and_reshuffled_ones_promise_none() -> None:
    positions, visited = arranged(Apart(inner=ByScore(score=NAME), gap=5), [3] * 5)
    assert set(gaps(visited)) == {5} and visited == visited[:5] * 3
    assert positions.facts["apart"] | {"moved_at_most": 0, "moved_on_average": 0} == {
        "gap": 5, "possible": 5, "closest": 5, "nearer": 0, "moved_at_most": 0, "moved_on_average": 0,
    }  # fmt: skip
    _, shuffled = arranged(Apart(inner=Shuffled(), gap=1), [3] * 5)
    assert min(gaps(shuffled)) < 5


@pytest.mark.parametrize(
    ("times", "gap"), [([4, 1, 1, 1, 1, 1, 1], 3), ([4, 4, 1], 2), ([2, 1], 2), ([3, 3, 3], 3), ([5], 1)]
)
def test_o14_a_gap_that_is_not_possible_is_kept_as_far_as_it_is_and_said(times: list[int], gap: int) -> None:
    positions, visited = arranged(Apart(inner=ByScore(score=NAME), gap=100), times)
    facts = positions.facts["apart"]
    assert (facts["gap"], facts["possible"]) == (100, gap)
    assert min(gaps(visited)) == facts["closest"] >= gap
    assert facts["nearer"] == len(gaps(visited))


def test_the_visits_of_a_document_count_up_and_those_of_single_ones_move_little() -> None:
    order = Apart(inner=ByScore(score=NAME), gap=10)
    positions, visited = arranged(order, [1, 1, 3] * 20)
    assert min(gaps(visited)) >= 10 and positions.facts["apart"]["nearer"] == 0
    seen = list[int]()
    for document, visit in zip(visited, positions.visits["visit"].to_pylist(), strict=True):
        assert visit == seen.count(document)
        seen.append(document)


def test_repeats_that_the_order_makes_lie_apart_too() -> None:
    table = documents([{"doc_id": keyed.digest(b"%d" % i), SCORE: float(i)} for i in range(30)])
    order = Apart(inner=Cyclical(score=NAME, epochs=3.0), gap=7)
    plain, moved = (one.arrange(pool_for(one, with_visits(table, [1]), 9), 7) for one in (order.inner, order))
    facts = moved.facts["apart"]
    assert min(gaps(plain.visits["document"].to_pylist())) < facts["possible"]
    assert min(gaps(moved.visits["document"].to_pylist())) >= facts["possible"] > 1


def test_no_visit_leaves_its_phase() -> None:
    table = with_visits(documents([{"doc_id": keyed.digest(b"%d" % i)} for i in range(60)]), [1, 2])
    order = Apart(inner=Repeating(), gap=9)
    plain, moved = (one.arrange(pool_for(one, table, 9), 7) for one in (Repeating(), order))
    assert moved.visits["phase"].to_pylist() == plain.visits["phase"].to_pylist()
    assert moved.left.equals(plain.left)


def is_possible(left: tuple[int, ...], recent: tuple[int, ...], gap: int) -> bool:
    """Whether any order at all has no two visits of a document nearer than the gap."""
    return not any(left) or any(
        is_possible((*left[:d], n - 1, *left[d + 1 :]), (*recent, d)[max(len(recent) + 2 - gap, 0) :], gap)
        for d, n in enumerate(left)
        if n and d not in recent
    )


@pytest.mark.parametrize(
    "times", [times for n in range(1, 5) for times in itertools.combinations_with_replacement(range(1, 4), n)]
)
def test_the_possible_gap_is_the_largest_with_which_there_is_an_order(times: tuple[int, ...]) -> None:
    visits: Ints = np.repeat(np.arange(len(times)), times)
    gap = possible_gap(visits)
    assert (gap is None) == (max(times) == 1)
    if gap is None:
        return
    assert is_possible(times, (), gap) and not is_possible(times, (), gap + 1)
    assert min(gaps(arranged(Apart(inner=ByScore(score=NAME), gap=gap), list(times))[1]), default=gap) >= gap


@pytest.mark.slow
@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(1, 12), st.integers(0, 3))
def test_every_gap_that_is_possible_is_kept(times: list[int], gap: int, seed: int) -> None:
    positions, visited = arranged(Apart(inner=Shuffled(), gap=gap), times, seed)
    facts = positions.facts["apart"]
    assert min(gaps(visited), default=gap) >= min(gap, facts["possible"])
    assert facts["closest"] == min(gaps(visited), default=None)
    assert facts["nearer"] == sum(distance < gap for distance in gaps(visited))
