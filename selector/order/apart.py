"""Another order in which the visits of a document lie apart."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from selector.errors import PolicyError
from selector.exact import Ints
from selector.order import Along, Order
from selector.order._around import Visits
from selector.order._contract import batch_of
from selector.order._moved import Moved, Moves, kept_apart
from selector.order._ranked import ById
from selector.order._spacing import Numbers, exceeded, sizes_of
from selector.order._unmet import some_visits, with_unmet

_AT_ONCE = 1 << 18  # visits that are looked at together


@dataclass(frozen=True, kw_only=True)
class Apart(Moved):
    """Another order, moved so that each visit of a document comes at least `gap` places after the one before.

    Whatever repeats documents, `select` or the order. Every visit comes as early as it can, and none leaves its phase.
    Of n places of a phase in which m documents are visited r times each, and no document more often, a gap of (n - m) /
    (r - 1) is possible and no larger one: where that is less than `gap`, the visits of that phase lie so far apart
    instead. The facts of the manifest say so: `apart` has the gap that is `possible` in every phase, the `closest` two
    visits of a document (null: none has two), how many are nearer than `gap`, also across the border of two phases, and
    how far visits moved. Without a `gap` it is the trainer's global batch (`training.global_batch_size`), and 512 where
    the policy does not say that. The driver holds up to 27 bytes for each visit, of 100 million at most; a million
    take ten seconds or so.

    Evidence: up to 4 epochs of the same text are almost as good as new text (arXiv 2305.16264, laps over a whole
    corpus, so its gap is the corpus); laps that are shuffled anew promise a gap of 1 alone. That a gap helps by itself
    was not compared, by others or by us; where repeats are few, `shuffled` lays nearly all of them far apart.

    When: documents are visited several times and another order would show them again at once, as one that sorts does.
    """

    example: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"inner": {"pooled": {"score": "difficulty", "epochs": 3}}, "gap": 3000}
    )

    gap: int | None = None

    def __post_init__(self) -> None:
        if self.gap is not None and self.gap < 1:
            raise PolicyError(f"apart.gap={self.gap} is no number of places: write 1 or more, e.g. 512.")

    @property
    def reads_batch(self) -> bool:
        return self.gap is None

    @property
    def ranks(self) -> Mapping[str, Order]:
        return {"rank": ById()}

    @property
    def reads(self) -> tuple[str, ...]:
        return ("rank",)

    def summary(self, visits: Visits, seed: int) -> int:
        """The gap that is asked for."""
        return batch_of(visits.chosen) if self.gap is None else self.gap

    def groups(self, along: Along, summary: int) -> Ints:
        """A number for each visit's document, if it is visited several times."""
        document = along.batch["rank"].to_numpy()
        _, number, times = np.unique(document, return_inverse=True, return_counts=True)
        return np.where(times[number] == 1, -1, document)

    def laid(self, groups: Numbers, visits: Visits, summary: int) -> Numbers:
        return kept_apart(groups, visits.begins, functools.partial(_kept_gap, summary), 1)

    def facts(self, laid: Numbers, moved: Moves, visits: Visits, summary: int) -> Mapping[str, Any]:
        ends = [*visits.begins[1:].tolist(), len(laid)]
        phases = [laid[begin:end] for begin, end in zip(visits.begins.tolist(), ends, strict=False)]
        possible, nearer = min([summary, *(_kept_gap(summary, phase) for phase in phases)]), exceeded(laid, summary, 1)
        lines = list[str]()
        if possible < summary:
            apart = f"some visits of a document lie {possible:,} apart"
            lines.append(f"a gap of {summary:,} is not possible everywhere: {apart}")
        elif nearer:
            near = f"nearer than {summary:,} to another one of the same document: a phase ends between them"
            lines.append(some_visits(nearer, f"is {near}", f"are {near}"))
        facts = {"gap": summary, "possible": possible, "closest": closest(laid), "nearer": nearer, **moved.distances}
        return with_unmet(facts, lines)


def _kept_gap(gap: int, document: Numbers) -> int:
    """The gap of a phase in which visits are of these documents, where that gap is asked for."""
    possible = possible_gap(document)
    return gap if possible is None else min(gap, possible)


def possible_gap(document: Numbers) -> int | None:
    """The largest gap with which these visits can be laid, by their documents; None: no document is there twice.

    Negative numbers are of one visit each.
    """
    times = sizes_of(document, int(document.max(initial=0)) + 2)[:-1]  # the last one is of the negative numbers
    most = int(times.max(initial=0))
    if most < 2:
        return None
    return (len(document) - int(np.count_nonzero(times == most))) // (most - 1)


def closest(document: Numbers) -> int | None:
    """How far the closest two visits of a document are from each other, by the documents of visits; None: no document
    is there twice."""
    last, least = np.full(int(document.max(initial=0)) + 1, -1, np.int32), len(document)
    for first in range(0, len(document), _AT_ONCE):
        here = document[first : first + _AT_ONCE]
        known = np.flatnonzero(here >= 0)
        place = known[np.argsort(here[known], kind="stable")]
        number = here[place]
        before = np.r_[-1, first + place][:-1]
        is_first = np.r_[True, number[1:] != number[:-1]][: len(number)]
        before[is_first] = last[number[is_first]]
        least = int((first + place - before)[before >= 0].min(initial=least))
        last[number] = first + place
    return least if least < len(document) else None
