"""The tables of a part side by side: the only place where what several steps say of documents is put together.

Every table of a part follows the order of its rows, and each names the documents that it has. So a column is a
matter of lining up ids; a document that a later step lost has a null there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.corpus import formats, render, values
from selector.corpus.columns import Column
from selector.engine.part import Task
from selector.engine.store import Store
from selector.exact import keyed

LIVE = "dedup"
"""What the joiner calls the documents of a part that go on; everything is lined up with them."""

INGEST = "ingest"
"""What it calls all documents of a part, with their texts where these are kept."""

ATTACH = "attach/"
"""Begins the names of the steps that store tables from outside, one for each plug-in that has some."""

PLACE = Column(name="place", step=LIVE, table="documents", column="place", type=pa.uint32())
"""Where a document stands in its part: what tables of one part have in common."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads the documents of parts with any columns of `selector.plugins.catalogue`."""

    text: str  # what is text of a row, as the policy says it
    max_document_bytes: int
    types: Mapping[str, pa.DataType]  # of the corpus's own columns
    attached: Mapping[tuple[str, str], pa.Table]  # tables from outside that are keyed by doc_id, by step and name

    def read(self, store: Store, task: Task, columns: Iterable[Column]) -> pa.Table:
        """The documents of a task's part that go on, with these columns under their names; its `inputs` are the keys of
        the part's artefacts, by the step that wrote them."""
        live = live_documents(task, store)
        arrays: dict[str, Any] = {}
        wanted = list(columns)
        for step, table in dict.fromkeys((column.step, column.table) for column in wanted):
            here = [column for column in wanted if (column.step, column.table) == (step, table)]
            values_read = self._columns(store, task, live, step, table, here)
            arrays |= {column.name: values for column, values in zip(here, values_read, strict=True)}
        fields = [pa.field(column.name, arrays[column.name].type, metadata=_metadata_of(column)) for column in wanted]
        return pa.Table.from_arrays([arrays[field.name] for field in fields], schema=pa.schema(fields))

    def _columns(
        self, store: Store, task: Task, live: pa.Table, step: str, table: str, columns: Sequence[Column]
    ) -> list[pa.Array | pa.ChunkedArray]:
        if step == LIVE:
            return [live[column.column] for column in columns]
        if step == "":
            return [self._of_part(store, task, live, column) for column in columns]
        if step == INGEST:
            stored = store.read(task.inputs[step], table, ["place", *(column.column for column in columns)])
            taken = stored.take(pa.array(np.searchsorted(stored["place"].to_numpy(), live["place"].to_numpy())))
            return [taken[column.column] for column in columns]
        if step == "columns":
            return [self._of_corpus(store, task.inputs[step], live, column) for column in columns]
        if step.startswith(ATTACH):
            return [self._of_attached(live, self.attached[step, table], column) for column in columns]
        names = list(dict.fromkeys(column.column for column in columns))
        stored = store.read(task.inputs[step], table, ["doc_id", *names])
        rows = align(live["doc_id"], stored)
        taken = stored.take(pa.array(rows, mask=rows < 0))
        return [taken[column.column] for column in columns]

    def _of_part(self, store: Store, task: Task, live: pa.Table, column: Column) -> pa.Array:
        if column.column == "doc_draw":
            return pa.array(keyed.uniforms(live["doc_id"], 0, "doc_draw"))
        if column.column in ("file", "row"):
            files, rows = task.part.find(live["place"].to_numpy())
            return pa.array(files if column.column == "file" else rows)
        assert column.column == "text", column
        return texts_of(store, task, live, self.text, self.max_document_bytes)

    def _of_corpus(self, store: Store, key: str, live: pa.Table, column: Column) -> pa.Array:
        stored = store.read(key, values.table_of(column.column))
        held, wanted = stored["place"].to_numpy(), live["place"].to_numpy()
        rows = np.minimum(np.searchsorted(held, wanted), max(len(held) - 1, 0)).astype(np.int64)
        is_lost = held[rows] != wanted if len(held) else np.ones(len(wanted), np.bool_)
        return values.as_type(stored.take(pa.array(rows, mask=is_lost)), self.types[column.column])

    def _of_attached(self, live: pa.Table, attached: pa.Table, column: Column) -> pa.Array | pa.ChunkedArray:
        rows = find(live["doc_id"], attached["doc_id"])
        return attached[column.column].take(pa.array(rows, mask=rows < 0))


def _metadata_of(column: Column) -> dict[str, str] | None:
    """What the field of a score says: what a large one means."""
    return {"higher_is": column.meaning} if column.meaning is not None else None


def live_documents(task: Task, store: Store) -> pa.Table:
    """The documents of a task's part that go on, without those that a worker could not survive."""
    documents = store.read(task.inputs[LIVE], "documents")
    mask = task.mask(documents["place"].to_numpy())
    return documents if mask.all() else documents.filter(pa.array(mask))


def texts_of(store: Store, task: Task, documents: pa.Table, text: str, max_bytes: int) -> pa.Array:
    """The texts of these documents of a task's part, in their order: those that ingest stored, or else read again."""
    seal = store.find(task.inputs[INGEST])
    if seal is not None and "texts" in seal.tables:
        stored = store.table(seal, "texts")
        if not stored["place"].equals(documents["place"]):
            rows = np.searchsorted(stored["place"].to_numpy(), documents["place"].to_numpy())
            stored = stored.take(pa.array(rows))
        return tables.whole(stored["text"].cast(pa.string()))
    read = formats.rows(task.part, render.file_columns(text), max_bytes, documents["place"].to_numpy().astype(np.int64))
    texts = [render.render(one.row, text) for _, _, one in read if not isinstance(one.row, formats.Bad)]
    return pa.array(texts, pa.string())


def align(ids: pa.ChunkedArray | pa.Array, table: pa.Table) -> npt.NDArray[np.int64]:
    """For each id, the row of `table` with that doc_id, or -1 where a later step lost the document."""
    wanted, stored = keyed.words(ids), keyed.words(table["doc_id"])
    if wanted.shape == stored.shape and (wanted == stored).all():
        return np.arange(len(wanted), dtype=np.int64)
    return find(ids, table["doc_id"])


def find(ids: pa.ChunkedArray | pa.Array, among: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.int64]:
    """For each id, its first place among others, or -1 where it is not among them."""
    wanted, stored = keyed.sortable(ids), keyed.sortable(among)
    order = np.argsort(stored, kind="stable")
    if not len(order):
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(stored, wanted, sorter=order), len(order) - 1)
    places = order[at].astype(np.int64)
    return np.where(stored[places] == wanted, places, -1)


def state_columns(columns: Iterable[Column]) -> list[Column]:
    """The columns that say why a score has no value, for those of these that are scores."""
    return [
        Column(
            name=tables.state_of(column.name), step=column.step, table=column.table,
            column=tables.state_of(column.column), type=tables.LABEL,
        )
        for column in columns
        if column.meaning is not None
    ]  # fmt: skip
