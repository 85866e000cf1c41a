"""The orders that follow a schedule: their worked cases, and what each of them claims."""

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
from selector.order._pacing import Course, available, cycle, pool_size
from selector.order.clients import Clients, num_open_at
from selector.order.cyclical import Cyclical, aged, race
from selector.order.fixed import Fixed, Metric
from selector.order.paced import Paced
from selector.order.pooled import Pooled
from selector.testing import EXACT, SCORE, TOPIC, documents

NAME = ScoreName(SCORE)

SMALL: dict[Any, str] = {  # N = 12, T = 12, a = .8, b = .2
    "linear": "2 3 4 5 6 7 8 9 10 11 12 12 12", "quadratic": "2 2 2 3 4 5 6 7 9 10 12 12 12",
    "root": "2 5 6 7 8 9 9 10 11 11 12 12 12", "step": "2 2 2 2 2 2 2 2 2 2 12 12 12",
    "exponential": "2 2 2 2 2 2 2 3 4 7 12 12 12", "logarithmic": "2 9 10 10 11 11 11 11 11 11 12 12 12",
}  # fmt: skip
LARGE: dict[Any, str] = {  # N = 50,000, T = 39,100, a = .8, b = .2
    "linear": "10000 16393 29181 50000 50000", "quadratic": "10000 11022 19198 50000 50000",
    "root": "10000 25992 37699 50000 50000", "step": "10000 10000 10000 50000 50000",
    "exponential": "10000 10007 10217 50000 50000", "logarithmic": "10000 42666 47060 50000 50000",
}  # fmt: skip


@pytest.mark.parametrize("pacing", SMALL)
def test_11_2_pools_grow_as_in_the_worked_cases(pacing: Any) -> None:
    sizes = [pool_size(pacing, Fraction(t, 12), 0.2, 0.8, 12) for t in range(13)]
    assert sizes == [int(word) for word in SMALL[pacing].split()]
    times = [Fraction(t, 39_100) for t in (0, 5_000, 15_000, 31_280, 39_100)]
    sizes = [pool_size(pacing, time, 0.2, 0.8, 50_000) for time in times]
    assert sizes == [int(word) for word in LARGE[pacing].split()]


def test_o4_competence_grows_with_the_root_of_what_was_seen() -> None:
    shares = [available("competence", Fraction(t, 10), 0.1, 1) for t in (0, 2, 5, 10, 12)]
    np.testing.assert_allclose(shares, [0.1, 0.45607017, 0.71063352, 1.0, 1.0], atol=1e-8)
    linear = [available("linear", Fraction(t, 10), 0.1, 1) for t in (0, 2, 5, 10, 12)]
    np.testing.assert_allclose(linear, [0.1, 0.28, 0.55, 1.0, 1.0], atol=1e-12)


@tries(60)
@given(st.sampled_from([*SMALL, "competence"]), st.floats(0, 1), st.floats(0.01, 1))
def test_a_schedule_never_falls_and_begins_and_ends_where_it_says(pacing: Any, start: float, full: float) -> None:
    shares = [available(pacing, Fraction(t, 20), start, full) for t in range(21)]
    assert abs(shares[0] - start) < 1e-9 and shares[-1] == 1
    assert all(low <= high + 1e-9 for low, high in itertools.pairwise(shares))


def arranged(order: Order, scores: list[Any], seed: int = 7) -> Positions:
    rows = [{SCORE: score, "doc_id": keyed.digest(b"%d" % i)} for i, score in enumerate(scores)]
    return order.arrange(Pool.of(documents(rows), 7), seed)


def visited(order: Order, scores: list[Any], seed: int = 7) -> list[int]:
    return arranged(order, scores, seed).visits["document"].to_pylist()


# ---------------------------------------------------------------- paced


@pytest.mark.parametrize("pacing", [*SMALL, "competence"])
def test_what_becomes_available_at_a_step_is_visited_with_it(pacing: Any) -> None:
    order = visited(Paced(score=NAME, pacing=pacing, steps=12), [float(i * 7 % 100) for i in range(100)] + [None])
    ranks = [i * 7 % 100 if i < 100 else 100 for i in order]
    sizes = [round(available(pacing, Fraction(t, 12), 0.2, 0.8) * 100) for t in range(12)]
    assert ranks[100:] == [100]
    for size in sizes:
        assert set(ranks[:size]) == set(range(size))
    assert ranks[:20] != sorted(ranks[:20]), "what is new is shuffled"


# ---------------------------------------------------------------- clients

CLIENTS = {"x": [0.9, 0.1], "y": [0.2, 0.4], "z": [0.3, 0.1]}
LOSSES = [{TOPIC: client, SCORE: loss} for client, losses in CLIENTS.items() for loss in losses]


def of_clients(order: Clients, rows: list[dict[str, Any]]) -> list[int]:
    return order.arrange(Pool.of(documents(rows), 2), 7).visits["document"].to_pylist()


def test_o22_clients_open_in_the_order_of_their_mean_loss_and_each_has_a_curriculum_inside() -> None:
    assert [num_open_at(share, 3) for share in (0, 0.2, 1 / 3, 0.5, 0.7, 1)] == [0, 1, 1, 2, 3, 3]
    one_by_one = Clients(by=TOPIC, score=NAME, start=0.3, full=1, steps=1000)
    order = of_clients(one_by_one, [*LOSSES, {TOPIC: None, SCORE: 0.0}])
    assert order.index(1) < order.index(0) and order[-1] == 6
    firsts = [next(row for row in order if row in rows) for rows in ((4, 5), (2, 3), (0, 1))]
    assert sorted(firsts, key=order.index) == firsts == [5, 2, 1], "z, then y, then x, each with its easiest"
    hard_first = Clients(by=TOPIC, score=NAME, direction="anti_curriculum", start=0.3, full=1, steps=1000)
    assert of_clients(hard_first, LOSSES)[0] == 0


@pytest.mark.parametrize("pacing", ["linear", "step", "competence"])
def test_no_client_is_seen_before_it_opens_and_from_then_on_it_is_seen_evenly(pacing: Any) -> None:
    rows = [{TOPIC: f"c{i % 8}", SCORE: float(i % 8) + i / 1000} for i in range(800)]
    order = Clients(by=TOPIC, score=NAME, pacing=pacing, steps=10)
    visits = np.array(of_clients(order, rows))
    assert sorted(visits.tolist()) == list(range(800))
    opens = order.opens(8)[:8] / (1 << 30)
    shares = [available(pacing, Fraction(step, 10), 0.2, 0.8) for step in range(10)]
    for client in range(8):
        places = np.flatnonzero(visits % 8 == client)
        assert (np.diff(visits[places]) > 0).all(), "a client goes from easy to hard"
        first = next(step for step, share in enumerate(shares) if num_open_at(share, 8) > client)
        assert opens[client] == pytest.approx(first / 10)
        before = sum(100 * max(opens[client] - other, 0) / (1 - other) for other in opens)
        assert abs(places[0] - before) < 12, "it opens when as much is over as the schedule says"
        half = (1 + opens[client]) / 2
        seen = sum(100 * max(half - other, 0) / (1 - other) for other in opens)
        assert abs(places[50] - seen) < 12, "half of it is seen in half of what is left"


# ---------------------------------------------------------------- pooled


@pytest.mark.parametrize("epochs", [0, 0.5, 1, 2.5])
@pytest.mark.parametrize("pacing", ["linear", "step"])
def test_every_step_draws_from_its_pool_and_the_budget_is_kept(epochs: float, pacing: Any) -> None:
    order = Pooled(score=NAME, pacing=pacing, steps=10, epochs=epochs)
    positions = arranged(order, [float(i) for i in range(60)])
    visits = positions.visits["document"].to_numpy()
    assert len(visits) == 60 * epochs
    assert set(positions.left["document"].to_pylist()) == set(range(60)) - set(visits.tolist())
    for step in range(10):
        pool = pool_size(pacing, Fraction(step, 10), 0.2, 0.8, 60)
        drawn = visits[int(6 * epochs * step) : int(6 * epochs * (step + 1))]
        seen = np.bincount(drawn, minlength=60)
        assert not seen[pool:].any() and seen[:pool].max() - seen[:pool].min() <= 1


def test_more_steps_than_visits_draw_from_their_pools_too() -> None:
    score = [float(i) for i in range(7)]
    for order in (Pooled(score=NAME, steps=1000, epochs=3), Fixed(scores=(NAME,), least=15, steps=1000, epochs=3)):
        positions = arranged(order, score)
        visits = positions.visits["document"].to_pylist()
        assert len(visits) == 21
        assert sorted({*visits, *positions.left["document"].to_pylist()}) == list(range(7))
        for step, visit in enumerate(visits):  # the first steps have the visits, one each
            if isinstance(order, Pooled):
                assert visit < pool_size("linear", Fraction(step, 1000), 0.2, 0.8, 7)
            else:
                assert visit <= 7 * order.limit(step, 1000) / 100


# ---------------------------------------------------------------- fixed

O3: list[tuple[dict[str, Any], list[int]]] = [
    ({"schedule": "fixed_linear"}, [8, 16, 32, 48, 64, 64]),
    ({"schedule": "fixed_root"}, [8, 32, 40, 56, 64, 64]),
    ({"schedule": "fixed_root", "degree": 3}, [8, 40, 48, 56, 64, 64]),
]


@pytest.mark.parametrize(("options", "expected"), O3)
def test_o3_limits_rise_as_deepspeeds(options: dict[str, Any], expected: list[int]) -> None:
    order = Fixed(scores=(NAME,), least=8, greatest=64, multiple=8, full=0.5, steps=200, **options)
    assert [order.limit(step, order.steps) for step in (0, 25, 50, 75, 100, 150)] == expected


def test_a_limit_of_its_own_may_be_a_value_of_the_score() -> None:
    lengths = Metric(score=NAME, difficulty="value", least=8, greatest=64, multiple=8, full=0.5)
    assert [lengths.limit(step, 200) for step in (0, 25, 50, 75, 100, 150)] == [8, 16, 32, 48, 64, 64]
    assert Metric(score=NAME, difficulty="value", least=512, greatest=2048).limit(0, 10) == 512
    positions = arranged(Fixed(metrics=(lengths,), steps=4), [8.0, 20, 36, 64, 65, None] * 4)
    steps = positions.visits["document"].to_numpy().reshape(4, 6) % 6
    assert [step.max() for step in steps[:2]] == [0, 1] and steps.max() <= 3, "limits of 8, 32 and 64 twice"
    assert set(np.array(positions.left["document"].to_pylist()) % 6) >= {4, 5}
    assert positions.facts["fixed"]["smallest_pool"] == 4


def test_o3_a_discrete_limit_holds_up_to_its_step() -> None:
    order = Fixed(scores=(NAME,), schedule="fixed_discrete", limits=(1, 2, 3), until=(5, 10))
    assert [order.limit(step, order.steps) for step in (0, 5, 6, 10, 11)] == [1, 1, 2, 2, 3]


def test_o3b_a_pool_is_within_the_limit_of_every_score() -> None:
    rank_a, rank_b = [0, 1, 2, 3, 4, 5], [5, 0, 3, 1, 2, 4]
    each: dict[str, Any] = {"schedule": "fixed_discrete", "until": ()}
    by_share = Metric(score=NAME, limits=(67,), **each), Metric(score=ScoreName(EXACT), limits=(50,), **each)
    by_value = (
        Metric(score=NAME, limits=(3,), difficulty="value", **each),
        Metric(score=ScoreName(EXACT), limits=(2,), difficulty="value", **each),
    )
    of_both = documents([{SCORE: float(a), EXACT: b} for a, b in zip(rank_a, rank_b, strict=True)])
    for metrics in (by_share, by_value):
        positions = Fixed(metrics=metrics, steps=2).arrange(Pool.of(of_both), 7)
        assert set(positions.visits["document"].to_pylist()) == {1, 3}, (
            "the worked case: four by one, three by the other"
        )
        assert positions.facts["fixed"] == {"smallest_pool": 2, "empty_steps": 0}
    one_of_each = Fixed(
        scores=(NAME,), schedule="fixed_discrete", until=(), limits=(67,), metrics=by_share[1:], steps=1
    )
    mixed = one_of_each.arrange(Pool.of(of_both), 7)
    assert set(mixed.visits["document"].to_pylist()) == {1, 3}
    table = documents([{SCORE: float(a), EXACT: b} for a, b in zip(rank_a, rank_b, strict=True)])
    for limit, pool in ((3, {1}), (4, {1, 2, 3}), (5, {1, 2, 3, 4})):
        percent = -(-100 * limit // 6)
        order = Fixed(scores=(NAME, ScoreName(EXACT)), schedule="fixed_discrete", limits=(percent,), until=(), steps=1)
        positions = order.arrange(Pool.of(table), 7)
        assert set(positions.visits["document"].to_pylist()) == pool and positions.visits.num_rows == 6
        assert positions.facts["fixed"] == {"smallest_pool": len(pool), "empty_steps": 0}
        assert set(positions.left["document"].to_pylist()) == set(range(6)) - pool


# ---------------------------------------------------------------- cyclical

O2: list[tuple[Course, str]] = [
    ("cycle", "3 6 12 6 3 6 4"), ("sharp_cycle", "3 6 12 3 6 10"), ("lower_to_bigger", "3 6 12 12 7"),
    ("bigger_to_lower", "12 6 3 3 3 3 3 3 3 1"),
]  # fmt: skip


@pytest.mark.parametrize(("course", "expected"), O2)
def test_o2_steps_are_as_large_as_in_the_worked_cases(course: Course, expected: str) -> None:
    sizes = Cyclical(score=NAME, course=course, epochs=40 / 12).sizes(12)
    assert sizes == [int(word) for word in expected.split()]


def test_o2_a_pool_grows_and_shrinks_in_a_cycle() -> None:
    shares = itertools.islice(cycle("cycle", Fraction(1, 4), Fraction(1), Fraction(1, 2)), 6)
    assert list(map(float, shares)) == [0.25, 0.5, 1.0, 0.5, 0.25, 0.5]
    order = Pooled(score=NAME, pacing="cyclical", start=0.25, steps=6, epochs=1.5)
    assert order.pool_sizes(12) == [3, 6, 12, 6, 3, 6]
    visits = visited(order, [float(i) for i in range(12)])
    for step, size in enumerate(order.pool_sizes(12)):
        assert max(visits[3 * step : 3 * step + 3]) < size


def test_11_3_shares_grow_from_the_share_that_is_not_clipped() -> None:
    assert Cyclical(score=NAME, epochs=5).sizes(12) == [3, 6, 12, 6, 3, 6, 12, 6, 3, 3]
    sizes = Cyclical(score=NAME, least=0.22, factor=0.8, epochs=5).sizes(10_000)
    assert sizes[:8] == [2200, 2750, 3437, 4296, 5371, 6713, 8392, 10_000]


def test_o2b_a_document_weighs_less_for_one_step() -> None:
    weights = np.array([4.0, 2, 1, 1])
    np.testing.assert_allclose(aged(weights, np.array([0, 2])), [2.777777778, 2.0, 0.694444444, 1.0], atol=1e-9)
    assert weights.tolist() == [4, 2, 1, 1], "and no longer"
    first = aged(weights, np.array([0, 2]))
    np.testing.assert_allclose(first / first.sum(), [0.429184549, 0.309012876, 0.107296137, 0.154506438], atol=1e-9)


def test_o2c_two_draws_have_the_exact_inclusion_probabilities() -> None:
    trials, weights = 2_000, np.array([4.0, 2, 1, 1])
    chances = keyed.hashes(
        keyed.ids(np.column_stack([np.zeros(4 * trials), np.arange(4 * trials)]).astype(np.uint64)), 7, ""
    )
    drawn = [np.argsort(race(weights, chance), kind="stable")[:2] for chance in chances.reshape(trials, 4)]
    found = np.bincount(np.concatenate(drawn), minlength=4) / trials
    expected = np.array([0.80952381, 0.571428571, 0.30952381, 0.30952381])
    assert (np.abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / trials)).all()


def test_a_step_of_a_cycle_draws_nothing_twice_and_likely_documents_more_often() -> None:
    scores = [8.0 if i % 2 else 1.0 for i in range(40)] + [None, 0.0, -1.0]
    order = Cyclical(score=NAME, epochs=3)
    positions = arranged(order, scores)
    visits, first = positions.visits["document"].to_numpy(), 0
    for size in order.sizes(43):
        assert len(set(visits[first : first + size].tolist())) == size
        first += size
    assert first == len(visits) == 129
    quarter = visits[:10]
    assert (quarter % 2 == 1).sum() > 5 and quarter.max() < 40, "without a weight is drawn after all others"
    inverse = arranged(Cyclical(score=NAME, epochs=3, weight="inverse"), scores).visits["document"].to_numpy()[:10]
    assert (inverse % 2 == 0).sum() > 5 and inverse.max() < 40


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("paced", {"start": 1.2}, r"paced\.start=1\.2 is no share"),
    ("paced", {"full": 0}, r"paced\.full=0.0 is no share of the time"),
    ("clients", {"start": -0.1}, r"clients\.start=-0\.1 is no share"),
    ("pooled", {"steps": 0}, r"pooled\.steps=0 is no number of steps"),
    ("pooled", {"start": 0, "pacing": "cyclical"}, r"pooled\.start=0 never grows"),
    ("pooled", {"epochs": -1}, r"pooled\.epochs=-1.0 is no number of epochs"),
    ("fixed", {"scores": []}, r"fixed\.scores names no score"),
    ("fixed", {"scores": [SCORE], "least": 70, "greatest": 60}, "are no percentiles, the smaller one first:"),
    ("fixed", {"metrics": [{"score": SCORE, "least": 101, "greatest": 102}]}, "quality: least=101 .* no percentiles"),
    ("fixed", {"metrics": [{"score": SCORE, "least": 9, "greatest": 8, "difficulty": "value"}]}, "are no values"),
    ("fixed", {"scores": [SCORE], "limits": [1]}, r"fixed\.limits has 1 limits and fixed\.until 2 steps"),
    ("cyclical", {"least": 0}, r"cyclical\.least=0.0 and cyclical\.greatest=1.0 are no shares"),
    ("cyclical", {"least": 0.5, "greatest": 0.4}, "a small one and a large one"),
    ("cyclical", {"factor": 1}, r"cyclical\.factor=1.0 does not make a share smaller"),
    ("cyclical", {"epochs": float("nan")}, r"cyclical\.epochs=nan is no number"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_a_schedule_that_cannot_be_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        plugins.make("orders", name, {**({} if name == "fixed" else {"score": SCORE}), **options}, "order.using", Order)
