"""Another selector in rounds, each of which turns to the clusters that the rounds before have shown to be worth it."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import exact
from selector.errors import PolicyError
from selector.exact import Floats, Ints, UInt64, keyed
from selector.exact.apportion import apportion
from selector.exact.vectors import vectors_of
from selector.select import (
    Budget,
    Columns,
    Decisions,
    Ended,
    InRounds,
    IsTaken,
    Pool,
    Ranked,
    Round,
    SignalName,
    TablePath,
    TextsPath,
)
from selector.select._reports import Reports, rows_read
from selector.select._rounds import (
    ByAmounts,
    ByWeights,
    InClusters,
    Means,
    Trust,
    exponential,
    head,
    in_proportion,
    logits,
    normalised,
    rounded,
    shrunk,
    softmax,
)

Bools = npt.NDArray[np.bool_]

_MOST_LISTED = 4096  # clusters in the facts of a manifest
_KEPT_FACTS = {"probabilities"}  # that are those of the last round, as of one draw
_MOST_VECTORS = 1 << 14  # that a probe is trained on


@dataclass(frozen=True, kw_only=True)
class Iterative(InRounds):
    """Spends the budget in rounds; after each, clusters weigh more where a signal was high (Diversify & Conquer).

    Inside a cluster documents are taken in the order of `inner`, which is any selector that ranks. Clusters weigh as
    much as they have at first (`start: size`), or all the same (`equal`, as in the paper). After a round, by `mode`:
    `exp`: w x exp(`beta` z), z being the clusters' mean signals, drawn to the mean of all by `shrink` documents' worth
    and standardised; then a part `floor` of the weights follows the clusters' sizes, so that none is forgotten.
    `eq6`: w x signal, as printed in the paper, normalised, and 0 for a signal below 0. `softmax`: of the mean signals
    alone, as in the published code. The budgets of the rounds are exact; what one cannot spend goes to the next.

    The signal is one of three. `signal`: a score. `target`: texts; a logistic head on the vectors is trained after each
    round to tell them from what was chosen, and its logit is the signal. `feedback`: a table (doc_id, round, score)
    that training writes: round 1 is the first, a score may be null (and is, beyond what 32 bits hold). Until it has a
    row for every document of the last round the run waits: what is chosen so far is a manifest, and the same command
    goes on. The next manifest begins like it, and names it as its parent. Two rows of one document and round that do
    not agree stop the run; rows about other documents, and of rounds that nothing waits for, are counted and said.

    With `exp` a fifth of each round's evidence is held out, by a keyed hash. Where the means of the clusters do not
    agree with what was held out (the lower end of the 95 % interval of the rank correlation is not above 0, or there
    are fewer than five clusters to compare), the rest of the budget is spent by the clusters' sizes, as kmeans_quality
    does, and the manifest says so. The published modes have no such guard.

    A probability is that of a single draw with the quotas that came about. Where a share of `select.shares` held a
    group in some round there is none.

    Source: arXiv 2409.11378. Setting: 10,000 of 196,000 WizardLM examples in three rounds, Llama-2-7B. Reported: 46.2
    in one round, 46.9 in three; with Llama-3-8B 61.2 and 59.6, so rounds hurt there. Not measured here. `random` is as
    good where the signal says nothing of what a cluster is worth.
    """

    version = 2
    fills_budget = False

    inner: Ranked
    rounds: int = 3
    signal: SignalName | None = None
    target: TextsPath | None = None
    feedback: Annotated[TablePath, Columns.several(doc_id="doc_id", round="int64", score="float64")] | None = None
    mode: Literal["exp", "eq6", "softmax"] = "exp"
    start: Literal["size", "equal"] = "size"
    beta: float = 1.0
    shrink: float = 8.0
    floor: float = 0.05

    def __post_init__(self) -> None:
        given = [name for name in ("signal", "target", "feedback") if getattr(self, name) not in (None, "")]
        if len(given) != 1:
            raise PolicyError(
                f"iterative: write one of signal, target and feedback, not {' and '.join(given) or 'none of them'}."
            )
        if not 1 <= self.rounds <= 1000:
            raise PolicyError(f"iterative.rounds={self.rounds} is no number of rounds: write 1 to 1,000, e.g. 3.")
        if not (0 <= self.beta < math.inf and 0 <= self.shrink < math.inf and 0 <= self.floor <= 1):
            raise PolicyError(
                f"iterative: beta={self.beta:g} and shrink={self.shrink:g} are finite and at least 0, and "
                f"floor={self.floor:g} is from 0 to 1. Write e.g. beta: 1.0, shrink: 8.0, floor: 0.05."
            )

    @property
    def looks_at_given(self) -> bool:
        return self.inner.looks_at_given

    @property
    def needs(self) -> tuple[str, ...]:
        return ("cluster",) if self.target in (None, "") else ("cluster", "embedding")

    @property
    def is_fed(self) -> bool:
        """Whether training speaks between the rounds."""
        return self.feedback not in (None, "")

    @property
    def feedback_rows(self) -> pa.Table:
        assert self.feedback is not None
        return self.feedback.table

    def first_round(self, pool: Pool, budget: Budget, seed: int) -> Round:
        return _Course.of(self, pool, budget, seed).round

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        course: _Course | Ended = _Course.of(self, pool, budget, seed)
        earlier: list[Callable[[pa.RecordBatch], pa.RecordBatch]] = []
        decisions = None
        while isinstance(course, _Course):
            quotas = course.spent + course.quotas
            now = course.by_amounts(quotas)
            overshoot = budget.overshoot if course.is_last else "stop"
            decisions = now.select(course.pool, replace(budget, amount=course.amount, overshoot=overshoot), seed)
            is_taken = _Taken(now=decisions.decide, before=earlier[-1] if earlier else None)
            columns = [*decisions.columns, *decisions.known]
            earlier.append(decisions.decide)
            course = course.after(decisions.pool or course.pool, is_taken, columns, quotas=quotas - course.spent)
        assert decisions is not None, "there is a first round"
        return replace(
            decisions,
            decide=_InRounds(decide=decisions.decide, earlier=tuple(earlier[:-1])),
            facts={**{name: decisions.facts[name] for name in _KEPT_FACTS & decisions.facts.keys()}, **course.facts},
            waiting=course.waiting,
            num_rounds=course.num_rounds,
            fills_budget=course.waiting is None and self.inner.fills_budget,
        )


@dataclass(frozen=True, kw_only=True)
class _Course:
    """How far the rounds are: what clusters have spent, and what they weigh in the next one."""

    selector: Iterative
    budget: Budget
    seed: int
    pool: Pool
    in_clusters: InClusters
    names: tuple[Any, ...]  # of the clusters
    sizes: Ints  # what the documents of each that may be taken spend
    plan: Ints  # what the rounds up to each one may spend
    weights: Floats
    spent: Ints
    fallback: str | None = None  # why the signal is not believed
    num_read: int = 0  # rows of feedback
    num_repeated: int = 0
    account: tuple[Mapping[str, Any], ...] = ()  # what is to be said of each round

    @classmethod
    def of(cls, selector: Iterative, pool: Pool, budget: Budget, seed: int) -> "_Course":
        inner = selector.inner
        whole = inner._prepared(pool, seed, None)  # pyright: ignore[reportPrivateUsage] (of one family)
        in_clusters = InClusters(inner=inner, frozen=inner.summary_for(whole, budget, seed))
        names, sizes = in_clusters.sizes(whole, budget)
        by_size = normalised(sizes.astype(np.float64), np.zeros(len(sizes)))
        return cls(
            selector=selector,
            budget=budget,
            seed=seed,
            pool=whole,
            in_clusters=in_clusters,
            names=tuple(names),
            sizes=sizes,
            plan=np.cumsum(apportion(budget.amount, [1] * selector.rounds)),
            weights=by_size if selector.start == "size" else np.full(len(names), 1 / max(len(names), 1)),
            spent=np.zeros(len(names), np.int64),
        )

    @property
    def amount(self) -> int:
        """What all rounds up to the next one may spend."""
        return self.budget.amount if self.fallback else int(self.plan[len(self.account)])

    @property
    def is_last(self) -> bool:
        return self.amount == self.budget.amount

    @property
    def shares(self) -> Sequence[float] | Ints:
        """What the clusters weigh in the next round."""
        if self.fallback:  # towards what kmeans_quality gives, as far as what is spent allows
            wanted = apportion(self.budget.amount, self.sizes, self.sizes)
            return np.maximum(wanted - self.spent, 0)
        return rounded(self.weights)

    @property
    def quotas(self) -> Ints:
        """What each cluster gets of the next round."""
        return apportion(self.amount - int(self.spent.sum()), self.shares, self.sizes - self.spent)

    def by_amounts(self, amounts: Ints) -> ByAmounts:
        """What chooses so much of each cluster, all rounds so far together."""
        clusters = self.in_clusters
        return ByAmounts(
            inner=clusters.inner, frozen=clusters.frozen, names=self.names, amounts=tuple(amounts.tolist()),
            is_drawn=self.is_last or self.selector.is_fed,
        )  # fmt: skip

    @property
    def round(self) -> Round:
        clusters = self.in_clusters
        shares = np.asarray(self.shares).tolist()
        return Round(
            pool=self.pool,
            number=len(self.account),
            amount=self.amount,
            is_last=self.is_last,
            selector=ByWeights(inner=clusters.inner, frozen=clusters.frozen, names=self.names, weights=tuple(shares)),
            after=self._round_after,
        )

    def _round_after(self, pool: Pool, is_taken: IsTaken, columns: Sequence[str]) -> Round | Ended:
        following = self.after(pool, is_taken, columns)
        return following if isinstance(following, Ended) else following.round

    def after(self, pool: Pool, is_taken: IsTaken, columns: Sequence[str], **by_cluster: Ints) -> "_Course | Ended":
        """What follows a round that took these documents; `by_cluster` is what else is to be said of it."""
        took = _Took(is_taken=is_taken, names=self.names, budget=self.budget)
        names = list(dict.fromkeys(("doc_id", "num_tokens", "cluster", *columns)))
        new = sum(pool.map(took.spent, *names), np.zeros(len(self.names), np.int64))
        now = {
            "round": len(self.account) + 1,
            "planned": self.amount - int(self.spent.sum()),
            "spent": int(new.sum()),
            **self._listed(weights=rounded(self.weights), **by_cluster),
        }
        ended = replace(self, account=(*self.account, now), spent=self.spent + new)
        if self.is_last:
            return ended._end(None)
        if self.selector.is_fed:
            reports = Reports.of(self.selector.feedback_rows, len(self.account) + 1)
            evidence = self._evidence(pool, took, names, reports)
            num_read = len(evidence.clusters) - evidence.num_missing
            num_repeated = self.num_repeated + reports.num_repeated
            ended = replace(ended, num_read=self.num_read + num_read, num_repeated=num_repeated)
            if evidence.num_missing:
                return ended._end(_waiting(len(self.account) + 1, len(evidence.clusters), evidence.num_missing))
        else:
            evidence = self._evidence(pool, took, names, None)
        weights, fallback, facts = self._weighed(evidence)
        means = self._listed(means=facts.pop("means"), documents=facts.pop("documents"))
        return replace(ended, weights=weights, fallback=fallback, account=(*self.account, {**now, **means, **facts}))

    def _end(self, waiting: str | None) -> Ended:
        facts: dict[str, Any] = {"rounds": list(self.account)}
        if self.fallback:
            facts["fallback"] = self.fallback
        if self.selector.is_fed:
            num_rounds = len(self.account) - (waiting is None)  # that were asked about
            rows = self.selector.feedback_rows
            facts["feedback"] = rows_read(rows, self.num_read, self.num_repeated, num_rounds)
        return Ended(facts=facts, waiting=waiting, num_rounds=len(self.account) if self.selector.is_fed else None)

    def _evidence(self, pool: Pool, took: "_Took", columns: Sequence[str], reports: Reports | None) -> "_Evidence":
        """What is known of the documents of a round: from reports, a score, or a probe."""
        selector, signal = self.selector, reports
        held_out = functools.partial(_is_held_out, self.seed, len(self.account) + 1)
        if selector.signal is not None:
            columns, signal = [*columns, selector.signal], functools.partial(_scored, selector.signal)
        elif selector.target not in (None, ""):
            columns = [*columns, "embedding"]
            samples = list(pool.map(functools.partial(_vectors, took, held_out, self.seed), *dict.fromkeys(columns)))
            hashes, vectors = (np.concatenate(pieces) for pieces in zip(*samples, strict=True))
            some = np.sort(np.argsort(hashes, kind="stable")[:_MOST_VECTORS])
            wanted = vectors_of(selector.target.table["embedding"])[:_MOST_VECTORS]
            signal = functools.partial(_probed, head(wanted, vectors[some]))
        assert signal is not None, "there is one signal"
        answers = pool.map(functools.partial(_signals, took, held_out, signal), *dict.fromkeys(columns))
        return _Evidence.together(list(answers))

    def _weighed(self, evidence: "_Evidence") -> tuple[Floats, str | None, dict[str, Any]]:
        """What the clusters weigh next; why the signal is not believed, if it is not; and the evidence, to be told."""
        cluster, values, is_held = evidence.clusters, evidence.values, evidence.is_held_out
        selector, before = self.selector, self.weights
        used = np.ones(len(values), np.bool_) if selector.mode != "exp" else ~is_held
        seen = Means.of(cluster[used], values[used], len(before))
        signal = shrunk(seen, selector.shrink)
        facts: dict[str, Any] = {"means": _numbers(seen.means), "documents": seen.counts.tolist()}
        if selector.mode == "eq6":
            return in_proportion(before, signal), None, facts
        if selector.mode == "softmax":
            return softmax(before, signal), None, facts
        predicted = np.where(seen.counts > 0, signal, np.nan)
        trust = Trust.of(predicted, Means.of(cluster[is_held], values[is_held], len(before)).means)
        facts["trust"] = {"clusters": trust.num_clusters, "correlation": trust.correlation, "lower": trust.lower}
        if trust.is_enough:
            return exponential(before, signal, self.sizes, selector.beta, selector.floor), None, facts
        how = "in too few clusters" if trust.lower is None else f"by a rank correlation of {trust.correlation:.2f}, "
        how += "" if trust.lower is None else f"at least {trust.lower:.2f}"
        why = f"the signal agrees with what was held out of it {how}: the rest is spent by the clusters' sizes"
        return before, why, facts

    def _listed(self, **columns: Sequence[Any] | Ints) -> dict[str, Any]:
        """Values by cluster, unless these are too many to be told."""
        if len(self.names) > _MOST_LISTED:
            return {}
        words = [str(name) for name in self.names]
        return {
            name: dict(zip(words, np.asarray(column, object).tolist(), strict=True)) for name, column in columns.items()
        }


@dataclass(frozen=True, kw_only=True)
class _Evidence:
    """Of each document of a round its cluster, its signal (NaN: there is none), and whether it is held out."""

    clusters: Ints
    values: Floats
    is_held_out: Bools
    num_missing: int = 0  # documents of which nothing is known yet

    @classmethod
    def together(cls, answers: Sequence["_Evidence"]) -> "_Evidence":
        return cls(
            clusters=np.concatenate([np.empty(0, np.int64), *(one.clusters for one in answers)]),
            values=np.concatenate([np.empty(0), *(one.values for one in answers)]),
            is_held_out=np.concatenate([np.empty(0, np.bool_), *(one.is_held_out for one in answers)]),
            num_missing=sum(one.num_missing for one in answers),
        )


def _waiting(number: int, total: int, num_missing: int) -> str:
    """What a run waits for: reports on the documents of this round."""
    noun = "document" if total == 1 else "documents"
    some = f" ({total - num_missing:,} are there)" if num_missing < total else ""
    return f"round {number + 1} needs feedback on {total:,} {noun} of round {number}{some}"


def _numbers(values: Floats) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


@dataclass(frozen=True, kw_only=True)
class _InRounds:
    """The verdict after the last round, with the round in which each document was taken."""

    decide: Callable[[pa.RecordBatch], pa.RecordBatch]
    earlier: tuple[Callable[[pa.RecordBatch], pa.RecordBatch], ...]

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        verdict = self.decide(batch)
        kept = verdict["kept"].to_numpy(zero_copy_only=False)
        number = np.zeros(batch.num_rows, np.uint16)
        for decide in self.earlier:
            number += ~decide(batch)["kept"].to_numpy(zero_copy_only=False)
        at = verdict.schema.get_field_index("round")
        field = verdict.schema.field(at)
        return verdict.set_column(at, field, pa.array(np.where(kept, number, 0).astype(np.uint16)))


# What is asked of a shard.


@dataclass(frozen=True, kw_only=True)
class _Taken:
    """Which documents a round took, where a verdict is on all rounds up to it."""

    now: Callable[[pa.RecordBatch], pa.RecordBatch]
    before: Callable[[pa.RecordBatch], pa.RecordBatch] | None

    def __call__(self, batch: pa.RecordBatch) -> Bools:
        kept = self.now(batch)["kept"].to_numpy(zero_copy_only=False)
        if self.before is None:
            return kept
        return kept & ~self.before(batch)["kept"].to_numpy(zero_copy_only=False)


@dataclass(frozen=True, kw_only=True)
class _Took:
    """What a round took of each cluster."""

    is_taken: IsTaken
    names: tuple[Any, ...]
    budget: Budget

    def spent(self, batch: pa.RecordBatch) -> Ints:
        """What it spends on each cluster."""
        taken, amounts = self.is_taken(batch), np.zeros(len(self.names), np.int64)
        np.add.at(amounts, self.clusters(batch)[taken], self.budget.sizes(batch)[taken])
        return amounts

    def rows(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.filter(pa.array(self.is_taken(batch)))

    def clusters(self, batch: pa.RecordBatch) -> Ints:
        place = {name: i for i, name in enumerate(self.names)}
        encoded = batch["cluster"].dictionary_encode("encode")
        places = np.array([place[name] for name in encoded.dictionary.to_pylist()] or [0], np.int64)
        return places[encoded.indices.to_numpy(zero_copy_only=False)]


def _is_held_out(seed: int, number: int, batch: pa.RecordBatch) -> Bools:
    """A fifth of the documents, another one in every round."""
    return keyed.hashes(batch["doc_id"], seed, f"iterative held out {number}") % np.uint64(5) == 0


def _signals(took: _Took, held_out: Callable[[pa.RecordBatch], Bools], signal: Any, batch: pa.RecordBatch) -> _Evidence:
    """What is known of the documents of a shard that a round took."""
    taken = took.rows(batch)
    values, num_missing = signal(taken)
    return _Evidence(clusters=took.clusters(taken), values=values, is_held_out=held_out(taken), num_missing=num_missing)


def _scored(name: SignalName, batch: pa.RecordBatch) -> tuple[Floats, int]:
    return exact.floats(batch[name]), 0


def _probed(weights: Floats, batch: pa.RecordBatch) -> tuple[Floats, int]:
    return logits(vectors_of(batch["embedding"]), weights), 0


def _vectors(
    took: _Took, held_out: Callable[[pa.RecordBatch], Bools], seed: int, batch: pa.RecordBatch
) -> tuple[UInt64, npt.NDArray[Any]]:
    """Vectors that a probe is trained on, with keyed hashes by which a sample is drawn."""
    taken = took.rows(batch)
    taken = taken.filter(pa.array(~held_out(taken)))
    hashes = keyed.hashes(taken["doc_id"], seed, "iterative probe")
    first = np.argsort(hashes, kind="stable")[:_MOST_VECTORS]
    return hashes[first], vectors_of(taken["embedding"])[first]
