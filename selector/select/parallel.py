"""Several selections without a common document, alike in the distribution of scores."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import exact
from selector.errors import PolicyError, SelectorError
from selector.exact import Floats, Ints, UInt64, keyed
from selector.exact.draws import Lottery, Moments
from selector.select import Budget, Decisions, ManifestPath, Pool, ScoreName, Selector, reasons, verdicts

_PAIR = [("first", np.uint64), ("second", np.uint64)]  # a doc_id as one value that sorts like it
_MOST_CELLS = 1 << 26
_LEFT, _REFERENCE, _UNKNOWN = -1, -2, -3


@dataclass(frozen=True, kw_only=True)
class Parallel(Selector):
    """Takes `forms` disjoint selections of equal size whose scores are distributed alike.

    They are parallel forms of a test, or control sets for a selection that was made before. Without `reference` the
    forms are matched with each other. For one score, all documents are sorted by it and cut into as many strata of
    equal size as a form has documents (they differ by one at most); of each stratum one document is drawn for each
    form. So every form has the same share of each part of the distribution, every document the same chance within
    its stratum, and a form is a sample of the whole corpus. For several scores the first form is drawn, and the
    others are matched to it.

    With `reference`, a manifest, every form is matched to its documents, or to a keyed sample of them where the budget
    is smaller: of each of them every form has a partner of its own, such that the sum of all differences is as small as
    it can be. For one score that is the sum of absolute differences, found by sorting; for several the sum over scores
    standardised over the pool, found by an assignment. Documents of the reference, and those without a score, are never
    taken. Partners times documents may be at most 67,108,864, and more is refused in words.

    The form of a document, from 1 on, is its `round`, and stands in its reason. A budget in tokens gives the largest
    forms that it is found to pay for, by halving; it is never crossed. Probabilities are those of the strata for a
    budget in documents, and null elsewhere.

    Source: parallel forms in testing (van der Linden 2005); matched controls. Measured: the distributions of two forms
    of 100 of 2,000 log-normal scores differ by .02 at most (Kolmogorov, Smirnov), those of two random choices by more.
    A control is no better than `random` where the scores say nothing of what is compared.
    """

    fills_budget = False

    scores: tuple[ScoreName, ...]
    forms: int = 2
    reference: ManifestPath | None = None

    def __post_init__(self) -> None:
        if not self.scores:
            raise PolicyError("parallel.scores names no score. Write what the forms are to be alike in.")
        if not 1 <= self.forms < 1 << 16:
            raise PolicyError(f"parallel.forms={self.forms} is not a number of forms. Write 2 or more, or 1 control.")

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        columns = ("doc_id", "num_tokens", *dict.fromkeys(self.scores))
        documents = _Documents.of(pool.map(functools.partial(_read, self, budget), *columns), len(self.scores))
        size, place, form = self._largest(documents, budget, seed)
        order = np.argsort(documents.ids[place])
        decide = _Decide(
            selector=self,
            size=size,
            ids=documents.ids[place][order],
            forms=form[order],
            starts=_strata(documents, size) if self._is_stratified and budget.unit == "documents" else None,
        )
        means = {
            f"form {one + 1}": [float(documents.scores[place[form == one], i].mean()) for i in range(len(self.scores))]
            for one in range(self.forms if size else 0)
        }
        facts: dict[str, Any] = {"documents_per_form": size, "mean_scores": means}
        if self.reference:
            facts["documents_of_the_reference"] = len(documents.reference)
        return Decisions(decide=decide, columns=columns, facts=facts)

    @property
    def _is_stratified(self) -> bool:
        return not self.reference and len(set(self.scores)) == 1

    def _largest(self, documents: "_Documents", budget: Budget, seed: int) -> tuple[int, Ints, Ints]:
        """The largest forms that the budget is found to pay for: how many documents each one has, the places of them
        all, and the form of each."""
        most = min(budget.amount, len(documents.sizes)) // self.forms
        if self.reference:
            most = min(most, len(documents.reference))
        nothing = np.empty(0, np.int64)
        if budget.unit == "documents":
            place, form = self._chosen(documents, most, seed) if most else (nothing, nothing)
            return most, place, form
        best, low, high = (0, nothing, nothing), 1, most
        while low <= high:
            size = (low + high) // 2
            place, form = self._chosen(documents, size, seed)
            if documents.sizes[place].sum() <= budget.amount:
                best, low = (size, place, form), size + 1
            else:
                high = size - 1
        return best

    def _chosen(self, documents: "_Documents", size: int, seed: int) -> tuple[Ints, Ints]:
        """The documents of forms of this size, and the form of each one."""
        hashes = keyed.hashes(keyed.ids(_words(documents.ids)), seed, "parallel")
        if self._is_stratified:
            of_stratum = np.searchsorted(_borders(len(hashes), size), np.arange(len(hashes)), side="right") - 1
            order = np.lexsort((hashes, of_stratum))
            rank = np.arange(len(order)) - np.searchsorted(of_stratum, of_stratum)
            return order[rank < self.forms], rank[rank < self.forms]
        if not self.reference:
            first = np.argsort(hashes, kind="stable")[:size]
            others = np.setdiff1d(np.arange(len(hashes)), first)
            partners = self._partners(documents.scores[first], documents.scores[others], self.forms - 1)
            place = np.concatenate([first, others[partners.reshape(-1)]])
            return place, np.repeat(np.arange(self.forms), size)
        wanted = documents.reference[np.argsort(documents.reference_hashes(seed), kind="stable")[:size]]
        partners = self._partners(wanted, documents.scores, self.forms)
        return partners.reshape(-1), np.repeat(np.arange(self.forms), size)

    def _partners(self, wanted: Floats, offered: Floats, forms: int) -> Ints:
        """For each form and each of what is wanted the place of a partner, (forms, wanted), nobody's twice."""
        num_cells = forms * len(wanted) * len(offered)
        if num_cells > _MOST_CELLS:
            raise SelectorError(
                f"parallel looks at {forms * len(wanted):,} partners among {len(offered):,} documents at once, and "
                f"{_MOST_CELLS:,} pairs is the most that it holds. Write a smaller budget, fewer forms or a rule that "
                "leaves fewer documents."
            )
        if not forms:
            return np.empty((0, len(wanted)), np.int64)
        slots = np.repeat(wanted, forms, axis=0)
        partner = _in_line(slots[:, 0], offered[:, 0]) if slots.shape[1] == 1 else _assigned(slots, offered)
        return partner.reshape(len(wanted), forms).T


@dataclass(frozen=True, kw_only=True)
class _Documents:
    """What may be taken, sorted by the first score and then by id, and what the forms are to be like."""

    ids: npt.NDArray[Any]
    sizes: Ints
    scores: Floats  # (n, scores), the more than one of them standardised over the pool
    reference: Floats  # (m, scores)
    reference_ids: npt.NDArray[Any]

    @classmethod
    def of(cls, shards: Iterable[tuple[Any, Ints, Floats, npt.NDArray[np.bool_]]], num_scores: int) -> "_Documents":
        read = list(shards)
        ids = np.concatenate([np.empty(0, _PAIR), *(shard[0] for shard in read)])
        sizes = np.concatenate([np.empty(0, np.int64), *(shard[1] for shard in read)])
        scores = np.concatenate([np.empty((0, num_scores)), *(shard[2] for shard in read)])
        is_reference = np.concatenate([np.empty(0, np.bool_), *(shard[3] for shard in read)])
        order = np.argsort(ids)
        order = order[np.argsort(scores[order, 0], kind="stable")]
        ids, sizes, scores, is_reference = ids[order], sizes[order], scores[order], is_reference[order]
        if num_scores > 1:
            scores = np.stack([_standardised(column) for column in scores.T], axis=1)
        free = ~is_reference
        return cls(
            ids=ids[free],
            sizes=sizes[free],
            scores=scores[free],
            reference=scores[is_reference],
            reference_ids=ids[is_reference],
        )

    def reference_hashes(self, seed: int) -> UInt64:
        return keyed.hashes(keyed.ids(_words(self.reference_ids)), seed, "parallel reference")


def _standardised(scores: Floats) -> Floats:
    """Scores beside their mean, in standard deviations; constant ones become 0."""
    lottery = Lottery.of(Moments.of(scores), 0.0)
    return (scores - lottery.mean) / lottery.deviation


def _words(ids: npt.NDArray[Any]) -> UInt64:
    return np.stack([ids["first"], ids["second"]], axis=1)


def _borders(count: int, num_strata: int) -> Ints:
    """Where each of so many strata of equal size begins."""
    return np.arange(num_strata) * count // num_strata


def _strata(documents: _Documents, size: int) -> tuple[npt.NDArray[Any], Ints] | None:
    """The strata by their first documents, as (score, id), and how many each one has."""
    if not size:
        return None
    borders = _borders(len(documents.ids), size)
    first = np.empty(len(borders), [("score", np.float64), *_PAIR])
    first["score"] = documents.scores[borders, 0]
    first["first"], first["second"] = documents.ids[borders]["first"], documents.ids[borders]["second"]
    return first, np.diff(np.r_[borders, len(documents.ids)])


def _in_line(wanted: Floats, offered: Floats) -> Ints:
    """The partner of each number such that the sum of differences is smallest. Both sorted, the partners of the first
    ones come before those of the others; so it is enough to know, for each, which is the best last partner."""
    slots, places = np.argsort(wanted, kind="stable"), np.argsort(offered, kind="stable")
    rising, n = offered[places], len(offered)
    costs = np.zeros(n + 1)  # costs[j]: of the slots so far, with partners among the first j
    is_taken = np.empty((len(slots), n + 1), np.bool_)
    for turn, slot in enumerate(slots):
        taking = np.r_[np.inf, costs[:-1] + np.abs(rising - wanted[slot])]
        costs = np.minimum.accumulate(taking)
        is_taken[turn] = taking == costs
        is_taken[turn, 1:] &= costs[1:] < costs[:-1]
    partner, last = np.empty(len(slots), np.int64), n
    for turn in range(len(slots) - 1, -1, -1):
        last = int(np.flatnonzero(is_taken[turn, : last + 1])[-1])
        partner[slots[turn]] = places[last - 1]
        last -= 1
    return partner


def _assigned(wanted: Floats, offered: Floats) -> Ints:
    """The same for several scores: the assignment with the smallest sum of differences over all of them."""
    from scipy.optimize import linear_sum_assignment

    costs = np.zeros((len(wanted), len(offered)))
    for one, other in zip(wanted.T, offered.T, strict=True):
        costs += np.abs(one[:, None] - other)
    partner: Ints = linear_sum_assignment(costs)[1]
    return partner


def _read(selector: Parallel, budget: Budget, batch: pa.RecordBatch) -> tuple[Any, Ints, Floats, npt.NDArray[np.bool_]]:
    """The documents of a shard that have all scores: ids, sizes, scores, and whether they are of the reference."""
    scores = np.stack([exact.floats(batch[score]) for score in selector.scores], axis=1)
    is_known = ~np.isnan(scores).any(axis=1)
    ids = np.ascontiguousarray(keyed.words(batch["doc_id"])).view(_PAIR).reshape(-1)
    is_reference = np.isin(ids, _reference_ids(selector))
    return ids[is_known], budget.sizes(batch)[is_known], scores[is_known], is_reference[is_known]


def _reference_ids(selector: Parallel) -> npt.NDArray[Any]:
    if not selector.reference:
        return np.empty(0, _PAIR)
    return np.ascontiguousarray(keyed.words(selector.reference.table["doc_id"])).view(_PAIR).reshape(-1)


@dataclass(frozen=True, kw_only=True)
class _Decide:
    """The verdict on any batch."""

    selector: Parallel
    size: int
    ids: npt.NDArray[Any]  # of what is taken, sorted
    forms: Ints
    starts: tuple[npt.NDArray[Any], Ints] | None

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        first = exact.floats(batch[self.selector.scores[0]])
        scores = np.stack([exact.floats(batch[score]) for score in self.selector.scores], axis=1)
        is_known = np.asarray(~np.isnan(scores).any(axis=1))
        ids = np.ascontiguousarray(keyed.words(batch["doc_id"])).view(_PAIR).reshape(-1)
        form = np.full(batch.num_rows, _LEFT)
        if len(self.ids):
            at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
            form = np.where(self.ids[at] == ids, self.forms[at], _LEFT)
        is_reference = np.isin(ids, _reference_ids(self.selector))
        form = np.where(is_reference, _REFERENCE, form)
        form = np.where(is_known, form, _UNKNOWN)
        kept = form >= 0
        count, alike = self.selector.forms, ", ".join(dict.fromkeys(self.selector.scores))
        words: list[Any] = [
            "a score is not known",
            "a document of the reference",
            (f"in no form: {{size}} documents for each of {count}", {"size": self.size}),
            *((f"form {one + 1} of {count}: alike in {alike}", {}) for one in range(count)),
        ]
        chance = np.full(batch.num_rows, np.nan)
        if self.starts is not None:
            chance = np.where(is_known, self._chances(first, ids), 0.0)
        return verdicts(
            kept,
            **reasons(form + 3, words),
            round=np.where(kept, form + 1, 0).astype(np.uint16),
            inclusion_probability=chance.astype(np.float32),
            value=first,
        )

    def _chances(self, scores: Floats, ids: npt.NDArray[Any]) -> Floats:
        assert self.starts is not None
        firsts, counts = self.starts
        wanted = np.empty(len(ids), firsts.dtype)
        wanted["score"], wanted["first"], wanted["second"] = scores, ids["first"], ids["second"]
        stratum = np.maximum(np.searchsorted(firsts, wanted, side="right") - 1, 0)
        return self.selector.forms / counts[stratum]
