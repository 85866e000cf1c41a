"""The laws that every order keeps. Put yours before them in a test of your own: `check_order("mine:Spiral")`.

An order is tried on documents that are made up, some of which are to be seen several times, with every combination of
its documented choices. One that rearranges another order (it has an option of the type `Order`) is tried around every
order that has a name, and around one that repeats some documents and leaves others.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from selector import tables
from selector.exact import keyed
from selector.order import Dealt, Order, Pool
from selector.order import check as check_positions
from selector.order._placed import Read, columns_read, labelled, placed, with_ranks
from selector.testing._law import EXAMPLES, Law, Values, asserting, check, law
from selector.testing._trials import (
    EXACT,
    MOVES,
    SCORE,
    SEEDS,
    SPLITS,
    TABLES,
    documents,
    generators_at,
    permutation,
    pickled_copy,
    pool_for,
    remote,
    variants,
)

Visit = tuple[bytes, int, str, float]
"""The id of the visited document, the number of the visit, its phase and its loss weight."""

TIMES = st.lists(st.integers(1, 3), min_size=1, max_size=4)
"""How often select decided that the first document is seen, the second, and so on, then from the beginning again."""
_SAME = {"text": "Alike.", "embedding": [np.float16(x) for x in (1, 0, 0, 0)], SCORE: 1.0, EXACT: 1}
ALIKE = st.lists(st.binary(min_size=16, max_size=16), max_size=20, unique=True).map(
    lambda ids: documents([{"doc_id": doc_id, **_SAME} for doc_id in ids])
)
"""Documents that differ in nothing but their ids."""


def check_order(
    name: str, *, examples: int = EXAMPLES, corpus: Mapping[str, Values] | None = None, **given: Any
) -> None:
    """Every law, for every variant of the order of this name, which is anything that a policy may say.

    `given` are values for options that cannot be made up, `corpus` what columns of the corpus may hold.
    """
    check(ORDER_LAWS, variants("orders", name, **given), examples, corpus)


# ---------------------------------------------------------------- the laws


@law(TABLES, TIMES, SEEDS)
def law_every_document_is_visited_or_told_as_left(order: Order, table: pa.Table, times: list[int], seed: int) -> None:
    """Never both, in the form of `tables.VISITS` and `tables.LEFT`; phases and facts can be JSON."""
    chosen = pool_for(order, with_visits(table, times), 16)
    ids = keyed.words(chosen.table("doc_id")["doc_id"])
    positions: Any = order.arrange(chosen, seed)
    with suppress(Exception):  # it is wrong in another way than by its numbers, or in none
        positions = positions.rearranged(np.arange(positions.visits.num_rows), ids)
    check_positions("tried", order, chosen.num_documents, ids, positions)


@law(TABLES, TIMES, SEEDS)
def law_the_visits_of_a_document_count_up(order: Order, table: pa.Table, times: list[int], seed: int) -> None:
    seen: dict[bytes, int] = {}
    for doc_id, visit, _, _ in arranged(order, with_visits(table, times), 16, seed)[0]:
        assert visit == seen.get(doc_id, 0), "number the visits along the order: selector.order.numbered"
        seen[doc_id] = visit + 1


@law(TABLES, TIMES, SEEDS, SPLITS)
def law_the_order_does_not_depend_on_how_the_pool_is_cut(
    order: Order, table: pa.Table, times: list[int], seed: int, rows: int
) -> None:
    repeated = with_visits(table, times)
    whole = answer(order, pool_for(order, repeated, 41), seed)
    assert answer(order, pool_for(order, repeated, rows), seed) == whole, "the order looks at the borders of shards"


@law(TABLES, TIMES, SEEDS, MOVES)
def law_the_order_does_not_depend_on_where_the_documents_stand(
    order: Order, table: pa.Table, times: list[int], seed: int, move: int
) -> None:
    places = permutation(table, move)
    other = with_visits(table.take(pa.array(places, pa.int64())), [times[place % len(times)] for place in places])
    first, second = arranged(order, with_visits(table, times), 16, seed), arranged(order, other, 16, seed)
    assert first == second, "the order depends on where the documents stand in the corpus"


@law(ALIKE, SEEDS)
def law_documents_that_are_alike_are_told_apart_by_their_ids(order: Order, table: pa.Table, seed: int) -> None:
    back = table.take(pa.array(np.arange(table.num_rows)[::-1], pa.int64()))
    first, second = (arranged(order, with_visits(some, [1]), 16, seed) for some in (table, back))
    assert first == second, "ties are broken by something else than the doc_id"


@law(TABLES, TIMES, SEEDS)
def law_the_order_depends_on_the_seed_and_on_no_other_chance(
    order: Order, table: pa.Table, times: list[int], seed: int
) -> None:
    answers: list[Any] = []
    for number in (1, 2):
        with generators_at(number):
            answers.append(arranged(order, with_visits(table, times), 16, seed))
    assert answers[0] == answers[1], "draw with selector.exact.keyed"


@law(TABLES, TIMES, SEEDS)
def law_the_order_and_its_work_can_be_sent_to_a_worker(
    order: Order, table: pa.Table, times: list[int], seed: int
) -> None:
    repeated = with_visits(table, times)
    here = arranged(order, repeated, 16, seed)
    with asserting("the order or its work cannot be sent to a worker"):
        visits, left = answer(pickled_copy(order), remote(pool_for(order, repeated, 16)), seed)
    assert (visits, sorted(left)) == here, "the order remembers what is lost on the way to a worker"


@law(TABLES, TIMES, SEEDS)
def law_only_columns_that_are_named_are_read(order: Order, table: pa.Table, times: list[int], seed: int) -> None:
    """doc_id, num_tokens, what `needs` and the options name, the columns of its attached tables, and what select
    decided: visits, round and inclusion_probability."""
    repeated = with_visits(table, times)
    whole = arranged(order, repeated, 16, seed)
    with asserting("it reads a column that neither `needs` nor an option names"):
        visits, left = answer(order, pool_for(order, repeated, 16, is_strict=True), seed)
    assert (visits, sorted(left)) == whole, "it answers otherwise where more columns are there"


@law(TABLES, TIMES, SEEDS, about=Dealt)
def law_a_placed_order_says_of_each_visit_what_depends_on_that_visit_alone(
    order: Order, table: pa.Table, times: list[int], seed: int
) -> None:
    """A run asks `place`, `phases` and `loss_weights` for some visits at a time."""
    assert isinstance(order, Dealt)
    chosen = with_ranks(order, pool_for(order, with_visits(table, times), 16), seed)
    summary = order.summary(chosen, seed)
    read = Read(order=order, summary=summary, seed=seed)
    group = np.sort(
        np.concatenate([[], *(groups for _, _, groups, *_ in chosen.map(read, *columns_read(order, chosen)))])
    )
    group = group.astype(np.int64)
    sizes = np.bincount(group)
    rank = np.arange(len(group)) - (np.cumsum(sizes) - sizes)[group]

    def answers_for(some: slice) -> list[tuple[int, str, float]]:
        phase, weights = labelled(order, group[some], np.arange(len(group))[some], summary)
        return list(
            zip(
                placed(order, group[some], rank[some], sizes, summary).tolist(),
                phase.to_pylist(),
                weights.tolist(),
                strict=True,
            )
        )

    whole = answers_for(slice(None))
    for some in (slice(0, len(group) // 2), slice(len(group) // 2, None), slice(None, None, 3)):
        assert answers_for(some) == whole[some], "what is said of a visit depends on which others are asked for with it"


ORDER_LAWS: Sequence[Law[Order]] = [
    law_every_document_is_visited_or_told_as_left,
    law_the_visits_of_a_document_count_up,
    law_the_order_does_not_depend_on_how_the_pool_is_cut,
    law_the_order_does_not_depend_on_where_the_documents_stand,
    law_documents_that_are_alike_are_told_apart_by_their_ids,
    law_the_order_depends_on_the_seed_and_on_no_other_chance,
    law_the_order_and_its_work_can_be_sent_to_a_worker,
    law_only_columns_that_are_named_are_read,
    law_a_placed_order_says_of_each_visit_what_depends_on_that_visit_alone,
]
"""The law of form comes first."""


# ---------------------------------------------------------------- what orders are tried on


def with_visits(table: pa.Table, times: Sequence[int]) -> pa.Table:
    """The pool of an order: a row for each time that a document is to be seen (`TIMES`), and what select said of it."""
    counts = np.resize(np.asarray(times, np.int64), table.num_rows)
    rows = table.take(pa.array(np.repeat(np.arange(table.num_rows), counts), pa.int64()))
    rows = rows.append_column("visits", pa.array(np.repeat(counts, counts), pa.uint16()))
    rows = rows.append_column("round", pa.array(np.zeros(rows.num_rows), pa.uint16()))
    return rows.append_column("inclusion_probability", pa.array(np.ones(rows.num_rows), pa.float32()))


def arranged(
    order: Order, table: pa.Table, shard_documents: int, seed: int
) -> tuple[list[Visit], list[tuple[bytes, str]]]:
    """The visits first to last, and the documents left by their ids, each with its reason."""
    visits, left = answer(order, pool_for(order, table, shard_documents), seed)
    return visits, sorted(left)


def answer(order: Order, chosen: Pool, seed: int) -> tuple[list[Visit], list[tuple[bytes, str]]]:
    """The visits first to last, and the documents left, in whatever order they were told."""
    positions = order.arrange(chosen, seed)
    ids = chosen.table("doc_id")["doc_id"]
    visits = [ids.take(positions.visits["document"]), *(positions.visits[name] for name in tables.VISITS.names[1:])]
    left = [ids.take(positions.left["document"]), positions.left["reason"]]
    listed = [list(zip(*(column.to_pylist() for column in columns), strict=True)) for columns in (visits, left)]
    return cast(tuple[list[Visit], list[tuple[bytes, str]]], tuple(listed))
