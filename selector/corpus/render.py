"""The text of a document: what of a row is hashed, embedded, rated and trained on.

A policy's `corpus.text` is the name of a column, or a template of columns: "{instruction}\n{output}". Text
is taken as it is, without normalisation, and its UTF-8 bytes are what a doc_id hashes: so whoever reads
the row again, by any reader, gets the same id or notices that the row has changed.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any, cast

from selector.errors import PolicyError

# Chat formats: the keys of who speaks and of what is said.
_CHATS = (("role", "content"), ("from", "value"))

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
    """The columns that `text` reads, each once, in order. Raises PolicyError if it is not a template or a name."""
    return tuple(dict.fromkeys(_template(text)[1::2])) if _is_template(text) else (text,)


def render(row: Mapping[str, Any], text: str) -> str:
    """The canonical text of one row.

    A column holds a string, or a chat: a list of {"role", "content"} or {"from", "value"} messages, rendered
    as "role: content" blocks joined by a blank line. In a template `{{` and `}}` stand for braces, a null
    column for nothing; a row whose columns are all blank has no text, whatever the template says around them.

    Raises NoText with the reason missing_column, null_text, not_text, empty_text (only whitespace) or
    lone_surrogate (half of a UTF-16 pair, which has no UTF-8).
    """
    if _is_template(text):
        pieces = list(_template(text))
        pieces[1::2] = values = [_value(row, column, null="") for column in pieces[1::2]]
        rendered = "".join(pieces)
        is_empty = all(not value or value.isspace() for value in values)
    else:
        rendered = _value(row, text, null=None)
        is_empty = not rendered or rendered.isspace()
    if is_empty:
        raise NoText("empty_text", f"there is only whitespace in {' and '.join(map(repr, columns(text)))}")
    if not rendered.isascii():
        try:
            rendered.encode()
        except UnicodeEncodeError as error:
            raise NoText("lone_surrogate", f"character {error.start} is half of a surrogate pair") from error
    return rendered


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
            pieces += [token[1:-1], ""]
        else:
            pieces[-1] += token[:1] if token in ("{{", "}}") else token
    if len(pieces) == 1:
        raise PolicyError(f"corpus.text: the template {text!r} names no column. Write at least one, as {{column}}.")
    return tuple(pieces)


def _value(row: Mapping[str, Any], column: str, null: str | None) -> str:
    try:
        value = row[column]
    except KeyError:
        raise NoText("missing_column", f"there is no column {column!r}") from None
    if isinstance(value, str):
        return value
    if value is None:
        if null is None:
            raise NoText("null_text", f"column {column!r} is null")
        return null
    if isinstance(value, list):
        return "\n\n".join(_message(column, message) for message in cast(list[Any], value))
    raise NoText("not_text", f"column {column!r} holds {type(value).__name__}, not text or a list of messages")


def _message(column: str, message: Any) -> str:
    if isinstance(message, Mapping):
        fields = cast(Mapping[str, Any], message)
        for role, content in _CHATS:
            if isinstance(fields.get(role), str) and isinstance(fields.get(content), str | None) and content in fields:
                return f"{fields[role]}: {fields[content] or ''}"
    raise NoText("not_text", f"column {column!r} holds a list of something other than messages")
