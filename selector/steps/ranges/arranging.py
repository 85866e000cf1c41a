"""What an order is arranged with: the rows of shards, and where what is made of them is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from selector.engine.canonical import fingerprint
from selector.engine.exchange import Answer, Deal, Item, Meet, exchange
from selector.engine.step import Done
from selector.engine.store import Store
from selector.plugins.pool import Pool

_VERSION = 2  # raise it when rows are dealt in another way: what a run that was killed has dealt is then not taken


class ShardRows(Protocol):
    """The rows of one shard, wherever their columns are, such as a `ChosenShard`. Picklable."""

    @property
    def number(self) -> int: ...

    def read(self, store: Store, names: Sequence[str]) -> pa.RecordBatch:
        """The rows with these columns; those of a document one after another."""
        ...


@dataclass(frozen=True, kw_only=True)
class RowsOf:
    """The rows of a shard, as a shard of a pool."""

    store: Store
    shard: ShardRows
    num_rows: int

    def read(self, columns: Sequence[str]) -> pa.RecordBatch:
        return self.shard.read(self.store, columns)


@dataclass(frozen=True, kw_only=True)
class Arranging:
    """A pool in shards, and where what is made of it is stored."""

    done: Done
    inputs: Any  # what decides the answer, as JSON
    name: str  # what the policy calls the order, for the message where it fails
    pool: Pool
    shards: Sequence[ShardRows]
    seed: int
    home: str  # begins the keys of what shards get back

    def key(self, shard: ShardRows) -> str:
        """Where the positions of a shard's rows are stored."""
        return f"{self.home}/{fingerprint([self.inputs, shard.number])}"

    def exchanged(
        self, purpose: str, items: Sequence[Item], num_buckets: int, deal: Deal[Item], meet: Meet[Answer]
    ) -> list[Answer]:
        """What `meet` says of each bucket (see `exchange`)."""
        return exchange(self.done, "order", [_VERSION, self.inputs, purpose], items, num_buckets, deal, meet)
