"""Arranges an order over shards: by the module for its kind, after the orders that it reads or is around."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from selector.engine.exchange import Answer
from selector.engine.step import Done
from selector.engine.store import Store
from selector.order import Along, Dealt, Order, Resorted
from selector.order._around import Around, Visits
from selector.order._moved import Moved
from selector.order._parted import Parted
from selector.order._placed import standing
from selector.order._weighted import Weighted
from selector.plugins.blame import Blamed, with_blame
from selector.plugins.pool import Pool
from selector.steps.ranges.along import AlongShard, OfAlong, stretches_of
from selector.steps.ranges.arranging import Arranging, RowsOf, ShardRows
from selector.steps.ranges.back import Arranged
from selector.steps.ranges.moved import moved
from selector.steps.ranges.parted import in_parts
from selector.steps.ranges.placed import by_ranks
from selector.steps.ranges.resorted import sorted_anew
from selector.steps.ranges.weighed import weighed


def arranged(
    done: Done, inputs: Any, name: str, order: Order, pool: Pool, shards: Sequence[ShardRows], seed: int
) -> Arranged:
    """What each shard's rows are in the order, by the keys of `positions` (`POSITIONS`) and `left` (`tables.LEFT`); and
    what the order says of itself.

    `name` is what the policy calls the order, for the message where it fails. The order is one that is arranged by
    shards (`is_arranged_by_shards`).
    """
    arranging = Arranging(done=done, inputs=inputs, name=name, pool=pool, shards=shards, seed=seed, home="order.shards")
    return _arranged(arranging, order)


def _arranged(arranging: Arranging, order: Order) -> Arranged:
    with_ranks = _with_ranks(arranging, order)
    if isinstance(order, Around):
        home = f"{arranging.done.passing}/inner"
        inner = _arranged(replace(arranging, inputs=[arranging.inputs, "inner"], home=home), order.inner)
        return _around(with_ranks, order, inner)
    if isinstance(order, Parted):
        return in_parts(with_ranks, order, _arranged)
    assert isinstance(order, Dealt)
    return by_ranks(with_ranks, order)


def _with_ranks(arranging: Arranging, order: Order) -> Arranging:
    """The same with the further columns that the order reads (`Order.ranks`)."""
    done, pool, shards = arranging.done, arranging.pool, arranging.shards
    for column, by in order.ranks.items():
        within = replace(arranging, inputs=[arranging.inputs, column], home=f"{done.passing}/ranks")
        keys = _arranged(replace(within, pool=pool, shards=shards), by).keys
        ranked = [_Ranked(shard=shard, column=column, key=key) for shard, key in zip(shards, keys, strict=True)]
        rows = [
            RowsOf(store=done.store, shard=shard, num_rows=one.num_rows)
            for shard, one in zip(ranked, pool.shards, strict=True)
        ]
        shards = ranked
        pool = replace(pool, schema=pool.schema.append(pa.field(column, pa.int64())), shards=rows)
    return replace(arranging, pool=pool, shards=shards)


def _around(arranging: Arranging, order: Around, inner: Arranged) -> Arranged:
    """What an order does to the visits of another one."""
    done, name = arranging.done, arranging.name
    begins, phases = stretches_of(done, inner)
    along = [
        AlongShard(store=done.store, shard=shard, key=key, begins=begins, reads=order.reads)
        for shard, key in zip(arranging.shards, inner.keys, strict=True)
    ]

    def everywhere(work: Callable[[Along], Answer]) -> Iterator[Answer]:
        return done.map(Blamed(kind="order", name=name, plugin=type(order), work=OfAlong(work=work)), along)

    pool = with_blame(arranging.pool, "order", name, order)
    visits = Visits(each=everywhere, count=inner.count, begins=begins, phases=phases, chosen=pool)
    if isinstance(order, Resorted):
        return sorted_anew(arranging, order, inner, visits, along)
    if isinstance(order, Moved):
        return moved(arranging, order, inner, visits, along)
    assert isinstance(order, Weighted)
    return weighed(arranging, order, inner, visits, along)


@dataclass(frozen=True, kw_only=True)
class _Ranked:
    """A shard with one more column: the positions of its rows in another order."""

    shard: ShardRows
    column: str
    key: str

    @property
    def number(self) -> int:
        return self.shard.number

    def read(self, store: Store, names: Sequence[str]) -> pa.RecordBatch:
        others = [name for name in names if name != self.column]
        batch = self.shard.read(store, others or ["doc_id"])
        if self.column in names:
            positions = store.read(self.key, "positions")
            rank = standing(positions["row"].to_numpy(), positions["position"].to_numpy(), batch.num_rows)
            batch = batch.append_column(self.column, pa.array(rank))
        return batch.select(list(names))
