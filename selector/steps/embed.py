"""Embed: one unit vector per document."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from selector import tables
from selector.corpus.joined import INGEST, LIVE, live_documents, texts_of
from selector.engine.part import Resources, Task
from selector.engine.step import APART, Done, Map
from selector.engine.store import Store
from selector.exact.vectors import vector_column
from selector.models.encoder import Encoder
from selector.steps import dedup, survey
from selector.steps.survey import Survey


@dataclass(frozen=True, kw_only=True)
class Embed(Map):
    """The vectors of a part's documents. A result is filed under its texts, so that it outlives any other change."""

    name: str = field(default="embed", metadata=APART)
    output = "embeddings"
    reads: tuple[str, ...] = field(default=("survey", "ingest", "dedup"), metadata=APART)

    survey: Survey = field(metadata=APART)
    encoder: Encoder
    text: str = field(metadata=APART)
    max_document_bytes: int = field(metadata=APART)

    @property
    def resources(self) -> Resources:
        return Resources(gpus=1)

    def identity(self) -> dict[str, Any]:
        return {"step": self.name, "version": self.version, "encoder": self.encoder.identity()}

    def rows_in(self, done: Done) -> int:
        return done["dedup"].rows_out

    def tasks(self, done: Done) -> Sequence[Task]:
        return [
            Task(key=self.key(share["texts"]), part=part, inputs={LIVE: share["key"], INGEST: ingested.key})
            for part, share, ingested in zip(
                survey.parts(done, self.survey), dedup.shares(done), done["ingest"].parts, strict=True
            )
        ]

    def prepare(self, task: Task, store: Store) -> None:
        self.encoder.load()

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        documents = live_documents(task, store)
        texts = texts_of(store, task, documents, self.text, self.max_document_bytes)
        vectors = self.encoder.encode(texts.to_pylist())
        bad = ~np.isfinite(vectors).all(axis=1)
        lost = documents.filter(pa.array(bad)).select(["doc_id", "row"])
        good = documents.filter(pa.array(~bad))
        quarantine = [
            {**row, "step": self.name, "reason": "not_finite", "detail": "the model gave a vector with NaN or infinity"}
            for row in lost.to_pylist()
        ]
        return {
            "embeddings": pa.table(
                [good["doc_id"], vector_column(vectors[~bad].astype(np.float16))],
                schema=tables.embeddings(self.encoder.dimension),
            ),
            "quarantine": pa.Table.from_pylist(quarantine, schema=tables.QUARANTINE),
        }
