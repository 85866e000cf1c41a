"""Which arm is better: told by simulation, in which the truth is known."""

from typing import Any

import numpy as np
import pytest
from scipy.special import stdtrit

from selector.tune import comparison
from selector.tune.comparison import ALPHA, Decision, bootstrap, decide, estimate, holm, level

SEEDS, LEAST, DOCUMENTS = 6, 3, 40


def studied(truth: Any, number: int, noise: float = 1.0) -> tuple[Decision, int]:
    """What a study decides, seed after seed, and after how many: `truth` has the means of the arms by condition."""
    generator = np.random.default_rng(number)
    truth = np.atleast_2d(truth)
    arms = truth.shape[1]
    document, seed = generator.normal(0, 5, DOCUMENTS), generator.normal(0, 1, (SEEDS, 1))
    own = generator.normal(0, noise, (len(truth), arms, SEEDS, 1)) + generator.normal(
        0, noise, (len(truth), arms, SEEDS, DOCUMENTS)
    )
    values = truth[:, :, None, None] + document + seed + own
    weights = generator.uniform(1, 10, DOCUMENTS)
    names = [f"arm {i}" for i in range(arms)]
    decision = Decision(winner=None)
    for look, count in enumerate(range(LEAST, SEEDS + 1), 1):
        decision = decide(
            [[one[:, :count]] for one in values], weights, higher=False, names=names,
            conditions=[f"scale {i}" for i in range(len(truth))], settings=[""], look=look, looks=SEEDS - LEAST + 1,
        )  # fmt: skip
        if decision.is_separated:
            return decision, count
    return decision, SEEDS


@pytest.mark.parametrize("arms", [2, 5])
def test_identical_arms_come_out_undecided(arms: int) -> None:
    decided = [studied(np.zeros(arms), number)[0].winner is not None for number in range(100)]
    assert sum(decided) <= 5


def test_an_arm_that_is_better_by_a_known_margin_wins_within_six_seeds() -> None:
    outcomes = [studied([0.0, -6.0, 0.0], number) for number in range(100)]
    assert sum(decision.winner == 1 for decision, _ in outcomes) >= 95
    assert {count for _, count in outcomes} <= {3, 4, 5, 6}
    assert np.mean([count for _, count in outcomes]) < 6, "most need fewer"


def test_no_arm_wins_where_the_best_one_changes_with_the_scale() -> None:
    for number in range(20):
        decision, _ = studied([[-6.0, 0.0, 0.0], [0.0, -6.0, 0.0]], number)
        assert decision.winner is None and decision.reason.endswith(
            "arm 1 is ahead at scale 1, and behind arm 0 at scale 0"
        )


def test_an_arm_that_is_ahead_at_a_small_scale_within_the_noise_is_a_flag_and_forbids_no_winner() -> None:
    flagged = 0
    for number in range(40):
        decision, _ = studied([[0.0, 0.0, 0.0], [0.0, -6.0, 0.0]], number)
        flagged += any("at scale 0, which is not told from noise" in flag for flag in decision.flags)
        assert decision.winner == 1 or decision.reason
    won = sum(studied([[0.0, 0.0, 0.0], [0.0, -6.0, 0.0]], number)[0].winner == 1 for number in range(40))
    assert won >= 36 and flagged > 10


def test_a_winner_that_does_not_hold_at_a_setting_is_flagged() -> None:
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 0.1, (2, 2, 4, 10))
    values = [noise[0] + np.array([0.0, 9.0])[:, None, None], noise[1] + np.array([1.0, 0.0])[:, None, None]]
    decision = decide([values], np.ones(10), higher=False, names=["a", "b"], conditions=[""], settings=["slow", "fast"])
    assert decision.winner == 0 and decision.flags == ("b is the best at fast",)


def test_the_very_same_measurements_are_no_difference() -> None:
    values = np.broadcast_to(np.arange(12.0), (2, 4, 12))
    decision = decide([[values]], np.ones(12), higher=True, names=["a", "b"], conditions=[""], settings=[""])
    assert decision.winner is None and not decision.is_separated
    assert bootstrap(values, np.ones(12), higher=True).chance.tolist() == [0.5, 0.5]


def test_arms_with_the_same_measurements_have_the_same_chance_to_be_best() -> None:
    values = np.random.default_rng(2).normal(4, 1, (9, 5, 76))
    values[5:] = values[0]
    chance = bootstrap(values, np.random.default_rng(3).uniform(100, 192, 76), higher=False).chance
    assert (chance[5:] == chance[0]).all() and chance.sum() == pytest.approx(1)


def test_one_seed_decides_nothing() -> None:
    values = np.array([[[0.0]], [[100.0]]])
    decision = decide([[values]], np.ones(1), higher=True, names=["a", "b"], conditions=[""], settings=[""])
    assert decision.winner is None
    assert estimate(values[1], np.ones(1)).low == -np.inf


def test_an_interval_has_the_truth_as_often_as_it_says() -> None:
    inside, drawn_inside = 0, 0
    for number in range(80):
        generator = np.random.default_rng(number)
        values = generator.normal(0, 1, (1, 4, 1)) + generator.normal(0, 2, 30) + generator.normal(0, 1, (1, 4, 30))
        one = estimate(values[0], np.ones(30))
        drawn = bootstrap(values, np.ones(30), higher=True)
        inside += one.low <= 0 <= one.high
        drawn_inside += drawn.low[0] <= 0 <= drawn.high[0]
    assert inside >= 0.93 * 80 and drawn_inside >= 0.9 * 80


def test_an_estimate_of_one_number_per_seed_is_students() -> None:
    values = np.array([[1.0], [2.0], [4.0]])
    one = estimate(values, np.ones(1))
    error = values.std(ddof=1) / np.sqrt(3)
    assert one.mean == pytest.approx(7 / 3)
    assert one.high - one.mean == pytest.approx(stdtrit(2, 0.975) * error)


def test_holm_adjusts_for_the_number_of_pairs() -> None:
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]).tolist() == [] and holm([0.9, 0.8]).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("looks", [1, 2, 4, 9])
def test_all_looks_together_have_the_level(looks: int) -> None:
    levels = [level(look, looks) for look in range(1, looks + 1)]
    assert sum(levels) == pytest.approx(ALPHA) and levels == sorted(levels)


def test_more_draws_of_a_seed_are_the_same_draws() -> None:
    values = np.random.default_rng(1).normal(size=(3, 3, 20))
    one, same = (bootstrap(values, np.ones(20), higher=True, seed=5) for _ in range(2))
    assert (one.low == same.low).all() and (one.chance == same.chance).all() and one.chance.sum() == pytest.approx(1)
    assert comparison.DRAWS == 1000
