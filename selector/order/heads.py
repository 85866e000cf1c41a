"""One group after another, each with those before it (multi-head) or alone (single-head)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from selector import exact, tables
from selector.errors import PolicyError
from selector.exact import Ints, keyed
from selector.order import GroupName, Order, Pool, Positions, groups_in
from selector.order._queues import queues
from selector.order._ranked import left_out

_MOST_LAPS = 1000


@dataclass(frozen=True, kw_only=True)
class Heads(Order):
    """Opens one group of a column after another; each has a phase, which draws from it and from all before it.

    A group is all documents with one value of the column `by` (source, cluster, a label, corpus.x), such as the length
    of a task; those of `first` come first, in this order, then the others in that of their values, then documents
    without one. The phases are of equal length, and have equal shares of their groups, spread evenly (`heads: multi`),
    or only their own group (`heads: single`). There are `epochs` times as many visits as documents. A group is gone
    through at random, on from phase to phase, and begins anew once all of it was seen; what no phase draws is told as
    left. Of a phase the manifest says how many visits of each group it has. The driver holds all visits.

    Evidence: arXiv 2309.12927 (small recurrent networks, tasks that need longer and longer memory): with single heads
    what came before is forgotten at once; multiple heads train faster and more steadily, and go beyond the lengths that
    were trained. Not tried with language models; there `least_share` keeps older data without repeating it as often.

    When: groups are steps of one task, such as lengths, and the model shall go on to longer ones.
    """

    by: str = "source"
    first: tuple[GroupName, ...] = ()
    heads: Literal["multi", "single"] = "multi"
    epochs: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.epochs <= 1000:
            raise PolicyError(f"heads.epochs={self.epochs} is no number of epochs: write a number from 0 to 1000.")

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by,)

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        groups = groups_in(chosen, self.by, self.first, "heads.first")
        group = np.concatenate([np.empty(0, np.int64), *chosen.map(groups.of, self.by)])
        ids = keyed.words(chosen.table("doc_id")["doc_id"])
        sizes = np.bincount(group, minlength=groups.count + 1)
        num_groups = groups.count + int(sizes[groups.count] > 0)
        names = [str(name) for name in (*groups.names, "no value")[:num_groups]]
        sizes, visits = sizes[:num_groups], round(Fraction(str(self.epochs)) * len(group))

        lengths = np.zeros(num_groups, np.int64)
        for counts in self.counts(visits, num_groups):
            lengths += counts
        short = np.flatnonzero(lengths > _MOST_LAPS * sizes)
        if len(short):
            raise PolicyError(
                f"heads: {self.by} {names[short[0]]!r} has {sizes[short[0]]:,} documents for {lengths[short[0]]:,} "
                f"visits, more than {_MOST_LAPS:,} of each: write fewer epochs, or single heads."
            )
        queue, seen = queues(group, ids, lengths, seed, "heads"), np.zeros(num_groups, np.int64)
        drawn, phases = [np.empty(0, np.int64)], dict[str, dict[str, Any]]()
        for name, counts in zip(names, self.counts(visits, num_groups), strict=True):
            rows, of_group = queue.taken(seen, counts)
            nth = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
            drawn.append(rows[np.lexsort((of_group, (2 * nth + 1) * len(rows) // counts[of_group]))])
            phases[name] = {"visits": {names[g]: int(counts[g]) for g in np.flatnonzero(counts)}}
            seen += counts
        positions = left_out(Positions.of(np.concatenate(drawn), ids), len(ids), "no phase drew it")
        codes = np.repeat(np.arange(len(drawn) - 1), [len(rows) for rows in drawn[1:]]).astype(np.int32)
        phase = pa.DictionaryArray.from_arrays(codes, pa.array(names or ["main"]))
        at = tables.VISITS.get_field_index("phase")
        return replace(positions, visits=positions.visits.set_column(at, tables.VISITS.field(at), phase), phases=phases)

    def counts(self, num_visits: int, num_groups: int) -> Iterator[Ints]:
        """By phase, how many visits of each group it has: equal shares, what is over to the groups that came first.

        A phase of fewer visits than groups has one of each of the newest.
        """
        for phase, visits in enumerate(exact.apportion(num_visits, [1] * num_groups).tolist()):
            counts = np.zeros(num_groups, np.int64)
            opened = phase + 1
            if self.heads == "single":
                counts[phase] = visits
            elif visits < opened:
                counts[opened - visits : opened] = 1
            else:
                counts[:opened] = visits // opened
                counts[: visits % opened] += 1
            yield counts
