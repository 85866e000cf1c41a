"""One group after another, each with those before it (multi-head) or alone (single-head)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from selector import exact
from selector.errors import PolicyError
from selector.exact import Ints
from selector.order import Dealt, GroupName, Pool, groups_in
from selector.order._groups import group_sizes
from selector.order._laps import Queues
from selector.order._placed import Drawn

_MOST_LAPS = 1000


@dataclass(frozen=True, kw_only=True)
class Heads(Dealt):
    """Opens one group of a column after another; each has a phase, which draws from it and from all before it.

    A group is all documents with one value of the column `by` (source, cluster, a label, corpus.x), such as the length
    of a task; those of `first` come first, in this order, then the others in that of their values, then documents
    without one. The phases are of equal length, and have equal shares of their groups, spread evenly (`heads: multi`),
    or only their own group (`heads: single`). There are `epochs` times as many visits as documents. A group is gone
    through at random, on from phase to phase, and begins anew once all of it was seen; what no phase draws is told as
    left. Of a phase the manifest says how many visits of each group it has.

    Evidence: arXiv 2309.12927 (small recurrent networks, tasks that need longer and longer memory): with single heads
    what came before is forgotten at once; multiple heads train faster and more steadily, and go beyond the lengths that
    were trained. Not tried with language models; there `least_share` keeps older data without repeating it as often.

    When: groups are steps of one task, such as lengths, and the model shall go on to longer ones.
    """

    left_because: ClassVar[str] = "no phase drew it"

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

    def summary(self, chosen: Pool, seed: int) -> "Opened":
        groups = groups_in(chosen, self.by, self.first, "heads.first")
        sizes = group_sizes(chosen, groups)
        num_groups = groups.count + int(sizes[groups.count] > 0)
        names = [str(name) for name in (*groups.names, "no value")[:num_groups]]
        sizes, visits = sizes[:num_groups], round(Fraction(str(self.epochs)) * chosen.num_documents)
        lengths = np.zeros(num_groups, np.int64)
        for counts in self.counts(visits, num_groups):
            lengths += counts
        short = np.flatnonzero(lengths > _MOST_LAPS * sizes)
        if len(short):
            raise PolicyError(
                f"heads: {self.by} {names[short[0]]!r} has {sizes[short[0]]:,} documents for {lengths[short[0]]:,} "
                f"visits, more than {_MOST_LAPS:,} of each: write fewer epochs, or single heads."
            )
        queues = Queues.of(chosen, groups, sizes, lengths, seed, "heads")
        return Opened(queues=queues, names=names, phases=Cells.of(self.counts(visits, num_groups), num_groups))

    def drawn(self, batch: pa.RecordBatch, summary: "Opened", seed: int) -> Drawn:
        return summary.queues.drawn(batch, seed)

    def places(self, group: Ints, rank: Ints, sizes: Ints, summary: "Opened") -> Ints:
        of_group, number = summary.queues.numbers(group, rank)
        return summary.phases.places(of_group, number)

    def phases_along(self, position: Ints, summary: "Opened") -> tuple[Ints, Sequence[str]]:
        return np.searchsorted(summary.phases.ends, position, "right"), summary.names or ["main"]

    def phase_facts(self, summary: "Opened") -> Mapping[str, Mapping[str, Any]]:
        names = summary.names
        return {
            name: {"visits": {names[g]: count for g, count in summary.phases.of_phase(phase)}}
            for phase, name in enumerate(names)
        }

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


@dataclass(frozen=True, kw_only=True)
class Cells:
    """How many visits each phase has of each group, where it has some: group after group, those of a group by phase."""

    group: Ints
    phase: Ints
    count: Ints
    upto: Ints  # of the group's visits, with those of the phases before
    ends: Ints  # by phase, how many visits come before the next one

    @classmethod
    def of(cls, phases: Iterable[Ints], num_groups: int) -> "Cells":
        """The cells of phases, each with the visits of every group."""
        none = np.empty(0, np.int64)
        listed = [
            (g, np.full(len(g), i), counts[g]) for i, counts in enumerate(phases) for g in [np.flatnonzero(counts)]
        ]
        group, phase, count = (np.concatenate(columns) for columns in zip((none, none, none), *listed, strict=True))
        by_group = np.argsort(group, kind="stable")
        reached = np.cumsum(count[by_group])
        begins = np.searchsorted(group[by_group], np.arange(num_groups))
        upto = reached - np.concatenate([[0], reached])[begins][group[by_group]]
        ends = np.cumsum(np.bincount(phase, count, minlength=num_groups).astype(np.int64))
        return cls(group=group[by_group], phase=phase[by_group], count=count[by_group], upto=upto, ends=ends)

    def places(self, group: Ints, number: Ints) -> Ints:
        """The place of each visit, by its group and its number among the visits of that: phase after phase, and within
        a phase each group evenly."""
        width = int(self.upto.max(initial=0)) + 1
        cell = np.searchsorted(self.group * width + self.upto, group * width + number, "right")
        phase, count = self.phase[cell], self.count[cell]
        nth = number - (self.upto[cell] - count)
        lengths = np.diff(self.ends, prepend=0)
        return 2 * (self.ends - lengths)[phase] + (2 * nth + 1) * lengths[phase] // count

    def of_phase(self, phase: int) -> Iterator[tuple[int, int]]:
        """The groups of a phase, and how many visits it has of each."""
        here = np.flatnonzero(self.phase == phase)
        return zip(self.group[here].tolist(), self.count[here].tolist(), strict=True)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The groups' queues, and the phases that go through them."""

    queues: Queues
    names: list[str]
    phases: Cells
