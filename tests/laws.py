"""The laws of selectors and of orders, as functions that any plug-in can be put before.

`check_selector("random")` runs them all for every combination of options worth trying; a name is anything
that a policy may say, so a plug-in of another package is put before them in the same way.
"""

import dataclasses
import itertools
import types
import typing
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from selector import plugins, tables
from selector.exact import spend as budgets
from selector.exact.spend import Budget
from selector.order import Order
from selector.plugins.options import Score
from selector.plugins.pool import Pool
from selector.select import Selector

SCORE = "quality"
SCHEMA = pa.schema(
    [
        ("doc_id", tables.DOC_ID),
        ("source", tables.LABEL),
        ("num_bytes", pa.uint32()),
        ("num_tokens", pa.uint32()),
        ("cluster", pa.int32()),
        ("distance", pa.float32()),
        ("embedding", pa.list_(pa.float16(), 4)),
        pa.field(SCORE, pa.float32(), metadata={"higher_is": "better"}),
    ]
)


def documents(rows: list[dict[str, Any]]) -> pa.Table:
    """Documents with what a row says, and otherwise: 10 tokens, cluster 0, source web, no score."""
    filled: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for i, row in enumerate(rows):
        default = {"doc_id": i.to_bytes(16), "source": "web", "num_bytes": 100, "num_tokens": 10, "cluster": 0}
        row = {**default, "distance": 0.5, "embedding": [np.float16(x) for x in (1, 0, 0, i)], SCORE: None, **row}
        for name in SCHEMA.names:
            filled[name].append(row[name])
    return pa.table([pa.array(filled[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


_IDS = st.one_of(st.binary(min_size=16, max_size=16), st.integers(0, 40).map(lambda i: i.to_bytes(16)))
_SCORES = st.one_of(st.none(), st.integers(-2, 2).map(float), st.floats(-1e3, 1e3, width=32))
_ROWS = st.fixed_dictionaries(
    {
        "doc_id": _IDS,
        "source": st.sampled_from(["web", "code", "math", "écrit"]),
        "num_tokens": st.integers(0, 30),
        "cluster": st.integers(0, 3),
        SCORE: _SCORES,
    }
)
TABLES = st.lists(_ROWS, max_size=40, unique_by=lambda row: row["doc_id"]).map(documents)
BUDGETS = st.builds(
    Budget,
    amount=st.one_of(st.integers(0, 60), st.integers(0, 1500)),
    unit=st.sampled_from(["documents", "tokens"]),
    overshoot=st.sampled_from(["stop", "fill", "cross"]),
)
SEEDS = st.integers(0, 3)
SPLITS = st.integers(1, 41)
_few = settings(max_examples=40, deadline=None)


def variants(family: str, name: str) -> Iterator[Any]:
    """A plug-in with every combination of its literals, with and without an optional score."""
    cls = plugins.find(family, name)
    hints = typing.get_type_hints(cls)
    choices = {field.name: _choices(hints[field.name], field) for field in dataclasses.fields(cls)}
    for values in itertools.product(*choices.values()):
        options = dict(zip(choices, values, strict=True))
        yield plugins.make(family, name, {key: value for key, value in options.items() if value is not ...}, "test")


def _choices(kind: Any, field: "dataclasses.Field[Any]") -> list[Any]:
    """Values to try for a field; `...` leaves it out."""
    has_default = not (field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING)
    default = [...] if has_default else []
    if kind is Score:
        return [SCORE]
    if typing.get_origin(kind) is Literal:
        return list(typing.get_args(kind))
    if isinstance(kind, types.UnionType) and Score in typing.get_args(kind):
        return [*default, SCORE]
    if kind is bool:
        return [False, True]
    examples: dict[Any, Any] = {int: 3, float: 0.5, str: SCORE}
    return default or [examples[kind]]


def decide(selector: Selector, table: pa.Table, rows: int, budget: Budget, seed: int) -> pa.Table:
    """A selector's decisions, checked to be one for each document of each batch."""
    pool = Pool.of(table, rows)
    decided = list(selector.select(pool, budget, seed).batches)
    asked = [batch.num_rows for batch in pool.batches("doc_id")]
    assert [batch.num_rows for batch in decided] == asked, "one batch of decisions for each batch of the pool"
    for batch in decided:
        assert batch.schema.equals(tables.DECISIONS) and sum(column.null_count for column in batch.columns) == 0
    return pa.Table.from_batches(decided, schema=tables.DECISIONS).set_column(
        1, "reason", pa.chunked_array([batch["reason"].dictionary_decode() for batch in decided], pa.string())
    )


@contextmanager
def little_memory() -> Generator[None]:
    """As if only a few documents fitted in memory."""
    with patch.object(budgets, "LIMIT", 9), patch.object(budgets, "BINS", 1 << 12):
        yield


# ---------------------------------------------------------------- selectors


def law_the_budget_is_kept_exactly(selector: Selector) -> None:
    @_few
    @given(TABLES, BUDGETS, SEEDS)
    def check(table: pa.Table, budget: Budget, seed: int) -> None:
        kept = decide(selector, table, 7, budget, seed)["kept"].to_numpy()
        if budget.unit == "documents":
            assert kept.sum() == min(budget.amount, table.num_rows)
            return
        tokens = table["num_tokens"].to_numpy().astype(np.int64)
        left = budget.amount - tokens[kept].sum()
        waiting = tokens[~kept]
        if budget.overshoot == "cross":
            assert left <= 0 or len(waiting) == 0, "cross spends everything there is to spend"
            assert left + tokens[kept].max(initial=0) >= 0, "cross takes one document too many at most"
        else:
            assert left >= 0
        if left > 0 and budget.overshoot == "stop":
            assert len(waiting) == 0 or waiting.max() > left, "stop ends only before a document that does not fit"
        if left > 0 and budget.overshoot == "fill":
            assert (waiting > left).all(), "fill leaves out only what does not fit"

    check()


def law_the_answer_does_not_depend_on_batches_nor_on_memory(selector: Selector) -> None:
    @_few
    @given(TABLES, BUDGETS, SEEDS, SPLITS)
    def check(table: pa.Table, budget: Budget, seed: int, rows: int) -> None:
        once = decide(selector, table, 41, budget, seed)
        assert decide(selector, table, rows, budget, seed).equals(once)
        with little_memory():
            assert decide(selector, table, max(rows, 10), budget, seed).equals(once)

    check()


def law_the_answer_does_not_depend_on_the_order_of_the_documents(selector: Selector) -> None:
    @_few
    @given(TABLES, BUDGETS, SEEDS, st.randoms())
    def check(table: pa.Table, budget: Budget, seed: int, random: Any) -> None:
        order = list(range(table.num_rows))
        random.shuffle(order)
        before = decide(selector, table, 7, budget, seed)
        after = decide(selector, table.take(pa.array(order, pa.int64())), 11, budget, seed)
        assert after.equals(before.take(pa.array(order, pa.int64())).combine_chunks())

    check()


def law_inclusion_probabilities_add_up_to_what_is_spent(selector: Selector) -> None:
    @_few
    @given(TABLES, BUDGETS, SEEDS)
    def check(table: pa.Table, budget: Budget, seed: int) -> None:
        decided = decide(selector, table, 7, budget, seed)
        kept, probability = decided["kept"].to_numpy(), decided["inclusion_probability"].to_numpy().astype(np.float64)
        (whole,) = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], SCHEMA)]
        sizes = budget.sizes(whole)
        assert ((probability >= 0) & (probability <= 1)).all() and (probability[kept & (sizes > 0)] > 0).all()
        np.testing.assert_allclose((sizes * probability).sum(), sizes[kept].sum(), rtol=1e-5)

    check()


def law_a_reason_is_a_short_sentence_shared_by_many(selector: Selector) -> None:
    table = documents(
        [{"doc_id": (977 * i).to_bytes(16), "cluster": i % 4, SCORE: float(i * 37 % 101)} for i in range(400)]
    )
    for budget in (Budget(amount=100, unit="documents"), Budget(amount=1234, unit="tokens", overshoot="fill")):
        reasons = decide(selector, table, 100, budget, 1)["reason"].unique().to_pylist()
        assert len(reasons) <= 20, "a reason is shared by documents, not made for each"
        assert all(0 < len(reason) <= 120 and "\n" not in reason for reason in reasons)


SELECTOR_LAWS: list[Callable[[Selector], None]] = [
    law_the_budget_is_kept_exactly,
    law_the_answer_does_not_depend_on_batches_nor_on_memory,
    law_the_answer_does_not_depend_on_the_order_of_the_documents,
    law_inclusion_probabilities_add_up_to_what_is_spent,
    law_a_reason_is_a_short_sentence_shared_by_many,
]


def check_selector(name: str) -> None:
    """Every law, for every variant of the selector of this name."""
    for selector in variants("selectors", name):
        for law in SELECTOR_LAWS:
            law(selector)


# ---------------------------------------------------------------- orders


def arranged(order: Order, table: pa.Table, rows: int, seed: int) -> list[tuple[bytes, int, str, float]]:
    """The visits first to last, each with the id of its document."""
    visits = order.arrange(Pool.of(table, rows), seed).visits
    assert visits.schema.equals(tables.VISITS) and sum(column.null_count for column in visits.columns) == 0
    ids = table["doc_id"].take(visits["document"]).to_pylist()
    rest = (visits[name].to_pylist() for name in ("visit", "phase", "loss_weight"))
    return list(zip(ids, *rest, strict=True))


def law_every_document_is_visited_and_its_visits_count_up(order: Order) -> None:
    @_few
    @given(TABLES, SEEDS)
    def check(table: pa.Table, seed: int) -> None:
        visits = arranged(order, table, 7, seed)
        seen: dict[bytes, int] = dict.fromkeys(table["doc_id"].to_pylist(), 0)
        for doc_id, visit, _, weight in visits:
            assert visit == seen[doc_id] and weight >= 0
            seen[doc_id] += 1
        assert all(count >= 1 for count in seen.values())

    check()


def law_the_order_does_not_depend_on_batches(order: Order) -> None:
    @_few
    @given(TABLES, SEEDS, SPLITS)
    def check(table: pa.Table, seed: int, rows: int) -> None:
        assert arranged(order, table, rows, seed) == arranged(order, table, 41, seed)

    check()


def law_the_order_does_not_depend_on_how_the_documents_were_arranged(order: Order) -> None:
    @_few
    @given(TABLES, SEEDS, st.randoms())
    def check(table: pa.Table, seed: int, random: Any) -> None:
        others = list(range(table.num_rows))
        random.shuffle(others)
        assert arranged(order, table.take(pa.array(others, pa.int64())), 11, seed) == arranged(order, table, 7, seed)

    check()


ORDER_LAWS: list[Callable[[Order], None]] = [
    law_every_document_is_visited_and_its_visits_count_up,
    law_the_order_does_not_depend_on_batches,
    law_the_order_does_not_depend_on_how_the_documents_were_arranged,
]


def check_order(name: str) -> None:
    """Every law, for every variant of the order of this name."""
    for order in variants("orders", name):
        for law in ORDER_LAWS:
            law(order)
