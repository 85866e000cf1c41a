"""Rate: a rater is handed what it needs of a part's documents, and what it says is checked and stored.

What the scores come to is stored beside them and added up, so that no later step reads ratings to know it.
"""

import functools
import io
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from selector import tables
from selector.corpus.columns import Column
from selector.corpus.joined import Reader
from selector.engine import alive
from selector.engine.canonical import fingerprint
from selector.engine.part import Resources, Task
from selector.engine.slices import joined
from selector.engine.step import APART, Done, Fold, Step, Tables, seal_beside
from selector.engine.store import PASSING, Store
from selector.manifest.describe import LEAST_SCORED, hardly_scored
from selector.models.judge import FOLDER
from selector.plugins import attached
from selector.plugins.catalogue import KNOWN, RATE
from selector.plugins.options import Endpoint, replaced, written
from selector.rate import Fit, Rater
from selector.rate._answer import ratings_table, shown_to
from selector.rate._fitted import rater_of
from selector.rate._sums import added, sums_of
from selector.steps import attach
from selector.steps.gather import Gather

pc: Any = pyarrow.compute  # whose functions are made when it is imported
logger = logging.getLogger(__name__)

_AT_A_TIME = 512  # documents that a rater is given: how these are cut changes no answer, and after each there is a sign

_REQUIRED = ("embedding", "cluster", "distance")  # a document that lost one of them is not rated


@dataclass(frozen=True, kw_only=True)
class Rate(Fold):
    """One rater's scores of each part's documents, and `sums`: what the scores come to (`selector.rate._sums`).

    Raters that read nothing but texts share them: whoever is first rates a part for those `beside` it too, under their
    own keys, so that their steps find it done. What goes wrong with one of them is left to its own step.
    """

    version = 2
    output = "ratings"
    folded = None

    rater: Rater | Fit = field(metadata=APART)
    label: str  # what the policy calls the rater
    rater_identity: Mapping[str, Any]
    gather: Gather = field(metadata=APART)
    beside: tuple["Rate", ...] = field(default=(), metadata=APART)

    @property
    def resources(self) -> Resources:
        return self.rater.resources

    def rows_in(self, done: Done) -> int:
        return done["dedup"].rows_out

    def key(self, *inputs: Any) -> str:
        """Ratings are what others ask for: they are filed under the plain name."""
        return Step.key(self, *inputs)

    def tasks(self, done: Done) -> Sequence[Task]:
        fit = {"fit": done[self._fit].seal.key} if isinstance(self.rater, Fit) else {}
        again = [num] if (num := self.num_retries(done.store)) else []
        tasks = [
            Task(key=self.key(identity, fit, *again), part=task.part, inputs={**task.inputs, **fit})
            for task, identity in zip(self.gather.tasks(done), self.gather.identities(done), strict=True)
        ]
        for other in self.beside:
            tasks = [
                replace(task, inputs={**task.inputs, other.name: theirs.key, other._fit: theirs.inputs.get("fit", "")})
                for task, theirs in zip(tasks, other.tasks(done), strict=True)
            ]
        return tasks

    @property
    def _fit(self) -> str:
        """The step that stored what its fit learned, if it has one."""
        return f"fit/{self.label}"

    def also(self, task: Task) -> Sequence[str]:
        return [task.inputs[other.name] for other in self.beside]

    def retry(self, store: Store) -> bool:
        """Whether the rater asks a server: then every part is rated once more, and what failed is asked again."""
        if not written(self.rater, Endpoint):
            return False
        num = self.num_retries(store)
        before, after = (str(n).encode() for n in (num, num + 1))
        if not store.storage.put_if_absent(self._retries, after):
            store.storage.compare_and_swap(self._retries, before, after)
        return True

    def num_retries(self, store: Store) -> int:
        """How often a judge was asked again for what it had not answered."""
        data = store.storage.get(self._retries) if written(self.rater, Endpoint) else None
        return 0 if data is None else int(data)

    @property
    def _retries(self) -> str:
        """Where it is kept how often what failed was asked again."""
        return f"{FOLDER}retries/{fingerprint(self.identity())}"

    def prepare(self, task: Task, store: Store) -> None:
        rater = self.rater
        if self.gather.attach is not None:
            rater = attached.attach(rater, attach.read(store, task.inputs[self.gather.attach]))
        if endpoints := written(rater, Endpoint):
            rater = replaced(rater, {option.path: option.value.connected(store.storage) for option in endpoints})
        if isinstance(rater, Fit):
            rater = rater_of(self.label, rater, store.read(task.inputs["fit"], "fit"))
        rater.prepare()
        self._prepared.append(_Prepared(rater=rater, reader=self.gather.reader.opened(store, task, self._columns)))

    @functools.cached_property
    def _prepared(self) -> "list[_Prepared]":
        """Where `prepare` leaves what it has loaded: the step itself is frozen."""
        return []

    @property
    def _columns(self) -> list[Column]:
        return [KNOWN["doc_id"], *self.gather.columns]

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        batch = self.batch(task, store)
        result = self._rated(batch)
        if self.beside and task.only is None and not task.skipped:
            self._rate_beside(task, batch, store)
        return result

    def _rate_beside(self, task: Task, batch: pa.RecordBatch, store: Store) -> None:
        """Rates the part for the raters beside, where that is not done. It is tried once: whoever died of it is not to
        die again."""
        wanted = [other for other in self.beside if store.find(task.inputs[other.name]) is None]
        tried = f"artifacts/{PASSING}beside/{fingerprint(task.key)}"
        if not wanted or not store.storage.put_if_absent(tried, b""):
            return
        for other in wanted:
            try:
                if not other._prepared:
                    other.prepare(replace(task, inputs={**task.inputs, "fit": task.inputs[other._fit]}), store)
                result = other._rated(batch, is_counted=False)
            except Exception as error:  # whatever it is, its own step will say so
                logger.info("%s: %s is left to its own step: %s", self.name, other.name, error)
                continue
            seal_beside(task.inputs[other.name], result, store)
        store.storage.delete(tried)

    def _rated(self, batch: pa.RecordBatch, *, is_counted: bool = True) -> dict[str, pa.Table]:
        """What the rater says of documents. How many are done is shown where they are counted."""
        declared, rater = self.rater if isinstance(self.rater, Fit) else None, self._prepared[-1].rater
        rated, pairs = list[pa.Table](), list[pa.Table]()
        for first in range(0, max(1, batch.num_rows), _AT_A_TIME):
            piece = batch.slice(first, _AT_A_TIME)
            rated.append(ratings_table(rater, self.label, piece, declared=declared))
            compared = rater.pairs(piece.select(shown_to(declared or rater)))
            pairs += [] if compared is None else [compared]
            alive.sign(first + piece.num_rows if is_counted else None)
        ratings = joined(rated)
        beside = {"pairs": pa.concat_tables(pairs)} if pairs else {}
        return {"ratings": ratings, "sums": sums_of(ratings), **beside}

    def fold(self, done: Done, parts: Iterator[Mapping[str, pa.Table]]) -> Tables:
        yield "sums", added(part["sums"] for part in parts)

    def batch(self, task: Task, store: Store) -> pa.RecordBatch:
        """What the rater needs to know of a part's documents, as one batch."""
        return batch_of(self._prepared[-1].reader.read(store, task, self._columns))


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What a worker holds while it rates."""

    rater: Rater
    reader: Reader


def coverage(done: Done, step: str) -> dict[str, dict[str, Any]]:
    """Of each score of a step that rates how many documents were rated and how many have it; where almost none has it,
    also the states of the others."""
    return done.once(f"{step}: coverage", lambda: _coverage(done, step))


def _coverage(done: Done, step: str) -> dict[str, dict[str, Any]]:
    covered: dict[str, dict[str, Any]] = {}
    for row in done.table(step, "sums", ["score", "count", "missing"]).to_pylist():
        name, num_documents = row["score"], row["count"] + row["missing"]
        covered[name] = {"documents": num_documents, "scored": row["count"]}
        if row["count"] < LEAST_SCORED * num_documents:
            column, states = tables.state_of(name), Counter[str]()
            for part in done.tables(step, "ratings", [column]):
                states.update({pair["values"]: pair["counts"] for pair in part[column].value_counts().to_pylist()})
            covered[name]["without"] = {state: count for state, count in sorted(states.items()) if state != "ok"}
    return covered


def finish(done: Done, step: str, *, is_dry: bool = False) -> None:
    """Warns of scores that no document has, or almost none; and writes what can be learned from, but in a dry run."""
    if not is_dry:
        write_pairs(done, step)
    for line in hardly_scored(coverage(done, step)):
        logger.warning(line)


def write_pairs(done: Done, step: str) -> None:
    """Puts the comparisons that a step's scores are made of into files below the root, one for each criterion, and says
    where; nothing where it made none, or where they are there."""
    storage, result = done.store.storage, done[step]
    folder = f"{FOLDER}pairs/{step.removeprefix(RATE)}-{result.fingerprint[:12]}/"
    if not any("pairs" in seal.tables for seal in result.parts) or any(storage.list(folder)):
        return
    files: dict[str, tuple[io.BytesIO, pq.ParquetWriter]] = {}
    written_schema = tables.PAIRS.remove(0)
    for seal in result.parts:
        pairs = done.store.table(seal, "pairs")
        for criterion in pairs["criterion"].unique().to_pylist():
            if criterion not in files:
                file = io.BytesIO()
                files[criterion] = file, pq.ParquetWriter(file, written_schema, compression="zstd")
            some = pairs.filter(pc.equal(pairs["criterion"], criterion))
            files[criterion][1].write_table(some.drop_columns("criterion"))
    for criterion, (file, writer) in files.items():
        writer.close()
        key = f"{folder}{criterion}.parquet"
        storage.ensure(key, file.getvalue())
        logger.warning(
            "%s: the pairs that were judged by %s are in %s. To learn from them: selector fit-rater %s --pair first"
            " second --better better --higher-is better --out %s.parquet",
            step, criterion, path := f"{storage.address}/{key}", path, criterion,
        )  # fmt: skip


def batch_of(table: pa.Table) -> pa.RecordBatch:
    """A table as one batch, without the documents that lost a column which a rater cannot do without."""
    for name in _REQUIRED:
        if name in table.schema.names:
            table = table.filter(table[name].is_valid())
    (batch,) = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]
    return batch
