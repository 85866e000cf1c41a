"""Another order in which the visits of a document lie apart."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from selector.errors import PolicyError
from selector.exact import Ints, UInt64, argsort, keyed
from selector.order import Order, Pool, Positions
from selector.order._contract import batch_of
from selector.order._moved import kept_apart, moved_by
from selector.order._spacing import exceeded


@dataclass(frozen=True, kw_only=True)
class Apart(Order):
    """Another order, moved so that each visit of a document comes at least `gap` places after the one before.

    Whatever repeats documents, `select` or the order. Every visit comes as early as it can, and none leaves its phase.
    Of n places of a phase in which m documents are visited r times each, and no document more often, a gap of (n - m) /
    (r - 1) is possible and no larger one: where that is less than `gap`, the visits of that phase lie so far apart
    instead. The facts of the manifest say so: `apart` has the gap that is `possible` in every phase, the `closest` two
    visits of a document (null: none has two), how many are nearer than `gap`, also across the border of two phases, and
    how far visits moved. Without a `gap` it is the trainer's global batch (`training.global_batch_size`), and 512 where
    the policy does not say that. The driver holds all visits, 450 bytes each; a million take ten to fifteen seconds.

    Evidence: up to 4 epochs of the same text are almost as good as new text (arXiv 2305.16264, laps over a whole
    corpus, so its gap is the corpus); laps that are shuffled anew promise a gap of 1 alone. That a gap helps by itself
    was not compared, by others or by us; where repeats are few, `shuffled` lays nearly all of them far apart.

    When: documents are visited several times and another order would show them again at once, as one that sorts does.
    """

    example: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"inner": {"pooled": {"score": "difficulty", "epochs": 3}}, "gap": 3000}
    )

    inner: Order
    gap: int | None = None

    def __post_init__(self) -> None:
        if self.gap is not None and self.gap < 1:
            raise PolicyError(f"apart.gap={self.gap} is no number of places: write 1 or more, e.g. 512.")

    @property
    def reads_batch(self) -> bool:
        return self.gap is None

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        gap = batch_of(chosen) if self.gap is None else self.gap
        positions = self.inner.arrange(chosen, seed)
        ids = keyed.words(chosen.table("doc_id")["doc_id"])
        document = _repeated(ids[positions.visits["document"].to_numpy()])
        possible: list[int] = []

        def window_of(stretch: Ints) -> int:
            bound = possible_gap(stretch)
            possible.append(gap if bound is None else min(gap, bound))
            return possible[-1]

        places = kept_apart(positions.visits["phase"], document, window_of, 1)
        gaps = _gaps(document[places])
        facts = {
            "gap": gap,
            "possible": min([gap, *possible]),
            "closest": int(gaps.min()) if len(gaps) else None,
            "nearer": exceeded(document[places], gap, 1),
            **moved_by(places),
        }
        return replace(positions.rearranged(places, ids), facts={**positions.facts, "apart": facts})


def possible_gap(document: Ints) -> int | None:
    """The largest gap with which these visits can be laid, by their documents; None: no document is there twice.

    Negative numbers are of one visit each.
    """
    times = np.bincount(document[document >= 0])
    most = int(times.max(initial=0))
    if most < 2:
        return None
    return (len(document) - int(np.count_nonzero(times == most))) // (most - 1)


def _repeated(ids: UInt64) -> Ints:
    """A number for each visit's document, if it is visited several times; -1 for the others."""
    order = argsort(ids[:, 0], ids)
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (ids[order][1:] != ids[order][:-1]).any(axis=1)
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(is_new) - 1
    times = np.bincount(number)
    alone = np.ones(len(order), np.bool_) if not len(order) else times[number] == 1
    return np.where(alone, -1, number)


def _gaps(document: Ints) -> Ints:
    """How far each visit is from the one before of the same document."""
    known = np.flatnonzero(document >= 0)
    order = known[np.argsort(document[known], kind="stable")]
    return np.diff(order)[document[order][1:] == document[order][:-1]]
