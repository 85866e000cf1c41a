"""The orders in which a share of documents is kept, or rises: their worked cases, and what each of them claims."""

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import tries
from selector import plugins
from selector.errors import PolicyError
from selector.exact import keyed
from selector.order import Order, Pool, Positions, ScoreName
from selector.order.by_score import ByScore
from selector.order.least_share import LeastShare
from selector.order.preference import Preference, high_share
from selector.order.quadrants import PHASES, Quadrants
from selector.order.rounds import Rounds
from selector.order.shuffled import Shuffled
from selector.testing import EXACT, SCORE, documents
from selector.testing._awkward import Repeating
from selector.testing._trials import pool_for
from selector.testing.orders import with_visits

NAME, OTHER = ScoreName(SCORE), ScoreName(EXACT)
SORTED = ByScore(score=NAME)


def arranged(order: Order, rows: list[dict[str, Any]], seed: int = 7) -> Positions:
    numbered = [{"doc_id": keyed.digest(b"%d" % i), **row} for i, row in enumerate(rows)]
    return order.arrange(Pool.of(documents(numbered), 7), seed)


def visited(order: Order, rows: list[dict[str, Any]], seed: int = 7) -> list[int]:
    return arranged(order, rows, seed).visits["document"].to_pylist()


# ---------------------------------------------------------------- least_share


def sources(names: str) -> list[dict[str, Any]]:
    """Documents whose source is a letter, and whose score is their place; a blank is no source."""
    return [{"source": name.strip() or None, SCORE: float(i)} for i, name in enumerate(names)]


def laid(names: str, shares: dict[str, float], at: Any = "end") -> str:
    return "".join(names[i] for i in visited(LeastShare(inner=SORTED, shares=shares, at=at), sources(names)))


@pytest.mark.parametrize("names", ["xxx" + "-" * 9, "-" * 9 + "xxx", "-x" * 3 + "-" * 6])
def test_o15_a_share_has_its_places_wherever_the_documents_stood(names: str) -> None:
    assert laid(names, {"x": 0.25}) == "---x---x---x"
    assert laid(names, {"x": 0.25}, "start") == "x---x---x---"


def test_what_a_group_has_beyond_its_share_stays_spread_and_every_group_in_its_order() -> None:
    names = "-" * 40 + "x" * 40
    order = visited(LeastShare(inner=SORTED, shares={"x": 0.25}), sources(names))
    assert [i for i in order if names[i] == "x"] == list(range(40, 80))
    assert [i for i in order if names[i] == "-"] == list(range(40))
    assert laid(names, {"x": 0}) == names


@tries(100)
@given(
    st.lists(st.sampled_from("xy- "), max_size=60), st.integers(0, 10), st.integers(0, 10),
    st.sampled_from(["end", "start"]),
)  # fmt: skip
def test_every_window_has_its_share_wherever_there_are_enough(names: list[str], x: int, y: int, at: Any) -> None:
    y = min(y, 10 - x)
    shares = {name: share / 10 for name, share in (("x", x), ("y", y)) if name in names}
    order = LeastShare(inner=Shuffled(), shares=shares, at=at) if shares else LeastShare(inner=Shuffled(), at=at)
    positions = arranged(order, sources("".join(names)))
    places = positions.visits["document"].to_pylist()
    assert sorted(places) == list(range(len(names)))
    if not shares or positions.facts["least_share"]["missing"]:
        return
    line, spare = [names[i] for i in places], len(shares) - 1
    for name, share in shares.items():
        reached = np.cumsum([0, *(other == name for other in line)])
        for begin, end in itertools.combinations(range(len(line) + 1), 2):
            assert reached[end] - reached[begin] >= int((end - begin) * Fraction(str(share))) - spare
    assert spare or positions.facts["least_share"]["late"] == 0


def test_without_shares_each_group_has_its_share_of_all_visits() -> None:
    names = "a" * 60 + "b" * 30 + "c" * 10
    order = visited(LeastShare(inner=SORTED), sources(names))
    line = "".join(names[i] for i in order)
    for end in range(101):
        assert [abs(line[:end].count(name) - end * share) < 3 for name, share in (("a", 0.6), ("b", 0.3), ("c", 0.1))]
    assert line[:20].count("a") == 12 and line[50:70].count("b") == 6


def test_a_share_is_kept_as_long_as_its_documents_last_and_the_manifest_says_how_many_are_missing() -> None:
    names = "-" * 17 + "xxx"
    positions = arranged(LeastShare(inner=SORTED, shares={"x": 0.25}), sources(names))
    line = "".join(names[i] for i in positions.visits["document"].to_pylist())
    assert line == "---x---x---x" + "-" * 8
    line = "2 visits are missing of x for its least share"
    assert positions.facts["least_share"] == {"by": "source", "missing": {"x": 2}, "late": 0, "unmet": [line]}


def test_no_visit_leaves_its_phase_for_the_share_of_a_group() -> None:
    rows = [{"doc_id": keyed.digest(b"%d" % i), "source": "abcd"[i % 4]} for i in range(80)]
    table = with_visits(documents(rows), [1, 2])
    orders = Repeating(), LeastShare(inner=Repeating(), shares={"a": 0.2})
    plain, moved = (order.arrange(pool_for(order, table, 9), 7) for order in orders)
    assert moved.visits["phase"].to_pylist() == plain.visits["phase"].to_pylist()
    assert moved.visits["document"].to_pylist() != plain.visits["document"].to_pylist()


def test_a_share_of_a_group_that_is_not_there_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"least_share\.shares: no chosen document has source 'wbe'\. Did you mean"):
        visited(LeastShare(inner=SORTED, shares={"wbe": 0.1}), [{"source": "web"}])


# ---------------------------------------------------------------- rounds


def test_o8_the_share_of_hard_documents_rises_from_round_to_round() -> None:
    visits, hard = Rounds(score=OTHER).counts(30)
    assert visits.tolist() == [10, 10, 10] and hard.tolist() == [3, 5, 7]
    order = visited(Rounds(score=OTHER), [{EXACT: i * 7 % 30} for i in range(30)] + [{}] * 3)
    is_hard = [i < 30 and i * 7 % 30 >= 15 for i in order]
    assert [sum(is_hard[begin : begin + 10]) for begin in (0, 10, 20)] == [3, 5, 7]
    assert set(order[30:]) == {30, 31, 32}
    assert order != visited(Rounds(score=OTHER), [{EXACT: i * 7 % 30} for i in range(30)] + [{}] * 3, 8)


@tries(60)
@given(st.integers(0, 50), st.integers(1, 7), *[st.integers(0, 10)] * 3)
def test_rounds_visit_each_document_once_and_keep_to_their_shares_while_they_can(
    size: int, rounds: int, hard: int, first: int, last: int
) -> None:
    order = Rounds(score=OTHER, rounds=rounds, hard=hard / 10, first=first / 10, last=last / 10)
    places = visited(order, [{EXACT: i} for i in range(size)])
    assert sorted(places) == list(range(size))
    visits, wanted = order.counts(size)
    num_easy = round((1 - Fraction(hard, 10)) * size)
    got = [sum(i >= num_easy for i in places[e - n : e]) for n, e in zip(visits, np.cumsum(visits), strict=True)]
    left_hard, left_easy = size - num_easy, num_easy
    for n, count, hard_ones in zip(visits.tolist(), wanted.tolist(), got, strict=True):
        assert hard_ones == min(max(count, n - left_easy), left_hard)
        left_hard, left_easy = left_hard - hard_ones, left_easy - (n - hard_ones)


# ---------------------------------------------------------------- preference and quadrants

PERPLEXITIES = [(40, 36), (38, 36), (12, 11), (10, 9.5), (42, 21), (36, 20), (14, 8), (9, 5)]  # weak, strong
PAIRS = [{EXACT: weak, SCORE: strong} for weak, strong in PERPLEXITIES]


def test_o9_the_share_of_preferred_documents_rises_like_an_s() -> None:
    shares = high_share(np.array([0, 0.25, 0.5, 0.75, 1]), 10)
    np.testing.assert_allclose(shares, [0.0, 0.070103717, 0.5, 0.929896283, 1.0], atol=1e-9)


def test_preferred_documents_come_late() -> None:
    rows = [{EXACT: 100, SCORE: float(100 - i)} for i in range(100)]  # the i-th is preferred by i percent
    order = np.array(visited(Preference(weak=OTHER, strong=NAME, steps=10), [*rows, {}, {SCORE: 1.0}]))
    assert set(order[100:].tolist()) == {100, 101} and sorted(order.tolist()) == list(range(102))
    counts = [(order[begin : begin + 10] >= 50).sum() for begin in range(0, 100, 10)]
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 10 and counts[4] + counts[5] == 10
    assert set(order[:10].tolist()) != set(range(10)), "drawn at random inside a half"


def test_preference_goes_by_the_median_and_what_is_at_it_is_low() -> None:
    rows: list[dict[str, Any]] = [{EXACT: 4, SCORE: 4.0}, {EXACT: 4, SCORE: 5.0}]  # 0, where models are equal; -0.25
    order = visited(Preference(weak=OTHER, strong=NAME), rows)
    assert order == [1, 0]
    alike = [{EXACT: 4, SCORE: 2.0}] * 9
    assert sorted(visited(Preference(weak=OTHER, strong=NAME), alike)) == list(range(9))


def test_11_5_quadrants_follow_one_another() -> None:
    positions = arranged(Quadrants(weak=OTHER, strong=NAME), [*PAIRS, {EXACT: 3}])
    order = positions.visits["document"].to_pylist()
    assert [set(order[i : i + 2]) for i in (0, 2, 4, 6)] == [{0, 1}, {2, 3}, {4, 5}, {6, 7}] and order[8] == 8
    assert positions.visits["phase"].to_pylist() == [PHASES[i // 2] for i in range(9)]


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("least_share", {"inner": "shuffled", "shares": {"web": 1.5}}, r"least_share\.shares\.web=1\.5 is no share"),
    ("least_share", {"inner": "shuffled", "shares": {"a": 0.7, "b": 0.4}}, "are more than all visits"),
    ("rounds", {"score": SCORE, "rounds": 0}, r"rounds\.rounds=0 is no number of rounds"),
    ("rounds", {"score": SCORE, "last": 1.1}, r"rounds\.last=1\.1 is no share of documents"),
    ("preference", {"weak": SCORE, "strong": SCORE}, r"preference\.weak and preference\.strong are both 'quality'"),
    ("preference", {"weak": SCORE, "strong": EXACT, "steepness": 0}, r"preference\.steepness=0.0 is out of range"),
    ("preference", {"weak": SCORE, "strong": EXACT, "steps": 0}, r"preference\.steps=0 is no number of steps"),
    ("quadrants", {"weak": SCORE, "strong": SCORE}, "no model is preferred to itself"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_an_order_of_shares_that_cannot_be_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        plugins.make("orders", name, options, "order.using", Order)
