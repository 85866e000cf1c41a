"""Canonical JSON: equal values have equal bytes, and they are those of RFC 8785."""

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector.engine.canonical import canonical_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=JSON)
def test_canonical_json_says_what_the_value_says_in_one_way(value: Any) -> None:
    try:
        data = canonical_json(value)
    except UnicodeEncodeError:
        return  # a lone surrogate has no UTF-8
    assert canonical_json(json.loads(data)) == data
    assert json.loads(data, parse_int=float) == json.loads(json.dumps(value), parse_int=float)


# RFC 8785, appendix B: the bits of a double, and how it is written.
NUMBERS = {
    "0000000000000000": "0", "8000000000000000": "0", "0000000000000001": "5e-324", "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308", "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992", "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000", "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23", "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000", "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21", "3eb0c6f7a0b5ed8c": "9.999999999999997e-7", "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332", "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333", "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343", "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}  # fmt: skip


@pytest.mark.parametrize(("bits", "written"), NUMBERS.items())
def test_numbers_are_written_as_rfc_8785_writes_them(bits: str, written: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical_json([number]) == f"[{written}]".encode()


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (1.0, "1"),
        (-0.0, "0"),
        (0.5, "0.5"),
        (1e16, "10000000000000000"),
        (1e21, "1e+21"),
        (1e-7, "1e-7"),
        (1e-5, "0.00001"),
    ],
)
def test_a_number_is_written_in_one_way_whatever_its_type(number: float, written: str) -> None:
    assert canonical_json(number) == canonical_json(np.float64(number)) == written.encode()
    if number.is_integer() and number < 1e21:
        assert canonical_json(int(number)) == written.encode()


def test_keys_are_sorted_as_rfc_8785_sorts_them() -> None:
    assert canonical_json({"\ufb33": 1, "\U0001f600": 2, "a": 3, "\r": 4, "1": 5}) == (
        '{"\\r":4,"1":5,"a":3,"\U0001f600":2,"\ufb33":1}'.encode()
    )


def test_canonical_json_refuses_what_json_does_not_have() -> None:
    with pytest.raises(TypeError, match="The key 1 is not text"):
        canonical_json({1: 2})
    with pytest.raises(TypeError, match="int64 is not JSON"):
        canonical_json([np.int64(1)])


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_canonical_json_refuses_what_is_no_number(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"score": [number]})
