"""Values of the corpus's own columns, and the one type that each column has over the whole corpus.

JSON says no type, and a part sees only its own values. So a part keeps values of every kind side by side, and says
which kinds it has met and where first. Once all parts have, each column gets one type, or is told to be a mixture with
the two places that disagree.

    integer   of 64 bits, with or without a sign, or else of at most 38 digits
    number    floats; with integers among them only where all of these are below 2^53
    spelt     text of a file in which everything is text: integers, numbers or booleans if all of a column is
    json      objects and lists, as their JSON: text to whoever reads the column, and `JSON` to whoever asks for types

Null has no kind, and NaN is null.
"""

import functools
import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from selector import tables
from selector.corpus import fields, formats
from selector.corpus.columns import text
from selector.engine.part import Part, Piece

SEEN = pa.schema(
    [
        ("name", pa.string()),
        ("kind", pa.string()),
        ("type", pa.string()),  # of the values as they are kept, spelt; null where there are none
        ("place", pa.uint32()),  # of the first one
        ("low", pa.string()),  # the least and the greatest integer or moment
        ("high", pa.string()),
        ("large", pa.uint32()),  # the place of the first integer that a float may not hold
    ]
)
"""The kinds of values that a part has of each column; of one that it has and that is always null, the kind `null`."""

KNOWN = pa.schema([("name", pa.string())])
"""Names of columns that a part has."""

_MOST_NAMES = 200  # that a part tells
_FLOAT_HOLDS = 1 << 53
_MOST_DIGITS = 38
_WIDEST = pa.decimal128(_MOST_DIGITS, 0)
_LARGE, _LARGE_NEGATIVE = (pa.scalar(sign * _FLOAT_HOLDS).cast(_WIDEST) for sign in (1, -1))
_DAY_MS = 86_400_000
_SPELT = {  # what text may spell, from narrow to wide
    "spelt boolean": r"^(true|false|True|False|TRUE|FALSE)$",
    "spelt integer": r"^-?(0|[1-9][0-9]{0,37})$",
    "spelt huge": r"^-?[1-9][0-9]{38,}$",
    "spelt number": r"^-?(0|[1-9][0-9]*)?\.[0-9]+([eE][+-]?[0-9]+)?$|^-?(0|[1-9][0-9]*)[eE][+-]?[0-9]+$"
    r"|^[+-]?(nan|NaN|NAN|inf|Inf|Infinity)$",
}
_UNITS = ("s", "ms", "us", "ns")

Places = npt.NDArray[np.int64]
_Lost = list[dict[str, Any]]


JSON = pa.json_()
"""What the type of a column of objects and lists is called where what is in them makes a difference: in a rule."""

pc: Any = pyarrow.compute  # whose functions are made when it is imported

LOST = pa.schema([("name", pa.string()), ("place", pa.int64()), ("detail", pa.string())])
"""Values that no type holds: of which column, where, and what is wrong with them."""

_NONE_LOST = LOST.empty_table()


class Gathering:
    """The values of some columns of a part, as its rows are read."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._rows: dict[bool, tuple[list[int], dict[str, list[Any]]]] = {}  # by whether their files are all text
        self._arrays: dict[str, list[tuple[Places, pa.Array]]] = defaultdict(list)
        self._known: dict[str, None] = {}
        self._shapes: set[tuple[str, ...]] = set()

    def add(self, place: int, row: Mapping[str, Any], piece: Piece) -> None:
        """Takes note of a row, unless its file says the types of its columns: `tables` reads that."""
        says_types, is_spelt = _of_format(piece.format)
        if says_types:
            return
        places, values = self._rows.setdefault(is_spelt, ([], {name: [] for name in self.names}))
        places.append(place)
        for name, held in values.items():
            held.append(fields.find(row, name))
        shape = tuple(row)
        if shape not in self._shapes:
            self._shapes.add(shape)
            self._add_known(fields.names_in(row, _MOST_NAMES))

    def tables(self, part: Part, all_places: Places) -> dict[str, pa.Table]:
        """The table `column.<name>` of each column, with a row for each of these places; `types`, `known`, `lost`."""
        self._read_arrays(part, all_places)
        lost: _Lost = []
        seen: list[dict[str, Any]] = []
        tables: dict[str, pa.Table] = {}
        for name in self.names:
            kept: dict[tuple[str, pa.DataType], list[tuple[Places, pa.Array]]] = defaultdict(list)
            is_there = False
            for is_spelt, (places, values) in self._rows.items():
                is_there |= any(value is not fields.ABSENT for value in values[name])
                at_places = np.array(places, np.int64)
                split = _texts(at_places, values[name]) if is_spelt else _split(at_places, values[name], name, lost)
                for kind, at, array in split:
                    kept[kind, array.type].append((at, array))
            for places, array in self._arrays[name]:
                is_there = True
                for kind, at, values in _typed(places, array, name, lost):
                    kept[kind, values.type].append((at, values))
            if is_there and not kept:
                seen.append({"name": name, "kind": "null"})
            columns: dict[str, pa.Array] = {"place": pa.array(all_places, pa.uint32())}
            for (kind, stored), pieces in sorted(kept.items(), key=lambda item: (item[0][0], str(item[0][1]))):
                at = np.concatenate([places for places, _ in pieces])
                values = pa.concat_arrays([array for _, array in pieces])
                seen += _seen(name, kind, at, values)
                rows = np.full(len(all_places), -1, np.int64)
                rows[np.searchsorted(all_places, at)] = np.arange(len(at))
                columns[f"{kind}:{stored}"] = values.take(pa.array(rows, mask=rows < 0))
            tables[table_of(name)] = pa.table(columns)
        tables["types"] = pa.Table.from_pylist(seen, schema=SEEN)
        tables["known"] = pa.table([list(self._known)], schema=KNOWN)
        tables["lost"] = pa.Table.from_pylist(lost, schema=LOST) if lost else _NONE_LOST
        return tables

    def _read_arrays(self, part: Part, all_places: Places) -> None:
        columns = {fields.column_of(name) for name in self.names}
        for first, piece in zip(part.firsts.tolist(), part.pieces, strict=False):
            start, stop = np.searchsorted(all_places, [first, first + piece.num_rows]).tolist()
            if start == stop or not _of_format(piece.format)[0]:
                continue
            lead = first - piece.first_row
            numbers = set((all_places[start:stop] - lead).tolist())
            arrays = formats.find(piece.format, piece.uri).arrays(piece, columns, numbers)
            for read, batch in arrays or ():
                self._add_known(fields.names_of(batch.schema))
                for name in self.names:
                    values = _inner(batch, fields.path_of(name))
                    if values is not None:
                        self._arrays[name].append((read + lead, values))

    def _add_known(self, names: Iterable[str]) -> None:
        for name in names:
            if len(self._known) >= _MOST_NAMES:
                return
            self._known[name] = None


def table_of(name: str) -> str:
    """The table of a column."""
    return f"column.{name}"


@functools.cache
def _of_format(name: str) -> tuple[bool, bool]:
    """Whether files of a format say the types of their columns, and whether everything in them is text."""
    form = formats.find(name, "a file")
    return type(form).arrays is not formats.Format.arrays, form.is_spelt


# ---------------------------------------------------------------- values as rows of a part hold them

_Kept = Iterator[tuple[str, Places, pa.Array]]


def _split(places: Places, values: Sequence[Any], name: str, lost: _Lost) -> _Kept:
    """The values of each kind, and their places."""
    by_kind: dict[str, tuple[list[int], list[Any]]] = {}
    for place, value in zip(places.tolist(), values, strict=True):
        if value is None or value is fields.ABSENT:
            continue
        kind = _KINDS.get(type(value), "json")
        if kind == "integer" and not -(10**_MOST_DIGITS) < value < 10**_MOST_DIGITS:
            digits = f"an integer of {len(str(value).lstrip('-'))} digits"
            lost.append({"name": name, "place": place, "detail": f"the column {name!r} holds {digits}"})
            continue
        if kind == "number" and math.isinf(value):  # which JSON cannot say: digits beyond any float
            lost.append(
                {"name": name, "place": place, "detail": f"the column {name!r} holds a number beyond any float"}
            )
            continue
        at, held = by_kind.setdefault(kind, ([], []))
        at.append(place)
        held.append(text(value) if kind in ("text", "json") else value)
    for kind, (at, held) in by_kind.items():
        yield kind, np.array(at, np.int64), pa.array(held, _integers(held) if kind == "integer" else _STORED[kind])


_KINDS: Mapping[type, str] = {
    bool: "boolean", int: "integer", Decimal: "integer", float: "number", str: "text"
}  # fmt: skip
_STORED: Mapping[str, pa.DataType] = {
    "boolean": pa.bool_(), "number": pa.float64(), "text": pa.string(), "json": pa.string()
}  # fmt: skip


def _integers(values: Sequence[int]) -> pa.DataType:
    return _integer_type(min(values), max(values))


def _integer_type(low: int, high: int) -> pa.DataType:
    """The narrowest type of integers that holds both."""
    if low >= -(2**63) and high < 2**63:
        return pa.int64()
    return pa.uint64() if low >= 0 and high < 2**64 else _WIDEST


def _texts(places: Places, values: Sequence[Any]) -> _Kept:
    """Texts of a file in which everything is text; an empty one is null."""
    at = [place for place, value in zip(places.tolist(), values, strict=True) if value and value is not fields.ABSENT]
    held = [text(value) for value in values if value and value is not fields.ABSENT]
    if held:
        yield "spelt", np.array(at, np.int64), pa.array(held, pa.string())


def _typed(places: Places, values: pa.Array, name: str, lost: _Lost) -> _Kept:
    """An Arrow array as it is kept: of its kind, in a type that stands for its like."""
    values = tables.whole(values)
    while isinstance(values, pa.ExtensionArray) or pa.types.is_dictionary(values.type):
        values = values.storage if isinstance(values, pa.ExtensionArray) else values.dictionary_decode()
    if pa.types.is_run_end_encoded(values.type):
        values = pc.run_end_decode(values)
    if pa.types.is_string_view(values.type) or pa.types.is_binary_view(values.type):  # which few functions take
        values = values.cast(pa.string() if pa.types.is_string_view(values.type) else pa.binary())
    if pa.types.is_floating(values.type):
        values = values.cast(pa.float32()) if pa.types.is_float16(values.type) else values
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    is_there = values.is_valid().to_numpy(zero_copy_only=False)
    places, values = places[is_there], values.filter(pa.array(is_there))
    if len(values):
        kind, stored = _kind_of(values.type)
        places, kept = _held(places, values, kind, stored, name, lost)
        if len(kept):
            yield kind, places, kept


def _kind_of(kind: pa.DataType) -> tuple[str, pa.DataType]:
    """The kind of an Arrow type's values, and the type in which they are kept."""
    is_ = pa.types
    if is_.is_boolean(kind):
        return "boolean", kind
    if is_.is_integer(kind):
        return "integer", kind if is_.is_uint64(kind) else pa.int64()
    if is_.is_floating(kind):
        return "number", kind
    if is_.is_decimal(kind):
        scale, whole = kind.scale, kind.precision - kind.scale
        return "decimal", pa.decimal128(min(_MOST_DIGITS, max(whole, 0) + max(scale, 0)), max(scale, 0))
    if is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind):
        return "text", pa.string()
    if is_.is_date(kind):
        return "date", pa.date32()
    if is_.is_time(kind):
        return "time of day", pa.time64("ns" if kind.unit == "ns" else "us")
    if is_.is_timestamp(kind):
        return ("moment" if kind.tz is None else "moment with a zone"), kind
    if is_.is_duration(kind):
        return "duration", kind
    if is_.is_binary(kind) or is_.is_large_binary(kind) or is_.is_binary_view(kind) or is_.is_fixed_size_binary(kind):
        return "bytes", pa.binary()
    return "json", pa.string()


def _held(
    places: Places, values: pa.Array, kind: str, stored: pa.DataType, name: str, lost: _Lost
) -> tuple[Places, pa.Array]:
    """The values in the type in which they are kept, without those that it does not hold."""
    try:
        if kind == "json":
            return places, pa.array([text(value) for value in _with_words(values).to_pylist()], pa.string())
        kept = _as_days(values) if pa.types.is_date64(values.type) else values.cast(stored)
        if kind == "text":
            kept.validate(full=True)
        return places, kept
    except (pa.ArrowException, ValueError, OverflowError) as error:
        if len(values) == 1:
            detail = str(error).splitlines()[0]
            problem = f"the column {name!r} holds what no type does: {detail}"
            lost.append({"name": name, "place": int(places[0]), "detail": problem})
            return places[:0], pa.array([], stored)
    halves = [
        _held(places[half], values[half], kind, stored, name, lost)
        for half in (slice(0, len(values) // 2), slice(len(values) // 2, len(values)))
    ]
    return np.concatenate([at for at, _ in halves]), pa.concat_arrays([kept for _, kept in halves])


def _as_days(values: pa.Array) -> pa.Array:
    """Dates in milliseconds as days: a time of day that they may have is none of a date."""
    days = np.floor_divide(values.cast(pa.int64()).to_numpy(), _DAY_MS)
    return pa.array(days).cast(pa.int32()).cast(pa.date32())


def _with_words(values: pa.Array) -> pa.Array:
    """Nested values with those spelt out that Python may not hold: dates, times and moments."""
    return values.cast(fields.with_leaves(values.type, _wordy))


def _wordy(kind: pa.DataType) -> pa.DataType:
    is_ = pa.types
    if is_.is_date(kind) or is_.is_time(kind) or is_.is_timestamp(kind):
        return pa.string()
    return pa.int64() if is_.is_duration(kind) else kind


def _inner(batch: pa.RecordBatch, path: Sequence[str]) -> pa.Array | None:
    """The values of a column, nested or not; None if there is none."""
    if batch.schema.get_field_index(path[0]) < 0:
        return None
    values = batch.column(path[0])
    for key in path[1:]:
        if pa.types.is_struct(values.type) and values.type.get_field_index(key) >= 0:
            values = pc.struct_field(values, key)
        elif fields.is_map(values.type):
            wanted = pa.scalar(key).cast(values.type.key_type)
            if not pc.any(pc.equal(values.keys, wanted)).as_py():
                return None  # it is a column of no row here
            values = pc.map_lookup(values, wanted, "last")
        else:
            return None
    return values


def _seen(name: str, kind: str, places: Places, values: pa.Array) -> Iterator[dict[str, Any]]:
    """What is noted of values of one kind."""
    noted = {"name": name, "type": spell(values.type)}
    if kind == "spelt":
        left = np.ones(len(values), np.bool_)
        for spelt, pattern in _SPELT.items():
            fits = pc.match_substring_regex(values, pattern).to_numpy(zero_copy_only=False) & left
            left &= ~fits
            if fits.any():
                yield (
                    noted
                    | {"kind": spelt, "place": int(places[fits].min())}
                    | _ends(spelt, places[fits], values.filter(pa.array(fits)))
                )
        if left.any():
            yield noted | {"kind": "spelt text", "place": int(places[left].min())}
    else:
        yield noted | {"kind": kind, "place": int(places.min())} | _ends(kind, places, values)


def _ends(kind: str, places: Places, values: pa.Array) -> dict[str, Any]:
    """The least and the greatest of integers and moments, and the first integer that a float may not hold."""
    if kind == "integer" and values.type == pa.int64():
        whole = values.to_numpy()
        is_large = (whole >= _FLOAT_HOLDS) | (whole <= -_FLOAT_HOLDS)
        large = int(places[is_large].min()) if is_large.any() else None
        return {"low": str(whole.min()), "high": str(whole.max()), "large": large}
    if kind in ("integer", "spelt integer"):
        numbers = values.cast(_WIDEST)
        is_large = pc.or_(pc.greater_equal(numbers, _LARGE), pc.less_equal(numbers, _LARGE_NEGATIVE)).to_numpy(
            zero_copy_only=False
        )
        ends = pc.min_max(numbers)
        return {
            "low": str(int(ends["min"].as_py())),
            "high": str(int(ends["max"].as_py())),
            "large": int(places[is_large].min()) if is_large.any() else None,
        }
    if kind.startswith("moment") or kind == "duration":
        ends = pc.min_max(values.cast(pa.int64()))
        return {"low": str(ends["min"].as_py()), "high": str(ends["max"].as_py())}
    return {}


# ---------------------------------------------------------------- one type for a column


@dataclass(frozen=True, kw_only=True)
class FirstOfKind:
    """A kind of values as a part met it first."""

    part: int
    kind: str
    type: pa.DataType
    place: int
    low: int | None
    high: int | None
    large: int | None


@dataclass(frozen=True, kw_only=True)
class ColumnType:
    """The type of a column; and where its values disagree, the two places that do, as (part, place, what is there)."""

    type: pa.DataType
    is_there: bool
    is_json: bool = False  # objects and lists
    disagree: tuple[tuple[int, int, str], tuple[int, int, str]] | None = None


def firsts_in(part: int, seen: pa.Table) -> Iterator[tuple[str, FirstOfKind | None]]:
    """What a part says of each column; None of one that it has and that is always null."""
    for row in seen.to_pylist():
        if row["type"] is None:
            yield row["name"], None
        else:
            yield row["name"], _first_of_kind(part, row)


def _first_of_kind(part: int, row: Mapping[str, Any]) -> FirstOfKind:
    ends = {key: None if row.get(key) is None else int(row[key]) for key in ("low", "high", "large")}
    return FirstOfKind(part=part, kind=row["kind"], type=unspell(row["type"]), place=row["place"], **ends)


def type_of(firsts: Sequence[FirstOfKind]) -> ColumnType:
    """The one type of a column of which the parts, in corpus order, have met these kinds."""
    resolved = _resolved({one.kind for one in firsts})
    by_kind: dict[str, list[FirstOfKind]] = defaultdict(list)
    for one in firsts:
        by_kind[resolved[one.kind]].append(one)
    kinds = set(by_kind)
    if not kinds:
        return ColumnType(type=pa.null(), is_there=False)
    if kinds == {"integer", "number"}:
        large = next((one for one in by_kind["integer"] if one.large is not None), None)
        if large is None:
            return ColumnType(type=pa.float64(), is_there=True)
        place = large.large if large.large is not None else large.place
        return _mixed((large, "an integer of 2^53 or more", place), _first(by_kind["number"]))
    if len(kinds) > 1:
        first, other = sorted((_first(ones) for ones in by_kind.values()), key=lambda at: (at[0].part, at[2]))[:2]
        return _mixed(first, other)
    ((kind, ones),) = by_kind.items()
    one_type = _of_kind(kind, ones)
    if one_type is None:
        other = next(one for one in ones if one.type != ones[0].type)
        return _mixed((ones[0], str(ones[0].type), ones[0].place), (other, str(other.type), other.place))
    return ColumnType(type=one_type, is_there=True, is_json=kind == "json")


_Place = tuple[FirstOfKind, str, int]


def _first(ones: Sequence[FirstOfKind]) -> _Place:
    one = min(ones, key=lambda one: (one.part, one.place))
    return one, _PHRASES.get(one.kind, f"a {one.kind}"), one.place


_PHRASES = {
    "integer": "an integer", "text": "text", "json": "an object or a list", "boolean": "true or false",
    "bytes": "bytes", "spelt text": "text", "spelt integer": "an integer", "spelt number": "a number",
    "spelt boolean": "true or false", "spelt huge": "an integer of more than 38 digits",
}  # fmt: skip


def _mixed(one: _Place, other: _Place) -> ColumnType:
    return ColumnType(
        type=pa.string(), is_there=True,
        disagree=((one[0].part, one[2], one[1]), (other[0].part, other[2], other[1])),
    )  # fmt: skip


def _resolved(kinds: Collection[str]) -> dict[str, str]:
    """What each kind of a column's values counts as beside the others: of text of a file in which everything is text,
    the kind that it spells, if all of the column is of such kinds."""
    spelt = {kind for kind in kinds if kind.startswith("spelt")}
    others = set(kinds) - spelt
    numbers = {"spelt integer", "spelt number", "spelt huge"}
    is_plain = (spelt == {"spelt boolean"} and others <= {"boolean"}) or (
        spelt <= numbers and others <= {"integer", "number"} and (spelt | others) != {"spelt huge"}
    )
    return {kind: kind if kind in others else kind.removeprefix("spelt ") if is_plain else "text" for kind in kinds}


def _of_kind(kind: str, ones: Sequence[FirstOfKind]) -> pa.DataType | None:
    """The type that holds all values of one kind; None if there is none."""
    types = list(dict.fromkeys(one.type for one in ones))
    lows, highs = ([end for one in ones if (end := getattr(one, name)) is not None] for name in ("low", "high"))
    if kind == "integer":
        return _integer_type(min(lows), max(highs))
    if kind == "number":
        return types[0] if len(types) == 1 and pa.types.is_floating(types[0]) else pa.float64()
    if kind == "decimal":
        scale = max(each.scale for each in types)
        digits = scale + max(each.precision - each.scale for each in types)
        return pa.decimal128(digits, scale) if digits <= _MOST_DIGITS else None
    if kind == "boolean":
        return pa.bool_()
    if kind in ("text", "json"):
        return pa.string()
    if kind.startswith("moment") or kind == "duration":
        unit = max((each.unit for each in types), key=_UNITS.index)
        for one in ones:
            scale = 1000 ** (_UNITS.index(unit) - _UNITS.index(one.type.unit))
            if one.low is None or one.high is None or one.low * scale < -(2**63) or one.high * scale >= 2**63:
                return None
        if kind == "duration":
            return pa.duration(unit)
        zones = {each.tz for each in types}
        return pa.timestamp(unit, zones.pop() if len(zones) == 1 else "UTC")
    return max(types, key=str)  # times of day in microseconds or nanoseconds; dates; bytes


def type_in(schema: pa.Schema, name: str) -> pa.DataType:
    """The type that the values of a column have, as a file with this schema holds them; null if it has none of it."""
    path = fields.path_of(name)
    if schema.get_field_index(path[0]) < 0:
        return pa.null()
    kind = schema.field(path[0]).type
    for key in path[1:]:
        if pa.types.is_struct(kind) and kind.get_field_index(key) >= 0:
            kind = kind.field(key).type
        elif fields.is_map(kind):
            kind = kind.item_type
        else:
            return pa.null()
    while isinstance(kind, pa.BaseExtensionType) or pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind.value_type
    if pa.types.is_null(kind):
        return kind
    named, stored = _kind_of(kind)
    return JSON if named == "json" else stored


def type_of_values(held: Sequence[Any]) -> pa.DataType:
    """The one type of values as rows of JSON hold them; null where there is none."""
    split = _split(np.arange(len(held)), held, "", [])
    firsts = [_first_of_kind(0, seen) for kind, at, array in split for seen in _seen("", kind, at, array)]
    column = type_of(firsts)
    return pa.null() if column.disagree is not None else JSON if column.is_json else column.type


def as_type(stored: pa.Table, kind: pa.DataType) -> pa.Array:
    """The values of a part's table of a column, in the type of the whole column."""
    columns = [
        _as(tables.whole(stored[name]), name.partition(":")[0], kind) for name in stored.column_names if name != "place"
    ]
    if not columns:
        return pa.nulls(stored.num_rows, kind)
    return columns[0] if len(columns) == 1 else pc.coalesce(*columns)


def _as(values: Any, held_as: str, kind: pa.DataType) -> pa.Array:
    values = tables.whole(values)
    if values.type == kind:
        return values
    if pa.types.is_string(kind):
        return _spelt_out(values)
    if held_as == "spelt" and pa.types.is_boolean(kind):
        return pc.equal(pc.utf8_lower(values), "true")
    numbers = values.cast(kind, safe=not pa.types.is_floating(kind))
    return pc.if_else(pc.is_nan(numbers), pa.scalar(None, kind), numbers) if pa.types.is_floating(kind) else numbers


def _spelt_out(values: pa.Array) -> pa.Array:
    """Values of any kind as text, as JSON writes them."""
    if pa.types.is_floating(values.type):
        return pa.array([None if value is None else _number(value) for value in values.to_pylist()], pa.string())
    if pa.types.is_boolean(values.type):
        return pa.array(["false", "true"]).take(values.cast(pa.int8()))
    if pa.types.is_binary(values.type):
        texts = [None if value is None else value.decode("utf-8", "backslashreplace") for value in values.to_pylist()]
        return pa.array(texts, pa.string())
    return values.cast(pa.string())


def _number(value: float) -> str:
    return json.dumps(value) if math.isfinite(value) else str(value)


@functools.lru_cache(maxsize=256)
def spell(kind: pa.DataType) -> str:
    """An Arrow type as text, whole: a timestamp with its unit and zone, a decimal with its digits."""
    return pa.schema([("value", kind)]).serialize().to_pybytes().hex()


def unspell(spelt: str) -> pa.DataType:
    """The type that was spelt."""
    return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(spelt))).field("value").type
