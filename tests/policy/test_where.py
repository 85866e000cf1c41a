"""A rule: an SQL condition on one document, checked before any work, that never stops a run later on."""

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector.errors import PolicyError
from selector.plugins.catalogue import RULE_COLUMNS, Catalogue
from selector.policy.where import Rule
from selector.rate.readability import Readability

SCORES = Catalogue.of({"readability": Readability()})
NONE = Catalogue()


def passed(text: str, **columns: Any) -> list[bool]:
    return Rule.of(text, SCORES).test(pa.table(columns)).tolist()


def test_a_rule_knows_which_columns_it_reads_and_whose_they_are() -> None:
    rule = Rule.of("num_tokens >= 32 AND source = 'web' AND readability < 9 AND lang = 'en' AND edu > 3", SCORES)
    steps = {column.name: column.step for column in rule.columns}
    assert steps == {
        "num_tokens": "dedup", "source": "dedup", "readability": "rate/readability", "lang": "columns", "edu": "columns"
    }  # fmt: skip
    assert rule.corpus_columns == ("edu", "lang") and rule.kinds == (pl.Float64, pl.String)
    assert Rule.of('"odd name" IS NOT NULL', NONE).corpus_columns == ("odd name",)
    for name in RULE_COLUMNS:
        assert Rule.of(f"{name} IS NOT NULL", NONE).columns == (NONE.find(name, "select.where"),)


def test_a_rule_may_name_a_column_by_its_long_name() -> None:
    text = "score.readability < 9 AND corpus.readability = 'easy' AND corpus.meta.lang = 'en'"
    rule = Rule.of(text, SCORES)
    found = {column.name: (column.step, column.column) for column in rule.columns}
    assert found == {
        "score.readability": ("rate/readability", "readability"),
        "corpus.readability": ("columns", "readability"),
        "corpus.meta.lang": ("columns", "meta.lang"),
    }
    columns = {"score.readability": [3.0, 12.0], "corpus.readability": ["easy"] * 2, "corpus.meta.lang": ["en"] * 2}
    assert passed(text, **columns) == [True, False]
    with pytest.raises(PolicyError, match=r"select\.where: no rater gives the score 'score\.edu'\. There is"):
        Rule.of("score.edu > 3", SCORES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("num_tokens >= 3", [False, True, True]),
        ("NOT num_tokens >= 3", [True, False, False]),
        ("source = 'web'", [True, False, True]),
        ("source IN ('web', 'books')", [True, True, True]),
        ("source LIKE 'b%' OR num_tokens > 3", [False, True, True]),
        ("num_tokens BETWEEN 3 AND 4", [False, True, True]),
        ("lang = 'en'", [True, False, False]),
        ("lang <> 'en'", [False, False, True]),
        ("COALESCE(lang, 'en') = 'en'", [True, True, False]),
        ("edu > 2 AND NOT flag", [False, False, True]),
        ("TRY_CAST(lang AS DOUBLE) IS NULL", [True, True, True]),
        ("CASE WHEN source = 'web' THEN edu > 2 ELSE true END", [False, True, True]),
        ("num_tokens / 0 > 1", [True, True, True]),
        ("cluster = 1 AND source <> 'cluster'", [True, False, False]),
    ],
)
def test_a_document_passes_if_the_condition_is_true_of_it(text: str, expected: list[bool]) -> None:
    columns: dict[str, Any] = {
        "source": pa.array(["web", "books", "web"]).dictionary_encode(),
        "num_tokens": pa.array([2, 3, 4], pa.uint32()),
        "cluster": pa.array([1, 2, 3], pa.int32()),
        "lang": ["en", None, "de"],
        "edu": [1.0, 2.0, 3.0],
        "flag": [True, None, False],
    }
    assert passed(text, **columns) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_tokens >=", r"'num_tokens >=' is not an SQL condition: "),
        ("*", "is not an SQL condition"),
        ("", "is not an SQL condition"),
        ("num_tokens > 3; DROP TABLE x", "is not an SQL condition"),
        ("rand() > num_tokens", "is not an SQL condition: unsupported function 'rand'"),
        ("__import__('os') = num_tokens", "is not an SQL condition"),
        ("1 = 1", r"'1 = 1' names no column\. Write e\.g\. num_tokens >= 32\."),
        ("num_tokens", r"'num_tokens' is UInt32, not true or false\. Write a comparison\."),
        ("readability * 2", "is Float32, not true or false"),
        ("CASE WHEN num_tokens > 3 THEN 1 END", "is Int32, not true or false"),
        ("source >= 3", r"does not fit the columns source \(String\): cannot compare string with numeric"),
        ("num_tokens > 'x'", r"does not fit the columns num_tokens \(UInt32\)"),
        ("group > 3", "A column whose name is an SQL word goes into double quotes"),
        ("source ~ '('", "regex parse error"),
        ("num_tokens IN (SELECT 1)", r"SELECT asks for other documents, and a rule sees one at a time\. Compare"),
        ("(SELECT * FROM read_csv('/etc/passwd'))", "SELECT asks for other documents"),
        ("num_tokens > AVG(num_tokens)", "AVG asks for other documents"),
        ("num_tokens > 3 AND sum (num_tokens) > 3", "sum asks for other documents"),
        ("COUNT(*) > num_tokens", "COUNT asks for other documents"),
        ("ROW_NUMBER() OVER () > 2 AND num_tokens > 1", "OVER asks for other documents"),
        ("quantile_cont(num_tokens, 0.5) > 2 AND num_tokens > 2", "quantile_cont asks for other documents"),
        (" AND ".join(f"{name} = 1" for name in "abcdefghi"), "reads 9 columns of the corpus, and 8 are the most"),
        ("(" * 9000 + "num_tokens" + ")" * 9000 + " > 3", "is not an SQL condition"),
    ],
    ids=lambda value: value[:40],
)  # fmt: skip
def test_what_is_no_condition_on_one_document_is_refused(text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=rf"^select\.where: .*{message}") as refused:
        Rule.of(text, SCORES)
    assert len(str(refused.value)) < 700, "a long rule does not fill the screen"


@pytest.mark.parametrize(
    "text", ["source = 'sum(x)'", "source = 'select'", "over > 3", '"max" > 3', "greatest(a, b) > 3"]
)
def test_words_that_only_look_like_other_documents_are_allowed(text: str) -> None:
    assert Rule.of(text, NONE).text == text


def test_a_rule_that_does_not_fit_the_types_of_the_corpus_is_refused_before_any_work() -> None:
    rule = Rule.of("num_tokens > 3 AND edu >= 3 AND lang = 'en'", NONE)
    numbers, words, nothing = pa.array([1.0]), pa.array(["en"]), pa.nulls(1)
    rule.check({"edu": numbers, "lang": words})
    rule.check({"edu": nothing, "lang": nothing})
    rule.check({"lang": words})
    with pytest.raises(PolicyError, match=r"does not fit the columns .*edu \(String\), lang \(String\)"):
        rule.check({"edu": words, "lang": words})
    with pytest.raises(PolicyError, match=r"does not fit the columns .*lang \(Float64\)"):
        rule.check({"edu": numbers, "lang": numbers})


ODD = [[None, None], ["3", "n/a"], [3.0, None], [True, False], [None, "4"]]


@pytest.mark.parametrize("edu", ODD)
@pytest.mark.parametrize("lang", ODD)
def test_a_part_whose_values_are_of_another_type_never_stops_a_run(edu: list[Any], lang: list[Any]) -> None:
    rule = Rule.of("edu >= 3 AND STARTS_WITH(lang, 'e')", NONE)
    table = pa.table({"edu": pa.array(edu), "lang": pa.array(lang)})
    assert rule.test(table).tolist() == [False, False]
    assert Rule.of("edu >= 3", NONE).test(table).tolist() == [
        value is not None and not isinstance(value, bool) and value != "n/a" for value in edu
    ]


NUMBERS = st.one_of(st.none(), st.integers(0, 100))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=30), st.integers(0, 100), st.data())
def test_whether_a_document_passes_does_not_depend_on_its_neighbours(
    rows: list[tuple[int | None, int | None]], least: int, data: st.DataObject
) -> None:
    rule = Rule.of(f"num_tokens >= {least} AND (edu > 50 OR edu IS NULL)", NONE)
    columns = [pa.array([row[0] for row in rows], pa.uint32()), pa.array([row[1] for row in rows], pa.float64())]
    table = pa.table(columns, names=["num_tokens", "edu"])
    expected = [a is not None and a >= least and (b is None or b > 50) for a, b in rows]
    assert rule.test(table).tolist() == expected
    cut = data.draw(st.integers(0, len(rows)))
    halves = [rule.test(table.slice(0, cut)), rule.test(table.slice(cut))]
    assert np.concatenate(halves).tolist() == expected
