"""A line of JSON to a row. Refuses what JSON readers disagree on: duplicate keys, NaN, deep nesting, bad UTF-8."""

import json
from collections import Counter
from io import BufferedIOBase
from typing import Any

from selector.corpus.formats import Bad, Row

BOM = b"\xef\xbb\xbf"
_MAX_DEPTH = 64


def next_line(file: BufferedIOBase, number: int, max_bytes: int) -> tuple[bytes, int]:
    """The next line, which has this number, and its length in the file; a byte order mark before line 0 is none of it.

    Of one that is longer than `max_bytes` only the beginning is ever held, and it is longer too.
    """
    most = max_bytes + len(BOM) + len(b"\r\n") + 1
    line = last = file.readline(most)
    length = len(line)
    while len(last) == most and not last.endswith(b"\n"):
        last = file.readline(most)
        length += len(last)
    return line.removeprefix(BOM) if number == 0 else line, length


def parse(line: bytes, max_bytes: int, length: int) -> Row:
    """The row that a line holds. `length` is that of the whole line, where `line` is only its beginning."""
    if length > max_bytes and len(line.rstrip(b"\r\n")) > max_bytes:
        return Bad(reason="too_long", detail=f"{length} bytes, and corpus.max_document_bytes is {max_bytes}")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return Bad(reason="not_utf8", detail=str(error))
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError:
        return Bad(reason="nested_too_deeply", detail="more levels than the parser can hold")
    except _Refused as refused:
        return Bad(reason=refused.reason, detail=refused.detail)
    except ValueError as error:
        return Bad(reason="not_json", detail=str(error))
    if not isinstance(value, dict):
        return Bad(reason="not_an_object", detail=f"a JSON {type(value).__name__}")
    if line.count(b"[") + line.count(b"{") > _MAX_DEPTH and _depth(value) > _MAX_DEPTH:
        return Bad(reason="nested_too_deeply", detail=f"more than {_MAX_DEPTH} levels")
    return value


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
