"""Every law of orders has an order that breaks it, and that breaks no other law."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from selector import plugins
from selector.exact import Ints, UInt64, keyed
from selector.order import Order, Placed, Pool, Positions, ScoreName
from selector.order.shuffled import Shuffled
from selector.plugins.options import hints_of
from selector.testing import ORDER_LAWS, SCORE, check_order, variants
from selector.testing._awkward import Repeating
from selector.testing._law import broken

pytestmark = pytest.mark.slow


FEW_STEPS: dict[str, dict[str, Any]] = {"fixed": {"steps": 4}, "pooled": {"steps": 4}}
"""Each step costs as much as an order of another kind."""


@pytest.mark.parametrize("name", plugins.names("orders"))
def test_every_order_keeps_the_laws(name: str) -> None:
    check_order(name, examples=10, **FEW_STEPS.get(name, {}))


# ---------------------------------------------------------------- orders that break a law


@dataclass(frozen=True, kw_only=True)
class Reversed(Order):
    """Another order from its end to its beginning; right."""

    inner: Order

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        positions = self.inner.arrange(chosen, seed)
        ids = keyed.words(chosen.table("doc_id")["doc_id"])
        return positions.rearranged(np.arange(positions.visits.num_rows)[::-1], ids)


@dataclass(frozen=True, kw_only=True)
class ForgetsToRenumber(Order):
    """Another order from its end to its beginning, where the last visit is still called the last."""

    inner: Order

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        positions = self.inner.arrange(chosen, seed)
        back = pa.array(np.arange(positions.visits.num_rows)[::-1])
        return replace(positions, visits=positions.visits.take(back))


@dataclass(frozen=True, kw_only=True)
class DropsAVisit(Order):
    """Forgets what comes last."""

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        positions = Shuffled().arrange(chosen, seed)
        return replace(positions, visits=positions.visits.slice(0, max(positions.visits.num_rows - 1, 0)))


@dataclass(frozen=True, kw_only=True)
class TellsNoJson(Order):
    """Tells a number that JSON does not have."""

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        return replace(Shuffled().arrange(chosen, seed), facts={"gap": float("nan")})


@dataclass(frozen=True, kw_only=True)
class LooksAtBorders(Placed):
    """Begins somewhere else for every number of shards."""

    def summary(self, chosen: Pool, seed: int) -> int:
        return sum(1 for _ in chosen.batches("doc_id"))

    def keys(self, batch: pa.RecordBatch, summary: int, seed: int) -> UInt64:
        return keyed.hashes(batch["doc_id"], seed, f"shards {summary}")


@dataclass(frozen=True, kw_only=True)
class LooksAtTheFirst(Placed):
    """Begins somewhere else for every length of the document that stands first in the corpus."""

    def summary(self, chosen: Pool, seed: int) -> list[int]:
        return [count for batch in chosen.batches("num_tokens") for count in batch["num_tokens"].to_pylist()][:1]

    def keys(self, batch: pa.RecordBatch, summary: list[int], seed: int) -> UInt64:
        return keyed.hashes(batch["doc_id"], seed, f"first {summary}")


@dataclass(frozen=True, kw_only=True)
class BreaksTiesByRow(Order):
    """Sorts by a score, and leaves what has the same score as it lies."""

    score: ScoreName

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        table = chosen.table("doc_id", self.score)
        scores = table[self.score].to_numpy(zero_copy_only=False).astype(np.float64)
        return Positions.of(np.argsort(scores, kind="stable"), keyed.words(table["doc_id"]))


@dataclass(frozen=True, kw_only=True)
class HasAChanceOfItsOwn(Placed):
    """Begins where a generator stands that everybody shares."""

    def summary(self, chosen: Pool, seed: int) -> int:
        state: Any = np.random.get_state()
        return int(state[1][0])

    def keys(self, batch: pa.RecordBatch, summary: int, seed: int) -> UInt64:
        return keyed.hashes(batch["doc_id"], seed, f"state {summary}")


@dataclass(frozen=True, kw_only=True)
class CannotBeSent(Placed):
    """Its work is a function that exists nowhere but here."""

    def summary(self, chosen: Pool, seed: int) -> int:
        return sum(chosen.map(lambda batch: batch.num_rows, "doc_id"))

    def keys(self, batch: pa.RecordBatch, summary: int, seed: int) -> UInt64:
        return keyed.hashes(batch["doc_id"], seed, f"of {summary}")


@dataclass(frozen=True, kw_only=True)
class ReadsWhatItDidNotName(Placed):
    """Sorts by cluster, which it needs and does not say."""

    def summary(self, chosen: Pool, seed: int) -> Ints:
        return np.concatenate([[], *(batch["cluster"].to_numpy() for batch in chosen.batches("cluster"))])

    def keys(self, batch: pa.RecordBatch, summary: Ints, seed: int) -> UInt64:
        return keyed.hashes(batch["doc_id"], seed, f"{np.sort(summary)}")


@dataclass(frozen=True, kw_only=True)
class WeighsByPosition(Placed):
    """Weighs a visit less, the later it comes."""

    def keys(self, batch: pa.RecordBatch, summary: None, seed: int) -> UInt64:
        return keyed.hashes(batch["doc_id"], seed, "weighs")

    def loss_weights(self, group: Ints, summary: None) -> Any:
        return np.linspace(1, 0, len(group))


FORM, COUNT, CUT, PLACE, ALIKE, CHANCE, SENT, NAMED, ALONE = (law.__name__ for law in ORDER_LAWS)

MUTANTS: list[tuple[Order, list[str]]] = [
    (DropsAVisit(), [FORM]),
    (TellsNoJson(), [FORM]),
    (ForgetsToRenumber(inner=Repeating()), [COUNT]),
    (LooksAtBorders(), [CUT]),
    (LooksAtTheFirst(), [PLACE]),
    (BreaksTiesByRow(score=ScoreName(SCORE)), [PLACE, ALIKE]),
    (HasAChanceOfItsOwn(), [CHANCE]),
    (CannotBeSent(), [SENT]),
    (ReadsWhatItDidNotName(), [NAMED]),
    (WeighsByPosition(), [ALONE]),
]


@pytest.mark.parametrize(("order", "laws"), MUTANTS)
def test_a_broken_order_breaks_the_law_that_is_about_it_and_no_other(order: Order, laws: list[str]) -> None:
    assert broken(ORDER_LAWS, order, laws) == laws


def test_every_law_of_orders_has_an_order_that_breaks_it() -> None:
    assert {law for _, laws in MUTANTS for law in laws} == {law.__name__ for law in ORDER_LAWS}
    assert broken(ORDER_LAWS, Shuffled()) == []


def test_a_placed_order_has_no_arrange_of_its_own() -> None:
    with pytest.raises(TypeError, match="Odd is a Placed, which arranges by itself: extend Order, or leave arrange"):

        class Odd(Placed):  # pyright: ignore[reportUnusedClass]
            def arrange(self, chosen: Pool, seed: int) -> Positions:  # pyright: ignore[reportIncompatibleMethodOverride]
                return Shuffled().arrange(chosen, seed)


def test_a_wrapper_is_put_before_the_laws_around_every_order_and_around_one_that_repeats() -> None:
    name = f"{Reversed.__module__}:Reversed"
    inner = [type(order.inner) for order in variants("orders", name)]
    orders = (plugins.find("orders", other) for other in plugins.names("orders"))
    alone = (order for order in orders if not {"inner", "phases"} & set(hints_of(order)))
    assert inner == [*alone, Repeating]
    check_order(name, examples=10)


def test_a_wrapper_that_forgets_to_renumber_is_told_the_law_and_the_order_that_it_was_around() -> None:
    with pytest.raises(AssertionError, match="number the visits along the order") as told:
        check_order(f"{__name__}:ForgetsToRenumber")
    assert "ForgetsToRenumber(inner=" in told.value.__notes__[-1]
    assert told.value.__notes__[-1].endswith("breaks law_the_visits_of_a_document_count_up.")
