"""Cluster: every document's nearest centroid, and the distance to it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from selector import tables
from selector.corpus.joined import LIVE, align, live_documents
from selector.engine.part import Task
from selector.engine.step import APART, Done, Map
from selector.engine.store import Store
from selector.exact.vectors import vectors_of
from selector.models.neighbours import LIBRARIES, nearest
from selector.steps import dedup, survey
from selector.steps.survey import Survey


@dataclass(frozen=True, kw_only=True)
class Cluster(Map):
    """The cluster of each of a part's documents that has a vector."""

    name: str = field(default="cluster", metadata=APART)
    version = 2
    output = "clusters"
    libraries = LIBRARIES
    reads: tuple[str, ...] = field(default=("embed", "centroids", "survey", "dedup"), metadata=APART)

    survey: Survey = field(metadata=APART)

    def tasks(self, done: Done) -> Sequence[Task]:
        centroids = done["centroids"].seal.key
        return [
            Task(
                key=self.key(vectors.key, centroids),
                part=part,
                inputs={LIVE: share["key"], "embed": vectors.key, "centroids": centroids},
            )
            for part, share, vectors in zip(
                survey.parts(done, self.survey), dedup.shares(done), done["embed"].parts, strict=True
            )
        ]

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        documents = live_documents(task, store)
        embeddings = store.read(task.inputs["embed"], "embeddings")
        rows = align(documents["doc_id"], embeddings)
        embeddings = embeddings.take(pa.array(rows[rows >= 0]))
        centroids = vectors_of(store.read(task.inputs["centroids"], "centroids")["centroid"])
        labels, distances = nearest(vectors_of(embeddings["embedding"]).astype(np.float32), centroids, 1)
        columns: list[Any] = [embeddings["doc_id"], labels[:, 0].astype(np.int32), distances[:, 0]]
        return {"clusters": pa.table(columns, schema=tables.CLUSTERS)}
