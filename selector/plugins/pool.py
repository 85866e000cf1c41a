"""The documents that a selector chooses from, or an order arranges: columns by name, shard by shard.

Think of a pool as a table too large to hold. Its shards always come in corpus order, and reading them again gives the
same shards again; so an exact method passes over the pool as often as it needs, in memory that does not grow with it.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa

from selector.exact import keyed

Answer = TypeVar("Answer")
Load = Callable[[Sequence[str]], Iterator[pa.RecordBatch]]


class Mapper(Protocol):
    """Asks every shard with these columns what `work` says of it."""

    def __call__(self, work: Callable[[pa.RecordBatch], Answer], columns: Sequence[str], /) -> Iterator[Answer]: ...


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Columns: doc_id, num_tokens, and what the plug-in's `needs` and options name, under the names that they use.

    A score is float32, or exact (int64, date, timestamp, decimal), or a label; it is null where `select.missing` lets a
    document stay without it, and a null sorts last. What a large score means is its field's `higher_is`. An order's
    pool has a row for every visit that was decided, those of a document one after another in one shard, and also
    visits, round and inclusion_probability.
    """

    schema: pa.Schema
    num_documents: int
    load: Load
    mapper: Mapper | None = None
    """Does what `map` says where the shards are; without one it is done here."""
    given: pa.Table | None = None
    """Documents that are chosen already (earlier rounds, `include`, a replan's beginning), with the columns of the
    pool: context for the choice, never decided."""

    @classmethod
    def of(cls, data: pa.Table, shard_rows: int = 65_536, given: pa.Table | None = None) -> "Pool":
        """A pool over a table in memory."""

        def load(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
            chosen = data.select(list(columns)).combine_chunks()
            for start in range(0, data.num_rows, shard_rows):
                yield from chosen.slice(start, shard_rows).to_batches()

        return cls(schema=data.schema, num_documents=data.num_rows, load=load, given=given)

    def batches(self, *columns: str) -> Iterator[pa.RecordBatch]:
        """The shards with these columns, in corpus order. Their number of rows differs, and may be 0."""
        return self.load(columns)

    def map(self, work: Callable[[pa.RecordBatch], Answer], *columns: str) -> Iterator[Answer]:
        """What `work` says of every shard with these columns, in corpus order.

        `work` must be picklable (a function of a module, a frozen dataclass with `__call__`, a `functools.partial` of
        those), since it runs where the shards are; its answers are small.
        """
        return map(work, self.load(columns)) if self.mapper is None else self.mapper(work, columns)

    def exchange(
        self, by: str, work: Callable[[pa.RecordBatch], pa.RecordBatch], *columns: str, returns: pa.Schema
    ) -> "Pool":
        """This pool with the columns that `work` says of whole groups: all documents with one value of the column `by`.

        `work` is shown a group with these columns, sorted by doc_id, and answers with as many rows, in their order, in
        the schema `returns`. Like that of `map` it must be picklable.
        """
        wanted = list(dict.fromkeys(("doc_id", by, *columns)))
        table = self.table(*wanted)
        values = table[by].combine_chunks()
        encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)  # what has no value is a group too
        ids = keyed.words(table["doc_id"])
        order = np.lexsort((ids[:, 1], ids[:, 0], codes))
        sorted_codes = codes[order]
        borders = np.flatnonzero(np.r_[True, sorted_codes[1:] != sorted_codes[:-1]]).tolist() if len(order) else []
        answers: list[pa.RecordBatch] = []
        grouped = table.take(pa.array(order)).combine_chunks()
        for start, end in itertools.pairwise([*borders, len(order)] if borders else []):
            (group,) = grouped.slice(start, end - start).select(list(columns)).to_batches()
            answer = work(group)
            assert answer.num_rows == group.num_rows, "the work answers with a row for every document of the group"
            answers.append(answer.cast(returns))
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        answered = pa.Table.from_batches(answers, schema=returns).take(pa.array(back)).combine_chunks()
        return self.with_columns(answered)

    def with_columns(self, more: pa.Table) -> "Pool":
        """This pool with further columns, one row for each of its documents, in their order."""
        names = more.schema.names

        def load(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
            place = 0
            inner = [name for name in columns if name not in names]
            for batch in self.load(inner or ["doc_id"]):
                rows = more.slice(place, batch.num_rows).combine_chunks()
                place += batch.num_rows
                arrays = [rows[name].combine_chunks() if name in names else batch.column(name) for name in columns]
                yield pa.record_batch(arrays, schema=pa.schema([schema.field(name) for name in columns]))

        schema = pa.schema([*self.schema, *more.schema])
        return dataclasses.replace(self, schema=schema, load=load, mapper=None)

    def table(self, *columns: str) -> pa.Table:
        """These columns whole: for plug-ins that say how large a pool they can hold."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        return pa.Table.from_batches(list(self.batches(*columns)), schema=schema).unify_dictionaries().combine_chunks()

    def higher_is(self, score: str) -> str:
        """What a large value of this score means: harder, better, rarer or closer."""
        return (self.schema.field(score).metadata or {})[b"higher_is"].decode()
