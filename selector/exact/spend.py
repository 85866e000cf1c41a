"""How much may be chosen, and exact ways to spend it.

Think of every group of documents as a queue at a counter: the document with the lowest 64-bit key is
served first, ties by doc_id. `apportion` gives each queue its quota, `take` serves the queues.

The one thing to know: nothing here sorts the pool or holds it. `take` passes over the pool and narrows
the place of each cut digit by digit (a radix select) until the documents in doubt fit in memory.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.exact.apportion import tally
from selector.exact.sortkeys import Ints, UInt64

Overshoot = Literal["stop", "fill", "cross"]
Bools = npt.NDArray[np.bool_]

LIMIT = 1 << 20  # documents held in memory at once
BINS = 1 << 20  # amounts counted at once, unless there are more groups than that


@dataclass(frozen=True, kw_only=True)
class Budget:
    """An amount of documents or tokens, and what to do with the document that would cross it.

    `stop` ends before it, `fill` leaves it out and goes on with smaller ones, `cross` takes it and ends.
    """

    amount: int
    unit: Literal["documents", "tokens"]
    overshoot: Overshoot = "stop"

    def sizes(self, batch: pa.RecordBatch) -> Ints:
        """What each document of a batch would spend: 1, or its num_tokens.

        A document of no tokens is free. It is taken if its turn comes while there is anything left to spend,
        and its inclusion probability, which is a share of what is spent, says nothing.
        """
        if self.unit == "documents":
            return np.ones(batch.num_rows, np.int64)
        return batch["num_tokens"].to_numpy(zero_copy_only=False).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Queued:
    """Documents in their queues: the lowest (key, id) of a group is served first.

    Keys that spread over all 64 bits are served in the fewest passes; any other keys are served too.
    """

    group: Ints  # (n,), counted from 0
    key: UInt64  # (n,)
    ids: UInt64  # (n, 2), `keyed.words` of ids that are all different
    sizes: Ints  # (n,), what each document spends

    @property
    def digits(self) -> tuple[UInt64, UInt64, UInt64]:
        """What decides the turn of a document, most significant first."""
        return self.key, self.ids[:, 0], self.ids[:, 1]

    def where(self, chosen: Any) -> "Queued":
        """The documents that a mask, a slice or indices choose."""
        return Queued(group=self.group[chosen], key=self.key[chosen], ids=self.ids[chosen], sizes=self.sizes[chosen])

    def as_one(self) -> "Queued":
        """The same documents in a single queue."""
        return dataclasses.replace(self, group=np.zeros_like(self.group))

    def compare(self, cuts: UInt64) -> tuple[Bools, Bools]:
        """Which documents come before their cut, a row of three digits each, and which lie on it."""
        before, on = np.zeros(len(cuts), np.bool_), np.ones(len(cuts), np.bool_)
        for digit, cut in zip(self.digits, cuts.T, strict=True):
            before |= on & (digit < cut)
            on &= digit == cut
        return before, on


Queues = Callable[[], Iterator[Queued]]
"""Gives the batches of a pool, as often as they are asked for."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Which documents were taken: a few numbers per group, so any batch can be asked at any time."""

    cuts: UInt64  # (groups, 3), the first document of each group that its quota could not pay
    whole: Bools  # (groups,), whether the quota paid them all
    limits: Ints  # (m,), falling: what was left for documents beyond their quotas, and…
    lasts: UInt64  # (m, 3), rising: …the last document, among those no larger, that it was spent on
    spent: int

    def within(self, queued: Queued) -> Bools:
        """Whether each document was taken by the quota of its group."""
        return queued.compare(self.cuts[queued.group])[0] | self.whole[queued.group]

    def mask(self, queued: Queued) -> Bools:
        """Whether each document was taken."""
        taken = self.within(queued)
        if len(self.limits):
            large_enough = np.searchsorted(-self.limits, -queued.sizes, side="right")
            before, on = queued.compare(self.lasts[large_enough - 1])
            taken |= (large_enough > 0) & (before | on)
        return taken


def take(queues: Queues, quotas: Ints, overshoot: Overshoot) -> Taken:
    """The documents that the quotas pay for, exactly; memory grows with the groups, not with the documents.

    Each group is served in the order of (key, id) and ends before the first document that its quota cannot
    pay. What quotas of tokens leave unspent then serves all documents still waiting, in one queue: `stop`
    ends before the first one that does not fit, `fill` passes over it and goes on, `cross` takes it and
    ends. Once nothing is left, nothing more is taken, not even a document of no tokens.
    """
    cuts, whole, spent = _cut(queues, quotas)
    taken = Taken(
        cuts=cuts, whole=whole, limits=np.empty(0, np.int64), lasts=np.empty((0, 3), np.uint64), spent=int(spent.sum())
    )
    left, is_more = int(quotas.sum()) - taken.spent, True
    while left > 0 and is_more:

        def waiting(taken: Taken = taken, limit: int = left if overshoot == "fill" else _ANY) -> Iterator[Queued]:
            for batch in queues():
                yield batch.as_one().where(~taken.mask(batch) & (batch.sizes <= limit))

        window, is_more = _front(waiting)
        taken, is_through = _spend(taken, window, left, overshoot)
        left = int(quotas.sum()) - taken.spent
        if overshoot != "fill" and not is_through:
            break
    return taken


_ANY = int(np.iinfo(np.int64).max)


def _hold(queues: Queues, most: int) -> Queued | None:
    """All the documents, sorted by (group, key, id), unless they are more than `most`."""
    none = np.empty(0, np.int64)
    held = [Queued(group=none, key=none.astype(np.uint64), ids=np.empty((0, 2), np.uint64), sizes=none)]
    count = 0
    for batch in queues():
        held.append(batch)
        count += len(batch.key)
        if count > most:
            return None
    names = [field.name for field in dataclasses.fields(Queued)]
    whole = Queued(**{name: np.concatenate([getattr(batch, name) for batch in held]) for name in names})
    return whole.where(np.lexsort((*reversed(whole.digits), whole.group)))


def _front(queue: Queues) -> tuple[Queued, bool]:
    """The first documents of a single queue, sorted, as many as LIMIT allows; and whether there are more."""
    held = _hold(queue, LIMIT)
    if held is not None:
        return held, False

    def counted() -> Iterator[Queued]:
        for batch in queue():
            yield dataclasses.replace(batch, sizes=np.ones_like(batch.sizes))

    cuts, _, _ = _cut(counted, np.array([LIMIT]))
    front = _hold(lambda: (batch.where(batch.compare(cuts[batch.group])[0]) for batch in queue()), LIMIT)
    assert front is not None
    return front, True


def _cut(queues: Queues, quotas: Ints) -> tuple[UInt64, Bools, Ints]:
    """For each group: the first document that its quota cannot pay, whether there is none, and what is spent."""
    groups = len(quotas)
    width = next(width for width in (16, 8, 4, 2, 1) if groups << width <= BINS or width == 1)
    cuts = np.zeros((groups, 3), np.uint64)  # the digits of each cut, known to `depth` bits
    is_open = np.ones(groups, np.bool_)  # whether the quota may not pay for the whole group
    spent = np.zeros(groups, np.int64)  # on the documents that agree with less than those bits
    depth = 0

    def doubtful() -> Iterator[Queued]:
        for batch in queues():
            chosen = is_open[batch.group]
            for i, (digit, cut) in enumerate(zip(batch.digits, cuts.T, strict=True)):
                if (known := min(depth - 64 * i, 64)) > 0:
                    chosen &= (digit ^ cut[batch.group]) >> np.uint64(64 - known) == 0
            yield batch.where(chosen)

    while (held := _hold(doubtful, max(LIMIT, groups))) is None:
        assert depth < 192, "the ids must be distinct"
        shift = np.uint64(64 - depth % 64 - width)
        amounts = np.zeros((groups, 1 << width), np.int64)
        for batch in doubtful():
            bins = (batch.digits[depth // 64] >> shift).astype(np.int64) & ((1 << width) - 1)
            np.add.at(amounts.reshape(-1), batch.group << width | bins, batch.sizes)
        after = spent[:, None] + np.cumsum(amounts, axis=1)
        is_open &= after[:, -1] > quotas
        bins = (after > quotas[:, None]).argmax(axis=1)
        each = np.arange(groups)
        spent = np.where(is_open, after[each, bins] - amounts[each, bins], after[:, -1])
        cuts[:, depth // 64] |= bins.astype(np.uint64) << shift
        depth += width

    after = np.cumsum(held.sizes)
    starts = np.searchsorted(held.group, np.arange(groups))
    after += (spent - np.concatenate([[0], after])[starts])[held.group]
    unpaid = np.flatnonzero(after > quotas[held.group])
    closed, first = np.unique(held.group[unpaid], return_index=True)
    cuts[closed] = np.stack([digit[unpaid[first]] for digit in held.digits], axis=1)
    paid = held.where(after <= quotas[held.group])
    return cuts, np.bincount(closed, minlength=groups) == 0, tally(spent, paid.group, paid.sizes)


def _spend(taken: Taken, window: Queued, left: int, overshoot: Overshoot) -> tuple[Taken, bool]:
    """What is left, spent on the sorted documents at the front of the single queue; and whether it took them all."""
    limits, lasts = list(taken.limits), list(taken.lasts)
    limit, spent = left if overshoot == "fill" else _ANY, taken.spent
    while left > 0:
        window = window.where(window.sizes <= limit)
        after = np.cumsum(window.sizes)
        count = int(min(np.searchsorted(after, left, side="right"), np.searchsorted(after, left, side="left") + 1))
        if overshoot == "cross" and count < len(after) and (count == 0 or after[count - 1] < left):
            count += 1
        if count == 0:
            break
        limits.append(limit)
        lasts.append(np.array([digit[count - 1] for digit in window.digits]))
        spent, left = spent + int(after[count - 1]), left - int(after[count - 1])
        window, limit = window.where(slice(count, None)), left
        if overshoot != "fill":
            break
    return dataclasses.replace(
        taken, limits=np.array(limits, np.int64), lasts=np.array(lasts, np.uint64).reshape(-1, 3), spent=spent
    ), not len(window.key)
