"""Embed: one unit vector per document.

Beside the vectors of a part lie samples of them, so that centroids are fitted without reading all: a quarter, a
sixteenth and a sixty-fourth of the documents, drawn by their ids alone. So neither another seed nor another number of
clusters needs other ones. A small part has none; whoever wants its sample draws it from the vectors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from selector import tables
from selector.corpus.joined import INGEST, LIVE, live_documents, texts_of
from selector.engine.part import Resources, Task
from selector.engine.step import APART, Done, Map
from selector.engine.store import Seal, Store
from selector.exact import keyed
from selector.exact.vectors import vector_column
from selector.models.encoder import Device, Encoder
from selector.steps import dedup, survey
from selector.steps.survey import Survey

SAMPLES = (4, 16, 64)
"""One document of so many is in each sample; those of a later one are in all that come before it."""

LEAST_SAMPLED = 1024
"""Rows of the smallest part that has samples."""

SLICE: Mapping[Device, int] = {"cpu": 256, "cuda": 8192}
"""Documents that a worker embeds at a time: less than a minute's work, so that a few thousand keep all workers busy."""


@dataclass(frozen=True, kw_only=True)
class Embed(Map):
    """The vectors of a part's documents. A result is filed under its texts, so that it outlives any other change."""

    name: str = field(default="embed", metadata=APART)
    version = 2
    output = "embeddings"
    reads: tuple[str, ...] = field(default=("survey", "ingest", "dedup"), metadata=APART)

    survey: Survey = field(metadata=APART)
    encoder: Encoder
    text: str = field(metadata=APART)
    max_document_bytes: int = field(metadata=APART)

    @property
    def resources(self) -> Resources:
        return Resources(gpus=1, documents=self._most)

    def identity(self) -> dict[str, Any]:
        return {"step": self.name, "version": self.version, "encoder": self.encoder.identity(), "documents": self._most}

    @property
    def _most(self) -> int:
        return SLICE[self.encoder.device]

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
        lost = documents.filter(pa.array(bad)).select(["doc_id", "place"])
        good = documents.filter(pa.array(~bad))
        quarantine = [
            {**row, "step": self.name, "reason": "not_finite", "detail": "the model gave a vector with NaN or infinity"}
            for row in lost.to_pylist()
        ]
        embeddings = pa.table(
            [good["doc_id"], vector_column(vectors[~bad].astype(np.float16))],
            schema=tables.embeddings(self.encoder.dimension),
        )
        return {
            "embeddings": embeddings,
            **samples_of(embeddings, int(task.part.firsts[-1])),
            "quarantine": tables.quarantine(quarantine),
        }


def samples_of(embeddings: pa.Table, num_rows: int) -> dict[str, pa.Table]:
    """The samples that lie beside the vectors of a part of so many rows, or of a slice of it."""
    samples = SAMPLES if num_rows >= LEAST_SAMPLED else ()
    return {_sample_name(one_of): _drawn(embeddings, one_of) for one_of in samples}


def sampled(store: Store, seal: Seal, one_of: int) -> pa.Table:
    """The embeddings of a part's documents that are in this sample; of 1 they all are."""
    if one_of == 1:
        return store.table(seal, "embeddings")
    if _sample_name(one_of) in seal.tables:
        return store.table(seal, _sample_name(one_of))
    return _drawn(store.table(seal, "embeddings"), one_of)


def _sample_name(one_of: int) -> str:
    return f"sample.{one_of}"


def _drawn(embeddings: pa.Table, one_of: int) -> pa.Table:
    hashes = keyed.hashes(embeddings["doc_id"], 0, "sample of vectors")
    return embeddings.filter(pa.array(hashes < np.uint64(2**64 // one_of)))
