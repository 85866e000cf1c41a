"""The loss of a program's parts, beside the same computed one part at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from language_models import bare, token_losses, write_model
from rated import scores_of
from selector import plugins
from selector.errors import PolicyError
from selector.testing import check_rater

pytestmark = pytest.mark.slow

MARKS = ["<s>", "</s>", "!"]
CODE = "def f(x):\n    y = g(x)\n    if y:\n        h()\n    return y\n"
PARTS = {
    "calls": [("def f(x):\n    y = ", "g(x)"), ("def f(x):\n    y = g(x)\n    if y:\n        ", "h()")],
    "branches": [("def f(x):\n    y = g(x)\n    ", "if y:\n        h()")],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), 7)


def expected(model: Path, parts: list[tuple[str, str]]) -> float:
    """The mean loss of all tokens of the parts: each after prefix, suffix, middle, in windows of 64 tokens."""
    _, tokenizer = bare(model)
    prefix, suffix, middle = tokenizer.convert_tokens_to_ids(MARKS)
    losses: list[float] = []
    for before, part in parts:
        after = CODE[len(before) + len(part) :]
        told, wanted, rest = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, part, after))
        wanted = wanted[:32]
        room = 61 - len(wanted)
        num_after = min(len(rest), max(room // 2, room - len(told)))
        told = told[-(room - num_after) :] if room > num_after else []
        window = [prefix, *told, suffix, *rest[:num_after], middle, *wanted]
        losses += token_losses(model, window)[-len(wanted) :]
    return float(np.mean(losses))


@pytest.mark.parametrize("parts", [["calls"], ["branches"], ["branches", "calls"]])
def test_infilling_is_the_loss_of_parts_given_what_is_around_them(parts: list[str], model: Path) -> None:
    options = {"model": str(model), "marks": MARKS, "parts": parts, "precision": "float32"}
    answer = scores_of("code_infilling", options, text=[CODE, "", ")) ?? ]] ¿¿ ] }", "x = 1\n"])
    pieces = [piece for name in parts for piece in PARTS[name]]
    assert answer["code_infilling"] == [pytest.approx(expected(model, pieces), rel=1e-4), None, None, None]
    assert answer["code_infilling.state"][1:] == ["not_applicable"] * 3


def test_some_of_many_parts_are_taken_at_even_distances(model: Path) -> None:
    code = "".join(f"f{i}()\n" for i in range(9))
    options = {"model": str(model), "marks": MARKS, "parts": ["calls"], "precision": "float32"}
    few, two = (scores_of("code_infilling", {**options, "most": most}, text=[code]) for most in (9, 2))
    assert few["code_infilling"] != two["code_infilling"]
    one = scores_of("code_infilling", {**options, "most": 1}, text=["f0()\n"])
    assert one["code_infilling.state"] == ["ok"]


def test_a_model_that_was_not_trained_to_fill_in_is_refused(model: Path) -> None:
    rater: Any = plugins.make("raters", "code_infilling", {"model": str(model)}, "rate.0", object)
    with pytest.raises(PolicyError, match=r"the model has no token '<\|fim_prefix\|>'\. Write its tokens"):
        scores_of("code_infilling", {"model": str(model)}, text=[CODE])
    assert rater.most == 8
    with pytest.raises(PolicyError, match="takes 0 of the parts"):
        plugins.make("raters", "code_infilling", {"model": str(model), "most": 0}, "rate.0", object)


def test_the_laws_hold_for_infilling(model: Path) -> None:
    check_rater("code_infilling", examples=3, model=str(model), marks=tuple(MARKS), precision="float32")
