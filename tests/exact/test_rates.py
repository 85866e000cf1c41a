"""AdamW's averaging coefficients: the published figures, and what must hold of them."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector.exact.functions import sin
from selector.exact.rates import Schedule, Training, coefficients, kept

WSD = Schedule(peak=0.2, decay="wsd", falling=0.3, weight_decay=1)
LINEAR = Schedule(peak=0.2, decay="linear", weight_decay=1)
CONSTANT = Schedule(peak=0.2, decay="constant", weight_decay=1)
PUBLISHED: dict[str, tuple[Schedule, list[float], int]] = {
    "linear": (LINEAR, [0.0763, 0.0838, 0.0887, 0.0902, 0.0879, 0.0814, 0.0707, 0.0564, 0.0392, 0.0200], 3),
    "WSD 7+3": (WSD, [0.0339, 0.0424, 0.0530, 0.0663, 0.0828, 0.1035, 0.1294, 0.1618, 0.1244, 0.0667], 7),
    "constant": (CONSTANT, [0.2 * 0.8**after for after in range(9, -1, -1)], 9),
}
AVERAGED: dict[str, tuple[Schedule, list[float]]] = {
    "constant": (
        CONSTANT,
        [0.034113673, 0.042642091, 0.053302613, 0.066628267, 0.083285333, 0.104106667, 0.130133333, 0.162666667, 0.12,
         0.066666667],
    ),
    "linear": (
        LINEAR,
        [0.078461929, 0.086116751, 0.091128837, 0.092718294, 0.090310026, 0.083620395, 0.072713387, 0.058016, 0.0264,
         0.006666667],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PUBLISHED)
def test_11_5_coefficients_are_those_of_the_worked_case(case: str) -> None:
    schedule, expected, greatest = PUBLISHED[case]
    found = coefficients(schedule.rates(10))
    assert found == pytest.approx(expected, abs=5e-5) and int(np.argmax(found)) == greatest


@pytest.mark.parametrize("case", AVERAGED)
def test_o21_the_mean_of_checkpoints_has_the_coefficients_of_the_worked_case(case: str) -> None:
    schedule, expected = AVERAGED[case]
    found = coefficients(schedule.rates(10), [7, 8, 9])
    assert found == pytest.approx(expected, abs=1e-9)
    training = Training(global_batch_size=1, schedule=schedule, checkpoints=3)
    assert training.checkpoint_steps(10) == [8, 9, 10]
    assert training.counts(10) == pytest.approx(found / found.mean())


def slowly(alphas: list[float], after: list[int]) -> list[float]:
    """The definition, word for word."""
    return [
        alpha
        * sum(math.prod(1 - later for later in alphas[i + 1 : step + 1]) for step in after if i <= step)
        / len(after)
        for i, alpha in enumerate(alphas)
    ]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.data())
def test_the_coefficients_are_those_of_their_definition(alphas: list[float], data: Any) -> None:
    steps = st.lists(st.integers(0, len(alphas) - 1), min_size=1, max_size=5, unique=True)
    after = data.draw(steps)
    assert coefficients(np.array(alphas), after) == pytest.approx(slowly(alphas, after), abs=1e-12)
    found = coefficients(np.array(alphas))
    assert found == pytest.approx(slowly(alphas, [len(alphas) - 1]), abs=1e-12)
    assert found.sum() + math.prod(1 - alpha for alpha in alphas) == pytest.approx(1), (
        "what is not learned is as it was"
    )


@pytest.mark.parametrize("alpha", [3e-5, 0.2, 1.0])
def test_millions_of_steps_neither_overflow_nor_lose_the_last_ones(alpha: float) -> None:
    found = kept(np.full(2_000_000, alpha), [999_999, 1_999_999])
    assert np.isfinite(found).all() and found[-1] == 0.5
    tail = 0.5 * (1 - alpha) ** np.arange(50)[::-1]
    assert found[-50:] == pytest.approx(tail) and found[999_950:1_000_000] == pytest.approx(
        tail + found[1_000_000] * (1 - alpha) ** np.arange(1, 51)[::-1]
    )


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(peak=8, decay="constant", warmup=0.5), [2, 4, 6, 8, 8, 8, 8, 8]),
        (Schedule(peak=8, decay="linear"), [8, 7, 6, 5, 4, 3, 2, 1]),
        (Schedule(peak=8, decay="linear", warmup=0.5, final=0.5), [2, 4, 6, 8, 8, 7, 6, 5]),
        (Schedule(peak=8, decay="wsd", falling=0.25), [8, 8, 8, 8, 8, 8, 8, 4]),
        (Schedule(peak=6, decay="wsd", warmup=0.75, falling=0.25, final=0.5), [1, 2, 3, 4, 5, 6, 6, 4.5]),
        (Schedule(peak=8, decay="cosine", final=0.25), [2 + 3 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]),
    ],
)  # fmt: skip
def test_a_schedule_has_its_rates(schedule: Schedule, expected: list[float]) -> None:
    assert schedule.rates(8) == pytest.approx(expected)
    assert len(schedule.rates(0)) == 0 and (schedule.rates(1) > 0).all()


def test_the_sine_is_one() -> None:
    x = np.linspace(-math.pi / 2, math.pi / 2, 10_001)
    assert np.abs(sin(x) - np.sin(x)).max() < 5e-16


SCHEDULES = st.builds(
    Schedule,
    peak=st.sampled_from([3e-4, 0.01, 0.9]),
    decay=st.sampled_from(["constant", "linear", "cosine", "wsd"]),
    warmup=st.sampled_from([0.0, 0.01, 0.5]),
    final=st.sampled_from([0.0, 0.5, 1.0]),
    weight_decay=st.sampled_from([0.0, 0.1, 1.0]),
)


@given(SCHEDULES, st.integers(1, 300), st.integers(1, 90), st.integers(1, 4), st.integers(1, 9))
def test_an_average_visit_counts_1(schedule: Schedule, visits: int, size: int, checkpoints: int, every: int) -> None:
    training = Training(global_batch_size=size, schedule=schedule, checkpoints=checkpoints, every=every)
    steps = training.num_steps(visits)
    assert (steps - 1) * size < visits <= steps * size
    counts = training.counts(visits)[np.arange(visits) // size]
    assert len(training.counts(visits)) == steps and counts.mean() == pytest.approx(1)
    tenths = np.arange(visits) * 10 // visits
    for tenth, mean in enumerate(training.mean_counts(visits)):
        here = counts[tenths == tenth]
        assert (mean is None and not len(here)) or mean == pytest.approx(here.mean(), abs=1e-9)
    whole = training.whole_counts(visits)
    assert len(whole) == visits and whole.max() == 2**30
    assert training.checkpoint_steps(visits)[-1] == steps and len(training.checkpoint_steps(visits)) <= checkpoints


def test_an_order_without_visits_has_no_steps() -> None:
    training = Training(global_batch_size=8, schedule=LINEAR, checkpoints=3)
    assert (training.num_steps(0), training.checkpoint_steps(0), len(training.whole_counts(0))) == (0, [], 0)
    assert training.mean_counts(0) == [None] * 10
