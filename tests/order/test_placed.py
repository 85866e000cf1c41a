"""Most orders are a sort and arithmetic on ranks: what a `Placed` can say, and who is blamed for a wrong answer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from selector.errors import SelectorError
from selector.exact import Ints, UInt64, keyed
from selector.order import Order, Placed, Pool, check, random_keys
from selector.testing import ORDER_LAWS, documents
from selector.testing._awkward import Repeating
from selector.testing._law import check as check_laws
from selector.testing._trials import pool_for
from selector.testing.orders import with_visits

pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class Alphabetical(Placed):
    """Sorts by id."""

    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> UInt64:
        return np.zeros(batch.num_rows, np.uint64)


@dataclass(frozen=True, kw_only=True)
class Laps(Alphabetical):
    """Sees every document in each of some laps, each lap shuffled anew and with half the weight of the one before."""

    laps: int = 3

    def visits(self, batch: pa.RecordBatch, summary: None, seed: int) -> Ints:
        return np.full(batch.num_rows, self.laps)

    def groups(self, batch: pa.RecordBatch, summary: None) -> Ints:
        return batch["visit"].to_numpy().astype(np.int64)

    def keys(self, batch: pa.RecordBatch, summary: None, seed: int) -> UInt64:
        return random_keys(batch, seed, "laps")

    def phases(self, group: Ints, summary: None) -> tuple[Ints, list[str]]:
        return group, [f"lap {lap}" for lap in range(int(group.max(initial=0)) + 1)]

    def loss_weights(self, group: Ints, summary: None) -> Any:
        return 0.5**group


@dataclass(frozen=True, kw_only=True)
class Folded(Alphabetical):
    """Every third document from the first, then from the second, then from the third."""

    def place(self, group: Ints, rank: Ints, sizes: Ints) -> Ints:
        return rank % 3


@dataclass(frozen=True, kw_only=True)
class OddOnes(Alphabetical):
    """Leaves every other document."""

    left_because = "its id is even"

    def visits(self, batch: pa.RecordBatch, summary: None, seed: int) -> Ints:
        return (keyed.words(batch["doc_id"])[:, 1] % np.uint64(2)).astype(np.int64)


def checked(order: Order, table: pa.Table) -> Any:
    positions = order.arrange(pool_for(order, table, 3), 7)
    check("mine", order, table.num_rows, keyed.words(table["doc_id"]), positions)
    return positions


def test_the_simplest_order_says_nothing_but_its_keys() -> None:
    table = documents([{"doc_id": i.to_bytes(16)} for i in (3, 0, 2, 1)])
    positions = checked(Alphabetical(), table)
    assert positions.visits.to_pydict() == {
        "document": [1, 3, 2, 0], "visit": [0] * 4, "phase": ["main"] * 4, "loss_weight": [1.0] * 4,
    }  # fmt: skip
    assert positions.left.num_rows == 0


def test_a_document_that_is_seen_several_times_is_placed_for_each_time() -> None:
    table = documents([{} for _ in range(20)])
    visits = checked(Laps(), table).visits
    laps = [visits["document"].to_pylist()[start : start + 20] for start in (0, 20, 40)]
    assert all(sorted(lap) == list(range(20)) for lap in laps) and laps[0] != laps[1] != laps[2]
    assert visits["visit"].to_pylist() == [0] * 20 + [1] * 20 + [2] * 20
    assert visits["phase"].to_pylist() == ["lap 0"] * 20 + ["lap 1"] * 20 + ["lap 2"] * 20
    assert visits["loss_weight"].to_pylist() == [1.0] * 20 + [0.5] * 20 + [0.25] * 20


def test_repeats_of_the_order_multiply_those_that_select_decided() -> None:
    table = with_visits(documents([{}, {}]), [2, 1])
    visits = checked(Laps(), table).visits
    assert np.bincount(visits["document"].to_numpy()).tolist() == [3, 3, 3]
    assert sorted(zip(visits["phase"].to_pylist(), visits["visit"].to_pylist(), strict=True)) == [
        ("lap 0", 0), ("lap 0", 0), ("lap 1", 1), ("lap 1", 1), ("lap 2", 2), ("lap 2", 2),
        ("lap 3", 3), ("lap 4", 4), ("lap 5", 5),
    ]  # fmt: skip


def test_places_follow_from_ranks() -> None:
    visits = checked(Folded(), documents([{} for _ in range(8)])).visits
    assert visits["document"].to_pylist() == [0, 3, 6, 1, 4, 7, 2, 5]


def test_a_document_without_a_visit_is_left_with_the_orders_reason() -> None:
    positions = checked(OddOnes(), documents([{} for _ in range(5)]))
    assert positions.visits["document"].to_pylist() == [1, 3]
    assert positions.left.to_pydict() == {
        "document": [0, 2, 4], "reason": ["its id is even"] * 3, "arguments": [None] * 3,
    }  # fmt: skip


@pytest.mark.parametrize("cls", [Alphabetical, Laps, Folded, OddOnes, Repeating])
def test_what_a_placed_order_can_say_keeps_the_laws(cls: type[Order]) -> None:
    check_laws(ORDER_LAWS, [cls()], 10, None)


@pytest.mark.parametrize("table", [documents([]), documents([{}])])
@pytest.mark.parametrize("cls", [Alphabetical, Laps, Folded, OddOnes])
def test_a_pool_of_one_document_or_none_is_arranged_too(cls: type[Order], table: pa.Table) -> None:
    checked(cls(), table)
    empty = Pool(schema=table.schema, num_documents=0, shards=[])
    assert cls().arrange(empty, 0).visits.num_rows == 0, "a pool may have no shards at all"


WRONG: list[tuple[str, Any, str]] = [
    ("keys", np.zeros(3), r"answers 4 rows with float64 of shape \(3,\) in the method 'keys'"),
    ("keys", np.zeros(4, np.int64), r"answers 4 rows with int64 of shape \(4,\) in the method 'keys'"),
    ("groups", np.array([0, 1, -2, 0]), "answers with the number -2 in the method 'groups'"),
    ("visits", np.array([1, -1, 1, 1]), "answers with the number -1 in the method 'visits'"),
    ("phases", (np.array([0, 1, 2, 0]), ["a", "b"]), "answers with the number 2 in the method 'phases'"),
    ("loss_weights", np.ones(5), r"answers 4 rows with float64 of shape \(5,\) in the method 'loss_weights'"),
    ("place", np.zeros(4), r"answers 4 rows with float64 of shape \(4,\) in the method 'place'"),
]


@pytest.mark.parametrize(("method", "answer", "message"), WRONG)
def test_a_wrong_answer_is_put_on_the_order_and_its_method(method: str, answer: Any, message: str) -> None:
    order = type("Wrong", (Alphabetical,), {method: lambda *_: answer, "__module__": __name__})()
    with pytest.raises(SelectorError, match=rf"'{__name__}:Wrong' {message}\. This is a fault of the order, .*Wrong\."):
        order.arrange(Pool.of(documents([{}] * 4)), 0)
