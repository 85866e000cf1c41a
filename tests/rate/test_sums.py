"""What scores come to: parts add up to the whole, and nothing is rounded on the way."""

import datetime
import decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import tries
from selector.rate._sums import added, is_missing, mean_of, sums_of

MOMENT = datetime.datetime(2024, 1, 31, 12)
KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "numbers": (pa.float32(), st.floats(width=32, allow_nan=False, allow_infinity=False)),
    "whole numbers": (pa.int64(), st.integers(-(2**60), 2**60)),
    "days": (pa.date32(), st.dates(datetime.date(1600, 1, 1), datetime.date(2400, 1, 1))),
    "moments": (pa.timestamp("us"), st.integers(-(10**9), 10**9).map(lambda n: MOMENT + datetime.timedelta(seconds=n))),
    "decimals": (pa.decimal128(10, 2), st.integers(-(10**9), 10**9).map(lambda n: decimal.Decimal(n).scaleb(-2))),
}


def ratings(kind: pa.DataType, values: list[Any]) -> pa.Table:
    label = pa.dictionary(pa.int32(), pa.string())
    fields = [
        pa.field("score", kind, metadata={"higher_is": "better"}),
        pa.field("mood", label, metadata={"higher_is": "label"}),
    ]
    moods = pa.array(["glad" if value is not None else None for value in values], pa.string()).cast(label)
    return pa.Table.from_arrays([pa.array(values, kind), moods], schema=pa.schema(fields))


@pytest.mark.parametrize("kind", KINDS)
@tries(60)
@given(data=st.data())
def test_the_sums_of_parts_are_those_of_the_whole_and_a_mean_is_rounded_once(kind: str, data: st.DataObject) -> None:
    type_, values = KINDS[kind]
    parts: list[list[Any]] = data.draw(st.lists(st.lists(st.none() | values, max_size=8), min_size=1, max_size=4))
    together = added(sums_of(ratings(type_, part)) for part in parts)
    everything = [value for part in parts for value in part]
    whole = sums_of(ratings(type_, everything))
    assert together.equals(added([whole])) and together["score"].to_pylist() == ["score", "mood"]
    assert is_missing(together, "score") == is_missing(together, "mood") == (None in everything)
    present = [value for value in everything if value is not None]
    mean = mean_of(together, "score")[0]
    assert mean.type == type_
    if present and kind == "numbers":
        expected = float(sum(map(Fraction, present), start=Fraction()) / len(present))
        assert mean.equals(pa.scalar(expected, type_))
    elif present and kind == "whole numbers":
        assert mean.as_py() == round(Fraction(sum(present), len(present)))
    elif present:
        assert min(present) <= mean.as_py() <= max(present)
