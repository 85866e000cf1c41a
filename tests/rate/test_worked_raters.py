"""Worked cases of raters that no other test of a rater has, by the rater where that takes no more than its options.

Where the others are, and why some have no test, says tests/house/test_worked_case_list.py.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from language_models import write_model
from rated import scores_of
from selector.exact import Floats
from selector.models.causal import Causal
from selector.models.linear import bradley_terry

# 100 words in 5 sentences: 12 of three syllables, 26 of two and 62 of one, of 9, 6, and 3 or 4 letters
R1 = ["important"] * 12 + ["letter"] * 26 + ["cat"] * 42 + ["stop"] * 20


@pytest.mark.parametrize(
    ("formula", "expected"),
    [("flesch_kincaid", 9.91), ("flesch_ease", 59.635), ("ari", 10.707), ("smog", 11.979248473)],
)
def test_r1_readability_by_its_counts(formula: str, expected: float) -> None:
    text = " ".join(word + "." * (i % 20 == 19) for i, word in enumerate(R1))
    assert scores_of("readability", {"formula": formula}, text=[text])["readability"] == [
        pytest.approx(expected, rel=2e-6)
    ]


def test_q14_and_q15_scores_of_bradley_and_terry() -> None:
    three_of_four = bradley_terry(np.array([0]), np.array([1]), np.array([0.75]), 2, 1e-9)
    assert three_of_four[0] - three_of_four[1] == pytest.approx(1.098612, abs=1e-5)
    wins = np.array([[0, 3, 4], [1, 0, 3], [0.5, 1, 0]])
    first, second = (side.astype(np.int64) for side in np.nonzero(wins))
    twice = (2 * wins[first, second]).astype(np.int64)  # a half is one of two
    first, second = np.repeat(first, twice), np.repeat(second, twice)
    ours = bradley_terry(first, second, np.ones(len(first)), 3, 1e-9)
    assert ours == pytest.approx([1.067098, 0, -1.067098], abs=1e-4)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_model(tmp_path / "model", 1))


def with_losses(monkeypatch: pytest.MonkeyPatch, *losses: Floats) -> None:
    """Lets models say these losses, one answer after another."""
    said = iter(losses)

    def answer(*_: Any) -> Floats:
        return next(said)

    monkeypatch.setattr(Causal, "losses", answer)


def test_e1_and_e2_a_difference_and_no_quotient(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = np.array([3.2, 2.5, 4.1, 1, 3, 5]), np.array([2.9, 2.4, 3.1, 1.1, 2.2, 4.9])
    with_losses(monkeypatch, large, small)  # of one token each, the second of two
    scores = scores_of("model_difference", {"large": model, "small": model}, text=["a b"] * 6)["model_difference"]
    num_counted = len(Causal(folder=model).tokens(["a b"])[0]) - 1
    assert scores == pytest.approx(np.array([0.3, 0.1, 1, -0.1, 0.8, 0.1]) / num_counted, abs=2e-6)
    assert np.argsort(-np.array(scores).round(6), kind="stable").tolist() == [2, 4, 0, 1, 5, 3]


def test_n7_a_quotient_of_perplexities(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    response = "a b c"
    num_counted = len(Causal(folder=model).tokens([response])[0]) - 1
    with_losses(monkeypatch, num_counted * np.log([4.0, 2.0]))  # alone, and with the prompt
    options = {"model": model, "prompt": ["ask"], "response": "say"}
    assert scores_of("ifd", options, corpus_ask=["x"], corpus_say=[response])["ifd"] == [pytest.approx(0.5, rel=2e-6)]


def test_q18_a_token_counts_once_whatever_batch_it_is_in(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Causal, "tokens", lambda *_: [list(range(13))])
    monkeypatch.setattr(Causal, "begins", ())
    with_losses(monkeypatch, np.array([10 * 2.0, 2 * 4.0]))  # windows of 10 and of 2 new tokens
    scores = scores_of("perplexity", {"model": model, "max_tokens": 11, "stride": 9}, text=["a"])["perplexity"]
    assert scores == [pytest.approx(10.312259, rel=2e-6)]


def test_b3_half_as_surprising_answers_save_a_half(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    num_counted = len(Causal(folder=model).tokens(["a b"])[0]) - 1
    with_losses(monkeypatch, num_counted * np.log([8.0]), num_counted * np.log([12.0]))
    scores = scores_of("preference_difference", {"strong": model, "weak": model}, text=["a b"])
    assert scores["preference_difference"] == [pytest.approx(1 - 8 / 12, rel=2e-6)]  # exp(-0.405465) of it is left
