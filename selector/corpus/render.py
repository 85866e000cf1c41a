"""The text of a document: what of a row is hashed, embedded, rated and trained on.

A policy's `corpus.text` is the name of a column, or a template of columns: "{instruction}\n{output}". Text
is taken as it is, without normalisation, and its UTF-8 bytes are what a doc_id hashes: so whoever reads
the row again, by any reader, gets the same id or notices that the row has changed.

Nothing that a row has there is left out without a word: a chat is rendered with every field of its messages and with
its tools, and where that cannot be done the row has no text, and says which field it was.
"""

import datetime
import decimal
import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from selector.corpus import fields
from selector.errors import PolicyError

# Chat formats: the keys of who speaks and of what is said.
_CHATS = (("role", "content"), ("from", "value"))

TOOLS = ("tools", "functions")
"""Columns beside a chat that belong to it: what its tool calls can call."""

MEDIA = ("images", "image", "videos", "video", "audios", "audio")
"""Columns beside a chat that belong to it and are no text: a row that has some is no document. Ingest asks for them;
whoever reads documents again need not, since these have none."""

_SPEAKERS = ("user", "assistant")
_LISTS_OF_TURNS = frozenset(
    ["chat", "conversation", "conversations", "dialog", "dialogs", "dialogue", "dialogues", "messages", "turns"]
)
"""Columns whose lists of texts are chats, in which two speakers take turns. Elsewhere such a list is not text."""

_NO_TEXT = re.compile("image|audio|video|file")
"""What a content part is called that is no text, nor can be told in text."""

_BRACE = re.compile(r"(\{\{|\}\}|\{[^{}]*\}|[{}])")


class NoText(Exception):
    """A row that has no text to offer: `reason` is one word for counting, `detail` a phrase for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def columns(text: str) -> tuple[str, ...]:
    """The columns that `text` names, each once, in order. Raises PolicyError if it is not a template or a name."""
    return tuple(dict.fromkeys(_template(text)[1::2])) if _is_template(text) else (text,)


@functools.lru_cache(maxsize=64)
def file_columns(text: str) -> tuple[str, ...]:
    """The columns of a file that `render` looks at, each once: those that `text` names, and those of a chat's tools,
    which a file need not have."""
    return tuple(dict.fromkeys([*map(fields.column_of, columns(text)), *TOOLS]))


def render(row: Mapping[str, Any], text: str) -> str:
    """The canonical text of one row.

    A column holds a string, or a chat: a list of {"role", "content"} or {"from", "value"} messages, rendered
    as "role: content" blocks joined by a blank line. Further fields of a message follow its content, a line each, as
    "name: value"; the tools beside a chat come before it, as a block of their own, unless the template names them. A
    chat with an image, a video or a sound in a column beside it has no text.
    Values that are not strings are JSON there; a field that is null or empty is none. In a column that is called
    like one, a list of strings is a chat too, of user and assistant in turn.

    In a template `{{` and `}}` stand for braces, a null column for nothing, a number or a boolean for its JSON; a row
    whose columns are all blank has no text, whatever the template says around them.

    Raises NoText with the reason missing_column, null_text, not_text (also where a part of it is none, such as an
    image), empty_text (only whitespace) or lone_surrogate (half of a UTF-16 pair, which has no UTF-8).
    """
    if _is_template(text):
        pieces = list(_template(text))
        pieces[1::2] = values = [_in_template(row, column, text) for column in pieces[1::2]]
        rendered = "".join(pieces)
        is_empty = all(not value or value.isspace() for value in values)
    else:
        rendered = _text_of(row, text, _value(row, text), (text,))
        is_empty = not rendered or rendered.isspace()
    if is_empty:
        raise NoText("empty_text", f"there is only whitespace in {' and '.join(map(repr, columns(text)))}")
    if not rendered.isascii():
        try:
            rendered.encode()
        except UnicodeEncodeError as error:
            raise NoText("lone_surrogate", f"character {error.start} is half of a surrogate pair") from error
    return rendered


def plain(value: Any) -> str | None:
    """A single value as text: a string as it is, numbers and booleans as in JSON, dates and the like in ISO form.

    None for null, for NaN, and for what holds other values or is no text at all (a list, an object, bytes).
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return None if _is_nan(value) else json.dumps(value)
    if isinstance(value, (int, decimal.Decimal, *_TIMES)):
        return str(value)
    return None


def label(value: Any) -> str | None:
    """Any value as text: `plain`, and the JSON of a list or an object; None for null, NaN and what is empty."""
    if _is_nothing(value):
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace") or None
    single = plain(value)
    return json.dumps(value, ensure_ascii=False, default=str) if single is None else single


_TIMES = (datetime.date, datetime.time, datetime.timedelta)  # a datetime is a date


def _is_template(text: str) -> bool:
    return "{" in text or "}" in text


@functools.lru_cache(maxsize=64)
def _template(text: str) -> tuple[str, ...]:
    """Literals at even places, columns at odd ones."""
    pieces = [""]
    for token in _BRACE.split(text):
        if token in ("{", "}", "{}"):
            raise PolicyError(
                f"corpus.text: the template {text!r} has a {token!r} that names no column."
                " Write {column}, and {{ or }} for a brace itself."
            )
        if token.startswith("{") and token != "{{":
            fields.path_of(token[1:-1])
            pieces += [token[1:-1], ""]
        else:
            pieces[-1] += token[:1] if token in ("{{", "}}") else token
    if len(pieces) == 1:
        raise PolicyError(f"corpus.text: the template {text!r} names no column. Write at least one, as {{column}}.")
    return tuple(pieces)


def _value(row: Mapping[str, Any], column: str) -> Any:
    value = fields.find(row, column)
    if value is fields.ABSENT:
        raise NoText("missing_column", f"there is no column {column!r}")
    return value


def _in_template(row: Mapping[str, Any], column: str, text: str) -> str:
    value = _value(row, column)
    if value is None or _is_nan(value):
        return ""
    single = plain(value)
    if single is not None:
        return single
    if fields.path_of(column)[-1] in TOOLS:
        return _as_json(f"column {column!r}", value)
    return _text_of(row, column, value, columns(text))


def _text_of(row: Mapping[str, Any], column: str, value: Any, named: Sequence[str]) -> str:
    """What a column holds, a string or a chat, as text; `named` are the columns that are rendered anyway."""
    if isinstance(value, str):
        return value
    if value is None:
        raise NoText("null_text", f"column {column!r} is null")
    if isinstance(value, list):
        turns = _turns(column, cast(list[Any], value))
        return "\n\n".join([*(_tools(row, column, named) if turns else ()), *turns])
    raise NoText("not_text", f"column {column!r} holds {type(value).__name__}, not text or a list of messages")


def _turns(column: str, chat: list[Any]) -> list[str]:
    """The messages of a chat, each as text."""
    is_list_of_texts = fields.path_of(column)[-1] in _LISTS_OF_TURNS and all(isinstance(turn, str) for turn in chat)
    if is_list_of_texts:
        return [f"{_SPEAKERS[number % len(_SPEAKERS)]}: {turn}" for number, turn in enumerate(chat)]
    return [
        _plain_message(message) or _message(f"column {column!r}, message {number}", message)
        for number, message in enumerate(chat)
    ]


def _plain_message(message: Any) -> str | None:
    """A message that has nothing but a speaker and a text, which most are; None: it has more, or is none."""
    if isinstance(message, dict) and len(cast(dict[str, Any], message)) == 2:
        for speaker, content in _CHATS:
            name, text = message.get(speaker), message.get(content)
            if isinstance(name, str) and isinstance(text, str):
                return f"{name}: {text}"
    return None


def _message(where: str, message: Any) -> str:
    if isinstance(message, Mapping):
        parts = cast(Mapping[str, Any], message)
        for speaker, content in _CHATS:
            more = [name for name, value in parts.items() if name not in (speaker, content) and not _is_nothing(value)]
            if isinstance(parts.get(speaker), str) and (content in parts or more):
                lines = [f"{parts[speaker]}: {_content(f'{where}, {content}', parts.get(content))}"]
                return "\n".join([*lines, *(f"{name}: {_field(f'{where}, {name}', parts[name])}" for name in more)])
    raise NoText("not_text", f"{where} is no message, which has {' or '.join(map(' and '.join, _CHATS))}")


def _tools(row: Mapping[str, Any], column: str, named: Sequence[str]) -> Iterator[str]:
    """The tools beside a chat, and beside the objects that it lies in, unless they are rendered anyway. Raises NoText
    where there is an image or the like."""
    path = fields.path_of(column)
    taken = {fields.path_of(name) for name in named}
    for depth in range(len(path)):
        for name in TOOLS:
            tools = fields.name_of((*path[:depth], name))
            value = fields.find(row, tools) if (*path[:depth], name) not in taken else None
            if value is not fields.ABSENT and not _is_nothing(value):
                yield f"{name}: {_field(f'column {tools!r}', value)}"
        for name in MEDIA:
            media = fields.name_of((*path[:depth], name))
            value = fields.find(row, media) if (*path[:depth], name) not in taken else None
            if value is not fields.ABSENT and not _is_nothing(value):
                raise NoText("not_text", f"the column {media!r} beside the chat is no text")


def _content(where: str, content: Any) -> str:
    """What a message says: a string, or a list of parts, those of the type text as their text, a line each."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return _part(where, content)
    return "\n".join(_part(f"{where}, part {i}", part) for i, part in enumerate(cast(list[Any], content)))


def _part(where: str, part: Any) -> str:
    if not isinstance(part, Mapping):
        return _field(where, part)
    given = {name: value for name, value in cast(Mapping[str, Any], part).items() if value is not None}
    kind = given.get("type", "text")
    if _NO_TEXT.search(str(kind)):
        raise NoText("not_text", f"{where} is of the type {kind!r}, which is no text")
    if kind == "text" and isinstance(given.get("text"), str) and given.keys() <= {"type", "text"}:
        return given["text"]
    return _as_json(where, given)


def _field(where: str, value: Any) -> str:
    single = plain(value)
    return _as_json(where, value) if single is None else single


def _is_nothing(value: Any) -> bool:
    return value is None or _is_nan(value) or (isinstance(value, (str, list, Mapping)) and not value)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _as_json(where: str, value: Any) -> str:
    """The JSON of a value, in which what JSON has no type for is its text. Raises NoText if it has none."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_known_text)
    except (TypeError, ValueError) as error:
        raise NoText("not_text", f"{where} cannot be rendered: {error}") from error


def _known_text(value: Any) -> str:
    text = plain(value)
    if text is None:
        raise TypeError(f"{type(value).__name__} is no text")
    return text
