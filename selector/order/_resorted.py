"""Orders around another one that sort its visits anew, by numbers that follow from each visit alone.

Think of the visits of the other order as a pool of their own, each with its position: to sort them anew is an order
like any other. So around a `Placed` it is one more distributed sort, and nobody holds all visits.
"""

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, final

import numpy as np
import pyarrow as pa

from selector import tables
from selector.exact import Ints, Queued, UInt64, keyed
from selector.order._contract import Order, Positions
from selector.order._moved import stretches
from selector.order._placed import Placed, random_visits
from selector.plugins.pool import Pool

Answer = TypeVar("Answer")
Labels = tuple[Ints, Sequence[str]]
"""The phase of each visit, as an index into the names of the phases."""

MOST_KEYS = 3


@dataclass(frozen=True, kw_only=True)
class Along:
    """Some visits of another order, in whatever order they are given."""

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
    phases: pa.DictionaryArray  # of each stretch of one phase, first to last
    chosen: Pool


@dataclass(frozen=True, kw_only=True)
class Resorted(Order):
    """Sorts the visits of another order by numbers about each of them. Only `keys` must be written."""

    inner: Order

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of the pool that `keys` and the summary read of each visit's document."""
        return ()

    def summary(self, visits: Visits, seed: int) -> Any:
        """What keys need to know of all visits; small, and picklable."""
        return None

    def facts(self, summary: Any) -> Mapping[str, Any]:
        """What the manifest says of the order, beside what it says of the one inside."""
        return {}

    @abc.abstractmethod
    def keys(self, along: Along, summary: Any, seed: int) -> Sequence[UInt64 | Ints]:
        """What visits are sorted by, at most three arrays of numbers from 0 on, of which the first decides; where all
        of them tie, visits stay in the order that they have."""

    def phases(self, position: Ints, num_visits: int) -> Labels | None:
        """The phase of the visits that are at these positions afterwards; None: each keeps its own.

        Where an order says phases of its own, nothing is kept of what the other order says of its phases.
        """
        return None

    @final
    def arrange(self, chosen: Pool, seed: int) -> Positions:
        positions = self.inner.arrange(chosen, seed)
        ids = keyed.words(chosen.table("doc_id")["doc_id"])
        visits = positions.visits
        begins, number = stretches(visits["phase"])
        rows = visits["document"].to_numpy()
        columns = chosen.table(*self.reads).combine_chunks() if self.reads else pa.table({})
        along = Along(
            ids=ids[rows],
            visit=visits["visit"].to_numpy().astype(np.int64),
            position=np.arange(len(number)),
            stretch=number,
            begin=begins[number],
            batch=taken(columns, rows),
        )
        every = Visits(
            each=lambda work: [work(along)], count=len(number), phases=phases_at(visits["phase"], begins), chosen=chosen
        )
        summary = self.summary(every, seed)
        moved = positions.rearranged(np.lexsort(tuple(self.keys(along, summary, seed))[::-1]), ids)
        labels, facts = self.phases(along.position, len(number)), dict(self.facts(summary))
        if labels is None:
            return replace(moved, facts={**moved.facts, **facts})
        at = tables.VISITS.get_field_index("phase")
        phase = labelled(labels)
        return replace(
            moved, visits=moved.visits.set_column(at, tables.VISITS.field(at), phase), phases={}, facts=facts
        )


def by_position(along: Along) -> Queued:
    """The visits in one queue, first to last."""
    position, zeros = along.position.astype(np.uint64), np.zeros(len(along.position), np.int64)
    return Queued(
        group=zeros,
        key=position,
        ids=np.column_stack([zeros.astype(np.uint64), position]),
        sizes=np.ones(len(zeros), np.int64),
    )


def taken(columns: pa.Table | pa.RecordBatch, rows: Ints) -> pa.RecordBatch:
    """The columns of these rows, in one batch; no column at all may be asked for."""
    picked = pa.table(columns).take(pa.array(rows, pa.int64())) if columns.num_columns else pa.table({})
    return pa.RecordBatch.from_arrays([column.combine_chunks() for column in picked], schema=picked.schema)


def phases_at(phase: pa.ChunkedArray, places: Ints) -> pa.DictionaryArray:
    """The phases at some places of a column of phases."""
    if not len(places):
        return pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), pa.array([], pa.string()))
    return phase.unify_dictionaries().combine_chunks().take(pa.array(places))


def labelled(labels: Labels) -> pa.DictionaryArray:
    """The phases as a column."""
    codes, names = labels
    return pa.DictionaryArray.from_arrays(codes.astype(np.int32), pa.array(names, pa.string()))


def is_sorted_by_shards(order: Order) -> bool:
    """Whether nobody needs to hold all visits of the order: it is placed, or sorts anew the visits of one that is."""
    return isinstance(order, Placed) or (isinstance(order, Resorted) and is_sorted_by_shards(order.inner))
