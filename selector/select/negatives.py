"""Documents that are near to a query and do not answer it: what a retriever learns most from."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.errors import PolicyError, SelectorError
from selector.exact import Floats, Ints, UInt64, keyed
from selector.exact.vectors import vectors_of
from selector.select import Columns, Group, Pool, Ranked, Reasons, TablePath, TextsPath
from selector.select._alike import vectors
from selector.select._nearest import Lists

_MOST_LISTED = 1 << 23  # documents in the lists of all queries together
_PAIR = [("first", np.uint64), ("second", np.uint64)]  # a doc_id as one value that sorts like it
_NOBODY = -1


@dataclass(frozen=True, kw_only=True)
class Negatives(Ranked):
    """Takes, for each query, `count` documents whose rank in likeness to it is within a band: hard negatives.

    `queries` is a file of texts, which get their vectors from the corpus's own model. A query's documents are ranked by
    falling cosine, ties by doc_id, from 1 on. Not ranked are those that `positives` names for it (a table of `query`,
    its text, and `positive`, a doc_id), and duplicates: those with a cosine above `most` to the query or to one of its
    positives, which most likely answer it too. Of the ranks `first` to `last` the documents are `drawn` by a keyed hash
    of query and doc_id, or the `nearest` are taken. Queries take turns; a document is the negative of the query that
    came first, and the other goes on to its next one. So no document is given twice, and a smaller budget is spread
    evenly over the queries. A document's value is its cosine to its query, and the reason says which query that is,
    counted from 0.

    All lists together may hold 8,388,608 documents. Where a band is too narrow, or the budget larger than `count` for
    each query, budget is left and the manifest says so.

    Source: bands of rank as in arXiv 2004.04906 and 2007.00808 (the nearest), and limits below the positive as in arXiv
    2407.15831. Reported there: the nearest negatives are the best until false ones are among them. Not measured here:
    that takes questions with answers. `random` is as good where the band is so deep that nothing in it is near.
    """

    fills_budget = False

    queries: TextsPath
    positives: Annotated[TablePath, Columns(query="string", positive="doc_id")] | None = None
    count: int = 4
    first: int = 10
    last: int = 100
    most: float = 0.95
    inside: Literal["drawn", "nearest"] = "drawn"

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last or self.count < 1:
            raise PolicyError(
                f"negatives: {self.count} documents of the ranks {self.first} to {self.last} cannot be taken. Write a "
                "count of 1 or more, and 1 <= first <= last."
            )
        if not -1 <= self.most <= 1:
            raise PolicyError(
                f"negatives.most={self.most} is not a cosine, which is between -1 and 1. Write e.g. 0.95."
            )

    @property
    def looks_at_given(self) -> bool:
        return True

    @property
    def is_probability_defined(self) -> bool:
        return self.inside == "nearest"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("embedding",)

    def summary(self, pool: Pool, seed: int) -> "Given":
        queries = vectors_of(self.queries.table["embedding"]).astype(np.float64)
        if not len(queries):
            raise SelectorError(f"negatives.queries: {str(self.queries)!r} has no texts. Write one query a line.")
        depth = min(self.last, pool.num_documents)
        if depth * len(queries) > _MOST_LISTED:
            raise SelectorError(
                f"negatives needs lists of {depth:,} documents for each of {len(queries):,} queries, and "
                f"{_MOST_LISTED:,} documents in all is the most that it holds. Write a smaller negatives.last or fewer "
                "queries."
            )
        positives = self._positives()
        excluded = _Excluded.of(pool, positives, self.most)
        given = self._given(Lists.of(pool, queries, depth, excluded), seed)
        return replace(given, not_read=self._not_read(positives, excluded))

    def facts(self, summary: "Given") -> Mapping[str, Any]:
        return {"positives": dict(summary.not_read)} if any(summary.not_read.values()) else {}

    def _not_read(self, positives: list[tuple[int, bytes]], excluded: "_Excluded") -> Mapping[str, int]:
        """How many rows of the positives name a query that there is not, or a document that may not be chosen."""
        if self.positives is None:
            return {}
        queries = set(self.queries.table["text"].to_pylist())
        absent = np.asarray(np.isnan(excluded.vectors).any(axis=1))
        documents = {doc_id for (_, doc_id), is_absent in zip(positives, absent, strict=True) if is_absent}
        rows = self.positives.table
        return {
            "of_other_queries": sum(text not in queries for text in rows["query"].to_pylist()),
            "of_other_documents": len(documents),
        }

    def groups(self, batch: pa.RecordBatch, summary: "Given") -> pa.Array:
        query, _ = summary.find(keyed.words(batch["doc_id"]))
        return pa.array(query, pa.int64(), mask=query == _NOBODY)

    def keys(self, batch: pa.RecordBatch, summary: "Given", seed: int) -> UInt64:
        _, place = summary.find(keyed.words(batch["doc_id"]))
        return summary.turns[place]

    def values(self, batch: pa.RecordBatch, summary: "Given", seed: int) -> Floats:
        query, place = summary.find(keyed.words(batch["doc_id"]))
        return np.where(query == _NOBODY, np.nan, summary.cosines[place])

    def allowed(self, batch: pa.RecordBatch, summary: "Given") -> npt.NDArray[np.bool_]:
        return summary.find(keyed.words(batch["doc_id"]))[0] != _NOBODY

    def reasons(self, group: Group) -> Reasons:
        band = f"query {{group}}: of its ranks {self.first} to {self.last}"
        return Reasons(
            kept=band,
            left_out=f"{band}, beyond the budget",
            never=f"of no query's ranks {self.first} to {self.last}, or not its turn, or like what answers it",
        )

    def _positives(self) -> list[tuple[int, bytes]]:
        """The number of a query and the id of a document that answers it, for each that is known."""
        if self.positives is None:
            return []
        numbers: dict[str, list[int]] = {}
        for number, text in enumerate(self.queries.table["text"].to_pylist()):
            numbers.setdefault(text, []).append(number)
        rows = zip(*(self.positives.table[name].to_pylist() for name in ("query", "positive")), strict=True)
        return [(number, doc_id) for text, doc_id in rows for number in numbers.get(text, [])]

    def _given(self, lists: Lists, seed: int) -> "Given":
        """What each query gives in its turns."""
        waiting: list[list[tuple[tuple[int, int], float]]] = []
        for number in range(lists.cosines.shape[1]):
            is_listed = np.isfinite(lists.cosines[:, number])
            ranks = slice(self.first - 1, self.last)
            ids, cosines = lists.ids[is_listed, number][ranks], lists.cosines[is_listed, number][ranks]
            order = np.arange(len(ids))
            if self.inside == "drawn":
                order = np.argsort(keyed.hashes(keyed.ids(ids), seed, f"negatives {number}"), kind="stable")
            pairs = zip(ids[order].tolist(), cosines[order].tolist(), strict=True)
            waiting.append([((high, low), cosine) for (high, low), cosine in pairs])
        taken: dict[tuple[int, int], tuple[int, float]] = {}
        places = [0] * len(waiting)
        for _ in range(self.count):
            for number, band in enumerate(waiting):
                while places[number] < len(band) and band[places[number]][0] in taken:
                    places[number] += 1
                if places[number] < len(band):
                    doc_id, cosine = band[places[number]]
                    taken[doc_id] = number, cosine
        return Given.of(taken)


@dataclass(frozen=True, kw_only=True)
class Given:
    """The documents that are given, sorted by their ids: the query of each one, its turn, and its cosine to it. The
    last place is that of no document. `not_read` says how much of the positives says nothing."""

    ids: npt.NDArray[Any]
    queries: Ints
    turns: UInt64
    cosines: Floats
    not_read: Mapping[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def of(cls, taken: dict[tuple[int, int], tuple[int, float]]) -> "Given":
        order = sorted(range(len(taken)), key=list(taken).__getitem__)
        values = list(taken.values())
        return cls(
            ids=np.array(sorted(taken), _PAIR),
            queries=np.array([*(values[i][0] for i in order), _NOBODY], np.int64),
            turns=np.array([*order, 0], np.uint64),
            cosines=np.array([*(values[i][1] for i in order), np.nan]),
        )

    def find(self, ids: UInt64) -> tuple[Ints, Ints]:
        """The query of each document and its place here; -1 and the last place where it is not given."""
        wanted = np.ascontiguousarray(ids).view(_PAIR).reshape(-1)
        place = np.searchsorted(self.ids, wanted)
        if len(self.ids):
            at = np.minimum(place, len(self.ids) - 1)
            place = np.where(self.ids[at] == wanted, at, len(self.ids))
        return self.queries[place], place


@dataclass(frozen=True, kw_only=True)
class _Excluded:
    """Which documents are not ranked for which query."""

    queries: Ints  # of each positive
    ids: npt.NDArray[Any]
    vectors: Floats  # NaN where the positive is no document that may be chosen
    most: float

    @classmethod
    def of(cls, pool: Pool, positives: list[tuple[int, bytes]], most: float) -> "_Excluded":
        wanted = sorted({doc_id for _, doc_id in positives})
        width = pool.schema.field("embedding").type.list_size
        known: dict[bytes, Floats] = {}
        for shard in pool.map(functools.partial(_vectors_of, frozenset(wanted)), "doc_id", "embedding"):
            known |= shard
        if pool.given is not None:
            for batch in pool.given.select(["doc_id", "embedding"]).to_batches():
                known |= _vectors_of(frozenset(wanted), batch)
        nothing = np.full(width, np.nan)
        ids = keyed.words(pa.array([doc_id for _, doc_id in positives], pa.binary(16)))
        return cls(
            queries=np.array([number for number, _ in positives], np.int64),
            ids=ids,
            vectors=np.array([known.get(doc_id, nothing) for _, doc_id in positives]).reshape(-1, width),
            most=most,
        )

    def __call__(self, ids: UInt64, points: Floats, cosines: Floats) -> npt.NDArray[np.bool_]:
        is_out = cosines > self.most
        for number, doc_id, vector in zip(self.queries, self.ids, self.vectors, strict=True):
            is_out[:, number] |= (ids == doc_id).all(axis=1)
            if not np.isnan(vector).any():
                is_out[:, number] |= points @ vector > self.most
        return is_out


def _vectors_of(wanted: frozenset[bytes], batch: pa.RecordBatch) -> dict[bytes, Floats]:
    """The vectors of those documents of a shard."""
    if not wanted:
        return {}
    places = [place for place, doc_id in enumerate(batch["doc_id"].to_pylist()) if doc_id in wanted]
    some = batch.take(pa.array(places, pa.int64()))
    return dict(zip(some["doc_id"].to_pylist(), vectors(some), strict=True))
