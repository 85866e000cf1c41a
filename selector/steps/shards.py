"""Shards: the documents of the corpus from selection on, about a million at a time, in columns that are read as they
lie.

A shard is some consecutive parts. The verdict on its documents is said once, on a worker, and stored; so is each column
of those that may be chosen, when somebody first asks for it. Whoever passes over the pool then reads these columns, and
no part is opened again.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.corpus.columns import Column
from selector.engine.part import Task
from selector.engine.step import Done
from selector.engine.store import Store, fingerprint
from selector.plugins.catalogue import KNOWN
from selector.plugins.pool import Pool
from selector.select import reasons
from selector.steps import dedup
from selector.steps.gather import Gather
from selector.steps.verdict import CLASH, DUPLICATE, Eligibility, Outcome

SHARD_ROWS = 1 << 20

ELIGIBLE = -1
"""The code of a document that may be chosen; any other is the number of its outcome."""

DOCUMENTS = pa.schema([("doc_id", tables.DOC_ID), ("file", pa.uint32()), ("row", pa.uint32()), ("code", pa.int32())])
OUTCOMES = pa.schema([("outcome", pa.int32()), ("reason", pa.string()), ("arguments", pa.string())])
LEADERS = pa.schema([("place", pa.int64()), ("leader", tables.DOC_ID)])

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Consecutive parts of the corpus, and where the verdict on their documents is stored."""

    key: str
    tasks: tuple[Task, ...]  # of each part, the artefacts that its columns come from
    documents: tuple[str, ...]  # of each part, the key of all its documents
    lost: tuple[str | None, ...]  # of each part, the key of what dedup took from it


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The corpus shard by shard, with what became of every document before any selector saw it."""

    done: Done
    eligibility: Eligibility
    gather: Gather  # of every column that may be asked for
    shards: tuple[Shard, ...]
    num_eligible: tuple[int, ...]

    @classmethod
    def of(cls, done: Done, eligibility: Eligibility, gather: Gather) -> "Shards":
        """The shards, once the verdict on every document is said and stored."""
        shards = tuple(_cut(done, eligibility, gather))
        missing = [shard for shard in shards if done.store.find(shard.key) is None]
        for _ in done.map(functools.partial(_say, done.store, eligibility), missing):
            pass
        return cls(
            done=done,
            eligibility=eligibility,
            gather=gather,
            shards=shards,
            num_eligible=tuple(_num_rows(done.store, shard.key, "eligible") for shard in shards),
        )

    def read_by(self, gather: Gather) -> "Shards":
        """The same documents and verdicts, for a reader that may ask for other columns."""
        if gather == self.gather:
            return self
        tasks = iter(gather.tasks(self.done))
        shards = tuple(replace(shard, tasks=tuple(next(tasks) for _ in shard.tasks)) for shard in self.shards)
        return replace(self, gather=gather, shards=shards)

    def pool(self, columns: Sequence[Column]) -> Pool:
        """The documents that may be chosen, with these columns."""
        by_name = {column.name: column for column in (KNOWN["doc_id"], KNOWN["num_tokens"], *columns)}
        store = self.done.store
        first = self.eligibility.read(store, self.shards[0].tasks[0], list(by_name.values())).schema
        schema = pa.schema([first.field(name) for name in by_name])

        def load(names: Sequence[str]) -> Iterator[pa.RecordBatch]:
            for keys in self.columns([by_name[name] for name in names], schema):
                yield batch_of(store, names, keys)

        def mapped(work: Callable[[pa.RecordBatch], Answer], names: Sequence[str]) -> Iterator[Answer]:
            keys = self.columns([by_name[name] for name in names], schema)
            return self.done.map(functools.partial(_on_batch, store, tuple(names), work), keys)

        return Pool(schema=schema, num_documents=sum(self.num_eligible), load=load, mapper=mapped)

    def columns(self, columns: Sequence[Column], schema: pa.Schema) -> list[tuple[str, ...]]:
        """The keys of these columns of every shard, once they are stored."""
        wanted = [
            _Wanted(shard=shard, columns=tuple(columns), keys=keys)
            for shard, keys in zip(self.shards, self._keys(columns), strict=True)
        ]
        store, fields = self.done.store, {column.name: schema.field(column.name) for column in columns}
        missing = [
            replace(one, columns=tuple(c for c, _ in lacking), keys=tuple(key for _, key in lacking))
            for one in wanted
            if (lacking := [(c, key) for c, key in zip(one.columns, one.keys, strict=True) if store.find(key) is None])
        ]
        for _ in self.done.map(functools.partial(_collect, store, self.eligibility, fields), missing):
            pass
        return [one.keys for one in wanted]

    def _keys(self, columns: Sequence[Column]) -> Iterator[tuple[str, ...]]:
        """Where each column of each shard is stored: what decides it is the verdict and the artefacts it comes from."""
        by_column = [replace(self.gather, columns=(column,), attach=None).identities(self.done) for column in columns]
        start = 0
        for shard in self.shards:
            end = start + len(shard.tasks)
            names = [
                fingerprint([shard.key, column.step, column.table, column.column, told[start:end]])
                for column, told in zip(columns, by_column, strict=True)
            ]
            yield tuple(f"shards.columns/{name}" for name in names)
            start = end


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """Columns of a shard, and where each is to be stored."""

    shard: Shard
    columns: tuple[Column, ...]
    keys: tuple[str, ...]


def _cut(done: Done, eligibility: Eligibility, gather: Gather) -> Iterator[Shard]:
    """Consecutive parts, until they have about `SHARD_ROWS` documents."""
    decisive = replace(gather, columns=eligibility.columns).identities(done)
    tasks, shares, ingested = gather.tasks(done), dedup.shares(done), done["ingest"].parts
    start = rows = 0
    for i, seal in enumerate(ingested):
        rows += seal.tables["documents"].num_rows
        if rows >= SHARD_ROWS or i + 1 == len(ingested):
            parts = slice(start, i + 1)
            lost = tuple(share["lost"] for share in shares[parts])
            documents = tuple(one.key for one in ingested[parts])
            quarantines = [
                [step, j - start, seal.tables["quarantine"].sha256]
                for step in eligibility.raters
                for j, seal in enumerate(done[step].parts[parts], start)
                if seal.tables["quarantine"].num_rows
            ]
            name = fingerprint([eligibility.identity(), decisive[parts], documents, lost, quarantines])
            yield Shard(key=f"shards/{name}", tasks=tuple(tasks[parts]), documents=documents, lost=lost)
            start, rows = i + 1, 0


def _num_rows(store: Store, key: str, table: str) -> int:
    return store.sealed(key).tables[table].num_rows


# What is asked of workers.


def _say(store: Store, eligibility: Eligibility, shard: Shard) -> None:
    """Says the verdict on every document of a shard, and stores it."""
    pieces: list[pa.Table] = []
    leaders: list[pa.Table] = []
    outcomes: dict[tuple[int, str, str | None], int] = {}
    place = 0
    for task, documents_key, lost_key in zip(shard.tasks, shard.documents, shard.lost, strict=True):
        documents = store.read(documents_key, "documents", ["doc_id", "row"])
        rows = documents["row"].to_numpy()
        code = np.full(len(rows), ELIGIBLE, np.int32)
        lost = dedup.lost_of(store, lost_key)
        if lost.num_rows:
            at = np.searchsorted(rows, lost["row"].to_numpy())
            is_clash = lost["is_clash"].to_numpy(zero_copy_only=False)
            both = [_number(outcomes, DUPLICATE), _number(outcomes, CLASH)]
            code[at] = np.where(is_clash, both[1], both[0])
            leaders.append(pa.table([at + place, lost["leader"]], schema=LEADERS))
        verdict = eligibility.verdict(store, task)
        at = np.searchsorted(rows, verdict.live["row"].to_numpy())
        numbers = np.array([_number(outcomes, outcome) for outcome in verdict.outcomes] or [ELIGIBLE], np.int32)
        code[at] = np.where(verdict.is_eligible, ELIGIBLE, numbers[np.maximum(verdict.code, 0)])
        file = np.full(len(rows), task.part.file, np.uint32)
        pieces.append(pa.table([documents["doc_id"], file, documents["row"], code], schema=DOCUMENTS))
        place += len(rows)
    whole = pa.concat_tables(pieces)
    eligible = np.flatnonzero(whole["code"].to_numpy() == ELIGIBLE)
    said = [(outcome, reason, arguments) for outcome, reason, arguments in outcomes]
    sealed = [
        ("documents", whole),
        ("eligible", pa.table({"place": eligible})),
        (
            "outcomes",
            pa.Table.from_pylist([dict(zip(OUTCOMES.names, row, strict=True)) for row in said], schema=OUTCOMES),
        ),
        ("leaders", pa.concat_tables([LEADERS.empty_table(), *leaders])),
    ]
    store.seal(shard.key, sealed, form="arrow")


def _number(outcomes: dict[tuple[int, str, str | None], int], outcome: Outcome) -> int:
    """The number of an outcome among those of the shard."""
    said = reasons(np.zeros(1, np.int32), [outcome.reason])
    key = (outcome.outcome, said["reason"][0].as_py(), said["arguments"][0].as_py())
    return outcomes.setdefault(key, len(outcomes))


def _collect(store: Store, eligibility: Eligibility, fields: Mapping[str, pa.Field], wanted: _Wanted) -> None:
    """Stores columns of those documents of a shard that may be chosen."""
    shard = wanted.shard
    documents = store.read(shard.key, "documents", ["row", "code"])
    is_eligible = documents["code"].to_numpy() == ELIGIBLE
    rows = documents["row"].to_numpy()
    pieces: list[pa.Table] = []
    start = 0
    for task, documents_key in zip(shard.tasks, shard.documents, strict=True):
        end = start + _num_rows(store, documents_key, "documents")
        chosen = rows[start:end][is_eligible[start:end]]
        if len(chosen):
            asked = [KNOWN["row"], *(column for column in wanted.columns if column.name != "row")]
            live = eligibility.read(store, task, asked)
            pieces.append(live.take(pa.array(np.searchsorted(live["row"].to_numpy(), chosen))))
        start = end
    for column, key in zip(wanted.columns, wanted.keys, strict=True):
        schema = pa.schema([fields[column.name]])
        values = [piece.select([column.name]).cast(schema) for piece in pieces]
        table = pa.concat_tables(values).unify_dictionaries() if values else schema.empty_table()
        nameless = table.combine_chunks().rename_columns(["value"])  # one column may be asked for by several names
        store.seal(key, [("column", nameless)], form="arrow")


def batch_of(store: Store, names: Sequence[str], keys: Sequence[str]) -> pa.RecordBatch:
    """These columns of a shard."""
    columns = [store.read(key, "column") for key in keys]
    arrays = [column.column(0).combine_chunks() for column in columns]
    fields = [column.schema.field(0).with_name(name) for column, name in zip(columns, names, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _on_batch(
    store: Store, names: Sequence[str], work: Callable[[pa.RecordBatch], Answer], keys: Sequence[str]
) -> Answer:
    return work(batch_of(store, names, keys))


def documents_of(store: Store, shard: Shard) -> tuple[pa.Table, npt.NDArray[Any]]:
    """All documents of a shard (`DOCUMENTS`), and the places of those that may be chosen."""
    return store.read(shard.key, "documents"), store.read(shard.key, "eligible")["place"].to_numpy()
