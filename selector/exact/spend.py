"""How much may be chosen, and exact ways to spend it.

Think of every group of documents as a queue at a counter: the document with the lowest 64-bit key is
served first, ties by doc_id. `apportion` gives each queue its quota, `take` serves the queues.

The one thing to know: nothing here sorts the pool or holds it. `take` asks the shards for small answers that add
up, and narrows the place of each cut digit by digit (a radix select) until the documents in doubt fit in memory.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.exact.apportion import tally
from selector.exact.pieces import slices
from selector.exact.sortkeys import Ints, UInt64

Overshoot = Literal["stop", "fill", "cross"]
Bools = npt.NDArray[np.bool_]

LIMIT = 1 << 16  # documents sorted at once, where a cut can be narrowed down to fewer
WINDOW = 1 << 20  # documents served one by one at once
BINS = 1 << 20  # amounts counted at once, unless there are more groups than that
UNLIMITED = int(np.iinfo(np.int64).max)
"""A ceiling that is none, and a size that every document is below."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """An amount of documents or tokens, and what to do with the document that would cross it.

    `stop` ends before it, `fill` leaves it out and goes on with smaller ones, `cross` takes it and ends.
    """

    amount: int
    unit: Literal["documents", "tokens"]
    overshoot: Overshoot = "stop"

    def sizes(self, batch: pa.RecordBatch) -> Ints:
        """What each document of a batch would spend: 1, or its `costs`."""
        if self.unit == "documents":
            return np.ones(batch.num_rows, np.int64)
        return costs(batch["num_tokens"].to_numpy(zero_copy_only=False))


def costs(num_tokens: npt.NDArray[Any]) -> Ints:
    """What documents cost in tokens: as many as they have, and at least 1.

    So no document is free in any budget, quota or fraction. (A flow leaves documents of no tokens out, by name.)
    """
    return np.maximum(num_tokens, 1).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Queued:
    """Documents in their queues: the lowest (key, id) of a group is served first.

    Keys that spread over all 64 bits are served in the fewest passes; any other keys are served too.
    """

    group: Ints  # (n,), counted from 0
    key: UInt64  # (n,)
    ids: UInt64  # (n, 2), `keyed.words` of ids that are all different
    sizes: Ints  # (n,), what each document spends

    @classmethod
    def joined(cls, queues: "Sequence[Queued]") -> "Queued":
        """All documents of these."""
        return cls(**{name: np.concatenate([getattr(some, name) for some in (_NONE, *queues)]) for name in _NAMES})

    @property
    def digits(self) -> tuple[UInt64, UInt64, UInt64]:
        """What decides the turn of a document, most significant first."""
        return self.key, self.ids[:, 0], self.ids[:, 1]

    def where(self, chosen: Any) -> "Queued":
        """The documents that a mask, a slice or indices choose."""
        return Queued(group=self.group[chosen], key=self.key[chosen], ids=self.ids[chosen], sizes=self.sizes[chosen])

    def in_turn(self) -> "Queued":
        """The same documents as a single queue would serve them."""
        return self.where(np.lexsort(tuple(reversed(self.digits))))

    def compare(self, cuts: UInt64, which: Ints | None = None) -> tuple[Bools, Bools]:
        """Which documents come before their cut, and which lie on it: the one cut of three digits, or `which` says
        which of some rows of three. Ids are looked at only where keys tie."""
        key = cuts[0] if which is None else cuts[:, 0][which]
        before, on = self.key < key, self.key == key
        tied = np.flatnonzero(on)
        if len(tied):
            ids, cut = self.ids[tied], cuts[1:] if which is None else cuts[which[tied], 1:]
            is_first = ids[:, 0] == cut[..., 0]
            before[tied] = (ids[:, 0] < cut[..., 0]) | is_first & (ids[:, 1] < cut[..., 1])
            on[tied] = is_first & (ids[:, 1] == cut[..., 1])
        return before, on


class Queues(Protocol):
    """Asks every shard of a pool: what `work` says of its documents. `lambda work: map(work, shards)` is one.

    The work is picklable, since it may run where the shards are; its answers are small.
    """

    def __call__(self, work: Callable[[Queued], Answer], /) -> Iterable[Answer]: ...


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Which documents were taken: a few numbers per group, so any batch can be asked at any time."""

    cuts: UInt64  # (groups, 3), the first document of each group that its quota could not pay
    whole: Bools  # (groups,), whether the quota paid them all
    spent: int
    last: UInt64 | None = None  # (3,), the last document taken beyond its quota; None: there is none
    stops: Ints = dataclasses.field(default_factory=lambda: np.empty((0, 2), np.int64))
    """(m, 2), sorted: a group (-1: all of them), and minus the size that a document beyond its quota may have…"""
    starts: UInt64 = dataclasses.field(default_factory=lambda: np.empty((0, 3), np.uint64))
    """…from this document on, (m, 3)."""

    def within(self, queued: Queued) -> Bools:
        """Whether each document was taken by the quota of its group."""
        return queued.compare(self.cuts, queued.group)[0] | self.whole[queued.group]

    def mask(self, queued: Queued) -> Bools:
        """Whether each document was taken."""
        within = self.within(queued)
        if self.last is None:
            return within
        before, on = queued.compare(self.last)
        everyone = np.full_like(queued.group, _EVERYONE)
        return within | ((before | on) & ~self._stopped(everyone, queued) & ~self._stopped(queued.group, queued))

    def _stopped(self, group: Ints, queued: Queued) -> Bools:
        """Whether each document comes after the group stopped taking documents of its size."""
        if not len(self.stops):
            return np.zeros(len(group), np.bool_)
        # The limits of a group fall, so the first one below a size decides.
        first = np.searchsorted(_pairs(self.stops.T), _pairs((group, -queued.sizes)), side="right")
        at = np.minimum(first, len(self.stops) - 1)
        return (first == at) & (self.stops[at, 0] == group) & ~queued.compare(self.starts, at)[0]


def take(
    queues: Queues, quotas: Ints, overshoot: Overshoot, ceilings: Ints | None = None, *, count: int | None = None
) -> Taken:
    """The documents that the quotas pay for, exactly; memory grows with the groups, not with the documents.

    Each group is served in the order of (key, id) and ends before the first document that its quota cannot
    pay. What quotas of tokens leave unspent then serves all documents still waiting, in one queue: `stop`
    ends before the first one that does not fit, `fill` passes over it and goes on, `cross` takes it and
    ends. Once nothing is left, nothing more is taken, not even a document of no tokens.

    A group never gets more than its ceiling, nor does `cross` give it more: the group ends before the document that
    would pass its ceiling, with `fill` it is passed over, and the others are served on. A group with a ceiling of 0
    gets nothing, not even what is free.

    `count` is the number of documents, where it is known: a pool that fits in memory is then read once.
    """
    count = sum(queues(_count)) if count is None else count
    ceilings = np.full_like(quotas, UNLIMITED) if ceilings is None else ceilings
    ends = ends_of(queues, np.minimum(quotas, ceilings), count)
    cuts, whole = ends.cuts, ends.whole
    cuts[ceilings == 0], whole[ceilings == 0] = 0, False
    taken = Taken(cuts=cuts, whole=whole, spent=int(ends.spent.sum()))
    rooms = np.where(ceilings < UNLIMITED, np.where(ceilings == 0, _ENDED, ceilings - ends.spent), UNLIMITED)
    return _serve_on(queues, taken, int(quotas.sum()) - taken.spent, rooms, overshoot, count)


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Where quotas end, group by group."""

    cuts: UInt64  # (groups, 3), the first document that the quota cannot pay
    sizes: Ints  # and what it would spend
    whole: Bools  # whether there is none
    spent: Ints  # on the documents before it


def ends_of(queues: Queues, quotas: Ints, count: int) -> Ends:
    """Where the quota of each group ends, if every group is served in the order of (key, id); `count` is the number of
    documents, or more."""
    groups = len(quotas)
    width = next(width for width in (16, 8, 4, 2, 1) if groups << width <= BINS or width == 1)
    cuts = np.zeros((groups, 3), np.uint64)  # the digits of each cut, known to `depth` bits
    is_open = np.ones(groups, np.bool_)  # whether the quota may not pay for the whole group
    spent = np.zeros(groups, np.int64)  # on the documents that agree with less than those bits
    depth = 0
    while count > max(LIMIT, groups):
        assert depth < 192, "the ids must be distinct"
        shift = np.uint64(64 - depth % 64 - width)
        amounts, numbers = np.zeros((2, groups, 1 << width), np.int64)
        doubtful = _only(queues, _Doubtful(cuts=cuts, is_open=is_open, depth=depth))
        for counted in doubtful(functools.partial(_counted, depth // 64, shift, width, groups)):
            amounts, numbers = amounts + counted[0], numbers + counted[1]
        after = spent[:, None] + np.cumsum(amounts, axis=1)
        is_open = is_open & (after[:, -1] > quotas)
        bins = (after > quotas[:, None]).argmax(axis=1)
        each = np.arange(groups)
        spent = np.where(is_open, after[each, bins] - amounts[each, bins], after[:, -1])
        cuts = cuts.copy()
        cuts[:, depth // 64] |= bins.astype(np.uint64) << shift
        count = int(numbers[each, bins][is_open].sum())
        depth += width

    collected = _collected(_only(queues, _Doubtful(cuts=cuts, is_open=is_open, depth=depth)))
    collected = collected.where(np.lexsort((*reversed(collected.digits), collected.group)))
    after = np.cumsum(collected.sizes)
    starts = np.searchsorted(collected.group, np.arange(groups))
    after += (spent - np.concatenate([[0], after])[starts])[collected.group]
    unpaid = np.flatnonzero(after > quotas[collected.group])
    closed, first = np.unique(collected.group[unpaid], return_index=True)
    cuts[closed] = np.stack([digit[unpaid[first]] for digit in collected.digits], axis=1)
    sizes = np.zeros(groups, np.int64)
    sizes[closed] = collected.sizes[unpaid[first]]
    paid = collected.where(after <= quotas[collected.group])
    whole = np.bincount(closed, minlength=groups) == 0
    return Ends(cuts=cuts, sizes=sizes, whole=whole, spent=tally(spent, paid.group, paid.sizes))


_EVERYONE = -1
_ENDED = -1


def _serve_on(queues: Queues, taken: Taken, left: int, rooms: Ints, overshoot: Overshoot, count: int) -> Taken:
    """What was taken, and in one queue what is left pays for; `rooms` is how much each group may still get."""
    limits: dict[int, int] = {}
    stops: list[tuple[int, int]] = []
    starts: list[UInt64] = []

    def note(group: int, limit: int, start: UInt64) -> None:
        """From this document on the group takes none above the limit."""
        if limit < limits.get(group, UNLIMITED):
            limits[group] = limit
            stops.append((group, -limit))
            starts.append(start)

    amount, start, last, is_more = taken.spent + left, np.zeros(3, np.uint64), None, True
    width = LIMIT  # most often the first few are all
    while left > 0 and is_more:
        room = rooms.tolist()
        for group in np.flatnonzero(rooms < (UNLIMITED if overshoot == "fill" else 0)).tolist():
            note(group, room[group], start)
        if overshoot == "fill":
            note(_EVERYONE, left, start)
        most = np.minimum(rooms, left) if overshoot == "fill" else np.where(rooms < 0, _ENDED, UNLIMITED)
        window, is_more = _front(_only(queues, _Waiting(taken=taken, most=most, start=start)), width, count)
        width = WINDOW
        digits = np.stack(window.digits, axis=1)
        for i, (group, size) in enumerate(zip(window.group.tolist(), window.sizes.tolist(), strict=True)):
            if size > room[group]:
                room[group] = room[group] if overshoot == "fill" else _ENDED
                note(group, room[group], digits[i])
            elif size <= left or overshoot == "cross":
                last, left = digits[i], left - size
                room[group] -= size if room[group] < UNLIMITED else 0
                if left <= 0:
                    break
            elif overshoot == "fill":
                note(_EVERYONE, left, digits[i])
            else:
                is_more = False
                break
        rooms = np.array(room, np.int64)
        if is_more:
            start = _next(digits[-1])
    if last is None:
        return taken
    order = sorted(range(len(stops)), key=stops.__getitem__)
    return dataclasses.replace(
        taken,
        spent=amount - left,
        last=last,
        stops=np.array([stops[i] for i in order], np.int64).reshape(-1, 2),
        starts=np.array([starts[i] for i in order], np.uint64).reshape(-1, 3),
    )


def _front(queues: Queues, width: int, most: int) -> tuple[Queued, bool]:
    """The first `width` documents, all in one queue, of which there are at most so many; and whether there are more."""
    if most > width:
        ends = ends_of(_only(queues, _as_one), np.array([width]), most)
        if not ends.whole[0]:
            return _collected(_only(queues, _Before(cut=ends.cuts[0]))).in_turn(), True
    return _collected(queues).in_turn(), False


def _collected(queues: Queues) -> Queued:
    """All the documents: there are few enough of them."""
    return Queued.joined(list(queues(_itself)))


def _only(queues: Queues, chosen: Callable[[Queued], Queued]) -> Queues:
    """The queues with only those documents that `chosen` leaves, or as it changes them."""
    return lambda work: queues(functools.partial(_after, chosen, work))


# What is asked of a shard: picklable, each a function of its documents.


def _after(chosen: Callable[[Queued], Queued], work: Callable[[Queued], Answer], queued: Queued) -> Answer:
    return work(chosen(queued))


def _itself(queued: Queued) -> Queued:
    return queued


def _count(queued: Queued) -> int:
    return len(queued.key)


def _as_one(queued: Queued) -> Queued:
    """The documents in one queue, each of the size 1."""
    return dataclasses.replace(queued, group=np.zeros_like(queued.group), sizes=np.ones_like(queued.sizes))


def _counted(digit: int, shift: Any, width: int, groups: int, queued: Queued) -> Ints:
    """What the documents spend and how many they are, by group and by some bits of a digit: (2, groups, 2**width)."""
    counted = np.zeros((2, groups << width), np.int64)
    for piece in slices(len(queued.key)):
        bins = (queued.digits[digit][piece] >> shift).astype(np.int64) & ((1 << width) - 1)
        places = queued.group[piece] << width | bins
        np.add.at(counted[0], places, queued.sizes[piece])
        np.add.at(counted[1], places, 1)
    return counted.reshape(2, groups, -1)


@dataclass(frozen=True, kw_only=True)
class _Doubtful:
    """Leaves the documents that may lie on the cut of their group, which is known to `depth` bits."""

    cuts: UInt64
    is_open: Bools
    depth: int

    def __call__(self, queued: Queued) -> Queued:
        if not self.depth and self.is_open.all():
            return queued
        chosen = self.is_open[queued.group]
        for i, (digit, cut) in enumerate(zip(queued.digits, self.cuts.T, strict=True)):
            if (known := min(self.depth - 64 * i, 64)) > 0:
                chosen &= (digit ^ cut[queued.group]) >> np.uint64(64 - known) == 0
        return queued.where(chosen)


@dataclass(frozen=True, kw_only=True)
class _Before:
    """Leaves the documents before one, whatever their group."""

    cut: UInt64

    def __call__(self, queued: Queued) -> Queued:
        return queued.where(queued.compare(self.cut)[0])


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """Leaves the documents that no quota paid, from one on, if they are not too large for their group."""

    taken: Taken
    most: Ints
    start: UInt64

    def __call__(self, queued: Queued) -> Queued:
        is_passed = queued.compare(self.start)[0]
        return queued.where(~self.taken.within(queued) & ~is_passed & (queued.sizes <= self.most[queued.group]))


_NAMES = [field.name for field in dataclasses.fields(Queued)]
_NONE = Queued(
    group=np.empty(0, np.int64),
    key=np.empty(0, np.uint64),
    ids=np.empty((0, 2), np.uint64),
    sizes=np.empty(0, np.int64),
)


def _pairs(columns: Sequence[Ints] | Ints) -> npt.NDArray[np.complex128]:
    """Two columns of whole numbers as one: complex numbers sort by their real part, then by the other."""
    first, second = columns
    return first + 1j * second


def _next(digits: UInt64) -> UInt64:
    """The place just behind a document's; behind the last one of all there is nothing."""
    key, first, second = digits.tolist()
    place = (key << 128 | first << 64 | second) + 1
    return np.array([place >> shift & (2**64 - 1) for shift in (128, 64, 0)], np.uint64)
