"""Labels and what comes from outside: languages, topics and levels by a taxonomy, and columns of a keyed table."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from conftest import write_jsonl
from rated import scores_of
from runs import policy_of, write_corpus
from selector import plugins
from selector.cli.ratings import rate
from selector.engine.local import LocalExecutor
from selector.errors import PolicyError
from selector.exact import keyed
from selector.plugins import TextsPath, attached, replaced
from selector.policy import Policy
from selector.rate import Rater
from selector.rate._answer import ratings_table
from selector.testing import check_rater

# ---------------------------------------------------------------- languages

TEXTS = [
    "The quick brown fox jumps over the lazy dog and runs away.",
    "Der schnelle braune Fuchs springt über den faulen Hund und läuft davon.",
    "Ceci est une phrase écrite dans la langue française, sans aucun doute.",
    "これは日本語で書かれた文章です。",
    "1 + 1 = 2",
    "",
]


@pytest.mark.slow
def test_a_language_has_a_code_and_a_probability() -> None:
    answer = scores_of("language", text=TEXTS)
    assert answer["language"] == ["en", "de", "fr", "ja", None, None]
    assert all(0 < probability <= 1 for probability in answer["language_probability"][:4])
    assert answer["language.state"][4:] == ["not_applicable"] * 2
    two = scores_of("language", {"languages": ["en", "de"], "least": 1.1}, text=TEXTS[:3])
    assert two["language"] == ["und"] * 3
    of_two = scores_of("language", {"languages": ["en", "fr"]}, text=TEXTS[2:3])
    assert of_two["language"] == ["fr"] and of_two["language_probability"][0] > answer["language_probability"][2]


@pytest.mark.slow
def test_a_language_that_is_not_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rater: Any = plugins.make("raters", "language", {"languages": ["en", "xq"]}, "rate.0", object)
    with pytest.raises(PolicyError, match=r"Unknown language code\(s\): \{'xq'\}\. Write codes of ISO 639"):
        rater.prepare()
    with pytest.raises(PolicyError, match=r"languages is \['en'\]: name two or more"):
        plugins.make("raters", "language", {"languages": ["en"]}, "rate.0", object)
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    absent: Any = plugins.make("raters", "language", {"languages": ["en", "la"]}, "rate.0", object)
    with pytest.raises(PolicyError, match=r'Type: pip install "selector\[language\]"'):
        absent.prepare()


# ---------------------------------------------------------------- taxonomies

AXES = np.eye(4, dtype=np.float16)


def placed(angles: list[float]) -> list[Any]:
    """Unit vectors between the first two axes."""
    return [[np.float16(np.cos(a)), np.float16(np.sin(a)), np.float16(0), np.float16(0)] for a in np.radians(angles)]


def by_taxonomy(name: str, rows: dict[str, Any], angles: list[float], **options: Any) -> dict[str, list[Any]]:
    """What a rater says of documents at these angles, by a taxonomy of descriptions at others."""
    plugin: Any = plugins.make("raters", name, {"taxonomy": "t.jsonl", **options}, "rate.0", Rater)
    kind = pa.list_(pa.float16(), 4)
    described = {**rows, "embedding": pa.array(placed(rows.pop("angle")), kind)}
    rater = replaced(plugin, {"taxonomy": TextsPath("t.jsonl").attached(pa.table(described))})
    rater.prepare()
    ids = pa.array([i.to_bytes(16) for i in range(len(angles))], pa.binary(16))
    batch = pa.record_batch({"doc_id": ids, "embedding": pa.array(placed(angles), kind)})
    return ratings_table(rater, name, batch).to_pydict()


def test_a_topic_is_that_of_the_nearest_description() -> None:
    rows = {"text": ["a", "b", "c"], "label": ["law", "art", "law"], "angle": [0, 90, 60]}
    answer = by_taxonomy("topic", rows, [10, 80, 50, 0])
    assert answer["topic"] == ["law", "art", "law", "law"]
    cosine = np.cos(np.radians([10, 10, 10, 0]))
    assert answer["topic_similarity"] == pytest.approx(cosine.tolist(), abs=2e-3)
    assert answer["topic_margin"][3] == pytest.approx(1, abs=2e-3)
    one = by_taxonomy("topic", {"text": ["a"], "label": ["law"], "angle": [0]}, [10])
    assert one["topic"] == ["law"] and one["topic_margin"] == [None]


def test_a_level_is_between_those_of_the_nearest_descriptions() -> None:
    rows = {"text": ["a", "b"], "level": [1.0, 3.0], "angle": [0, 90]}
    low, middle, high = by_taxonomy("level", dict(rows), [0, 45, 90])["level"]
    assert (low, middle, high) == (pytest.approx(1, abs=1e-5), pytest.approx(2, abs=1e-2), pytest.approx(3, abs=1e-5))
    (warm,) = by_taxonomy("level", dict(rows), [0], temperature=1.0)["level"]
    assert warm == pytest.approx((1 + 3 * np.exp(-1)) / (1 + np.exp(-1)), rel=1e-3)
    with pytest.raises(PolicyError, match="the taxonomy has no rows"):
        by_taxonomy("level", {"text": pa.array([], pa.string()), "level": pa.array([], pa.float64()), "angle": []}, [0])
    with pytest.raises(PolicyError, match=r"a row of 't\.jsonl' has no level"):
        by_taxonomy("level", {"text": ["a"], "level": [float("nan")], "angle": [0]}, [0])


@pytest.mark.parametrize("name", ["stages", "thinking", "stages_and_thinking"])
def test_a_packaged_taxonomy_has_distinct_classes_in_order(name: str) -> None:
    rater = plugins.make("raters", "level", {"taxonomy": f"packaged:{name}"}, "rate.level", Rater)
    assert attached.checksums(rater, "rate.level")
    (option,) = plugins.options_of(rater, TextsPath)
    rows = attached.load(option, "rate.level").to_pydict()
    assert len(set(rows["text"])) == len(rows["text"]) == len(set(rows["label"]))
    assert rows["level"] == sorted(rows["level"])


def test_a_packaged_table_that_is_not_there_is_refused_by_name() -> None:
    rater = plugins.make("raters", "level", {"taxonomy": "packaged:stagse"}, "rate.level", Rater)
    with pytest.raises(PolicyError, match=r"there is no packaged table 'stagse'\. Did you mean 'stages'\?"):
        attached.checksums(rater, "rate.level")


# ---------------------------------------------------------------- tables


def of_table(folder: Path, rows: list[dict[str, Any]], column: str = "grade", higher_is: str = "better") -> Rater:
    """The rater of a table with these rows, attached."""
    path = folder / "table.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    options = {"table": str(path), "column": column, "higher_is": higher_is}
    rater = plugins.make("raters", "table", options, "rate.table", Rater)
    (option,) = plugins.options_of(rater, plugins.TablePath)
    return attached.attach(rater, {"table": attached.load(option, "rate.table")})


def test_a_table_is_joined_by_key_where_it_has_no_ids(tmp_path: Path) -> None:
    rater: Any = of_table(tmp_path, [{"key": "a", "grade": 1}, {"key": "b", "grade": None}])
    assert rater.table.table["doc_id"].to_pylist() == [keyed.digest(b"a"), keyed.digest(b"b")]
    assert rater.scores("table") == {"grade": "better"} and rater.scores("other") == {"other": "better"}
    numbered: Any = of_table(tmp_path, [{"key": 7, "grade": 1}])
    assert numbered.table.table["doc_id"].to_pylist() == [keyed.digest(b"7")]
    with pytest.raises(PolicyError, match=r"a column 'key' of double\. Write keys as text or whole numbers"):
        of_table(tmp_path, [{"key": 7.5, "grade": 1}])


def test_a_table_with_two_rows_for_a_document_or_without_the_column_is_refused(tmp_path: Path) -> None:
    for key, named in (("key", "'a'"), ("doc_id", "61" * 16)):
        rows = [{key: "a" if key == "key" else "61" * 16, "grade": grade} for grade in (1, 2)]
        options = {"table": str(write_jsonl(tmp_path / "twice.jsonl", rows)), "column": "grade", "higher_is": "better"}
        twice = plugins.make("raters", "table", options, "rate.mine", Rater)
        with pytest.raises(PolicyError, match=rf"^rate\.mine\.table: .*several rows for one document, such as {named}"):
            attached.checksums(twice, "rate.mine")
    with pytest.raises(PolicyError, match=r"has no column 'grade'\. Did you mean 'grades'\?"):
        of_table(tmp_path, [{"key": "a", "grades": 1}])
    with pytest.raises(PolicyError, match=r"has a column 'grade' that is not double"):
        of_table(tmp_path, [{"key": "a", "grade": "x"}])
    with pytest.raises(PolicyError, match=r"table\.column is 'doc_id': name the column"):
        of_table(tmp_path, [{"key": "a"}], column="doc_id")


@pytest.mark.slow
def test_the_laws_hold_for_a_table_of_numbers_and_one_of_words() -> None:
    for higher_is in ("rarer", "label"):
        check_rater("table", examples=10, higher_is=higher_is, column="grade")


@pytest.mark.slow
def test_a_run_says_how_many_documents_a_table_covers(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "corpus").mkdir()
    write_corpus(tmp_path / "corpus")
    table = tmp_path / "labels.jsonl"
    rows = [{"key": f"{source}", "grade": i, "word": "seen"} for i, source in enumerate(("web", "books"))]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    named = [
        {"table": {"table": str(table), "column": "grade", "higher_is": "better"}},
        {"table": {"table": str(table), "column": "word", "higher_is": "label"}, "as": "said"},
    ]
    select = {"budget": {"documents": 1}, "using": "random"}
    policy = policy_of(tmp_path / "corpus", tiny_model, rate=named, select=select, order={"using": "shuffled"})
    policy.pop("manifest", None)
    policy["corpus"]["key"] = "source"  # so few keys that most documents are duplicates of one
    rated = rate(Policy.of(policy), root=tmp_path / "root", executor=LocalExecutor(workers=1))
    counts = {score["name"]: (score["ok"], score["missing"]) for score in rated["scores"]}
    assert rated["documents"] == 3 and counts == {"grade": (2, 1), "said": (2, 1)}
