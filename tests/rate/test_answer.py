"""What is stored of a rater's answer: a state for every score; numbers quantised, exact ones and words as they are."""

import datetime
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from selector import tables
from selector.engine.part import Resources
from selector.engine.store import from_parquet, to_parquet
from selector.errors import PolicyError, SelectorError
from selector.plugins.pool import Pool
from selector.rate import Fit, Meaning, Rater, ScoreName
from selector.rate._answer import ratings_table


@dataclass(frozen=True, kw_only=True)
class Says(Rater):
    """Says what it was told to say."""

    higher_is: Meaning = "better"
    answer: Any
    meanings: Any = None

    def scores(self, name: str) -> dict[str, Meaning]:
        return super().scores(name) if self.meanings is None else self.meanings

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.answer


def ids(num_rows: int) -> pa.Array:
    return pa.array([i.to_bytes(16, "big") for i in range(num_rows)], tables.DOC_ID)


def table_of(columns: dict[str, Any], meanings: Any = None) -> pa.Table:
    """The table of a rater that answered with these columns, as it comes back from the store."""
    answer = pa.record_batch(columns)
    batch = pa.record_batch({"doc_id": ids(answer.num_rows), "text": pa.array(["a"] * answer.num_rows)})
    table = ratings_table(Says(answer=answer, meanings=meanings), "it", batch)
    assert table["doc_id"].combine_chunks().equals(batch["doc_id"])
    back = from_parquet(to_parquet(table), table.num_rows, "it")
    assert back.equals(table, check_metadata=True)
    return back.drop_columns("doc_id")


def said(columns: dict[str, Any], meanings: Any = None) -> dict[str, list[Any]]:
    return table_of(columns, meanings).to_pydict()


def test_a_failed_score_is_never_a_number() -> None:
    scores = [1.0, None, float("nan"), float("inf"), 1e300]
    states = ["ok", "not_applicable", "failed", "failed", "failed"]
    expected = {"it": [1.0, None, None, None, None], "it.state": states}
    assert said({"score": scores}) == said({"it": scores}) == expected


@pytest.mark.parametrize("column", ["state", "it.state", "score.state"])
def test_a_rater_can_say_why_a_score_is_null(column: str) -> None:
    states = ["ok", "missing", "failed", "not_applicable"]
    scores = [1.0, None, 2.0, float("nan")]
    assert said({column: states, "score": scores}) == {"it": [1.0, None, None, None], "it.state": states}
    encoded = pa.array(states).dictionary_encode()
    assert said({column: encoded, "it": scores})["it.state"] == states
    assert said({"it": pa.nulls(1), column: ["ok"]}) == {"it": [None], "it.state": ["failed"]}


def test_each_of_several_scores_has_a_state_of_its_own() -> None:
    meanings = {"a": "better", "b": "harder"}
    table = said({"b": [1.5, 2.0, None], "a": [0.5, float("nan"), 0.5]}, meanings)
    assert table == {
        "a": [0.5, None, 0.5],
        "a.state": ["ok", "failed", "ok"],
        "b": [1.5, 2.0, None],
        "b.state": ["ok", "ok", "not_applicable"],
    }
    table = said({"a": [0.5, None], "b": [None, None], "b.state": ["missing", "failed"]}, meanings)
    assert (table["a.state"], table["b.state"]) == (["ok", "not_applicable"], ["missing", "failed"])
    table = said({"a": [0.5, 0.5, None], "b": [1.0, 2.0, 3.0], "state": ["ok", "missing", "ok"]}, meanings)
    assert table["a"] == [0.5, None, None] and table["a.state"] == ["ok", "missing", "failed"]
    assert table["b"] == [1.0, None, 3.0] and table["b.state"] == ["ok", "missing", "ok"]


def test_a_rater_with_several_scores_does_not_need_to_know_what_it_is_called() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Two(Rater):
        """Two scores, called after the rater."""

        def scores(self, name: str) -> dict[str, Meaning]:
            return {name: "harder", f"{name}_kind": "label"}

        def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            return pa.record_batch({"score_kind": ["x"], "score_kind.state": ["ok"], "score": [1]})

    batch = pa.record_batch({"doc_id": ids(1), "text": ["a"]})
    for name in ("it", "again"):
        table = ratings_table(Two(), name, batch)
        assert table.schema.names == ["doc_id", name, f"{name}.state", f"{name}_kind", f"{name}_kind.state"]
        assert table[f"{name}_kind"].to_pylist() == ["x"]


def test_scores_are_stored_in_the_order_in_which_they_are_declared_each_with_its_meaning() -> None:
    table = table_of({"b": ["x"], "a": [1]}, {"a": "rarer", "b": "label"})
    assert table.schema.names == ["a", "a.state", "b", "b.state"]
    assert table.schema.field("a").metadata == {b"higher_is": b"rarer"}
    assert table.schema.field("b").metadata == {b"higher_is": b"label"}
    assert table.schema.field("a.state").type == table.schema.field("b").type == tables.LABEL


@pytest.mark.parametrize(
    "words",
    [
        pa.array(["law", None, "art", "law"]),
        pa.array(["law", None, "art", "law"], pa.large_string()),
        pa.array(["law", None, "art", "law"], pa.string_view()),
        pa.array(["law", None, "art", "law"]).dictionary_encode(),
        pa.DictionaryArray.from_arrays(pa.array([1, None, 2, 1], pa.int8()), ["unused", "law", "art"]),
        pa.DictionaryArray.from_arrays(pa.array([1, 0, 2, 1]), pa.array([None, "law", "art"], pa.large_string())),
    ],
)
def test_a_label_is_a_word_for_each_document(words: pa.Array) -> None:
    table = table_of({"score": words}, {"it": "label"})
    assert table.to_pydict() == {
        "it": ["law", None, "art", "law"],
        "it.state": ["ok", "not_applicable", "ok", "ok"],
    }
    assert table["it"].combine_chunks().dictionary.to_pylist() == ["law", "art"]


def test_a_word_that_does_not_count_is_not_stored() -> None:
    table = table_of({"score": ["secret", "art"], "state": ["failed", "ok"]}, {"it": "label"})
    assert table["it"].to_pylist() == [None, "art"]
    assert table["it"].combine_chunks().dictionary.to_pylist() == ["art"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([2**63 - 1, None, -(2**63), 20240131]), pa.int64()),
        (pa.array([3, None, -4, 5], pa.int8()), pa.int64()),
        (pa.array([2**63 - 1, None, 0, 1], pa.uint64()), pa.int64()),
        (pa.array([datetime.date(2024, 1, 31), None, datetime.date(1, 1, 1), datetime.date(9999, 1, 1)]), pa.date32()),
        (pa.array([86_400_000, None, 0, -86_400_000]).cast(pa.date64()), pa.date32()),
        (pa.array([1, None, -1, 2**62], pa.timestamp("ns", "Europe/Berlin")), pa.timestamp("ns", "Europe/Berlin")),
        (pa.array([1, None, -1, 2**62], pa.timestamp("us")), pa.timestamp("us")),
        (pa.array([1, None, -1, 2], pa.timestamp("s", "UTC")), pa.timestamp("ms", "UTC")),
        (pa.array([Decimal("999999999999999.999"), None, Decimal("0.001"), Decimal(-1)], pa.decimal128(18, 3)),) * 2,
        (pa.array([Decimal("0.01"), None, Decimal(1), Decimal(-1)], pa.decimal256(10, 2)), pa.decimal128(10, 2)),
    ],
)
def test_whole_numbers_dates_timestamps_and_decimals_are_stored_as_they_are(values: pa.Array, kind: Any) -> None:
    table = table_of({"score": values})
    kind = kind.type if isinstance(kind, pa.Array) else kind
    assert table["it"].combine_chunks().equals(values.cast(kind))
    assert table["it.state"].to_pylist() == ["ok", "not_applicable", "ok", "ok"]


def test_a_number_that_was_computed_keeps_twenty_bits_and_a_whole_one_all() -> None:
    assert said({"score": [20240131.0, 20240201.0]})["it"] == [20240128.0, 20240192.0]
    assert said({"score": [20240131, 20240201]})["it"] == [20240131, 20240201]


def test_a_column_of_nulls_without_a_type_counts_as_a_number_or_as_a_word() -> None:
    assert table_of({"score": pa.nulls(2)})["it"].type == pa.float32()
    assert table_of({"score": pa.nulls(2)}, {"it": "label"})["it"].type == tables.LABEL


@pytest.mark.parametrize(
    ("answer", "meanings", "message"),
    [
        (None, None, "returned a NoneType instead of a pyarrow.RecordBatch"),
        (pa.table({"score": [1]}), None, "returned a Table instead of a pyarrow.RecordBatch"),
        (pa.record_batch({"score": [1.0, 2.0]}), None, "returned 2 rows for a batch of 1"),
        (pa.record_batch({"state": ["ok"]}), None, r"returned the columns \['state'\] instead of \['it'\]"),
        (pa.record_batch({"score": [1], "it": [1]}), None, r"returned the columns \['score', 'it'\]"),
        (pa.record_batch({"score": [1], "why": [1]}), None, r"returned the columns \['score', 'why'\]"),
        (pa.record_batch({"score": [1], "x.state": ["ok"]}), None, r"returned the columns \['score', 'x.state'\]"),
        (pa.record_batch({"score": [1]}), {"a": "better", "b": "better"}, r"instead of \['a', 'b'\]"),
        (pa.record_batch({"score": ["1"]}), None, "returned 'it' as string instead of a number"),
        (pa.record_batch({"score": [True]}), None, "returned 'it' as bool instead of a number"),
        (pa.record_batch({"score": [[1.0]]}), None, "returned 'it' as list.* instead of a number"),
        (pa.record_batch({"score": [1]}), {"it": "label"}, "returned 'it' as int64 instead of text, as a label is"),
        (
            pa.record_batch({"score": pa.array([Decimal(1)], pa.decimal128(19, 0))}),
            None,
            r"returned 'it' as decimal128\(19, 0\) instead of a decimal of at most 18 digits",
        ),
        (
            pa.record_batch({"score": pa.array([2**63], pa.uint64())}),
            None,
            "returned for 'it' what cannot be stored: .*9223372036854775808",
        ),
        (
            pa.record_batch({"score": pa.array([2**62], pa.timestamp("s"))}),
            None,
            "returned for 'it' what cannot be stored: .*4611686018427387904",
        ),
        (pa.record_batch({"score": [1], "state": ["fine"]}), None, "returned the state 'fine', which is not one of"),
        (pa.record_batch({"score": [1], "it.state": ["fine"]}), None, "returned the state 'fine', which is not one of"),
        (pa.record_batch({"score": [1], "state": pa.nulls(1)}), None, "returned the state None"),
        (pa.record_batch({"score": [1], "state": [["ok"]]}), None, "returned 'state' as list.* instead of text"),
        (
            pa.record_batch({"score": [1], "state": ["ok"], "it.state": ["ok"]}),
            None,
            "returned both 'state', which is for every score, and 'it.state'",
        ),
        (pa.record_batch({"score": [1]}), {}, "declares the scores {}"),
        (pa.record_batch({"score": [1]}), {"state": "better"}, "none called doc_id or state"),
        (pa.record_batch({"score": [1]}), {"a": "better", "a.state": "label"}, "or as a state is"),
        (pa.record_batch({"score": [1]}), {"it": "bigger"}, "each of .*'harder'.*'label'"),
    ],
)
def test_an_answer_that_breaks_the_contract_is_a_fault_of_the_rater(answer: Any, meanings: Any, message: str) -> None:
    batch = pa.record_batch({"doc_id": ids(1), "text": ["a"]})
    with pytest.raises(SelectorError, match=rf"^The rater 'it' .*{message}.*This is a fault of the rater, .*Says\."):
        ratings_table(Says(answer=answer, meanings=meanings), "it", batch)


def test_a_rater_that_does_not_say_what_a_large_score_means_is_told_what_to_write() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Silent(Rater):
        """Says nothing of its scores."""

        def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            return pa.record_batch({"score": batch["text"]})

    with pytest.raises(
        PolicyError, match=r"'it' does not say .* Write into .*Silent, for example: higher_is = \"harder\""
    ):
        Silent().scores("it")


def test_a_rater_sees_no_column_but_those_it_needs_and_the_scores_that_its_options_name() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Sees(Rater):
        """Looks at its batch."""

        higher_is = "better"

        score: ScoreName

        def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            assert batch.schema.names == ["doc_id", "text", "edu"]
            return pa.record_batch({"score": pa.array([1])})

    batch = pa.record_batch({"cluster": [1], "edu": [1.0], "text": ["a"], "doc_id": ids(1)})
    assert ratings_table(Sees(score=ScoreName("edu")), "it", batch).num_rows == 1


# ---------------------------------------------------------------- a rater that a Fit made


NOTHING = Resources()


@dataclass(frozen=True, kw_only=True)
class Made(Rater):
    """Rates by what its Fit learned."""

    higher_is: Meaning = "harder"
    wanted: tuple[str, ...] = ("text",)
    score: str = "it"
    held: Resources = NOTHING

    @property
    def needs(self) -> tuple[str, ...]:
        return self.wanted

    @property
    def resources(self) -> Resources:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.held

    def scores(self, name: str) -> dict[str, Meaning]:
        return {self.score: self.higher_is}

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        assert batch.schema.names == ["doc_id", "text", "source"]
        return pa.record_batch({"score": [len(text) for text in batch["text"].to_pylist()]})


@dataclass(frozen=True, kw_only=True)
class Fits(Fit):
    """Learns nothing."""

    higher_is = "harder"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("text", "source")

    def fit(self, sample: Pool, seed: int) -> pa.Table:
        return pa.table({})

    def rater(self, fitted: pa.Table) -> Rater:
        return Made()


BATCH = pa.record_batch({"doc_id": ids(1), "source": ["web"], "text": ["abc"], "cluster": [1]})


def test_a_rater_that_a_fit_made_is_shown_what_the_fit_reads() -> None:
    fit = Fits()
    table = ratings_table(fit.rater(fit.fit(Pool.of(pa.table({})), 7)), "it", BATCH, declared=fit)
    assert table["it"].to_pylist() == [3]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Made(wanted=("text", "cluster")), r"made a Made that needs \['cluster'\], which the Fit does not declare"),
        (Made(score="other"), r"made a Made with the scores {'other': 'harder'}; the Fit declares {'it': 'harder'}"),
        (Made(higher_is="better"), "made a Made with the scores {'it': 'better'}; the Fit declares {'it': 'harder'}"),
        (
            Made(held=Resources(gpus=1)),
            r"made a Made with Resources\(.*gpus=1.*\); the Fit declares Resources\(.*gpus=0",
        ),
    ],
)
def test_a_rater_that_differs_from_what_its_fit_declares_is_a_fault_of_the_fit(made: Made, message: str) -> None:
    with pytest.raises(SelectorError, match=rf"^The rater 'it' {message}.*This is a fault of the rater, .*Fits\."):
        ratings_table(made, "it", BATCH, declared=Fits())
