"""The orders around another one: their worked cases, and what each of them claims."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector import plugins
from selector.errors import PolicyError
from selector.exact import Ints, keyed
from selector.order import Order, Pool, Positions, ScoreName
from selector.order._moved import Moves
from selector.order._spacing import Leasts, exceeded, spaced
from selector.order.apart import Apart
from selector.order.by_score import ByScore
from selector.order.jittered import Jittered
from selector.order.least_share import LeastShare
from selector.order.shuffled import Shuffled
from selector.order.spread import Spread
from selector.order.warmup import Warmup
from selector.order.where_it_counts import WhereItCounts
from selector.testing import SCORE, documents
from selector.testing._awkward import Repeating
from selector.testing._trials import pool_for
from selector.testing.orders import with_visits

NAME = ScoreName(SCORE)
SORTED = ByScore(score=NAME)


def arranged(order: Order, groups: str, seed: int = 7) -> Positions:
    """Documents whose score is their place, and whose source is a letter; a blank is none."""
    rows = [{"source": group.strip() or None, SCORE: float(i)} for i, group in enumerate(groups)]
    return order.arrange(Pool.of(documents(rows), 9), seed)


def visited(order: Order, num_documents: int, seed: int = 7) -> list[int]:
    return arranged(order, "x" * num_documents, seed).visits["document"].to_pylist()


# ---------------------------------------------------------------- jittered


@pytest.mark.parametrize(
    ("scale", "expected"), [(1, [0, 1, 2, 4, 3, 6, 5, 7]), (3, [0, 1, 6, 2, 4, 3, 5, 7]), (0, list(range(8)))]
)
def test_o19_gumbel_noise_moves_ranks(scale: float, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    noise = [-0.530198493, -0.579545724, 0.882936086, 1.777973445, 0.534463336, 2.056823908, -0.682060856, 1.50205387]
    chances = np.exp(-np.exp(-np.array(noise)))
    monkeypatch.setattr(keyed, "fractions", lambda _: chances)
    assert visited(Jittered(inner=SORTED, noise="gumbel", size=scale), 8) == expected


@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_no_visit_leaves_its_window(size: int) -> None:
    order = visited(Jittered(inner=SORTED, size=size), 200)
    assert [place // size for place in order] == [i // size for i in range(200)]
    assert (order == list(range(200))) == (size == 1)
    assert visited(Jittered(inner=SORTED, size=size), 200, 8) != order or size == 1


@pytest.mark.parametrize("noise", ["window", "gumbel"])
def test_no_visit_leaves_its_phase(noise: Any) -> None:
    table = with_visits(documents([{"doc_id": keyed.digest(b"%d" % i)} for i in range(60)]), [1, 2])
    orders = Repeating(), Jittered(inner=Repeating(), noise=noise, size=9)
    plain, moved = (order.arrange(pool_for(order, table, 9), 7) for order in orders)
    assert moved.visits["phase"].to_pylist() == plain.visits["phase"].to_pylist()
    assert moved.visits["document"].to_pylist() != plain.visits["document"].to_pylist()
    assert moved.left.equals(plain.left)


# ---------------------------------------------------------------- what they hold


@pytest.mark.parametrize(
    "order",
    [
        Spread(inner=SORTED, by="source", window=2),
        Apart(inner=SORTED, gap=2),
        LeastShare(inner=SORTED, by="source"),
        WhereItCounts(inner=SORTED, score=NAME),
    ],
)
def test_orders_that_hold_something_of_each_visit_say_how_many_are_too_many(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(order), "most_held", 5)
    assert len(visited(order, 5)) == 5
    with pytest.raises(PolicyError, match=f"{plugins.name_of(order)} holds some bytes.*5 at most: here are 6. Choose"):
        visited(order, 6)


# ---------------------------------------------------------------- warmup


def test_o20_a_warm_up_is_a_sample_in_order_or_the_beginning_and_the_rest_is_shuffled() -> None:
    order = visited(Warmup(inner=SORTED, share=0.3, of="beginning"), 10)
    assert order[:3] == [0, 1, 2] and set(order[3:]) == set(range(3, 10)) and order[3:] != sorted(order[3:])
    order = visited(Warmup(inner=SORTED, share=0.3), 10)
    assert order[:3] == sorted(order[:3]) != [0, 1, 2]


@pytest.mark.parametrize("of", ["sample", "beginning"])
@pytest.mark.parametrize(("share", "count"), [(0, 0), (0.1, 20), (0.29, 58), (1, 200)])
def test_a_warm_up_has_its_share_and_its_phase(of: Any, share: float, count: int) -> None:
    visits = arranged(Warmup(inner=SORTED, share=share, of=of), "x" * 200).visits
    order = visits["document"].to_pylist()
    assert order[:count] == sorted(order[:count])
    assert visits["phase"].to_pylist() == ["warmup"] * count + ["main"] * (200 - count)
    assert sorted(order) == list(range(200))


# ---------------------------------------------------------------- spread


def places_before(groups: Ints, window: int, most: int) -> Ints:
    """Where the visits of these groups were before they were spread."""
    moves = Moves.of(groups, spaced(groups, window, most))
    return np.concatenate([np.empty(0, np.int64), *moves.stretches(7)]).astype(np.int64)


SPREAD: list[tuple[str, int, int, str]] = [  # the order, the window, at most, and the best order where there is one
    ("ABABCCC", 2, 1, "ABCACBC"),
    ("AAABBC", 2, 1, "ABABAC"),
    ("AABBCC", 3, 1, "ABCABC"),
    ("AAAABBC", 3, 2, "AABAABC"),
    ("AAABBB", 3, 2, "AABABB"),
    ("AAAAB", 3, 2, "AABAA"),
]


@pytest.mark.parametrize(("order", "window", "most", "best"), SPREAD)
def test_o13_the_least_moving_order_is_found(order: str, window: int, most: int, best: str) -> None:
    positions = arranged(Spread(inner=SORTED, window=window, most=most), order)
    places = positions.visits["document"].to_numpy()
    assert positions.facts["spread"]["exceeding"] == 0
    moved = np.abs(places - np.arange(len(order)))
    queue = {letter: [i for i, other in enumerate(order) if other == letter] for letter in order}
    least = np.abs(np.array([queue[letter].pop(0) for letter in best]) - np.arange(len(order)))
    assert (moved.max(), moved.sum()) == (least.max(), least.sum())


O13B: list[tuple[str, int, int, bool]] = [
    ("AAABBC", 2, 1, True), ("AAAABB", 2, 1, False), ("AABB", 3, 1, False), ("AAABBBCCC", 4, 1, False),
    ("AAABBBC", 3, 1, False),
]  # fmt: skip


@pytest.mark.parametrize(("order", "window", "most", "is_feasible"), O13B)
def test_o13b_the_rule_says_whether_the_rest_can_be_laid(order: str, window: int, most: int, is_feasible: bool) -> None:
    groups = np.array(["ABC".index(letter) for letter in order])
    assert (exceeded(spaced(groups, window, most), window, most) == 0) == is_feasible


def test_o13_what_is_impossible_is_said() -> None:
    positions = arranged(Spread(inner=SORTED, window=2, most=1), "AAAABB")
    assert positions.facts["spread"] == {
        "by": "source", "window": 2, "most": 1, "exceeding": 1, "moved_at_most": 3, "moved_on_average": 1.667,
        "unmet": ["1 visit is beyond the cap of spread, at most 1 of one source in 2 visits: no order keeps to it"],
    }  # fmt: skip


def is_possible(left: tuple[int, ...], recent: tuple[int, ...], window: int, most: int) -> bool:
    """Whether any order at all keeps to the cap."""
    return not any(left) or any(
        is_possible((*left[:g], n - 1, *left[g + 1 :]), (*recent, g)[max(len(recent) + 2 - window, 0) :], window, most)
        for g, n in enumerate(left)
        if n and recent.count(g) < most
    )


@given(st.lists(st.integers(0, 3), max_size=9), st.integers(1, 4), st.integers(1, 3))
def test_the_cap_is_kept_wherever_any_order_keeps_it(groups: list[int], window: int, most: int) -> None:
    places = places_before(np.array(groups, np.int64), window, most)
    assert sorted(places.tolist()) == list(range(len(groups)))
    laid = np.array(groups, np.int64)[places]
    possible = is_possible((*(groups.count(g) for g in range(4)),), (), window, most)
    assert (exceeded(laid, window, most) == 0) == possible
    for group in set(groups):
        assert (np.diff(places[laid == group]) > 0).all(), "those of a group stay in their order"


@pytest.mark.slow
@given(st.lists(st.integers(0, 9), min_size=1, max_size=300), st.lists(st.lists(st.integers(0, 400), max_size=40)))
def test_numbers_that_become_less_from_a_place_on_are_known_by_their_least(
    numbers: list[int], steps: list[list[int]]
) -> None:
    leasts, plain = Leasts(np.array(numbers, np.int64)), np.array(numbers, np.int64)
    for places in steps:
        leasts.less(places)
        for place in places:
            plain[place:] -= 1
        for count in {1, len(plain) // 2, len(plain)} - {0}:
            assert leasts.of_first(count) == plain[:count].min()
            if (without := np.flatnonzero(plain[:count] <= 0)).size:
                assert leasts.last_without(count) == without[-1]


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["sorted", "shuffled", "as it is"])
@pytest.mark.parametrize(("window", "most", "num_groups"), [(20, 5, 4), (64, 16, 5), (10, 1, 10), (7, 3, 3)])
def test_a_long_order_keeps_to_a_cap_that_leaves_hardly_any_room(
    shape: str, window: int, most: int, num_groups: int
) -> None:
    groups = np.tile(np.repeat(np.arange(num_groups), most), 700 // (most * num_groups))  # keeps to it as it is
    assert exceeded(groups, window, most) == 0
    chance = np.random.default_rng(3)
    given_ = {"sorted": np.sort(groups), "shuffled": chance.permutation(groups), "as it is": groups}[shape]
    places = places_before(given_, window, most)
    assert exceeded(given_[places], window, most) == 0
    assert shape != "as it is" or places.tolist() == list(range(len(groups))), "what keeps to it is not moved"


def test_windows_are_kept_across_phases_and_documents_without_a_value_stand_alone() -> None:
    rows = [{"doc_id": keyed.digest(b"%d" % i), "source": "abcdefgh"[i % 8]} for i in range(80)]
    table = with_visits(documents(rows), [1])
    order = Spread(inner=Repeating(), window=5, most=1)
    positions = order.arrange(pool_for(order, table, 9), 7)
    assert len(set(positions.visits["phase"].to_pylist())) == 3 and positions.facts["spread"]["exceeding"] == 0
    sources = "A    B      " * 10
    positions = arranged(Spread(inner=Shuffled(), window=10, most=1), sources)
    letters = [sources[i] for i in positions.visits["document"].to_pylist()]
    assert all(letters[i : i + 10].count(one) <= 1 for i, one in itertools.product(range(110), "AB"))


def test_an_order_that_keeps_to_the_cap_does_not_move() -> None:
    assert arranged(Spread(inner=SORTED, window=3, most=1), "ABC" * 50).facts["spread"]["moved_at_most"] == 0


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("jittered", {"size": 0}, r"jittered\.size=0.0 does not go with the noise 'window'"),
    ("jittered", {"size": 2.5}, r"jittered\.size=2\.5 does not go with"),
    ("jittered", {"size": -1, "noise": "gumbel"}, r"jittered\.size=-1.0 does not go with the noise 'gumbel'"),
    ("warmup", {"share": 1.5}, r"warmup\.share=1\.5 is no share"),
    ("spread", {"window": 0}, r"spread\.window=0 is no number of visits"),
    ("spread", {"most": 0}, r"spread\.most=0 leaves no place"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_a_wrapper_that_cannot_be_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        plugins.make("orders", name, {"inner": "shuffled", **options}, "order.using", Order)
