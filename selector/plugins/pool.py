"""The documents that a selector chooses from, or an order arranges: columns by name, shard by shard.

Think of a pool as a table too large to hold. Its shards always come in corpus order, and reading them again gives the
same shards again; so an exact method passes over the pool as often as it needs, in memory that does not grow with it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa

from selector import tables
from selector.engine.step import Mapper
from selector.exact import keyed
from selector.exact.rates import Training

Item = TypeVar("Item")
Answer = TypeVar("Answer")
GroupWork = Callable[[pa.RecordBatch], pa.RecordBatch]

_AT_ONCE = 1 << 16  # rows of whole groups that are copied together


class Shard(Protocol):
    """Some documents of a pool, wherever their columns are. Picklable."""

    @property
    def num_rows(self) -> int: ...

    def read(self, columns: Sequence[str]) -> pa.RecordBatch:
        """These columns of the documents, in corpus order."""
        ...


class Extender(Protocol):
    """Puts further columns of the shards where any worker finds them."""

    def begin(self) -> "Extension":
        """How the next columns are put there; asked in the same order in every run, so that a killed run goes on."""
        ...


class Extension(Protocol):
    """Puts there what `work` says of the shard of this number, unless it is there already. Picklable."""

    def __call__(self, number: int, work: Callable[[], pa.RecordBatch], /) -> Shard: ...


class Exchanger(Protocol):
    """Asks workers what `work` says of whole groups of a pool's documents."""

    def __call__(
        self, pool: "Pool", by: str, work: GroupWork, columns: Sequence[str], returns: pa.Schema, /
    ) -> Sequence[Shard]:
        """The answers about the documents of each shard, where the pool's extender puts them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A shard in memory."""

    batch: pa.RecordBatch

    @property
    def num_rows(self) -> int:
        return self.batch.num_rows

    def read(self, columns: Sequence[str]) -> pa.RecordBatch:
        return self.batch.select(list(columns))


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A shard with further columns, which lie elsewhere."""

    shard: Shard
    more: Shard
    names: tuple[str, ...]  # of the further columns

    @property
    def num_rows(self) -> int:
        return self.shard.num_rows

    def read(self, columns: Sequence[str]) -> pa.RecordBatch:
        theirs = [name for name in columns if name in self.names]
        others = [name for name in columns if name not in self.names]
        read = [shard.read(names) for shard, names in ((self.shard, others), (self.more, theirs)) if names]
        by_name = {name: (column, batch.schema.field(name)) for batch in read for name, column in _named(batch)}
        return pa.RecordBatch.from_arrays(
            [by_name[name][0] for name in columns], schema=pa.schema([by_name[name][1] for name in columns])
        )


class InMemory:
    """Where further columns go when there is no store: they stay in memory."""

    def begin(self) -> Extension:
        return _held


def _held(_: int, work: Callable[[], pa.RecordBatch]) -> Shard:
    return Rows(batch=work())


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
    shards: Sequence[Shard]
    mapper: Mapper = map
    extender: Extender = field(default_factory=InMemory)
    exchanger: Exchanger | None = None
    """Without one, groups are asked here, over the whole table."""
    given: pa.Table | None = None
    """Documents that are chosen already (`select.include`, a group at a bound of `select.shares`), with the columns of
    the pool: context for the choice, never decided. None: there are none, or the selector says that it does not look
    (`looks_at_given`)."""
    training: Training | None = None
    """How an order will be trained on, where the policy says it and the order that it reads it (`reads_training`,
    `reads_batch`)."""

    @classmethod
    def of(cls, data: pa.Table, shard_rows: int = 65_536, given: pa.Table | None = None) -> "Pool":
        """A pool over a table in memory."""
        whole = data.combine_chunks()
        cut = (whole.slice(start, shard_rows) for start in range(0, data.num_rows, shard_rows))
        shards = [Rows(batch=batch) for rows in cut for batch in rows.to_batches()]
        return cls(schema=data.schema, num_documents=data.num_rows, shards=shards, given=given)

    def batches(self, *columns: str) -> Iterator[pa.RecordBatch]:
        """The shards with these columns, in corpus order. Their number of rows differs, and may be 0."""
        return (shard.read(columns) for shard in self.shards)

    def map(self, work: Callable[[pa.RecordBatch], Answer], *columns: str) -> Iterator[Answer]:
        """What `work` says of every shard with these columns, in corpus order.

        `work` must be picklable (a function of a module, a frozen dataclass with `__call__`, a `functools.partial` of
        those), since it runs where the shards are; its answers are small.
        """
        return self.mapper(functools.partial(_on_shard, work, columns), self.shards)

    def extended(self, work: Callable[[pa.RecordBatch], pa.RecordBatch], *columns: str, returns: pa.Schema) -> "Pool":
        """This pool with the columns that `work` says of every shard, in the schema `returns`; they are worked out now,
        and kept. Like that of `map` it must be picklable."""
        extend = functools.partial(_extend, work, columns, returns, self.extender.begin())
        shards = list(self.mapper(extend, list(enumerate(self.shards))))
        return dataclasses.replace(self, schema=pa.schema([*self.schema, *returns]), shards=shards)

    def exchange(self, by: str, work: GroupWork, *columns: str, returns: pa.Schema) -> "Pool":
        """This pool with the columns that `work` says of whole groups: all documents with one value of the column `by`.

        `work` is shown a group with these columns, sorted by doc_id, and answers with as many rows, in their order, in
        the schema `returns`. Like that of `map` it must be picklable, since it runs on workers; a group must fit in the
        memory of one.
        """
        checked = _Checked(work=work, returns=returns)
        if self.exchanger is None:
            table = self.table(*dict.fromkeys(("doc_id", by, *columns)))
            return self.with_columns(by_groups(table, by, checked, columns, returns))
        answers = self.exchanger(self, by, checked, columns, returns)
        shards = [
            Beside(shard=shard, more=more, names=tuple(returns.names))
            for shard, more in zip(self.shards, answers, strict=True)
        ]
        return dataclasses.replace(self, schema=pa.schema([*self.schema, *returns]), shards=shards)

    def with_columns(self, more: pa.Table) -> "Pool":
        """This pool with further columns, one row for each of its documents, in their order."""
        names = tuple(more.schema.names)
        firsts = [0, *itertools.accumulate(shard.num_rows for shard in self.shards)]
        shards = [
            Beside(shard=shard, more=Rows(batch=_whole(more.slice(first, shard.num_rows))), names=names)
            for shard, first in zip(self.shards, firsts, strict=False)
        ]
        return dataclasses.replace(self, schema=pa.schema([*self.schema, *more.schema]), shards=shards)

    def table(self, *columns: str) -> pa.Table:
        """These columns whole: for plug-ins that say how large a pool they can hold."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        return pa.Table.from_batches(list(self.batches(*columns)), schema=schema).unify_dictionaries().combine_chunks()

    def higher_is(self, score: str) -> str:
        """What a large value of this score means: harder, better, rarer or closer."""
        return (self.schema.field(score).metadata or {})[b"higher_is"].decode()


def _on_shard(work: Callable[[pa.RecordBatch], Answer], columns: Sequence[str], shard: Shard) -> Answer:
    return work(shard.read(columns))


def _extend(
    work: Callable[[pa.RecordBatch], pa.RecordBatch],
    columns: Sequence[str],
    returns: pa.Schema,
    extension: Extension,
    numbered: tuple[int, Shard],
) -> Shard:
    number, shard = numbered

    def answered() -> pa.RecordBatch:
        answer = work(shard.read(columns))
        assert answer.num_rows == shard.num_rows, "the work answers with a row for every document of the shard"
        return answer.cast(returns)

    return Beside(shard=shard, more=extension(number, answered), names=tuple(returns.names))


def _named(batch: pa.RecordBatch) -> list[tuple[str, pa.Array]]:
    return list(zip(batch.schema.names, batch.columns, strict=True))


def _whole(table: pa.Table) -> pa.RecordBatch:
    """The table as one batch, also if it has no rows."""
    arrays = [tables.whole(column) for column in table.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=table.schema)


def by_groups(table: pa.Table, by: str, work: GroupWork, columns: Sequence[str], returns: pa.Schema) -> pa.Table:
    """What `work` says of each group of these documents, in the order of the documents. A group is shown `columns`,
    sorted by doc_id."""
    values = tables.whole(table[by])
    encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)  # what has no value is a group too
    ids = keyed.words(table["doc_id"])
    order = np.lexsort((ids[:, 1], ids[:, 0], codes))
    borders = (
        np.flatnonzero(np.r_[True, codes[order[1:]] != codes[order[:-1]]]) if len(order) else np.empty(0, np.int64)
    )
    shown = table.select(list(columns))
    answers: list[pa.RecordBatch] = []
    for starts in _together([*borders.tolist(), len(order)]):
        some = shown.take(pa.array(order[starts[0] : starts[-1]])).combine_chunks()
        for start, end in itertools.pairwise(starts):
            (group,) = some.slice(start - starts[0], end - start).to_batches()
            answers.append(work(group))
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return pa.Table.from_batches(answers, schema=returns).unify_dictionaries().take(pa.array(back)).combine_chunks()


def _together(borders: Sequence[int]) -> Iterator[Sequence[int]]:
    """Stretches of about `_AT_ONCE` rows, each as the borders of its groups."""
    first = 0
    for i in range(1, len(borders)):
        if borders[i] - borders[first] >= _AT_ONCE or i + 1 == len(borders):
            yield borders[first : i + 1]
            first = i


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """Work on groups whose answers have the form that was agreed."""

    work: GroupWork
    returns: pa.Schema

    def __call__(self, group: pa.RecordBatch) -> pa.RecordBatch:
        answer = self.work(group)
        if answer.num_rows != group.num_rows:
            raise ValueError(f"the work answered with {answer.num_rows} rows for a group of {group.num_rows}")
        return answer.cast(self.returns)
