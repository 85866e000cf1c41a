"""Arithmetic that must not depend on the machine or on the order of its terms."""

import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from selector import exact

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCORES = st.lists(st.one_of(st.none(), st.sampled_from([0.0, -0.0, 1.0]), st.floats(width=32, allow_nan=False)))


@given(st.lists(FLOATS), st.lists(FLOATS))
def test_a_sum_by_parts_is_never_rounded(some: list[float], others: list[float]) -> None:
    parts = exact.parts(np.array(some)) + exact.parts(np.array(others))
    assert exact.total(parts) == sum(map(Fraction, some + others), start=Fraction())


@given(SCORES)
def test_keys_sort_like_scores_with_no_score_last(scores: list[float | None]) -> None:
    array = pa.array(scores, pa.float32())
    for keys, sign in ((exact.ascending(array), 1), (exact.descending(array), -1)):
        places = [(score is None, 0 if score is None else sign * score) for score in scores]
        assert [keys[i] < keys[j] for i in range(len(keys)) for j in range(len(keys))] == [
            a < b for a in places for b in places
        ]
        assert all((key == exact.LAST) == (score is None) for key, score in zip(keys, scores, strict=True))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1), st.integers(0, 3))))
def test_argsort_breaks_ties_by_id(rows: list[tuple[int, int, int]]) -> None:
    table = np.array(rows, np.uint64).reshape(-1, 3)
    order = exact.argsort(table[:, 0], table[:, 1:])
    assert [rows[i] for i in order] == sorted(rows)


@given(st.floats(1e-300, 1e300))
def test_log_is_right_to_the_last_bits(x: float) -> None:
    assert math.isclose(exact.log(np.array([x]))[0], math.log(x), rel_tol=1e-15, abs_tol=0)


@given(st.floats(-800, 709))
def test_expm1_is_right_to_the_last_bits(x: float) -> None:
    assert math.isclose(exact.expm1(np.array([x]))[0], math.expm1(x), rel_tol=1e-15, abs_tol=0)


def test_log_and_expm1_have_the_same_bits_everywhere() -> None:
    x = np.arange(1, 2000) * 0.37
    x = x * x * x
    bits = np.concatenate([exact.log(x), exact.expm1(x % 40 - 20)]).view(np.uint64)
    assert int(np.bitwise_xor.reduce(bits)) == 9122872267540483488, "changing this changes every user's data"
