"""A policy: what it says when it says little, who has the last word, and how it is written."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from command import with_value
from selector.errors import PolicyError
from selector.exact.spend import Budget
from selector.policy import Policy, read

LEAST: dict[str, Any] = {"corpus": {"paths": ["web/*.jsonl"]}, "select": {"budget": {"tokens": 1000}}}


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "policy.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_every_key_has_a_default_but_the_paths_and_the_budget() -> None:
    assert Policy.of(LEAST).resolved() == {
        "seed": 0,
        "corpus": {
            "paths": ["web/*.jsonl"],
            "format": None,
            "text": "text",
            "key": None,
            "source": "source",
            "tokenizer": None,
            "max_document_bytes": 1 << 20,
            "most_lost": None,
            "rows_per_part": None,
            "keep_texts": True,
        },
        "embed": {"model": "all-MiniLM-L6-v2", "max_tokens": 256, "long_documents": "mean", "precision": "auto"},
        "cluster": {
            "num_clusters": "auto",
            "iterations": 25,
            "documents_per_cluster": 512,
            "num_neighbours": 32,
            "kind": "euclidean",
            "start": "sampled",
            "restarts": 1,
            "levels": [],
            "from": None,
            "gates": "warn",
        },
        "rate": [],
        "select": {
            "where": None,
            "budget": {"documents": None, "tokens": 1000, "fraction": None, "overshoot": "stop"},
            "using": {"random": {}},
            "missing": "drop",
            "shares": {},
            "visits": None,
            "include": [],
            "exclude": [],
            "allow_empty": False,
        },
        "training": None,
        "order": {"using": {"shuffled": {}}, "parent": None},
        "manifest": {"difficulty": None, "quality": None},
    }
    for key in ("corpus", "select", "corpus.paths", "select.budget"):
        section, _, inner = key.partition(".")
        less = {**LEAST, section: {}} if inner else {name: LEAST[name] for name in LEAST if name != section}
        with pytest.raises(PolicyError, match=rf"^{re.escape(key)} is missing\. It has no default"):
            Policy.of(less)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        (1, 1),
        ("10_000", 10_000),
        ("200k", 200_000),
        ("200K", 200_000),
        ("1.5M", 1_500_000),
        ("30B", 30 * 10**9),
        ("30G", 30 * 10**9),
        ("0.5T", 5 * 10**11),
        (" 7 M ", 7_000_000),
        (1e9, 10**9),
        ("0.1k", 100),
    ],
)
def test_an_amount_is_a_whole_number_with_or_without_a_letter(written: Any, number: int) -> None:
    policy = Policy.of(with_value(LEAST, "select.budget", {"tokens": written}))
    assert policy.select.budget.of(10**12) == Budget(amount=number, unit="tokens")


@pytest.mark.parametrize("written", ["abc", "10X", "1.5", "1e3", "1.0001k", "-5", "5 5", "", "k", "٣", 1.5, True, [1]])
def test_anything_else_is_no_amount(written: Any) -> None:
    with pytest.raises(PolicyError, match=r"^select\.budget\.tokens: .*; it is "):
        Policy.of(with_value(LEAST, "select.budget", {"tokens": written}))


@given(st.integers(1, 10**15), st.floats(1e-6, 1, exclude_min=True))
def test_a_fraction_is_taken_as_the_decimal_that_is_written(num_tokens: int, fraction: float) -> None:
    from fractions import Fraction

    policy = Policy.of(with_value(LEAST, "select.budget", {"fraction": fraction}))
    assert policy.select.budget.of(num_tokens).amount == int(Fraction(str(fraction)) * num_tokens)


def test_the_command_line_beats_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump({**LEAST, "seed": 1}))
    environment = {"SELECTOR_SEED": "2", "SELECTOR_SELECT__BUDGET__DOCUMENTS": "5k", "SELECTOR_ROOT": "elsewhere"}
    assert Policy.load(path, environment={}).seed == 1
    from_environment = Policy.load(path, environment=environment)
    assert from_environment.seed == 2
    assert from_environment.select.budget.of(0) == Budget(amount=5000, unit="documents")
    overrides = ["seed=3", "select.budget.fraction=0.5", "order.using={by_score: {score: length}}", "rate=[length]"]
    told = Policy.load(path, overrides, environment)
    assert (told.seed, told.select.budget.fraction, told.select.budget.documents) == (3, 0.5, None)
    assert told.order.using.options == {"score": "length"} and told.rate[0].name == "length"


def test_a_value_on_the_command_line_is_yaml_and_what_it_says_last_counts(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump(LEAST))
    overrides = ["seed=1", "seed=2", "select.where=source = 'web' AND num_tokens > 3", "corpus.key=", "corpus.text=no"]
    policy = Policy.load(path, overrides, {})
    assert (policy.seed, policy.corpus.key, policy.corpus.text) == (2, None, "no")
    assert policy.select.where == "source = 'web' AND num_tokens > 3"
    assert Policy.load(path, ["corpus.paths=b.jsonl"], {}).corpus.paths == ("b.jsonl",)


def test_the_resolved_policy_does_not_depend_on_how_paths_are_listed() -> None:
    listings: list[Any] = [["b/x.jsonl", "a.jsonl"], ["a.jsonl", "./b//x.jsonl"], ["a.jsonl", "b/x.jsonl", "a.jsonl"]]
    resolved = [Policy.of(with_value(LEAST, "corpus.paths", paths)).resolved() for paths in listings]
    assert resolved[0] == resolved[1] == resolved[2]
    assert resolved[0]["corpus"]["paths"] == ["a.jsonl", "b/x.jsonl"]
    assert Policy.of(with_value(LEAST, "corpus.paths", "a.jsonl")).corpus.paths == ("a.jsonl",)


FULL: Mapping[str, Any] = {
    **LEAST,
    "seed": 7,
    "rate": ["readability", {"length": {"unit": "tokens"}}, {"column": {"column": "edu", "higher_is": "better"}}],
    "select": {
        "where": "num_tokens >= 32 AND language = 'en'",
        "budget": {"tokens": "30B", "overshoot": "fill"},
        "using": {"kmeans_quality": {"score": "edu", "temperature": 2}},
        "missing": "impute",
    },
    "order": {"using": {"interleaved": {"by": "cluster", "score": "readability"}}},
    "manifest": {"difficulty": "readability", "quality": "edu"},
}


def test_the_resolved_policy_is_a_policy_that_says_the_same(tmp_path: Path) -> None:
    resolved = Policy.of(FULL).resolved()
    assert Policy.of(resolved).resolved() == resolved
    assert Policy.load(write(tmp_path, yaml.safe_dump(resolved)), environment={}).resolved() == resolved
    assert resolved["rate"][1] == {"length": {"unit": "tokens"}}
    assert resolved["order"]["using"]["interleaved"]["rounds"] == 3, "defaults of plug-ins are spelt out"


DESIGN = """
# yaml-language-server: $schema=../schemas/policy.schema.json
seed: 7
corpus:
  paths: ["web/*.parquet", "instruct/*.jsonl.gz"]
  text: text                    # a column, or a template: "{instruction}\\n{input}\\n{output}"; chat lists are rendered
  source: source                # a column, or a constant per path
embed: {model: all-MiniLM-L6-v2, max_tokens: 256, long_documents: mean}
cluster: {num_clusters: 1024}   # or auto, with the evidence printed
rate:
  - readability: {}
select:
  where: "num_tokens >= 32 AND language = 'en'"
  budget: {tokens: 30B}         # or documents: 10_000, or fraction: 0.1 ; overshoot: stop
  using: {kmeans_quality: {score: readability, temperature: 2.0}}
order:
  using: {by_score: {score: readability}}
"""


def test_the_policy_of_the_design_can_be_read(tmp_path: Path) -> None:
    policy = Policy.load(write(tmp_path, DESIGN), environment={})
    assert policy.cluster.num_clusters == 1024
    assert policy.select.budget.of(10**12) == Budget(amount=30 * 10**9, unit="tokens")
    assert policy.select.using.options == {"score": "readability", "temperature": 2.0}
    more = DESIGN.replace("  - readability: {}", "  - readability: {}\n  - perplexity: {model: ./models/small-lm}")
    assert "perplexity" in Policy.load(write(tmp_path, more), environment={}).plugins.raters
    unknown = more.replace("perplexity", "surprise")
    with pytest.raises(PolicyError, match=r"^There is no rater called 'surprise'\. "):
        Policy.load(write(tmp_path, unknown), environment={})
    saw = DESIGN.replace("{by_score: {score: readability}}", "{saw: {score: readability, sections: 3}}")
    options = Policy.load(write(tmp_path, saw), environment={}).order.using.options
    assert options == {"score": "readability", "sections": 3}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"),
        ("NO", "NO"),
        ("on", "on"),
        ("y", "y"),
        ("true", True),
        ("012", 12),
        ("0o14", "0o14"),
        ("0x1f", "0x1f"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", 1000),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("1.5M", "1.5M"),
        ("~", None),
        ("", None),
        ("'12'", "12"),
        ("=", "="),
        ("{a: [1, b], c: {d: }}", {"a": [1, "b"], "c": {"d": None}}),
        ("{1: x, null: y}", {"1": "x", "null": "y"}),
    ],
)
def test_yaml_means_what_it_says(written: str, value: Any, tmp_path: Path) -> None:
    found = read(write(tmp_path, f"it: {written}\n"), (), {})["it"]
    assert found == value and type(found) is type(value)


def test_a_policy_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert read(write(tmp_path, b"\xef\xbb\xbfseed: 3\n"), (), {}) == {"seed": 3}


def test_white_space_of_a_template_is_kept() -> None:
    assert Policy.of(with_value(LEAST, "corpus.text", "{a}\n{b}\n")).corpus.text == "{a}\n{b}\n"


def test_two_raters_may_share_a_class_but_not_a_score() -> None:
    columns = [{"column": {"column": name, "higher_is": "better"}} for name in ("edu", "fun")]
    assert list(Policy.of({**LEAST, "rate": columns}).plugins.raters) == ["edu", "fun"]
    with pytest.raises(PolicyError, match=r"^rate\.1: 'edu' is there already\. Remove one, or give it another name: "):
        Policy.of({**LEAST, "rate": [columns[0], columns[0]]})


def test_a_rater_that_is_there_twice_needs_two_names() -> None:
    words, tokens = {"length": {"unit": "words"}}, {"length": {"unit": "tokens"}}
    with pytest.raises(
        PolicyError,
        match=r"^rate\.1: 'length' is there already\. Remove one, or give it another name: "
        r"\{length: \{…\}, as: length_2\}\.$",
    ):
        Policy.of({**LEAST, "rate": [words, tokens]})
    policy = Policy.of({**LEAST, "rate": [words, {**tokens, "as": "length_2"}]})
    assert list(policy.plugins.raters) == ["length", "length_2"]
    resolved = policy.resolved()
    assert resolved["rate"] == [words, {**tokens, "as": "length_2"}]
    assert Policy.of(resolved).resolved() == resolved
    for alias in ("two words", "", 3, "a.b", None):
        with pytest.raises(PolicyError, match=r"^rate\.1: after as, write a word of letters, digits and _"):
            Policy.of({**LEAST, "rate": [words, {**tokens, "as": alias}]})


def test_a_column_of_the_corpus_may_be_two_scores() -> None:
    edu = {"column": {"column": "edu", "higher_is": "better"}}
    word = {"column": {"column": "edu", "higher_is": "label"}, "as": "word"}
    raters = Policy.of({**LEAST, "rate": [edu, word]}).plugins.raters
    assert {label: rater.scores(label) for label, rater in raters.items()} == {
        "edu": {"edu": "better"},
        "word": {"word": "label"},
    }


def test_a_policy_cannot_be_changed_once_it_is_made() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Policy.of(LEAST).seed = 3  # pyright: ignore[reportAttributeAccessIssue]
