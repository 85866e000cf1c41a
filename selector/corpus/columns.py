"""Columns of documents: where each is stored. What the corpus's own columns hold is in `selector.corpus.values`."""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of documents: its name, the step that writes it, and its place in that step's tables."""

    name: str
    step: str  # "" for what is known of a part without any step: its file, its texts
    table: str
    column: str
    type: pa.DataType | None = None  # None: known once the corpus was read
    meaning: str | None = None  # of a score: what a large one means, or "label"


def text(value: Any) -> str:
    """A value as text: itself, or its JSON; halves of surrogate pairs are written out."""
    spelt = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return spelt if spelt.isascii() else spelt.encode("utf-8", "backslashreplace").decode()
