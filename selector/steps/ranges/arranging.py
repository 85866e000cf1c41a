"""What an order is arranged with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selector.engine.canonical import fingerprint
from selector.engine.exchange import Answer, Deal, Item, Meet, exchange
from selector.engine.step import Done
from selector.plugins.pool import Pool
from selector.steps.ranges.spans import ShardRows


@dataclass(frozen=True, kw_only=True)
class Arranging:
    """A pool in shards, and where what is made of it is stored."""

    done: Done
    inputs: Any  # what decides the answer, as JSON
    name: str  # what the policy calls the order, for the message where it fails
    pool: Pool
    shards: Sequence[ShardRows]
    seed: int
    home: str

    def key(self, shard: ShardRows) -> str:
        """Where the positions of a shard's rows are stored."""
        return f"{self.home}/{fingerprint([self.inputs, shard.number])}"

    def exchanged(
        self, purpose: str, items: Sequence[Item], num_buckets: int, deal: Deal[Item], meet: Meet[Answer]
    ) -> list[Answer]:
        """What `meet` says of each bucket (see `exchange`)."""
        return exchange(self.done, "order", [self.inputs, purpose], items, num_buckets, deal, meet)
