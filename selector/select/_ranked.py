"""Selectors that rank: every group of documents is a queue, and its lowest keys are kept until its quota is spent.

Think of a selector as a few questions about a shard: which group is a document in, what is its key. How much each group
gets, which documents that pays for, how probable each one was and what is said of it follow from the answers, and none
of it holds the pool: every pass is a `Pool.map` whose answers add up.
"""

import dataclasses
import functools
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.errors import SelectorError
from selector.exact import Floats, Ints, UInt64, keyed
from selector.exact.apportion import apportion, tally
from selector.exact.inclusion import Drawn, Inclusion, inclusion, within
from selector.exact.pieces import slices
from selector.exact.spend import UNLIMITED, Budget, Queued, Taken, take
from selector.plugins.options import columns_of
from selector.plugins.pool import Pool
from selector.select._contract import Decisions, Reason, Selector, reasons, verdicts

Bools = npt.NDArray[np.bool_]
Answer = TypeVar("Answer")

_KEY, _GROUP, _ALLOWED, _STRATUM, _VALUE = "queue.key", "queue.group", "queue.allowed", "queue.stratum", "queue.value"
_DRAWN, _WEIGHT = "queue.drawn", "queue.log_weight"
_QUEUE = ("doc_id", "num_tokens", _KEY, _GROUP, _ALLOWED)
_LINED_UP = pa.schema(
    [(_KEY, pa.uint64()), (_GROUP, pa.int32()), (_ALLOWED, pa.bool_()), (_STRATUM, pa.int32()), (_VALUE, pa.float64())]
)
_WEIGHED = pa.schema([(_DRAWN, pa.int64()), (_WEIGHT, pa.float64())])

_MOST_LISTED = 4096  # groups in the facts of a manifest
_BRACES = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group of documents and its budget, in the budget's unit."""

    group: int | str | None  # as `Ranked.groups` calls it
    quota: int
    spent: int
    total: int
    unit: str


@dataclass(frozen=True, kw_only=True)
class Reasons:
    """What is said of the documents of a group. A template may name what `Group` has: "cluster {group}: {quota}".

    Other braces are left to the reader of a decision, who has its columns: "a value of {value}".
    """

    kept: Reason  # by its quota
    left_out: Reason
    paid: Reason | None = None  # kept beyond its quota, by what other quotas left; None: as `kept`
    never: Reason | None = None  # left out because `allowed` says so; None: as `left_out`


class Ranked(Selector):
    """Every group is a queue; its lowest keys are kept until its quota is spent.

    Only `keys` must be written. `summary` is what the other methods need to know of the whole pool; those are called on
    workers, so a selector and its summary are picklable.
    """

    @property
    def grouped_by(self) -> str | None:
        """The column whose values are the groups; None: all documents are one group."""
        return None

    @property
    def looks_at_given(self) -> bool:
        """Not unless it extends this: a document's key depends on nothing but the document, the summary and the
        seed."""
        return False

    @property
    def needs(self) -> tuple[str, ...]:
        """The column of the groups; a selector that reads more says `(*super().needs, "embedding")`."""
        return () if self.grouped_by is None else (self.grouped_by,)

    def summary(self, pool: Pool, seed: int) -> Any:
        """What must be known of the whole pool first, by `pool.map`: e.g. the mean of a score."""
        return None

    def summary_for(self, pool: Pool, budget: Budget, seed: int) -> Any:
        """The same, where it depends on the budget too."""
        return self.summary(pool, seed)

    def groups(self, batch: pa.RecordBatch, summary: Any) -> pa.Array | Ints:
        """The group of each document: a whole number or a label."""
        return np.zeros(batch.num_rows, np.int64) if self.grouped_by is None else batch[self.grouped_by]

    @abstractmethod
    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> UInt64:
        """The key of each document, the lowest first; ties by doc_id. `exact.descending(batch[score])` is best first.

        The law: a document's key depends on nothing but the document, the summary and the seed.
        """

    def values(self, batch: pa.RecordBatch, summary: Any, seed: int) -> Floats | None:
        """What the keys compare, as numbers that people read, the largest first; NaN or None if only chance decides."""
        return None

    def keys_and_values(self, batch: pa.RecordBatch, summary: Any, seed: int) -> tuple[UInt64, Floats | None]:
        """Both at once: to be extended where the one is worked out on the way to the other."""
        return self.keys(batch, summary, seed), self.values(batch, summary, seed)

    def allowed(self, batch: pa.RecordBatch, summary: Any) -> Bools | None:
        """Whether each document may be taken at all; None: all may. If that may be too few, `fills_budget` is False."""
        return None

    def others(self, batch: pa.RecordBatch, summary: Any) -> pa.Array | None:
        """The doc_id of the document that decided each one's lot, null where there is none."""
        return None

    def quotas(self, groups: Sequence[int | str], sizes: Ints, budget: Budget, summary: Any) -> Ints:
        """What each group may spend of the budget; `sizes` is what it has. By default in proportion to that.

        A group that would get nothing of a budget that pays for everything gets nothing at all, whatever the other
        groups leave. So a weight of 0 is told from a share that is rounded to 0.
        """
        return apportion(budget.amount, sizes, sizes)

    def ceilings(self, groups: Sequence[int | str], sizes: Ints, budget: Budget, summary: Any) -> Ints | None:
        """What each group gets at most, of what other quotas leave too; 0: nothing at all. None: there is no limit.
        If that may leave budget over, `fills_budget` is False."""
        return None

    def facts(self, summary: Any) -> Mapping[str, Any]:
        """What is to be said of the choice in the manifest, beside what each group may spend and does."""
        return {}

    def most_visits(self) -> int:
        """How often a document may be visited. Above 1, `quotas` may be up to so many times a group's size: the whole
        group is visited as often as its quota pays for, and what then remains of the quota pays for one visit more of
        its first documents."""
        return 1

    def strata(self, batch: pa.RecordBatch, summary: Any) -> Ints:
        """Which documents of a group were drawn among themselves, counted from 0: e.g. those without a score apart."""
        return np.zeros(batch.num_rows, np.int64)

    def log_weights(self, batch: pa.RecordBatch, summary: Any, cuts: UInt64) -> Floats | None:
        """The logarithms of the weights by which chance drew, up to a factor for each stratum; None: nothing is drawn.

        `cuts` is the key of the first document that its group's quota did not pay. Inclusion probabilities follow from
        these weights (`exact.inclusion`); where nothing is drawn they are 1 and 0. With a budget in tokens they are
        known only where no document's own length can move them by more than 0.005, and null elsewhere.
        """
        return None

    @property
    def is_probability_defined(self) -> bool:
        """Whether inclusion probabilities follow from `log_weights`; False where chance decides in another way too, as
        by a start that is drawn: then they are null."""
        return True

    def reasons(self, group: Group) -> Reasons:
        """What is said of the documents of a group, in few words."""
        if self.grouped_by is None:
            return Reasons(kept="among the first {spent} of {total} {unit}", left_out="beyond the first {spent} {unit}")
        of = f"{self.grouped_by} {{group}}:"
        return Reasons(
            kept=f"{of} within quota {{quota}} ({{unit}})",
            left_out=f"{of} beyond quota {{quota}} ({{unit}})",
            paid=f"{of} beyond quota {{quota}} ({{unit}}), paid by what other quotas left",
        )

    def _columns(self) -> tuple[str, ...]:
        """What a pass reads."""
        return tuple(dict.fromkeys(("doc_id", "num_tokens", *columns_of(self))))

    def _prepared(self, pool: Pool, seed: int, budget: Budget | None) -> Pool:
        """The pool with whatever the keys need beside; `budget` is all that is to be spent on it, if that is known."""
        return pool

    def _is_given(self, groups: Sequence[int | str], sizes: Ints, budget: Budget, summary: Any) -> Bools:
        """Whether each group gets anything of a budget that pays for everything; one that has nothing counts as if."""
        if type(self).quotas is Ranked.quotas:
            return np.ones(len(sizes), np.bool_)
        everything = dataclasses.replace(budget, amount=int(sizes.sum()))
        return (self.quotas(groups, sizes, everything, summary) > 0) | (sizes == 0)

    @final
    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        whole, columns = self._prepared(pool, seed, budget), self._columns()
        summary = self.summary_for(whole, budget, seed)
        view = _View(selector=self, budget=budget, seed=seed, summary=summary, names=())
        by_name = _merged(whole.map(functools.partial(_sizes, view), *columns))
        names = tuple(sorted(by_name, key=lambda name: (name is None, name)))
        view = _View(selector=self, budget=budget, seed=seed, summary=summary, names=names)
        totals = _table(by_name, names)
        sizes = totals.sum(axis=1)
        quotas = self.quotas(names, sizes, budget, summary)
        laps = np.minimum(quotas // np.maximum(sizes, 1), self.most_visits() - 1)
        is_given = self._is_given(names, sizes, budget, summary)
        ceilings = self.ceilings(names, sizes, budget, summary)
        if not is_given.all():
            ceilings = np.where(is_given, UNLIMITED if ceilings is None else ceilings, 0)
        lined_up = whole.extended(functools.partial(_lined_up, view), *columns, returns=_LINED_UP)

        def queues(work: Callable[[Queued], Answer]) -> Iterable[Answer]:
            return lined_up.map(functools.partial(_queued, budget, work), *_QUEUE)

        if ceilings is not None:
            ceilings = np.where(ceilings < UNLIMITED, np.maximum(ceilings - laps * sizes, 0), ceilings)
        taken = take(queues, quotas - laps * sizes, budget.overshoot, ceilings, count=pool.num_documents)
        spent, cuts = np.zeros_like(totals), np.full(len(names), -np.inf)
        for shard_spent, shard_cuts in lined_up.map(
            functools.partial(_outcome, budget, taken, totals.shape), *_QUEUE, _STRATUM, _VALUE
        ):
            spent, cuts = spent + shard_spent, np.maximum(cuts, shard_cuts)

        chances, is_known, more = None, self.is_probability_defined, dict(self.facts(summary))
        is_drawn = self.log_weights(_empty(whole, columns), summary, np.empty(0, np.uint64)) is not None
        if is_drawn and self.is_probability_defined:
            weigh = functools.partial(_weighed, view, taken, totals.shape[1])
            weighed = lined_up.extended(weigh, *columns, _GROUP, _STRATUM, returns=_WEIGHED)

            def draws(work: Callable[[Drawn], Answer]) -> Iterable[Answer]:
                return weighed.map(functools.partial(_drawn, budget, work), "num_tokens", _ALLOWED, *_WEIGHED.names)

            is_counted = budget.unit == "documents"
            chances = inclusion(draws, spent.reshape(-1), totals.reshape(-1), is_counted=is_counted)
            if not is_counted:
                might = quotas - laps * sizes
                is_settled = ~is_given | (laps > 0)  # it gets nothing, or all of it at least once
                error = within(draws, chances, spent, totals, might, is_settled, budget.overshoot)
                is_known, more["probabilities"] = error is not None, {"within": error}
        decide = _Decide(
            view=view,
            taken=taken,
            quotas=quotas,
            sizes=sizes,
            laps=laps,
            spent=spent.sum(axis=1) + laps * sizes,
            cuts=cuts,
            num_strata=totals.shape[1],
            chances=chances,
            is_known=is_known,
        )
        known = tuple(_LINED_UP.names)
        decisions = Decisions(
            decide=decide, columns=columns, pool=lined_up, known=known, facts={**decide.facts, **more}
        )
        return decisions if is_given.all() else dataclasses.replace(decisions, fills_budget=False)


@dataclass(frozen=True, kw_only=True)
class _View:
    """A selector and what it needs to be asked about a shard."""

    selector: Ranked
    budget: Budget
    seed: int
    summary: Any
    names: tuple[int | str | None, ...]  # of the groups, sorted, that of no value last

    def allowed(self, batch: pa.RecordBatch) -> Bools:
        allowed = self.selector.allowed(batch, self.summary)
        return np.ones(batch.num_rows, np.bool_) if allowed is None else allowed

    def strata(self, batch: pa.RecordBatch) -> Ints:
        return self.selector.strata(batch, self.summary)

    def groups(self, batch: pa.RecordBatch) -> Ints:
        """The group of each document, as an index into the names."""
        used, codes = _coded(self.selector.groups(batch, self.summary))
        place = {name: i for i, name in enumerate(self.names)}
        return np.array([place.get(name, -1) for name in used] or [0], np.int64)[codes]

    def lined_up(self, batch: pa.RecordBatch) -> tuple[Queued, Bools, Ints, Floats]:
        """All documents of a shard in their queues, which of them may be taken, their strata and their values."""
        keys, values = (np.concatenate(arrays) for arrays in zip(*map(self._ranked, _in_pieces(batch)), strict=True))
        ids, sizes = keyed.in_place(batch["doc_id"]), self.budget.sizes(batch)
        queued = Queued(group=self.groups(batch), key=keys, ids=ids, sizes=sizes)
        return queued, self.allowed(batch), self.strata(batch), values

    def _ranked(self, batch: pa.RecordBatch) -> tuple[UInt64, Floats]:
        """The key and the value of each document."""
        key, values = self.selector.keys_and_values(batch, self.summary, self.seed)
        if key.shape != (batch.num_rows,) or key.dtype != np.uint64:
            raise SelectorError(
                f"{type(self.selector).__qualname__}.keys answered with {key.dtype}{list(key.shape)} for "
                f"{batch.num_rows} documents. It must answer with a uint64 for each."
            )
        return key, np.full(batch.num_rows, np.nan) if values is None else values


def _in_pieces(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
    """The batch in pieces whose intermediate results stay in a core's own cache; at least one."""
    return [batch.slice(piece.start, piece.stop - piece.start) for piece in slices(max(batch.num_rows, 1))]


# What is asked of a shard: picklable, each with a small answer.


def _sizes(view: _View, batch: pa.RecordBatch) -> dict[Any, Ints]:
    """What the documents of each group and stratum would spend."""
    used, codes = _coded(view.selector.groups(batch, view.summary))
    strata, allowed = view.strata(batch), view.allowed(batch)
    width = int(strata.max(initial=0)) + 1
    sizes = np.zeros((len(used), width), np.int64)
    np.add.at(sizes, (codes, strata), np.where(allowed, view.budget.sizes(batch), 0))
    present = np.bincount(codes, minlength=len(used)) > 0
    return {name: sizes[i] for i, name in enumerate(used) if present[i]}


def _lined_up(view: _View, batch: pa.RecordBatch) -> pa.RecordBatch:
    """What the selector says of each document, asked once."""
    queued, allowed, stratum, value = view.lined_up(batch)
    columns = {_KEY: queued.key, _GROUP: queued.group, _ALLOWED: allowed, _STRATUM: stratum, _VALUE: value}
    return _record(columns, _LINED_UP)


def _queue_of(budget: Budget, batch: pa.RecordBatch) -> tuple[Queued, Bools]:
    """The documents in their queues, and which may be taken, as `_lined_up` has kept it."""
    queued = Queued(
        group=batch[_GROUP].to_numpy().astype(np.int64),
        key=batch[_KEY].to_numpy(),
        ids=keyed.in_place(batch["doc_id"]),
        sizes=budget.sizes(batch),
    )
    return queued, batch[_ALLOWED].to_numpy(zero_copy_only=False)


def _queued(budget: Budget, work: Callable[[Queued], Answer], batch: pa.RecordBatch) -> Answer:
    queued, allowed = _queue_of(budget, batch)
    return work(queued if allowed.all() else queued.where(allowed))


def _outcome(budget: Budget, taken: Taken, shape: tuple[int, int], batch: pa.RecordBatch) -> tuple[Ints, Floats]:
    """What was spent by group and stratum, and the largest value of each group that was left out."""
    spent, cuts = np.zeros(shape, np.int64), np.full(shape[0], -np.inf)
    for piece in _in_pieces(batch):
        queued, allowed = _queue_of(budget, piece)
        kept = taken.mask(queued) & allowed
        np.add.at(spent, (queued.group[kept], piece[_STRATUM].to_numpy()[kept]), queued.sizes[kept])
        values = piece[_VALUE].to_numpy()
        left = ~kept & ~np.isnan(values)
        np.maximum.at(cuts, queued.group[left], values[left])
    return spent, cuts


def _weighed(view: _View, taken: Taken, num_strata: int, batch: pa.RecordBatch) -> pa.RecordBatch:
    """In which stratum, of those of all groups, each document is, and what it weighs there."""
    group = batch[_GROUP].to_numpy()
    log_weight = view.selector.log_weights(batch, view.summary, taken.cuts[group, 0])
    assert log_weight is not None
    return _record(
        {_DRAWN: group.astype(np.int64) * num_strata + batch[_STRATUM].to_numpy(), _WEIGHT: log_weight}, _WEIGHED
    )


def _drawn(budget: Budget, work: Callable[[Drawn], Answer], batch: pa.RecordBatch) -> Answer:
    allowed = batch[_ALLOWED].to_numpy(zero_copy_only=False)
    drawn = Drawn(group=batch[_DRAWN].to_numpy(), log_weight=batch[_WEIGHT].to_numpy(), sizes=budget.sizes(batch))
    return work(drawn if allowed.all() else drawn.where(allowed))


@dataclass(frozen=True, kw_only=True)
class _Decide:
    """The verdict on any batch, from a few numbers for each group."""

    view: _View
    taken: Taken
    quotas: Ints
    sizes: Ints
    laps: Ints  # how often all of a group is visited, beside the visits that were taken one by one
    spent: Ints
    cuts: Floats
    num_strata: int
    chances: Inclusion | None
    is_known: bool  # whether probabilities are

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        answers = map(self._answer, _in_pieces(batch))
        codes, *columns = (np.concatenate(arrays) for arrays in zip(*answers, strict=True))
        used = np.flatnonzero(np.bincount(codes))
        number = np.zeros(4 * len(self.sizes), np.int32)
        number[used] = np.arange(len(used))
        return verdicts(
            codes % 4 < 2,
            **reasons(number[codes], [self._reason(*divmod(code, 4)) for code in used.tolist()]),
            **dict(zip(("visits", "inclusion_probability", "value", "cut"), columns, strict=True)),
            other=self.view.selector.others(batch, self.view.summary),
        )

    def _answer(self, batch: pa.RecordBatch) -> tuple[npt.NDArray[Any], ...]:
        """Of each document its group and what became of it, as one number; its visits, inclusion probability, value
        and cut."""
        view, selector = self.view, self.view.selector
        if _KEY in batch.schema.names:
            queued, allowed = _queue_of(view.budget, batch)
            stratum, value = batch[_STRATUM].to_numpy(), batch[_VALUE].to_numpy()
        else:
            queued, allowed, stratum, value = view.lined_up(batch)
        laps = self.laps[queued.group]
        taken, within = self.taken.mask(queued), self.taken.within(queued) | (laps > 0)
        kept = (taken | (laps > 0)) & allowed
        chance = kept.astype(np.float64)
        if self.chances is not None:
            log_weight = selector.log_weights(batch, view.summary, self.taken.cuts[queued.group, 0])
            assert log_weight is not None
            drawn = queued.group * self.num_strata + stratum
            chance = np.where(laps > 0, 1.0, self.chances(drawn, log_weight)) * allowed
        if not self.is_known:
            chance = np.full(batch.num_rows, np.nan)
        outcome = np.where(kept, np.where(within, 0, 1), np.where(allowed, 2, 3))
        cuts = np.where(np.isinf(self.cuts), np.nan, self.cuts)
        return (
            4 * queued.group + outcome,
            np.where(kept, laps + taken, 1).astype(np.uint16),
            chance.astype(np.float32),
            value,
            cuts[queued.group],
        )

    @property
    def facts(self) -> Mapping[str, Any]:
        """What each group was given and spent, unless there is one group, or too many to be told."""
        if not 1 < len(self.view.names) <= _MOST_LISTED:
            return {}
        names = [str(name) for name in self.view.names]
        by_group = {"quotas": self.quotas, "spent": self.spent}
        return {name: dict(zip(names, amounts.tolist(), strict=True)) for name, amounts in by_group.items()}

    def _reason(self, index: int, outcome: int) -> Reason:
        """The reason for documents of a group, with what stands in its braces."""
        group = Group(
            group=self.view.names[index],
            quota=int(self.quotas[index]),
            spent=int(self.spent[index]),
            total=int(self.sizes[index]),
            unit=self.view.budget.unit,
        )
        own = self.view.selector.reasons(group)
        reason = (own.kept, own.paid or own.kept, own.left_out, own.never or own.left_out)[outcome]
        template, given = (reason, {}) if isinstance(reason, str) else reason
        known = {**vars(group), **given}
        return template, {name: known[name] for name in _BRACES.findall(template) if name in known}


def _coded(values: pa.Array | npt.NDArray[Any]) -> tuple[list[Any], Ints]:
    """The different values, null among them, and for each row which one it has."""
    column: Any = values if isinstance(values, pa.Array) else pa.array(values)
    if column.null_count and pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode("encode")
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _merged(answers: Iterable[dict[Any, Ints]]) -> dict[Any, Ints]:
    """The sizes by group and stratum, of all shards together."""
    whole: dict[Any, Ints] = {}
    for answer in answers:
        for name, sizes in answer.items():
            whole[name] = tally(whole.get(name, np.empty(0, np.int64)), np.arange(len(sizes)), sizes)
    return whole


def _table(by_name: Mapping[Any, Ints], names: Sequence[Any]) -> Ints:
    """The sizes as a table with a row for each group and a column for each stratum."""
    table = np.zeros((len(names), max((len(sizes) for sizes in by_name.values()), default=1)), np.int64)
    for i, name in enumerate(names):
        table[i, : len(by_name[name])] = by_name[name]
    return table


def _record(columns: Mapping[str, npt.NDArray[Any]], schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def _empty(pool: Pool, columns: Sequence[str]) -> pa.RecordBatch:
    schema = pa.schema([pool.schema.field(name) for name in columns])
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
