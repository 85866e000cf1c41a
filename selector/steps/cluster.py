"""Cluster: every document's nearest centroid, and the distance to it; and whether the clusters are of use.

Which centroid is the nearest is exact, so it is the same on a CPU and on a graphics card.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from selector import tables
from selector.corpus.joined import LIVE, align, live_documents
from selector.engine.part import Resources, Task
from selector.engine.step import APART, Done, Fold, Step, Tables
from selector.engine.store import Store
from selector.exact.vectors import vectors_of
from selector.models.neighbours import Halves, closest, distances
from selector.steps import dedup, health, survey
from selector.steps.centroids import branches_of
from selector.steps.survey import Survey


@dataclass(frozen=True, kw_only=True)
class Cluster(Fold):
    """The cluster of each document of a part that has a vector; `health` says whether the clusters are of use."""

    name: str = field(default="cluster", metadata=APART)
    version = 4
    output = "clusters"
    folded = None
    reads: tuple[str, ...] = field(default=("embed", "centroids", "survey", "dedup"), metadata=APART)

    survey: Survey = field(metadata=APART)
    on_gpu: bool = field(default=False, metadata=APART)  # where there is one; the answer is the same

    @property
    def resources(self) -> Resources:
        return Resources(gpus=1) if self.on_gpu else Resources()

    def key(self, *inputs: Any) -> str:
        """Clusters are what others ask for: they are filed under the plain name."""
        return Step.key(self, *inputs)

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

    def prepare(self, task: Task, store: Store) -> None:
        key = task.inputs["centroids"]
        centroids = vectors_of(store.read(key, "centroids")["centroid"])
        self._given.append((centroids, branches_of(store, key, len(centroids))))

    @functools.cached_property
    def _given(self) -> list[tuple[Halves, pa.ListArray]]:
        """Where `prepare` leaves the centroids and what they are part of: the step itself is frozen."""
        return []

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        documents = live_documents(task, store)
        embeddings = store.read(task.inputs["embed"], "embeddings")
        rows = align(documents["doc_id"], embeddings)
        if not np.array_equal(rows, np.arange(embeddings.num_rows)):
            embeddings = embeddings.take(pa.array(rows[rows >= 0]))
        centroids, branches = self._given[-1]
        vectors = vectors_of(embeddings["embedding"])
        labels = closest(vectors, centroids)
        apart = distances(vectors, centroids, labels)
        columns: list[Any] = [embeddings["doc_id"], labels.astype(np.int32), apart, branches.take(pa.array(labels))]
        return {
            "clusters": pa.table(columns, schema=tables.CLUSTERS),
            "sizes": health.sizes_of(labels, apart, vectors),
        }

    def fold(self, done: Done, parts: Iterator[Mapping[str, pa.Table]]) -> Tables:
        yield "health", health.examined(done, (part["sizes"] for part in parts))
