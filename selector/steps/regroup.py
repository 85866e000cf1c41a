"""Whole groups of a stored pool's documents meet on workers: what `Pool.exchange` asks for.

Every shard deals its rows by a hash of their group's value, so that a group lies in one bucket; a bucket asks the work
about each of its groups; at last each shard gets back the answers about its rows, as columns that are stored beside its
own. The answer is that of a pool in memory, bit for bit.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.engine.canonical import fingerprint
from selector.engine.exchange import by_bucket, exchange
from selector.engine.step import Done
from selector.engine.store import Store
from selector.exact import Ints, keyed
from selector.plugins.pool import Extension, GroupWork, Pool, Shard, by_groups

BUCKET_ROWS, BUCKET_BYTES = 1 << 20, 1 << 28

_SLOTS = 1 << 16
_WIDTH_OF_TEXT = 1024  # bytes of a value, where its type says nothing
_SHARD, _ROW = "exchange.shard", "exchange.row"
_PLACE = pa.schema([(_SHARD, pa.int32()), (_ROW, pa.int64())])


class Exchanged:
    """The exchanger of one step. `inputs` is a fingerprint of all that decides what is in the pool and what is asked of
    it; its questions come in the same order in every run, so that a run goes on where it was."""

    def __init__(self, *, done: Done, inputs: str) -> None:
        self._done, self._inputs = done, inputs
        self._number = 0

    def __call__(
        self, pool: Pool, by: str, work: GroupWork, columns: Sequence[str], returns: pa.Schema, /
    ) -> Sequence[Shard]:
        self._number += 1
        sizes = [shard.num_rows for shard in pool.shards]
        own = fingerprint([self._inputs, self._number, sizes, by, list(columns), [str(field) for field in returns]])
        question = _Question(by=by, work=work, columns=tuple(columns), returns=returns)
        width = sum(_width(pool.schema.field(name).type) for name in question.names)
        bucket_rows = max(1, min(BUCKET_ROWS, BUCKET_BYTES // width))
        return _answers(self._done, own, question, pool.shards, bucket_rows, pool.extender.begin())


@dataclass(frozen=True, kw_only=True)
class _Question:
    """What is asked about whole groups."""

    by: str
    work: GroupWork
    columns: tuple[str, ...]
    returns: pa.Schema

    @property
    def names(self) -> tuple[str, ...]:
        """What must be read of a shard."""
        return tuple(dict.fromkeys(("doc_id", self.by, *self.columns)))


def _answers(
    done: Done, own: str, question: _Question, shards: Sequence[Shard], bucket_rows: int, extension: Extension
) -> Sequence[Shard]:
    """For each shard the answers about its rows."""
    numbered = list(enumerate(shards))
    slots = np.zeros(_SLOTS, np.int64)
    for counted in done.map(functools.partial(_count, question.by), shards):
        slots += counted
    bucket_of = _buckets(slots, bucket_rows)
    inputs = [own, keyed.digest(bucket_of.tobytes()).hex()]
    deal = functools.partial(_deal, question, bucket_of)
    meet = functools.partial(_meet, question, f"{done.passing}/groups/{fingerprint(inputs)}")
    answered = exchange(done, "shards", [inputs, "groups"], numbered, int(bucket_of[-1]) + 1, deal, meet)
    collect = functools.partial(_collect, question.returns, extension)
    return exchange(done, "shards", [inputs, "back"], answered, len(shards), _deal_back, collect)


def _buckets(slots: Ints, bucket_rows: int) -> npt.NDArray[np.int32]:
    """The bucket of each slot, in their order: about so many rows each, more where a slot has more."""
    before = np.cumsum(slots) - slots
    return np.unique(before // bucket_rows, return_inverse=True)[1].astype(np.int32)


def _width(kind: pa.DataType) -> int:
    """About how many bytes a value takes."""
    if pa.types.is_dictionary(kind):
        return _width(kind.index_type)
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size * _width(kind.value_type)
    try:
        return max(1, kind.bit_width // 8)
    except ValueError:
        return _WIDTH_OF_TEXT


# What is asked of workers.


def _count(by: str, shard: Shard) -> Ints:
    """How many rows of a shard there are in each slot."""
    return np.bincount(_slots(shard.read([by])[by]), minlength=_SLOTS)


def _deal(
    question: _Question, bucket_of: npt.NDArray[np.int32], _: Store, item: tuple[int, Shard]
) -> Mapping[int, pa.Table]:
    """A shard's rows, with their places, by buckets."""
    number, shard = item
    table = pa.Table.from_batches([shard.read(question.names)])
    place = [np.full(table.num_rows, number, np.int32), np.arange(table.num_rows)]
    for field, values in zip(_PLACE, place, strict=True):
        table = table.append_column(field, pa.array(values))
    return by_bucket(table, bucket_of[_slots(tables.whole(table[question.by]))])


def _meet(question: _Question, prefix: str, store: Store, bucket: int, dealt: Iterator[pa.Table]) -> str:
    """Stores what the work says of the groups of a bucket, with the places of the rows."""
    key = f"{prefix}-{bucket}"
    if store.find(key) is None:
        schema = pa.schema([*question.returns, *_PLACE])
        tables = list(dealt)
        answered = schema.empty_table()
        if tables:
            table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
            tables.clear()
            answers = by_groups(table, question.by, question.work, question.columns, question.returns)
            answered = pa.table([*answers.columns, table[_SHARD], table[_ROW]], schema=schema)
        store.seal(key, [("answers", answered)], form="arrow")
    return key


def _deal_back(store: Store, key: str) -> Mapping[int, pa.Table]:
    """The answers of a bucket, by shards."""
    answers = store.read(key, "answers")
    return by_bucket(answers, answers[_SHARD].to_numpy())


def _collect(returns: pa.Schema, extension: Extension, _: Store, number: int, dealt: Iterator[pa.Table]) -> Shard:
    """Keeps the answers about the rows of a shard, in the rows' order."""

    def lined_up() -> pa.RecordBatch:
        schema = pa.schema([*returns, *_PLACE])
        answers = pa.concat_tables([schema.empty_table(), *dealt]).unify_dictionaries()
        answers = answers.take(pa.array(np.argsort(answers[_ROW].to_numpy()))).select(returns.names)
        return pa.RecordBatch.from_arrays([tables.whole(column) for column in answers.columns], schema=returns)

    return extension(number, lined_up)


def _slots(values: pa.Array) -> Ints:
    """A number below `_SLOTS` for each value: a hash, the same for equal values of any shard."""
    encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    different = encoded.dictionary
    kind = different.type
    if pa.types.is_integer(kind):
        numbers = different.cast(pa.int64(), safe=False).fill_null(0).to_numpy().view(np.uint64)
    else:  # few, as groups are
        hashed = (keyed.digest(_in_words(value).encode("utf-8", "surrogatepass")) for value in different.to_pylist())
        numbers = np.array([int.from_bytes(some[:8], "big") for some in hashed], np.uint64)
    mixed = keyed.siphash(np.column_stack([numbers, np.zeros_like(numbers)]), b"\0" * 16) >> np.uint64(48)
    slots = np.append(mixed.astype(np.int64), 0)  # the last one is that of no value
    return slots[encoded.indices.fill_null(len(different)).to_numpy(zero_copy_only=False)]


def _in_words(value: Any) -> str:
    """A value in words, by which equal ones are told: both zeros are one."""
    return repr(value + 0.0 if isinstance(value, float) else value)
