"""What phases take from the queues of groups, by budgets of tokens: found where the documents are, without a sort.

Think of each group as a queue at a counter that is gone through lap after lap, each lap in a new random order. A phase
serves each queue from its front until its tokens are spent. So all that must be known of a phase is the first visit in
each queue that it did not pay: of any documents, anywhere, it can then be said which phase has which of their visits.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import exact
from selector.exact import Ints, Queued, UInt64, keyed
from selector.order._contract import numbered_together
from selector.order._placed import random_visits
from selector.plugins.pool import Pool

Answer = TypeVar("Answer")
Bools = npt.NDArray[np.bool_]

_AT_ONCE = 1 << 18  # visits that are looked at together

NOBODY = -1
"""The phase of a visit that none has taken."""


@dataclass(frozen=True, kw_only=True)
class Taking:
    """Where a phase ends in each queue: before a visit, told by its lap, its number and its document's id."""

    most_visits: int | None  # of a document in this phase
    lap: Ints  # (groups,)
    first_unpaid: UInt64  # (groups, 3)
    is_paid: Bools  # (groups,), whether it has that visit too

    def among(self, visits: "InLine") -> Bools:
        """Which of the visits come before its end, if all before them did."""
        lap, end = visits.lap, self.lap[visits.group]
        before, on = visits.queued(visits.sizes).compare(self.first_unpaid, visits.group)
        return (lap < end) | (lap == end) & (before | on & self.is_paid[visits.group])


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """What is left in the queues, and what of it a phase may take."""

    tokens: Ints  # (groups, laps), of the visits that it may take
    counts: Ints  # (groups, laps), their number
    left: Ints  # (groups,), the tokens of all visits that no phase has taken
    num_left: int


@dataclass(frozen=True, kw_only=True)
class InLine:
    """All visits to some rows of a batch, lap after lap: each with its turn in its group's queue."""

    row: Ints  # of the batch
    lap: Ints
    group: Ints
    turn: UInt64  # within its lap the lowest comes first, ties by id
    ids: UInt64
    sizes: Ints  # tokens
    phase: Ints  # the one that has taken it
    again: Bools  # of each of the rows, whether its document has a row before it

    def queued(self, sizes: Ints) -> Queued:
        """The visits in their queues, of one lap at a time."""
        return Queued(group=self.group, key=self.turn, ids=self.ids, sizes=sizes)

    def may_take(self, most_visits: int | None) -> Bools:
        """Which visits a phase may take that has at most so many of each document: the first ones that are left."""
        is_left = self.phase == NOBODY
        num_rows = len(self.again)
        if most_visits is None or (len(is_left) == num_rows and not self.again.any()):
            return is_left
        number = np.empty(len(is_left), np.int64)
        document = np.cumsum(~self.again) - 1
        begins, before = np.flatnonzero(~self.again), np.zeros(num_rows, np.int64)
        for first in range(0, len(is_left), max(num_rows, 1)):
            in_turn = np.arange(num_rows)
            if self.again.any():
                in_turn = np.lexsort((self.turn[first : first + num_rows], document))
            here = is_left[first + in_turn]
            reached = np.cumsum(here) - here
            number[first + in_turn] = reached - reached[begins[document]] + before[document]
            before += np.bincount(document[here], minlength=num_rows)
        return is_left & (number < most_visits)


@dataclass(frozen=True, kw_only=True)
class Queues:
    """The groups' queues: `laps` times all rows of a group, each lap shuffled anew. And what phases took from them."""

    groups_of: Callable[[pa.RecordBatch], Ints]  # picklable
    columns: tuple[str, ...]  # that it reads, beside doc_id and num_tokens
    num_groups: int
    laps: int
    seed: int
    taken: tuple[Taking, ...] = ()

    def visits(self, batch: pa.RecordBatch) -> Iterator[InLine]:
        """The visits to the rows of a batch, and the phases that have them: those of some documents at a time.

        The rows of a document come one after another.
        """
        begins = np.flatnonzero(numbered_together(keyed.words(batch["doc_id"])) == 0)
        first = 0
        while first < batch.num_rows:
            later = begins[np.searchsorted(begins, first + max(_AT_ONCE // self.laps, 1)) :]
            end = int(later[0]) if len(later) else batch.num_rows
            yield self._visits(batch.slice(first, end - first), first)
            first = end

    def _visits(self, batch: pa.RecordBatch, first: int) -> InLine:
        """The visits to rows of which the first has this number."""
        ids, n = keyed.words(batch["doc_id"]), batch.num_rows
        number = numbered_together(ids)
        turns = [random_visits(batch["doc_id"], number, self.seed, f"phases/{lap}") for lap in range(self.laps)]
        visits = InLine(
            row=np.tile(np.arange(first, first + n), self.laps),
            lap=np.repeat(np.arange(self.laps), n),
            group=np.tile(self.groups_of(batch), self.laps),
            turn=np.concatenate([np.empty(0, np.uint64), *turns]),
            ids=np.tile(ids, (self.laps, 1)),
            sizes=np.tile(batch["num_tokens"].to_numpy().astype(np.int64), self.laps),
            phase=np.full(n * self.laps, NOBODY),
            again=number > 0,
        )
        for phase, taking in enumerate(self.taken):
            visits.phase[visits.may_take(taking.most_visits) & taking.among(visits)] = phase
        return visits

    def rows(self, batch: pa.RecordBatch) -> list[Ints]:
        """By phase, the rows of a batch that it has, ascending: each as often as it has a visit to it."""
        rows = [[np.empty(0, np.int64)] for _ in self.taken]
        for visits in self.visits(batch):
            for phase, of_phase in enumerate(rows):
                of_phase.append(np.sort(visits.row[visits.phase == phase]))
        return [np.concatenate(of_phase) for of_phase in rows]

    def amounts(self, chosen: Pool, most_visits: int | None) -> Amounts:
        """What is left, and what of it a phase may take that has at most so many visits of each document."""
        tokens, counts = np.zeros((2, self.num_groups * self.laps), np.int64)
        left, num_left = np.zeros(self.num_groups, np.int64), 0
        for some in self._answers(chosen, functools.partial(_amounts, self, most_visits)):
            tokens, counts, left, num_left = tokens + some[0], counts + some[1], left + some[2], num_left + some[3]
        shape = self.num_groups, self.laps
        return Amounts(tokens=tokens.reshape(shape), counts=counts.reshape(shape), left=left, num_left=num_left)

    def with_new(self, has_weight: Bools, most_visits: int | None) -> "Queues":
        """After a phase that takes what was never taken, of the groups with a weight."""
        return self._with(
            Taking(
                most_visits=most_visits,
                lap=has_weight.astype(np.int64),
                first_unpaid=np.zeros((self.num_groups, 3), np.uint64),
                is_paid=np.zeros(self.num_groups, np.bool_),
            )
        )

    def with_paid(
        self, chosen: Pool, amounts: Amounts, budget: int, weights: Sequence[Fraction], most_visits: int | None
    ) -> "tuple[Queues, int]":
        """After a phase of at most so many tokens, of which each group has its share; and what of them is not spent.

        Each queue ends before the visit that its share cannot pay, and what is left then pays one visit more of the
        groups that are most behind. `amounts` are those that such a phase may take.
        """
        quotas = exact.apportion(budget, weights, amounts.tokens.sum(axis=1))
        has_weight = np.array([weight > 0 for weight in weights])
        pays = quotas > 0  # a share of 0 pays no visit, not even one without tokens
        reached = np.where(pays[:, None], np.cumsum(amounts.tokens, axis=1), np.cumsum(amounts.counts, axis=1))
        laps_paid = (reached <= quotas[:, None]).sum(axis=1)
        each = np.arange(self.num_groups)
        spent = np.where(laps_paid > 0, reached[each, laps_paid - 1], 0)
        laps_paid[~has_weight], spent[~pays] = 0, 0
        has_end = has_weight & (laps_paid < self.laps)
        count = int(amounts.counts[each[has_end], laps_paid[has_end]].sum())
        taking = Taking(
            most_visits=most_visits,
            lap=laps_paid,
            first_unpaid=np.zeros((self.num_groups, 3), np.uint64),
            is_paid=np.zeros(self.num_groups, np.bool_),
        )

        def queues(work: Callable[[Queued], Answer]) -> Iterable[Answer]:
            return self._answers(chosen, functools.partial(_at_end, self, taking, has_end, pays, work))

        ends = exact.ends_of(queues, np.where(pays, quotas - spent, 0), count)
        spent += np.where(pays, ends.spent, 0)
        costs, unspent = np.where(pays, ends.sizes, ends.sizes - 1), budget - int(spent.sum())
        is_paid = taking.is_paid
        for g in np.argsort(spent - quotas, kind="stable").tolist():  # the one that is most behind first
            if has_end[g] and 0 < (tokens := int(costs[g])) <= unspent:
                is_paid[g] = True
                unspent -= tokens
        return self._with(replace(taking, first_unpaid=ends.cuts)), unspent

    def _with(self, taking: Taking) -> "Queues":
        return replace(self, taken=(*self.taken, taking))

    def _answers(self, chosen: Pool, work: Callable[[pa.RecordBatch], Answer]) -> Iterable[Answer]:
        return chosen.map(work, *dict.fromkeys(("doc_id", "num_tokens", *self.columns)))


def _amounts(queues: Queues, most_visits: int | None, batch: pa.RecordBatch) -> tuple[Ints, Ints, Ints, int]:
    size, num_left = queues.num_groups * queues.laps, 0
    tokens, counts, left = np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(queues.num_groups, np.int64)
    for visits in queues.visits(batch):
        is_left, is_open = visits.phase == NOBODY, visits.may_take(most_visits)
        cell = (visits.group * queues.laps + visits.lap)[is_open]
        np.add.at(tokens, cell, visits.sizes[is_open])
        np.add.at(counts, cell, 1)
        np.add.at(left, visits.group[is_left], visits.sizes[is_left])
        num_left += int(np.count_nonzero(is_left))
    return tokens, counts, left, num_left


def _at_end(
    queues: Queues, taking: Taking, has_end: Bools, pays: Bools, work: Callable[[Queued], Answer], batch: pa.RecordBatch
) -> Answer:
    """What the work says of the visits in the laps in which a phase ends. Where a share is 0, nothing is paid by it: a
    visit is given a size then, whatever it has."""
    in_doubt = list[Queued]()
    for visits in queues.visits(batch):
        group = visits.group
        is_in_doubt = visits.may_take(taking.most_visits) & has_end[group] & (visits.lap == taking.lap[group])
        in_doubt.append(visits.queued(np.where(pays[group], visits.sizes, visits.sizes + 1)).where(is_in_doubt))
    return work(Queued.joined(in_doubt))
