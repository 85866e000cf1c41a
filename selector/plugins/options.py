"""What an option of a plug-in can be beside a number or a word: the name of a score, a table from outside."""

import dataclasses
import typing
from typing import Any, NewType

Score = NewType("Score", str)
"""The name of a score: the pool then has a column of that name."""

Table = NewType("Table", str)
"""The path of a JSONL or Parquet file: `Pool.side` then has its rows."""

Texts = NewType("Texts", str)
"""The path of a JSONL or Parquet file with a column `text`: `Pool.side` then has its rows with their `embedding`."""


def options_of(plugin: Any, kind: Any) -> dict[str, str]:
    """The options of a plug-in of this type (or of it or None) that have a value, in the order of the fields."""
    hints = typing.get_type_hints(type(plugin))
    named = {
        field.name: getattr(plugin, field.name)
        for field in dataclasses.fields(plugin)
        if hints[field.name] is kind or kind in typing.get_args(hints[field.name])
    }
    return {name: value for name, value in named.items() if value is not None}
