"""The documents that are most like examples of what is wanted."""

import functools
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector import exact
from selector.errors import PolicyError, SelectorError
from selector.exact import Floats, Ints, UInt64, keyed
from selector.exact.vectors import vectors_of
from selector.select import Budget, Group, Pool, Ranked, Reasons, TextsPath
from selector.select._nearest import Lists, largest_cosines

_COSINE = "matching.cosine"
_ANSWER = pa.schema([(_COSINE, pa.float64())])
_MOST_LISTED = 1 << 23  # documents in the lists of all queries together
_SHALLOWEST = 16
_PAIR = [("first", np.uint64), ("second", np.uint64)]  # a doc_id as one value that sorts like it
_BEYOND = np.uint64(2**63)  # the key from which on documents come that stand on no list


@dataclass(frozen=True, kw_only=True)
class Matching(Ranked):
    """Takes the documents that are most like examples, query by query and task by task in turn (RDS+).

    `queries` are files of texts, one for each task; they get their vectors from the corpus's own model. Each query has
    a list of documents by falling cosine, ties by doc_id. In turn, each query of a task gives its next document; one
    that was given already costs the query its turn. The tasks then take turns in the same way. So no query and no task
    takes the budget for itself. A document's value is its largest cosine to any query. Nothing is drawn.

    The lists go as deep as the budget can reach, which is found by doubling: all lists together may hold 8,388,608
    documents, and a larger budget times the number of queries is refused in words. With `overshoot: fill`, what is left
    of a budget in tokens when all lists are read to that depth goes to the documents with the largest cosines.

    The published method pools hidden states by position; here the vectors are those of the policy's `embed`.

    Source: arXiv 2503.01807. Setting: 10,000 to 2.5 million of 5.8 million instruction examples, Llama-2-7B, a few to
    some hundred queries for each of 8 tasks. Reported: better than gradient methods, and than random choice at every
    size. Measured on 1 % of 6,936 pages of Debian documentation, 10 queries for each of two packages, 5 seeds: .93 ±
    .03 of what is taken is of the two where they are 3 % of the corpus, .57 ± .02 where they are 2 % and one of them
    has 13 pages left. `random` is as good where the examples are not of what the model is judged by.
    """

    queries: tuple[TextsPath, ...]

    def __post_init__(self) -> None:
        if not self.queries:
            raise PolicyError("matching.queries names no file. Write a list of files of texts, one for each task.")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("embedding",)

    def summary_for(self, pool: Pool, budget: Budget, seed: int) -> "Turns":
        count, num_queries = pool.num_documents, len(self._vectors)
        reach = min(_reach(pool, budget), count)
        depth = min(count, max(_SHALLOWEST, -(-2 * reach // num_queries)))
        while True:
            if depth * num_queries > _MOST_LISTED:
                raise SelectorError(
                    f"matching needs lists of {depth:,} documents for each of {num_queries:,} queries, and "
                    f"{_MOST_LISTED:,} documents in all is the most that it holds. Write a smaller budget or fewer "
                    "queries."
                )
            lists = Lists.of(pool, self._vectors, depth)
            turns = Turns.of(lists, self._sizes, is_all=depth >= count)
            if len(turns.ids) >= reach or depth >= count:
                return turns
            depth = min(count, 2 * depth)

    def keys(self, batch: pa.RecordBatch, summary: "Turns", seed: int) -> UInt64:
        turn = summary.turn(keyed.words(batch["doc_id"]))
        beyond = _BEYOND | exact.largest_first(exact.floats(batch[_COSINE])) >> np.uint64(1)
        return np.where(turn < 0, beyond, turn.astype(np.uint64))

    def values(self, batch: pa.RecordBatch, summary: "Turns", seed: int) -> Floats:
        return exact.floats(batch[_COSINE])

    def reasons(self, group: Group) -> Reasons:
        near = "among the nearest to an example, in turn: {spent} of {total} {unit}"
        return Reasons(kept=near, left_out=f"not {near}")

    def _columns(self) -> tuple[str, ...]:
        return ("doc_id", "num_tokens", _COSINE)

    def _prepared(self, pool: Pool, seed: int, budget: Budget | None) -> Pool:
        for path, size in zip(self.queries, self._sizes, strict=True):
            if size == 0:
                raise SelectorError(f"matching.queries: {str(path)!r} has no texts. Write one example a line.")
        return pool.extended(functools.partial(_nearest, self._vectors), "embedding", returns=_ANSWER)

    @property
    def _sizes(self) -> list[int]:
        return [path.table.num_rows for path in self.queries]

    @property
    def _vectors(self) -> Floats:
        """The vectors of all queries, task after task."""
        of_tasks = [vectors_of(path.table["embedding"]).astype(np.float64) for path in self.queries]
        return np.concatenate(of_tasks)


@dataclass(frozen=True, kw_only=True)
class Turns:
    """The documents that are given, by their ids, and in which turn each one is."""

    ids: UInt64  # (n, 2), sorted
    turns: Ints  # (n,)

    @classmethod
    def of(cls, lists: Lists, sizes: Sequence[int], *, is_all: bool) -> "Turns":
        """The turns of those documents that are known: no other document comes before any of these. `sizes` are how
        many queries each task has; `is_all` that the lists are whole."""
        depth = len(lists.cosines)
        pairs = np.ascontiguousarray(lists.ids).view(_PAIR).reshape(depth, sum(sizes))
        different, of_place = np.unique(pairs, return_inverse=True)
        of_place = of_place.reshape(pairs.shape)
        never = np.iinfo(np.int64).max
        first, num_known = np.full(len(different), never), never
        for task, (begin, end) in enumerate(itertools.pairwise(np.cumsum([0, *sizes]).tolist())):
            given = _first_places(of_place[:, begin:end].reshape(-1), len(different))
            order = np.argsort(given, kind="stable")[: int((given < never).sum())]
            first[order] = np.minimum(first[order], np.arange(len(order)) * len(sizes) + task)
            num_known = min(num_known, len(order))
        is_known = (first < never) if is_all else first < num_known * len(sizes)
        known = np.flatnonzero(is_known)
        turns = np.empty(len(known), np.int64)
        turns[np.argsort(first[known], kind="stable")] = np.arange(len(known))
        ids = np.stack([different["first"][known], different["second"][known]], axis=1)
        return cls(ids=ids, turns=turns)

    def turn(self, ids: UInt64) -> Ints:
        """The turn of each document; -1: it stands on no list that was read."""
        if not len(self.ids):
            return np.full(len(ids), -1)
        known, wanted = (np.ascontiguousarray(words).view(_PAIR).reshape(-1) for words in (self.ids, ids))
        at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[at] == wanted, self.turns[at], -1)


def _first_places(numbers: Ints, count: int) -> Ints:
    """The first place of each number below `count`; the largest integer where there is none."""
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, numbers, np.arange(len(numbers)))
    return first


def _reach(pool: Pool, budget: Budget) -> int:
    """How many documents a choice can have at most, and the one that ends it."""
    counts = Counter[int]()
    for counted in pool.map(functools.partial(_costs, budget), "num_tokens"):
        counts.update(counted)
    left, number = budget.amount, 0
    for size, count in sorted(counts.items()):
        paid = min(count, left // size)
        left, number = left - paid * size, number + paid
        if paid < count:
            break
    return number + 1


# What is asked of a shard.


def _costs(budget: Budget, batch: pa.RecordBatch) -> dict[int, int]:
    """How many documents spend how much."""
    sizes, counts = np.unique(budget.sizes(batch), return_counts=True)
    return dict(zip(sizes.tolist(), counts.tolist(), strict=True))


def _nearest(queries: Floats, batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(largest_cosines(queries, batch))], schema=_ANSWER)
