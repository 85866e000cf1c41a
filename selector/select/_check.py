"""The answer of a selector, before it is sealed: what is wrong with it, and whose fault that is.

A selector can come from anywhere. If it spends more than the budget, or forgets a document, a manifest would break its
promises; so its verdicts are checked here, shard by shard, and the message names the selector.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from selector import tables
from selector.errors import SelectorError
from selector.exact.spend import Budget
from selector.plugins.blame import blamed, count_null, difference, fault, with_blame
from selector.plugins.pool import Pool, Shard
from selector.select._contract import Decisions, Selector

_NO_SIZE = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What the verdicts on some documents come to; those of shards add up."""

    kept: int = 0
    tokens: int = 0
    spent: int = 0
    largest_kept: int = 0
    smallest_left: int = _NO_SIZE  # of the documents that were left out; _NO_SIZE: there is none
    largest_left: int = -1  # -1: there is none

    @classmethod
    def of(cls, budget: Budget, batch: pa.RecordBatch, verdict: pa.RecordBatch) -> "Totals":
        """The totals of one shard. A document that is to be seen several times spends as often."""
        kept = verdict["kept"].to_numpy(zero_copy_only=False)
        sizes, visits = budget.sizes(batch), verdict["visits"].to_numpy().astype(np.int64)
        return cls(
            kept=int(kept.sum()),
            tokens=int((batch["num_tokens"].to_numpy().astype(np.int64) * visits)[kept].sum()),
            spent=int((sizes * visits)[kept].sum()),
            largest_kept=int(sizes[kept].max(initial=0)),
            smallest_left=int(sizes[~kept].min(initial=_NO_SIZE)),
            largest_left=int(sizes[~kept].max(initial=-1)),
        )

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            kept=self.kept + other.kept,
            tokens=self.tokens + other.tokens,
            spent=self.spent + other.spent,
            largest_kept=max(self.largest_kept, other.largest_kept),
            smallest_left=min(self.smallest_left, other.smallest_left),
            largest_left=max(self.largest_left, other.largest_left),
        )


class Checker:
    """Takes the verdicts shard by shard, and raises SelectorError where they break the contract.

    `name` is what the policy calls the selector.
    """

    def __init__(self, name: str, selector: Selector, budget: Budget) -> None:
        self.name, self.budget, self.fills_budget = name, budget, selector.fills_budget
        self.selector: Any = selector
        self.totals = Totals()

    def __getstate__(self) -> dict[str, Any]:
        """What a worker needs to blame the selector is its class; it itself may hold tables."""
        return {**vars(self), "selector": type(self.selector)}

    def select(self, pool: Pool, seed: int) -> Decisions:
        """What the selector decides about a pool."""
        with blamed("selector", self.name, self.selector):
            own_pool = with_blame(pool, "selector", self.name, self.selector)
            decisions = self.selector.select(own_pool, self.budget, seed)
        problem = _wrong_decisions(decisions, pool)
        if problem:
            raise fault("selector", self.name, self.selector, problem)
        if decisions.fills_budget is not None:
            self.fills_budget = decisions.fills_budget
        return replace(decisions, pool=None if decisions.pool is own_pool else decisions.pool)

    def verdict(self, decisions: Decisions, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The verdict on a shard, checked by itself; a worker says it."""
        with blamed("selector", self.name, self.selector):
            verdict = decisions.decide(batch.select(_read_by(decisions)))
        problem = _problem(batch.num_rows, verdict)
        if problem:
            raise fault("selector", self.name, self.selector, problem)
        return verdict

    def totals_of(self, batch: pa.RecordBatch, verdict: pa.RecordBatch) -> Totals:
        """What a verdict comes to; `batch` has num_tokens."""
        return Totals.of(self.budget, batch, verdict)

    def add(self, totals: Totals) -> None:
        """Adds what the verdict on a shard comes to."""
        self.totals += totals

    def shards(self, decisions: Decisions, pool: Pool) -> Sequence[tuple[Shard, Shard]]:
        """The shards about which the selector decides, each beside that of its pool."""
        decided = (decisions.pool or pool).shards
        if len(decided) != len(pool.shards):
            raise self._others()
        return list(zip(decided, pool.shards, strict=True))

    def read(self, decisions: Decisions, decided: Shard, expected: Shard) -> pa.RecordBatch:
        """What the selector reads of a shard; it has to be that of its pool."""
        columns = dict.fromkeys(("num_tokens", *_read_by(decisions)))
        if decided is expected:
            return expected.read(list(columns))
        if not decided.read(["doc_id"])["doc_id"].equals(expected.read(["doc_id"])["doc_id"]):
            raise self._others()
        return decided.read(list(columns))

    def _others(self) -> SelectorError:
        return fault("selector", self.name, self.selector, "decides about other documents than those of its pool")

    def end(self) -> int:
        """What was spent, once every shard was there."""
        problem = self._of_budget()
        if problem:
            raise fault("selector", self.name, self.selector, problem)
        return self.totals.spent

    def why_unspent(self, num_documents: int) -> str:
        """Why budget is left, of a pool of so many documents."""
        if self.totals.kept == num_documents:
            return "every document that may be chosen is"
        left = self.budget.amount - self.totals.spent
        if not self.fills_budget and (self.budget.overshoot == "cross" or left >= self.totals.largest_left):
            return "the selector takes no more by its own rule"
        if not self.fills_budget and self.budget.overshoot == "stop":
            return (
                "the next document that the selector's own rule allows does not fit, and overshoot: stop looks for no"
                " smaller one (fill does), or there is none"
            )
        if not self.fills_budget:
            return "no further document that the selector's own rule allows fits"
        if self.budget.overshoot == "stop":
            return "the next document in turn does not fit, and overshoot: stop looks for no smaller one (fill does)"
        return "no further document fits"

    def _of_budget(self) -> str | None:
        totals, budget = self.totals, self.budget
        spending = f"kept {totals.kept:,} documents with {totals.tokens:,} tokens"
        spending = f"{spending}, and the budget is {budget.amount:,} {budget.unit}"
        left = budget.amount - totals.spent
        if left < 0 and not (budget.overshoot == "cross" and left + totals.largest_kept > 0):
            return spending
        if left > 0 and self.fills_budget and self._fits(left):
            return f"{spending}; it left out documents that would have fitted"
        return None

    def _fits(self, left: int) -> bool:
        """Whether a document was left out that the rest of the budget would have paid for in its turn."""
        smallest, largest = self.totals.smallest_left, self.totals.largest_left
        is_left_out = largest >= 0
        if self.budget.overshoot == "fill":
            return is_left_out and smallest <= left
        return is_left_out and (self.budget.overshoot == "cross" or largest <= left)


def _read_by(decisions: Decisions) -> list[str]:
    """The columns that decide."""
    return list(dict.fromkeys((*decisions.columns, *decisions.known)))


def _wrong_decisions(decisions: Any, pool: Pool) -> str | None:
    """What is wrong with decisions before anybody is decided about, in words; None if nothing is."""
    if not isinstance(decisions, Decisions):
        return f"answered with a {type(decisions).__name__} instead of `Decisions`"
    known = (decisions.pool or pool).schema.names
    unknown = [name for name in _read_by(decisions) if name not in known]
    if unknown:
        return f"decides by the column {unknown[0]!r}, which its pool does not have: it has {', '.join(known)}"
    try:
        json.dumps(dict(decisions.facts), allow_nan=False)
    except (TypeError, ValueError) as error:
        return f"tells facts that are not JSON ({error})"
    waiting: Any = decisions.waiting
    if waiting is not None and not (isinstance(waiting, str) and waiting):
        return f"waits for {waiting!r}, which are no words"
    return None


def _problem(num_rows: int, verdict: Any) -> str | None:
    """What is wrong with the verdict on so many documents, in words; None if nothing is."""
    if not isinstance(verdict, pa.RecordBatch):
        return f"answered with a {type(verdict).__name__} instead of a pyarrow.RecordBatch of `tables.VERDICTS`"
    if not verdict.schema.equals(tables.VERDICTS):
        return f"answered with other columns than `tables.VERDICTS`: {difference(verdict.schema, tables.VERDICTS)}"
    if verdict.num_rows != num_rows:
        return f"answered with {verdict.num_rows:,} verdicts for {num_rows:,} documents"
    for field in tables.VERDICTS:
        num_null = 0 if field.nullable else count_null(verdict[field.name])
        if num_null:
            return f"left the column {field.name!r} null for {num_null:,} documents"
    if (verdict["kept"].to_numpy(zero_copy_only=False) & (verdict["visits"].to_numpy() == 0)).any():
        return "kept documents that are to be seen 0 times"
    chance = verdict["inclusion_probability"].drop_null().to_numpy()
    bad = chance[~((chance >= 0) & (chance <= 1))]
    if len(bad):
        return f"gave the inclusion probability {bad[0]}, which is not between 0 and 1"
    return None
