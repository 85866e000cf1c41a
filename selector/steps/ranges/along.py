"""The visits of an order, shard by shard and in line, for an order around it."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

import numpy as np
import pyarrow as pa

from selector import tables
from selector.engine.exchange import Answer
from selector.engine.step import Done
from selector.engine.store import Store
from selector.exact import Ints, keyed
from selector.order import Along
from selector.order._around import phases_at, stretches, taken
from selector.order._parted import phases_of_part
from selector.steps.ranges.arranging import ShardRows
from selector.steps.ranges.back import Arranged, Lined


@dataclass(frozen=True, kw_only=True)
class AlongShard:
    """The visits of another order to the rows of one shard."""

    store: Store
    shard: ShardRows
    key: str
    begins: Ints
    reads: tuple[str, ...]

    def positions(self) -> pa.Table:
        return self.store.read(self.key, "positions")

    def along(self, positions: pa.Table) -> Along:
        batch, rows = self.shard.read(self.store, ["doc_id", *self.reads]), positions["row"].to_numpy()
        position = positions["position"].to_numpy()
        stretch = np.searchsorted(self.begins, position, "right") - 1
        return Along(
            ids=keyed.words(batch["doc_id"])[rows],
            visit=positions["visit"].to_numpy().astype(np.int64),
            position=position,
            stretch=stretch,
            begin=self.begins[stretch],
            batch=taken(batch.select(list(self.reads)), rows),
        )


@dataclass(frozen=True, kw_only=True)
class OfAlong(Generic[Answer]):
    """Work on the visits to the rows of one shard."""

    work: Callable[[Along], Answer]

    def __call__(self, one: AlongShard) -> Answer:
        return self.work(one.along(one.positions()))


def stretches_of(done: Done, inner: "Arranged") -> tuple[Ints, pa.DictionaryArray]:
    """The positions at which another phase begins, the first one included, and those phases."""
    begins, phases = [np.empty(0, np.int64)], [pa.chunked_array([], tables.LABEL)]
    last: str | None = None
    for first, phase in done.map(functools.partial(_runs, done.store), inner.ranges):
        if len(first):
            is_same = phase[0].as_py() == last
            begins.append(first[is_same:])
            phases.append(pa.chunked_array([phase[is_same:]]))
            last = phase[-1].as_py()
    whole = pa.chunked_array([chunk for column in phases for chunk in column.chunks], tables.LABEL)
    where = np.concatenate(begins)
    return where, phases_at(whole, np.arange(len(where)))


def _runs(store: Store, lined: Lined) -> tuple[Ints, pa.DictionaryArray]:
    """Where the stretches of one phase begin in a range, and their phases."""
    phase = lined.lines(store, lined.span)["phase"]
    begins, _ = stretches(phase)
    phases = phases_at(phase, begins)
    for part in lined.parts:
        phases = phases_of_part(part, phases)
    return lined.before + lined.span.first + begins, phases
