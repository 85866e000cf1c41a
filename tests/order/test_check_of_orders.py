"""An order that breaks its contract is blamed for it, by name, before anything is sealed."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from selector import tables
from selector.errors import SelectorError
from selector.exact import keyed
from selector.order import Positions, check
from selector.order.shuffled import Shuffled
from selector.testing import documents
from selector.testing._awkward import Repeating
from selector.testing._trials import pool_for
from selector.testing.orders import with_visits

TABLE = with_visits(documents([{} for _ in range(120)]), [1])
IDS = keyed.words(TABLE["doc_id"])


def positions() -> Positions:
    return Shuffled().arrange(pool_for(Shuffled(), TABLE, 50), 7)


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))


def left(rows: list[int]) -> pa.Table:
    reason = pa.array(["too many"] * len(rows)).dictionary_encode()
    return pa.table([pa.array(rows), reason, pa.nulls(len(rows), tables.LABEL)], schema=tables.LEFT)


def changed(**columns: Callable[[np.ndarray], Any]) -> Positions:
    visits = positions().visits
    for name, change in columns.items():
        visits = with_column(visits, name, change(visits[name].to_numpy().copy()))
    return dataclasses.replace(positions(), visits=visits)


def at(place: int, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[place] = value
        return values

    return change


def first(rows: list[int]) -> str:
    return bytes(TABLE["doc_id"][min(rows)].as_py()).hex()


VISITS = positions().visits
ORDER = VISITS["document"].to_pylist()
ODD_VISITS = VISITS.drop_columns(["phase"]).append_column("stage", VISITS["phase"])
NULL_PHASE = pa.DictionaryArray.from_arrays(np.zeros(120, np.int32), pa.array([None], pa.string()))

FAULTS: list[tuple[Positions, str]] = [
    (
        dataclasses.replace(positions(), visits=VISITS.slice(3)),
        f"forgets 3 of 120 documents, the first {first(ORDER[:3])}: it neither visits them nor tells them as left",
    ),
    (
        dataclasses.replace(positions(), left=left(ORDER[:2])),
        f"both visits and leaves 2 of 120 documents, the first {first(ORDER[:2])}",
    ),
    (
        Positions(visits=VISITS.slice(1), left=left([ORDER[0], ORDER[0]])),
        f"leaves more than once 1 of 120 documents, the first {first(ORDER[:1])}",
    ),
    (changed(document=at(5, 120)), "names row 120 in visits, and its pool has the rows 0 to 119"),
    (changed(document=at(5, -1)), "names row -1 in visits, and its pool has the rows 0 to 119"),
    (
        dataclasses.replace(positions(), left=left([400])),
        "names row 400 in left, and its pool has the rows 0 to 119",
    ),
    (
        changed(visit=at(5, 1)),
        f"calls position 5 visit 1 of the document {first([ORDER[5]])}, and it is its visit 0: "
        "the visits of a document count up from 0 (selector.order.numbered does that)",
    ),
    (changed(loss_weight=at(2, -0.5)), "gives position 2 the loss weight -0.5, which is no number from 0 on"),
    (changed(loss_weight=at(2, np.nan)), "gives position 2 the loss weight nan, which is no number from 0 on"),
    (
        dataclasses.replace(positions(), facts={"gap": np.float32(1)}),
        "tells phases or facts that are not JSON (Object of type float32 is not JSON serializable)",
    ),
    (
        dataclasses.replace(positions(), visits=ODD_VISITS),
        "answers with other columns than `tables.VISITS`: 'phase' is missing",
    ),
    (
        dataclasses.replace(positions(), visits=VISITS.select(["visit", "document", "phase", "loss_weight"])),
        "answers with other columns than `tables.VISITS`: they are visit, document, phase, loss_weight, not document, "
        "visit, phase, loss_weight",
    ),
    (
        dataclasses.replace(positions(), visits=VISITS.cast(pa.schema([f.with_nullable(True) for f in VISITS.schema]))),
        "answers with other columns than `tables.VISITS`: 'document' is int64, not int64 not null",
    ),
    (
        dataclasses.replace(positions(), visits=VISITS.set_column(2, VISITS.schema.field("phase"), NULL_PHASE)),
        "leaves the column 'phase' of visits null in 120 rows",
    ),
]


@pytest.mark.parametrize(("answer", "problem"), FAULTS)
def test_a_broken_answer_is_put_on_the_order_by_name(answer: Positions, problem: str) -> None:
    said = f"The order 'mine' {problem}. This is a fault of the order, selector.order.shuffled.Shuffled."
    with pytest.raises(SelectorError, match=f"^{re.escape(said)}$"):
        check("mine", Shuffled(), 120, IDS, answer)


def test_a_whole_answer_is_taken_also_with_repeats_and_with_documents_left() -> None:
    check("shuffled", Shuffled(), 120, IDS, positions())
    table = with_visits(documents([{} for _ in range(60)]), [2, 1, 3])
    answer = Repeating().arrange(pool_for(Repeating(), table, 7), 1)
    assert answer.left.num_rows and answer.visits.num_rows
    check("repeating", Repeating(), table.num_rows, keyed.words(table["doc_id"]), answer)


def test_the_visits_of_a_document_with_several_rows_are_counted_over_all_of_them() -> None:
    table = with_visits(documents([{}]), [2])
    zeros = dataclasses.replace(Positions.of(np.arange(2)), phases={})
    with pytest.raises(SelectorError, match=r"calls position 1 visit 0 of the document 0{32}, and it is its visit 1"):
        check("mine", Shuffled(), 2, keyed.words(table["doc_id"]), zeros)
    check("mine", Shuffled(), 2, keyed.words(table["doc_id"]), Positions.of(np.arange(2), keyed.words(table["doc_id"])))
