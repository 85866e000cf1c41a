"""A corpus of any size as the steps before select would have left it: drawn, not read.

What a document is follows from its number alone, by a hash: its id, size, source, scores and cluster, and whether it is
the copy of an earlier one. So any worker draws any part, in memory that does not grow with the corpus.

Why it is fair to measure select, order and manifest on it. Each step before them is the flow's own, run by the flow's
own runner over real files, and asks for its artefacts by its own keys; survey, dedup and rate do their own work too.
Only what would need texts is drawn: ingest and cluster write the tables that they always write, centroids are any
vectors, of 16 numbers, and embed leaves some about them where something after cluster reads vectors, else none. A real
run over the same folder then finds all of it done, and `simulate` stops if it does not.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from selector import pipeline, tables
from selector.corpus.joined import live_documents
from selector.engine.executor import Executor
from selector.engine.part import Resources, Task
from selector.engine.runner import Runner
from selector.engine.step import APART, Done, Step, Tables
from selector.engine.store import Store
from selector.exact import keyed
from selector.exact.vectors import vector_column
from selector.policy import Policy
from selector.policy.resolve import resolve
from selector.rate import Meaning, Rater
from selector.steps.attach import Attach
from selector.steps.centroids import LEVELS, Centroids
from selector.steps.cluster import Cluster
from selector.steps.embed import Embed
from selector.steps.health import sizes_of
from selector.steps.how_many import EVIDENCE
from selector.steps.ingest import Ingest

BEFORE = ("survey", "ingest", "dedup", "embed", "centroids", "cluster", "neighbours", "rate")
"""The families of the steps whose results are there when the clock starts."""

SOURCES = ("web", "books", "code", "law", "chat", "news", "talks", "wiki")
DUPLICATES, MISSING = 0.05, 0.01
DIMENSION = 16
_NOISE = 0.3  # of each number of a vector, beside a direction of length 1

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
UInt64 = npt.NDArray[np.uint64]

Score = Literal["quality", "difficulty"]
MEANINGS: dict[Score, Meaning] = {"quality": "better", "difficulty": "harder"}


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """So many documents in so many files, each as long as the others to within a row."""

    num_documents: int
    num_files: int
    num_clusters: int
    seed: int

    def first_of(self, file: int) -> int:
        """The number of the first document of a file."""
        return file * self.num_documents // self.num_files

    def write(self, folder: Path) -> None:
        """The files: Parquet of one short text over and over, of which a million rows take a kilobyte."""
        folder.mkdir(parents=True)
        for file in range(self.num_files):
            num_rows = self.first_of(file + 1) - self.first_of(file)
            text = f"file {file} of {self}"
            pq.write_table(pa.table({"text": pa.repeat(text, num_rows)}), folder / f"{file:05}.parquet")

    def ids(self, numbers: Ints) -> UInt64:
        """The ids of these documents as `keyed.words`, (n, 2). A copy has that of an earlier document."""
        origins, open_ = numbers.copy(), np.arange(len(numbers))
        while True:
            is_copy = (_uniform(_mixed(origins[open_], self.seed, 1)) < DUPLICATES) & (origins[open_] > 0)
            open_ = open_[is_copy]
            if not len(open_):
                return np.column_stack([_mixed(origins, self.seed, 2), _mixed(origins, self.seed, 3)])
            origins[open_] = _mixed(origins[open_], self.seed, 4) % origins[open_].astype(np.uint64)

    def sources(self, numbers: Ints) -> npt.NDArray[np.int32]:
        """The source of each of these documents, as an index into `SOURCES`; copies may lie in another one."""
        return (_uniform(_mixed(numbers, self.seed, 5)) * len(SOURCES)).astype(np.int32)

    def num_tokens(self, ids: UInt64) -> npt.NDArray[np.uint32]:
        """Log-normal, with a median of 545 tokens; at least 1."""
        return np.clip(np.exp(6.3 + _normal(ids, 6)), 1, 2**20).astype(np.uint32)

    def clusters(self, ids: UInt64) -> npt.NDArray[np.int32]:
        """Clusters of uneven sizes, the first the largest."""
        return (_uniform(_mixed(ids[:, 0], self.seed, 7)) ** 1.5 * self.num_clusters).astype(np.int32)

    def distances(self, ids: UInt64) -> npt.NDArray[np.float32]:
        """What is said of the distance to the centroid, which nothing compares with vectors."""
        return _uniform(ids[:, 1]).astype(np.float32)

    def centroids(self) -> npt.NDArray[np.float16]:
        """A direction for each cluster, (num_clusters, DIMENSION)."""
        numbers = np.arange(self.num_clusters * DIMENSION, dtype=np.uint64).reshape(-1, DIMENSION)
        return _unit(_uniform(_mixed(numbers, self.seed, 20)) - 0.5).astype(np.float16)

    def vectors(self, ids: UInt64) -> npt.NDArray[np.float16]:
        """Unit vectors about the direction of each document's cluster, (n, DIMENSION)."""
        centres = self.centroids().astype(np.float64)
        numbers = np.column_stack([_uniform(_mixed(ids[:, 0], self.seed, 30 + i)) for i in range(DIMENSION)])
        return _unit(centres[self.clusters(ids)] + 4 * _NOISE * (numbers - 0.5)).astype(np.float16)


def vectors_of_texts(texts: Sequence[str]) -> npt.NDArray[np.float16]:
    """Any unit vector for each text, (n, DIMENSION)."""
    ids = keyed.words(pa.array([keyed.digest(text.encode()) for text in texts], pa.binary(16)))
    numbers = [_uniform(_mixed(ids[:, 0], 0, 30 + i)) for i in range(DIMENSION)]
    return _unit(np.column_stack(numbers) - 0.5).astype(np.float16)


def scores(ids: UInt64, score: Score) -> npt.NDArray[np.float32]:
    """Normal, in steps of 1/4096 so that some are equal; NaN where the document has none."""
    purpose = 8 + 4 * list(MEANINGS).index(score)
    values = np.rint(_normal(ids, purpose) * 4096) / 4096
    return np.where(_uniform(_mixed(ids[:, 1], 0, purpose + 2)) < MISSING, np.nan, values).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Drawn(Rater):
    """A score that is drawn for each document by its id."""

    score: Score
    higher_is: Meaning

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        values = scores(keyed.words(batch["doc_id"]), self.score)
        absent = np.isnan(values)
        state = np.where(absent, "missing", "ok")
        return pa.record_batch({"score": pa.array(values, mask=absent), "state": pa.array(state)})


def draw(policy: Policy, corpus: Corpus, root: str, executor: Executor, *, has_vectors: bool) -> None:
    """Afterwards the root holds what a run of the policy needs, up to select."""
    steps = [
        _drawn(step, corpus, has_vectors=has_vectors)
        for step in pipeline.flow(resolve(policy), executor)
        if step.family in (*BEFORE, "attach")  # tables of plug-ins too, but a change can name others
    ]
    with Runner(Store.open(root), executor) as runner:
        runner.run(steps)


@dataclass(frozen=True, kw_only=True)
class DrawnIngest(Ingest):
    """Documents without texts."""

    corpus: Corpus = field(metadata=APART)

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        pieces = task.part.pieces
        firsts = [self.corpus.first_of(piece.file) + piece.first_row for piece in pieces]
        numbers = np.concatenate(
            [first + np.arange(piece.num_rows) for first, piece in zip(firsts, pieces, strict=True)]
        )
        words = self.corpus.ids(numbers)
        ids, num_tokens = keyed.ids(words), self.corpus.num_tokens(words)
        columns: dict[str, Any] = {
            "doc_id": ids,
            "text_id": ids,
            "place": np.arange(len(numbers), dtype=np.uint32),
            "source": pa.DictionaryArray.from_arrays(self.corpus.sources(numbers), pa.array(SOURCES)),
            "num_bytes": 4 * num_tokens,
            "num_tokens": num_tokens,
            **{name: pa.nulls(len(numbers), tables.DOCUMENTS.field(name).type) for name in tables.BYTES},
        }
        arrays = [columns[name] for name in tables.DOCUMENTS.names]
        return {"documents": pa.table(arrays, schema=tables.DOCUMENTS)}


@dataclass(frozen=True, kw_only=True)
class DrawnEmbed(Embed):
    """Vectors, or none where nothing reads them."""

    corpus: Corpus = field(metadata=APART)
    has_vectors: bool = field(metadata=APART)

    @property
    def resources(self) -> Resources:
        return Resources()

    def prepare(self, task: Task, store: Store) -> None:
        """No model is loaded."""

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        if not self.has_vectors:
            return {"embeddings": tables.embeddings(DIMENSION).empty_table()}
        ids = live_documents(task, store)["doc_id"]
        column = vector_column(self.corpus.vectors(keyed.words(ids)))
        return {"embeddings": pa.table([ids, column], schema=tables.embeddings(DIMENSION))}


@dataclass(frozen=True, kw_only=True)
class DrawnAttach(Attach):
    """The tables that options name, where texts have drawn vectors."""

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        return vectors_of_texts(texts)


@dataclass(frozen=True, kw_only=True)
class DrawnCentroids(Centroids):
    """The directions about which vectors are drawn."""

    corpus: Corpus = field(metadata=APART)

    def compute(self, done: Done) -> Tables:
        numbers = np.arange(self.corpus.num_clusters, dtype=np.int32)
        column = vector_column(self.corpus.centroids())
        yield "centroids", pa.table([numbers, column], schema=tables.centroids(DIMENSION))
        yield "evidence", EVIDENCE.empty_table()
        yield "levels", LEVELS.empty_table()


@dataclass(frozen=True, kw_only=True)
class DrawnCluster(Cluster):
    """The cluster of each document, with a distance that nothing reads."""

    corpus: Corpus = field(metadata=APART)

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        ids = live_documents(task, store)["doc_id"]
        words = keyed.words(ids)
        distances, labels = self.corpus.distances(words), self.corpus.clusters(words)
        return {
            "clusters": pa.table([ids, labels, distances, no_branches(len(labels))], schema=tables.CLUSTERS),
            "sizes": sizes_of(labels.astype(np.int64), distances, np.ones((len(labels), 1), np.float16)),
        }


def no_branches(num_documents: int) -> pa.ListArray:
    return pa.ListArray.from_arrays(np.zeros(num_documents + 1, np.int32), pa.array([], pa.int32()))


_KINDS: dict[type[Step], type[Any]] = {
    Ingest: DrawnIngest,
    Embed: DrawnEmbed,
    Centroids: DrawnCentroids,
    Cluster: DrawnCluster,
    Attach: DrawnAttach,
}


def _drawn(step: Step, corpus: Corpus, *, has_vectors: bool) -> Step:
    """A step with the same name and options, and so the same keys, that draws its result where it would need texts."""
    kind = _KINDS.get(type(step))
    if kind is None:
        return step
    own = {"corpus": corpus, "has_vectors": has_vectors}
    given = {name: value for name, value in own.items() if name in _names(dataclasses.fields(kind))}
    return kind(**given, **{name: getattr(step, name) for name in _names(dataclasses.fields(step))})


def _names(fields: Iterable["dataclasses.Field[Any]"]) -> list[str]:
    return [field.name for field in fields]


def _mixed(values: npt.NDArray[Any], seed: int, purpose: int) -> UInt64:
    """64 bits for each value that look random: the output function of SplitMix64 (Steele et al., 2014), twice."""
    bits = values.astype(np.uint64)
    for more in (purpose, seed):
        bits = bits + np.uint64((more * 2 + 1) * 0x9E3779B97F4A7C15 % 2**64)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
    return bits


def _unit(rows: Floats) -> Floats:
    return rows / np.sqrt(np.square(rows).sum(axis=1, keepdims=True))


def _uniform(bits: UInt64) -> Floats:
    """Numbers on the open interval (0, 1)."""
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _normal(ids: UInt64, purpose: int) -> Floats:
    """Standard normal numbers, by the formula of Box and Muller."""
    radius = np.sqrt(-2 * np.log(_uniform(_mixed(ids[:, 0], 0, purpose))))
    return radius * np.cos(2 * np.pi * _uniform(_mixed(ids[:, 1], 0, purpose + 1)))
