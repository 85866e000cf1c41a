"""Quantising: what is left of a computed number."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from selector.exact import quantise

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20)


@given(FLOATS)
def test_quantising_is_monotone_and_idempotent_and_off_by_less_than_one_in_a_million(values: list[float]) -> None:
    before = np.sort(np.array(values, np.float32))
    after = quantise(before)
    assert after.dtype == np.float32
    assert np.isfinite(after).all()
    assert (np.diff(after.astype(np.float64)) >= 0).all()
    assert np.array_equal(quantise(after), after)
    normal = (np.abs(before) >= 2.0**-126) & (np.abs(before) < 3.4028e38)
    exact = before[normal].astype(np.float64)
    assert (np.abs(after[normal] - exact) <= 2.0**-21 * np.abs(exact)).all()


def test_quantising_hides_the_last_bits_of_a_float64_and_the_sign_of_zero() -> None:
    noisy = np.array([0.1 + 0.2, 0.3, np.nextafter(0.3, 0)]).astype(np.float32)
    assert len(set(quantise(noisy).tolist())) == 1
    zeros = quantise(np.array([-0.0, -1e-45], np.float32))
    assert (zeros == 0).all()
    assert not np.signbit(zeros).any()


def test_quantising_leaves_infinity_alone_and_never_makes_it() -> None:
    after = quantise(np.array([np.nan, np.inf, -np.inf, 3.4028235e38, -3.4028235e38], np.float32))
    assert np.isfinite(after).tolist() == [False, False, False, True, True]
    assert np.isinf(after).tolist() == [False, True, True, False, False]
