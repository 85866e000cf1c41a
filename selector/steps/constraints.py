"""Constraints: shares, visits and included documents, which hold whatever the selector, and of which none knows.

Think of a selector as a clerk who is asked again. It is asked about the whole pool first. Where its answer goes beyond
a bound, the group that does is asked about alone, with what it may spend, and the others are asked about without it,
with what is then left. So every bound holds exactly, and where none binds the answer is the selector's own.

    included documents are chosen before anybody is asked, and paid for
    a group below its `least` gets just that, first, and for what it really costs: its last document crosses the bound
    a group above its `most` gets just that, and never crosses it, nor the budget
    a document with too many visits has as many as it may, and what that saves is spent on the documents left out

A selector that chooses in rounds is asked round by round, since the first ones may be trained on before the last one is
known. Every bound then holds for the rounds up to each one, of what they may spend together, and so for the whole: a
group gets its least share of the first round first, and of the later ones what it still lacks.
"""

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.errors import SelectorError
from selector.exact.spend import UNLIMITED, Budget, Overshoot
from selector.manifest.describe import INCLUDED
from selector.plugins.pool import Beside, Pool, Shard
from selector.policy.sections import SelectPolicy
from selector.select import Checker, Decisions, Ended, InRounds, Round, Selector, reasons, verdicts
from selector.select._check import Totals

Bools = npt.NDArray[np.bool_]

_LEFT = "constraints.left.{}"  # a column: whether an answer left a document out
_DECIDED = "constraints.decided."  # begins the columns of the verdict, once every document has one
_DECIDED_FIELDS = [kind.with_name(f"{_DECIDED}{kind.name}") for kind in tables.VERDICTS]
_HELD, _SPENT = "constraints.held", "constraints.spent"  # facts on the way
_NO_MORE = "groups at a bound of select.shares get no more"
_MOST_GIVEN = 1 << 20  # documents that a selector can be shown as chosen already
_MOST_ANSWERS = 16  # about one group, each with what the limit of visits saved


@dataclass(frozen=True, kw_only=True)
class Bound:
    """How much of the budget a group gets, in its unit."""

    least: int = 0
    most: int = UNLIMITED

    def of(self, amount: int, whole: int) -> "Bound":
        """The same shares of an amount; this bound is of the whole one."""
        if not whole:
            return self
        most = UNLIMITED if self.most == UNLIMITED else self.most * amount // whole
        return Bound(least=-(-self.least * amount // whole), most=most)

    def less(self, spent: int) -> "Bound":
        """The bound on what comes on top of what is spent already."""
        most = UNLIMITED if self.most == UNLIMITED else max(0, self.most - spent)
        return Bound(least=max(0, self.least - spent), most=most)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What holds of a choice."""

    by: str | None = None  # the column of the groups
    bounds: Mapping[str, Bound] = field(default_factory=dict[str, Bound])  # by the name of a group as people write it
    visits: int | None = None
    included: str | None = None  # a column: whether the policy names the document; null: no

    @classmethod
    def of(cls, policy: SelectPolicy, budget: Budget, included: str | None) -> "Limits | None":
        """What a policy says of a choice from this budget; None: nothing. A least share is rounded up, a most down."""
        by, named = next(iter(policy.shares.items()), (None, {}))
        visits = None if policy.visits is None else policy.visits.most
        if by is None and visits is None and included is None:
            return None
        bounds = {
            name: Bound(
                least=0 if share.least is None else -int(-_exact(share.least) * budget.amount // 1),
                most=UNLIMITED if share.most is None else int(_exact(share.most) * budget.amount),
            )
            for name, share in named.items()
        }
        return cls(by=by, bounds=bounds, visits=visits, included=included)


def _exact(share: float) -> Fraction:
    return Fraction(str(share))


@dataclass(frozen=True, kw_only=True)
class Constrained:
    """What was decided within limits, and why budget is left, if it is."""

    decisions: Decisions
    why_unspent: str


def constrained(
    label: str, selector: Selector, pool: Pool, columns: Sequence[str], budget: Budget, seed: int, limits: Limits
) -> Constrained:
    """What a selector decides within limits. `columns` are those of the pool that the selector is shown.

    Raises SelectorError where included documents cost more than the budget, or than their group may have.
    """
    asking = _Asking(label=label, selector=selector, columns=tuple(columns), seed=seed, budget=budget, limits=limits)
    sizes = _sizes(asking, pool)
    _check_included(asking, sizes)
    if isinstance(selector, InRounds) and limits.by is not None:
        return _in_rounds(asking, selector, pool, sizes)
    everybody = _Which(by=limits.by, names=frozenset(), is_complement=True, included=limits.included)
    chosen = _Chosen(pool=pool, spent=sizes.included, given=_included(asking, pool, sizes))
    answers, rest, after = _within(asking, everybody, chosen, sizes)
    return _put_together(asking, after.pool, answers, sizes, rest)


def _sizes(asking: "_Asking", pool: Pool) -> "_Sizes":
    return sum(pool.map(functools.partial(_counted, asking), *asking.own_columns), _Sizes())


def _within(
    asking: "_Asking", everybody: "_Which", chosen: "_Chosen", sizes: "_Sizes"
) -> tuple[list["_Answer"], list["_Answer"], "_Chosen"]:
    """The answers about everybody such that every bound holds, those of them that are about groups at no bound, and
    what is chosen then."""
    limits, budget = asking.limits, asking.budget
    floors: dict[str, list[_Answer]] = {}
    while True:
        capped: dict[str, list[_Answer]] = {}
        now = chosen
        while True:
            others = dataclasses.replace(everybody, names=frozenset({*floors, *capped}))
            rest, after = asking.ask(now, others, _left(asking, now), budget.overshoot)
            spent = _spent(rest)
            over = [name for name in sorted(limits.bounds) if name not in floors.keys() | capped.keys()]
            over = [name for name in over if spent[name] > asking.most(name, sizes)]
            if not over:
                break
            for name in over:
                amount = min(asking.most(name, sizes), _left(asking, now))
                overshoot: Overshoot = "fill" if budget.overshoot == "fill" else "stop"
                capped[name], now = asking.ask(now, _group(everybody, name), amount, overshoot, "most")
        below = [
            name
            for name in sorted(limits.bounds)
            if name not in floors.keys() | capped.keys()
            and spent[name] < asking.least(name, sizes)
            and _kept(rest)[name] < sizes.documents[name]
        ]
        if not below:
            break
        for name in below:
            floors[name], chosen = asking.floor(chosen, everybody, name, sizes)
    return [answer for group in (*floors.values(), *capped.values(), rest) for answer in group], rest, after


def _left(asking: "_Asking", chosen: "_Chosen") -> int:
    """What is left of the budget."""
    return max(0, asking.budget.amount - chosen.spent)


def _group(everybody: "_Which", name: str) -> "_Which":
    return dataclasses.replace(everybody, names=frozenset({name}), is_complement=False)


def _in_rounds(asking: "_Asking", selector: InRounds, pool: Pool, sizes: "_Sizes") -> Constrained:
    """What a selector decides in rounds, with every round held within the bounds of all rounds up to it."""
    limits = dataclasses.replace(asking.limits, by=None, bounds={})
    bounded = _Bounded(selector=selector, asking=asking, sizes=sizes)
    columns = tuple(dict.fromkeys((*asking.columns, *asking.own_columns)))
    outer = dataclasses.replace(asking, selector=bounded, columns=columns, limits=limits)
    everybody = _Which(by=None, names=frozenset(), is_complement=True, included=limits.included)
    chosen = _Chosen(pool=pool, spent=sizes.included, given=_included(outer, pool, sizes))
    answers, rest, after = _within(outer, everybody, chosen, sizes)
    within = _put_together(outer, after.pool, answers, sizes, rest)
    facts = dict(within.decisions.facts)
    held: Mapping[str, str] = facts.pop(_HELD)
    spent: Mapping[str, int] = facts.pop(_SPENT)
    shares = _shares(asking, Counter(spent) + sizes.included_by_group, held)
    facts["limits"] = {**facts["limits"], "shares": shares}
    why = f"{within.why_unspent}; {_NO_MORE}" if held else within.why_unspent
    return Constrained(decisions=dataclasses.replace(within.decisions, facts=facts), why_unspent=why)


@dataclass(frozen=True, kw_only=True)
class _Bounded(Selector):
    """A selector in rounds, each of which is held within the bounds on all rounds up to it.

    Where no bound ever held a group its answer is the selector's own. Else no probabilities are known, since what a
    round was left with hangs on all bounds before it.
    """

    fills_budget = False

    selector: InRounds
    asking: "_Asking"  # with the bounds on the whole budget
    sizes: "_Sizes"  # of the whole pool, for what is included

    @property
    def looks_at_given(self) -> bool:
        return self.selector.looks_at_given

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        """What the rounds take. The facts also have what each group spends, and by which bound it was held."""
        following: Round | Ended = self.selector.first_round(pool, budget, seed)
        whole, left, taken = following.pool, None, Counter[str]()
        answers: list[_Answer] = []
        rounds: list[dict[str, Any]] = []
        held: dict[str, str] = {}
        while isinstance(following, Round):
            now = self._asking(following, budget, taken)
            everybody = _Which(by=now.limits.by, names=frozenset(), is_complement=True, included=None, left=left)
            sizes = _Sizes(documents=self._documents(now, whole, everybody), included_by_group=taken)
            chosen = _Chosen(pool=whole, spent=taken.total(), given=None)
            more, _, _ = _within(now, everybody, chosen, sizes)
            bound = {name: one.deciding.bound for one in more for name in one.which.names if one.deciding.bound}
            held |= bound
            rounds.append({"held": dict(sorted(bound.items()))} if bound else {})
            answers += [one.in_round(following.number) for one in more]
            taken = taken + _spent(more)
            before, left = left, _LEFT.format(f"round.{following.number}")
            whole = _with_left(whole, more, left)
            is_taken = _TakenInRound(before=before, after=left)
            following = following.after(whole, is_taken, is_taken.columns)
        facts = {_HELD: held, _SPENT: dict(sorted(taken.items()))}
        if not held:
            own = self.selector.select(pool, budget, seed)
            return dataclasses.replace(own, facts={**own.facts, **facts})
        account = [{**one, **more} for one, more in zip(following.facts["rounds"], rounds, strict=True)]
        return Decisions(
            decide=_as_decided,
            columns=tuple(kind.name for kind in _DECIDED_FIELDS),
            pool=_decided(whole, answers, None),
            facts={**following.facts, "rounds": account, **facts},
            waiting=following.waiting,
            num_rounds=following.num_rounds,
        )

    def _asking(self, now: Round, budget: Budget, taken: Counter[str]) -> "_Asking":
        """What takes a round, and the bounds that hold for it and those before it."""
        asking, included = self.asking, self.sizes.included
        amount = included + now.amount
        bounds = {
            name: bound.of(amount, asking.budget.amount).less(self.sizes.included_by_group[name])
            for name, bound in asking.limits.bounds.items()
        }
        return dataclasses.replace(
            asking,
            selector=now.selector,
            columns=tuple(now.pool.schema.names),
            budget=dataclasses.replace(
                budget, amount=now.amount, overshoot=budget.overshoot if now.is_last else "stop"
            ),
            limits=Limits(by=asking.limits.by, bounds=bounds),
            when=f"in round {now.number + 1}",
        )

    def _documents(self, asking: "_Asking", pool: Pool, which: "_Which") -> Counter[str]:
        """How many documents of each group are left."""
        count = functools.partial(_counted_of, asking, which)
        return sum(pool.map(count, *dict.fromkeys((*asking.own_columns, *which.columns))), _Sizes()).documents


@dataclass(frozen=True, kw_only=True)
class _TakenInRound:
    """Which documents a round took: those that are left before it, and not after it."""

    before: str | None  # a column
    after: str

    @property
    def columns(self) -> list[str]:
        return [name for name in (self.before, self.after) if name is not None]

    def __call__(self, batch: pa.RecordBatch) -> Bools:
        was_left = np.ones(batch.num_rows, np.bool_) if self.before is None else _flags(batch[self.before])
        return was_left & ~_flags(batch[self.after])


@dataclass(frozen=True, kw_only=True)
class _Which:
    """Which documents of a pool an answer is about."""

    by: str | None
    names: frozenset[str]  # of groups, as people write them
    is_complement: bool  # all others but those
    included: str | None
    left: str | None = None  # a column: only those that an answer left out

    @property
    def columns(self) -> list[str]:
        return [name for name in (self.by, self.included, self.left) if name is not None]

    def mask(self, batch: pa.RecordBatch) -> Bools:
        mask = np.ones(batch.num_rows, np.bool_)
        if self.by is not None and (self.names or not self.is_complement):
            names, codes = _named(batch[self.by])
            mask &= np.array([(name in self.names) != self.is_complement for name in names] or [False], np.bool_)[codes]
        if self.included is not None:
            mask &= ~_flags(batch[self.included])
        if self.left is not None:
            mask &= _flags(batch[self.left])
        return mask


def _named(values: pa.Array) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The different values as people write them, and for each row which one it has; of no value "None"."""
    column: Any = values
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    encoded = column.dictionary_encode("encode")
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return [str(name) for name in encoded.dictionary.to_pylist()], codes


def _flags(values: pa.Array) -> Bools:
    return values.fill_null(False).to_numpy(zero_copy_only=False)


@dataclass(frozen=True, kw_only=True)
class _Some:
    """Those documents of a shard that an answer is about."""

    shard: Shard
    which: _Which
    num_rows: int

    def read(self, columns: Sequence[str]) -> pa.RecordBatch:
        batch = self.shard.read(list(dict.fromkeys((*columns, *self.which.columns))))
        return batch.filter(pa.array(self.which.mask(batch))).select(list(columns))


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """What the documents come to: of each group how many they are, and how much of it is included."""

    documents: Counter[str] = field(default_factory=Counter[str])  # without those that are included
    included_by_group: Counter[str] = field(default_factory=Counter[str])  # what they cost
    num_included: int = 0

    @property
    def included(self) -> int:
        return self.included_by_group.total()

    def __add__(self, other: "_Sizes") -> "_Sizes":
        return _Sizes(
            documents=self.documents + other.documents,
            included_by_group=self.included_by_group + other.included_by_group,
            num_included=self.num_included + other.num_included,
        )


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """What is chosen so far: what it costs, and its rows for a selector that looks at them; and the pool, with what
    answers left out."""

    pool: Pool
    spent: int
    given: pa.Table | None


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What the selector said of some documents."""

    which: _Which
    shards: tuple[tuple[Shard, Shard], ...]  # of each of the pool: what it decided, and what it was asked about
    deciding: "_Deciding"
    totals: Totals  # with no more visits than there may be
    spent: Counter[str]  # by group
    kept: Counter[str]
    why_unspent: str

    def in_round(self, number: int) -> "_Answer":
        return dataclasses.replace(self, deciding=dataclasses.replace(self.deciding, round=number))


@dataclass(frozen=True, kw_only=True)
class _Deciding:
    """The verdict on the documents of an answer."""

    checker: Checker
    decisions: Decisions
    most_visits: int | None
    by: str | None
    bound: str | None  # "at least 30 documents"
    round: int | None = None  # in which what is kept is taken, where a round was asked for; None: the verdict says it

    def verdict(self, shards: tuple[Shard, Shard]) -> pa.RecordBatch:
        return self._shown(self.checker.verdict(self.decisions, self._batch(shards)), shards[1])

    def outcome(self, shards: tuple[Shard, Shard]) -> "_Outcome":
        """What the verdict comes to."""
        batch = self._batch(shards)
        raw = self.checker.verdict(self.decisions, batch)
        limited = self._limited(raw)
        names, codes = ["None"], np.zeros(batch.num_rows, np.int64)
        if self.by is not None:
            names, codes = _named(shards[1].read([self.by])[self.by])
        kept = limited["kept"].to_numpy(zero_copy_only=False)
        cost = self.checker.budget.sizes(batch) * limited["visits"].to_numpy().astype(np.int64)
        sums, counts = np.zeros((2, max(len(names), 1)), np.int64)
        np.add.at(sums, codes[kept], cost[kept])
        np.add.at(counts, codes[kept], 1)
        return _Outcome(
            raw=self.checker.totals_of(batch, raw),
            limited=self.checker.totals_of(batch, limited),
            spent=Counter(dict(zip(names, sums.tolist(), strict=False))),
            kept=Counter(dict(zip(names, counts.tolist(), strict=False))),
        )

    def rows(self, columns: tuple[str, ...], shards: tuple[Shard, Shard]) -> pa.RecordBatch:
        """These columns of those that are kept."""
        kept = self.checker.verdict(self.decisions, self._batch(shards))["kept"]
        return shards[1].read(columns).filter(kept)

    def left(self, shards: tuple[Shard, Shard]) -> Bools:
        """Which are left out."""
        verdict = self.checker.verdict(self.decisions, self._batch(shards))
        return ~verdict["kept"].to_numpy(zero_copy_only=False)

    def _batch(self, shards: tuple[Shard, Shard]) -> pa.RecordBatch:
        return self.checker.read(self.decisions, *shards)

    def _limited(self, verdict: pa.RecordBatch) -> pa.RecordBatch:
        """The verdict with no more visits than a document may have."""
        if self.most_visits is None:
            return verdict
        visits = np.minimum(verdict["visits"].to_numpy(), self.most_visits).astype(np.uint16)
        return _with(verdict, {"visits": pa.array(visits)})

    def _shown(self, verdict: pa.RecordBatch, shard: Shard) -> pa.RecordBatch:
        """The verdict with the bound of the group in front of its reasons."""
        limited = self._limited(verdict)
        if self.round is not None:
            number = np.where(_flags(limited["kept"]), self.round, 0).astype(np.uint16)
            limited = _with(limited, {"round": pa.array(number)})
        if self.bound is None or self.by is None or not verdict.num_rows:
            return limited
        (name,) = _named(shard.read([self.by])[self.by])[0]
        given = {"share": name, "bound": self.bound}
        reason, arguments = limited["reason"], limited["arguments"]
        templates = [f"{self.by} {{share}} ({{bound}}): {word}" for word in reason.dictionary.to_pylist()]
        words = [{**json.loads(word), **given} for word in arguments.dictionary.to_pylist()]
        filled = [json.dumps(word, sort_keys=True, ensure_ascii=False) for word in (*words, given)]
        indices = arguments.indices.fill_null(len(words))
        return _with(
            limited,
            {
                "reason": pa.DictionaryArray.from_arrays(reason.indices, pa.array(templates, pa.string())),
                "arguments": pa.DictionaryArray.from_arrays(indices, pa.array(filled, pa.string())),
            },
        )


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What verdicts come to: as the selector said them, and with no more visits than there may be."""

    raw: Totals = field(default_factory=Totals)
    limited: Totals = field(default_factory=Totals)
    spent: Counter[str] = field(default_factory=Counter[str])  # by group
    kept: Counter[str] = field(default_factory=Counter[str])

    def __add__(self, other: "_Outcome") -> "_Outcome":
        return _Outcome(
            raw=self.raw + other.raw,
            limited=self.limited + other.limited,
            spent=self.spent + other.spent,
            kept=self.kept + other.kept,
        )


@dataclass(frozen=True, kw_only=True)
class _Asking:
    """A selector, and what it is asked with."""

    label: str
    selector: Selector
    columns: tuple[str, ...]  # of the pool, that it is shown
    seed: int
    budget: Budget
    limits: Limits
    when: str = ""  # of which round the bounds are

    @property
    def own_columns(self) -> list[str]:
        """What the limits read of a document."""
        return [name for name in ("num_tokens", self.limits.by, self.limits.included) if name is not None]

    def least(self, name: str, sizes: _Sizes) -> int:
        return self.limits.bounds[name].least - sizes.included_by_group[name]

    def most(self, name: str, sizes: _Sizes) -> int:
        return self.limits.bounds[name].most - sizes.included_by_group[name]

    def floor(self, chosen: _Chosen, everybody: _Which, name: str, sizes: _Sizes) -> tuple[list[_Answer], _Chosen]:
        """A group with its least share, which its last document may cross, unless that is above its most or above what
        is left."""
        room = min(self.most(name, sizes), _left(self, chosen))
        amount = min(self.least(name, sizes), room)
        answers, after = self.ask(chosen, _group(everybody, name), amount, "cross", "least")
        if after.spent - chosen.spent > room:
            overshoot: Overshoot = "fill" if self.budget.overshoot == "fill" else "stop"
            answers, after = self.ask(chosen, _group(everybody, name), amount, overshoot, "least")
        return answers, after

    def ask(
        self, chosen: _Chosen, which: _Which, amount: int, overshoot: Overshoot, bound: str | None = None
    ) -> tuple[list[_Answer], _Chosen]:
        """What the selector says of some documents, with so much to spend; and what is chosen then. It is asked again
        about those that it left out, with what the limit of visits saved."""
        answers: list[_Answer] = []
        while True:
            answer = self._answer(chosen, which, amount, overshoot, bound)
            answers.append(answer)
            amount -= answer.totals.spent
            saved = answer.totals.spent < _raw_spent(answer)
            is_last = not saved or amount <= 0 or len(answers) == _MOST_ANSWERS
            is_context = not which.is_complement or not is_last  # somebody is asked after it
            given = self._with_chosen(chosen.given, answer) if is_context else chosen.given
            chosen = _Chosen(pool=chosen.pool, spent=chosen.spent + answer.totals.spent, given=given)
            if is_last:
                return answers, chosen
            column = _LEFT.format(sum(name.startswith(_LEFT[:-2]) for name in chosen.pool.schema.names))
            chosen = dataclasses.replace(chosen, pool=_with_left(chosen.pool, [answer], column))
            which = dataclasses.replace(which, left=column)

    def _answer(self, chosen: _Chosen, which: _Which, amount: int, overshoot: Overshoot, bound: str | None) -> _Answer:
        pool = chosen.pool
        count = functools.partial(_count, which)
        num_rows = list(pool.map(count, *(which.columns or ["num_tokens"])))
        shards = [_Some(shard=shard, which=which, num_rows=n) for shard, n in zip(pool.shards, num_rows, strict=True)]
        schema = pa.schema([pool.schema.field(name) for name in self.columns])
        asked_of = dataclasses.replace(
            pool, schema=schema, num_documents=sum(num_rows), shards=shards, given=chosen.given
        )
        budget = dataclasses.replace(self.budget, amount=amount, overshoot=overshoot)
        checker = Checker(self.label, self.selector, budget)
        decisions = checker.select(asked_of, self.seed)
        pairs = tuple(checker.shards(decisions, asked_of))
        deciding = _Deciding(
            checker=checker,
            decisions=dataclasses.replace(decisions, pool=None),
            most_visits=self.limits.visits,
            by=self.limits.by,
            bound=None
            if bound is None
            else " ".join(filter(None, [f"at {bound} {amount:,} {budget.unit}", self.when])),
        )
        outcome = sum(pool.mapper(deciding.outcome, pairs), _Outcome())
        checker.add(outcome.raw)
        checker.end()
        return _Answer(
            which=which, shards=pairs, deciding=deciding, totals=outcome.limited, spent=outcome.spent,
            kept=outcome.kept, why_unspent=checker.why_unspent(asked_of.num_documents),
        )  # fmt: skip

    def _with_chosen(self, given: pa.Table | None, answer: _Answer) -> pa.Table | None:
        """What is given, and the documents that the answer keeps, for a selector that looks at them."""
        if not self.selector.looks_at_given or not answer.totals.kept:
            return given
        _check_given(self.label, answer.totals.kept + (0 if given is None else given.num_rows))
        rows = [answer.deciding.rows(self.columns, shards) for shards in answer.shards]
        return pa.concat_tables([*([] if given is None else [given]), pa.Table.from_batches(rows)])


def _raw_spent(answer: _Answer) -> int:
    return answer.deciding.checker.totals.spent


def _spent(answers: Sequence[_Answer]) -> Counter[str]:
    return sum((answer.spent for answer in answers), Counter[str]())


def _kept(answers: Sequence[_Answer]) -> Counter[str]:
    return sum((answer.kept for answer in answers), Counter[str]())


def _check_given(label: str, count: int) -> None:
    if count > _MOST_GIVEN:
        raise SelectorError(
            f"{label} looks at the documents that are chosen already, {_MOST_GIVEN:,} at most, and select.include, "
            f"select.shares or select.visits would show it {count:,}. Write a smaller budget, or another selector."
        )


def _check_included(asking: _Asking, sizes: _Sizes) -> None:
    budget, unit = asking.budget.amount, asking.budget.unit
    if sizes.included > budget:
        raise SelectorError(
            f"select.include: its documents cost {sizes.included:,} {unit}, and the budget is {budget:,}. Raise the "
            "budget, or name fewer documents."
        )
    for name, bound in asking.limits.bounds.items():
        cost = sizes.included_by_group[name]
        if cost > bound.most:
            raise SelectorError(
                f"select.include: its documents of the {asking.limits.by} {name} cost {cost:,} {unit}, and "
                f"select.shares allows {bound.most:,}. Raise that share, or name fewer of them."
            )


def _included(asking: _Asking, pool: Pool, sizes: _Sizes) -> pa.Table | None:
    """The rows of the documents that are included, for a selector that looks at them."""
    if not asking.selector.looks_at_given or asking.limits.included is None or not sizes.num_included:
        return None
    _check_given(asking.label, sizes.num_included)
    columns = list(dict.fromkeys((*asking.columns, asking.limits.included)))
    rows = pool.map(functools.partial(_rows_included, asking.limits.included, asking.columns), *columns)
    return pa.Table.from_batches(list(rows))


_Piece = tuple[_Which, _Deciding, tuple[Shard, Shard]]
"""Of an answer and a shard: about whom it is, how it decides, and what it decided and was asked about."""


def _with_left(pool: Pool, answers: Sequence[_Answer], column: str) -> Pool:
    """The pool with a column that says which documents the answers left out."""
    shards = [_Left(shard=shard, name=column, pieces=_pieces(answers, i)) for i, shard in enumerate(pool.shards)]
    schema = pa.schema([(column, pa.bool_())])
    asked_of = dataclasses.replace(pool, shards=shards)
    extended = asked_of.extended(functools.partial(_renamed, schema), column, returns=schema)
    beside: list[Shard] = []
    for shard, more in zip(pool.shards, extended.shards, strict=True):
        assert isinstance(more, Beside), "a pool is extended so"
        beside.append(dataclasses.replace(more, shard=shard))
    return dataclasses.replace(extended, shards=beside)


@dataclass(frozen=True, kw_only=True)
class _Left:
    """A shard with a column that says which documents some answers left out."""

    shard: Shard
    name: str
    pieces: tuple[_Piece, ...]

    @property
    def num_rows(self) -> int:
        return self.shard.num_rows

    def read(self, columns: Sequence[str]) -> pa.RecordBatch:
        assert list(columns) == [self.name], "it is asked for once, to be stored"
        left = np.zeros(self.num_rows, np.bool_)
        for which, deciding, pair in self.pieces:
            left[which.mask(self.shard.read(which.columns or ["num_tokens"]))] = deciding.left(pair)
        return pa.record_batch({self.name: pa.array(left)})


def _put_together(
    asking: _Asking, pool: Pool, answers: Sequence[_Answer], sizes: _Sizes, rest: Sequence[_Answer]
) -> Constrained:
    """One verdict on every document: that of the last answer about it."""
    decisions = Decisions(
        decide=_as_decided,
        columns=tuple(kind.name for kind in _DECIDED_FIELDS),
        pool=_decided(pool, answers, asking.limits.included),
        facts=_facts(asking, answers, sizes, rest),
        waiting=next((one.deciding.decisions.waiting for one in answers if one.deciding.decisions.waiting), None),
        num_rounds=rest[0].deciding.decisions.num_rounds if len(answers) == 1 else None,
        fills_budget=False,
    )
    bound = any(answer.deciding.bound for answer in answers)
    why = rest[-1].why_unspent
    return Constrained(decisions=decisions, why_unspent=f"{why}; {_NO_MORE}" if bound else why)


def _decided(pool: Pool, answers: Sequence[_Answer], included: str | None) -> Pool:
    """The pool with the verdict of the last answer about each document, in columns."""
    shards = [
        _Decided(shard=shard, included=included, pieces=_pieces(answers, i)) for i, shard in enumerate(pool.shards)
    ]
    return dataclasses.replace(pool, schema=pa.schema([*pool.schema, *_DECIDED_FIELDS]), shards=shards)


def _pieces(answers: Sequence[_Answer], number: int) -> tuple[_Piece, ...]:
    """What the answers say of the shard of this number."""
    return tuple((answer.which, answer.deciding, answer.shards[number]) for answer in answers)


def _facts(asking: _Asking, answers: Sequence[_Answer], sizes: _Sizes, rest: Sequence[_Answer]) -> dict[str, Any]:
    """What the selector said of its choice, and what became of the limits."""
    limits = asking.limits
    limited: dict[str, Any] = {}
    if limits.visits is not None:
        limited["visits"] = {"most": limits.visits}
    if limits.included is not None:
        limited["included"] = {"documents": sizes.num_included, "spent": sizes.included}
    if limits.by is not None:
        held = {
            name: answer.deciding.bound for answer in answers for name in answer.which.names if answer.deciding.bound
        }
        limited["shares"] = _shares(asking, _spent(answers) + sizes.included_by_group, held)
    return {**rest[0].deciding.decisions.facts, "limits": limited}


def _shares(asking: _Asking, spent: Counter[str], held: Mapping[str, str]) -> dict[str, Any]:
    """What became of the shares."""
    return {
        "by": asking.limits.by,
        "unit": asking.budget.unit,
        "groups": {
            name: {
                "least": bound.least,
                "most": None if bound.most == UNLIMITED else bound.most,
                "spent": spent[name],
                "held": held.get(name),
            }
            for name, bound in sorted(asking.limits.bounds.items())
        },
    }


@dataclass(frozen=True, kw_only=True)
class _Decided:
    """A shard with the verdict on each of its documents beside."""

    shard: Shard
    included: str | None
    pieces: tuple[_Piece, ...]

    @property
    def num_rows(self) -> int:
        return self.shard.num_rows

    def read(self, columns: Sequence[str]) -> pa.RecordBatch:
        own = [name for name in columns if name.startswith(_DECIDED)]
        base = self.shard.read([name for name in columns if name not in own]) if len(own) < len(columns) else None
        verdict = self._verdict() if own else None
        arrays: list[pa.Array] = []
        fields: list[pa.Field] = []
        for name in columns:
            batch, column = (verdict, name.removeprefix(_DECIDED)) if name in own else (base, name)
            assert batch is not None
            arrays.append(batch[column])
            fields.append(batch.schema.field(column).with_name(name))
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    def _verdict(self) -> pa.RecordBatch:
        """`tables.VERDICTS` of its documents."""
        n, place, count = self.num_rows, np.full(self.num_rows, -1, np.int64), 0
        batches: list[pa.RecordBatch] = []
        for which, deciding, pair in self.pieces:
            rows = np.flatnonzero(which.mask(self.shard.read(which.columns or ["num_tokens"])))
            batches.append(deciding.verdict(pair))
            place[rows] = count + np.arange(len(rows))
            count += len(rows)
        if self.included is not None:
            rows = np.flatnonzero(_flags(self.shard.read([self.included])[self.included]))
            batches.append(_included_verdicts(len(rows)))
            place[rows] = count + np.arange(len(rows))
        assert (place >= 0).all(), f"every one of {n} documents was decided about"
        whole = pa.Table.from_batches(batches, schema=tables.VERDICTS).unify_dictionaries().combine_chunks()
        (batch,) = whole.take(pa.array(place)).combine_chunks().to_batches() or [verdicts(np.empty(0, np.bool_))]
        return batch


def _included_verdicts(count: int) -> pa.RecordBatch:
    return verdicts(
        np.ones(count, np.bool_),
        **reasons(np.zeros(count, np.int32), [INCLUDED]),
        inclusion_probability=np.ones(count, np.float32),
    )


def _as_decided(batch: pa.RecordBatch) -> pa.RecordBatch:
    arrays = [batch[f"{_DECIDED}{kind.name}"] for kind in tables.VERDICTS]
    return pa.RecordBatch.from_arrays(arrays, schema=tables.VERDICTS)


def _with(batch: pa.RecordBatch, columns: Mapping[str, pa.Array]) -> pa.RecordBatch:
    """The batch with other values in some columns."""
    return pa.RecordBatch.from_arrays(
        [columns.get(name, batch[name]) for name in batch.schema.names], schema=batch.schema
    )


# What is asked of a shard.


def _counted(asking: _Asking, batch: pa.RecordBatch) -> _Sizes:
    limits = asking.limits
    n = batch.num_rows
    names, codes = ["None"], np.zeros(n, np.int64)
    if limits.by is not None:
        names, codes = _named(batch[limits.by])
    included = np.zeros(n, np.bool_) if limits.included is None else _flags(batch[limits.included])
    costs = np.zeros(max(len(names), 1), np.int64)
    np.add.at(costs, codes[included], asking.budget.sizes(batch)[included])
    counts = np.bincount(codes[~included], minlength=len(names))
    return _Sizes(
        documents=Counter(dict(zip(names, counts.tolist(), strict=False))),
        included_by_group=Counter(dict(zip(names, costs.tolist(), strict=False))),
        num_included=int(included.sum()),
    )


def _counted_of(asking: _Asking, which: _Which, batch: pa.RecordBatch) -> _Sizes:
    return _counted(asking, batch.filter(pa.array(which.mask(batch))))


def _count(which: _Which, batch: pa.RecordBatch) -> int:
    return int(which.mask(batch).sum())


def _rows_included(included: str, columns: Sequence[str], batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.filter(batch[included].fill_null(False)).select(list(columns))


def _renamed(schema: pa.Schema, batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(batch.columns, schema=schema)
