"""Whether the documents that were kept are those that are visited or left, for a stretch of the corpus.

Whoever asks cuts the corpus into stretches, so that memory is what one of them needs: 29 bytes for each of its kept
documents. Every comparison is of the rows themselves, none of a sum.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.exact import keyed
from selector.manifest.digest import LEAF_ROWS
from selector.manifest.places import KEPT, Int64

STRETCH_ROWS = 1 << 20
"""Kept documents after which a stretch ends, at a border of the decisions' parts."""


@dataclass(frozen=True, kw_only=True)
class Matched:
    """What was found in a stretch."""

    num_wrong: int  # documents kept but never visited or left, or visited but not kept
    first_wrong: int | None  # the place of the first of them
    first_left: int | None  # that is left, and was not kept
    ids_differ: bool  # a visit, or what is left, has another doc_id than the decision on that row
    miscounted: tuple[int, ...]  # leaves with a visit that is not the next one of its document


class Stretch:
    """The account of the kept documents of a stretch, which are tables of `KEPT`, one after another."""

    def __init__(self, kept: list[pa.Table]) -> None:
        whole = pa.concat_tables([KEPT.empty_table(), *kept]).combine_chunks()
        self._places: Int64 = whole["place"].to_numpy()
        self._ids = keyed.words(whole["doc_id"])
        self._count = np.zeros(len(whole), np.uint32)  # of the visits so far
        self._is_left = np.zeros(len(whole), np.bool_)
        self._strangers: list[int] = []  # places that are visited and were not kept: of each piece the first
        self._num_strangers = 0
        self._left: list[int] = []  # the same of those that are left
        self._ids_differ = False
        self._miscounted = set[int]()

    def visit(self, seen: pa.Table) -> None:
        """Takes in the next visits of documents of this stretch: `SEEN`."""
        at, known = self._find(seen)
        visit = seen["visit"].to_numpy()
        if not known.all():
            self._strangers.append(int(seen["place"].to_numpy()[~known].min()))
            self._num_strangers += int(np.count_nonzero(visit[~known] == 0))
        numbers = self._number(at[known])
        wrong = seen["position"].to_numpy()[known][numbers != visit[known]]
        self._miscounted.update(np.unique(wrong // LEAF_ROWS).tolist())

    def leave(self, left: pa.Table) -> None:
        """Takes in documents of this stretch that the order leaves: `KEPT`."""
        at, known = self._find(left)
        if not known.all():
            self._left.append(int(left["place"].to_numpy()[~known].min()))
        self._is_left[at[known]] = True

    def matched(self) -> Matched:
        """What was found, once all was taken in."""
        never = np.flatnonzero((self._count == 0) & ~self._is_left)
        first = [*self._strangers, *self._places[never[:1]].tolist()]
        return Matched(
            num_wrong=len(never) + max(self._num_strangers, bool(self._strangers)),
            first_wrong=min(first, default=None),
            first_left=min(self._left, default=None),
            ids_differ=self._ids_differ,
            miscounted=tuple(sorted(self._miscounted)),
        )

    def _find(self, rows: pa.Table) -> tuple[Int64, npt.NDArray[np.bool_]]:
        """Where among those kept each row's document is, and whether it is there at all; ids are compared."""
        places = rows["place"].to_numpy()
        if not len(self._places):
            return np.zeros(len(places), np.int64), np.zeros(len(places), np.bool_)
        at = np.minimum(np.searchsorted(self._places, places), len(self._places) - 1)
        known = self._places[at] == places
        differ = (self._ids[at] != keyed.words(rows["doc_id"])).any(axis=1)
        self._ids_differ |= bool((known & differ).any())
        return at, known

    def _number(self, at: Int64) -> npt.NDArray[np.uint32]:
        """Which visit of its document each of these is, counted from 0; they are counted in."""
        order = np.argsort(at, kind="stable")
        ordered = at[order]
        begins = np.flatnonzero(np.diff(ordered, prepend=-1))
        lengths = np.diff(begins, append=len(ordered))
        within = np.arange(len(ordered)) - np.repeat(begins, lengths)
        numbers = np.empty(len(ordered), np.uint32)
        numbers[order] = self._count[ordered] + within
        self._count[ordered[begins]] += lengths.astype(np.uint32)
        return numbers
