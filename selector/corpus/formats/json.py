"""JSON: an array of objects, or lines of JSON under another name.

An object is a row; what else stands in an array that has objects is a row too, and a bad one. A file of one object, of
an array without any, or of any other value, holds settings or the like: it has no rows. Where a bracket or a
quote of an array has no other, no row can be told from the next: those before it are read, and what follows is one bad
row, up to where an element ends again.
"""

import codecs
from collections.abc import Iterator
from io import BufferedIOBase, BufferedReader, RawIOBase
from typing import Any

import numpy as np

from selector.corpus.formats import Bad, Corrupt, NoRows, Range, Row, _json
from selector.corpus.formats._lines import Lines
from selector.corpus.formats._stream import BOM, Int64, Record, Start, Streamed, chunks

_SPACE = b" \t\r\n"
_QUOTE, _BACKSLASH, _OPENING, _CLOSING, _COMMA = range(1, 6)
_KINDS = np.zeros(256, np.uint8)
for _kind, _characters in ((_QUOTE, b'"'), (_BACKSLASH, b"\\"), (_OPENING, b"[{"), (_CLOSING, b"]}"), (_COMMA, b",")):
    _KINDS[list(_characters)] = _kind

_NOTHING = b","
"""What stands for an element that is not there."""

_BLOCK = 1 << 16  # bytes at the beginning by which lines are told from an array
_LONGEST = 64 << 20  # bytes of a first line that may tell that a file holds lines


class Json(Lines):
    """Arrays of objects. The context says whether a file is one."""

    stem = "json"
    stem_endings = (".json",)

    def start(self, file: BufferedIOBase) -> Start:
        block = file.read(_BLOCK)
        mark = len(BOM) if block.startswith(BOM) else 0
        content = block[mark:].lstrip(_SPACE)
        if not content:
            return Start(0, False)
        is_array, first = content[:1] == b"[", len(block) - len(content) + 1
        if is_array and content[1:].lstrip(_SPACE)[:1] in (b"{", b"]", b""):
            return Start(first, True)
        if b"\n" not in content:
            content += file.readline(_LONGEST)
        line, newline, rest = content.partition(b"\n")
        if newline and not rest.strip():
            rest += next((more for more in chunks(file) if more.strip()), b"")
        if rest.strip() and (_is_object(line) or _are_lines(rest, is_cut=len(block) == _BLOCK)):
            return Start(0, False)
        if is_array and _has_object(line[1:] + newline + rest, file):
            return Start(first, True)
        if not _is_text(block):
            raise Corrupt("it is not in UTF-8")
        raise NoRows("it is no array of objects")

    def parse(self, data: bytes, context: Any) -> Row:
        if data == _NOTHING:
            return Bad(reason="not_json", detail="nothing stands between two commas, or the array does not end")
        return super().parse(data, context)

    def records(self, file: BufferedIOBase, number: int, offset: int, context: Any, most: int) -> Iterator[Record]:
        return _elements(file, number, offset, most) if context else super().records(file, number, offset, None, most)

    def blocks(self, file: BufferedIOBase, offset: int, context: Any, rows_in_block: int) -> Iterator[Range]:
        kind = Streamed if context else Lines
        return kind.blocks(self, file, offset, context, rows_in_block)

    def bounds(self, file: BufferedIOBase) -> tuple[Int64, Int64]:
        kind = Streamed if self.start(file).context else Lines
        file.seek(0)
        return kind.bounds(self, file)


def _is_object(line: bytes) -> bool:
    return isinstance(_json.parse(line.rstrip()), dict)


def _are_lines(rest: bytes, *, is_cut: bool) -> bool:
    """Whether what follows the first line of a file tells that it holds lines, though that one is no object: of all
    lines at least half are."""
    lines = [line for line in rest.split(b"\n")[: -1 if is_cut else None] if line.strip()]
    return 2 * sum(map(_is_object, lines)) >= len(lines) + 1


def _has_object(inside: bytes, file: BufferedIOBase) -> bool:
    """Whether there is an object in an array of which this much has been read."""
    whole = BufferedReader(_Rest(inside, file))
    return any(record.data[:1] == b"{" for record in _elements(whole, 0, 0, 1))


def _is_text(block: bytes) -> bool:
    """Whether a file begins with bytes of UTF-8, perhaps cut within a character."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(block)
    except UnicodeDecodeError:
        return False
    return b"\0" not in block


class _Rest(RawIOBase):
    """A stream from before what was read of it last."""

    def __init__(self, again: bytes, file: BufferedIOBase) -> None:
        self._again = again
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._again[: len(buffer)] or self._file.read(len(buffer))
        self._again = self._again[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _elements(file: BufferedIOBase, number: int, offset: int, most: int) -> Iterator[Record]:
    """The elements of an array, from one that begins at this offset.

    A bracket that closes what was never opened ends an element, as a comma does. So what follows the end of the array
    is an element too, and where no end comes, there is one with nothing in it, which is bad.
    """
    scan, element = _Scan(), _Element(offset, most)
    is_over = False
    for chunk in chunks(file):
        begin = 0
        for end, is_closing in scan.ends(chunk):
            element.add(chunk[begin:end])
            is_over = is_closing
            if not is_closing or number or element.held:  # else nothing is in the array
                yield element.record(number)
                number += 1
            begin, element = end + 1, _Element(element.end + 1, most)
        element.add(chunk[begin:])
    if element.held:
        yield element.record(number)
        number, element, is_over = number + 1, _Element(element.end, most), False
    if not is_over and not scan.is_within:
        yield element.record(number)


class _Element:
    """An element of an array as it comes in: where it begins, its length, and as much of it as is held."""

    def __init__(self, offset: int, most: int) -> None:
        self.start = self.end = offset  # without and with the white space around it
        self.held = b""
        self._most = most

    def add(self, data: bytes) -> None:
        self.end += len(data)
        if not self.held:
            data = data.lstrip(_SPACE)
            self.start = self.end - len(data)
        self.held += data[: max(0, self._most + 1 - len(self.held))]

    def record(self, number: int) -> Record:
        length, content = self.end - self.start, self.held.rstrip(_SPACE)
        if length == len(self.held):
            length = len(content)
        return Record(number, self.start, length, self.end + 1, content or _NOTHING)


class _Scan:
    """Finds where the elements of an array end, chunk by chunk of its bytes."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_text = False  # a quote is open
        self._is_escaped = False  # the chunk before ended with an odd number of backslashes

    @property
    def is_within(self) -> bool:
        """Whether an element has begun that does not end yet."""
        return self._depth > 0 or self._is_text

    def ends(self, chunk: bytes) -> Iterator[tuple[int, bool]]:
        """The places of the commas between elements, and of brackets that close nothing, such as the array's own; and
        which of both each is."""
        kinds = _KINDS[np.frombuffer(chunk, np.uint8)]
        at = np.flatnonzero(kinds)
        kinds = kinds[at]
        is_quote = self._quotes(at, kinds, len(chunk))
        is_text = (np.cumsum(is_quote) - is_quote + self._is_text) % 2 == 1
        self._is_text = bool((is_quote.sum() + self._is_text) % 2)
        is_outside = (kinds >= _OPENING) & ~is_text
        at, kinds = at[is_outside], kinds[is_outside]
        steps = (kinds == _OPENING).astype(np.int64) - (kinds == _CLOSING)
        balance = np.concatenate([[self._depth], self._depth + np.cumsum(steps)])
        least = np.minimum.accumulate(np.minimum(balance, 0))
        self._depth = int(balance[-1] - least[-1])
        is_closing = np.diff(least) < 0
        is_end = is_closing | ((kinds == _COMMA) & (balance == least)[1:])
        return zip(at[is_end].tolist(), is_closing[is_end].tolist(), strict=True)

    def _quotes(self, at: Int64, kinds: Any, size: int) -> Any:
        """Which of these characters are quotes that no backslash escapes."""
        is_quote = kinds == _QUOTE
        is_backslash = kinds == _BACKSLASH
        if self._is_escaped and len(at) and at[0] == 0 and is_quote[0]:
            is_quote[0] = False
        if not is_backslash.any():
            self._is_escaped = False
            return is_quote
        places = np.arange(len(at))
        is_next = np.zeros(len(at), np.bool_)  # stands directly after the one before
        is_next[1:] = np.diff(at) == 1
        goes_on = is_backslash & is_next
        goes_on[1:] &= is_backslash[:-1]
        first = np.maximum.accumulate(np.where(goes_on, 0, places))  # of the run of backslashes
        num = places - first + 1 + (self._is_escaped & (at[first] == 0))
        is_odd = is_backslash & (num % 2 == 1)
        is_quote[1:] &= ~(is_odd[:-1] & is_next[1:])
        self._is_escaped = bool(is_odd[-1]) and int(at[-1]) == size - 1
        return is_quote
