"""Select: what becomes of every document of the corpus, and why."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.corpus.columns import Column
from selector.engine.canonical import canonical_json, fingerprint
from selector.engine.step import APART, Done, Tables, Whole
from selector.engine.store import Seal, Store
from selector.exact.spend import costs
from selector.manifest.format import canonical
from selector.plugins import attached
from selector.plugins.catalogue import KNOWN, WIDE
from selector.plugins.pool import Pool
from selector.plugins.pool import Shard as PoolShard
from selector.policy.sections import SelectPolicy
from selector.rate._sums import is_missing, mean_of
from selector.select import Decisions, Selector
from selector.select._check import Checker, Totals
from selector.steps import attach, survey
from selector.steps.absent import absent
from selector.steps.constraints import Limits, constrained
from selector.steps.gather import Gather
from selector.steps.listed import INCLUDED, num_included
from selector.steps.shards import Shard, Shards, documents_of
from selector.steps.verdict import KEPT, LEFT_OUT, Eligibility, lost_from

SHARDS = pa.schema([("key", pa.string()), ("rows", pa.int64()), ("kept", pa.int64())])

FACTS = pa.schema([("json", pa.string()), ("num_rounds", pa.int32())])

_ANSWERED = ("visits", "round", "inclusion_probability", "value", "cut", "rank")
"""Columns of decisions that are a selector's answer and nothing else, where it has one."""


@dataclass(frozen=True, kw_only=True)
class Select(Whole):
    """`shards`, a row for each shard: `key` is that of its `decisions` (`tables.DECISIONS` of every document, in corpus
    order) and `chosen` (what is said of those that are kept); and `facts` (`FACTS`: as `Decisions` has them)."""

    name: str = field(default="select", metadata=APART)
    version = 10
    libraries = ("duckdb",)  # which says what a rule means

    selector: Selector = field(metadata=APART)
    selector_identity: Mapping[str, Any]
    policy: SelectPolicy = field(metadata=APART)
    label: str = field(metadata=APART)  # what the policy calls the selector
    options: Mapping[str, Any]  # the policy's, spelt out, but for the selector's own
    seed: int
    columns: tuple[Column, ...] = field(metadata=APART)  # that the selector reads
    limiting: tuple[Column, ...] = field(metadata=APART)  # that the limits of its choice read
    later: tuple[Column, ...] = field(metadata=APART)  # of the chosen, that later steps read
    order_scores: tuple[str, ...] = field(metadata=APART)  # used by the order alone
    eligibility: Eligibility = field(metadata=APART)
    gather: Gather = field(metadata=APART)  # of every column that may be asked for

    def rows_in(self, done: Done) -> int:
        return done["ingest"].rows_out

    def inputs(self, done: Done) -> Any:
        eligibility = self._decisive(done)
        gather = replace(self.gather, columns=(*self.columns, *self.limiting, *eligibility.columns))
        lost = [  # a rater that loses nothing and that nobody reads decides nothing
            [step, rows] for step in eligibility.raters if (rows := lost_from(done.store, done[step].parts))
        ]
        files = [part.files for part in survey.parts(done, self.gather.survey)]  # decisions say where documents lie
        return [
            eligibility.identity(),
            files,
            [seal.key for seal in done["ingest"].parts],
            gather.identities(done),
            lost,
        ]

    def rows_out(self, seal: Seal, store: Store) -> int:
        return sum(store.table(seal, "shards", ["kept"])["kept"].to_pylist())

    def shares(self, done: Done) -> list[str]:
        return [key for one in shards_of(done) for key in (one["key"], f"{one['key']}/chosen")]

    def compute(self, done: Done) -> Tables:
        selector = attached.attach(self.selector, attach.loaded(done, self.gather.attach))
        shards = self.shards(done)
        own = self.fingerprint(done)
        pool = shards.pool((*self.columns, *self.limiting), own)
        budget = self.policy.budget.of(sum(pool.map(_cost, "num_tokens")))
        checker = Checker(self.label, selector, budget)
        limits = Limits.of(self.policy, budget, INCLUDED.name if INCLUDED in self.limiting else None)
        within = None
        if limits is None:
            decisions = checker.select(pool, self.seed)
        else:
            names = list(dict.fromkeys(["doc_id", "num_tokens", *(column.name for column in self.columns)]))
            within = constrained(self.label, selector, pool, names, budget, self.seed, limits)
            decisions, checker.fills_budget = within.decisions, False
        written: list[dict[str, Any]] = []
        for key, num_rows, totals in self._decided(done, shards, pool, decisions, checker, own):
            checker.add(totals)
            written.append({"key": key, "rows": num_rows, "kept": totals.kept})
        spent = checker.end()
        facts: dict[str, Any] = dict(decisions.facts)
        if limits is not None and limits.included is not None:
            facts["limits"]["included"]["listed"] = num_included(done)
        if missing := absent(selector, limits, pool):
            facts["absent"] = missing
        if decisions.waiting:
            facts["waiting"] = decisions.waiting
        if spent < budget.amount:
            reason = checker.why_unspent(pool.num_documents) if within is None else within.why_unspent
            reason = "later rounds spend it" if decisions.waiting else reason
            facts["shortfall"] = {"unit": budget.unit, "budget": budget.amount, "spent": spent, "reason": reason}
        yield "shards", pa.Table.from_pylist(written, schema=SHARDS)
        yield "facts", pa.table([[canonical_json(facts).decode()], [decisions.num_rounds]], schema=FACTS)

    def shards(self, done: Done) -> Shards:
        """The corpus, shard by shard, with the verdict on every document before any selector saw it."""
        later = (column for column in self.later if column.name not in WIDE)  # see `chosen`
        columns = (KNOWN["num_tokens"], *self.columns, *self.limiting, *later)
        return done.once(
            "select: shards", lambda: Shards.of(done, self._decisive(done), self.gather, columns, self.version)
        )

    def _decided(
        self, done: Done, shards: Shards, pool: Pool, decisions: Decisions, checker: Checker, own: str
    ) -> Iterator[tuple[str, int, Totals]]:
        """For each shard where its decisions are stored, how many they are, and what they come to."""
        work = _Decide(store=done.store, decisions=replace(decisions, pool=None), checker=checker)
        items = [
            _ToDecide(
                key=f"select.shards/{fingerprint([own, shard.key])}",
                shard=shard,
                decided=decided,
                pool_shard=pool_shard,
            )
            for shard, (decided, pool_shard) in zip(shards.shards, checker.shards(decisions, pool), strict=True)
        ]
        return done.map(work, items)

    def _decisive(self, done: Done) -> Eligibility:
        """What decides who may be chosen: of the scores the selector's, and of the order's those that some document
        lacks. So an order by another score chooses anew only where it must."""
        used, means = done.once("select: scores", lambda: self._scores(done))
        return replace(self.eligibility, used=used, means=means)

    def _scores(self, done: Done) -> tuple[tuple[Column, ...], dict[str, pa.Array]]:
        """The used scores that decide, and the means that stand in for them."""
        used = self._lacking(done)
        imputed = used if self.eligibility.missing == "impute" else ()
        return used, {column.column: mean_of(done.table(column.step, "sums"), column.column) for column in imputed}

    def _lacking(self, done: Done) -> tuple[Column, ...]:
        eligibility = self.eligibility
        return tuple(
            column
            for column in eligibility.used
            if column.name not in self.order_scores
            or (eligibility.missing != "last" and is_missing(done.table(column.step, "sums"), column.column))
        )


@dataclass(frozen=True, kw_only=True)
class _ToDecide:
    """A shard that is to be decided: where the decisions are to be stored, and what they are made of."""

    key: str
    shard: Shard
    decided: PoolShard
    pool_shard: PoolShard


@dataclass(frozen=True, kw_only=True)
class _Decide:
    """Decides a shard: stores what became of each document, and says how many they are and what they come to."""

    store: Store
    decisions: Decisions
    checker: Checker

    def __call__(self, item: _ToDecide) -> tuple[str, int, Totals]:
        key, shard = item.key, item.shard
        batch = self.checker.read(self.decisions, item.decided, item.pool_shard)
        verdicts = self.checker.verdict(self.decisions, batch)
        totals = self.checker.totals_of(batch, verdicts)
        documents, eligible = documents_of(self.store, shard)
        del batch
        decided = _decisions(self.store, shard, documents, eligible, verdicts)
        kept = np.flatnonzero(verdicts["kept"].to_numpy(zero_copy_only=False))
        chosen = pa.Table.from_batches([verdicts.take(pa.array(kept))]).drop_columns("kept")
        chosen = chosen.append_column("place", pa.array(kept, pa.int64()))
        self.store.seal(f"{key}/chosen", [("chosen", chosen)], form="arrow")
        self.store.seal(key, [("decisions", decided)], form="parquet")
        return key, documents.num_rows, totals


def shards_of(done: Done) -> list[dict[str, Any]]:
    """A row of `SHARDS` for each shard."""
    return done.once("select: shard keys", lambda: done.table("select", "shards").to_pylist())


def chosen_of(store: Store, key: str) -> pa.Table:
    """What is said of the documents of a shard that are kept, and their places among those that may be chosen."""
    return store.read(f"{key}/chosen", "chosen")


def facts_of(done: Done) -> dict[str, Any]:
    """What the selector said of its choice as a whole."""
    return json.loads(done.table("select", "facts")["json"][0].as_py())


def num_rounds(done: Done) -> int | None:
    """How many rounds are decided, where each is trained on before the next one is; None: the choice is one."""
    return done.table("select", "facts")["num_rounds"][0].as_py()


def _cost(batch: pa.RecordBatch) -> int:
    return int(costs(batch["num_tokens"].to_numpy()).sum())


def _decisions(
    store: Store, shard: Shard, documents: pa.Table, eligible: npt.NDArray[np.int64], verdicts: pa.RecordBatch
) -> pa.Table:
    """`tables.DECISIONS` of a shard; `verdicts` are the selector's on those of its documents that may be chosen."""
    n, code = documents.num_rows, documents["code"].to_numpy()
    causes, leaders = store.read(shard.key, "causes"), store.read(shard.key, "leaders")
    outcome = np.append(causes["outcome"].to_numpy(), -1).astype(np.int32)[code]
    outcome[eligible] = np.where(verdicts["kept"].to_numpy(zero_copy_only=False), KEPT, LEFT_OUT)
    place = np.full(n, -1, np.int32)  # in the selector's answer
    place[eligible] = np.arange(len(eligible), dtype=np.int32)
    rows = pa.array(place, mask=place < 0)
    answered = {name: _taken(verdicts[name], rows) for name in _ANSWERED}
    columns: dict[str, Any] = {
        **answered,
        "doc_id": documents["doc_id"],
        "file": documents["file"],
        "row": documents["row"],
        "outcome": pa.DictionaryArray.from_arrays(outcome, pa.array(tables.OUTCOMES)),
        "visits": np.where(outcome == KEPT, answered["visits"].fill_null(0).to_numpy(), 0).astype(np.uint16),
        "round": answered["round"].fill_null(0),
        "other": _others(verdicts["other"], place, leaders),
        **{name: _either(verdicts[name], place, causes[name], code) for name in ("reason", "arguments")},
    }
    table = pa.table([columns[name] for name in tables.DECISIONS.names], schema=tables.DECISIONS)
    return canonical(table, tables.DECISIONS)


def _taken(column: pa.Array, rows: pa.Array) -> pa.Array:
    """The column's values at some rows, null where there is no row."""
    return tables.nulls(len(rows), column.type) if column.null_count == len(column) else column.take(rows)


def _others(answered: pa.Array, place: npt.NDArray[np.int32], leaders: pa.Table) -> pa.Array:
    """The documents that decided about others: of a duplicate the one that it repeats, else what the answer says, which
    has the places that `place` says (-1: none)."""
    if answered.null_count == len(answered) and not leaders.num_rows:
        return tables.nulls(len(place), tables.DOC_ID)
    other = np.full(len(place), -1, np.int32)
    other[leaders["place"].to_numpy()] = np.arange(leaders.num_rows)
    among = tables.whole(leaders["leader"])
    if answered.null_count < len(answered):
        other = np.where(place >= 0, place + leaders.num_rows, other)
        among = pa.concat_arrays([among, answered])
    return among.take(pa.array(other, mask=other < 0))


def _either(
    answered: pa.DictionaryArray, place: npt.NDArray[np.int32], ruled: pa.ChunkedArray, code: npt.NDArray[np.int32]
) -> pa.DictionaryArray:
    """The labels of an answer where there is one (a place in it, or -1), and those of the causes elsewhere."""
    late = answered.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    early = tables.whole(ruled).dictionary_encode()
    codes = np.append(early.indices.fill_null(-1).to_numpy(zero_copy_only=False), -1).astype(np.int32)[code]
    reached = place >= 0
    taken = late[place[reached]]
    codes[reached] = np.where(taken < 0, -1, taken + len(early.dictionary))
    words = pa.concat_arrays([early.dictionary.cast(pa.string()), answered.dictionary.cast(pa.string())])
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), words)
