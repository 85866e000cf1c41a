"""One phase after another, each with its own budget of tokens, mixture, order and hints for the trainer."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import exact, tables
from selector.errors import PolicyError, did_you_mean
from selector.exact import Ints, UInt64, keyed
from selector.order import Order, Pool, Positions, ScoreName, cut_at, groups_in, numbered, random_visits
from selector.order._contract import numbered_together
from selector.order._placed import columns_read
from selector.order._ranked import left_out
from selector.order._spacing import Numbers
from selector.plugins.options import plugins_in

_AT_ONCE = 1 << 20  # visits that are looked at together
_ROUNDED = 0.05  # of a budget, which is not paid because documents are whole: more than that is said


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase: how long it is, what it draws from, and what its trainer should know."""

    name: str = ""
    tokens: int | None = None
    share: float | None = None
    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    pool: Literal["cumulative", "replaced"] = "cumulative"
    most_visits: int | None = None
    inner: Order | None = None
    sequence_length: int | None = None
    hints: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        called = f"phases.phases, {self.name or 'a phase'}"
        if self.tokens is not None and self.share is not None:
            raise PolicyError(f"{called}: tokens and share are two ways to say one thing: write one of them.")
        if self.tokens is not None and self.tokens < 0:
            raise PolicyError(f"{called}: tokens={self.tokens} is no number of tokens: write a whole number from 0 on.")
        if self.share is not None and not 0 <= self.share <= 1:
            raise PolicyError(f"{called}: share={self.share} is no share of all tokens: write a number from 0 to 1.")
        for group, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise PolicyError(f"{called}: weights.{group}={weight} is no weight: write a number from 0 on.")
        if self.most_visits is not None and self.most_visits < 1:
            raise PolicyError(f"{called}: most_visits={self.most_visits} leaves no visit: write 1 or more.")
        if self.sequence_length is not None and self.sequence_length < 1:
            raise PolicyError(f"{called}: sequence_length={self.sequence_length} is no length: write 1 or more.")
        if self.inner is not None and any(getattr(one, "reads_training", False) for one in plugins_in(self.inner)):
            raise PolicyError(
                f"{called}: inner goes by where updates count in the whole order, and a phase is a part of it: write "
                "it around phases, as in {where_it_counts: {inner: {phases: …}, phase: NAME}}."
            )
        try:
            json.dumps(dict(self.hints), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise PolicyError(f"{called}: hints go into manifest.json, and these cannot ({error}).") from error


@dataclass(frozen=True, kw_only=True)
class Phases(Order):
    """Divides the visits into phases in the order of `phases`; each draws its documents from its pool by its mixture.

    A phase is written {name, tokens or share, weights, pool, most_visits, inner, sequence_length, hints}, none of them
    needed. It is as long as its `tokens`, or as its `share` of all chosen tokens; without either it visits all of its
    pool that no phase before it has visited. It never has more tokens than that: each group ends before the document
    that its part cannot pay, and what is left then pays one more document of the groups that are most behind.

    A group is all documents with one value of the column `by` (source, cluster, a label, corpus.x), or a band of the
    score `bands_of`: bands end at the shares `cuts`, easy or bad ones first, and are called 1, 2, 3 … `weights` are the
    groups' shares of the phase's tokens. With the `pool` cumulative they change the weights of the phases before, and a
    weight of 0 takes a group out; with the pool replaced only the phase's own weights hold. Where no weights hold, the
    pool is everything, in proportion to the tokens that are left of each group. What a group cannot spend goes to the
    others.

    A group is gone through at random, on from phase to phase, and each document is visited at most `visits` times as
    often as select decided: first those that were not seen. In one phase it is visited at most `most_visits` times;
    what that holds back comes first in the next phase. Inside a phase `inner` is any order, of its documents alone;
    without one each group is shuffled and spread evenly, so that the mixture holds from its beginning on. Phases of
    another order inside are called `phase/theirs`. The manifest says of each phase the tokens asked for and missing (in
    the facts also where its groups have no more), the tokens of each group that it has, `sequence_length`, and `hints`,
    whatever they are (a masking rate, a task): nothing here reads them, they are for the trainer. Documents in no phase
    are told as left. The driver holds all visits, some 100 bytes each, and the columns that the orders inside read;
    more than 100 million are refused.

    Evidence: the best or most task-like data last, in two or more phases, is the practice of OLMo 2 and 3, Nemotron 3
    and SmolLM3, and beside a random order worth 3.4 % on average (2412.15285, two phases). Llama-3-SynE (2407.18743):
    Chinese and English 2:8, then 1:7:2 with synthetic data, +8.8 on C-Eval, not compared with another order. Hints:
    BIOptimus, four phases with rising masking rates; WavLLM, single tasks before combined ones; KICP (2403.09712),
    facts before reasoning of rising length: none of them says what the phases alone are worth. Pools that grow rather
    than change: 2309.12927. Reasoning data is better early than late (2510.03264): see `least_share`.

    When: training has parts with different aims, budgets or settings, as most pre-training above a few billion tokens.
    """

    version: ClassVar[int] = 2
    example: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "phases": [
                {"name": "broad", "share": 0.5, "weights": {"web": 6, "books": 3, "code": 1}},
                {"name": "skills", "share": 0.3, "weights": {"code": 4, "math": 4}, "hints": {"masking_rate": 0.2}},
                {"name": "hard", "share": 0.2, "inner": {"by_score": {"score": "difficulty"}}},
            ]
        }
    )

    phases: tuple[Phase, ...]
    by: str = "source"
    bands_of: ScoreName | None = None
    cuts: tuple[float, ...] = (0.75,)
    visits: int = 1

    def __post_init__(self) -> None:
        if not self.phases:
            raise PolicyError("phases.phases has no phase: write at least one, e.g. [{tokens: 1000000}, {}].")
        names = self.names
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise PolicyError(f"phases.phases has two phases called {twice!r}: write another name.")
        if not all(low < high for low, high in itertools.pairwise((0.0, *self.cuts, 1.0))):
            raise PolicyError(
                f"phases.cuts={list(self.cuts)} are no shares at which bands end: write numbers between 0 and 1, the "
                "smallest first, e.g. [0.5, 0.9]."
            )
        if not 1 <= self.visits <= 1000:
            raise PolicyError(f"phases.visits={self.visits} is no number of visits: write a whole number, 1 to 1000.")

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by,) if self.bands_of is None else ()

    @property
    def names(self) -> list[str]:
        """What the phases are called."""
        return [phase.name or f"phase {i}" for i, phase in enumerate(self.phases, 1)]

    def mixtures(self) -> list[dict[str, float]]:
        """The weights that hold in each phase; none: everything as it is."""
        mixtures, held = list[dict[str, float]](), dict[str, float]()
        for phase in self.phases:
            held = {**(held if phase.pool == "cumulative" else {}), **phase.weights}
            mixtures.append(held)
        return mixtures

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        has_inner = any(phase.inner is not None for phase in self.phases)
        table = chosen.table(*(columns_read(self, chosen) if has_inner else ("doc_id", "num_tokens")))
        ids, tokens = keyed.words(table["doc_id"]), table["num_tokens"].to_numpy()
        all_tokens = int(tokens.sum(dtype=np.int64))
        names, group = self._groups(chosen)
        left = _Left.of(group, ids, tokens, len(names), self.visits, seed)
        parts, phases = list[_Part](), dict[str, dict[str, Any]]()
        missing, short, unpaid = dict[str, int](), dict[str, int](), dict[str, int]()
        for number, (name, phase, mixture) in enumerate(zip(self.names, self.phases, self.mixtures(), strict=True)):
            weights = self._weights(name, mixture, names, left)
            budget = phase.tokens
            if phase.share is not None:
                budget = int(Fraction(str(phase.share)) * all_tokens)
            is_open = left.within(ids, phase.most_visits)
            open_to_it = left.only(is_open)
            if budget is not None and (available := open_to_it.available(weights)) < budget:
                short[name] = budget - available
            counts = open_to_it.never_drawn(weights) if budget is None else open_to_it.paid_by(budget, weights)
            first, is_drawn = open_to_it.first(counts), np.zeros(len(left.rows), np.bool_)
            is_drawn[first if isinstance(is_open, slice) else np.flatnonzero(is_open)[first]] = True
            del open_to_it
            rows, left = left.rows[is_drawn], left.only(~is_drawn)
            rows, inner_seed = np.sort(rows), _seed(seed, number)
            if phase.inner is None or not len(rows):
                part = _Part.of(rows, _mixed(rows, group, tokens, ids, inner_seed), name)
            else:
                pool = replace(Pool.of(table.take(pa.array(rows)), len(rows)), training=chosen.training)
                part = _Part.of(rows, phase.inner.arrange(pool, inner_seed), name)
            facts = dict[str, Any]()
            if budget is not None:
                missing[name] = budget - int(tokens[rows].sum(dtype=np.int64))
                if missing[name] - short.get(name, 0) > _ROUNDED * budget:
                    unpaid[name] = missing[name] - short.get(name, 0)
                facts |= {"tokens_asked_for": budget, "tokens_missing": missing[name]}
            if phase.sequence_length is not None:
                facts["sequence_length"] = phase.sequence_length
            if phase.hints:
                facts["hints"] = dict(phase.hints)
            for label, mixture in zip(part.labels, _mixtures(part, group, tokens, names), strict=True):
                phases[label] = {**part.phases.get(label, {}), **facts, "mixture": mixture}
            parts.append(part)
        inside = {name: dict(part.facts) for name, part in zip(self.names, parts, strict=True) if part.facts}
        facts: dict[str, Any] = {"tokens_missing": missing, "short": short, "inside": inside}
        if unpaid:
            facts["unpaid"] = unpaid
        facts = {"phases": facts}
        del table, left, tokens, group
        return replace(_joined(parts, ids), phases=phases, facts=facts)

    def _groups(self, chosen: Pool) -> tuple[list[str], Numbers]:
        """What the groups are called, the last one of documents without a value; and the group of each row."""
        if self.bands_of is None:
            groups = groups_in(chosen, self.by)
            names, numbers = [str(name) for name in groups.names], chosen.map(groups.of, self.by)
        else:
            bands = cut_at(chosen, self.bands_of, [Fraction(str(share)) for share in self.cuts])
            names = [str(number) for number in range(1, len(self.cuts) + 2)]
            numbers = chosen.map(bands.pieces, "doc_id", self.bands_of)
        columns = [np.empty(0, np.int32), *(number.astype(np.int32) for number in numbers)]
        return [*names, "no value"], np.concatenate(columns)

    def _weights(self, name: str, mixture: Mapping[str, float], names: list[str], left: "_Left") -> list[Fraction]:
        """The weight of each group, by its number; where none is given, the tokens that are left of it."""
        if not mixture:
            return [Fraction(max(tokens, 1)) for tokens in left.tokens().tolist()]
        absent = [group for group in mixture if group not in names[:-1]] if len(left.rows) else []
        if absent:
            hint, by = did_you_mean(absent[0], names[:-1]), "band" if self.bands_of else self.by
            raise PolicyError(f"phases: {name}.weights: no chosen document has {by} {absent[0]!r}. {hint}")
        return [*(Fraction(str(mixture.get(group, 0))) for group in names[:-1]), Fraction(0)]


@dataclass(frozen=True, kw_only=True)
class _Left:
    """The visits that no phase has drawn: group after group, those of a group in the order in which they are drawn."""

    rows: Numbers
    laps: Numbers  # how often the row was in its group's queue before
    group: Numbers
    in_line: Numbers  # the tokens of each visit
    num_groups: int

    @classmethod
    def of(cls, group: Numbers, ids: UInt64, tokens: Numbers, num_groups: int, num_laps: int, seed: int) -> "_Left":
        """All visits: each group in so many laps, each shuffled anew; row i of the pool is of `group[i]`."""
        again, number, laps = numbered_together(ids), np.int32 if len(ids) < 2**31 else np.int64, list[Numbers]()
        for lap in range(num_laps):
            shuffled = exact.argsort(_chances(ids, again, seed, f"phases/{lap}"), ids).astype(number)
            laps.append(shuffled[np.argsort(group[shuffled], kind="stable")])
        rows = np.concatenate([np.empty(0, number), *laps])
        lap = np.repeat(np.arange(num_laps, dtype=np.int16), len(ids))
        if num_laps > 1:
            by_group = np.argsort(group[rows], kind="stable")
            rows, lap = rows[by_group], lap[by_group]
        return cls(rows=rows, laps=lap, group=group[rows], in_line=tokens[rows], num_groups=num_groups)

    def within(self, ids: UInt64, most_visits: int | None) -> npt.NDArray[np.bool_] | slice:
        """Which of the visits a phase may draw that has at most so many of each document."""
        return slice(None) if most_visits is None else numbered(ids[self.rows]) < most_visits

    def only(self, which: npt.NDArray[np.bool_] | slice) -> "_Left":
        """Those of the visits."""
        names = ("rows", "laps", "group", "in_line")
        return replace(self, **{name: getattr(self, name)[which] for name in names})

    def first(self, counts: Ints) -> Ints:
        """The places of so many visits of each group, those that are drawn first."""
        firsts = self._begins()[:-1].tolist()
        return np.concatenate([np.arange(first, first + n) for first, n in zip(firsts, counts.tolist(), strict=True)])

    def tokens(self) -> Ints:
        """By group, the tokens that are left."""
        begins = self._begins()
        stretches = zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True)
        return np.array([self.in_line[begin:end].sum(dtype=np.int64) for begin, end in stretches], np.int64)

    def available(self, weights: Sequence[Fraction]) -> int:
        """The tokens that are left of all groups with a weight."""
        return sum(tokens for tokens, weight in zip(self.tokens().tolist(), weights, strict=True) if weight)

    def paid_by(self, budget: int, weights: Sequence[Fraction]) -> Ints:
        """By group, how many visits a phase of at most so many tokens has, each group having its share of them."""
        quotas = exact.apportion(budget, weights, self.tokens())
        firsts, ends = self._begins()[:-1], self._begins()[1:]
        counts, spent = np.zeros_like(quotas), np.zeros_like(quotas)
        for g in np.flatnonzero(quotas).tolist():
            reached = np.cumsum(self.in_line[firsts[g] : ends[g]], dtype=np.int64)
            counts[g] = np.searchsorted(reached, quotas[g], "right")
            spent[g] = reached[counts[g] - 1] if counts[g] else 0
        unspent = budget - int(spent.sum())
        for g in np.argsort(spent - quotas, kind="stable").tolist():  # the one that is most behind first
            place = firsts[g] + counts[g]
            if weights[g] and place < ends[g] and 0 < (tokens := int(self.in_line[place])) <= unspent:
                counts[g] += 1
                unspent -= tokens
        return counts

    def never_drawn(self, weights: Sequence[Fraction]) -> Ints:
        """By group, how many visits were never drawn, which come first; none of a group without a weight."""
        has_weight = np.array([weight > 0 for weight in weights], np.bool_)
        return np.where(has_weight, np.bincount(self.group[self.laps == 0], minlength=self.num_groups), 0)

    def _begins(self) -> Ints:
        return np.searchsorted(self.group, np.arange(self.num_groups + 1))


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One phase arranged: rows of the whole pool, and what its order says of them."""

    rows: Numbers
    labels: Sequence[str]
    codes: Numbers
    loss_weights: Any
    phases: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, rows: Numbers, positions: Positions, name: str) -> "_Part":
        """The phase of this name: what its order says of these rows of the pool."""
        visits = positions.visits
        phase = visits["phase"].unify_dictionaries().combine_chunks()
        words, used = phase.dictionary.to_pylist(), phase.indices.unique().to_pylist()
        labels = list(dict.fromkeys(words[code] for code in used))
        called = {label: name if label == "main" else f"{name}/{label}" for label in labels}
        code_of = np.array([*(labels.index(word) if word in called else 0 for word in words), 0], np.int32)
        return cls(
            rows=rows[visits["document"].to_numpy()],
            labels=list(called.values()),
            codes=code_of[phase.indices.to_numpy()],
            loss_weights=visits["loss_weight"].to_numpy(),
            phases={called[label]: facts for label, facts in positions.phases.items() if label in called},
            facts=positions.facts,
        )


def _mixed(rows: Numbers, group: Numbers, tokens: Numbers, ids: UInt64, seed: int) -> Positions:
    """These rows of the pool, those of each group at random and spread evenly over the tokens of them all."""
    ids = ids[rows]
    order = exact.argsort(_chances(ids, numbered_together(ids), seed, "phases"), ids)
    order = order[np.argsort(group[rows[order]], kind="stable")]
    of_group, sizes = group[rows[order]], tokens[rows[order]].astype(np.int64)
    reached, is_first = np.cumsum(sizes), np.diff(of_group, prepend=-1) != 0
    number = np.cumsum(is_first) - 1
    before = reached - sizes - (reached - sizes)[is_first][number]
    totals = np.bincount(number, sizes, 0)[number] if len(number) else np.zeros(0)
    middle = (2 * before + sizes) / np.maximum(2 * totals, 1)
    return Positions.of(order[np.lexsort((of_group, middle))])


def _mixtures(part: _Part, group: Numbers, tokens: Numbers, names: Sequence[str]) -> list[dict[str, int]]:
    """The tokens of each group, for each label of a phase; groups without a visit are not named."""
    counts, amounts = np.zeros((2, len(part.labels) * len(names)), np.int64)
    for first in range(0, len(part.rows), _AT_ONCE):
        rows = part.rows[first : first + _AT_ONCE]
        cell = part.codes[first : first + _AT_ONCE].astype(np.int64) * len(names) + group[rows]
        counts += np.bincount(cell, minlength=len(counts))
        amounts = exact.tally(amounts, cell, tokens[rows].astype(np.int64))
    mixtures = [dict[str, int]() for _ in part.labels]
    for number in np.flatnonzero(counts).tolist():
        label, of_group = divmod(number, len(names))
        mixtures[label][names[of_group]] = int(amounts[number])
    return mixtures


def _chances(ids: UInt64, again: Numbers, seed: int, purpose: str) -> UInt64:
    """The random number of each row, which is the `again`th of its document."""
    chances = np.empty(len(ids), np.uint64)
    for first in range(0, len(ids), _AT_ONCE):
        here = slice(first, first + _AT_ONCE)
        chances[here] = random_visits(keyed.ids(ids[here]), again[here], seed, purpose)
    return chances


def _joined(parts: Sequence[_Part], ids: UInt64) -> Positions:
    """The visits of one phase after another, and the rows that no phase visits as left."""
    labels = [label for part in parts for label in part.labels]
    firsts = itertools.accumulate((len(part.labels) for part in parts), initial=0)
    codes = [part.codes + first for part, first in zip(parts, firsts, strict=False)]
    rows = np.concatenate([np.empty(0, np.int64), *(part.rows for part in parts)])
    phase = pa.DictionaryArray.from_arrays(np.concatenate(codes).astype(np.int32), pa.array(labels, pa.string()))
    weights = np.concatenate([part.loss_weights for part in parts])
    visits = pa.table([rows, numbered(ids[rows]), phase, weights], schema=tables.VISITS)
    return left_out(Positions(visits=visits), len(ids), "no phase visits it")


def _seed(seed: int, number: int) -> int:
    """The seed of a phase: what is drawn in one says nothing of what is drawn in another."""
    return int.from_bytes(keyed.digest(f"{seed}:phases/{number}".encode())[:7])
