"""Several raters in one pass: their scores are what they are alone, and texts are read once."""

from pathlib import Path
from typing import Any

import pytest

from rated import scores_of
from runs import policy_of, run, write_corpus
from selector import plugins
from selector.corpus import joined
from selector.errors import PolicyError

TEXTS = ["One sentence of words. And another one!", "", "if x:\n    pass\n", "word " * 30]
ALONE: list[tuple[str, dict[str, Any]]] = [
    ("length", {}),
    ("readability", {"formula": "ari"}),
    ("lexical_diversity", {}),
    ("code_complexity", {}),
    ("heuristics", {"rules": ["c4", "fineweb"]}),
    ("instruction", {}),
]


def test_raters_together_say_what_each_says_alone() -> None:
    raters = [{name: options} for name, options in ALONE]
    answer = scores_of("together", {"raters": raters}, text=TEXTS)
    for name, options in ALONE:
        alone = scores_of(name, options, text=TEXTS)
        assert {key: answer[key] for key in alone} == alone


def test_two_raters_of_one_kind_need_names() -> None:
    raters: list[Any] = [{"length": {"unit": "characters"}}, "length"]
    with pytest.raises(PolicyError, match=r"two of its raters give the score 'length'\. Say what each is called"):
        plugins.make("raters", "together", {"raters": raters}, "rate.0", object)
    answer = scores_of("together", {"raters": raters, "names": ["characters", "words"]}, text=["two words"])
    assert (answer["characters"], answer["words"]) == ([9], [2])
    with pytest.raises(PolicyError, match="has 1 names for 2 raters"):
        plugins.make("raters", "together", {"raters": raters, "names": ["a"]}, "rate.0", object)
    with pytest.raises(PolicyError, match="names no rater"):
        plugins.make("raters", "together", {"raters": []}, "rate.0", object)


@pytest.mark.slow
def test_raters_together_read_the_texts_of_a_part_once(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus").mkdir()
    write_corpus(tmp_path / "corpus")
    reads: list[str] = []
    texts_of = joined.texts_of

    def counted(store: Any, task: Any, *rest: Any) -> Any:
        reads.append(task.key)
        return texts_of(store, task, *rest)

    monkeypatch.setattr(joined, "texts_of", counted)
    together = [{"together": {"raters": ["length", "word_length", "compression", "readability"]}}]
    for raters, times in ((together, 1), (["length", "word_length", "compression", "readability"], 4)):
        reads.clear()
        options = {"rate": raters, "select": {"budget": {"documents": 9}, "using": {"top": {"score": "compression"}}}}
        policy = policy_of(tmp_path / "corpus", tiny_model, **options, order={"using": "shuffled"})
        policy.pop("manifest")
        outcome = run(policy, tmp_path / "root")
        assert outcome.steps and len(reads) == times * 6, "a read for each of six parts and each step"
