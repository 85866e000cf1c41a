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
from bisect import bisect_left
from collections import deque

import numpy as np

from selector.exact import Ints

_EXACT = 300  # so many places are tried with the exact test at every step; it takes as many steps for each


def spaced(groups: Ints, window: int, most: int, before: Ints | None = None) -> Ints:
    """The places of documents of these groups in another order, in which no window has more than `most` of a group.

    The documents of a group stay in their order, and every document is placed as early as can be. Where no order keeps
    to the cap, it is exceeded (`exceeded` says how often). Negative groups are of one document each. `before` are the
    groups of the places before these.
    """
    before = np.empty(0, np.int64) if before is None else before[len(before) - min(window - 1, len(before)) :]
    whole = np.concatenate([before, groups])
    if not exceeded(whole, window, most):
        return np.arange(len(groups))  # what keeps to the cap is not moved
    alone = np.flatnonzero(whole < 0)
    whole[alone] = whole.max(initial=0) + 1 + alone
    numbers = np.unique(whole, return_inverse=True)[1]
    state = _State(np.bincount(numbers).tolist(), window, most)
    for group in numbers[: len(before)].tolist():
        state.put(group)
    return _laid(state, _Queues.of(numbers[len(before) :], len(state.left)))


def exceeded(groups: Ints, window: int, most: int) -> int:
    """How many documents are one too many of their group in the window that ends with them."""
    known = np.flatnonzero(groups >= 0)
    order = known[np.argsort(groups[known], kind="stable")]
    first, last = order[:-most], order[most:]
    return int(((groups[first] == groups[last]) & (last - first < window)).sum())


class _State:
    """How many documents of each group are left, and which groups may come next."""

    def __init__(self, left: list[int], window: int, most: int) -> None:
        self.left, self.window, self.most = left, window, most
        self.total, self.place = sum(left), 0
        self.recent: deque[int] = deque()  # the groups of the last window - 1 places
        self.count: dict[int, int] = {}  # of those, by group
        self.last = [-1] * len(left)  # the last place of each group

    def copy(self) -> "_State":
        other = _State([], self.window, self.most)
        other.left, other.last, other.count = self.left.copy(), self.last.copy(), self.count.copy()
        other.recent, other.total, other.place = self.recent.copy(), self.total, self.place
        return other

    def may(self, group: int) -> bool:
        """Whether a document of the group may come next."""
        return self.left[group] > 0 and self.count.get(group, 0) < self.most

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
        self.count[gone] -= 1
        return gone

    def turn(self, group: int) -> tuple[int, int, int]:
        """When the rule takes the group, lowest first: most left, then least recently placed."""
        return -self.left[group], self.last[group], group

    def lay_rest(self, laid: list[int], *, gives_up: bool) -> bool:
        """Lays the rest by the rule, and says whether it keeps to the cap; gives up where it cannot, if told to."""
        groups = [group for group, left in enumerate(self.left) if left]
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
            turn = heapq.heappop(ready or waiting)
            laid.append(turn[2])
            for group in {turn[2], self.put(turn[2])}:
                if self.left[group] and (group == turn[2] or self.count[group] == self.most - 1):
                    heapq.heappush(ready if self.may(group) else waiting, self.turn(group))
        return keeps

    def can_lay_rest(self) -> bool:
        """Whether the rule finds an order for the rest that keeps to the cap."""
        return self.copy().lay_rest([], gives_up=True)


def _laid(state: _State, queues: "_Queues") -> Ints:
    """The documents of the queues in their new order."""
    start, laid = state.copy(), list[int]()
    if not start.can_lay_rest():
        if state.total <= _EXACT:
            state.lay_rest(laid, gives_up=False)
        else:
            _quick(state, queues, laid, down_to=0)
    else:
        _quick(state, queues, laid, down_to=_EXACT)
        _tested(state, queues, laid)
        back = 1
        while state.total:  # a dead end: goes back until the rule finds a way, as it does from the start
            del laid[max(len(laid) - back, 0) :]
            back *= 2
            state = start.copy()
            for group in laid:
                state.put(group)
            if state.can_lay_rest():
                rest = list[int]()
                state.copy().lay_rest(rest, gives_up=True)
                for group in rest[: max(len(rest) - _EXACT, 0)]:
                    state.put(group)
                    laid.append(group)
                _tested(state, queues, laid)
    order = np.empty(len(laid), np.int64)
    order[np.argsort(np.array(laid, np.int64), kind="stable")] = queues.documents
    return order


def _tested(state: _State, queues: "_Queues", laid: list[int]) -> None:
    """Lays a short rest, each document as early as the exact test lets it; nothing more, if it lets none."""
    alive = [group for group, left in enumerate(state.left) if left]
    small = state.copy()  # of those groups alone: it is copied often
    number = {group: i for i, group in enumerate(alive)}
    small.left, small.last = [*(state.left[group] for group in alive), 0], [*(state.last[group] for group in alive), 0]
    small.recent = deque(number.get(group, len(alive)) for group in state.recent)  # the last number: all others
    small.count = {len(alive): len(state.recent), **{number[group]: state.count.get(group, 0) for group in alive}}
    while small.total:
        heads = sorted((queues.head(alive[i], left), i) for i, left in enumerate(small.left) if left)
        for _, i in heads:
            if small.may(i):
                tried = small.copy()
                tried.put(i)
                if tried.can_lay_rest():
                    break
        else:
            return
        small.put(i)
        state.put(alive[i])
        laid.append(alive[i])


def _quick(state: _State, queues: "_Queues", laid: list[int], *, down_to: int) -> None:
    """Places documents as early as the quick test lets them, until so many are left.

    It ends before that where no group may come next; if nothing is to be left, it goes on without the cap.
    """
    room = _Room(state)
    left, count, most = state.left, state.count, state.most
    documents, ends = queues.documents, queues.ends
    by_size = sorted((-n, group) for group, n in enumerate(left) if n)
    heads = [(documents[ends[group] + n], group) for n, group in by_size]
    ready = [head for head in heads if count.get(head[1], 0) < most]
    waiting = [head for head in heads if count.get(head[1], 0) >= most]
    heapq.heapify(ready)
    heapq.heapify(waiting)

    def is_old(heap: list[tuple[int, int]]) -> bool:
        """Whether the group on top has been placed since."""
        if not heap:
            return False
        document, group = heap[0]
        return not left[group] or document != documents[ends[group] - left[group]]

    while state.total > down_to:
        while is_old(ready):
            heapq.heappop(ready)
        least = room.least_left(state.total) if down_to and room.free <= 0 else 0
        if least:
            large = [group for _, group in by_size[: bisect_left(by_size, (-least,))] if left[group] > least]
            firsts = [(documents[ends[group] - left[group]], group) for group in large if count.get(group, 0) < most]
            if not firsts:
                return
            group = min(firsts)[1]
        elif ready or down_to:
            if not ready:
                return
            group = heapq.heappop(ready)[1]
        else:
            while is_old(waiting):
                heapq.heappop(waiting)
            group = heapq.heappop(waiting)[1]
        room.take(left[group])
        laid.append(group)
        gone = state.put(group)
        if left[group]:
            again = documents[ends[group] - left[group]], group
            heapq.heappush(ready if count.get(group, 0) < most else waiting, again)
        if gone != group and left[gone] and count[gone] == most - 1:
            heapq.heappush(ready, (documents[ends[gone] - left[gone]], gone))


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
        by_size = np.bincount(np.array(state.left, np.int64))
        fewer, smaller = np.cumsum(by_size), np.cumsum(by_size * np.arange(len(by_size)))
        at = np.minimum(self.held, len(by_size) - 1)
        spare = smaller[at] + self.held * (len(state.left) - fewer[at]) - self.ends
        self.spare = np.where(spare < 0, state.total + 1, spare)
        self.bins: list[int] = np.searchsorted(self.held, np.arange(len(by_size))).tolist()
        self.taken = [0] * (len(self.ends) + 1)
        self.free = 0  # so many documents can be placed before an end has none to spare

    def take(self, left: int) -> None:
        """A document is placed of a group that has so many left, itself included."""
        self.taken[self.bins[left]] += 1
        self.free -= 1

    def least_left(self, total: int) -> int:
        """The next document must be of a group that has more left than this."""
        if self.free > 0:
            return 0
        self.spare = self.spare - np.cumsum(self.taken[:-1])
        self.taken = [0] * len(self.taken)
        spare = self.spare[: int(np.searchsorted(self.ends, total))]
        self.free = int(spare.min(initial=total))
        return 0 if self.free > 0 else int(self.held[np.flatnonzero(spare <= 0)[-1]])


class _Queues:
    """The documents of each group in their order, group after group; those of a group are before its end."""

    def __init__(self, documents: list[int], ends: list[int]) -> None:
        self.documents, self.ends = documents, ends

    @classmethod
    def of(cls, numbers: Ints, num_groups: int) -> "_Queues":
        sizes = np.bincount(numbers, minlength=num_groups)
        return cls(np.argsort(numbers, kind="stable").tolist(), np.cumsum(sizes).tolist())

    def head(self, group: int, left: int) -> int:
        """The first document of a group that has so many left."""
        return self.documents[self.ends[group] - left]
