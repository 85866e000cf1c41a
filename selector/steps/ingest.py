"""Ingest: rows become documents, each with an id, a source and a size; a row that is no document goes to quarantine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from selector import tables
from selector.corpus import fields, formats, render, tokens, values
from selector.engine.part import Piece, Task
from selector.engine.step import APART, Done, Map
from selector.engine.store import Store
from selector.exact import keyed
from selector.steps import survey
from selector.steps.survey import Survey

USUAL_SOURCE = "source"
"""The column of sources where a policy names none. A corpus need not have it, and then nothing is missing."""


@dataclass(frozen=True, kw_only=True)
class Ingest(Map):
    """The documents of a part, and the rows that are none. Where rows have no source, though there is a column for it,
    `without_source` has a row for each."""

    name: str = field(default="ingest", metadata=APART)
    version = 3
    output = "documents"
    libraries = ("tokenizers",)
    reads: tuple[str, ...] = field(default=("survey",), metadata=APART)

    survey: Survey = field(metadata=APART)
    text: str
    key_column: str | None
    source_column: str | None
    max_document_bytes: int
    tokenizer: str = field(metadata=APART)
    tokenizer_sha256: str
    keep_texts: bool = field(metadata=APART)  # beside the documents, so that no later step opens the corpus again
    columns: tuple[str, ...] = field(default=(), metadata=APART)  # of the corpus, whose values are set aside

    def rows_in(self, done: Done) -> int:
        return sum(part.num_rows for part in survey.parts(done, self.survey))

    def tasks(self, done: Done) -> Sequence[Task]:
        return [
            Task(key=self.key(part.rows, [[piece.source, file_label(piece.uri)] for piece in part.pieces]), part=part)
            for part in survey.parts(done, self.survey)
        ]

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        named = [fields.column_of(name) for name in (self.key_column, self.source_column) if name is not None]
        columns = list(dict.fromkeys([*render.file_columns(self.text), *render.MEDIA, *named]))
        ids: list[bytes] = []
        text_ids: list[bytes] = []
        places: list[int] = []
        sources: list[str] = []
        without_source = 0
        texts: list[str] = []
        sizes: list[int] = []
        offsets: list[int | None] = []
        lengths: list[int | None] = []
        lost: list[dict[str, Any]] = []
        gathering = values.Gathering(self.columns)
        for place, piece, read in formats.rows(task.part, columns, self.max_document_bytes, task.places):
            document = read.row if isinstance(read.row, formats.Bad) else self._document(read.row, piece)
            if isinstance(document, formats.Bad):
                detail = document.detail[:500]
                lost.append({"place": place, "step": self.name, "reason": document.reason, "detail": detail})
                continue
            ids.append(document.doc_id)
            text_ids.append(document.text_id)
            places.append(place)
            if document.source is None:
                without_source += 1
            sources.append(document.source or file_label(piece.uri))
            texts.append(document.text)
            sizes.append(document.num_bytes)
            offsets.append(read.byte_offset)
            lengths.append(read.byte_length)
            if self.columns and not isinstance(read.row, formats.Bad):
                gathering.add(place, read.row, piece)
        documents = pa.table(
            [
                pa.array(ids, tables.DOC_ID),
                pa.array(text_ids, tables.DOC_ID),
                pa.array(places, pa.uint32()),
                pa.array(sources, pa.string()).dictionary_encode(),
                pa.array(sizes, pa.uint32()),
                pa.array(tokens.count_tokens(self.tokenizer, self.tokenizer_sha256, texts), pa.uint32()),
                pa.array(offsets, pa.int64()),
                pa.array(lengths, pa.uint32()),
            ],
            schema=tables.DOCUMENTS,
        )
        texts_table = {"texts": pa.table([documents["place"], texts], schema=tables.TEXTS)} if self.keep_texts else {}
        quarantine = tables.quarantine(lost)
        labelled = {"without_source": pa.table({"source": pa.nulls(without_source)})}
        kept = gathering.tables(task.part, np.array(places, np.int64)) if self.columns else {}
        return {
            "documents": documents,
            **texts_table,
            **(labelled if without_source else {}),
            **kept,
            "quarantine": quarantine,
        }

    def _document(self, row: Mapping[str, Any], piece: Piece) -> "_Document | formats.Bad":
        """The document that a row is; Bad if it is none."""
        try:
            text = render.render(row, self.text)
        except render.NoText as error:
            return formats.Bad(reason=error.reason, detail=error.detail)
        data = text.encode()
        num_bytes = len(data)
        if num_bytes > self.max_document_bytes:
            return formats.Bad(
                reason="too_long",
                detail=f"{num_bytes} bytes, and corpus.max_document_bytes is {self.max_document_bytes}",
            )
        key = None
        if self.key_column is not None:
            value = fields.find(row, self.key_column)
            if value is fields.ABSENT:
                return formats.Bad(reason="no_key", detail=f"there is no column {self.key_column!r}")
            if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
                return formats.Bad(reason="no_key", detail=f"the column {self.key_column!r} holds {value!r}")
            key = str(value)
        source = piece.source
        if source is None:
            value = fields.ABSENT if self.source_column is None else fields.find(row, self.source_column)
            if value is fields.ABSENT:
                value = file_label(piece.uri) if self.source_column in (None, USUAL_SOURCE) else None
            source = render.label(value)
        for name, label in ((self.key_column, key), (self.source_column, source)):
            if label is not None and not _is_utf8(label):
                return formats.Bad(reason="lone_surrogate", detail=f"the column {name!r} holds {label!r}")
        text_id = keyed.digest(data)
        return _Document(
            doc_id=text_id if key is None else keyed.digest(key.encode()),
            text_id=text_id,
            text=text,
            num_bytes=num_bytes,
            source=source,
        )


class _Document(NamedTuple):
    """A row that is a document; no source where it is null."""

    doc_id: bytes
    text_id: bytes
    text: str
    num_bytes: int
    source: str | None


def _is_utf8(text: str) -> bool:
    """Whether a text has no half of a surrogate pair."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def file_label(uri: str) -> str:
    """What a document's source is called when nothing names one: its file, without endings, and never empty."""
    name = PurePath(uri).name
    dots = len(name) - len(name.lstrip("."))
    return name[:dots] + name[dots:].split(".")[0]
