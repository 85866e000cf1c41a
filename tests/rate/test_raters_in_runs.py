"""Every rater of texts in one run: killed at its parts and resumed, and stopped where one of them cannot begin."""

from pathlib import Path
from typing import Any

import pytest

import command
from runs import Child, assert_killed, killed_at, policy_of, write_corpus
from selector.engine.store import Store

pytestmark = pytest.mark.slow

RATERS: list[Any] = [
    "length",
    "word_length",
    "sentence_length",
    "readability",
    "lexical_diversity",
    "compression",
    "instruction",
    "code_complexity",
    "heuristics",
    "language",
    "rarity",
    "token_prior",
    {"column": {"column": "edu", "higher_is": "better"}},
    {"calibrated": {"score": "edu", "higher_is": "better", "within": "source"}, "as": "grade"},
    {"calibrated": {"score": "rarity", "higher_is": "harder", "method": "quantile"}, "as": "rare"},
    {"combined": {"of": ["grade", "rare"], "weights": [1, -1], "higher_is": "better"}, "as": "sum"},
    {"mean_rank": {"of": ["sum", "word_length"], "higher_is": "better"}, "as": "rank"},
]


def policy(folder: Path, model: Path, raters: list[Any]) -> dict[str, Any]:
    corpus = folder / "corpus"
    if not corpus.exists():
        corpus.mkdir()
        write_corpus(corpus)
    using = {"top": {"score": "rank"}} if len(raters) > 1 else "random"
    sections = {"rate": raters, "select": {"budget": {"documents": 20}, "using": using}, "order": {"using": "shuffled"}}
    made = {key: value for key, value in policy_of(corpus, model, **sections).items() if key != "manifest"}
    return {**made, "corpus": {"paths": [str(corpus)], "rows_per_part": 40}}


def test_a_run_of_every_rater_that_is_killed_ends_at_the_same_digest(tmp_path: Path, tiny_model: Path) -> None:
    asked = policy(tmp_path, tiny_model, RATERS)
    calm = Child(asked, tmp_path / "calm", tmp_path / "calm.json")
    assert calm.wait() == 0
    told = calm.told()
    num_parts = told["reached"]["part.after_work"]
    assert num_parts > 3 * 6, "a part of each rater that does not share its texts is a place to die at"
    marker = tmp_path / "marker"
    environment = killed_at("part.after_work", num_parts // 2, marker)
    assert_killed(Child(asked, tmp_path / "root", tmp_path / "killed.json", environment), marker)
    resumed = Child(asked, tmp_path / "root", tmp_path / "resumed.json")
    assert resumed.wait() == 0
    assert resumed.told()["digest"] == told["digest"]


def test_a_rater_that_cannot_begin_stops_the_run_and_no_document_is_blamed(tmp_path: Path, tiny_model: Path) -> None:
    rater = {"language": {"languages": ["en", "xq"]}}
    path = command.write_policy(tmp_path, policy(tmp_path, tiny_model, [rater]))
    ended = command.selector("run", path, "--root", tmp_path / "root", "--executor", "local")
    assert ended.code in (1, 2) and "Unknown language code" in ended.err, ended
    assert not [key for key in Store.open(str(tmp_path / "root")).seals() if key.startswith("rate/")]
    assert not list((tmp_path / "root").glob("*/manifest"))
