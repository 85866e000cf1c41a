"""The chosen documents, shard by shard: a row for every visit that select decided."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from selector import tables
from selector.corpus.columns import Column
from selector.engine.step import Done
from selector.engine.store import Store
from selector.plugins.catalogue import KNOWN
from selector.plugins.pool import Pool
from selector.steps.regroup import Exchanged
from selector.steps.select import Select, chosen_of, shards_of
from selector.steps.shards import InStore, batch_of

DECIDED = ("inclusion_probability", "round", "visits", "reason", "arguments")
"""What select says of a document that was chosen."""


@dataclass(frozen=True, kw_only=True)
class ChosenShard:
    """The chosen documents of one shard: where their columns are stored."""

    number: int
    names: tuple[str, ...]
    columns: tuple[str, ...]  # the keys of these, of all documents that may be chosen
    chosen: str  # the key of what select said
    round: int | None = None  # only those that this round chose

    def decided(self, store: Store) -> pa.Table:
        """What select said of the documents."""
        chosen = chosen_of(store, self.chosen)
        if self.round is None:
            return chosen
        return chosen.filter(pa.array(chosen["round"].to_numpy() == self.round)).combine_chunks()

    def read(self, store: Store, names: Sequence[str]) -> pa.RecordBatch:
        """The rows with some of these columns and of those of `DECIDED`; those of a document one after another."""
        chosen = self.decided(store)
        stored = {name: key for name, key in zip(self.names, self.columns, strict=True) if name in names}
        batch = batch_of(store, list(stored), list(stored.values())).take(tables.whole(chosen["place"]))
        decided = chosen.select([name for name in names if name in DECIDED])
        columns = {
            **dict(zip(stored, batch.columns, strict=True)),
            **dict(zip(decided.schema.names, decided, strict=True)),
        }
        fields = {field.name: field for field in (*batch.schema, *decided.schema)}
        table = pa.table([columns[name] for name in names], schema=pa.schema([fields[name] for name in names]))
        visits = chosen["visits"].to_numpy()
        if (visits != 1).any():
            table = table.take(pa.array(np.repeat(np.arange(len(visits)), visits)))
        return pa.RecordBatch.from_arrays([tables.whole(column) for column in table], schema=table.schema)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which columns of the chosen documents are read."""

    select: Select
    columns: tuple[Column, ...]

    def identities(self, done: Done) -> list[Any]:
        """What decides these columns of the documents of every part."""
        return replace(self.select.gather, columns=self.columns).identities(done)

    def shards(self, done: Done, number: int | None = None) -> list[ChosenShard]:
        """The chosen documents with these columns, once they are stored; of one round, or of all."""
        by_name = self._columns()
        keys = self.select.shards(done).columns(list(by_name.values()))
        return [
            ChosenShard(number=i, names=tuple(by_name), columns=columns, chosen=one["key"], round=number)
            for i, (columns, one) in enumerate(zip(keys, shards_of(done), strict=True))
        ]

    def pool(self, done: Done, inputs: str, number: int | None = None) -> Pool:
        """What an order sees, of one round or of all; what is worked out of it is kept under `inputs`."""
        schema = self.select.shards(done).pool(self.columns, inputs).schema
        shards, store = self.shards(done, number), done.store
        num_rows = list(done.map(functools.partial(_num_rows, store), shards))
        decided = [tables.VERDICTS.field(name) for name in ("inclusion_probability", "round", "visits")]
        return Pool(
            schema=pa.schema([*schema, *decided]),
            num_documents=sum(num_rows),
            shards=[_Rows(store=store, shard=one, num_rows=n) for one, n in zip(shards, num_rows, strict=True)],
            mapper=done.map,
            extender=InStore(done=done, inputs=inputs),
            exchanger=Exchanged(done=done, inputs=inputs),
        )

    def _columns(self) -> dict[str, Column]:
        return {column.name: column for column in (KNOWN["doc_id"], KNOWN["num_tokens"], *self.columns)}


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """A shard of what an order sees."""

    store: Store
    shard: ChosenShard
    num_rows: int

    def read(self, columns: Sequence[str]) -> pa.RecordBatch:
        return self.shard.read(self.store, columns)


def _num_rows(store: Store, shard: ChosenShard) -> int:
    return int(shard.decided(store)["visits"].to_numpy().sum(dtype=np.int64))
