"""Rows to documents: an id, a source and a size for each; a row that is no document goes to quarantine."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow as pa

from selector import tables
from selector.corpus import read, render, tokens
from selector.corpus.read import Bad
from selector.engine.part import Part, Task
from selector.engine.step import APART, Stage
from selector.engine.store import Store
from selector.exact import keyed


@dataclass(frozen=True, kw_only=True)
class Ingest(Stage):
    """Reads a part's rows: documents, and the rows that are none."""

    name = "ingest"
    output = "documents"
    libraries = ("tokenizers",)

    text: str
    key_column: str | None
    source_column: str | None
    max_document_bytes: int
    columns: tuple[str, ...]  # corpus columns that a rule wants to see, kept beside the document
    tokenizer: str = field(metadata=APART)
    tokenizer_sha256: str

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        part = task.part
        wanted = {*render.columns(self.text), *self.columns, self.key_column, self.source_column} - {None}
        ids: list[bytes] = []
        text_ids: list[bytes] = []
        numbers: list[int] = []
        sources: list[str] = []
        texts: list[str] = []
        extras: dict[str, list[Any]] = {name: [] for name in self.columns}
        lost: list[dict[str, Any]] = []
        mask = task.mask(np.arange(part.first_row, part.first_row + part.num_rows))
        rows = None if mask.all() else {part.first_row + int(index) for index in np.flatnonzero(mask)}
        for number, row in read.rows(part, [name for name in wanted if name], self.max_document_bytes, rows):
            made = row if isinstance(row, Bad) else self._document(row, part)
            if isinstance(made, Bad):
                lost.append({"row": number, "step": self.name, "reason": made.reason, "detail": made.detail[:500]})
                continue
            assert not isinstance(row, Bad)
            doc_id, text, source = made
            ids.append(doc_id)
            text_ids.append(keyed.digest(text.encode()) if self.key_column else doc_id)
            numbers.append(number)
            sources.append(source)
            texts.append(text)
            for name, values in extras.items():
                values.append(row.get(name))
        documents = pa.table(
            [
                pa.array(ids, tables.DOC_ID),
                pa.array(text_ids, tables.DOC_ID),
                pa.array(numbers, pa.uint32()),
                pa.array(sources, pa.string()).dictionary_encode(),
                pa.array([len(text.encode()) for text in texts], pa.uint32()),
                pa.array(tokens.count_tokens(self.tokenizer, self.tokenizer_sha256, texts), pa.uint32()),
            ],
            schema=tables.DOCUMENTS,
        )
        for name, values in extras.items():
            documents = documents.append_column(name, column(values))
        return {"documents": documents, "quarantine": pa.Table.from_pylist(lost, schema=tables.QUARANTINE)}

    def _document(self, row: Mapping[str, Any], part: Part) -> tuple[bytes, str, str] | Bad:
        """(doc_id, text, source) of a row."""
        try:
            text = render.render(row, self.text)
        except render.NoText as error:
            return Bad(reason=error.reason, detail=error.detail)
        num_bytes = len(text.encode())
        if num_bytes > self.max_document_bytes:
            return Bad(
                reason="too_long",
                detail=f"{num_bytes} bytes, and corpus.max_document_bytes is {self.max_document_bytes}",
            )
        for name in (self.key_column, self.source_column, *self.columns):
            value = row.get(name) if name else None
            if isinstance(value, str) and _utf8(value) != value:
                return Bad(reason="lone_surrogate", detail=f"the column {name!r} holds {value!r}")
        if self.key_column is None:
            doc_id = keyed.digest(text.encode())
        else:
            key = row.get(self.key_column)
            if not isinstance(key, (str, int)) or isinstance(key, bool) or key == "":
                return Bad(reason="no_key", detail=f"the column {self.key_column!r} holds {key!r}")
            doc_id = keyed.digest(str(key).encode())
        source = part.source
        if source is None:
            value = row.get(self.source_column) if self.source_column else None
            is_label = isinstance(value, (str, int)) and not isinstance(value, bool) and value != ""
            source = str(value) if is_label else file_label(part.uri)
        return doc_id, text, source


def file_label(uri: str) -> str:
    """What a document's source is called when nothing names one: its file, without endings."""
    return PurePath(uri).name.split(".")[0]


def column(values: Sequence[Any]) -> pa.Array:
    """Corpus values as an Arrow column: numbers stay numbers, anything else that is not text becomes its JSON."""
    present = [value for value in values if value is not None]
    if not present:
        return pa.nulls(len(values))
    if all(isinstance(value, bool) for value in present):
        return pa.array(values, pa.bool_())
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in present):
        return pa.array([None if value is None else _float(value) for value in values], pa.float64())
    return pa.array([None if value is None else _text(value) for value in values], pa.string())


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # JSON has no largest integer
        return math.inf if value > 0 else -math.inf


def _text(value: Any) -> str:
    return _utf8(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _utf8(text: str) -> str:
    """The text, with halves of surrogate pairs written out."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
