"""Shards: the documents of the corpus from selection on, about a million at a time, in columns that are read as they
lie.

A shard is some consecutive parts. The verdict on its documents is said once, on a worker, and stored with the columns
of those that may be chosen. Whoever passes over the pool then reads these columns, and no part is opened again but for
what takes much room, and is wanted of the chosen documents alone (`chosen`).
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.corpus.columns import Column
from selector.engine.canonical import fingerprint
from selector.engine.part import Part, Task, stretches
from selector.engine.step import Done
from selector.engine.store import Seal, Store
from selector.plugins.catalogue import KNOWN
from selector.plugins.pool import Extension, Pool
from selector.rate._sums import type_of
from selector.select import reasons
from selector.steps import dedup
from selector.steps.gather import Gather
from selector.steps.regroup import Exchanged
from selector.steps.verdict import CLASH, DUPLICATE, Cause, Eligibility, Verdict, lost_from

SHARD_ROWS = 1 << 20

ELIGIBLE = -1
"""The code of a document that may be chosen; any other is the number of its cause."""

DOCUMENTS = pa.schema([("doc_id", tables.DOC_ID), ("file", pa.uint32()), ("row", pa.uint32()), ("code", pa.int32())])
CAUSES = pa.schema([("outcome", pa.int32()), ("reason", pa.string()), ("arguments", pa.string())])
LEADERS = pa.schema([("place", pa.int64()), ("leader", tables.DOC_ID)])

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Consecutive parts of the corpus, and where the verdict on their documents is stored."""

    key: str
    tasks: tuple[Task, ...]  # of each part, the artefacts that its columns come from
    documents: tuple[str, ...]  # of each part, the key of all its documents
    lost: tuple[dedup.Lost | None, ...]  # of each part, what dedup took from it


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The corpus shard by shard, with what became of every document before any selector saw it."""

    done: Done
    shards: tuple[Shard, ...]
    fields: Mapping[Column, pa.Field]  # of the columns that may be asked for
    keys: Mapping[Column, tuple[str, ...]]  # where they are stored, shard by shard
    num_eligible: tuple[int, ...]

    @classmethod
    def of(
        cls, done: Done, eligibility: Eligibility, gather: Gather, columns: Sequence[Column], version: int
    ) -> "Shards":
        """The shards, once the verdict on every document is said, and stored with it what may be asked of those that
        may be chosen: these columns and the doc_id. So a part is opened once. `version` is that of who asks."""
        wanted = tuple(dict.fromkeys((KNOWN["doc_id"], *columns)))
        shards = tuple(_cut(done, eligibility, gather, version))
        keys = list(column_keys(done, gather, "shards.columns", [(shard.key, shard) for shard in shards], wanted))
        kinds = {
            column: type_of(done.table(column.step, "sums"), column.column)
            for column in wanted
            if column.meaning not in (None, "label")
        }
        store = functools.partial(_store, done.store, eligibility, wanted, kinds)
        for _ in done.map(store, _lacking(done, shards, keys)):
            pass
        fields = [field_of(done.store, key) for key in keys[0]]
        return cls(
            done=done,
            shards=shards,
            fields={column: field.with_name(column.name) for column, field in zip(wanted, fields, strict=True)},
            keys=dict(zip(wanted, zip(*keys, strict=True), strict=True)),
            num_eligible=tuple(done.store.sealed(of_shard[0]).tables["column"].num_rows for of_shard in keys),
        )

    def pool(self, columns: Sequence[Column], inputs: str) -> Pool:
        """The documents that may be chosen, with these columns; what is worked out of them is kept under `inputs`."""
        by_name = {column.name: column for column in (KNOWN["doc_id"], KNOWN["num_tokens"], *columns)}
        shards = [
            Stored(store=self.done.store, keys=dict(zip(by_name, keys, strict=True)), num_rows=num_rows)
            for keys, num_rows in zip(self.columns(list(by_name.values())), self.num_eligible, strict=True)
        ]
        return Pool(
            schema=pa.schema([self.fields[column] for column in by_name.values()]),
            num_documents=sum(self.num_eligible),
            shards=shards,
            mapper=self.done.map,
            extender=InStore(done=self.done, inputs=inputs),
            exchanger=Exchanged(done=self.done, inputs=inputs),
        )

    def columns(self, columns: Sequence[Column]) -> list[tuple[str, ...]]:
        """The keys of these columns of every shard."""
        return list(zip(*(self.keys[column] for column in columns), strict=True))


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What of a shard is to be stored: the verdict, if it is not there, and columns of what may be chosen, by key."""

    shard: Shard
    is_new: bool
    columns: Mapping[str, int]  # which of all columns


def _lacking(done: Done, shards: Sequence[Shard], keys: Sequence[tuple[str, ...]]) -> list[_Wanted]:
    """What is not stored yet."""
    wanted: list[_Wanted] = []
    for shard, of_shard in zip(shards, keys, strict=True):
        is_new = done.store.find(shard.key) is None
        columns = {key: i for i, key in enumerate(of_shard) if done.store.find(key) is None}
        if is_new or columns:
            wanted.append(_Wanted(shard=shard, is_new=is_new, columns=columns))
    return wanted


def column_keys(
    done: Done, gather: Gather, family: str, shards: Sequence[tuple[str, Shard]], columns: Sequence[Column]
) -> Iterator[tuple[str, ...]]:
    """Where each column of each shard is stored: what decides it is the key that says which of its documents are meant,
    and the artefacts it comes from."""
    by_column = [replace(gather, columns=(column,), attach=None).identities(done) for column in columns]
    start = 0
    for key, shard in shards:
        end = start + len(shard.tasks)
        names = [
            fingerprint([key, column.step, column.table, column.column, in_shard[start:end]])
            for column, in_shard in zip(columns, by_column, strict=True)
        ]
        yield tuple(f"{family}/{name}" for name in names)
        start = end


def with_own_names(columns: Iterable[Column]) -> list[Column]:
    """The columns under names that are all different: two plug-ins may call two columns by one name."""
    return [replace(column, name=f"column {i}") for i, column in enumerate(columns)]


def _cut(done: Done, eligibility: Eligibility, gather: Gather, version: int) -> Iterator[Shard]:
    """Consecutive parts, until they have about `SHARD_ROWS` documents."""
    decisive = replace(gather, columns=eligibility.columns).identities(done)
    tasks, shares, ingested = gather.tasks(done), dedup.shares(done), done["ingest"].parts
    for parts in stretches([seal.tables["documents"].num_rows for seal in ingested], SHARD_ROWS):
        lost = tuple(dedup.lost_in(share) for share in shares[parts])
        lost_rows = [None if one is None else one.rows for one in lost]
        documents = tuple(one.key for one in ingested[parts])
        quarantines = [
            [step, rows] for step in eligibility.raters if (rows := lost_from(done.store, done[step].parts[parts]))
        ]
        files = [task.part.files for task in tasks[parts]]
        name = fingerprint([version, eligibility.identity(), decisive[parts], files, documents, lost_rows, quarantines])
        yield Shard(key=f"shards/{name}", tasks=tuple(tasks[parts]), documents=documents, lost=lost)


# What is asked of workers.


def _store(
    store: Store,
    eligibility: Eligibility,
    all_columns: Sequence[Column],
    kinds: Mapping[Column, pa.DataType],
    wanted: _Wanted,
) -> None:
    """Stores the verdict on every document of a shard, and columns of those that may be chosen."""
    columns = with_own_names(all_columns)
    verdict = eligibility.verdict(store, wanted.shard.tasks, [columns[i] for i in wanted.columns.values()])
    is_eligible = pa.array(verdict.is_eligible)
    for key, i in wanted.columns.items():
        values = _in_type(verdict.live.select([columns[i].name]), kinds.get(all_columns[i])).filter(is_eligible)
        store_column(store, key, values)
    if wanted.is_new:
        shard_tables = _ShardTables()
        all_lost = dedup.lost_of(store, wanted.shard.lost)
        parts = zip(wanted.shard.tasks, wanted.shard.documents, all_lost, strict=True)
        for (task, key, lost), (first, end) in zip(parts, itertools.pairwise(verdict.borders), strict=True):
            documents = store.read(key, "documents", ["doc_id", "place"])
            shard_tables.add(documents, task.part, lost, verdict, slice(first, end))
        store.seal(wanted.shard.key, shard_tables.tables(), form="arrow")


def _in_type(table: pa.Table, kind: pa.DataType | None) -> pa.Table:
    """A table of one column in the type that it has in all shards, if that is known: here it may have no values."""
    (field,) = table.schema
    if kind is None or field.type == kind:
        return table
    is_empty = table.column(0).null_count == table.num_rows
    values = pa.nulls(table.num_rows, kind) if is_empty else table.column(0).cast(kind)
    return pa.table([values], schema=pa.schema([field.with_type(kind)]))


def _without_room(table: pa.Table) -> pa.Table:
    """A table of one column, which takes no room where it has no values; `batch_of` gives it its type back."""
    is_empty = table.num_rows and table.column(0).null_count == table.num_rows
    return pa.table({"value": pa.nulls(table.num_rows)}) if is_empty else table


class _ShardTables:
    """The verdict on the documents of a shard, part by part."""

    def __init__(self) -> None:
        self._documents: list[pa.Table] = []
        self._leaders: list[pa.Table] = []
        self._causes: dict[tuple[int, str, str | None], int] = {}
        self._num_documents = 0

    def add(self, documents: pa.Table, part: Part, lost: pa.Table, verdict: Verdict, live: slice) -> None:
        """Adds a part: all its documents, what dedup took from it, and the verdict on the others, which are so."""
        places = documents["place"].to_numpy()
        code = np.full(len(places), ELIGIBLE, np.int32)
        if lost.num_rows:
            at = np.searchsorted(places, lost["place"].to_numpy())
            is_clash = lost["is_clash"].to_numpy(zero_copy_only=False)
            both = [self._number(DUPLICATE), self._number(CLASH)]
            code[at] = np.where(is_clash, both[1], both[0])
            self._leaders.append(pa.table([at + self._num_documents, lost["leader"]], schema=LEADERS))
        at = np.searchsorted(places, verdict.live["place"].to_numpy()[live])
        numbers = np.array([self._number(cause) for cause in verdict.causes] or [ELIGIBLE], np.int32)
        code[at] = np.where(verdict.is_eligible[live], ELIGIBLE, numbers[np.maximum(verdict.code[live], 0)])
        files, rows = part.find(places)
        self._documents.append(pa.table([documents["doc_id"], files, rows, code], schema=DOCUMENTS))
        self._num_documents += len(places)

    def tables(self) -> Iterator[tuple[str, pa.Table]]:
        """What is stored of the shard."""
        whole = pa.concat_tables(self._documents)
        yield "documents", whole
        causes = [dict(zip(CAUSES.names, row, strict=True)) for row in self._causes]
        yield "causes", pa.Table.from_pylist(causes, schema=CAUSES)
        yield "leaders", pa.concat_tables([LEADERS.empty_table(), *self._leaders])

    def _number(self, cause: Cause) -> int:
        """The number of a cause among those of the shard."""
        words = reasons(np.zeros(1, np.int32), [cause.reason])
        key = (cause.outcome, words["reason"][0].as_py(), words["arguments"][0].as_py())
        return self._causes.setdefault(key, len(self._causes))


def store_column(store: Store, key: str, values: pa.Table) -> None:
    """Stores a table of one column, without its name: one column may be asked for by several."""
    nameless = values.combine_chunks().rename_columns(["value"])
    store.seal(key, [("column", _without_room(nameless)), ("field", nameless.schema.empty_table())], form="arrow")


def field_of(store: Store, key: str) -> pa.Field:
    """The field of a column that is stored, without its name."""
    return store.read(key, "field").schema.field(0)


def batch_of(store: Store, names: Sequence[str], keys: Sequence[str]) -> pa.RecordBatch:
    """These columns of a shard."""
    columns = [_column_of(store, key) for key in keys]
    arrays = [tables.whole(column.column(0)) for column in columns]
    fields = [column.schema.field(0).with_name(name) for column, name in zip(columns, names, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _column_of(store: Store, key: str) -> pa.Table:
    """A column of a shard, in its own type."""
    column = store.read(key, "column")
    if pa.types.is_null(column.schema.field(0).type):
        field = field_of(store, key)
        column = pa.table([pa.nulls(column.num_rows, field.type)], schema=pa.schema([field]))
    return column


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A shard whose columns are stored apart."""

    store: Store
    keys: Mapping[str, str]  # by name
    num_rows: int

    def read(self, columns: Sequence[str]) -> pa.RecordBatch:
        return batch_of(self.store, columns, [self.keys[name] for name in columns])


class InStore:
    """Where further columns of shards go: into the store."""

    def __init__(self, *, done: Done, inputs: str) -> None:
        self._done, self._inputs = done, inputs
        self._number = 0

    def begin(self) -> Extension:
        self._number += 1
        key = f"{self._done.passing}/extended/{fingerprint([self._inputs, self._number])}"
        return functools.partial(_seal, self._done.store, key)


@dataclass(frozen=True, kw_only=True)
class _StoredShard:
    """Columns that were worked out of a shard, tables of one artefact."""

    store: Store
    seal: Seal

    @property
    def num_rows(self) -> int:
        return next(iter(self.seal.tables.values())).num_rows

    def read(self, columns: Sequence[str]) -> pa.RecordBatch:
        read = [self.store.table(self.seal, name) for name in columns]
        schema = pa.schema([table.schema.field(0) for table in read])
        return pa.RecordBatch.from_arrays([tables.whole(table.column(0)) for table in read], schema=schema)


def _seal(store: Store, prefix: str, number: int, work: Callable[[], pa.RecordBatch]) -> _StoredShard:
    """Stores the columns of a shard, if they are not there yet."""
    key = f"{prefix}-{number}"
    seal = store.find(key)
    if seal is None:
        columns = pa.Table.from_batches([work()])
        seal = store.seal(key, ((name, columns.select([name])) for name in columns.schema.names), form="arrow")
    return _StoredShard(store=store, seal=seal)


def documents_of(store: Store, shard: Shard) -> tuple[pa.Table, npt.NDArray[Any]]:
    """All documents of a shard (`DOCUMENTS`), and the places of those that may be chosen."""
    documents = store.read(shard.key, "documents")
    return documents, np.flatnonzero(documents["code"].to_numpy() == ELIGIBLE)
