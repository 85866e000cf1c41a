"""One phase after another, each with its own budget of tokens, mixture, order and hints for the trainer."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError, did_you_mean, phase_called
from selector.exact import Ints, keyed
from selector.order import Order, Pool, ScoreName, cut_at, groups_in
from selector.order._evenly import Evenly, Grouping
from selector.order._in_line import Amounts, Queues
from selector.order._parted import Arrangement, Part, Parted
from selector.order._unmet import with_unmet
from selector.plugins.options import plugins_in

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
class Phases(Parted):
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
    are told as left. The driver holds a few numbers for each group and phase, unless an order inside must be held.

    Evidence: the best or most task-like data last, in two or more phases, is the practice of OLMo 2 and 3, Nemotron 3
    and SmolLM3, and beside a random order worth 3.4 % on average (2412.15285, two phases). Llama-3-SynE (2407.18743):
    Chinese and English 2:8, then 1:7:2 with synthetic data, +8.8 on C-Eval, not compared with another order. Hints:
    BIOptimus, four phases with rising masking rates; WavLLM, single tasks before combined ones; KICP (2403.09712),
    facts before reasoning of rising length: none of them says what the phases alone are worth. Pools that grow rather
    than change: 2309.12927. Reasoning data is better early than late (2510.03264): see `least_share`.

    When: training has parts with different aims, budgets or settings, as most pre-training above a few billion tokens.
    """

    version: ClassVar[int] = 2
    left_because: ClassVar[str] = "no phase visits it"
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

    @property
    def orders(self) -> Sequence[Order]:
        return [phase.inner for phase in self.phases if phase.inner is not None]

    def summary(self, chosen: Pool, seed: int) -> "Division":
        grouping = self._grouping(chosen)
        queues = Queues(
            groups_of=grouping.of,
            columns=grouping.columns,
            num_groups=len(grouping.names),
            laps=self.visits,
            seed=seed,
        )
        all_tokens, dues = 0, list[Due]()
        for number, (name, phase, mixture) in enumerate(zip(self.names, self.phases, self.mixtures(), strict=True)):
            amounts = queues.amounts(chosen, phase.most_visits)
            if not number:
                all_tokens = int(amounts.left.sum()) // self.visits
            weights = self._weights(name, mixture, grouping.names, amounts)
            budget = phase.tokens
            if phase.share is not None:
                budget = int(Fraction(str(phase.share)) * all_tokens)
            if budget is None:
                queues = queues.with_new(np.array([weight > 0 for weight in weights]), phase.most_visits)
                dues.append(Due(budget=None))
                continue
            of_groups = zip(amounts.tokens.sum(axis=1).tolist(), weights, strict=True)
            short = max(budget - sum(tokens for tokens, weight in of_groups if weight), 0)
            queues, missing = queues.with_paid(chosen, amounts, budget, weights, phase.most_visits)
            dues.append(Due(budget=budget, missing=missing, short=short))
        return Division(grouping=grouping, queues=queues, dues=tuple(dues))

    def parts(self, summary: "Division", seed: int) -> Sequence[Part]:
        evenly = Evenly(grouping=summary.grouping)
        named = enumerate(zip(self.names, self.phases, strict=True))
        return [Part(name=name, order=phase.inner or evenly, seed=_seed(seed, i)) for i, (name, phase) in named]

    def rows(self, batch: pa.RecordBatch, summary: "Division") -> Sequence[Ints]:
        return summary.queues.rows(batch)

    def groups(self, batch: pa.RecordBatch, summary: "Division") -> Ints:
        return summary.grouping.of(batch)

    def group_names(self, summary: "Division") -> Sequence[str]:
        return summary.grouping.names

    def facts(self, parts: Mapping[str, Arrangement], summary: "Division") -> Mapping[str, Any]:
        dues = {name: due for name, due in zip(self.names, summary.dues, strict=True) if due.budget is not None}
        facts: dict[str, Any] = {
            "tokens_missing": {name: due.missing for name, due in dues.items()},
            "short": {name: due.short for name, due in dues.items() if due.short},
            "inside": {name: dict(part.facts) for name, part in parts.items() if part.facts},
        }
        unpaid = {
            name: due.missing - due.short
            for name, due in dues.items()
            if due.missing - due.short > _ROUNDED * (due.budget or 0)
        }
        lines = [
            f"{phase_called(name)} asks for {tokens:,} tokens more than its groups have left"
            for name, tokens in facts["short"].items()
        ]
        lines += [
            f"{phase_called(name)} has {tokens:,} tokens less than it asks for: its next documents have more"
            for name, tokens in unpaid.items()
        ]
        return {"phases": with_unmet(facts | ({"unpaid": unpaid} if unpaid else {}), lines)}

    def phase_facts(
        self, part: str, inner_facts: Mapping[str, Any], mixture: Mapping[str, int], summary: "Division"
    ) -> Mapping[str, Any]:
        number = self.names.index(part)
        phase, due = self.phases[number], summary.dues[number]
        facts = dict(inner_facts)
        if due.budget is not None:
            facts |= {"tokens_asked_for": due.budget, "tokens_missing": due.missing}
        if phase.sequence_length is not None:
            facts["sequence_length"] = phase.sequence_length
        if phase.hints:
            facts["hints"] = dict(phase.hints)
        return {**facts, "mixture": dict(mixture)}

    def _grouping(self, chosen: Pool) -> "Grouping":
        if self.bands_of is None:
            return Grouping(known=groups_in(chosen, self.by))
        return Grouping(known=cut_at(chosen, self.bands_of, [Fraction(str(share)) for share in self.cuts]))

    def _weights(
        self, name: str, mixture: Mapping[str, float], names: Sequence[str], amounts: Amounts
    ) -> list[Fraction]:
        """The weight of each group, by its number; where none is given, the tokens that are left of it."""
        if not mixture:
            return [Fraction(max(tokens, 1)) for tokens in amounts.left.tolist()]
        absent = [group for group in mixture if group not in names[:-1]] if amounts.num_left else []
        if absent:
            hint, by = did_you_mean(absent[0], names[:-1]), "band" if self.bands_of else self.by
            raise PolicyError(f"phases: {name}.weights: no chosen document has {by} {absent[0]!r}. {hint}")
        return [*(Fraction(str(mixture.get(group, 0))) for group in names[:-1]), Fraction(0)]


@dataclass(frozen=True, kw_only=True)
class Due:
    """The tokens that a phase asks for, those of them that it does not get, and how many its groups do not have."""

    budget: int | None
    missing: int = 0
    short: int = 0


@dataclass(frozen=True, kw_only=True)
class Division:
    """Which visits each phase has, and what it asks for."""

    grouping: Grouping
    queues: Queues
    dues: tuple[Due, ...]


def _seed(seed: int, number: int) -> int:
    """The seed of a phase: what is drawn in one says nothing of what is drawn in another."""
    return int.from_bytes(keyed.digest(f"{seed}:phases/{number}".encode())[:7])
