"""The chosen documents, shard by shard: a row for every visit that select decided.

Most of their columns are stored with the shards, of all documents that may be chosen, and were read when their verdict
was said. What takes more room than all these, such as vectors, is stored of the chosen ones alone, once they are known:
parts that have some are opened again for it.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.corpus.columns import Column
from selector.engine.slices import joined
from selector.engine.step import Done
from selector.engine.store import Store
from selector.exact import Ints, UInt64
from selector.plugins.catalogue import KNOWN
from selector.plugins.pool import Pool
from selector.steps.gather import PartReader
from selector.steps.regroup import Exchanged
from selector.steps.select import Select, chosen_of, shards_of
from selector.steps.shards import (
    InStore,
    Shard,
    batch_of,
    column_keys,
    documents_of,
    field_of,
    store_column,
    with_own_names,
)

DECIDED = ("inclusion_probability", "round", "visits", "reason", "arguments")
"""What select says of a document that was chosen."""


@dataclass(frozen=True, kw_only=True)
class ChosenShard:
    """The chosen documents of one shard: where their columns are stored."""

    number: int
    names: tuple[str, ...]
    columns: tuple[str, ...]  # the keys of these, first of all documents that may be chosen, then of the chosen alone
    num_shared: int  # how many of them are of all
    chosen: str  # the key of what select said
    round: int | None = None  # only those that this round chose

    def num_rows(self, store: Store) -> int:
        return int(self._visits(chosen_of(store, self.chosen)).sum(dtype=np.int64))

    def read(self, store: Store, names: Sequence[str]) -> pa.RecordBatch:
        """The rows with some of these columns and of those of `DECIDED`; those of a document one after another."""
        chosen = chosen_of(store, self.chosen)
        keys = dict(zip(self.names, self.columns, strict=True))
        shared, own = (
            [name for name in some if name in names]
            for some in (self.names[: self.num_shared], self.names[self.num_shared :])
        )
        stored = [
            batch_of(store, shared, [keys[name] for name in shared]).take(tables.whole(chosen["place"])),
            batch_of(store, own, [keys[name] for name in own]),
            chosen.select([name for name in names if name in DECIDED]),
        ]
        fields = {field.name: field for some in stored for field in some.schema}
        columns = {name: some[name] for some in stored for name in some.schema.names}
        table = pa.table([columns[name] for name in names], schema=pa.schema([fields[name] for name in names]))
        visits = self._visits(chosen)
        if (visits != 1).any():
            table = table.take(pa.array(np.repeat(np.arange(len(visits)), visits)))
        return pa.RecordBatch.from_arrays([tables.whole(column) for column in table], schema=table.schema)

    def _visits(self, chosen: pa.Table) -> Ints:
        """How many rows each chosen document has."""
        visits = chosen["visits"].to_numpy().astype(np.int64)
        return visits if self.round is None else np.where(chosen["round"].to_numpy() == self.round, visits, 0)


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
        shared, own = self._columns(done)
        shards = zip(self.select.shards(done).columns(shared), self._own_keys(done), shards_of(done), strict=True)
        return [
            ChosenShard(
                number=i,
                names=tuple(column.name for column in (*shared, *own)),
                columns=(*of_all, *of_chosen),
                num_shared=len(shared),
                chosen=one["key"],
                round=number,
            )
            for i, (of_all, of_chosen, one) in enumerate(shards)
        ]

    def pool(self, done: Done, inputs: str, number: int | None = None) -> Pool:
        """What an order sees, of one round or of all; what is worked out of it is kept under `inputs`."""
        (shared, own), fields = self._columns(done), self.select.shards(done).fields
        fields = {column.name: fields[column] for column in shared}
        fields |= {
            column.name: field_of(done.store, key).with_name(column.name)
            for column, key in zip(own, self._own_keys(done)[0], strict=True)
        }
        shards, store = self.shards(done, number), done.store
        num_rows = list(done.map(functools.partial(_num_rows, store), shards))
        decided = [tables.VERDICTS.field(name) for name in ("inclusion_probability", "round", "visits")]
        names = dict.fromkeys(["doc_id", "num_tokens", *(column.name for column in self.columns)])
        return Pool(
            schema=pa.schema([*(fields[name] for name in names), *decided]),
            num_documents=sum(num_rows),
            shards=[_Rows(store=store, shard=one, num_rows=n) for one, n in zip(shards, num_rows, strict=True)],
            mapper=done.map,
            extender=InStore(done=done, inputs=inputs),
            exchanger=Exchanged(done=done, inputs=inputs),
        )

    def _columns(self, done: Done) -> tuple[list[Column], list[Column]]:
        """The columns that are stored of all documents that may be chosen, and the others."""
        stored = self.select.shards(done).fields
        columns = {column.name: column for column in (KNOWN["doc_id"], KNOWN["num_tokens"], *self.columns)}.values()
        return [column for column in columns if column in stored], [
            column for column in columns if column not in stored
        ]

    def _own_keys(self, done: Done) -> list[tuple[str, ...]]:
        """Where the columns that are stored of the chosen documents alone are, once they are stored, shard by shard."""
        _, own = self._columns(done)
        shards, chosen = self.select.shards(done).shards, [one["key"] for one in shards_of(done)]
        if not own:
            return [()] * len(shards)

        def stored() -> list[tuple[str, ...]]:
            of_shards = list(zip(chosen, shards, strict=True))
            keys = list(column_keys(done, self.select.gather, "chosen.columns", of_shards, own))
            items = [
                _ToStore(shard=shard, chosen=one, columns=lacking)
                for (one, shard), of_shard in zip(of_shards, keys, strict=True)
                if (lacking := _lacking(done.store, dict(zip(of_shard, own, strict=True))))
            ]
            for _ in done.map(functools.partial(_store, done.store, self.select.gather.reader), items):
                pass
            return keys

        return done.once(f"chosen: {', '.join(column.name for column in own)}", stored)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """A shard of what an order sees."""

    store: Store
    shard: ChosenShard
    num_rows: int

    def read(self, columns: Sequence[str]) -> pa.RecordBatch:
        return self.shard.read(self.store, columns)


@dataclass(frozen=True, kw_only=True)
class _ToStore:
    """The columns that are to be stored of the chosen documents of a shard, by key."""

    shard: Shard
    chosen: str  # the key of what select said
    columns: Mapping[str, Column]


def _lacking(store: Store, columns: Mapping[str, Column]) -> Mapping[str, Column]:
    """Those of these columns that are not stored yet, by their keys."""
    return {key: column for key, column in columns.items() if store.find(key) is None}


# What is asked of workers.


def _num_rows(store: Store, shard: ChosenShard) -> int:
    return shard.num_rows(store)


def _store(store: Store, reader: PartReader, item: _ToStore) -> None:
    """Reads columns of the chosen documents of a shard, part by part, and stores them."""
    documents, eligible = documents_of(store, item.shard)
    rows = eligible[chosen_of(store, item.chosen)["place"].to_numpy()]
    chosen = _places(documents)[rows]
    lengths = [store.sealed(key).tables["documents"].num_rows for key in item.shard.documents]
    counts = np.diff(np.searchsorted(rows, np.cumsum([0, *lengths]))).tolist()  # of each part
    columns = with_own_names(item.columns.values())
    wanted = [KNOWN["file"], KNOWN["row"], *columns]
    opened = reader.opened(store, item.shard.tasks[0], wanted)
    parts: list[pa.Table] = []
    for task, count in zip(item.shard.tasks, counts, strict=True):
        if count or not parts:  # of one part at least, which says the types
            live = opened.read(store, task, wanted)
            parts.append(live.filter(pa.array(_is_among(_places(live), chosen))))
    read = joined(parts)
    assert read.num_rows == len(chosen), f"{len(chosen)} documents were chosen, and {read.num_rows} of them are read"
    for key, column in zip(item.columns, columns, strict=True):
        store_column(store, key, read.select([column.name]))


def _places(documents: pa.Table) -> UInt64:
    """Where each document lies, as a number: in which file, then in which row. They ascend along the corpus."""
    files, rows = (documents[name].to_numpy().astype(np.uint64) for name in ("file", "row"))
    return files << np.uint64(32) | rows


def _is_among(places: UInt64, others: UInt64) -> npt.NDArray[np.bool_]:
    """Whether each place is one of the others, which ascend."""
    if not len(others):
        return np.zeros(len(places), np.bool_)
    return others[np.minimum(np.searchsorted(others, places), len(others) - 1)] == places
