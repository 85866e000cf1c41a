"""The answer of an order, before it is sealed: what is wrong with it, and whose fault that is.

An order can come from anywhere. If it breaks its contract, a manifest would lose documents or could not be written; so
its answer is checked here, once, and the message names the order.
"""

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from selector import tables
from selector.exact import UInt64, keyed
from selector.order._contract import Order, Positions, numbered
from selector.plugins.blame import blamed, count_null, difference, fault, with_blame
from selector.plugins.pool import Pool


def arranged(name: str, order: Order, chosen: Pool, ids: UInt64, seed: int) -> Positions:
    """What the order answers about its pool, checked. `name` and `ids` are as in `check`."""
    with blamed("order", name, order):
        positions = order.arrange(with_blame(chosen, "order", name, order), seed)
    check(name, order, chosen.num_documents, ids, positions)
    return positions


def check(name: str, order: Order, pool_rows: int, ids: UInt64, positions: Positions) -> None:
    """Raises SelectorError unless the positions are a whole answer for a pool of so many rows.

    That is: the tables have their schemas and no nulls; every row of the pool is visited or told as left, never both;
    the visits of a document count up from 0; loss weights are numbers from 0 on; phases and facts can be JSON.
    `name` is what the policy calls the order; `ids` are the `keyed.words` of the pool's documents, row by row.
    """
    assert len(ids) == pool_rows
    problem = _problem(ids, positions)
    if problem:
        raise fault("order", name, order, problem)


def _problem(ids: UInt64, positions: Any) -> str | None:
    """The first thing that is wrong, in words; None if nothing is."""
    if not isinstance(positions, Positions):
        return f"answers with a {type(positions).__name__} instead of `Positions`"
    rows = len(ids)
    for name, table, schema in (("visits", positions.visits, tables.VISITS), ("left", positions.left, tables.LEFT)):
        if not table.schema.equals(schema):
            return f"answers with other columns than `tables.{name.upper()}`: {difference(table.schema, schema)}"
        for field in schema:
            num_null = 0 if field.nullable else count_null(table[field.name])
            if num_null:
                return f"leaves the column {field.name!r} of {name} null in {num_null:,} rows"
        places = table["document"].to_numpy()
        outside = places[(places < 0) | (places >= rows)]
        if len(outside):
            return f"names row {outside[0]} in {name}, and its pool has the rows 0 to {rows - 1}"
    seen = np.bincount(positions.visits["document"].to_numpy(), minlength=rows)
    left = np.bincount(positions.left["document"].to_numpy(), minlength=rows)
    if ((seen == 0) & (left == 0)).any():
        return f"forgets {_some((seen == 0) & (left == 0), ids)}: it neither visits them nor tells them as left"
    if ((seen > 0) & (left > 0)).any():
        return f"both visits and leaves {_some((seen > 0) & (left > 0), ids)}"
    if (left > 1).any():
        return f"leaves more than once {_some(left > 1, ids)}"
    visited = ids[positions.visits["document"].to_numpy()]
    visit, expected = positions.visits["visit"].to_numpy(), numbered(visited)
    if (visit != expected).any():
        at = int(np.argmax(visit != expected))
        return (
            f"calls position {at} visit {visit[at]} of the document {_hex(visited[at])}, and it is its visit "
            f"{expected[at]}: the visits of a document count up from 0 (selector.order.numbered does that)"
        )
    weight = positions.visits["loss_weight"].to_numpy()
    bad = ~np.isfinite(weight) | (weight < 0)
    if bad.any():
        at = int(np.argmax(bad))
        return f"gives position {at} the loss weight {weight[at]}, which is no number from 0 on"
    try:
        json.dumps({"phases": dict(positions.phases), "facts": dict(positions.facts)}, allow_nan=False)
    except (TypeError, ValueError) as error:
        return f"tells phases or facts that are not JSON ({error})"
    return None


def _some(mask: npt.NDArray[np.bool_], ids: UInt64) -> str:
    """How many documents, and the first of them by its place in the pool."""
    return f"{mask.sum():,} of {len(mask):,} documents, the first {_hex(ids[np.argmax(mask)])}"


def _hex(words: UInt64) -> str:
    return keyed.ids(words.reshape(1, 2))[0].as_py().hex()
