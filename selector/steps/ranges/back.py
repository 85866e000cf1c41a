"""What shards get back of an order: the positions of their rows, and the rows that it does not visit."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from selector import tables
from selector.engine.exchange import Deal, Item, by_bucket
from selector.engine.store import Store
from selector.exact import Ints, UInt64, keyed
from selector.order import numbered
from selector.steps.ranges.arranging import Arranging, ShardRows
from selector.steps.ranges.spans import Range

PLACED = pa.schema(
    [("row", pa.int64()), ("position", pa.int64()), ("phase", tables.LABEL), ("loss_weight", pa.float32())]
)
POSITIONS = pa.schema(
    [
        ("row", pa.int64()),  # of the shard's chosen documents
        ("position", pa.int64()),  # in the order; the table is sorted by it
        ("visit", pa.uint16()),
        ("phase", tables.LABEL),
        ("loss_weight", pa.float32()),
    ]
)


class Lines(Protocol):
    """What is in a range, one visit after another: row and shard, phase and loss weight. Picklable."""

    def __call__(self, store: Store, span: Range, /) -> pa.Table: ...


@dataclass(frozen=True, kw_only=True)
class Lined:
    """A range, with what says which visits are in it, and where it is in the whole order."""

    span: Range
    lines: Lines
    before: int = 0  # visits of parts before its own
    parts: tuple[str, ...] = ()  # the part that it is in, and the one that that is in


@dataclass(frozen=True, kw_only=True)
class Arranged:
    """An order over shards: what each shard got back, and the ranges that its phases are in, first to last."""

    keys: list[str]
    ranges: Sequence[Lined]
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    phases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])

    @property
    def count(self) -> int:
        """How many visits there are."""
        return sum(lined.span.rows for lined in self.ranges)


class NotVisited(Protocol):
    """`tables.LEFT` of a shard: the rows that have no position, which are given, and why. Picklable."""

    def __call__(self, store: Store, number: int, rows: Ints, /) -> pa.Table: ...


@dataclass(frozen=True, kw_only=True)
class StillUnvisited:
    """The rows that the order inside does not visit."""

    keys: tuple[str, ...]

    def __call__(self, store: Store, number: int, rows: Ints) -> pa.Table:
        return store.read(self.keys[number], "left")


def given_back(arranging: Arranging, lines: Lines, ranges: Sequence[Range], unvisited: NotVisited) -> Arranged:
    """Gives each shard the positions of its rows; `lines` says what is in a range, one visit after another."""
    back = functools.partial(_deal_back, lines)
    return Arranged(
        keys=collected(arranging, ranges, back, unvisited), ranges=[Lined(span=span, lines=lines) for span in ranges]
    )


def collected(arranging: Arranging, items: Sequence[Item], deal: Deal[Item], unvisited: NotVisited) -> list[str]:
    """Stores what is dealt back to the shards as the positions of their rows; their keys."""
    shards = tuple(arranging.shards)
    collect = functools.partial(_collect, unvisited, shards, tuple(arranging.key(shard) for shard in shards))
    return arranging.exchanged("back", items, len(shards), deal, collect)


def _deal_back(lines: Lines, store: Store, span: Range) -> Mapping[int, pa.Table]:
    rows = lines(store, span)
    positions = span.first + np.arange(rows.num_rows)
    whole = pa.table([rows["row"], positions, rows["phase"], rows["loss_weight"]], schema=PLACED)
    return by_bucket(whole, rows["shard"].to_numpy())


def _collect(
    unvisited: NotVisited,
    shards: tuple[ShardRows, ...],
    keys: tuple[str, ...],
    store: Store,
    number: int,
    dealt: Iterator[pa.Table],
) -> str:
    """Stores the positions of a shard's rows; its key."""
    shard = shards[number]
    whole = pa.concat_tables([PLACED.empty_table(), *dealt]).unify_dictionaries().sort_by("position").combine_chunks()
    ids: UInt64 = keyed.words(shard.read(store, ["doc_id"])["doc_id"])
    row = whole["row"].to_numpy()
    positions = pa.table(
        [row, whole["position"], numbered(ids[row]), whole["phase"], whole["loss_weight"]], schema=POSITIONS
    )
    left = unvisited(store, number, np.flatnonzero(np.bincount(row, minlength=len(ids)) == 0))
    return store.seal(keys[number], [("positions", positions), ("left", left)], form="arrow").key
