"""Keys sort like the scores that they stand for, floats and exact ones."""

import datetime
import decimal
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector import exact

pytestmark = pytest.mark.slow

INT64 = st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1), st.sampled_from([2**53, 2**53 + 1, 20240131]))
DAYS = st.dates()
MOMENTS = st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31))
PRICES = st.integers(-(10**18) + 1, 10**18 - 1).map(lambda units: decimal.Decimal(units).scaleb(-4))
KINDS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.float32(), st.one_of(st.sampled_from([0.0, -0.0, 1.0]), st.floats(width=32, allow_nan=False))),
    (pa.int64(), INT64),
    (pa.int8(), st.integers(-128, 127)),
    (pa.uint32(), st.integers(0, 2**32 - 1)),
    (pa.date32(), DAYS),
    (pa.date64(), DAYS),
    (pa.timestamp("us"), MOMENTS),
    (pa.timestamp("us", "Europe/Zurich"), MOMENTS.map(lambda moment: moment.replace(tzinfo=datetime.UTC))),
    (pa.decimal128(18, 4), PRICES),
    (pa.decimal256(18, 4), PRICES),
]
by_kind = pytest.mark.parametrize(("kind", "values"), KINDS, ids=[str(kind) for kind, _ in KINDS])


def compared(keys: exact.UInt64, scores: list[Any], is_before: Callable[[Any, Any], bool]) -> None:
    for i, key in enumerate(keys):
        assert (key == exact.LAST) == (scores[i] is None)
        for j, other in enumerate(keys):
            if scores[i] is not None and scores[j] is not None:
                assert (key < other) == is_before(scores[i], scores[j])


@by_kind
@given(st.data())
def test_keys_sort_like_scores_of_every_type_with_null_last(
    kind: pa.DataType, values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    scores = data.draw(st.lists(st.one_of(st.none(), values), max_size=12))
    array = pa.array(scores, kind)
    told = (
        [None if score is None else min(max(score, 2 - 2**63), 2**63 - 3) for score in scores]
        if kind == pa.int64()
        else scores
    )
    ascending, descending = exact.ascending(array), exact.descending(array)
    compared(ascending, told, lambda a, b: a < b)
    compared(descending, told, lambda a, b: a > b)


@by_kind
@given(st.data())
def test_keys_of_a_piece_are_a_piece_of_the_keys(
    kind: pa.DataType, values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    scores = data.draw(st.lists(st.one_of(st.none(), values), max_size=12))
    start, end = data.draw(st.integers(0, 12)), data.draw(st.integers(0, 12))
    array = pa.array(scores, kind)
    chunks = pa.chunked_array([array[:start], array[start:]], kind)
    for keys in (exact.ascending, exact.descending):
        assert np.array_equal(keys(array[start:end]), keys(array)[start:end])
        assert np.array_equal(keys(chunks), keys(array))


def test_only_the_two_largest_integers_share_a_key_and_they_are_not_null() -> None:
    most, least = 2**63 - 1, -(2**63)
    array = pa.array([most, most - 1, most - 2, None, least, least + 1, least + 2], pa.int64())
    up, down = exact.ascending(array), exact.descending(array)
    assert up[0] == up[1] > up[2] > up[6] > up[5] > up[4]
    assert down[4] == down[5] > down[6] > down[2] > down[1] > down[0]
    assert (up[3], down[3]) == (exact.LAST, exact.LAST) and exact.LAST not in (up[0], down[4])


def test_twenty_bits_are_not_enough_for_a_date_written_as_a_number_but_it_is_compared_exactly() -> None:
    days = [20240131, 20240130, 20240128]
    assert np.argsort(exact.ascending(pa.array(days, pa.int64()))).tolist() == [2, 1, 0]


def test_nan_is_no_score() -> None:
    assert exact.ascending(pa.array([float("nan"), None], pa.float32())).tolist() == [int(exact.LAST)] * 2


def test_the_keys_of_floats_have_the_same_bits_everywhere() -> None:
    array = pa.array([-1.5, -0.0, 0.0, 1e-40, 2.5, None], pa.float32())
    assert [int(key >> np.uint64(32)) for key in exact.ascending(array)] == [
        0x403FFFFF, 0x80000000, 0x80000000, 0x800116C2, 0xC0200000, 0xFFFFFFFF,
    ], "changing this changes every user's data"  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (pa.decimal128(19, 0), r"a score of the type decimal128\(19, 0\) has more digits than the 18"),
        (pa.string(), "a score of the type string has no order"),
        (pa.dictionary(pa.int32(), pa.string()), "a score of the type dictionary<.*> has no order"),
        (pa.bool_(), "a score of the type bool has no order"),
    ],
)
def test_what_has_no_order_is_refused(kind: pa.DataType, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        exact.ascending(pa.array([None], kind))


@given(
    st.lists(st.one_of(st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324]), st.floats()), max_size=12)
)
def test_numbers_in_all_their_bits_sort_with_the_largest_first_and_nan_last(values: list[float]) -> None:
    keys = exact.largest_first(np.array(values, np.float64))
    scores = [None if math.isnan(value) else value for value in values]
    compared(keys, scores, lambda a, b: a > b)
