"""Every law of selectors has a selector that breaks it, and that breaks no other law."""

import abc
import functools
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pytest

from selector import exact, plugins
from selector.exact import UInt64, keyed, spend
from selector.select import (
    Budget,
    Columns,
    Decisions,
    Group,
    Grouped,
    Keys,
    Pool,
    Ranked,
    Reasons,
    ScoreName,
    Selector,
    SignalName,
    TablePath,
    TextsPath,
    reasons,
)
from selector.testing import SCORE, SELECTOR_LAWS, check_selector, documents, variants
from selector.testing._awkward import Sifting
from selector.testing._law import broken, check
from selector.testing.selectors import decide

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", plugins.names("selectors"))
def test_every_selector_keeps_the_laws(name: str) -> None:
    check_selector(name, examples=6)


def test_rounds_keep_the_laws_around_every_selector_that_ranks() -> None:
    selectors = list(variants("selectors", "iterative", signal=SCORE))
    assert len({type(selector.inner) for selector in selectors}) > 15
    check(SELECTOR_LAWS[:3], selectors, 3, None)


SHAPES: dict[str, list[dict[str, Any]]] = {
    "one giant cluster": [{SCORE: float(i % 7)} for i in range(300)],
    "a thousand singletons": [{SCORE: float(i % 7), "cluster": i, "branches": [i % 9]} for i in range(1000)],
    "all equal": [{SCORE: 0.5, "cluster": i % 3} for i in range(60)],
    "all negative": [{SCORE: -1.0 - i, "cluster": i % 3} for i in range(60)],
    "all missing": [{"cluster": i % 3} for i in range(60)],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_selector_keeps_its_budget_on_pools_of_awkward_shapes(shape: str) -> None:
    """Of every selector one variant; with a budget for some of the documents, and with one for more than there are."""
    table = documents(SHAPES[shape])
    for name in plugins.names("selectors"):
        selector = next(iter(variants("selectors", name)))
        for amount in (31, 5000):
            budget = Budget(amount=amount, unit="documents")
            decided = decide(selector, table, table.num_rows, budget, 1)
            assert decided.equals(decide(selector, table, 67, budget, 1)), (name, amount)
            spent = int((decided["kept"].to_numpy() * decided["visits"].to_numpy()).sum())
            assert spent <= amount, name
            if selector.fills_budget:
                assert spent == min(amount, table.num_rows), (name, amount)


# ---------------------------------------------------------------- selectors that break a law


@dataclass(frozen=True, kw_only=True)
class Drawn(Ranked):
    """What a broken selector breaks: a random choice that what it knows of the whole pool decides."""

    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> UInt64:
        return keyed.hashes(batch["doc_id"], seed, f"drawn {summary}")


@dataclass(frozen=True, kw_only=True)
class Plain(Selector):
    """The same, as a selector that can be broken in other ways."""

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        return Drawn().select(pool, budget, seed)


class WithOtherVerdicts(Plain, abc.ABC):
    """The same, with something else in its verdicts."""

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        decisions = super().select(pool, budget, seed)
        return replace(decisions, decide=functools.partial(self.decide, decisions.decide))

    def decide(self, decide: Any, batch: pa.RecordBatch) -> pa.RecordBatch:
        verdict, columns = decide(batch), self.columns(batch, decide(batch))
        arrays = [columns.get(name, verdict[name]) for name in verdict.schema.names]
        return pa.RecordBatch.from_arrays(arrays, schema=verdict.schema)

    @abc.abstractmethod
    def columns(self, batch: pa.RecordBatch, verdict: pa.RecordBatch) -> dict[str, pa.Array]:
        """The columns that are others."""


@dataclass(frozen=True, kw_only=True)
class LosesADocument(WithOtherVerdicts):
    """One verdict less than there are documents."""

    def columns(self, batch: pa.RecordBatch, verdict: pa.RecordBatch) -> dict[str, pa.Array]:
        return {name: verdict[name].slice(1) for name in verdict.schema.names}


@dataclass(frozen=True, kw_only=True)
class LeavesANull(WithOtherVerdicts):
    """Does not say how often a document is to be seen."""

    def columns(self, batch: pa.RecordBatch, verdict: pa.RecordBatch) -> dict[str, pa.Array]:
        return {"visits": pa.nulls(batch.num_rows, pa.uint16())}


@dataclass(frozen=True, kw_only=True)
class TellsNoJson(Plain):
    """Tells a number that JSON does not have."""

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        return replace(super().select(pool, budget, seed), facts={"spread": float("inf")})


@dataclass(frozen=True, kw_only=True)
class OverspendsByOne(Plain):
    """A document or a token more than the budget."""

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        return super().select(pool, replace(budget, amount=budget.amount + 1), seed)


@dataclass(frozen=True, kw_only=True)
class EndsEarly(Plain):
    """Half of the budget, without a word."""

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        return super().select(pool, replace(budget, amount=budget.amount // 2), seed)


@dataclass(frozen=True, kw_only=True)
class LooksAtBorders(Drawn):
    """Another choice for every number of shards."""

    def summary(self, pool: Pool, seed: int) -> int:
        return sum(1 for _ in pool.batches("doc_id"))


@dataclass(frozen=True, kw_only=True)
class LooksAtItsBatch(WithOtherVerdicts):
    """Says of every document how many others it was asked about with it."""

    def columns(self, batch: pa.RecordBatch, verdict: pa.RecordBatch) -> dict[str, pa.Array]:
        return {"value": pa.array(np.full(batch.num_rows, float(batch.num_rows)))}


@dataclass(frozen=True, kw_only=True)
class LooksAtTheFirst(Drawn):
    """Another choice for every document that stands first in the corpus."""

    def summary(self, pool: Pool, seed: int) -> list[bytes]:
        return [doc_id for batch in pool.batches("doc_id") for doc_id in batch["doc_id"].to_pylist()][:1]


@dataclass(frozen=True, kw_only=True)
class TakesWhatFits(Drawn):
    """Another choice where there are more documents than fit in memory."""

    def summary(self, pool: Pool, seed: int) -> bool:
        return pool.num_documents > spend.LIMIT


@dataclass(frozen=True, kw_only=True)
class HasAChanceOfItsOwn(Drawn):
    """Another choice wherever a generator stands that everybody shares."""

    def summary(self, pool: Pool, seed: int) -> int:
        state: Any = np.random.get_state()
        return int(state[1][0])


@dataclass(frozen=True, kw_only=True)
class HasVerdictsThatCannotBeSent(Plain):
    """Its verdict is a function that exists nowhere but here."""

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        decisions = super().select(pool, budget, seed)
        return replace(decisions, decide=lambda batch: decisions.decide(batch))


@dataclass(frozen=True, kw_only=True)
class FirstOfEveryShard(Ranked):
    """Takes the documents that come first in their shards."""

    def keys(self, batch: pa.RecordBatch, summary: None, seed: int) -> UInt64:
        return np.arange(batch.num_rows, dtype=np.uint64)


@dataclass(frozen=True, kw_only=True)
class CannotBeSent(Drawn):
    """Its work is a function that exists nowhere but here."""

    def summary(self, pool: Pool, seed: int) -> int:
        return sum(pool.map(lambda batch: batch.num_rows, "doc_id"))


@dataclass(frozen=True, kw_only=True)
class ReadsWhatItDidNotName(Drawn):
    """Another choice for every number of clusters, which it needs and does not say."""

    def summary(self, pool: Pool, seed: int) -> int:
        return len({cluster for batch in pool.batches("cluster") for cluster in batch["cluster"].to_pylist()})


@dataclass(frozen=True, kw_only=True)
class HasWrongChances(WithOtherVerdicts):
    """Says that every document had half the chance that it had."""

    def columns(self, batch: pa.RecordBatch, verdict: pa.RecordBatch) -> dict[str, pa.Array]:
        chances = verdict["inclusion_probability"].to_numpy(zero_copy_only=False) / 2
        return {"inclusion_probability": pa.array(chances, pa.float32())}


@dataclass(frozen=True, kw_only=True)
class HasAReasonForEach(WithOtherVerdicts):
    """Says of every document which one it is."""

    def columns(self, batch: pa.RecordBatch, verdict: pa.RecordBatch) -> dict[str, pa.Array]:
        named = [("it is {id}", {"id": doc_id.hex()}) for doc_id in batch["doc_id"].to_pylist()]
        return reasons(np.arange(batch.num_rows), named)


@dataclass(frozen=True, kw_only=True)
class DecidesWhatIsGiven(Plain):
    """Decides about what is chosen already, too."""

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        if pool.given is None or not pool.given.num_rows:
            return super().select(pool, budget, seed)
        columns = ("doc_id", "num_tokens")
        whole = Pool.of(pa.concat_tables([pool.table(*columns), pool.given.select(columns)]), 7)
        return replace(super().select(whole, budget, seed), pool=whole)


@dataclass(frozen=True, kw_only=True)
class PaysForWhatIsGiven(Plain):
    """Spends less of the budget where something is chosen already."""

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        known = 0 if pool.given is None else pool.given.num_rows
        return super().select(pool, replace(budget, amount=max(budget.amount - known, 0)), seed)


@dataclass(frozen=True, kw_only=True)
class ReachesIntoShards(Drawn):
    """Takes what shards are made of, where it is only some of their documents that it is asked about."""

    def summary(self, pool: Pool, seed: int) -> int:
        shards: Any = pool.shards
        return 0 * sum(shard.batch.num_rows for shard in shards)


FORM, BUDGET, CUT, PLACE, MEMORY, CHANCE, SENT, NAMED, PROBABLE, REASON, GIVEN, LIMITED = (
    law.__name__ for law in SELECTOR_LAWS
)

MUTANTS: list[tuple[Selector, list[str]]] = [
    (LosesADocument(), [FORM]),
    (LeavesANull(), [FORM]),
    (TellsNoJson(), [FORM]),
    (OverspendsByOne(), [BUDGET]),
    (EndsEarly(), [BUDGET]),
    (LooksAtBorders(), [CUT]),
    (LooksAtItsBatch(), [CUT]),
    (FirstOfEveryShard(), [CUT, PLACE, MEMORY]),
    (LooksAtTheFirst(), [PLACE]),
    (TakesWhatFits(), [MEMORY]),
    (HasAChanceOfItsOwn(), [CHANCE]),
    (CannotBeSent(), [SENT]),
    (HasVerdictsThatCannotBeSent(), [SENT]),
    (ReadsWhatItDidNotName(), [NAMED]),
    (HasWrongChances(), [PROBABLE]),
    (HasAReasonForEach(), [REASON]),
    (DecidesWhatIsGiven(), [GIVEN, LIMITED]),
    (PaysForWhatIsGiven(), [GIVEN, LIMITED]),
    (ReachesIntoShards(), [LIMITED]),
]


@pytest.mark.parametrize(("selector", "laws"), MUTANTS)
def test_a_broken_selector_breaks_the_law_that_is_about_it_and_no_other(selector: Selector, laws: list[str]) -> None:
    assert broken(SELECTOR_LAWS, selector, laws) == laws


def test_every_law_of_selectors_has_a_selector_that_breaks_it() -> None:
    assert {law for _, laws in MUTANTS for law in laws} == {law.__name__ for law in SELECTOR_LAWS}
    assert broken(SELECTOR_LAWS, Plain()) == []


@dataclass(frozen=True, kw_only=True)
class ForgetsThePool(Selector):
    """What another selector decides, without the columns that it has added to the pool."""

    fills_budget = False

    inner: Selector

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        return replace(self.inner.select(pool, budget, seed), pool=None)


PLAIN = [plugins.find("selectors", name) for name in plugins.names("selectors") if name != "iterative"]
"""Every selector that is around no other one."""


def test_a_wrapper_is_tried_around_every_selector_and_around_one_that_adds_columns_and_ends_early() -> None:
    name = f"{__name__}:ForgetsThePool"
    inner = [type(selector.inner) for selector in variants("selectors", name)]
    assert inner == [*PLAIN, Sifting]
    for selector in variants("selectors", name):
        expected = [FORM] if isinstance(selector.inner, Ranked) else []  # which keeps its keys as columns
        assert broken(SELECTOR_LAWS[:1], selector) == expected


# ---------------------------------------------------------------- trial selectors, with every kind of option


@dataclass(frozen=True, kw_only=True)
class Judged(Ranked):
    """The best by a table of judgements, then by a signal; what nobody judged comes last."""

    judged: Annotated[TablePath, Columns(doc_id="doc_id", grade="float32")]
    bonus: SignalName | None = None
    by: Literal["cluster", "source"] = "source"

    @property
    def grouped_by(self) -> str:
        return self.by

    def keys(self, batch: pa.RecordBatch, summary: None, seed: int) -> UInt64:
        grades = self.values(batch, summary, seed)
        return (np.rint((1e6 - np.nan_to_num(grades)) * 2**20)).astype(np.uint64)

    def values(self, batch: pa.RecordBatch, summary: None, seed: int) -> Any:
        bonus = 0.0 if self.bonus is None else np.clip(np.nan_to_num(exact.floats(batch[self.bonus])), 0, 9)
        return exact.floats(batch["judged.grade"]) + bonus


@dataclass(frozen=True, kw_only=True)
class Nearest(Ranked):
    """The documents that are nearest to an example; those far from all of them are never taken."""

    fills_budget = False
    examples: TextsPath
    least: float = 0.2

    @property
    def needs(self) -> tuple[str, ...]:
        return ("embedding",)

    def values(self, batch: pa.RecordBatch, summary: None, seed: int) -> Any:
        queries = vectors(self.examples.table["embedding"].combine_chunks())
        # Sums of products of float16 do not round in float64.
        return (unit(vectors(batch["embedding"])) @ unit(queries).T).max(axis=1, initial=-1)

    def keys(self, batch: pa.RecordBatch, summary: None, seed: int) -> UInt64:
        return np.rint((1 - self.values(batch, summary, seed)) * 2**40).astype(np.uint64)

    def allowed(self, batch: pa.RecordBatch, summary: None) -> Any:
        return self.values(batch, summary, 0) >= self.least

    def reasons(self, group: Group) -> Reasons:
        return Reasons(kept="near to an example", left_out="beyond the budget", never="far from every example")


def vectors(column: pa.FixedSizeListArray) -> Any:
    return column.flatten().to_numpy().astype(np.float64).reshape(len(column), column.type.list_size)


def unit(rows: Any) -> Any:
    return np.rint(rows / np.sqrt((rows * rows).sum(axis=1, keepdims=True)) * 2**10) / 2**10


@dataclass(frozen=True, kw_only=True)
class Spread(Grouped):
    """Of every cluster the documents that share no score with a better-placed one, each with the one it repeats."""

    fills_budget = False
    score: ScoreName

    def group_keys(self, group: pa.RecordBatch, given: pa.RecordBatch, seed: int) -> Keys:
        first: dict[Any, bytes] = {}
        for value, doc_id in zip(group[self.score].to_pylist(), group["doc_id"].to_pylist(), strict=True):
            first.setdefault(value, doc_id)
        other = [first[value] for value in group[self.score].to_pylist()]
        is_copy = np.array([a != b for a, b in zip(other, group["doc_id"].to_pylist(), strict=True)], np.bool_)
        return Keys(
            keys=keyed.hashes(group["doc_id"], seed, "spread"),
            never=is_copy,
            values=exact.floats(group[self.score]),
            others=pa.array(other, pa.binary(16), mask=~is_copy),
        )

    def reasons(self, group: Group) -> Reasons:
        quota = "cluster {group}: quota {quota}"
        return Reasons(kept=quota, left_out=f"beyond {quota}", never="it has the score of another document")


@dataclass(frozen=True, kw_only=True)
class Best(Grouped):
    """All of a group in one order, groups by their source."""

    @property
    def grouped_by(self) -> str:
        return "source"

    def group_keys(self, group: pa.RecordBatch, given: pa.RecordBatch, seed: int) -> Keys:
        return Keys(keys=np.arange(group.num_rows, dtype=np.uint64))


@dataclass(frozen=True, kw_only=True)
class HalfBySource(Ranked):
    """Half of the budget for what is written in words, none for code, whatever is left."""

    fills_budget = False

    @property
    def grouped_by(self) -> str:
        return "source"

    def keys(self, batch: pa.RecordBatch, summary: None, seed: int) -> UInt64:
        return keyed.hashes(batch["doc_id"], seed, "half")

    def quotas(self, groups: Any, sizes: Any, budget: Budget, summary: None) -> Any:
        return np.minimum(sizes, [0 if name == "code" else budget.amount // 8 for name in groups])

    def ceilings(self, groups: Any, sizes: Any, budget: Budget, summary: None) -> Any:
        return np.array([0 if name == "code" else budget.amount // 4 for name in groups], np.int64)


@dataclass(frozen=True, kw_only=True)
class Doubled(Selector):
    """Half of the budget by one selector, as a wrapper that changes nothing else."""

    fills_budget = False
    inner: Selector
    others: tuple[Selector, ...] = ()

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        return self.inner.select(pool, replace(budget, amount=budget.amount // 2), seed)


TRIALS: list[type[Selector]] = [Judged, Nearest, Spread, Best, HalfBySource, Doubled]


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.__name__)
def test_a_selector_with_every_kind_of_option_and_answer_keeps_the_laws(trial: type[Selector]) -> None:
    check_selector(f"{trial.__module__}:{trial.__name__}", examples=5)


def test_a_table_is_made_for_an_option_and_a_tuple_has_two_plug_ins() -> None:
    judged = list(variants("selectors", f"{__name__}:Judged"))
    assert len(judged) == 6 and judged[0].judged.table.schema == Columns(doc_id="doc_id", grade="float32").schema
    doubled = list(variants("selectors", f"{__name__}:Doubled"))
    assert len(doubled) == len(PLAIN) + 1
    assert {tuple(type(one) for one in each.others) for each in doubled} == {tuple(PLAIN[:2])}
