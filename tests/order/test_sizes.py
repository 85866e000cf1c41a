"""Every order arranges a pool of any size, however its documents are alike or grouped."""

import functools
import itertools
from typing import Any

import pyarrow as pa
import pytest

from selector import plugins
from selector.exact import keyed
from selector.order import Order, Placed, check
from selector.order._around import Around
from selector.plugins.options import hints_of
from selector.testing import EXACT, SCORE, TOPIC, documents, variants
from selector.testing._trials import pool_for
from selector.testing.orders import with_visits

pytestmark = pytest.mark.slow

NAMES = plugins.names("orders")


@functools.cache
def pools() -> dict[str, pa.Table]:
    """A pool of every size and kind that an order may stumble over."""
    each = [{"doc_id": keyed.digest(b"%d" % i), SCORE: float(i % 97)} for i in range(10_000)]
    apart = [{"source": f"s{i}", "cluster": i, TOPIC: f"t{i}", **row} for i, row in enumerate(each)]
    rows: dict[str, list[dict[str, Any]]] = {
        "none": [], "one": [{SCORE: 1.0}], "two": [{SCORE: 2.0}, {SCORE: 1.0}],
        "without scores": [{} for _ in range(30)], "alike": [{SCORE: 1.0, TOPIC: "a"} for _ in range(30)],
        "one group": [{"source": "web", TOPIC: "a", **row} for row in each[:300]], "10,000 groups": apart,
    }  # fmt: skip
    return {name: with_visits(documents(some), [1, 1, 2]) for name, some in rows.items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_order_arranges_a_pool_of_any_size(name: str) -> None:
    order = next(iter(variants("orders", name)))
    for pool in ("none", "one", "two", "without scores", "alike", "one group"):
        arranged(order, pools()[pool])


@pytest.mark.parametrize("name", NAMES)
def test_every_order_arranges_10_000_groups(name: str) -> None:
    """In every variant, but for most of those that differ in the order that they are around."""
    for i, order in enumerate(variants("orders", name)):
        if i % 12 == 0 or not {"inner", "phases"} & set(hints_of(type(order))):
            arranged(order, pools()["10,000 groups"])


DIVIDING = ("bands", "layers", "phases", "rounds", "sections", "steps")  # options that say into how many
DIVIDED = [(name, key) for name in NAMES for key in DIVIDING if hints_of(plugins.find("orders", name)).get(key) is int]


def test_every_order_can_be_divided_into_more_than_there_are_documents() -> None:
    assert len(DIVIDED) > 10
    each = [{"doc_id": keyed.digest(b"%d" % i), SCORE: float(i), EXACT: 10 - i} for i in range(7)]
    for name, option in DIVIDED:
        order = next(iter(variants("orders", name, **{option: 50})))
        for num_documents in (1, 2, 7):
            table = with_visits(documents(each[:num_documents]), [1, 2])
            assert arranged(order, table) == arranged(order, table, 2), (name, option)


def is_rearranging(order: Order) -> bool:
    """Whether the order visits each row once, and says only when."""
    if isinstance(order, Around):
        return is_rearranging(order.inner)
    return isinstance(order, Placed) and type(order).visits is Placed.visits


def test_an_order_that_draws_nothing_makes_exactly_the_visits_that_select_decided() -> None:
    orders = [order for name in NAMES for order in itertools.islice(variants("orders", name), 3)]
    tried = [order for order in orders if is_rearranging(order)]
    assert len({type(order) for order in tried}) > 25
    table = with_visits(documents([{SCORE: float(i % 5) if i % 4 else None} for i in range(12)]), [1, 3])
    for order in tried:
        positions = order.arrange(pool_for(order, table, 5), 7)
        assert sorted(positions.visits["document"].to_pylist()) == list(range(24)), order


def arranged(order: Order, table: pa.Table, shard_documents: int = 4_000) -> Any:
    """What the order answers, checked."""
    pool = pool_for(order, table, shard_documents)
    positions = order.arrange(pool, 7)
    check("tried", order, table.num_rows, keyed.words(pool.table("doc_id")["doc_id"]), positions)
    return positions.visits.to_pylist(), positions.facts, positions.phases
