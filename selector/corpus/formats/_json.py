"""The bytes of a JSON object to a row. Refuses what readers of JSON disagree on: duplicate keys, NaN, deep nesting, bad
UTF-8."""

import decimal
import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from selector.corpus import formats
from selector.corpus.formats import Bad, Row

_MAX_DEPTH = 64


def parse(data: bytes) -> Row:
    """The row that these bytes hold."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return Bad(reason="not_utf8", detail=str(error))
    try:
        value = _loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError:
        return Bad(reason="nested_too_deeply", detail="more levels than the parser can hold")
    except _Refused as refused:
        return Bad(reason=refused.reason, detail=refused.detail)
    except ValueError as error:
        return Bad(reason="not_json", detail=str(error))
    if not isinstance(value, dict):
        return Bad(reason="not_an_object", detail=f"a JSON {type(value).__name__}")
    if data.count(b"[") + data.count(b"{") > _MAX_DEPTH and _depth(value) > _MAX_DEPTH:
        return Bad(reason="nested_too_deeply", detail=f"more than {_MAX_DEPTH} levels")
    return value


def values(
    path: str, rows: npt.NDArray[np.int64], data: Sequence[bytes], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """What rows hold in these columns, all parsed together. Raises CorpusError that names the first bad row."""
    try:
        parsed: list[Any] = _loads((b"[" + b",".join(data) + b"]").decode())
    except (ValueError, RecursionError):
        parsed = []
    if len(parsed) != len(data) or not all(type(value) is dict for value in parsed):
        parsed = [_value(path, row, one) for row, one in zip(rows.tolist(), data, strict=True)]
    return [{column: value[column] for column in columns if column in value} for value in parsed]


def _value(path: str, row: int, data: bytes) -> dict[str, Any]:
    try:
        value = _loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise formats.changed(path, f"row {row} is not JSON", str(error)) from error
    if not isinstance(value, dict):
        raise formats.changed(path, f"row {row} is not a JSON object")
    return value


def _loads(text: str, **hooks: Any) -> Any:
    """What a JSON text holds. An integer that is too long for Python's `int` is a decimal: it may stand in a column
    that nobody names."""
    try:
        return json.loads(text, **hooks)
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError):
            raise
        return json.loads(text, parse_int=_integer, **hooks)


def _integer(digits: str) -> int | decimal.Decimal:
    most = sys.get_int_max_str_digits()
    return int(digits) if most == 0 or len(digits) <= most else decimal.Decimal(digits)


class _Refused(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise _Refused("duplicate_json_key", f"the key {twice!r} is there twice")
    return value


def _constant(name: str) -> Any:
    raise _Refused("not_json", f"{name} is not a JSON number")


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level:
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth - 1
