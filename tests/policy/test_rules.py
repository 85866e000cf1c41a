"""A table of rules over columns of every type, against counts by hand, and the same answer whatever the cut.

The values are stored by the steps that store them in a run. What is expected is said in plain Python: by operators on
the values as they were written, or row by row.
"""

import datetime
import itertools
import operator
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import MemoryStorage, text_of, write_jsonl
from selector.corpus import values
from selector.engine.local import LocalExecutor
from selector.engine.runner import Runner
from selector.engine.step import Done
from selector.engine.store import Store
from selector.errors import PolicyError
from selector.pipeline import build
from selector.plugins.catalogue import Catalogue
from selector.policy import Policy
from selector.policy.resolve import resolve
from selector.policy.where import Rule
from selector.steps import columns
from selector.steps.plan import Plan

TIME = datetime.time
NAN = float("nan")

day, moment = datetime.date.fromisoformat, datetime.datetime.fromisoformat


def told(read: Callable[[str], Any], words: str) -> list[Any]:
    return [None if word == "null" else read(word) for word in words.split()]


PARQUET: dict[str, tuple[pa.DataType, list[Any]]] = {
    "tiny": (pa.int8(), [-128, -1, 0, 1, 5, 5, 127, None, None]),
    "short": (pa.int16(), [-32768, -1, 0, 1, 5, 5, 32767, None, 300]),
    "whole": (pa.int32(), [-(2**31), -1, 0, 1, 5, 7, 2**31 - 1, None, 2**24 + 1]),
    "long": (pa.int64(), [-(2**63), -1, 0, 1, 2**53, 2**53 + 1, 2**63 - 1, None, 2**62]),
    "small": (pa.uint32(), [0, 1, 2, 5, 5, 2**31, 2**32 - 1, None, 100]),
    "wide": (pa.uint64(), [0, 1, 2, 2**53, 2**53 + 1, 2**63, 2**64 - 1, None, 5]),
    "half": (pa.float16(), [-1.5, -0.5, 0.0, 0.5, 1.0, 2.0, NAN, None, 100.0]),
    "single": (pa.float32(), [-1.5, -0.5, 0.0, 0.5, 1.0, 16777216.0, NAN, None, 0.25]),
    "double": (pa.float64(), [-1e300, -0.1, 0.0, 0.1, 0.5, float("inf"), NAN, None, float("-inf")]),
    "money": (
        pa.decimal128(12, 2),
        told(Decimal, "-9999999999.99 -0.01 0.00 0.01 1.10 1.20 9999999999.99 null 0.30"),
    ),
    "exact": (
        pa.decimal128(38, 10),
        told(Decimal, "-1.0000000001 0 0.0000000001 1 1.0000000001 2.5 null 12345678901234567890.0000000001 0.1"),
    ),
    "fine": (
        pa.decimal128(38, 37),
        told(Decimal, "-9.9 -1 0 0.5 1 1.5 null 9.9999999999999999999999999999999999999 0.25"),
    ),
    "day": (
        pa.date32(),
        told(day, "0001-01-01 1969-12-31 1970-01-01 2024-02-29 2024-07-01 2024-07-02 9999-12-31 null 2023-12-31"),
    ),
    "old": (
        pa.date64(),
        told(day, "1900-01-01 1969-12-31 1970-01-01 2024-02-29 2024-07-01 null 2024-07-01 2030-01-01 2024-01-01"),
    ),
    "second": (
        pa.timestamp("s"),
        told(
            moment,
            "1960-01-01 1970-01-01 2024-07-01 2024-07-01T00:00:01 2024-07-02 null 9999-12-31 2024-06-30T23:59:59"
            " 2024-07-01T12:00:00",
        ),
    ),
    "micro": (
        pa.timestamp("us"),
        told(
            moment,
            "1960-01-01 1970-01-01 2024-07-01 2024-07-01T00:00:00.000001 2024-07-01T00:00:00.000002 null"
            " 2024-07-01T12:30:00 2024-12-31 2024-01-01",
        ),
    ),
    "zoned": (
        pa.timestamp("ms", "Europe/Paris"),
        told(
            moment,
            "1960-01-01 1970-01-01 2024-07-01 2024-07-01T00:00:01 2024-07-02 null 2024-07-01T12:00:00 2024-12-31"
            " 2024-01-01",
        ),
    ),
    "clock": (
        pa.time32("ms"),
        told(TIME.fromisoformat, "00:00:00 00:00:01 06:30:00 12:00:00 12:00:00.001 23:59:59 null 18:00:00 12:00:00"),
    ),
    "instant": (
        pa.time64("ns"),
        told(TIME.fromisoformat, "00:00:00 00:00:01 06:30:00.000001 12:00:00 11:00:00 23:59:59 null 18:00:00 12:00:00"),
    ),
    "flag": (pa.bool_(), [True, False, True, None, False, True, None, True, False]),
    "word": (pa.string(), ["", "a", "b", "B", "5", "10", "it's", None, "é"]),
    "large": (pa.large_string(), ["", "a", "b", "B", "5", "10", "it's", None, "é"]),
    "coded": (pa.dictionary(pa.int8(), pa.string()), ["x", "y", "x", None, "z", "x", "y", "z", "w"]),
    "empty": (pa.null(), [None] * 9),
}  # fmt: skip

JSON: dict[str, list[Any]] = {
    "j_int": [-(2**63), -1, 0, 1, 2**53, 2**53 + 1, 2**63 - 1, None, 7],
    "j_wide": [0, 1, 2**63, 2**64 - 1, None, 5, 2**53 + 1, 2**53, 10],
    "j_huge": [-(10**30), 10**30, 10**30 + 1, 0, None, 1, 2, 3, 10**37],
    "j_float": [-1.5, 0.1, 0.5, 1e300, None, 0.25, -0.0, 3.5, 1e-300],
    "j_mixed": [1, 2.5, 2**53 - 1, -3, None, 0.1, 7, 8.0, -(2**53) + 1],
    "j_bool": [True, False, None, True, True, False, None, False, True],
    "j_text": ["5", "05", "", "five", None, "2024-07-01", "é", "a'b", "%"],
    "j_late": [None, None, None, None, None, None, None, None, 9],
    "j_list": [[1, 2], [], ["a"], None, [{"k": 1}], [1, 2], [None], [1.5], [True]],
}
NUM_ROWS = 9
NESTED = "meta.k"  # as j_int, one level down
DOTTED = '"meta.k"'  # as j_bool, in a name with a dot
UNITS_BEFORE_LATE = 8

Value = Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A rule, and the rows that pass."""

    rule: str
    passing: tuple[int, ...]


def column_values(name: str) -> list[Any]:
    """The values as they were written; NaN is missing."""
    if name in (NESTED, DOTTED):
        return JSON["j_int" if name == NESTED else "j_bool"]
    written = PARQUET[name][1] if name in PARQUET else JSON[name]
    return [None if isinstance(value, float) and value != value else value for value in written]


def rows_where(name: str, test: Value) -> tuple[int, ...]:
    """The rows whose value there is and passes."""
    return tuple(row for row, value in enumerate(column_values(name)) if value is not None and test(value))


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip

LITERALS: dict[str, list[tuple[str, Any]]] = {  # of each column what it is compared with: in SQL, and in Python
    "tiny": [("5", 5), ("-128", -128), ("1000", 1000), ("0.5", Decimal("0.5"))],
    "short": [("300", 300), ("-40000", -40000)],
    "whole": [("16777217", 2**24 + 1), ("9223372036854775808", 2**63), ("-1.0", -1)],
    "long": [("9007199254740993", 2**53 + 1), ("9223372036854775807", 2**63 - 1), ("-9223372036854775808", -(2**63))],
    "small": [("4294967295", 2**32 - 1), ("-1", -1)],
    "wide": [
        ("18446744073709551615", 2**64 - 1),
        ("9223372036854775808", 2**63),
        ("9007199254740993", 2**53 + 1),
        ("-1", -1),
    ],
    "half": [("0.5", 0.5), ("0", 0)],
    "single": [("0.25", 0.25), ("16777217", 16777217)],
    "double": [("0.1", 0.1), ("1e300", 1e300), ("0", 0)],
    "money": [("1.1", Decimal("1.1")), ("0.30", Decimal("0.3")), ("'0.01'", Decimal("0.01")), ("0", 0)],
    "exact": [("1.0000000001", Decimal("1.0000000001")), ("12345678901234567890", 12345678901234567890)],
    "fine": [
        ("100", 100),
        ("-1000", -1000),
        ("10000000000000000000000", 10**22),
        ("0.5", Decimal("0.5")),
        ("1.5e0", 1.5),
        ("1e30", 10**30),
        (f"{10**45}", 10**45),
    ],
    "day": [
        ("DATE '2024-07-01'", day("2024-07-01")),
        ("'2024-02-29'", day("2024-02-29")),
        ("'1969-12-31'", day("1969-12-31")),
    ],
    "old": [("DATE '2024-07-01'", day("2024-07-01")), ("'1970-01-01'", day("1970-01-01"))],
    "second": [
        ("'2024-07-01'", moment("2024-07-01")),
        ("TIMESTAMP '2024-07-01 00:00:01'", moment("2024-07-01T00:00:01")),
        ("'2024-07-01T00:00:00.5'", moment("2024-07-01T00:00:00.500000")),
    ],
    "micro": [
        ("'2024-07-01T00:00:00.000001'", moment("2024-07-01T00:00:00.000001")),
        ("DATE '2024-07-01'", moment("2024-07-01")),
    ],
    "zoned": [
        ("'2024-07-01T00:00:00Z'", moment("2024-07-01")),
        ("'2024-07-01T02:00:01+02:00'", moment("2024-07-01T00:00:01")),
    ],
    "clock": [("'12:00:00'", TIME(12)), ("TIME '00:00:01'", TIME(0, 0, 1))],
    "instant": [("'12:00:00'", TIME(12)), ("TIME '00:00:01'", TIME(0, 0, 1))],
    "flag": [("true", True), ("false", False)],
    "word": [("'a'", "a"), ("'it''s'", "it's"), ("'5'", "5"), ("''", "")],
    "large": [("'b'", "b")],
    "coded": [("'y'", "y")],
    "j_int": [("9007199254740993", 2**53 + 1), ("7", 7), ("-0.5", -0.5)],
    "j_wide": [("18446744073709551615", 2**64 - 1), ("9223372036854775808", 2**63), ("10", 10)],
    "j_huge": [("1000000000000000000000000000001", 10**30 + 1), ("2", 2)],
    "j_float": [("0.1", 0.1), ("0.25", 0.25)],
    "j_mixed": [("2.5", 2.5), ("7", 7), ("9007199254740991", 2**53 - 1)],
    "j_bool": [("true", True)],
    "j_text": [("'5'", "5"), ("'2024-07-01'", "2024-07-01")],
    "j_late": [("9", 9)],
    NESTED: [("9007199254740993", 2**53 + 1)],
    DOTTED: [("false", False)],
}


def compared() -> Iterator[Case]:
    """Every operator on every type."""
    for name, literals in LITERALS.items():
        for (written, value), (word, test) in itertools.product(literals, OPERATORS.items()):
            passing = rows_where(name, lambda held, test=test, value=value: test(held, value))
            yield Case(rule=f"{name} {word} {written}", passing=passing)


def of_nulls() -> Iterator[Case]:
    for name in (*PARQUET, *JSON):
        held = column_values(name)
        yield Case(rule=f"{name} IS NULL", passing=tuple(row for row, value in enumerate(held) if value is None))
        yield Case(
            rule=f"NOT {name} IS NULL", passing=tuple(row for row, value in enumerate(held) if value is not None)
        )


def by_hand() -> Iterator[Case]:
    """What is not said by an operator: the rows are counted by hand."""
    for line in BY_HAND.strip().splitlines():
        if not line.startswith("#"):
            rule, _, passing = line.rpartition("->")
            yield Case(rule=rule.strip(), passing=tuple(map(int, passing.split())))


BY_HAND = """
# Times of two units
instant > clock -> 2
clock <> instant -> 2 4
clock < '12:00:00.000000001' -> 0 1 2 3 8
# NULL logic
flag AND small > 1 -> 2 5
flag OR small > 1 -> 0 2 3 4 5 6 7 8
NOT flag -> 1 4 8
NOT (flag AND small > 1) -> 0 1 4 8
flag IS TRUE -> 0 2 5 7
flag IS NOT TRUE -> 1 3 4 6 8
flag = 1 -> 0 2 5 7
flag = 'true' -> 0 2 5 7
word = NULL ->
word <> NULL ->
word IS NOT DISTINCT FROM NULL -> 7
word IS DISTINCT FROM 'a' -> 0 2 3 4 5 6 7 8
COALESCE(tiny, 0) = 0 -> 2 7 8
COALESCE(word, 'none') = 'none' -> 7
COALESCE(double, 0) = 0 -> 2 6 7
nullif(tiny, 5) IS NULL -> 4 5 7 8
ifnull(tiny, 9) = 9 -> 7 8
if(flag, tiny, 0) = 0 -> 1 2 3 4 6 8
empty IS NULL -> 0 1 2 3 4 5 6 7 8
empty > 3 ->
empty = 'x' ->
NOT empty > 3 ->
lower(empty) = 'x' ->
year(empty) = 2024 ->
empty AND flag ->
empty OR flag -> 0 2 5 7
empty + 1 > 0 ->
# IN, BETWEEN, LIKE, CASE
tiny IN (0, 5) -> 2 4 5
tiny NOT IN (0, 5) -> 0 1 3 6
tiny NOT IN (0, NULL) ->
tiny IN (5, NULL) -> 4 5
tiny IN (5, 1e0) -> 3 4 5
tiny IN ('5') -> 4 5
tiny IN (9, 8, 7, 6, 5, 4, 3, 2, 1) -> 3 4 5
word IN ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i') -> 1 2
wide IN (18446744073709551615, 0) -> 0 6
wide IN (9, 8, 7, 6, 5, 4, 3, 18446744073709551615, 1) -> 1 6 8
long IN (9007199254740993) -> 5
day IN ('2024-07-01', DATE '2024-07-02') -> 4 5
money IN (1.1, 1.2) -> 4 5
double IN (0.1, 0.5) -> 3 4
double NOT IN (0.1) -> 0 1 2 4 5 8
tiny BETWEEN 0 AND 5 -> 2 3 4 5
tiny NOT BETWEEN 0 AND 5 -> 0 1 6
tiny BETWEEN 5 AND 0 ->
day BETWEEN '2024-01-01' AND '2024-07-01' -> 3 4
word BETWEEN 'a' AND 'b' -> 1 2
wide BETWEEN 9223372036854775808 AND 18446744073709551615 -> 5 6
money BETWEEN 1.1 AND 1.15 -> 4
word LIKE 'i%' -> 6
word LIKE '_' -> 1 2 3 4 8
word NOT LIKE '%' ->
word ILIKE 'b' -> 2 3
word ~ '^[0-9]+$' -> 4 5
j_text LIKE '5%' -> 0
j_text LIKE '\\%' ESCAPE '\\' -> 8
j_text LIKE '%''%' -> 7
starts_with(word, 'i') -> 6
length(word) = 1 -> 1 2 3 4 8
upper(word) = 'B' -> 2 3
word || 'z' = 'az' -> 1
concat(word, 'z') = 'z' -> 0 7
word SIMILAR TO 'a|b' -> 1 2
contains(word, '1') -> 5
CASE WHEN flag THEN tiny > 0 ELSE tiny < 0 END -> 1 5
CASE tiny WHEN 5 THEN true WHEN 1 THEN false END -> 4 5
CASE WHEN tiny > 0 THEN 'up' WHEN tiny < 0 THEN 'down' ELSE 'none' END = 'none' -> 2 7 8
CASE WHEN flag THEN wide ELSE long END > 2 -> 4 5 6 8
# arithmetic in 64 bits
tiny * 100 > 500 -> 6
tiny + tiny = 254 -> 6
tiny - 100 < 0 -> 0 1 2 3 4 5
small - 1 < 0 -> 0
-small < 0 -> 1 2 3 4 5 6 8
small - tiny > 4294967000 -> 6
small * 4294967297 > 0 -> 1 2 3 4 8
small + small > 4294967295 -> 5 6
whole * 1000000000 > 5000000000 -> 5 6 8
1000000000 * 1000000000 > tiny -> 0 1 2 3 4 5 6
long + 1 > long -> 0 1 2 3 4 5 8
long - 1 < long -> 1 2 3 4 5 6 8
-long > 0 -> 1
long * 2 IS NULL -> 0 6 7 8
abs(long) >= 0 -> 1 2 3 4 5 6 8
long + long > 0 -> 3 4 5
wide + 1 > 0 -> 0 1 2 3 4 8
wide - 1 < 0 -> 0
wide * 1 IS NULL -> 5 6 7
-wide <= 0 -> 0 1 2 3 4 8
j_huge + 0 IS NULL -> 0 1 2 4 8
j_int + 1 IS NULL -> 6 7
j_wide + 1 IS NULL -> 2 3 4
9223372036854775807 + tiny IS NULL -> 3 4 5 6 7 8
# division
tiny / 2 = 2.5 -> 4 5
tiny // 2 = 2 -> 4 5
tiny % 2 = 1 -> 3 4 5 6
tiny % 2 = -1 -> 1
tiny // 2 = 0 -> 1 2 3
tiny / 0 > 1 ->
tiny / 0 IS NULL -> 0 1 2 3 4 5 6 7 8
tiny // 0 = 0 ->
tiny % 0 = 0 ->
1 / tiny IS NULL -> 2 7 8
1 // tiny IS NULL -> 2 7 8
double / 0 IS NULL -> 0 1 2 3 4 5 6 7 8
money / 0 > 0 ->
0.0 / double IS NULL -> 2 6 7
NOT tiny / 0 > 1 ->
long // -1 = 1 -> 1
small / 5 * 5 = small -> 0 1 2 3 4 5 6 8
# floats
double > 0.5 -> 5
NOT double > 0.5 -> 0 1 2 3 4 8
double = double -> 0 1 2 3 4 5 8
double - double = 0 -> 0 1 2 3 4
double - double IS NULL -> 5 6 7 8
sqrt(double) IS NULL -> 0 1 6 7 8
sqrt(double) > 0 -> 3 4 5
half <> 1 -> 0 1 2 3 5 8
single < 16777217 -> 0 1 2 3 4 5 8
double < long -> 0 3 4 8
round(half) = 2 -> 5
CAST('nan' AS DOUBLE) > double ->
greatest(half, 0) = 0 -> 0 1 2 6 7
# decimals
money + 0.1 = 1.2 -> 4
money * 3 = 3.3 -> 4
money * money = 1.44 -> 5
money + money = 0.6 -> 8
exact - 1 = 0.0000000001 -> 4
exact * 10000000000 = 1 -> 2
money = exact ->
money <> exact -> 0 1 2 3 4 5 8
money > double -> 0 1 4 8
money > tiny -> 1 6
fine BETWEEN 0 AND 1000000 -> 2 3 4 5 7 8
NOT (fine > 1000) -> 0 1 2 3 4 5 7 8
fine IN (1, 2, 3, 4, 5, 6, 7, 8, 10) -> 4
fine NOT IN (1, 2, 3, 4, 5, 6, 7, 8, 10) -> 0 1 2 3 5 7 8
fine IN (1000, 0.25) -> 8
fine IS DISTINCT FROM 1000 -> 0 1 2 3 4 5 6 7 8
fine IS NOT DISTINCT FROM 1 -> 4
CASE fine WHEN 1000 THEN false ELSE true END -> 0 1 2 3 4 5 6 7 8
whole > fine -> 3 4 5 8
fine < j_huge -> 1 2 8
money > fine -> 1 4 8
COALESCE(fine, 0) = 0 -> 2 6
COALESCE(fine, whole) > 1 -> 5 7
exact > 12345678901234567168e0 -> 7
single < 16777216.5 -> 0 1 2 3 4 5 8
# numbers of two types, none of which loses a digit
long IS DISTINCT FROM 9007199254740992e0 -> 0 1 2 3 5 6 7 8
long IS NOT DISTINCT FROM 9007199254740992e0 -> 4
double IS NOT DISTINCT FROM NULL -> 6 7
COALESCE(long, 1e0) >= 9007199254740992 -> 4 8
ifnull(long, 1e0) = 1 -> 3 7
greatest(long, 0.5e0) > 1 -> 4 8
least(long, 1e30) IS NULL -> 5 6
CASE WHEN flag THEN long ELSE 1e0 END >= 1 -> 1 3 4 6 8
if(flag, long, 1e0) >= 1 -> 1 3 4 6 8
floor(long) = long -> 0 1 2 3 4 5 6 8
long IN (9, 8, 7, 6, 5, 4, 3, 2, 9007199254740992e0) -> 4
# arithmetic by its names
add(wide, 1) > 0 -> 0 1 2 3 4 8
subtract(wide, 1) < 0 -> 0
multiply(wide, wide) > 0 -> 1 2 8
divide(wide, 2) = 1 -> 2
divide(tiny, 0) IS NULL -> 0 1 2 3 4 5 6 7 8
mod(wide, 2) = 1 -> 1 4 8
abs(wide) > 0 -> 1 2 3 4 8
@wide > 0 -> 1 2 3 4 8
abs(CAST(tiny AS TINYINT)) = 128 -> 0
xor(wide, 1) = 0 -> 1
round(wide) IS NULL -> 5 6 7
lcm(wide, 2) > 0 -> 1 2 3 4 8
# days and moments
day IS NOT NULL -> 0 1 2 3 4 5 6 8
day + 1 = '2024-07-02' -> 4
day - DATE '2024-07-01' = 1 -> 5
year(day) = 2024 -> 3 4 5
day < '2024-07-01T12:00:00' -> 0 1 2 3 4 8
day >= '2024-07-01T12:00:00' -> 5 6
day = TIMESTAMP '2024-07-01' -> 4
day = old -> 1 2 3 4
day = second -> 6
old < second -> 0 1 2 3 4 6 8
date_trunc('month', day) = '2024-07-01' -> 4 5
extract(month from micro) = 7 -> 2 3 4 6
micro > second -> 7
micro - INTERVAL 1 HOUR >= '2024-07-01' -> 6 7
second < '2024-07-01T00:00:00.5' -> 0 1 2 7
second >= '2024-06-30T23:59:59.5' -> 2 3 4 6 8
zoned >= '2024-07-01' -> 2 3 4 6 7
zoned = TIMESTAMPTZ '2024-07-01 02:00:00+02' -> 2
zoned > micro -> 3 4
clock BETWEEN '06:00:00' AND '12:00:00' -> 2 3 8
CAST(day AS VARCHAR) = '2024-07-01' -> 4
day > '1969-12-31' AND day < '2024-02-29' -> 2 8
# text is text
CAST(word AS INTEGER) = 5 -> 4
TRY_CAST(word AS INTEGER) > 5 -> 5
word::DOUBLE = 10 -> 5
CAST(word AS INTEGER) IS NULL -> 0 1 2 3 6 7 8
CAST(tiny AS VARCHAR) = '5' -> 4 5
CAST(double AS INTEGER) IS NULL -> 0 5 6 7 8
CAST(j_text AS DATE) = '2024-07-01' -> 5
j_text > DATE '2024-01-01' -> 5
j_text = DATE '2024-07-01' -> 5
CAST(long AS SMALLINT) IS NULL -> 0 4 5 6 7 8
word < 'b' -> 0 1 3 4 5
word > 'it' -> 6 8
coded = 'x' OR coded = 'w' -> 0 2 5 8
j_list = '[1, 2]' -> 0 5
j_list LIKE '%a%' -> 2
j_list IS NULL -> 3
# names
corpus.tiny = 5 -> 4 5
corpus.meta.k = 7 -> 8
"tiny" = 5 -> 4 5
meta.k + 1 = 8 -> 8
"meta"."k" = 7 -> 8
"meta.k" AND meta.k > 0 -> 3 4 8
corpus."meta.k" IS NULL -> 2 6
at IS NOT NULL AND at < 3 -> 0 1 2
# floats and integers of JSON
j_mixed > 2.25 -> 1 2 6 7
j_mixed = 8 -> 7
j_mixed * 2 = 14 -> 6
j_late >= 5 -> 8
j_int = j_wide ->
j_int < j_wide -> 0 1 2 3 8
j_huge > j_wide -> 1 2 8
long = j_int -> 0 1 2 3 4 5 6
wide > long -> 0 1 2 3 4 5 6
j_float = -0.0 -> 6
"""

CASES = [*compared(), *of_nulls(), *by_hand()]


def rows() -> list[dict[str, Any]]:
    """The rows that hold the values of JSON."""
    return [
        {"text": text_of(number, 8), "row": number, "at": number}
        | {"meta": {"k": JSON["j_int"][number]}, "meta.k": JSON["j_bool"][number]}
        | {name: held[number] for name, held in JSON.items() if name != "j_late" or number >= UNITS_BEFORE_LATE}
        for number in range(NUM_ROWS)
    ]  # fmt: skip


def table(numbers: Sequence[int]) -> pa.Table:
    """These rows of the values of Parquet."""
    texts = [text_of(number, 8) for number in numbers]
    arrays = {
        name: pa.array([held[number] for number in numbers], pa.float32()).cast(kind)
        if kind == pa.float16()
        else pa.array([held[number] for number in numbers], kind)
        for name, (kind, held) in PARQUET.items()
    }
    return pa.table(
        {"text": texts, "row": pa.array(numbers, pa.int64()), "at": pa.array(numbers, pa.int16()), **arrays}
    )


def stored(paths: Sequence[Path], names: Sequence[str], rows_per_part: int | None) -> pa.Table:
    """What the steps of a run hold in these columns, in the order of the rows."""
    done = done_with(paths, names, rows_per_part)
    types = columns.types(done)
    parts = [
        pa.table({name: values.as_type(done.store.table(seal, values.table_of(name)), types[name]) for name in names})
        for seal in done["columns"].parts
    ]
    return pa.concat_tables(parts).sort_by("row")


def done_with(paths: Sequence[Path], names: Sequence[str], rows_per_part: int | None = None) -> Done:
    """The steps that read the corpus, done."""
    corpus = {"paths": [str(path) for path in paths], "rows_per_part": rows_per_part}
    policy = Policy.of(
        {"corpus": corpus, "select": {"budget": {"fraction": 1.0}, "using": "random"}, "rate": ["length"]}
    )
    plan = Plan.of(resolve(policy), "cpu")
    wanted = tuple(sorted(names))
    step = columns.Columns(survey=plan.survey, names=wanted, max_document_bytes=1 << 20)
    with Runner(Store(MemoryStorage()), LocalExecutor(workers=1)) as runner:
        return runner.run([plan.survey, plan.ingest, step])


Layout = tuple[int | None, tuple[tuple[int, ...], ...]]  # rows per part, and which rows each file has

ALL = tuple(range(NUM_ROWS))
THIRDS = (ALL[:2], ALL[2:5], ALL[5:])
LAYOUTS: dict[str, Layout] = {
    "one part": (None, (ALL,)),
    "parts of one row": (1, (ALL,)),
    "parts of seven rows": (7, (ALL,)),
    "three files": (None, THIRDS),
    "three files, last first": (None, THIRDS[::-1]),
    "three files, middle first": (2, (THIRDS[1], THIRDS[2], THIRDS[0])),
}


def parquet_and_json(layout: str, folder: Path) -> Mapping[str, pa.Table]:
    """The values as they are stored of both kinds of files, by a column's name."""
    rows_per_part, cut = LAYOUTS[layout]
    folder.mkdir(exist_ok=True)
    paths: dict[str, list[Path]] = {"parquet": [], "jsonl": []}
    for number, of_file in enumerate(cut):
        paths["parquet"].append(folder / f"{number}.parquet")
        pq.write_table(table(of_file), paths["parquet"][-1])
        every = rows()
        paths["jsonl"].append(write_jsonl(folder / f"{number}.jsonl", [every[row] for row in of_file]))
    of_parquet = stored(paths["parquet"], ["row", "at", *PARQUET], rows_per_part)
    of_json = stored(paths["jsonl"], ["row", "at", NESTED, DOTTED, *JSON], rows_per_part)
    return {"parquet": of_parquet, "json": of_json}


def passed(rule: Rule, tables: Mapping[str, pa.Table]) -> tuple[int, ...]:
    """The rows that a rule lets pass."""
    held = {
        column.name: next(held[column.column] for held in tables.values() if column.column in held.column_names)
        for column in rule.columns
    }
    return tuple(rule.test(pa.table(held)).nonzero()[0].tolist())


def check(cases: Sequence[Case], layout: str, folder: Path) -> None:
    tables = parquet_and_json(layout, folder / layout)
    wrong: list[str] = []
    for case in cases:
        try:
            got: Any = passed(Rule.of(case.rule, Catalogue()), tables)
        except PolicyError as error:
            got = error
        if got != case.passing:
            wrong.append(f"{case.rule}: wanted {case.passing}, got {got}")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(cases)}", *wrong])


def test_some_rules_pass_what_was_counted_by_hand(tmp_path: Path) -> None:
    check(CASES[::9], "three files, middle first", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_rule_passes_what_was_counted_by_hand_whatever_the_cut(layout: str, tmp_path: Path) -> None:
    assert len(CASES) > 650
    check(CASES, layout, tmp_path)


WHOLE_RUNS = {
    "long >= 9007199254740993": (5, 6, 8),
    "wide = 18446744073709551615": (6,),
    "double > 0.05": (3, 4, 5),
    "day >= '2024-07-01'": (4, 5, 6),
    "micro = '2024-07-01T00:00:00.000001'": (3,),
    "money * 3 = 3.3": (4,),
    "small - 1 < 0 OR num_tokens / 0 > 1": (0,),
    "coded = 'x' AND flag": (0, 2, 5),
}
"""Rules over the files of Parquet, and the rows that pass."""


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_whole_run_keeps_what_was_counted_by_hand_whatever_the_cut(layout: str, tmp_path: Path) -> None:
    """Also where a rater passes on the column that the rule names."""
    rows_per_part, cut = LAYOUTS[layout]
    for number, of_file in enumerate(cut):
        pq.write_table(table(of_file), tmp_path / f"{number}.parquet")
    for rule, passing in WHOLE_RUNS.items():
        column = rule.partition(" ")[0]
        policy = {
            "corpus": {"paths": [str(tmp_path / "*.parquet")], "rows_per_part": rows_per_part},
            "rate": [{"column": {"column": column, "higher_is": "better"}}]
            if column in ("long", "double")
            else ["length"],
            "select": {"where": rule, "budget": {"fraction": 1.0}, "using": "random"},
            "order": {"using": "shuffled"},
        }
        manifest = build(Policy.of(policy), root=str(tmp_path / "root"), executor=LocalExecutor(workers=1)).manifest
        rows = manifest.rows(0, len(manifest))
        kept = [cut[file][row] for file, row in zip(rows["file"].to_pylist(), rows["row"].to_pylist(), strict=True)]
        assert tuple(sorted(kept)) == passing, rule


SCORES: dict[str, pa.Array] = {
    "integers": pa.array([2**60 + 7 * n % 9 for n in range(9)]),
    "unsigned": pa.array([2**62 + 7 * n % 9 for n in range(9)], pa.uint64()),
    "nanoseconds": pa.array([1_700_000_000_000_000_000 + 7 * n % 9 for n in range(9)], pa.timestamp("ns", "UTC")),
    "far dates": pa.array([4_000_000 + 7 * n % 9 for n in range(9)], pa.date32()),
    "decimals": pa.array([Decimal(10**15 + 7 * n % 9) / 100 for n in range(9)], pa.decimal128(18, 2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("missing", ["drop", "last", "impute"])
def test_a_score_of_the_corpus_decides_by_its_last_digit(kind: str, missing: str, tmp_path: Path) -> None:
    texts = [text_of(number, 8) for number in range(9)]
    nested = pa.StructArray.from_arrays([SCORES[kind]], names=["x"])
    pq.write_table(pa.table({"text": texts, "meta": nested}), tmp_path / "a.parquet")
    policy = {
        "corpus": {"paths": [str(tmp_path / "a.parquet")]},
        "rate": [{"column": {"column": "meta.x", "higher_is": "better"}}],
        "select": {"budget": {"documents": 5}, "using": {"top": {"score": "meta.x"}}, "missing": missing},
        "order": {"using": {"by_score": {"score": "meta.x"}}},
        "manifest": {"quality": "meta.x"},
    }
    manifest = build(Policy.of(policy), root=str(tmp_path / "root"), executor=LocalExecutor(workers=1)).manifest
    assert manifest.rows(0, 5)["row"].to_pylist() == sorted(range(9), key=lambda n: 7 * n % 9)[4:]
    assert manifest.describe() and manifest.explain(manifest.at(0)["doc_id"])


class Drawn:
    """Rules drawn at random over the columns of Parquet."""

    FUNCTIONS = ("abs", "sqrt", "ln", "lower", "length", "year", "round", "floor", "sign", "trim", "epoch", "chr")
    TYPES = ("INTEGER", "BIGINT", "DOUBLE", "VARCHAR", "DATE", "TIMESTAMP", "DECIMAL(10,2)", "BOOLEAN", "UBIGINT")
    CONSTANTS = (
        "0", "-1", "5", "2.5", "1e3", "9223372036854775807", "18446744073709551615", "1e400", "'5'", "''", "NULL",
        "true", "'2024-07-01'", "DATE '2024-07-01'", "TIMESTAMP '2024-07-01 12:00:00'", "INTERVAL 1 DAY", "'12:00:00'",
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def _one(self, *kinds: str) -> str:
        return self._random.choice(kinds)

    def value(self, depth: int) -> str:
        if depth <= 0 or self._random.random() < 0.3:
            return self._one(*PARQUET, *self.CONSTANTS)
        a, b = self.value(depth - 1), self.value(depth - 1)
        return self._one(
            f"({a} {self._one('+', '-', '*', '/', '//', '%', '||', '**')} {b})",
            f"CAST({a} AS {self._one(*self.TYPES)})",
            f"{self._one(*self.FUNCTIONS)}({a})", f"COALESCE({a}, {b})", f"nullif({a}, {b})", f"greatest({a}, {b})",
            f"(- {a})", f"CASE WHEN {self.condition(depth - 1)} THEN {a} ELSE {b} END",
        )  # fmt: skip

    def condition(self, depth: int) -> str:
        a, b = self.value(depth), self.value(depth)
        compared = f"{a} {self._one('=', '<>', '<', '<=', '>', '>=', 'IS DISTINCT FROM', 'LIKE')} {b}"
        if depth <= 0:
            return compared
        return self._one(
            compared, f"{a} IN ({b}, {self._one(*self.CONSTANTS)})", f"{a} BETWEEN {b} AND {self.value(depth - 1)}",
            f"{a} IS NOT NULL", f"({self.condition(depth - 1)} OR {self.condition(depth - 1)})",
        )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_any_rule_is_refused_or_says_of_each_document_alone_true_false_or_null(seed: int) -> None:
    drawn, held, num_told = Drawn(seed), table(ALL), 0
    for number in range(200):
        text = drawn.condition(number % 3)
        try:
            rules = [Rule.of(said.format(text), Catalogue()) for said in ("{}", "NOT ({})", "({}) IS NULL")]
            columns = held.select([column.name for column in rules[0].columns])
            answers = [rule.test(columns).astype(int) for rule in rules]
        except PolicyError:
            continue
        num_told += 1
        assert (np.sum(answers, axis=0) == 1).all(), text
        alone = [rules[0].test(columns.slice(row, 1))[0] for row in ALL]
        assert alone == answers[0].astype(bool).tolist(), text
    assert num_told > 20
