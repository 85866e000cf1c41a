"""How often one group may stand in a window: the order nearest to a given one that keeps to it.

Think of a queue with people of several clubs, of whom at most so many of one club may stand within any so many places.
Everybody is let in as early as can be; but a club with many people left must go on in time, or its people are alone at
the end and stand next to each other.

Two tests say whether the rest can still be laid. The exact one lays it: of the groups that may come next, always the
one with most left, ties to the one that came least recently (checked by exhaustive search for up to 12 documents to
find an order whenever there is one; not proved beyond). The quick one is necessary only: the last y places can be
filled with at most so many documents of each group, and that must be enough for every y.
"""

import heapq
import math
from array import array
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from selector.exact import Ints

Numbers = npt.NDArray[np.integer]
"""Small whole numbers, of whatever width: one for each visit."""

_EXACT = 300  # so many places are tried with the exact test at every step; it takes as many steps for each
_AT_ONCE = 1 << 18  # places that are looked at together
_GROUP = (1 << 32) - 1  # the bits of a head that are its group
_FEW, _MOST_TAKEN = 16, 1 << 16  # documents that are taken off one by one, or noted before they are taken off


def spaced(groups: Numbers, window: int, most: int, before: Numbers | None = None) -> Numbers:
    """The groups of documents of these groups in another order, in which no window has more than `most` of a group.

    The documents of a group stay in their order, and every document is placed as early as can be. Where no order keeps
    to the cap, it is exceeded (`exceeded` says how often). Negative groups are of one document each, called -1 in the
    answer; they stay in their order too. `before` are the groups of the places before these.
    """
    before = groups[:0] if before is None else before[len(before) - min(window - 1, len(before)) :]
    if not exceeded(np.concatenate([before, groups]), window, most):
        return groups  # what keeps to the cap is not moved
    names, (first, numbers) = _numbered(before, groups)
    queues = _Queues.of(numbers, len(names) + 1)
    laid = _laid(queues, first.tolist(), window, most)
    names = np.append(names, np.array(-1, groups.dtype))
    return names[np.frombuffer(laid, numbers.dtype)]


def exceeded(groups: Numbers, window: int, most: int) -> int:
    """How many documents are one too many of their group in the window that ends with them."""
    num, width = 0, max(_AT_ONCE, window)
    for first in range(0, len(groups), width):
        begin = max(first - window + 1, 0)
        here = groups[begin : first + width]
        known = np.flatnonzero(here >= 0)
        order = known[np.argsort(here[known], kind="stable")]
        one, other = order[:-most], order[most:]
        num += int(((here[one] == here[other]) & (other - one < window) & (other >= first - begin)).sum())
    return num


def small(groups: Numbers) -> Numbers:
    """The same numbers in the smallest type of whole numbers that also holds one more than the greatest of them."""
    greatest = int(groups.max(initial=0)) + 1
    return groups.astype(next(kind for kind in (np.int8, np.int16, np.int32) if greatest <= np.iinfo(kind).max))


def sizes_of(groups: Numbers, num_groups: int) -> npt.NDArray[np.int32]:
    """How many documents each group has."""
    sizes = np.zeros(num_groups, np.int32)
    for first in range(0, len(groups), _AT_ONCE):
        np.add.at(sizes, groups[first : first + _AT_ONCE], 1)
    return sizes


def by_group(groups: Numbers, sizes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The places of the documents, group after group; those of a group stay in their order."""
    places, seen = np.empty(len(groups), np.int32), np.cumsum(sizes, dtype=np.int32) - sizes
    for first in range(0, len(groups), _AT_ONCE):
        here = groups[first : first + _AT_ONCE]
        places[counted_on(here, seen)] = np.arange(first, first + len(here), dtype=np.int32)
    return places


def counted_on(groups: Numbers, seen: npt.NDArray[np.int32]) -> Ints:
    """The number of each document within its group; `seen` has that of the next one, by group, and is moved on."""
    in_groups = np.argsort(groups, kind="stable")
    of_group = groups[in_groups]
    begins = np.flatnonzero(np.r_[True, of_group[1:] != of_group[:-1]][: len(groups)])
    lengths = np.diff(begins, append=len(groups))
    number = np.empty(len(groups), np.int64)
    number[in_groups] = seen[of_group] + np.arange(len(groups)) - np.repeat(begins, lengths)
    seen[of_group[begins]] += lengths.astype(np.int32)
    return number


def _numbered(*lines: Numbers) -> tuple[Numbers, list[Numbers]]:
    """The groups that are in the lines, ascending, and for each document the place of its own; negative ones share the
    next number."""
    is_used = np.zeros(max(int(line.max(initial=-1)) for line in lines) + 2, np.bool_)
    for line in lines:
        is_used[np.maximum(line, -1)] = True
    is_used[-1] = False
    number = np.cumsum(is_used, dtype=np.int32) - np.int32(1)
    number[-1] += 1
    names, number = np.flatnonzero(is_used), small(number)
    return names.astype(lines[0].dtype), [number[np.maximum(line, -1)] for line in lines]


class _State:
    """How many documents of each group are left, and which groups may come next.

    The last group, `alone`, stands for all documents that are the only ones of theirs.
    """

    def __init__(self, left: "array[int]", window: int, most: int, alone: int) -> None:
        self.left, self.window, self.most, self.alone = left, window, most, alone
        self.total, self.place = sum(left), 0
        self.recent: deque[int] = deque()  # the groups of the last window - 1 places
        self.count: dict[int, int] = {}  # of those, by group
        self.last = array("i", [-1]) * len(left)  # the last place of each group

    def copy(self) -> "_State":
        other = _State(array("i"), self.window, self.most, self.alone)
        other.left, other.last, other.count = self.left[:], self.last[:], self.count.copy()
        other.recent, other.total, other.place = self.recent.copy(), self.total, self.place
        return other

    def may(self, group: int) -> bool:
        """Whether a document of the group may come next."""
        return self.left[group] > 0 and (self.count.get(group, 0) < self.most or group == self.alone)

    def put(self, group: int) -> int:
        """Places a document of the group; the group of the document that leaves the window, or this one."""
        self.left[group] -= 1
        self.total -= 1
        self.last[group] = self.place
        self.place += 1
        self.recent.append(group)
        self.count[group] = self.count.get(group, 0) + 1
        if len(self.recent) < self.window:
            return group
        gone = self.recent.popleft()
        if self.count[gone] == 1 and gone != group:
            del self.count[gone]
        else:
            self.count[gone] -= 1
        return gone

    def turn(self, group: int) -> tuple[int, int, int]:
        """When the rule takes the group, lowest first: most left, then least recently placed."""
        if group == self.alone:
            return -1, -1, group
        return -self.left[group], self.last[group], group

    def lay_rest(self, laid: "array[int] | None", *, gives_up: bool) -> bool:
        """Lays the rest by the rule, and says whether it keeps to the cap; gives up where it cannot, if told to."""
        groups = np.flatnonzero(np.asarray(self.left)).tolist()
        ready = [self.turn(group) for group in groups if self.may(group)]
        waiting = [self.turn(group) for group in groups if not self.may(group)]
        heapq.heapify(ready)
        heapq.heapify(waiting)
        keeps = True
        while self.total:
            if not ready:
                if gives_up:
                    return False
                keeps = False
                while waiting[0] != self.turn(waiting[0][2]):  # it has been placed since
                    heapq.heappop(waiting)
            group = heapq.heappop(ready or waiting)[2]
            if laid is not None:
                laid.append(group)
            gone = self.put(group)
            if self.left[group]:
                heapq.heappush(ready if self.may(group) else waiting, self.turn(group))
            if self.is_free_again(gone, group):
                heapq.heappush(ready, self.turn(gone))
        return keeps

    def is_free_again(self, gone: int, placed: int) -> bool:
        """Whether a group may come next because a document of it has left the window."""
        return gone not in (placed, self.alone) and self.left[gone] > 0 and self.count.get(gone, 0) == self.most - 1

    def can_lay_rest(self) -> bool:
        """Whether the rule finds an order for the rest that keeps to the cap."""
        return self.copy().lay_rest(None, gives_up=True)


def _laid(queues: "_Queues", before: Sequence[int], window: int, most: int) -> "array[int]":
    """The groups of the documents of the queues in their new order; `before` are those of the places before them."""
    alone = len(queues.ends) - 1

    def start() -> _State:
        state = _State(array("i", queues.sizes.tobytes()), window, most, alone)
        for group in before:
            state.left[group] += 1
            state.total += 1
            state.put(group)
        return state

    state, laid = start(), array(queues.numbers.dtype.char)
    if not _can_be_laid(state):
        if state.total <= _EXACT:
            state.lay_rest(laid, gives_up=False)
        else:
            _quick(state, queues, laid, down_to=0)
        return laid
    _quick(state, queues, laid, down_to=_EXACT)
    _tested(state, queues, laid)
    back = 1
    while state.total:  # a dead end: goes back until the rule finds a way, as it does from the start
        del laid[max(len(laid) - back, 0) :]
        back *= 2
        state = start()
        for group in laid:
            state.put(group)
        if state.can_lay_rest():
            rest = array(laid.typecode)
            state.copy().lay_rest(rest, gives_up=True)
            for group in rest[: max(len(rest) - _EXACT, 0)]:
                state.put(group)
                laid.append(group)
            _tested(state, queues, laid)
    return laid


def _can_be_laid(state: _State) -> bool:
    """Whether the rule finds an order for all documents that keeps to the cap.

    With one document of a group in a window, and nothing before it, the groups with most documents decide: between two
    of their documents there are windows, and after the last windows each of these groups has a document more.
    """
    if state.most > 1 or state.recent:
        return state.can_lay_rest()
    left = np.frombuffer(state.left, np.int32)[: state.alone]
    greatest = int(left.max(initial=0))
    return state.total >= (greatest - 1) * state.window + int(np.count_nonzero(left == greatest)) or greatest < 2


def _tested(state: _State, queues: "_Queues", laid: "array[int]") -> None:
    """Lays a short rest, each document as early as the exact test lets it; nothing more, if it lets none."""
    alive: list[int] = np.flatnonzero(np.asarray(state.left)).tolist()
    number = {group: i for i, group in enumerate(alive)}
    few = array("i", [*(state.left[group] for group in alive), 0])
    rest = _State(few, state.window, state.most, number.get(state.alone, len(alive) + 1))  # it is copied often
    rest.last = array("i", [*(state.last[group] for group in alive), 0])
    rest.place = state.place
    rest.recent = deque(number.get(group, len(alive)) for group in state.recent)  # the last number: all others
    rest.count = {len(alive): len(state.recent), **{number[group]: state.count.get(group, 0) for group in alive}}
    while rest.total:
        heads = sorted((queues.head(alive[i], left), i) for i, left in enumerate(rest.left) if left)
        for _, i in heads:
            if rest.may(i):
                tried = rest.copy()
                tried.put(i)
                if tried.can_lay_rest():
                    break
        else:
            return
        rest.put(i)
        state.put(alive[i])
        laid.append(alive[i])


def _quick(state: _State, queues: "_Queues", laid: "array[int]", *, down_to: int) -> None:
    """Places documents as early as the quick test lets them, until so many are left.

    It ends before that where no group may come next; if nothing is to be left, it goes on without the cap. Only groups
    whose next document had to wait are kept in heaps: the others are come by in the documents' own order.
    """
    room = _Room(state)
    left, alone, total = state.left, state.alone, len(queues.numbers)
    documents, ends, numbers = queues.documents, queues.ends, queues.numbers.data
    by_size = np.argsort(-queues.sizes[:alone], kind="stable").astype(np.int32)
    sizes = -queues.sizes[by_size]
    ready, waiting, passed = list[int](), list[int](), 0  # the next document of a group, and that group

    def is_old(heap: list[int]) -> bool:
        """Whether the group on top has been placed since."""
        if not heap:
            return False
        document, group = heap[0] >> 32, heap[0] & _GROUP
        return not left[group] or document != documents[ends[group] - left[group]]

    while state.total > down_to:
        while is_old(ready):
            heapq.heappop(ready)
        least = room.least_left(state.total) if down_to and room.free <= 0 else 0
        if least:
            large = by_size[: np.searchsorted(sizes, -least)].tolist()
            firsts = [
                (documents[ends[group] - left[group]], group)
                for group in large
                if left[group] > least and state.may(group)
            ]
            if not firsts:
                return
            group = min(firsts)[1]
        else:
            while not ready and passed < total:
                group = numbers[passed]
                if left[group] and documents[ends[group] - left[group]] == passed:
                    (ready if state.may(group) else waiting).append(passed << 32 | group)  # behind all that wait
                passed += 1
            if not ready and down_to:
                return
            while not ready and is_old(waiting):
                heapq.heappop(waiting)
            group = heapq.heappop(ready or waiting) & _GROUP
        room.take(1 if group == alone else left[group])
        laid.append(group)
        gone = state.put(group)
        if left[group] and (head := documents[ends[group] - left[group]]) < passed:
            heapq.heappush(ready if state.may(group) else waiting, head << 32 | group)
        if state.is_free_again(gone, group) and (head := documents[ends[gone] - left[gone]]) < passed:
            heapq.heappush(ready, head << 32 | gone)


class _Room:
    """How many documents more than places there are for the end of the order, for the ends of lengths that matter.

    The last y places hold at most so many of each group, so that y documents must be found for them: and y matters
    where a window is whole, or has as many of each group as it may have, since between those there is always more to
    spare than at one of them. What is impossible from the start binds nobody.
    """

    def __init__(self, state: _State) -> None:
        most = min(state.most, state.window)
        windows = np.arange(state.total // state.window + 1)[:, None]
        ends = np.unique(windows * state.window + [0, most])
        self.ends = ends[(ends > 0) & (ends < state.total)]
        full, rest = np.divmod(self.ends, state.window)
        self.held = full * most + np.minimum(rest, most)  # how many of one group an end can hold
        self.most, self.steps = most, 1 if most == state.window else 2  # so many ends hold as many of a group
        num_alone = state.left[state.alone]
        sizes = np.sort(np.frombuffer(state.left, np.int32)[: state.alone])
        upto = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        smaller = np.searchsorted(sizes, self.held, "right")
        spare = upto[smaller] + num_alone + self.held * (state.alone - smaller) - self.ends
        self.spare = Leasts(np.where(spare < 0, state.total + 1, spare))
        self.num_ends = len(self.ends)  # of those that are still to come
        self.taken = list[int]()
        self.free = 0  # so many documents can be placed before an end has none to spare

    def take(self, left: int) -> None:
        """A document is placed of a group that has so many left, itself included."""
        first = self.steps * (-(-left // self.most) - 1)  # that can hold them all
        self.taken.append(min(first, len(self.ends)))
        self.free -= 1
        if len(self.taken) == _MOST_TAKEN:
            self._settle()

    def least_left(self, total: int) -> int:
        """The next document must be of a group that has more left than this."""
        if self.free > 0:
            return 0
        self._settle()
        while self.num_ends and self.ends[self.num_ends - 1] >= total:
            self.num_ends -= 1
        if not self.num_ends:
            self.free = total
            return 0
        self.free = min(self.spare.of_first(self.num_ends), total)
        return 0 if self.free > 0 else int(self.held[self.spare.last_without(self.num_ends)])

    def _settle(self) -> None:
        """Takes what was placed off what the ends have to spare."""
        self.spare.less(self.taken)
        self.taken.clear()


class Leasts:
    """Numbers that become less from a place on, and the least of the first of them, in rows of a few hundred.

    A row has the difference to its numbers apart, so that most rows change by one number.
    """

    def __init__(self, numbers: Ints) -> None:
        self.width = max(math.isqrt(len(numbers)), 16)
        padded = np.full(-(-max(len(numbers), 1) // self.width) * self.width, np.iinfo(np.int64).max // 2)
        padded[: len(numbers)] = numbers
        self.rows = padded.reshape(-1, self.width)
        self.apart = np.zeros(len(self.rows), np.int64)
        self.least = self.rows.min(axis=1)

    def less(self, places: Sequence[int]) -> None:
        """One less for each of the places, from it on."""
        if len(places) <= _FEW:
            for place in places:
                row, column = divmod(place, self.width)
                if row < len(self.rows):
                    self.rows[row, column:] -= 1
                    self.least[row] = self.rows[row].min() + self.apart[row]
                    self.apart[row + 1 :] -= 1
                    self.least[row + 1 :] -= 1
            return
        counts = np.bincount(places, minlength=self.rows.size + 1)[: self.rows.size]
        self.rows += self.apart[:, None] - np.cumsum(counts).reshape(self.rows.shape)
        self.apart[:] = 0
        self.least = self.rows.min(axis=1)

    def of_first(self, count: int) -> int:
        """The least of the first so many numbers."""
        row, column = divmod(count, self.width)
        least = int(self.least[:row].min()) if row else np.iinfo(np.int64).max
        return min(least, int(self.rows[row, :column].min() + self.apart[row])) if column else least

    def last_without(self, count: int) -> int:
        """The last of the first so many numbers that is 0 or less."""
        row, column = divmod(count, self.width)
        if column and (here := np.flatnonzero(self.rows[row, :column] + self.apart[row] <= 0)).size:
            return row * self.width + int(here[-1])
        row = int(np.flatnonzero(self.least[:row] <= 0)[-1])
        return row * self.width + int(np.flatnonzero(self.rows[row] + self.apart[row] <= 0)[-1])


class _Queues:
    """The documents of each group in their order, group after group; those of a group are before its end."""

    def __init__(self, numbers: Numbers, sizes: npt.NDArray[np.int32], documents: npt.NDArray[np.int32]) -> None:
        self.numbers, self.sizes = numbers, sizes  # the group of each document; and how many each group has
        self.documents, self.ends = documents.data, np.cumsum(sizes, dtype=np.int32).data

    @classmethod
    def of(cls, numbers: Numbers, num_groups: int) -> "_Queues":
        sizes = sizes_of(numbers, num_groups)
        return cls(numbers, sizes, by_group(numbers, sizes))

    def head(self, group: int, left: int) -> int:
        """The first document of a group that has so many left."""
        return self.documents[self.ends[group] - left]
