"""A mixture of groups that holds all along: each group shuffled, and spread evenly over the tokens of them all."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from selector.exact import Ints, UInt64
from selector.order._cuts import Cuts
from selector.order._groups import Groups
from selector.order._placed import Placed, random_keys

_NO_VALUE = "no value"


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """The groups that phases mix: the values of a column, or the bands of a score."""

    known: Groups | Cuts

    @property
    def columns(self) -> tuple[str, ...]:
        """What says which group a document is in, beside its id."""
        return (self.known.by if isinstance(self.known, Groups) else self.known.score,)

    @property
    def names(self) -> list[str]:
        """What the groups are called, the last one of documents without a value."""
        if isinstance(self.known, Groups):
            return [*(str(name) for name in self.known.names), _NO_VALUE]
        return [*(str(number) for number in range(1, len(self.known.before) + 2)), _NO_VALUE]

    def of(self, batch: pa.RecordBatch) -> Ints:
        """The group of each row."""
        return self.known.of(batch) if isinstance(self.known, Groups) else self.known.pieces(batch)


@dataclass(frozen=True, kw_only=True)
class Evenly(Placed):
    """Each group shuffled, and spread evenly over the tokens of them all."""

    measured_in: ClassVar[Literal["visits", "tokens"]] = "tokens"

    grouping: Grouping

    @property
    def needs(self) -> tuple[str, ...]:
        return self.grouping.columns

    def groups(self, batch: pa.RecordBatch, summary: None) -> Ints:
        return self.grouping.of(batch).astype(np.int64)

    def keys(self, batch: pa.RecordBatch, summary: None, seed: int) -> UInt64:
        return random_keys(batch, seed, "phases")

    def place(self, group: Ints, rank: Ints, sizes: Ints) -> Ints:
        """Where the middle of each visit lies among the tokens of its group, as a share of them."""
        return (rank / np.maximum(sizes, 1)[group]).view(np.int64)  # of numbers from 0 on, in their order
