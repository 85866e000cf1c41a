"""The rate step: hands a rater what it needs of a part's documents, and stores what it says of them."""

from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from selector.corpus import read
from selector.corpus.texts import align, live_documents, texts_of
from selector.engine.part import Task
from selector.engine.step import APART, Stage, versions
from selector.engine.store import Store
from selector.errors import PolicyError, did_you_mean
from selector.rate import Rater
from selector.rate._answer import ratings_table
from selector.steps.ingest import column

# What a rater may need, and the table beside the documents that it comes from.
_HOMES = {
    "text": None, "source": None, "num_bytes": None, "num_tokens": None,
    "embedding": "embeddings", "cluster": "clusters", "distance": "clusters",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Rate(Stage):
    """One rater's scores of a part's documents."""

    name = "rate"
    output = "ratings"

    rater: Rater
    label: str  # what the policy calls the rater
    text: str = field(metadata=APART)
    max_document_bytes: int = field(metadata=APART)

    @property
    def wants_gpu(self) -> bool:
        return self.rater.wants_gpu

    def identity(self) -> dict[str, Any]:
        return {
            "step": self.name,
            "rater": f"{type(self.rater).__module__}:{type(self.rater).__qualname__}",
            "version": [self.version, self.rater.version],
            "label": self.label,
            "options": asdict(self.rater),  # pyright: ignore[reportArgumentType]
            "libraries": versions(self.rater.libraries),
        }

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        fitted = store.read(task.inputs["fit"], "fit") if "fit" in task.inputs else None
        return {"ratings": ratings_table(self.rater, self.label, self.batch(task, store), fitted)}

    def batch(self, task: Task, store: Store) -> pa.RecordBatch:
        """What the rater needs to know of a part's documents, as one batch."""
        documents = live_documents(task, store)
        joined: dict[str, pa.Table] = {}
        for name in ("embeddings", "clusters"):
            if name in task.inputs:
                table = store.read(task.inputs[name], name)
                rows = align(documents["doc_id"], table)
                documents = documents.filter(pa.array(rows >= 0))
                joined = {other: found.filter(pa.array(rows >= 0)) for other, found in joined.items()}
                joined[name] = table.take(pa.array(rows[rows >= 0]))
        columns: dict[str, Any] = {"doc_id": documents["doc_id"]}
        for name in self.rater.needs:
            home = _HOMES.get(name)
            if name == "text":
                columns[name] = pa.array(
                    texts_of(task.part, documents, self.text, self.max_document_bytes), pa.string()
                )
            elif name.startswith("corpus."):
                columns[name] = self._corpus_column(task, documents, name.removeprefix("corpus."))
            else:
                columns[name] = (joined[home] if home else documents)[name]
        (batch,) = pa.table(columns).combine_chunks().to_batches() or [
            pa.RecordBatch.from_pylist([], pa.table(columns).schema)
        ]
        return batch

    def _corpus_column(self, task: Task, documents: pa.Table, name: str) -> pa.Array:
        wanted = set(documents["row"].to_pylist())
        rows = read.rows(task.part, [name], self.max_document_bytes, wanted)
        return column([None if isinstance(row, read.Bad) else row.get(name) for _, row in rows])


def inputs_of(rater: Rater) -> tuple[str, ...]:
    """The tables beside the documents that a rater reads. Raises PolicyError for a need that nothing meets."""
    homes: set[str] = set()
    for need in rater.needs:
        if need not in _HOMES and not need.startswith("corpus."):
            raise PolicyError(f"The rater {type(rater).__name__} needs {need!r}. {did_you_mean(need, _HOMES)}")
        home = _HOMES.get(need)
        if home is not None:
            homes.add(home)
    return tuple(sorted(homes))
