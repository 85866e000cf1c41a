"""What a plug-in around another one must cope with: each of these does what few others do."""

import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector.exact import Ints, UInt64, keyed
from selector.order import Order, Placed, Pool, Positions
from selector.rate import Rater
from selector.select import Grouped, Keys


@dataclass(frozen=True, kw_only=True)
class Prepared(Rater):
    """Cannot rate before it was prepared."""

    higher_is = "better"

    @functools.cached_property
    def _loaded(self) -> list[str]:
        return []

    def prepare(self) -> None:
        self._loaded.append("once")

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        assert self._loaded, "a rater around another one prepares it: super().prepare() does"
        return pa.record_batch({"score": pa.array([len(text) / 2 for text in batch["text"].to_pylist()], pa.float64())})


@dataclass(frozen=True, kw_only=True)
class Sifting(Grouped):
    """Never takes some documents, names another one for each of those, and decides by columns that it has added."""

    fills_budget = False

    def group_keys(self, group: pa.RecordBatch, given: pa.RecordBatch, seed: int) -> Keys:
        ids = keyed.words(group["doc_id"])
        never = ids[:, 1] % np.uint64(3) == 0
        first = group["doc_id"].take(pa.array(np.zeros(len(ids), np.int64), mask=~never))
        return Keys(keys=keyed.hashes(group["doc_id"], seed, "sifting"), never=never, others=first)


@dataclass(frozen=True, kw_only=True)
class Repeating(Placed):
    """Visits some documents once, some three times in three phases, and leaves some."""

    def visits(self, batch: pa.RecordBatch, summary: None, seed: int) -> Ints:
        return np.array([0, 1, 3])[keyed.words(batch["doc_id"])[:, 1] % np.uint64(3)]

    def groups(self, batch: pa.RecordBatch, summary: None) -> Ints:
        return np.minimum(batch["visit"].to_numpy(), 2).astype(np.int64)

    def keys(self, batch: pa.RecordBatch, summary: None, seed: int) -> UInt64:
        return keyed.hashes(batch["doc_id"], seed, "repeating")

    def phases(self, group: Ints, summary: None) -> tuple[Ints, list[str]]:
        return group, ["first", "second", "third"]


AWKWARD = {"raters": Prepared(), "selectors": Sifting(), "orders": Repeating()}


@dataclass(frozen=True, kw_only=True)
class Held(Order):
    """Must be asked for all visits at once."""

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        ids = keyed.words(chosen.table("doc_id")["doc_id"])
        return Positions.of(np.lexsort((ids[:, 1], ids[:, 0])), ids)
