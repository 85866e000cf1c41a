"""Orders around another one that sort its visits anew, by numbers that follow from each visit alone.

Think of the visits of the other order as a pool of their own, each with its position: to sort them anew is an order
like any other. So around a `Placed` it is one more distributed sort, and nobody holds all visits.
"""

import abc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, final

import numpy as np
import pyarrow as pa

from selector import tables
from selector.exact import Ints, UInt64, keyed
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

    def chance(self, seed: int, purpose: str) -> UInt64:
        """One random number per visit, of a keyed hash of its document and its number."""
        return random_visits(keyed.ids(self.ids), self.visit, seed, purpose)


class Everywhere(Protocol):
    """Asks all visits: what `work` says of some of them at a time, wherever those are.

    The work is picklable, since it may run on workers; its answers are small.
    """

    def __call__(self, work: Callable[[Along], Answer], /) -> Iterable[Answer]: ...


@dataclass(frozen=True, kw_only=True)
class Resorted(Order):
    """Sorts the visits of another order by numbers about each of them. Only `keys` must be written."""

    inner: Order

    def summary(self, everywhere: Everywhere, num_visits: int, seed: int) -> Any:
        """What keys need to know of all visits; small, and picklable."""
        return None

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
        along = Along(
            ids=ids[visits["document"].to_numpy()],
            visit=visits["visit"].to_numpy().astype(np.int64),
            position=np.arange(len(number)),
            stretch=number,
            begin=begins[number],
        )
        summary = self.summary(lambda work: [work(along)], len(number), seed)
        moved = positions.rearranged(np.lexsort(tuple(self.keys(along, summary, seed))[::-1]), ids)
        labels = self.phases(along.position, len(number))
        if labels is None:
            return moved
        at = tables.VISITS.get_field_index("phase")
        return replace(
            moved, visits=moved.visits.set_column(at, tables.VISITS.field(at), labelled(labels)), phases={}, facts={}
        )


def labelled(labels: Labels) -> pa.DictionaryArray:
    """The phases as a column."""
    codes, names = labels
    return pa.DictionaryArray.from_arrays(codes.astype(np.int32), pa.array(names, pa.string()))


def is_sorted_by_shards(order: Order) -> bool:
    """Whether nobody needs to hold all visits of the order: it is placed, or sorts anew the visits of one that is."""
    return isinstance(order, Placed) or (isinstance(order, Resorted) and is_sorted_by_shards(order.inner))
