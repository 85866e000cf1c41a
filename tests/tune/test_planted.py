"""Studies of corpora in which it was planted what is better: they find it, also where they are killed on the way."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import WORDS, use_one_thread, write_jsonl
from runs import CONTEXT, killed_at
from selector.engine.local import LocalExecutor
from selector.tune.objectives import Trial
from selector.tune.objectives.probe import Probe
from selector.tune.result import Outcome
from selector.tune.run import run
from selector.tune.study import Study

_GENERATOR = np.random.default_rng(3)
_FOLLOW = _GENERATOR.integers(0, len(WORDS), (len(WORDS), 3))


def sentences(number: int, length: int = 60) -> str:
    """A text in which each word is one of three that may follow the one before."""
    generator, at, words = np.random.default_rng(number), number % len(WORDS), list[str]()
    for _ in range(length):
        at = int(_FOLLOW[at, generator.integers(3)])
        words.append(WORDS[at])
    return f"Document {number}: " + " ".join(words)


def shuffled(text: str) -> str:
    """The letters of a text in some order."""
    return "".join(np.random.default_rng(len(text)).permutation(list(text)))


def corpus(folder: Path) -> Path:
    """600 documents, of which three in ten are shuffled and have a low grade; twelve of a source `few` are among the
    good ones."""
    rows: list[dict[str, Any]] = []
    for number in range(600):
        is_bad, text = number % 10 < 3, sentences(number)
        source = "few" if not is_bad and number % 50 == 7 else "many"
        rows.append(
            {
                "text": shuffled(text) if is_bad else text,
                "grade": 0 if is_bad else 9,
                "source": source,
                "kind": ("text", "noise")[is_bad],
            }
        )
    write_jsonl(folder / "corpus.jsonl", rows)
    return folder


def study_of(folder: Path, arms: dict[str, Any], **sections: Any) -> Study:
    base = {
        "corpus": {"paths": [str(folder / "corpus.jsonl")]},
        "rate": [{"column": {"column": "grade", "higher_is": "better"}}],
        "select": {"budget": {"documents": 150}},
    }
    whole = {
        "base": base, "arms": arms, "objective": {"probe": {"orders": [5]}}, "controls": {"all": False},
        "held_out": {"share": 0.1, "where": "corpus.grade = 9", "alike": 1.0},
        "seeds": {"least": 2, "most": 4}, **sections,
    }  # fmt: skip
    return Study.of(whole)


def tried(study: Study, root: Path) -> Outcome:
    use_one_thread()
    return run(study, root=root, executor=LocalExecutor(workers=1), clock=_no_time)


def _no_time() -> float:
    return 0.0


FILTER = {"filter": {"select.where": "corpus.grade > 5"}}


@pytest.mark.slow
def test_a_filter_wins_where_three_tenths_of_the_text_is_shuffled(tmp_path: Path) -> None:
    outcome = tried(study_of(corpus(tmp_path), FILTER), tmp_path / "runs")
    assert outcome.content["winner"] == "filter", outcome.sentence
    (cell,) = [cell for cell in outcome.content["cells"] if cell["arm"] == "filter"]
    assert cell["beside_random"]["high"] < 0 and cell["chance_of_being_best"] > 0.95


@pytest.mark.slow
def test_a_source_that_is_repeated_forty_times_loses_and_identical_arms_are_undecided(tmp_path: Path) -> None:
    repeated = {"select.using": {"mixture": {"weights": {"few": 1.0}, "visits": 40}}, "select.budget": {"tokens": 9000}}
    plain = {"select.where": "corpus.grade > 5", "select.budget": {"tokens": 9000}}
    arms = {"repeated": repeated, "plain": plain, "the same": plain}
    outcome = tried(study_of(corpus(tmp_path), arms), tmp_path / "runs")
    ranks = {cell["arm"]: cell["rank"] for cell in outcome.content["cells"]}
    assert ranks == {"random": 3, "random like repeated": 4, "repeated": 5, "plain": 1, "the same": 1}
    assert outcome.sentence == "undecided: plain is not told apart from the same"


@pytest.mark.slow
def test_the_filter_and_the_mixture_that_were_planted_are_proposed(tmp_path: Path) -> None:
    study = study_of(
        corpus(tmp_path),
        {},
        filters={"scores": ["grade"], "keep": [0.7]},
        mixture={"by": "corpus.kind", "runs": 5, "repeats": 2, "divergence": 0.0},
        budgets=[{"tokens": 9000}],
        seeds={"least": 2, "most": 2},
    )
    outcome = tried(study, tmp_path / "runs")
    content = outcome.content
    assert content["filters"]["tried"][0]["where"] == "score.grade >= 9.0"
    sources = content["mixture"]["sources"]
    assert sources["text"]["proposed"] > sources["text"]["corpus"] and content["mixture"]["rank_correlation"] > 0.5
    ranks = {cell["arm"]: cell["rank"] for cell in content["cells"]}
    assert ranks["random"] == 3 and set(ranks) == {"random", "score.grade >= 9.0", "mixture"}


@pytest.mark.slow
def test_a_study_that_is_killed_and_resumed_says_the_same_byte_for_byte(tmp_path: Path) -> None:
    study = study_of(corpus(tmp_path), FILTER, seeds={"least": 2, "most": 2})
    expected = tried(study, tmp_path / "whole").content
    for hit in (3, 40):
        environment = killed_at("store.after_seal", hit, tmp_path / f"marker {hit}")
        child = CONTEXT.Process(target=_child, args=(study.model_dump(mode="json"), tmp_path / "killed", environment))
        child.start()
        child.join(300)
        assert child.exitcode == -signal.SIGKILL and (tmp_path / f"marker {hit}").exists()
    resumed = tried(study, tmp_path / "killed").content
    assert json.dumps(resumed) == json.dumps(expected)


def _child(data: dict[str, Any], root: Path, environment: dict[str, str]) -> None:
    os.environ |= environment
    tried(Study.of(data), root)


@pytest.mark.slow
def test_no_arm_has_a_held_out_document_or_one_that_is_like_it(tmp_path: Path) -> None:
    """Of every text that is held out and has a near-duplicate elsewhere, nothing is evaluated on."""
    rows = [{"text": sentences(number, 100), "grade": 9} for number in range(400)]
    near = [{**row, "text": f"{row['text']} {index}"} for index, row in enumerate(rows[:200])]
    write_jsonl(tmp_path / "corpus.jsonl", [*rows, *near])
    study = study_of(
        tmp_path, FILTER, held_out={"share": 0.2, "alike": 0.5, "most": 999}, seeds={"least": 2, "most": 2}
    )
    seen: list[list[str]] = []

    class Looking(Probe):
        is_apart = False  # it writes down what it sees, here

        def measure(self, trial: Trial) -> Any:
            chosen = {row["doc_id"] for row in trial.manifest.take(np.arange(len(trial.manifest))).to_pylist()}
            assert not chosen & set(trial.held_out.documents["doc_id"].to_pylist())
            seen.append(trial.held_out.documents["text"].to_pylist())
            return super().measure(trial)

    object.__setattr__(study, "__dict__", {**study.__dict__, "plugin": Looking(orders=(5,))})
    outcome = run(study, root=tmp_path / "runs", executor=LocalExecutor(workers=1))
    numbers = [int(text.split()[1].rstrip(":")) for text in seen[0]]
    assert len(seen) == 4 and len(numbers) > 10
    assert {numbers.count(number) for number in numbers if number < 200} <= {2}, "both of a pair, or none"
    held_out = outcome.content["held_out"]
    assert held_out["left"] == len(held_out["left_are_like"]) > 10
    assert all(one["shared"] >= 0.5 and one["doc_id"] != one["other"] for one in held_out["left_are_like"])
