"""What-if: what another policy would choose of the same corpus, beside what this one chooses, without a manifest.

Both flows are run as far as select, in the root: what is done there is found, and what is new helps the run that
follows. `gc` takes what no run followed.
"""

import functools
import operator
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import exact, pipeline
from selector.engine.executor import Executor
from selector.engine.lease import Lease
from selector.engine.runner import Progress, Runner
from selector.engine.step import Done, Step, needed
from selector.engine.store import Store
from selector.errors import PolicyError
from selector.exact.draws import Moments
from selector.exact.sums import total
from selector.manifest.describe import Reasons
from selector.plugins.catalogue import KNOWN
from selector.policy import Policy
from selector.policy.resolve import Resolved, resolve
from selector.steps.plan import Plan
from selector.steps.run import Run
from selector.steps.select import Select, chosen_of, shards_of
from selector.steps.shards import Shard, batch_of, documents_of


def compare(
    policy: Policy, other: Policy, *, root: str | os.PathLike[str], executor: Executor, progress: Progress | None = None
) -> dict[str, Any]:
    """What enters and leaves where the other policy chooses, by source, cluster and reason; documents, tokens, quality
    and coverage before and after. Raises PolicyError where they are not about one corpus."""
    if policy.corpus.paths != other.corpus.paths:
        raise _two_corpora()
    # what is wrong with either is said before any work
    first, second = (_Flow.of(one, root, executor) for one in (policy, other))
    before = _chosen(first, executor, progress, None)
    return _chosen(second, executor, progress, before)[1]


@dataclass(frozen=True, kw_only=True)
class _Flow:
    """A policy as a flow that was looked at, and not run yet."""

    resolved: Resolved
    steps: Sequence[Step]
    run: Run

    @classmethod
    def of(cls, policy: Policy, root: str | os.PathLike[str], executor: Executor) -> "_Flow":
        resolved = resolve(policy)
        steps = pipeline.flow(resolved, executor)
        return cls(resolved=resolved, steps=steps, run=replace(Run.open(resolved, steps, root), is_dry=True))


def _two_corpora() -> PolicyError:
    return PolicyError("what-if compares choices from one corpus, and these are two. Leave corpus as it is.")


@dataclass(frozen=True, kw_only=True)
class _Side:
    """What one policy chooses of a shard: where its columns and its decisions are."""

    shard: Shard
    decisions: str
    names: tuple[str, ...]
    columns: tuple[str, ...]


def _chosen(
    flow: _Flow, executor: Executor, progress: Progress | None, before: tuple[Sequence[_Side], Any] | None
) -> tuple[Sequence[_Side], dict[str, Any]]:
    """What a policy chooses, shard by shard, and beside what was chosen `before`, if that is given."""
    steps, opened = flow.steps, flow.run
    after = {name: check for name, check in opened.after().items() if name != "select"}  # nothing is an answer too
    select = next(step for step in steps if isinstance(step, Select))
    with Lease.taken(opened.store.storage) as lease, Runner(opened.store, executor, progress, lease) as runner:
        done = runner.run(needed(steps, ["select"]), after)
        sides = _sides(select, done, Plan.of(flow.resolved, executor.device()))
        if before is None:
            return sides, {}
        if [side.shard.documents for side in sides] != [side.shard.documents for side in before[0]]:
            raise _two_corpora()
        pairs = list(zip(before[0], sides, strict=True))
        changes = done.map(functools.partial(_changed, done.store), pairs)
        return sides, functools.reduce(operator.add, changes, _Change()).to_json()


def _sides(select: Select, done: Done, plan: Plan) -> list[_Side]:
    quality = [column for column in plan.resolved.manifest_columns if column.name == "quality"]
    wanted = [
        KNOWN["num_tokens"],
        *(column for column in select.later if column.name in ("source", "cluster")),
        *quality,
    ]
    by_name = {column.name: column for column in wanted}
    shards = select.shards(done)
    return [
        _Side(shard=shard, decisions=one["key"], names=tuple(by_name), columns=columns)
        for shard, one, columns in zip(
            shards.shards, shards_of(done), shards.columns(list(by_name.values())), strict=True
        )
    ]


@dataclass(frozen=True, kw_only=True)
class _Total:
    """What a choice comes to."""

    documents: int = 0
    visits: int = 0
    tokens: int = 0
    quality: Moments = field(default_factory=lambda: Moments.of(np.empty(0)))
    sources: frozenset[Any] = frozenset()
    clusters: frozenset[Any] = frozenset()

    def __add__(self, other: "_Total") -> "_Total":
        return _Total(
            documents=self.documents + other.documents,
            visits=self.visits + other.visits,
            tokens=self.tokens + other.tokens,
            quality=self.quality + other.quality,
            sources=self.sources | other.sources,
            clusters=self.clusters | other.clusters,
        )

    @property
    def mean_quality(self) -> float | None:
        return float(total(self.quality.sums) / self.quality.count) if self.quality.count else None


@dataclass(frozen=True, kw_only=True)
class _Moved:
    """Documents that enter or leave, and why: of those that leave the reason now, of the others that of before."""

    documents: int = 0
    sources: Counter[Any] = field(default_factory=Counter[Any])
    clusters: Counter[Any] = field(default_factory=Counter[Any])
    reasons: Reasons = field(default_factory=Reasons)

    def __add__(self, other: "_Moved") -> "_Moved":
        return _Moved(
            documents=self.documents + other.documents,
            sources=self.sources + other.sources,
            clusters=self.clusters + other.clusters,
            reasons=self.reasons + other.reasons,
        )

    def to_json(self) -> dict[str, Any]:
        groups = {name: dict(getattr(self, name).most_common()) for name in ("sources", "clusters")}
        return {"documents": self.documents, **groups, "reasons": dict(self.reasons.by_heading())}


@dataclass(frozen=True, kw_only=True)
class _Change:
    before: _Total = field(default_factory=_Total)
    after: _Total = field(default_factory=_Total)
    enter: _Moved = field(default_factory=_Moved)
    leave: _Moved = field(default_factory=_Moved)

    def __add__(self, other: "_Change") -> "_Change":
        return _Change(
            before=self.before + other.before,
            after=self.after + other.after,
            enter=self.enter + other.enter,
            leave=self.leave + other.leave,
        )

    def to_json(self) -> dict[str, Any]:
        sides = {"before": self.before, "after": self.after}
        return {
            **{
                name: {side: getattr(of_side, name) for side, of_side in sides.items()}
                for name in ("documents", "visits", "tokens")
            },
            "quality": {side: of_side.mean_quality for side, of_side in sides.items()},
            "coverage": {
                name: {side: len(getattr(of_side, name)) for side, of_side in sides.items()}
                for name in ("sources", "clusters")
            },
            "enter": self.enter.to_json(),
            "leave": self.leave.to_json(),
        }


# What is asked of workers.


@dataclass(frozen=True, kw_only=True)
class _Eligible:
    """What of a shard may be chosen."""

    batch: pa.RecordBatch
    places: npt.NDArray[np.int64]  # of its rows, in the shard
    num_documents: int  # of the shard

    @classmethod
    def of(cls, store: Store, side: _Side) -> "_Eligible":
        documents, places = documents_of(store, side.shard)
        batch = batch_of(store, side.names, side.columns)
        return cls(batch=batch, places=places, num_documents=documents.num_rows)


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """What one policy chooses of a shard."""

    batch: pa.RecordBatch  # of what may be chosen
    at: npt.NDArray[np.int64]  # of each document of the shard, its row there; -1: it may not be chosen
    visits: npt.NDArray[np.int64]  # of each document of the shard; 0: it is not chosen

    @classmethod
    def of(cls, store: Store, side: _Side, eligible: _Eligible) -> "_Kept":
        chosen, places = chosen_of(store, side.decisions), eligible.places
        at, visits = np.full(eligible.num_documents, -1, np.int64), np.zeros(eligible.num_documents, np.int64)
        at[places] = np.arange(len(places))
        visits[places[chosen["place"].to_numpy()]] = chosen["visits"].to_numpy()
        return cls(batch=eligible.batch, at=at, visits=visits)

    def rows(self, which: npt.NDArray[np.bool_]) -> pa.RecordBatch:
        return self.batch.take(pa.array(self.at[which]))

    def total(self) -> _Total:
        kept = self.visits > 0
        rows, visits = self.rows(kept), self.visits[kept]
        return _Total(
            documents=int(kept.sum()),
            visits=int(visits.sum()),
            tokens=int((rows["num_tokens"].to_numpy().astype(np.int64) * visits).sum()),
            quality=Moments.of(exact.floats(rows["quality"]) if "quality" in rows.schema.names else np.empty(0)),
            sources=frozenset(_counts(rows, "source")),
            clusters=frozenset(_counts(rows, "cluster")),
        )


def _changed(store: Store, pair: tuple[_Side, _Side]) -> _Change:
    first, second = pair
    eligible = _Eligible.of(store, first)
    before = _Kept.of(store, first, eligible)
    if (first.shard, first.columns) != (second.shard, second.columns):
        eligible = _Eligible.of(store, second)
    after = _Kept.of(store, second, eligible)
    enters, leaves = (before.visits == 0) & (after.visits > 0), (before.visits > 0) & (after.visits == 0)
    return _Change(
        before=before.total(),
        after=after.total(),
        enter=_moved(store, enters, after, first),
        leave=_moved(store, leaves, before, second),
    )


def _moved(store: Store, which: npt.NDArray[np.bool_], kept: _Kept, left_by: _Side) -> _Moved:
    """These documents as the side that keeps them knows them, with the reasons of the side that does not."""
    if not which.any():
        return _Moved()
    rows = kept.rows(which)
    decisions = store.read(left_by.decisions, "decisions", ["reason", "arguments"]).filter(pa.array(which))
    return _Moved(
        documents=rows.num_rows,
        sources=Counter(_counts(rows, "source")),
        clusters=Counter(_counts(rows, "cluster")),
        reasons=Reasons.of(decisions["reason"], decisions["arguments"]),
    )


def _counts(rows: pa.RecordBatch, name: str) -> Mapping[Any, int]:
    """How many rows there are of each value of a column; none where it is not known."""
    if name not in rows.schema.names:
        return {}
    column: Any = rows[name]
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    counts = column.drop_null().value_counts()
    return dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))
