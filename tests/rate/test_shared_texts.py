"""Raters that read nothing but texts share them: a part's texts are read once, and scores are what they are alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runs import policy_of, run, uncached, write_corpus
from selector.corpus import joined
from selector.engine.local import LocalExecutor
from selector.errors import SelectorError
from selector.policy import Policy
from selector.policy.resolve import resolve
from selector.rate.readability import Readability
from selector.steps.plan import Plan
from selector.steps.rate import Rate

pytestmark = pytest.mark.slow

RATERS = ["length", "rarity", "compression", "readability"]
Reads = list[str]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """The tasks for which the texts of a part were read."""
    tasks: Reads = []
    texts_of: Callable[..., Any] = joined.texts_of

    def counted(store: Any, task: Any, *rest: Any) -> Any:
        tasks.append(task.key)
        return texts_of(store, task, *rest)

    monkeypatch.setattr(joined, "texts_of", counted)
    return tasks


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path) -> Callable[[list[str]], dict[str, Any]]:
    (tmp_path / "corpus").mkdir()
    corpus = write_corpus(tmp_path / "corpus")

    def made(raters: list[str]) -> dict[str, Any]:
        select = {"budget": {"documents": 9}, "using": {"top": {"score": raters[-1]}}}
        policy = policy_of(corpus, tiny_model, rate=raters, select=select, order={"using": "shuffled"})
        return {key: value for key, value in policy.items() if key != "manifest"}

    return made


def rating(reads: Reads) -> list[str]:
    return [key for key in reads if key.startswith("rate/")]


def test_raters_of_texts_read_the_texts_of_a_part_once_and_keep_keys_of_their_own(
    make: Callable[[list[str]], dict[str, Any]], reads: Reads, tmp_path: Path
) -> None:
    together = run(make(RATERS), tmp_path / "root")
    assert len(rating(reads)) == 6, "once for each part"
    assert {f"rate/{name}" for name in RATERS} <= set(uncached(together)), "all were rated in this run"
    reads.clear()
    alone = [run(make([name]), tmp_path / name) for name in RATERS]
    fingerprints = {step.name: step.fingerprint for step in together.steps}
    for name, one in zip(RATERS, alone, strict=True):
        assert (
            next(step for step in one.steps if step.name == f"rate/{name}").fingerprint == fingerprints[f"rate/{name}"]
        )
    assert len(rating(reads)) == 6 * 4
    reads.clear()
    again = run(make([*RATERS[:2], "word_length", RATERS[3]]), tmp_path / "root")
    assert [name for name in uncached(again) if name.startswith("rate/")] == ["rate/word_length"]
    assert len(rating(reads)) == 6, "only what is new is rated"


def test_a_rater_that_fails_beside_another_fails_in_its_own_step(
    make: Callable[[list[str]], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ArithmeticError("it cannot count")

    with monkeypatch.context() as patched:
        patched.setattr(Readability, "rate", broken)
        with pytest.raises(SelectorError, match=r"readability.*it cannot count"):
            run(make(RATERS), tmp_path / "root")
    mended = run(make(RATERS), tmp_path / "root")
    assert [name for name in uncached(mended) if name.startswith("rate/")] == ["rate/readability"]


def test_what_else_a_rater_reads_or_asks_for_keeps_it_apart(make: Callable[[list[str]], dict[str, Any]]) -> None:
    raters: list[Any] = ["length", {"length": {"unit": "tokens"}, "as": "tokens"}, "prototypicality", "language"]
    plan = Plan.of(resolve(Policy.of(make([*raters, "readability"]))), LocalExecutor().device())
    beside = {step.name: [other.name for other in step.beside] for step in plan.ratings if isinstance(step, Rate)}
    assert beside["rate/length"] == ["rate/language", "rate/readability"]
    assert beside["rate/tokens"] == beside["rate/prototypicality"] == beside["rate/readability"] == []
