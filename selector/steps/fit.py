"""Fit: what a rater must know of the corpus before it can rate, learned once and stored."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from selector.corpus.columns import Column
from selector.engine.part import Task
from selector.engine.step import APART, Done, Tables, Whole
from selector.engine.store import Seal, Store
from selector.exact import keyed
from selector.plugins import attached
from selector.plugins.catalogue import KNOWN
from selector.plugins.pool import Pool
from selector.rate import Fit
from selector.rate._fitted import learned
from selector.steps import attach
from selector.steps.gather import Gather
from selector.steps.rate import batch_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FitStep(Whole):
    """The table `fit`: what the plug-in learned from a keyed sample of the corpus, or from all of it."""

    plugin: Fit = field(metadata=APART)
    label: str
    plugin_identity: Mapping[str, Any]
    seed: int
    gather: Gather = field(metadata=APART)

    def rows_in(self, done: Done) -> int:
        return done["dedup"].rows_out

    def inputs(self, done: Done) -> Any:
        return self.gather.identities(done)

    def rows_out(self, seal: Seal, store: Store) -> int:
        return seal.tables["fit"].num_rows

    def compute(self, done: Done) -> Tables:
        if (cost := self.plugin.cost(self.rows_in(done))) is not None:
            logger.warning("%s: %s.", self.label, cost)
        plugin = attached.attach(self.plugin, attach.loaded(done, self.gather.attach))
        yield "fit", learned(self.label, plugin, self._sample(done), self.seed)

    def _sample(self, done: Done) -> Pool:
        """What a fit sees: the whole corpus, or a keyed sample of about the size that it asks for."""
        tasks, store = self.gather.tasks(done), done.store
        wanted = self.plugin.sample
        share = 1.0 if wanted is None else min(1.0, wanted / max(1, done["dedup"].rows_out))
        by_name = {column.name: column for column in (KNOWN["doc_id"], *self.gather.columns)}

        drawn = _Drawn(store=store, gather=self.gather, columns=by_name, seed=self.seed, share=share)
        shards = list(done.map(drawn, tasks))
        schema = self.gather.reader.read(store, tasks[0], list(by_name.values())).schema
        num_documents = sum(shard.num_rows for shard in shards)
        return Pool(schema=schema, num_documents=num_documents, shards=shards, mapper=done.map)


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """Says which documents of a part are drawn."""

    store: Store
    gather: Gather
    columns: Mapping[str, Column]
    seed: int
    share: float

    def __call__(self, task: Task) -> "_Shard":
        return _Shard(drawn=self, task=task, num_rows=self.read(task, ["doc_id"]).num_rows)

    def read(self, task: Task, names: Sequence[str]) -> pa.RecordBatch:
        """These columns of the documents of a part that are drawn."""
        aligned = [name for name, column in self.columns.items() if column.step in ("embed", "cluster")]
        wanted = [self.columns[name] for name in dict.fromkeys(("doc_id", *aligned, *names))]
        batch = batch_of(self.gather.reader.read(self.store, task, wanted))
        chosen = keyed.uniforms(batch.column("doc_id"), self.seed, "fit") <= self.share
        return batch.filter(pa.array(chosen)).select(list(names))


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """The documents of a part that are drawn."""

    drawn: _Drawn
    task: Task
    num_rows: int

    def read(self, columns: Sequence[str]) -> pa.RecordBatch:
        return self.drawn.read(self.task, columns)
