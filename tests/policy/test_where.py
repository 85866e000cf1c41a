"""A rule: an SQL condition on one document, checked before any work, that never stops a run later on."""

import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector.corpus import values
from selector.errors import PolicyError
from selector.plugins.catalogue import RULE_COLUMNS, Catalogue
from selector.policy.where import Rule
from selector.rate.column import Column as CorpusColumn
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
    assert rule.corpus_columns == ("edu", "lang")
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
        ("num_tokens / 0 > 1", [False, False, False]),
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
        ("num_tokens", r"'num_tokens' is BIGINT, not true or false\. Write a comparison\."),
        ("readability * 2", "is DOUBLE, not true or false"),
        ("CASE WHEN num_tokens > 3 THEN 1 END", "is INTEGER, not true or false"),
        ("source >= 3", r"does not fit the columns source \(text\): it compares text \(VARCHAR\) with a number"),
        ("num_tokens > 'x'", r"does not fit the columns num_tokens \(uint32\): 'x' is not a number"),
        ("group > 3", "A column whose name is an SQL word goes into double quotes"),
        ("source ~ '('", r"missing \)"),
        ("num_tokens IN (SELECT 1)", r"SELECT asks for other documents, and a rule sees one at a time\. Compare"),
        ("(SELECT * FROM read_csv('/etc/passwd'))", "SELECT asks for other documents"),
        ("num_tokens > AVG(num_tokens)", "AVG asks for other documents"),
        ("num_tokens > 3 AND sum (num_tokens) > 3", "sum asks for other documents"),
        ("COUNT(*) > num_tokens", "COUNT asks for other documents"),
        ("ROW_NUMBER() OVER () > 2 AND num_tokens > 1", "OVER asks for other documents"),
        ("quantile_cont(num_tokens, 0.5) > 2 AND num_tokens > 2", "quantile_cont asks for other documents"),
        (" AND ".join(f"c{n} = 1" for n in range(101)), "reads 101 columns of the corpus, and 100 are the most"),
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


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("len(tags) = 3", False),
        ("tags[1] = 'en'", False),
        ("contains(tags, 'en')", False),
        ("list_contains(tags, 'en')", False),
        ("length(COALESCE(tags, '[]')) = 3", False),
        ("length(CASE WHEN n > 3 THEN tags END) = 3", False),
        ("tags || 'x' = 'y'", False),
        ("tags LIKE '%en%' AND tags NOT ILIKE '%de%' AND NOT tags SIMILAR TO 'x'", True),
        ("tags = '[1, 2]' OR tags IN ('[]', '[1]') OR tags IS NULL", True),
        ("json_array_length(tags) = 3 OR tags->>'$[0]' = 'en' OR json_contains(tags, '1')", True),
        ("length(CAST(tags AS VARCHAR)) = 3 AND CAST(tags AS VARCHAR)[1] = '['", True),
    ],
)
def test_only_functions_of_json_look_into_lists_and_objects(text: str, passes: bool) -> None:
    rule = Rule.of(f"({text}) AND n > 0", NONE)
    if passes:
        rule.check({"tags": values.JSON, "n": pa.int64()})
        return
    with pytest.raises(
        PolicyError, match=r"tags \(lists or objects\).* would see the JSON of lists or objects; write json_"
    ):
        rule.check({"tags": values.JSON, "n": pa.int64()})
    rule.check({"tags": pa.null(), "n": pa.int64()})


def test_a_list_is_asked_for_its_length_and_its_elements_by_functions_of_json() -> None:
    tags = ['["en", "de", "fr"]', "[]", None]
    assert passed("json_array_length(tags) = 3", tags=tags) == [True, False, False]
    assert passed("tags->>'$[0]' = 'en'", tags=tags) == [True, False, False]
    assert passed("json_contains(tags, '\"de\"')", tags=tags) == [True, False, False]


def test_any_number_of_columns_of_nothing_but_nulls_fits_any_function() -> None:
    text = (
        "year(a) = 2024 AND lower(b) = 'x' OR length(c) > 3 OR d + e > 0 OR starts_with(f, 'a')"
        " OR concat(a, b, c, d) > ''"
        " OR date_diff('day', a, b) > 3 OR greatest(a, b, c, d, e) > 1 OR substring(c, d, e) = 'x' OR a IS NULL"
    )
    assert passed(text, **{name: pa.nulls(2) for name in "abcdef"}) == [True, True]


def test_a_constant_that_the_decimal_beside_it_does_not_hold_is_refused() -> None:
    kind = pa.decimal128(38, 37)
    for text in ("COALESCE(p, 1000) > 5", "greatest(p, 1000) > 5", "CASE WHEN p > 1 THEN p ELSE 1000 END > 5"):
        with pytest.raises(PolicyError, match=r"\(1000\) has no place in DECIMAL\(38,37\).*; cast one of them"):
            Rule.of(text, NONE).check({"p": kind})


def test_a_rule_that_does_not_fit_the_types_of_the_corpus_is_refused_before_any_work() -> None:
    rule = Rule.of("num_tokens > 3 AND edu >= 3 AND lang = 'en'", NONE)
    number, word, nothing = pa.float64(), pa.string(), pa.null()
    rule.check({"edu": number, "lang": word})
    rule.check({"edu": nothing, "lang": nothing})
    rule.check({"lang": word})
    with pytest.raises(PolicyError, match=r"does not fit the columns edu \(text\), lang \(text\), num_tokens"):
        rule.check({"edu": word, "lang": word})
    with pytest.raises(PolicyError, match=r"does not fit the columns .*lang \(double\).*'en' is not a number"):
        rule.check({"edu": number, "lang": number})


@pytest.mark.parametrize("score", [pa.float32(), pa.int64(), pa.date32(), pa.timestamp("us"), pa.decimal128(9, 2)])
def test_a_rule_over_a_score_is_checked_once_its_type_is_known(score: pa.DataType) -> None:
    rule = Rule.of("readability = '2024-07-01' OR readability IS NULL", SCORES)
    table = pa.table({"readability": pa.array([None], score)})
    if pa.types.is_temporal(score):
        assert rule.test(table).tolist() == [True]
    else:
        with pytest.raises(PolicyError, match="'2024-07-01' is not a number"):
            rule.test(table)


NAMED = Catalogue.of({"edu": CorpusColumn(column="edu", higher_is="better")})


@pytest.mark.parametrize(
    ("values", "score", "expected"),
    [
        (pa.array([0.7, 0.1]), pa.array([0.69, 0.1], pa.float32()), [True, False]),
        (pa.array([2**53 + 1, 0]), pa.array([2**53 + 1, 0]), [True, False]),
        (pa.array(["0.9", "0.1"]), pa.array([0.9, 0.1], pa.float32()), [True, False]),
    ],
    ids=["floats", "integers", "text that spells numbers"],
)
def test_a_rule_and_a_rater_of_one_name_agree(values: pa.Array, score: pa.Array, expected: list[bool]) -> None:
    """The rule compares what the corpus holds, and not what is kept of it as a score."""
    rule = Rule.of("edu >= 0.7", NAMED)
    assert [(column.name, column.step) for column in rule.columns] == [("edu", "columns"), ("score.edu", "rate/edu")]
    assert rule.test(pa.table({"edu": values, "score.edu": score})).tolist() == expected


def test_a_column_is_cast_where_nothing_else_is_read_of_it() -> None:
    for text, uncast in (
        ("CAST(a AS VARCHAR) = '5'", set[str]()),
        ("a IS NULL OR a::INTEGER > 3", set[str]()),
        ("CAST(a AS VARCHAR) = '5' AND a > 3", {"a"}),
        ("a = b AND TRY_CAST(b AS DOUBLE) > 1", {"a", "b"}),
        ("a", {"a"}),
        ("corpus.a::INT = 1 AND meta.b IN (1)", {"meta.b"}),
    ):
        assert Rule.of(text, NONE).uncast_columns == uncast, text


@pytest.mark.parametrize(
    "name", ["at", "left", "window", "cluster", "date", "time", "user", "value", "row", "language"]
)
def test_a_column_may_be_called_what_few_take_for_a_word_of_sql(name: str) -> None:
    text = f"{name} IS NOT NULL AND {name} >= 3 OR NOT ({name} < 3)"
    table = pa.table({name: pa.array([1, 3, None], pa.int32())})
    assert Rule.of(text, NONE).test(table).tolist() == [False, True, False]


@pytest.mark.parametrize(
    "text",
    [
        "now() > a", "random() > a", "a > current_timestamp()", "getenv('HOME') = a", "version() = a", "uuid() = a",
        "current_setting('threads') = a", "nextval('x') = a", "pg_sleep(5) = a", "sleep_ms(9) = a", "query('x') = a",
        "a > ?", "a > $1", "#1 = a", "COLUMNS('a') > 3", "a) FROM x --", "a = 1, b = 2", "a ORDER BY a",
        "list_filter([a], lambda x: x > 1) = [1]", "CAST(a AS STRUCT(x INTEGER)) IS NULL", "default > a",
        "lag(a) > 1", "a > ALL (SELECT 1)", "EXISTS (SELECT 1)", "read_csv('x') = a",
    ],
)  # fmt: skip
def test_what_sees_more_than_a_document_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match=r"is not an SQL condition|asks for other documents"):
        Rule.of(text, NONE)


ZONES = {
    "nano": pa.array([1001, 5, 2**62, None], pa.timestamp("ns")),
    "nano_tokyo": pa.array([1001, 6, 2**62, 0], pa.timestamp("ns", "Asia/Tokyo")),
    "tokyo": pa.array([1, 0, 10**17, 0], pa.timestamp("us", "Asia/Tokyo")),
    "micro": pa.array([1, 0, 10**17, 0], pa.timestamp("us")),
    "day": pa.array([0, 0, 4_000_000, 0], pa.date32()),
}


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        ("nano = nano_tokyo", [0, 2]), ("nano < nano_tokyo", [1]), ("nano > tokyo", [0, 1]), ("nano < tokyo", [2]),
        ("micro = tokyo", [0, 1, 2, 3]), ("nano_tokyo > micro", [0, 1]), ("day < nano_tokyo", [0, 1]),
        ("day <= tokyo", [0, 1, 3]), ("nano_tokyo < '2300-01-01'", [0, 1, 2, 3]), ("nano < '2300-01-01'", [0, 1, 2]),
        ("nano_tokyo = '1970-01-01T09:00:00.000001001+09:00'", [0]), ("micro > '5000-01-01'", [2]),
    ],
)  # fmt: skip
def test_moments_are_compared_whatever_their_zone_and_unit(text: str, passing: list[int]) -> None:
    rule = Rule.of(text, NONE)
    table = pa.table({column.name: ZONES[column.name] for column in rule.columns})
    assert rule.test(table).nonzero()[0].tolist() == passing


@pytest.mark.slow
def test_a_rule_starts_no_thread() -> None:
    """One that is at work as the interpreter ends, or as the process forks, takes it down."""
    code = (
        "import os, pyarrow as pa\n"
        "from selector.plugins.catalogue import Catalogue\n"
        "from selector.policy.where import Rule\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "table, before = pa.table({'num_tokens': pa.array([1, 5])}), count()\n"
        "print(Rule.of('num_tokens > 3', Catalogue()).test(table).tolist(), count() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[False, True] 0\n" and not done.stderr


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
