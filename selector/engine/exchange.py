"""Rows of different shards meet: each shard deals its rows into buckets, and each bucket is worked on whole.

Think of sorting letters: every office sorts its own post by destination, then each destination collects from all
offices. What is dealt lies in the store in passing, until the step is done: so a run that was killed deals nothing
twice.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.engine.canonical import fingerprint
from selector.engine.step import Done
from selector.engine.store import Store

Item = TypeVar("Item")
Answer = TypeVar("Answer")

Deal = Callable[[Store, Item], Mapping[int, pa.Table]]
"""Says which of an item's rows go into which bucket. Picklable; buckets that get nothing may be left out."""

Meet = Callable[[Store, int, Iterator[pa.Table]], Answer]
"""Works on a bucket: its number, and what each item dealt into it, in the items' order. Picklable; a small answer."""


def exchange(
    done: Done, name: str, inputs: Any, items: Sequence[Item], num_buckets: int, deal: Deal[Item], meet: Meet[Answer]
) -> list[Answer]:
    """What `meet` says of each bucket, in their order. `inputs` is all that decides what is dealt, as JSON.

    A single item for a single bucket is not stored on the way. Raises DamagedError where what was dealt is gone.
    """
    if len(items) == 1 and num_buckets == 1:
        return list(done.map(_AtOnce(store=done.store, deal=deal, meet=meet), items))
    dealt = f"{done.passing}/{name}.dealt"
    keys = [f"{dealt}/{fingerprint([inputs, num_buckets, len(items), place])}" for place in range(len(items))]
    missing = [(key, item) for key, item in zip(keys, items, strict=True) if done.store.find(key) is None]
    for _ in done.map(_Deal(store=done.store, deal=deal), missing):
        pass
    return list(done.map(_Meet(store=done.store, keys=tuple(keys), meet=meet), range(num_buckets)))


@dataclass(frozen=True, kw_only=True, eq=False)
class ByBucket(Mapping[int, pa.Table]):
    """Rows by their buckets, each copied when it is asked for: one of them at a time is held twice."""

    rows: pa.Table
    order: npt.NDArray[np.int64]
    borders: Mapping[int, tuple[int, int]]

    def __getitem__(self, bucket: int) -> pa.Table:
        first, end = self.borders[bucket]
        return self.rows.take(pa.array(self.order[first:end]))

    def __iter__(self) -> Iterator[int]:
        return iter(self.borders)

    def __len__(self) -> int:
        return len(self.borders)


def by_bucket(rows: pa.Table, buckets: npt.NDArray[Any]) -> ByBucket:
    """The rows that go into each bucket, in their order; `buckets` has its number, from 0 on, for every row."""
    if len(buckets) and int(buckets.max()) < 1 << 16:
        buckets = buckets.astype(np.uint16)  # NumPy sorts these by their digits, in a few passes
    order = np.argsort(buckets, kind="stable")
    in_order = buckets[order]
    firsts = np.flatnonzero(np.r_[True, in_order[1:] != in_order[:-1]][: len(order)]).tolist()
    ends = [*firsts[1:], len(order)][: len(firsts)]
    numbers = in_order[firsts].tolist()
    borders = {n: (first, end) for n, first, end in zip(numbers, firsts, ends, strict=True)}
    return ByBucket(rows=rows.combine_chunks(), order=order, borders=borders)


def collected(store: Store, keys: Sequence[str], name: str) -> Iterator[pa.Table]:
    """The table of this name of each of these artefacts that has one. Raises DamagedError where one is gone."""
    for key in keys:
        seal = store.sealed(key)
        if name in seal.tables:
            yield store.table(seal, name)


@dataclass(frozen=True, kw_only=True)
class _AtOnce(Generic[Item, Answer]):
    store: Store
    deal: Deal[Item]
    meet: Meet[Answer]

    def __call__(self, item: Item) -> Answer:
        return self.meet(self.store, 0, iter(self.deal(self.store, item).values()))


@dataclass(frozen=True, kw_only=True)
class _Deal(Generic[Item]):
    """Stores what an item deals, a table for each bucket."""

    store: Store
    deal: Deal[Item]

    def __call__(self, keyed: tuple[str, Item]) -> None:
        key, item = keyed
        dealt = self.deal(self.store, item)
        self.store.seal(key, ((str(bucket), dealt[bucket]) for bucket in sorted(dealt)), form="arrow")


@dataclass(frozen=True, kw_only=True)
class _Meet(Generic[Answer]):
    """Collects a bucket, and works on it."""

    store: Store
    keys: tuple[str, ...]
    meet: Meet[Answer]

    def __call__(self, bucket: int) -> Answer:
        return self.meet(self.store, bucket, collected(self.store, self.keys, str(bucket)))
