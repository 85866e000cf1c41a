"""The laws that every rater keeps, ours and anyone's; then what each of ours says of a few documents."""

import dataclasses
import json
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyphen
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selector import plugins, tables
from selector.errors import PolicyError, SelectorError
from selector.plugins.pool import Pool
from selector.rate import FittedRater, HigherIs, Rater
from selector.rate._answer import Float32, quantise, ratings_table

DATA = Path(__file__).parents[3] / "shared/data"


@dataclass(frozen=True, kw_only=True)
class LengthZScore(FittedRater):
    """How far from the corpus's mean length the document is, in standard deviations."""

    higher_is = "harder"

    def fit(self, sample: Pool, seed: int) -> pa.Table:
        lengths = np.array([len(text) for batch in sample.batches("text") for text in batch["text"].to_pylist()] or [0])
        return pa.table({"mean": [lengths.mean()], "std": [lengths.std() or 1.0]})

    def rate_fitted(self, batch: pa.RecordBatch, fitted: pa.Table) -> pa.RecordBatch:
        mean, std = (fitted[name][0].as_py() for name in ("mean", "std"))
        return pa.record_batch({"score": [(len(text) - mean) / std for text in batch["text"].to_pylist()]})


NAMES = [*plugins.names("raters"), f"{__name__}:LengthZScore"]

# ---------------------------------------------------------------- what a law is tried on

EMPTYISH = ["", " \n\t", ".", "?!…", "\0", "a\0b.", "\u0301", "\u200b", "'", "''a''", "\u2019s", "3.14", "\ue000"]
FOREIGN = ["🎉", "👩‍👩‍👧‍👦 ok.", "日本語の文です。", "हिन्दी भाषा।", "e\u0301lan", "\ufeffHi.", "İSTANBUL", "\u202eß"]
WEIRD = EMPTYISH + FOREIGN
HUGE = ["x" * 100_000, "a. " * 33_333, "!" * 100_000, "\u0301" * 100_000, "語" * 100_000, "\0" * 100_000]

TEXT = st.one_of(st.sampled_from(WEIRD), st.text(max_size=40), st.text(alphabet="aeiou rst.'!", max_size=80))
UINT32 = st.integers(0, 2**32 - 1)
JSON = ["1", " 2.5 ", '"3"', "true", "null", "", "x", "[1]", "1e999", "NaN", "-0"]

VALUES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "text": (pa.string(), TEXT),
    "num_bytes": (pa.uint32(), UINT32),
    "num_tokens": (pa.uint32(), UINT32),
    "source": (pa.string(), st.sampled_from(["web", "books"])),
    "cluster": (pa.int32(), st.integers(0, 3)),
    "distance": (pa.float32(), st.floats(0, 2, width=32)),
    "embedding": (pa.list_(pa.float16(), 4), st.lists(st.floats(-1, 1, width=16), min_size=4, max_size=4)),
}
CORPUS_VALUES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.float64(), st.none() | st.floats()),
    (pa.int64(), st.none() | st.integers(-(2**63), 2**63 - 1)),
    (pa.bool_(), st.none() | st.booleans()),
    (pa.string(), st.none() | st.sampled_from(JSON) | TEXT),
    (pa.list_(pa.int64()), st.none() | st.just([1])),
    (pa.null(), st.none()),
]


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values for an option of this type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(values_of(argument) for argument in arguments))
    if origin is typing.Annotated:
        return values_of(arguments[0])
    known = {type(None): st.none(), bool: st.booleans(), int: st.integers(1, 8), float: st.floats(0.1, 0.9)}
    return known.get(kind, st.just("value"))


@st.composite
def raters(draw: st.DrawFn, name: str) -> Rater:
    """A rater with any of its documented choices, and something for every option it cannot do without."""
    cls = plugins.find("raters", name)
    hints = typing.get_type_hints(cls)
    drawn: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if is_required or typing.get_origin(hints[field.name]) is Literal:
            drawn[field.name] = draw(values_of(hints[field.name]))
    return plugins.make("raters", name, drawn, "rate.0")


@st.composite
def batches(draw: st.DrawFn, needs: tuple[str, ...]) -> pa.RecordBatch:
    """Up to eight documents with the columns that a rater needs."""
    num_rows = draw(st.integers(0, 8))
    columns = {"doc_id": ids(num_rows)}
    for need in needs:
        kind, values = VALUES[need] if need in VALUES else draw(st.sampled_from(CORPUS_VALUES))
        columns[need] = pa.array(draw(st.lists(values, min_size=num_rows, max_size=num_rows)), kind)
    return pa.record_batch(columns)


def ids(num_rows: int) -> pa.Array:
    return pa.array([i.to_bytes(16, "big") for i in range(num_rows)], tables.DOC_ID)


def fit(rater: Rater, batch: pa.RecordBatch) -> pa.Table | None:
    return rater.fit(Pool.of(pa.Table.from_batches([batch])), seed=7) if isinstance(rater, FittedRater) else None


Law = Callable[..., None]


def law(check: Callable[[Rater, pa.RecordBatch, pa.Table | None, st.DataObject], None]) -> Law:
    """A test of every rater by name, on documents that Hypothesis makes up."""

    @settings(max_examples=40, deadline=None)
    @given(data=st.data())
    def test(name: str, data: st.DataObject) -> None:
        rater = data.draw(raters(name))
        batch = data.draw(batches(rater.needs))
        check(rater, batch, fit(rater, batch), data)

    test.__doc__ = check.__doc__
    return pytest.mark.parametrize("name", NAMES)(test)


# ---------------------------------------------------------------- the laws


@law
def test_any_split_of_a_batch_gives_the_same_table(
    rater: Rater, batch: pa.RecordBatch, fitted: pa.Table | None, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, batch.num_rows), max_size=4)))
    spans = zip([0, *cuts], [*cuts, batch.num_rows], strict=True)
    parts = [ratings_table(rater, "it", batch.slice(start, stop - start), fitted) for start, stop in spans]
    assert pa.concat_tables(parts).equals(ratings_table(rater, "it", batch, fitted), check_metadata=True)


@law
def test_a_document_is_rated_the_same_wherever_it_stands(
    rater: Rater, batch: pa.RecordBatch, fitted: pa.Table | None, data: st.DataObject
) -> None:
    places = pa.array(data.draw(st.permutations(range(batch.num_rows))), pa.int64())
    shuffled = ratings_table(rater, "it", batch.take(places), fitted)
    assert shuffled.equals(ratings_table(rater, "it", batch, fitted).take(places), check_metadata=True)


@law
def test_a_rater_made_again_with_the_same_options_gives_the_same_table(
    rater: Rater, batch: pa.RecordBatch, fitted: pa.Table | None, data: st.DataObject
) -> None:
    first = ratings_table(rater, "it", batch, fitted)
    ratings_table(rater, "it", data.draw(batches(rater.needs)), fitted)  # and whatever it rated in between
    again = dataclasses.replace(typing.cast(Any, rater))
    assert again == rater
    assert fit(again, batch) == fitted
    assert ratings_table(again, "it", batch, fitted).equals(first, check_metadata=True)
    assert ratings_table(rater, "it", batch, fitted).equals(first, check_metadata=True)


@law
def test_a_number_is_there_if_and_only_if_the_state_is_ok(
    rater: Rater,
    batch: pa.RecordBatch,
    fitted: pa.Table | None,
    data: st.DataObject,  # noqa: ARG001
) -> None:
    table = ratings_table(rater, "it", batch, fitted)
    assert table.schema.equals(tables.ratings({**rater.scores("it")}), check_metadata=True)
    assert table["doc_id"].combine_chunks().equals(batch["doc_id"])
    states = table["state"].to_pylist()
    assert set(states) <= set(tables.STATES)
    for score in rater.scores("it"):
        values = table[score].to_pylist()
        assert [value is not None for value in values] == [state == "ok" for state in states]
        numbers = np.array([value for value in values if value is not None], np.float32)
        assert np.isfinite(numbers).all()
        assert not (np.signbit(numbers) & (numbers == 0)).any()
        assert np.array_equal(quantise(numbers), numbers)


LAWS = (
    test_any_split_of_a_batch_gives_the_same_table,
    test_a_document_is_rated_the_same_wherever_it_stands,
    test_a_rater_made_again_with_the_same_options_gives_the_same_table,
    test_a_number_is_there_if_and_only_if_the_state_is_ok,
)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_no_text_is_too_strange_or_too_long_to_rate(name: str, data: st.DataObject) -> None:
    rater = data.draw(raters(name))
    num_rows = len(WEIRD + HUGE)
    columns = {"doc_id": ids(num_rows), "text": pa.array(WEIRD + HUGE)}
    for need in rater.needs:
        if need != "text":
            columns[need] = pa.nulls(num_rows, VALUES[need][0] if need in VALUES else pa.string())
    batch = pa.record_batch(columns)
    assert ratings_table(rater, "it", batch, fit(rater, batch)).num_rows == num_rows


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_an_empty_batch_gives_an_empty_table(name: str, data: st.DataObject) -> None:
    rater = data.draw(raters(name))
    batch = data.draw(batches(rater.needs))
    assert ratings_table(rater, "it", batch.slice(0, 0), fit(rater, batch)).num_rows == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_rater_is_a_frozen_keyword_only_dataclass_with_a_summary(name: str) -> None:
    cls = plugins.find("raters", name)
    assert dataclasses.is_dataclass(cls)
    assert all(field.kw_only for field in dataclasses.fields(cls))
    assert cls.__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]
    assert (cls.__doc__ or "").split("\n")[0].endswith(".")


ELSEWHERE = """
from dataclasses import dataclass
import pyarrow as pa
from selector.rate import Rater

@dataclass(frozen=True, kw_only=True)
class Share(Rater):
    '''The share of a character.'''
    higher_is = "rarer"
    character: str
    def rate(self, batch):
        texts = batch["text"].to_pylist()
        return pa.record_batch({"score": [text.count(self.character) / len(text) if text else None for text in texts]})

@dataclass(frozen=True, kw_only=True)
class Longest(Rater):
    '''The share of the longest text of the batch: breaks the law.'''
    higher_is = "harder"
    def rate(self, batch):
        lengths = [1 + len(text) for text in batch["text"].to_pylist()]
        return pa.record_batch({"score": pa.array([length / max(lengths) for length in lengths], pa.float64())})
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with raters that is no part of ours."""
    name = f"elsewhere_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(ELSEWHERE, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize("each", LAWS)
def test_the_laws_hold_for_a_rater_from_another_package(each: Law, elsewhere: str) -> None:
    each(name=f"{elsewhere}:Share")


def test_the_laws_catch_a_rater_that_looks_at_the_rest_of_its_batch(elsewhere: str) -> None:
    with pytest.raises(AssertionError):
        test_any_split_of_a_batch_gives_the_same_table(name=f"{elsewhere}:Longest")


# ---------------------------------------------------------------- the table that is stored


@dataclass(frozen=True, kw_only=True)
class Says(Rater):
    """Says what it was told to say."""

    higher_is: HigherIs = "better"
    answer: Any
    meanings: Any = None

    def scores(self, name: str) -> dict[str, HigherIs]:
        return super().scores(name) if self.meanings is None else self.meanings

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.answer


def said(columns: dict[str, Any], meanings: Any = None) -> dict[str, list[Any]]:
    """The table of a rater that answered with these columns, without its ids."""
    answer = pa.record_batch(columns)
    batch = pa.record_batch({"doc_id": ids(answer.num_rows), "text": pa.array(["a"] * answer.num_rows)})
    return ratings_table(Says(answer=answer, meanings=meanings), "it", batch).drop_columns("doc_id").to_pydict()


def test_a_failed_score_is_never_a_number() -> None:
    scores = [1.0, None, float("nan"), float("inf"), 1e300]
    states = ["ok", "not_applicable", "failed", "failed", "failed"]
    assert said({"score": scores}) == said({"it": scores}) == {"it": [1.0, None, None, None, None], "state": states}


def test_a_rater_can_say_why_a_score_is_null() -> None:
    states = ["ok", "missing", "failed", "not_applicable"]
    scores = [1.0, None, 2.0, float("nan")]
    assert said({"state": states, "it": scores}) == {"it": [1.0, None, None, None], "state": states}
    encoded = pa.array(states).dictionary_encode()
    assert said({"state": encoded, "it": scores})["state"] == states
    assert said({"it": pa.nulls(1), "state": ["ok"]}) == {"it": [None], "state": ["failed"]}


def test_a_document_that_lacks_one_of_several_scores_has_none() -> None:
    table = said({"b": [1, 2, None], "a": [0.5, float("nan"), 0.5]}, {"a": "better", "b": "harder"})
    assert table == {"a": [0.5, None, None], "b": [1.0, None, None], "state": ["ok", "failed", "not_applicable"]}


@pytest.mark.parametrize(
    ("answer", "meanings", "message"),
    [
        (None, None, "returned a NoneType instead of a pyarrow.RecordBatch"),
        (pa.record_batch({"score": [1.0, 2.0]}), None, "returned 2 rows for a batch of 1"),
        (pa.record_batch({"state": ["ok"]}), None, r"returned the columns \['state'\] instead of \['it'\]"),
        (pa.record_batch({"score": [1], "it": [1]}), None, r"returned the columns \['score', 'it'\]"),
        (pa.record_batch({"score": [1], "why": [1]}), None, r"returned the columns \['score', 'why'\]"),
        (pa.record_batch({"score": [1]}), {"a": "better", "b": "better"}, r"instead of \['a', 'b'\]"),
        (pa.record_batch({"score": ["1"]}), None, "returned 'it' as string instead of a number"),
        (pa.record_batch({"score": [1], "state": ["fine"]}), None, "returned the state 'fine', which is not one of"),
        (pa.record_batch({"score": [1], "state": pa.nulls(1)}), None, "returned the state None"),
        (pa.record_batch({"score": [1]}), {}, "declares the scores {}"),
        (pa.record_batch({"score": [1]}), {"state": "better"}, "none called doc_id or state"),
        (pa.record_batch({"score": [1]}), {"it": "bigger"}, "each of .*'harder'"),
    ],
)
def test_an_answer_that_breaks_the_contract_is_a_fault_of_the_rater(answer: Any, meanings: Any, message: str) -> None:
    batch = pa.record_batch({"doc_id": ids(1), "text": ["a"]})
    with pytest.raises(SelectorError, match=rf"^The rater 'it' .*{message}.*This is a fault of the rater, Says\."):
        ratings_table(Says(answer=answer, meanings=meanings), "it", batch)


def test_a_rater_sees_no_column_that_it_does_not_need() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Sees(Rater):
        higher_is = "better"

        def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            assert batch.schema.names == ["doc_id", "text"]
            return pa.record_batch({"score": pa.array([1])})

    assert ratings_table(Sees(), "it", pa.record_batch({"cluster": [1], "text": ["a"], "doc_id": ids(1)})).num_rows == 1


def test_a_fitted_rater_measures_every_part_against_the_whole_corpus() -> None:
    corpus = pa.record_batch({"doc_id": ids(4), "text": pa.array(["ab", "abcd", "ab", "abcd"])})
    rater = LengthZScore()
    table = ratings_table(rater, "z", corpus.slice(1, 1), fit(rater, corpus))
    assert table["z"].to_pylist() == [1.0]
    assert table.schema.field("z").metadata == {b"higher_is": b"harder"}


FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20)


@given(FLOATS)
def test_quantising_is_monotone_and_idempotent_and_off_by_less_than_one_in_a_million(values: list[float]) -> None:
    before = np.sort(np.array(values, np.float32))
    after = quantise(before)
    assert after.dtype == np.float32
    assert np.isfinite(after).all()
    assert (np.diff(after.astype(np.float64)) >= 0).all()
    assert np.array_equal(quantise(after), after)
    normal = (np.abs(before) >= 2.0**-126) & (np.abs(before) < 3.4028e38)
    exact = before[normal].astype(np.float64)
    assert (np.abs(after[normal] - exact) <= 2.0**-21 * np.abs(exact)).all()


def test_quantising_hides_the_last_bits_of_a_float64_and_the_sign_of_zero() -> None:
    noisy = np.array([0.1 + 0.2, 0.3, np.nextafter(0.3, 0)]).astype(np.float32)
    assert len(set(quantise(noisy).tolist())) == 1
    zeros = quantise(np.array([-0.0, -1e-45], np.float32))
    assert (zeros == 0).all()
    assert not np.signbit(zeros).any()


def test_quantising_leaves_infinity_alone_and_never_makes_it() -> None:
    after = quantise(np.array([np.nan, np.inf, -np.inf, 3.4028235e38, -3.4028235e38], np.float32))
    assert np.isfinite(after).tolist() == [False, False, False, True, True]
    assert np.isinf(after).tolist() == [False, True, True, False, False]


# ---------------------------------------------------------------- each rater's numbers


def rated(name: str, options: dict[str, Any], **columns: Any) -> tuple[list[float | None], list[str]]:
    """The first score and the states that a rater gives."""
    arrays = {key.replace("corpus_", "corpus."): value for key, value in columns.items()}
    batch = pa.record_batch({"doc_id": ids(len(next(iter(arrays.values())))), **arrays})
    table = ratings_table(plugins.make("raters", name, options, "rate.0"), name, batch)
    return table.column(1).to_pylist(), table["state"].to_pylist()


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("The cat sat on the mat.", 0.39 * 6 + 11.8 * 6 / 6 - 15.59),
        ("Reading is important.", 0.39 * 3 + 11.8 * (2 + 1 + 3) / 3 - 15.59),
        ("I can\u2019t stop. She can't stop!", 0.39 * 6 / 2 + 11.8 * 6 / 6 - 15.59),
        ("What?! No... yes", 0.39 * 3 / 2 + 11.8 * 3 / 3 - 15.59),
        ("Beautiful people, without a full stop", 0.39 * 6 + 11.8 * (3 + 2 + 2 + 1 + 1 + 1) / 6 - 15.59),
        ("In 1975 it had 2 'rules'", 0.39 * 4 + 11.8 * 4 / 4 - 15.59),
    ],
)
def test_readability_is_the_flesch_kincaid_grade(text: str, grade: float) -> None:
    assert rated("readability", {}, text=[text])[0] == [pytest.approx(grade, abs=2e-6)]


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(["the", "Table", "can't", "42", "importantly", ".", "!"])), min_size=1))
def test_readability_of_a_batch_is_that_of_each_text_counted_by_hand(documents: list[list[str]]) -> None:
    hyphens = pyphen.Pyphen(lang="en_US")
    expected: list[Any] = []
    for document in documents:
        words = [token for token in document if token[0].isalpha()]
        syllables = sum(len(hyphens.positions(word)) + 1 for word in words)
        sentences = max(1, len([token for token in document if token in ".!"]))
        grade = 0.39 * len(words) / sentences + 11.8 * syllables / max(1, len(words)) - 15.59
        expected.append(pytest.approx(grade, rel=1e-6, abs=1e-6) if words else None)
    assert rated("readability", {}, text=[" ".join(document) for document in documents])[0] == expected


def test_a_text_without_a_word_has_no_grade() -> None:
    assert rated("readability", {}, text=["", "1 + 1 = 2.", "\u0301", "a"])[1] == [*["not_applicable"] * 3, "ok"]


def test_readability_counts_syllables_in_the_language_it_is_told() -> None:
    word = pa.array(["Fußballweltmeisterschaft"])
    assert rated("readability", {"language": "de_DE"}, text=word) != rated("readability", {}, text=word)
    with pytest.raises(PolicyError, match=r"pyphen has no language 'en_UX'\. Did you mean 'en_US'\?"):
        plugins.make("raters", "readability", {"language": "en_UX"}, "rate.0")


def test_pyphen_is_not_left_to_remember_every_word_of_a_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selector.rate.readability._REMEMBERED_WORDS", 2)
    for batch in (["one two three four"], ["five six"], ["seven"]):
        rated("readability", {}, text=batch)
    assert len(typing.cast(Any, pyphen.Pyphen(lang="en_US")).hd.cache) <= 3


@pytest.mark.parametrize(
    ("unit", "lengths"), [("words", [3, 0, 1]), ("characters", [12, 1, 3]), ("tokens", [7, 8, 9]), ("bytes", [1, 2, 3])]
)
def test_length_is_counted_in_the_unit_asked_for(unit: str, lengths: list[float]) -> None:
    columns = {"num_tokens": [7, 8, 9], "num_bytes": [1, 2, 3], "text": ["can't do, no", "\u2003", "日本語"]}
    assert rated("length", {"unit": unit}, **columns) == (lengths, ["ok"] * 3)


def test_prototypicality_is_highest_at_the_centroid() -> None:
    assert rated("prototypicality", {}, distance=pa.array([0.0, 0.5], pa.float32())) == ([0.0, -0.5], ["ok", "ok"])


@pytest.mark.parametrize(
    ("values", "numbers", "states"),
    [
        (pa.array([3, None, -(2**62)]), [3.0, None, -(2.0**62)], "ok missing ok"),
        (pa.array([2**64 - 1], pa.uint64()), [2.0**64], "ok"),
        (pa.array([0.5, None, float("nan"), float("-inf")]), [0.5, None, None, None], "ok missing failed failed"),
        (pa.array([True, False, None]), [1.0, 0.0, None], "ok ok missing"),
        (pa.array(["1.5", " 2 ", '"3"', "1e2", "true"]), [1.5, 2.0, 3.0, 100.0, 1.0], "ok ok ok ok ok"),
        (pa.array(["null", "", None]), [None] * 3, "missing missing missing"),
        (pa.array(["good", "[1]", "1,5", "1e999", "NaN"]), [None] * 5, "failed failed failed failed failed"),
        (pa.array(["4", "x", None]).dictionary_encode(), [4.0, None, None], "ok failed missing"),
        (pa.array(["5"], pa.json_()), [5.0], "ok"),
        (pa.array([[1.0], None]), [None, None], "failed missing"),
        (pa.array([1, None], pa.date32()), [None, None], "failed missing"),
        (pa.array([b"1"]), [None], "failed"),
        (pa.nulls(1), [None], "missing"),
    ],
)
def test_a_column_is_a_score_wherever_it_holds_a_number(values: pa.Array, numbers: list[Any], states: str) -> None:
    options = {"column": "stars", "higher_is": "better"}
    assert rated("column", options, corpus_stars=values) == (numbers, states.split())


def test_the_score_of_a_column_has_its_name_and_the_meaning_it_was_given() -> None:
    rater = plugins.make("raters", "column", {"column": "stars", "higher_is": "rarer"}, "rate.0")
    assert rater.needs == ("corpus.stars",)
    assert rater.scores("column") == {"stars": "rarer"}
    with pytest.raises(PolicyError, match="higher_is is missing: column cannot do without it"):
        plugins.make("raters", "column", {"column": "stars"}, "rate.0")


# ---------------------------------------------------------------- proof of value


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the labelled sentences are not at {DATA}")
def test_readability_follows_the_levels_that_people_gave() -> None:
    lines = (DATA / "difficulty/cefr_sp_wiki_train.jsonl").read_text("utf-8").splitlines()
    sentences: list[dict[str, Any]] = [json.loads(line) for line in lines]
    level = np.array([(sentence["a"] + sentence["b"]) / 2 for sentence in sentences], np.float32)
    text = pa.array([sentence["text"] for sentence in sentences])
    score = {name: np.array(rated(name, {}, text=text)[0], np.float32) for name in ("readability", "length")}
    found = {name: spearman(of, level) for name, of in score.items()}
    resamples = np.random.default_rng(0).integers(len(level), size=(1000, len(level)))
    drawn = {name: np.array([spearman(of[i], level[i]) for i in resamples]) for name, of in score.items()}
    found["difference"] = found["readability"] - found["length"]
    drawn["difference"] = drawn["readability"] - drawn["length"]
    low, high = (dict(zip(drawn, np.quantile(list(drawn.values()), q, axis=1), strict=True)) for q in (0.025, 0.975))
    for name in found:
        print(f"Spearman with the mean CEFR level, {name}: {found[name]:.3f} [{low[name]:.3f}, {high[name]:.3f}]")
    assert low["readability"] > 0


def spearman(a: Float32, b: Float32) -> float:
    ranks = np.array([pl.Series(values).rank("average").to_numpy() for values in (a, b)])
    correlation: npt.NDArray[np.float64] = np.corrcoef(ranks)
    return float(correlation[0, 1])
