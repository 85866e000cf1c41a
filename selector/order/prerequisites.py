"""What must be known first comes first."""

import functools
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa

from selector.errors import listed
from selector.exact import LAST, Ints, UInt64
from selector.order import Columns, Groups, Placed, Pool, ScoreName, TablePath, difficulty_keys, groups_in
from selector.order._unmet import with_unmet


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The concepts, when the turn of each is, and what a large score means."""

    concepts: Groups
    turns: Ints
    higher_is: str
    circles: list[list[str]]  # concepts that build on each other


@dataclass(frozen=True, kw_only=True)
class Prerequisites(Placed):
    """Visits a concept after all that it builds on, and of those whose turn it could be the easiest.

    The column `by` (a label, corpus.x) has the concept of a document. The table `graph` has a row for every pair of
    which one (`before`) must be known for the other (`after`). Concepts that build on each other in a circle count as
    one, whose turn comes as a whole. A concept is as easy as its easiest document; inside, documents go from easy to
    hard by `score`. A concept of the graph that has no documents is passed, and still stands between those before and
    after it. Ties are in the order of the names. Documents without a concept come last.

    Evidence: prerequisite graphs predict what learners know next (PSI-KT, ICLR 2024, where the learners are people);
    for training language models on documents we know of no comparison with a random order.

    When: a graph of concepts can be trusted and the documents build on each other, as in a course. Compare with
    `shuffled`: nothing is published.
    """

    score: ScoreName
    by: str = "source"
    graph: Annotated[TablePath, Columns(before="string", after="string")]

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by,)

    def summary(self, chosen: Pool, seed: int) -> Summary:
        higher_is = chosen.higher_is(self.score)
        concepts = groups_in(chosen, self.by)
        least = np.full(concepts.count, LAST)
        for easiest in chosen.map(functools.partial(_easiest, concepts, self.score, higher_is), self.by, self.score):
            least = np.minimum(least, easiest)
        easy = dict(zip(map(str, concepts.names), least.tolist(), strict=True))
        pairs = zip(*(self.graph.table[name].to_pylist() for name in ("before", "after")), strict=True)
        groups = in_turn(easy, [(before, after) for before, after in pairs if before and after])
        turn = {name: i for i, group in enumerate(groups) for name in group}
        turns = np.array([*(turn[str(name)] for name in concepts.names), len(groups)], np.int64)
        _, turns = np.unique(turns, return_inverse=True)  # without the concepts that have no documents
        circles = [group for group in groups if len(group) > 1]
        return Summary(concepts=concepts, turns=turns.astype(np.int64), higher_is=higher_is, circles=circles)

    def facts(self, sizes: Ints, summary: Summary) -> Mapping[str, Any]:
        lines = [f"{listed(circle)} build on each other in a circle, and come together" for circle in summary.circles]
        return {"prerequisites": with_unmet({"circles": summary.circles}, lines)} if lines else {}

    def groups(self, batch: pa.RecordBatch, summary: Summary) -> Ints:
        return summary.turns[summary.concepts.of(batch)]

    def keys(self, batch: pa.RecordBatch, summary: Summary, seed: int) -> UInt64:
        return difficulty_keys(batch, self.score, summary.higher_is, "curriculum")


def in_turn(easy: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """The concepts in their order, those of a circle together.

    `easy` says of each concept with documents how easy it is, lowest first; one without documents waits for nothing.
    """
    names = sorted({*easy, *(name for pair in pairs for name in pair)})
    after: dict[str, list[str]] = {name: [] for name in names}
    for first, then in sorted(set(pairs)):
        after[first].append(then)
    circles = _circles(after)
    circle_of = {name: i for i, circle in enumerate(circles) for name in circle}
    follows = [{circle_of[then] for name in circle for then in after[name]} - {i} for i, circle in enumerate(circles)]
    waits_for = [0] * len(circles)
    for circle in follows:
        for then in circle:
            waits_for[then] += 1

    def turn(i: int) -> tuple[Any, str, int]:
        keys = [(easy[name], name) for name in circles[i] if name in easy]
        return (*min(keys), i) if keys else (-1, circles[i][0], i)

    ready = [turn(i) for i, number in enumerate(waits_for) if not number]
    heapq.heapify(ready)
    order: list[list[str]] = []
    while ready:
        i = heapq.heappop(ready)[2]
        order.append(circles[i])
        for then in follows[i]:
            waits_for[then] -= 1
            if not waits_for[then]:
                heapq.heappush(ready, turn(then))
    return order


def _circles(after: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The strongly connected components of a graph, each sorted (Kosaraju's way, without recursion)."""
    before: dict[str, list[str]] = {name: [] for name in after}
    for name, following in after.items():
        for then in following:
            before[then].append(name)
    seen = set[str]()
    circles = [_reached(name, before, seen) for name in reversed(_ended(after))]
    return [sorted(circle) for circle in circles if circle]


def _ended(after: Mapping[str, Sequence[str]]) -> list[str]:
    """The concepts in the order in which a search in depth leaves them."""
    seen, ended = set[str](), list[str]()
    for name in after:
        ended += _reached(name, after, seen)
    return ended


def _reached(start: str, edges: Mapping[str, Sequence[str]], seen: set[str]) -> list[str]:
    """What is reached from a concept and was not seen before, in the order in which a search in depth leaves it."""
    if start in seen:
        return []
    seen.add(start)
    left, path = list[str](), [(start, iter(edges[start]))]
    while path:
        name, rest = path[-1]
        deeper = next((then for then in rest if then not in seen), None)
        if deeper is None:
            left.append(name)
            path.pop()
        else:
            seen.add(deeper)
            path.append((deeper, iter(edges[deeper])))
    return left


def _easiest(concepts: Groups, score: str, higher_is: str, batch: pa.RecordBatch) -> UInt64:
    """The key of the easiest document of each concept, LAST where the batch has none."""
    least = np.full(concepts.count + 1, LAST)
    np.minimum.at(least, concepts.of(batch), difficulty_keys(batch, score, higher_is, "curriculum"))
    return least[:-1]
