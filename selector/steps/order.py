"""Order: every visit in its place."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from selector.engine.step import APART, Done, Tables, Whole
from selector.engine.store import Seal, Store, canonical_json, fingerprint
from selector.exact import keyed
from selector.exact.rates import Training
from selector.order import Order, Placed, Positions, arranged
from selector.plugins import attached
from selector.plugins.options import plugins_in
from selector.plugins.pool import Pool
from selector.steps import attach, ranges
from selector.steps.chosen import Chosen, ChosenShard

SHARDS = pa.schema([("key", pa.string()), ("visits", pa.int64())])


@dataclass(frozen=True, kw_only=True)
class OrderStep(Whole):
    """`shards`, a row for each shard: `key` is that of the `positions` of its chosen documents (`ranges.POSITIONS`),
    and of those that are `left` (`tables.LEFT`); and `facts`."""

    name: str = field(default="order", metadata=APART)
    version = 3

    order: Order = field(metadata=APART)
    label: str = field(metadata=APART)
    order_identity: Mapping[str, Any]
    seed: int
    chosen: Chosen = field(metadata=APART)
    attach: str | None = field(metadata=APART)
    training: Training | None = field(metadata=APART)

    def inputs(self, done: Done) -> Any:
        training = [asdict(self.training)] if self.training is not None and self._reads_training else []
        return [done["select"].fingerprint, self.chosen.identities(done), *training]

    @property
    def _reads_training(self) -> bool:
        return any(getattr(inner, "reads_training", False) for inner in plugins_in(self.order))

    def rows_out(self, seal: Seal, store: Store) -> int:
        return sum(store.table(seal, "shards", ["visits"])["visits"].to_pylist())

    def shares(self, done: Done) -> list[str]:
        return [shard["key"] for shard in shards_of(done)]

    def compute(self, done: Done) -> Tables:
        order = attached.attach(self.order, attach.loaded(done, self.attach))
        own = self.fingerprint(done)
        pool, shards = self.chosen.pool(done, own), self.chosen.shards(done)
        if self._reads_training:
            pool = replace(pool, training=self.training)
        facts: dict[str, Any] = {"facts": {}, "phases": {}}
        if isinstance(order, Placed):
            keys = ranges.arranged(done, own, self.label, order, pool, shards, self.seed)
        else:
            ids = keyed.words(pool.table("doc_id")["doc_id"])
            positions = arranged(self.label, order, pool, ids, self.seed)
            keys = [
                _stored(done.store, own, shard, *cut) for shard, cut in zip(shards, _cut(pool, positions), strict=True)
            ]
            facts = {"facts": dict(positions.facts), "phases": {k: dict(v) for k, v in positions.phases.items()}}
        rows = [{"key": key, "visits": _num_visits(done.store, key)} for key in keys]
        yield "shards", pa.Table.from_pylist(rows, schema=SHARDS)
        yield "facts", pa.table({"json": [canonical_json(facts).decode()]})


def shards_of(done: Done) -> list[dict[str, Any]]:
    """A row of `SHARDS` for each shard."""
    return done.once("order: shards", lambda: done.table("order", "shards").to_pylist())


def facts_of(done: Done) -> dict[str, Any]:
    """What the order said of itself as a whole: `facts`, and `phases` by name."""
    return json.loads(done.table("order", "facts")["json"][0].as_py())


def _cut(pool: Pool, positions: Positions) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The visits and what is left, for each shard, with its own rows."""
    visits = positions.visits.append_column("position", pa.array(np.arange(positions.visits.num_rows)))
    visits, left = (_by_row(table) for table in (visits, positions.left))
    first = 0
    for batch in pool.batches("doc_id"):
        end = first + batch.num_rows
        yield _of_rows(visits, first, end).sort_by("position"), _of_rows(left, first, end)
        first = end


def _by_row(table: pa.Table) -> pa.Table:
    return table.take(pa.array(np.argsort(table["document"].to_numpy(), kind="stable"))).combine_chunks()


def _of_rows(table: pa.Table, first: int, end: int) -> pa.Table:
    """The rows about some rows of the pool, which are counted from the first of them; the table is sorted by them."""
    rows = table["document"].to_numpy()
    at = table.schema.get_field_index("document")
    start, stop = np.searchsorted(rows, [first, end]).tolist()
    return table.slice(start, stop - start).set_column(at, "row", pa.array(rows[start:stop] - first))


def _stored(store: Store, own: str, shard: ChosenShard, visits: pa.Table, left: pa.Table) -> str:
    """The key of a shard's positions, once they are stored."""
    positions = visits.select(ranges.POSITIONS.names).cast(ranges.POSITIONS)
    left = left.rename_columns(["document", *left.schema.names[1:]])
    key = f"order.shards/{fingerprint([own, shard.number])}"
    return store.seal(key, [("positions", positions), ("left", left)], form="arrow").key


def _num_visits(store: Store, key: str) -> int:
    return store.sealed(key).tables["positions"].num_rows
