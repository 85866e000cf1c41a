"""Orders around another one that sort its visits anew, by numbers that follow from each visit alone.

To sort visits anew is an order like any other: so around a `Placed` it is one more distributed sort.
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import pyarrow as pa

from selector import tables
from selector.exact import Ints, Queued, UInt64, keyed
from selector.order._around import Along, Around, Visits, in_one_piece
from selector.order._contract import Positions
from selector.order._placed import with_ranks
from selector.plugins.pool import Pool

Labels = tuple[Ints, Sequence[str]]
"""The phase of each visit, as an index into the names of the phases."""

MOST_KEYS = 3


@dataclass(frozen=True, kw_only=True)
class Resorted(Around):
    """Sorts the visits of another order by numbers about each of them. Only `keys` must be written."""

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
        along, every = in_one_piece(self, with_ranks(self, chosen, seed), positions)
        summary = self.summary(every, seed)
        ids = keyed.words(chosen.table("doc_id")["doc_id"])
        moved = positions.rearranged(np.lexsort(tuple(self.keys(along, summary, seed))[::-1]), ids)
        labels, facts = self.phases(along.position, every.count), dict(self.facts(summary))
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


def labelled(labels: Labels) -> pa.DictionaryArray:
    """The phases as a column."""
    codes, names = labels
    return pa.DictionaryArray.from_arrays(codes.astype(np.int32), pa.array(names, pa.string()))
