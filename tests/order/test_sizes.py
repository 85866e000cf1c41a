"""Every order arranges a pool of any size, however its documents are alike or grouped."""

import functools
from typing import Any

import pyarrow as pa
import pytest

from selector import plugins
from selector.exact import keyed
from selector.order import Order, check
from selector.plugins.options import hints_of
from selector.testing import SCORE, TOPIC, documents, variants
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


def arranged(order: Order, table: pa.Table) -> None:
    pool = pool_for(order, table, 4_000)
    check("tried", order, table.num_rows, keyed.words(pool.table("doc_id")["doc_id"]), order.arrange(pool, 7))
