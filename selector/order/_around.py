"""Orders around another one, as its visits are known to them: some at a time, wherever those are.

Think of the visits of the other order as a pool of their own, each with its position. What follows from each visit
alone is worked out where its document is, and nobody holds all visits.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import Ints, UInt64, keyed
from selector.order._contract import Order, Positions
from selector.order._parted import Parted
from selector.order._placed import Dealt, random_visits
from selector.plugins.families import name_of
from selector.plugins.pool import Pool

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Around(Order):
    """Does something to the visits of another order."""

    inner: Order

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of the pool that are read of each visit's document (`Along.batch`)."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Along:
    """Some visits of another order, in whatever order they are given; those of a document together."""

    ids: UInt64  # (n, 2): `keyed.words` of their documents
    visit: Ints
    position: Ints
    stretch: Ints  # the number of the stretch of one phase that each is in
    begin: Ints  # the position at which that stretch begins
    batch: pa.RecordBatch  # the columns of their documents that the order reads (`reads`), a row for each visit

    def chance(self, seed: int, purpose: str) -> UInt64:
        """One random number per visit, of a keyed hash of its document and its number."""
        return random_visits(keyed.ids(self.ids), self.visit, seed, purpose)


class Everywhere(Protocol):
    """Asks all visits: what `work` says of some of them at a time, wherever those are.

    The work is picklable, since it may run on workers; its answers are small.
    """

    def __call__(self, work: Callable[[Along], Answer], /) -> Iterable[Answer]: ...


@dataclass(frozen=True, kw_only=True)
class Visits:
    """All visits of another order, wherever they are."""

    each: Everywhere
    count: int
    begins: Ints  # the position at which each stretch of one phase begins
    phases: pa.DictionaryArray  # and its phase
    chosen: Pool

    def check_room(self, order: Around) -> None:
        """For an order that holds some bytes for each visit. Raises PolicyError where these are too many."""
        if self.count > order.most_held:
            raise PolicyError(
                f"{name_of(order)} holds some bytes for each visit, and takes {order.most_held:,} at most: here are "
                f"{self.count:,}. Choose fewer documents, or take the order inside by itself, which holds nothing."
            )


def in_one_piece(order: Around, chosen: Pool, positions: Positions) -> tuple[Along, Visits]:
    """The visits of the order inside, all of them at once."""
    visits = positions.visits
    begins, number = stretches(visits["phase"])
    rows = visits["document"].to_numpy()
    columns = chosen.table(*order.reads).combine_chunks() if order.reads else pa.table({})
    along = Along(
        ids=keyed.words(chosen.table("doc_id")["doc_id"])[rows],
        visit=visits["visit"].to_numpy().astype(np.int64),
        position=np.arange(len(number)),
        stretch=number,
        begin=begins[number],
        batch=taken(columns, rows),
    )
    every = Visits(
        each=lambda work: [work(along)],
        count=len(number),
        begins=begins,
        phases=phases_at(visits["phase"], begins),
        chosen=chosen,
    )
    return along, every


def stretches(phase: pa.ChunkedArray) -> tuple[Ints, Ints]:
    """Where each stretch of one phase begins, and the number of the stretch of every visit."""
    codes = phase.unify_dictionaries().combine_chunks().indices.to_numpy() if len(phase) else np.empty(0, np.int64)
    is_new = np.ones(len(codes), np.bool_)
    is_new[1:] = codes[1:] != codes[:-1]
    return np.flatnonzero(is_new), np.cumsum(is_new) - 1


def phases_at(phase: pa.ChunkedArray, places: Ints) -> pa.DictionaryArray:
    """The phases at some places of a column of phases."""
    if not len(places):
        return pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), pa.array([], pa.string()))
    return phase.unify_dictionaries().combine_chunks().take(pa.array(places))


def taken(columns: pa.Table | pa.RecordBatch, rows: Ints) -> pa.RecordBatch:
    """The columns of these rows, in one batch; no column at all may be asked for."""
    picked = pa.table(columns).take(pa.array(rows, pa.int64())) if columns.num_columns else pa.table({})
    return pa.RecordBatch.from_arrays([column.combine_chunks() for column in picked], schema=picked.schema)


def is_arranged_by_shards(order: Order) -> bool:
    """Whether nobody needs to hold all visits of the order in one piece: it is placed, or around one that is, or has
    parts that are."""
    if isinstance(order, Parted):
        return all(is_arranged_by_shards(one) for one in order.orders)
    return isinstance(order, Dealt) or (isinstance(order, Around) and is_arranged_by_shards(order.inner))
