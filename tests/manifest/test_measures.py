"""What is measured of an order: the worked cases, and the definitions, followed word by word over few visits."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector.manifest import measures
from selector.manifest.measures import GroupMeasures, ScoreMeasures, inversions, window_of
from selector.order import ScoreName, Shaped
from selector.order.folded import Folded
from selector.order.saw import Saw
from selector.order.stair import Stair
from selector.order.zigzag import Zigzag

NAME = ScoreName("difficulty")


def ranks(order: Shaped, length: int) -> Any:
    """The ranks, in the order in which they are visited."""
    return np.argsort(order.shape(np.arange(length), length))


def measured(
    scores: Sequence[float],
    cuts: Sequence[int] = (),
    borders: Sequence[tuple[str, int]] = (),
    window: int | None = None,
) -> dict[str, Any]:
    of_score = ScoreMeasures(len(scores), borders, window)
    for first, stop in itertools.pairwise([0, *sorted(cuts), len(scores)]):
        of_score.take_in(first, np.array(scores[first:stop], np.float64))
    return of_score.to_json() or {}


def diversity(groups: Sequence[Any], cuts: Sequence[int] = (), window: int | None = None) -> float | None:
    of_groups = GroupMeasures(len(groups), window)
    for first, stop in itertools.pairwise([0, *sorted(cuts), len(groups)]):
        names = sorted(set(groups[first:stop]), key=str, reverse=True)
        of_groups.take_in(first, names, np.array([names.index(group) for group in groups[first:stop]], np.int64))
    return of_groups.to_json()


# ---------------------------------------------------------------- worked cases


@pytest.mark.parametrize("cuts", [(), (5,), (1, 2, 3, 11)])
def test_o18_measures_of_a_folded_order(cuts: tuple[int, ...]) -> None:
    order = ranks(Folded(score=NAME), 12).astype(float).tolist()
    one = measured(order, cuts, [("next", 4)], window=3)
    assert one["continuity"] == pytest.approx(3.909090909 / 4.333333333, abs=1e-6)
    assert one["continuity"] == pytest.approx(0.902097902, abs=1e-6)
    assert one["displacement"] == pytest.approx(2.666666667, abs=1e-6)
    assert one["displaced_at_most"] == 6
    assert one["borders"] == [{"phase": "next", "position": 4, "difference": -2.0}]
    assert diversity([0] * 4 + [1] * 4 + [2] * 4, cuts, window=3) == pytest.approx(0.466666667, abs=1e-6)


@pytest.mark.parametrize(
    ("order", "length", "count", "tau"),
    [
        (Folded(score=NAME), 12, 18, 0.454545455),
        (Zigzag(score=NAME), 12, 24, 0.272727273),
        (Stair(score=NAME), 40, 45, 0.884615385),
        (Saw(score=NAME), 40, 12, 0.969230769),
    ],
)
def test_q13_inversions_and_tau(order: Shaped, length: int, count: int, tau: float) -> None:
    rank = ranks(order, length)
    assert inversions(rank) == count
    assert measured(rank.tolist())["tau"] == pytest.approx(tau, abs=1e-6)


# ---------------------------------------------------------------- by the definitions


def by_definition(scores: Sequence[float], window: int) -> dict[str, Any]:
    known = [score for score in scores if not math.isnan(score)]
    n, pairs = len(known), list(itertools.combinations(known, 2))
    signs = [np.sign(later - earlier) for earlier, later in pairs]
    unequal = sum(sign != 0 for sign in signs)
    rank = sorted(range(n), key=lambda place: (known[place], place))
    displaced = [abs(place - at) for at, place in enumerate(rank)]
    steps = [abs(one - other) for one, other in itertools.pairwise(known)]
    expected = sum(abs(one - other) for one, other in pairs) / max(len(pairs), 1)
    jumps: dict[int, float] = {}
    for place in range(window, len(scores) - window + 1):
        halves = scores[place - window : place], scores[place : place + window]
        before, after = ([score for score in half if not math.isnan(score)] for half in halves)
        if before and after:
            jumps[place] = float(np.mean(after) - np.mean(before))
    return {
        "tau": sum(signs) / math.sqrt(unequal * len(pairs)) if unequal else None,
        "displacement": sum(displaced) / n,
        "displaced_at_most": max(displaced),
        "continuity": sum(steps) / max(len(steps), 1) / expected if expected else None,
        "jumps": jumps,
    }


SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, math.nan, math.inf]), max_size=40)
CUTS = st.lists(st.integers(0, 40), max_size=4)


@given(SCORES, CUTS, st.integers(1, 6))
def test_measures_of_scores_are_their_definitions_however_the_visits_are_cut(
    scores: list[float], cuts: list[int], window: int
) -> None:
    cuts = [cut for cut in cuts if cut <= len(scores)]
    borders = [(str(place), place) for place in range(1, len(scores))]
    one = measured(scores, cuts, borders, window)
    finite = [score if math.isfinite(score) else math.nan for score in scores]
    if all(map(math.isnan, finite)):
        assert one == {}
        return
    wanted = by_definition(finite, window)
    assert one["scored"] == one["ranked"] == sum(map(math.isfinite, scores))
    for name in ("tau", "displacement", "displaced_at_most", "continuity"):
        assert one[name] == pytest.approx(wanted[name], abs=1e-9), name
    jumps = {border["position"]: border["difference"] for border in one["borders"]}
    assert jumps == {place: pytest.approx(wanted["jumps"].get(place), abs=1e-9) for place in range(1, len(scores))}
    greatest = max(map(abs, wanted["jumps"].values()), default=0)
    if greatest > 1e-9:
        assert abs(one["greatest_difference"]["difference"]) == pytest.approx(greatest, abs=1e-9)
        assert abs(wanted["jumps"][one["greatest_difference"]["position"]]) == pytest.approx(greatest, abs=1e-9)


@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=40), CUTS, st.integers(1, 6))
def test_diversity_is_its_definition_however_the_visits_are_cut(
    groups: list[str | None], cuts: list[int], window: int
) -> None:
    windows = [groups[first : first + window] for first in range(len(groups) - window + 1)]
    one = diversity(groups, [cut for cut in cuts if cut <= len(groups)], window)
    if not windows or not set(groups) - {None}:
        assert one is None
        return
    most = min(window, len(set(groups)))
    assert one == pytest.approx(sum(len(set(some)) for some in windows) / len(windows) / most)


# ---------------------------------------------------------------- many visits


@pytest.mark.parametrize("length", [0, 1, 2, 3, 1000, 1 << 16, (1 << 16) + 5])
def test_inversions_of_the_reversed_order_are_all_pairs(length: int) -> None:
    assert inversions(np.arange(length)[::-1].copy()) == length * (length - 1) // 2
    assert inversions(np.arange(length)) == 0


def test_of_many_visits_a_sample_is_ranked_and_the_rest_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    rank = ranks(Folded(score=NAME, layers=8), 100_000).tolist()
    exact = measured(rank, [40_000])
    monkeypatch.setattr(measures, "MOST_RANKED", 10_000)
    some = measured(rank, [40_000])
    assert (exact["ranked"], some["ranked"], some["scored"]) == (100_000, 10_000, 100_000)
    assert some["tau"] == pytest.approx(exact["tau"], abs=0.02)
    assert some["displacement"] == pytest.approx(exact["displacement"], rel=0.02)
    assert some["continuity"] == pytest.approx(exact["continuity"], rel=0.02)
    assert some["greatest_difference"] == exact["greatest_difference"]
    assert measured(rank, [333, 70_001]) == some, "what is drawn does not depend on how the visits are cut"


def test_a_window_is_at_most_a_tenth_of_the_visits() -> None:
    assert [window_of(n) for n in (0, 1, 9, 40, 5120, 10**9)] == [1, 1, 1, 4, 512, 512]


def test_measures_of_no_visits_are_none() -> None:
    assert ScoreMeasures(0).to_json() is None and GroupMeasures(0).to_json() is None
