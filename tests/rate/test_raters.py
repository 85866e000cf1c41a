"""What each of our raters says of a few documents, and how well readability follows what people say."""

import datetime
import json
import typing
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyphen
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector import plugins, tables
from selector.errors import CorpusError, PolicyError
from selector.exact import Float32
from selector.rate import Rater
from selector.rate._answer import ratings_table

DATA = Path(__file__).parents[3] / "shared/data"


def ids(num_rows: int) -> pa.Array:
    return pa.array([i.to_bytes(16, "big") for i in range(num_rows)], tables.DOC_ID)


def rated(name: str, options: dict[str, Any], **columns: Any) -> tuple[list[Any], list[str]]:
    """The first score and the states that a rater gives."""
    arrays = {key.replace("corpus_", "corpus."): value for key, value in columns.items()}
    batch = pa.record_batch({"doc_id": ids(len(next(iter(arrays.values())))), **arrays})
    table = ratings_table(plugins.make("raters", name, options, "rate.0", Rater), name, batch)
    return table.column(1).to_pylist(), table.column(2).to_pylist()


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("The cat sat on the mat.", 0.39 * 6 + 11.8 * 6 / 6 - 15.59),
        ("Reading is important.", 0.39 * 3 + 11.8 * (2 + 1 + 3) / 3 - 15.59),
        ("I can\u2019t stop. She can't stop!", 0.39 * 6 / 2 + 11.8 * 6 / 6 - 15.59),
        ("What?! No... yes", 0.39 * 3 / 2 + 11.8 * 3 / 3 - 15.59),
        ("Beautiful people, without a full stop", 0.39 * 6 + 11.8 * (3 + 2 + 2 + 1 + 1 + 1) / 6 - 15.59),
        ("In 1975 it had 2 'rules'", 0.39 * 4 + 11.8 * 4 / 4 - 15.59),
        ("An idea, walked or wanted", 0.39 * 5 + 11.8 * (1 + 2 + 1 + 1 + 2) / 5 - 15.59),
        ("It is 3.14, see example.com.", 0.39 * 5 + 11.8 * (1 + 1 + 1 + 3 + 1) / 5 - 15.59),
        ("He said \u201cno.\u201d So what?", 0.39 * 5 / 2 + 11.8 * 5 / 5 - 15.59),
    ],
)
def test_readability_is_the_flesch_kincaid_grade(text: str, grade: float) -> None:
    assert rated("readability", {}, text=[text])[0] == [pytest.approx(grade, abs=2e-6)]


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
    word = pa.array(["Behörde"])
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


NOON = datetime.datetime(2024, 1, 31, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("values", "numbers", "states"),
    [
        (pa.array([3, None, -(2**62) - 1]), [3, None, -(2**62) - 1], "ok missing ok"),
        (pa.array([20240131, 20240132]), [20240131, 20240132], "ok ok"),
        (pa.array([2**63 - 1], pa.uint64()), [2**63 - 1], "ok"),
        (pa.array([Decimal("0.10"), None]), [Decimal("0.10"), None], "ok missing"),
        (pa.array([datetime.date(2024, 1, 31), None]), [datetime.date(2024, 1, 31), None], "ok missing"),
        (pa.array([NOON, None], pa.timestamp("s", "UTC")), [NOON, None], "ok missing"),
        (pa.array([0.5, None, float("nan"), float("-inf")]), [0.5, None, None, None], "ok missing failed failed"),
        (pa.array([True, False, None]), [1.0, 0.0, None], "ok ok missing"),
        (pa.array(["1.5", " 2 ", '"3"', "1e2", "true"]), [1.5, 2.0, 3.0, 100.0, 1.0], "ok ok ok ok ok"),
        (pa.array(["null", "", None]), [None] * 3, "missing missing missing"),
        (pa.array(["good", "[1]", "1,5", "1e999", "NaN"]), [None] * 5, "failed failed failed failed failed"),
        (pa.array(["4", "x", None]).dictionary_encode(), [4.0, None, None], "ok failed missing"),
        (pa.array(["5"], pa.json_()), [5.0], "ok"),
        (pa.array([[1.0], None]), [None, None], "failed missing"),
        (pa.array([1, None], pa.time32("s")), [None, None], "failed missing"),
        (pa.array([b"1"]), [None], "failed"),
        (pa.nulls(1), [None], "missing"),
    ],
)
def test_a_column_is_a_score_wherever_it_holds_a_number(values: pa.Array, numbers: list[Any], states: str) -> None:
    options = {"column": "stars", "higher_is": "better"}
    assert rated("column", options, corpus_stars=values) == (numbers, states.split())


@pytest.mark.parametrize(
    ("texts", "rounded"),
    [
        (["1000000", "-2000000", "16777216", "1234567.8", "1.2345678e7"], None),
        (["5", "20240701"], "20240701"),
        (["-16777217"], "-16777217"),
        (['"9007199254740993"'], "9007199254740993"),
        (["1" * 400], "1" * 400),
    ],
)
def test_text_that_spells_whole_numbers_is_refused_where_a_score_would_round_them(
    texts: list[str], rounded: str | None
) -> None:
    options, values = {"column": "day", "higher_is": "better"}, pa.array(texts)
    if rounded is None:
        assert rated("column", options, corpus_day=values)[1] == ["ok"] * len(texts)
        return
    with pytest.raises(
        CorpusError, match=rf"^The column 'day' of the corpus is text that spells .* as '{rounded}', and"
    ):
        rated("column", options, corpus_day=values)


@pytest.mark.parametrize(
    ("values", "words", "states"),
    [
        (pa.array([" law", "", None, "3"]), [" law", None, None, "3"], "ok missing missing ok"),
        (pa.array(["law", None, " "]).dictionary_encode(), ["law", None, None], "ok missing missing"),
        (pa.array([7, None]), ["7", None], "ok missing"),
        (pa.array([True, None]), ["true", None], "ok missing"),
        (pa.array([0.5, None]), [None, None], "failed missing"),
        (pa.nulls(1), [None], "missing"),
    ],
)
def test_a_column_is_a_label_if_it_is_said_to_be_one(values: pa.Array, words: list[Any], states: str) -> None:
    options = {"column": "topic", "higher_is": "label"}
    assert rated("column", options, corpus_topic=values) == (words, states.split())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([2**63], pa.uint64()), "uint64, and a score holds whole numbers up to 9223372036854775807"),
        (pa.array([Decimal(1)], pa.decimal128(38, 2)), r"decimal128\(38, 2\), .* decimals of at most 18 digits"),
    ],
)
def test_a_column_that_no_score_can_hold_is_refused_by_name(values: pa.Array, message: str) -> None:
    with pytest.raises(CorpusError, match=rf"^The column 'price' of the corpus is {message}\. Write it"):
        rated("column", {"column": "price", "higher_is": "better"}, corpus_price=values)


def test_the_score_of_a_column_has_its_name_and_the_meaning_it_was_given() -> None:
    rater = plugins.make("raters", "column", {"column": "stars", "higher_is": "rarer"}, "rate.0", Rater)
    assert rater.needs == ("corpus.stars",)
    assert rater.scores("column") == {"stars": "rarer"}
    with pytest.raises(PolicyError, match="higher_is is missing: column cannot do without it"):
        plugins.make("raters", "column", {"column": "stars"}, "rate.0")


# ---------------------------------------------------------------- proof of value


@pytest.mark.slow
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
