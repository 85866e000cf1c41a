"""Raters that ask a model, beside the same numbers computed one text and one window at a time."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import text_of, write_jsonl
from language_models import bare, token_losses, write_model
from rated import scores_of
from selector import pipeline
from selector.engine.local import LocalExecutor
from selector.errors import PolicyError, SelectorError
from selector.models.causal import Causal, Window, windows_of
from selector.policy import Policy
from selector.policy.resolve import resolve
from selector.testing import check_rater

TEXTS = [text_of(3, 4), "", "a", "Zwei Worte.", text_of(5, 60), "日本語 🎉", text_of(3, 4)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "large": write_model(folder / "large", 1, width=32),
        "small": write_model(folder / "small", 2),
        "begins": write_model(folder / "begins", 3, begins=True),
        "one": write_model(folder / "one", 4, outputs=1),
        "four": write_model(folder / "four", 5, outputs=4, begins=True),
    }


def tokens_of(folder: Path, text: str, *, special: bool = True) -> list[int]:
    return bare(folder)[1](text, add_special_tokens=special)["input_ids"]


def expected_loss(folder: Path, text: str, width: int = 64, stride: int = 32) -> list[float]:
    """The losses of all tokens that count, each from the window in which it is new."""
    tokens, losses, start = tokens_of(folder, text), list[float](), 0  # of the first token nothing is known
    while len(losses) + 1 < len(tokens):
        of_window = token_losses(folder, tokens[start : start + width])
        losses += of_window[len(losses) - start :]
        start += stride
    return losses


# ---------------------------------------------------------------- windows


def test_windows_count_every_token_once_with_what_the_width_allows_before_it() -> None:
    windows = windows_of(range(10), (), 6, 3)
    assert [window.tokens for window in windows] == [tuple(range(6)), tuple(range(3, 9)), tuple(range(6, 10))]
    assert [len(window.tokens) - window.first for window in windows] == [5, 3, 1]


@given(st.integers(0, 40), st.integers(2, 9), st.integers(1, 8), st.booleans())
def test_no_token_is_left_out_or_counted_twice(num: int, width: int, stride: int, is_begun: bool) -> None:
    stride = min(stride, width - 1)
    whole = [*([-1] if is_begun else []), *range(num)]
    windows = windows_of(range(num), (-1,) if is_begun else (), width, stride)
    counted = [token for window in windows for token in window.tokens[window.first :]]
    assert counted == whole[1:]
    assert all(1 <= window.first < len(window.tokens) <= width for window in windows)


# ---------------------------------------------------------------- language models


@pytest.mark.parametrize("name", ["large", "begins"])
def test_perplexity_is_that_of_every_token_by_itself(name: str, models: dict[str, Path]) -> None:
    losses = [expected_loss(models[name], text) for text in TEXTS]
    expected = [pytest.approx(np.exp(np.mean(of_text)), rel=2e-5) if of_text else None for of_text in losses]
    scores = scores_of("perplexity", {"model": str(models[name])}, text=TEXTS)
    assert scores["perplexity"] == expected
    assert scores["perplexity.state"] == ["ok" if of_text else "not_applicable" for of_text in losses]
    assert [of_text != [] for of_text in losses] == [True, False, name == "begins", *[True] * 4]
    assert scores["perplexity"][0] == scores["perplexity"][-1], "the same text has the same score"
    nats = scores_of("perplexity", {"model": str(models[name]), "unit": "nats"}, text=TEXTS)["perplexity"]
    assert nats == [pytest.approx(np.mean(of_text), rel=2e-5) if of_text else None for of_text in losses]
    bits = scores_of("perplexity", {"model": str(models[name]), "unit": "bits_per_byte"}, text=TEXTS)["perplexity"]
    for bit, of_text, text in zip(bits, losses, TEXTS, strict=True):
        per_byte = sum(of_text) / np.log(2) / max(1, len(text.encode()))
        assert bit == (pytest.approx(per_byte, rel=2e-5) if of_text else None)


def test_windows_are_as_wide_and_as_far_apart_as_is_written(models: dict[str, Path]) -> None:
    options = {"model": str(models["small"]), "max_tokens": 16, "stride": 5, "unit": "nats"}
    scores = scores_of("perplexity", options, text=[TEXTS[4]])["perplexity"]
    assert scores == [pytest.approx(np.mean(expected_loss(models["small"], TEXTS[4], 16, 5)), rel=2e-5)]
    for options, message in (({"max_tokens": 65}, "reads at most 64 tokens, not 65"), ({"stride": 64}, "from 1 to 63")):
        with pytest.raises(PolicyError, match=message):
            scores_of("perplexity", {"model": str(models["small"]), **options}, text=["a b"])


def test_a_difference_of_models_is_that_of_their_mean_losses(models: dict[str, Path]) -> None:
    small, large = (
        [np.mean(expected_loss(models[name], text) or [np.nan]) for text in TEXTS] for name in ("small", "large")
    )
    options = {"large": str(models["large"]), "small": str(models["small"])}
    scores = scores_of("model_difference", options, text=TEXTS)["model_difference"]
    assert [np.nan if score is None else score for score in scores] == pytest.approx(
        [a - b for a, b in zip(small, large, strict=True)], abs=1e-4, nan_ok=True
    )
    preferred = scores_of(
        "preference_difference", {"strong": str(models["large"]), "weak": str(models["small"])}, text=TEXTS
    )["preference_difference"]
    assert [np.nan if score is None else score for score in preferred] == pytest.approx(
        [(np.exp(a) - np.exp(b)) / np.exp(a) for a, b in zip(small, large, strict=True)], rel=1e-4, nan_ok=True
    )
    same = scores_of(
        "preference_difference", {"strong": str(models["small"]), "weak": str(models["small"])}, text=TEXTS
    )
    assert {score for score in same["preference_difference"] if score is not None} == {0.0}


def test_models_with_different_tokenizers_have_no_difference(models: dict[str, Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(models["small"], tmp_path / "other"))
    written = json.loads((other / "tokenizer.json").read_text("utf-8"))
    vocabulary = written["model"]["vocab"]
    first, second = list(vocabulary)[50:52]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(written), "utf-8")
    with pytest.raises(PolicyError, match="have different tokenizers"):
        scores_of("model_difference", {"large": str(models["large"]), "small": str(other)}, text=["a b"])


PROMPTS, ANSWERS = ["Say a.", "Sum", "", "Only", text_of(2, 40)], ["a b c", text_of(4, 50), "x y", "", text_of(6, 3)]


@pytest.mark.parametrize("name", ["small", "begins"])
def test_ifd_compares_the_same_tokens_with_and_without_the_prompt(name: str, models: dict[str, Path]) -> None:
    folder = models[name]
    begins = [0] if name == "begins" else []
    expected: list[Any] = []
    for prompt, response in zip(PROMPTS, ANSWERS, strict=True):
        before = tokens_of(folder, prompt + "\n", special=False) if prompt else []
        answered = tokens_of(folder, response, special=False)[:32]
        first = 0 if begins else 1
        if not before or len(answered) <= first:
            expected.append(None)
            continue
        before = before[-(64 - len(begins) - len(answered)) :]
        alone = token_losses(folder, [*begins, *answered])[-(len(answered) - first) :]
        given_prompt = token_losses(folder, [*begins, *before, *answered])[-(len(answered) - first) :]
        expected.append(pytest.approx(np.exp(np.mean(given_prompt) - np.mean(alone)), rel=3e-5))
    options = {"model": str(folder), "prompt": ["ask"], "response": "say"}
    assert scores_of("ifd", options, corpus_ask=PROMPTS, corpus_say=ANSWERS)["ifd"] == expected


def test_ifd_of_a_chat_is_that_of_its_last_answer(models: dict[str, Path]) -> None:
    turns = [{"role": "user", "content": "Say a."}, {"role": "assistant", "content": "a b c"}]
    longer = [*turns, {"role": "user", "content": "More."}, {"role": "assistant", "content": "d e f"}]
    older = [{"from": "human", "value": "Say a."}, {"from": "gpt", "value": "a b c"}, {"from": "human", "value": "Bye"}]
    chats = [json.dumps(turns), json.dumps(longer), json.dumps(older), "no chat", json.dumps([]), None]
    scores = scores_of("ifd", {"model": str(models["small"]), "messages": "chat"}, corpus_chat=pa.array(chats))["ifd"]
    columns = {"corpus_ask": ["user: Say a.", "user: Say a.\nassistant: a b c\nuser: More.", "human: Say a."]}
    options = {"model": str(models["small"]), "prompt": ["ask"], "response": "say"}
    plain = scores_of("ifd", options, **columns, corpus_say=["a b c", "d e f", "a b c"])["ifd"]
    assert scores == [*map(pytest.approx, plain), None, None, None]


@pytest.mark.parametrize("options", [{}, {"prompt": ["a"]}, {"response": "b"}, {"response": "b", "messages": "c"}])
def test_ifd_wants_to_know_where_prompt_and_answer_are(options: dict[str, Any], models: dict[str, Path]) -> None:
    with pytest.raises(PolicyError, match="write which columns hold prompt and answer"):
        scores_of("ifd", {"model": str(models["small"]), **options}, text=["a"])


# ---------------------------------------------------------------- marks and heads


def test_an_expected_score_is_the_mean_of_the_marks_by_their_probabilities(models: dict[str, Path]) -> None:
    model, tokenizer = bare(models["small"])
    question = "Text: {text}\nMark: "
    digits = [tokenizer(str(mark))["input_ids"][-1] for mark in range(1, 7)]
    expected: list[Any] = []
    for text in TEXTS:
        before, after = (tokenizer(part)["input_ids"] for part in question.split("{text}"))
        tokens = [*before, *tokenizer(text)["input_ids"][: 64 - len(before) - len(after)], *after]
        with torch.inference_mode():
            chances = torch.softmax(model(torch.tensor([tokens])).logits[0, -1, digits].double(), dim=0)
        mean = sum(mark * float(chance) for mark, chance in enumerate(chances, 1))
        expected.append(pytest.approx(mean, rel=2e-5) if text else None)
    scores = scores_of("expected_score", {"model": str(models["small"]), "question": question}, text=TEXTS)
    assert scores["expected_score"] == expected


@pytest.mark.parametrize(
    ("logits", "expected"),
    [([0] * 6, 3.5), ([0, 1, 2, 3, 4, 5], 5.432932763), ([0, 0, 10, 0, 0, 0], 3.000136169)],
)
def test_an_expected_score_from_logits(
    logits: list[float], expected: float, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*_: Any) -> Any:
        return np.array([logits], np.float64)

    monkeypatch.setattr(Causal, "next_words", said)
    scores = scores_of("expected_score", {"model": str(models["small"]), "question": "{text}"}, text=["a"])
    assert scores["expected_score"] == [pytest.approx(expected, abs=1e-5)]


def test_a_mark_without_a_token_of_its_own_is_refused(models: dict[str, Path]) -> None:
    model = Causal(folder=str(models["small"]))
    assert model.tokenizer.decode([model.token_of("7")]) == "7"
    with pytest.raises(PolicyError, match=r"has no token for '10' alone"):
        model.token_of("10")
    with pytest.raises(PolicyError, match=r"write \{text\} once"):
        scores_of("expected_score", {"model": str(models["small"]), "question": "What?"}, text=["a"])


def segment_outputs(folder: Path, text: str, begins: bool, most: int) -> Any:
    """The mean over segments of what the head says, one segment at a time; None of a text without tokens."""
    model, _ = bare(folder, is_classifier=True)
    tokens, room = tokens_of(folder, text, special=False), most - int(begins)
    sums, weight = torch.zeros(model.config.num_labels, dtype=torch.float64), 0
    for start in range(0, len(tokens), room):
        piece = tokens[start : start + room]
        with torch.inference_mode():
            sums += model(torch.tensor([[*([0] if begins else []), *piece]])).logits[0].double() * len(piece)
        weight += len(piece)
    return (sums / weight).numpy() if weight else None


def test_a_long_text_has_the_mean_of_its_segments_by_their_tokens(models: dict[str, Path]) -> None:
    expected = [segment_outputs(models["one"], text, False, 64) for text in TEXTS]
    scores = scores_of("regression", {"model": str(models["one"])}, text=TEXTS)["regression"]
    assert scores == [None if value is None else pytest.approx(value[0], rel=1e-4, abs=1e-5) for value in expected]
    options = {"model": str(models["one"]), "max_tokens": 9, "long_documents": "truncate"}
    first = [
        segment_outputs(models["one"], bare(models["one"])[1].decode(tokens_of(models["one"], TEXTS[4])[:9]), False, 9)
    ]
    assert scores_of("regression", options, text=[TEXTS[4]])["regression"] == [pytest.approx(first[0][0], rel=1e-4)]


def test_the_published_cut_is_above_two_and_a_half(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    raw = [-0.2, 2.49, 2.5, 2.51, 3.5, 4.5, 5.7]
    monkeypatch.setattr(Causal, "outputs", lambda *_: np.array(raw)[:, None])
    scores = scores_of("regression", {"model": str(models["one"]), "integer": True}, text=list("abcdefg"))
    assert scores["regression"] == [0, 2, 2, 3, 4, 4, 5]


def test_qurating_gives_every_criterion_at_once(models: dict[str, Path]) -> None:
    options = {"model": str(models["four"]), "max_tokens": 20}
    expected = [segment_outputs(models["four"], text, True, 20) for text in TEXTS]
    scores = scores_of("qurating", options, text=TEXTS)
    names = ["writing_style", "required_expertise", "facts_and_trivia", "educational_value"]
    for k, name in enumerate(names):
        of_each = [None if value is None else pytest.approx(value[k], rel=1e-4, abs=1e-5) for value in expected]
        assert scores[f"qurating_{name}"] == of_each
    with pytest.raises(PolicyError, match="has 4 outputs, and 1 are named"):
        scores_of("qurating", {**options, "criteria": ["it"]}, text=["a"])
    with pytest.raises(PolicyError, match=r"has 4 outputs\. Take classifier or qurating"):
        scores_of("regression", {"model": str(models["four"])}, text=["a"])


def test_segments_count_by_their_length(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Causal, "segments", lambda *_: [[7] * 513, [8] * 513, [9] * 101])
    monkeypatch.setattr(Causal, "outputs", lambda *_: np.array([[1.0] * 4, [2.0] * 4, [4.0] * 4]))
    scores = scores_of("qurating", {"model": str(models["four"]), "max_tokens": 64}, text=["a"])
    assert scores["qurating_writing_style"] == [pytest.approx(1.722419929, abs=1e-6)]


def test_a_classifier_names_a_class_or_says_how_likely_one_is(models: dict[str, Path]) -> None:
    outputs = [segment_outputs(models["four"], text, True, 64) for text in TEXTS]
    named = scores_of("classifier", {"model": str(models["four"])}, text=TEXTS)["classifier"]
    assert named == [None if value is None else f"LABEL_{np.argmax(value)}" for value in outputs]
    likely = scores_of("classifier", {"model": str(models["four"]), "positive": "LABEL_2"}, text=TEXTS)["classifier"]
    chances = [None if value is None else np.exp(value[2]) / np.exp(value).sum() for value in outputs]
    assert likely == [None if chance is None else pytest.approx(chance, rel=1e-4) for chance in chances]
    with pytest.raises(PolicyError, match=r"has no class 'LABEL_9'\. Did you mean 'LABEL_\d'\?"):
        scores_of("classifier", {"model": str(models["four"]), "positive": "LABEL_9"}, text=["a"])


def test_a_model_of_another_kind_is_refused_in_words(models: dict[str, Path]) -> None:
    with pytest.raises(PolicyError, match=r"is no classifier: its config\.json says that it is a GPT2LM"):
        scores_of("regression", {"model": str(models["small"])}, text=["a"])
    with pytest.raises(PolicyError, match=r"is no language model but a classifier: it has score\.weight"):
        scores_of("perplexity", {"model": str(models["one"])}, text=["a"])


def test_what_a_folder_of_a_model_cannot_do_is_refused_before_any_work(models: dict[str, Path], tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": "a b c"}])
    encoder, small = "all-MiniLM-L6-v2", str(models["small"])
    for rater, message in (
        (
            {"perplexity": {"model": encoder}},
            r"^rate\.x\.model: .* is no language model: its config.json says that it is",
        ),
        ({"perplexity": {"model": str(models["one"])}}, r"^rate\.x\.model: .* is no language model but a classifier"),
        ({"perplexity": {"model": small, "max_tokens": 99}}, r"^rate\.x\.model: .* reads at most 64 tokens, not 99"),
        ({"perplexity": {"model": small, "stride": 64}}, r"^rate\.x\.model: stride is 64, and has to be from 1 to 63"),
        ({"regression": {"model": small}}, r"^rate\.x\.model: .* is no classifier: its config.json says"),
        ({"regression": {"model": str(models["four"])}}, r"^rate\.x: regression: .* has 4 outputs"),
        ({"model_difference": {"large": small, "small": encoder}}, r"^rate\.x\.small: .* is no language model"),
    ):
        select = {"budget": {"documents": 1}, "using": "random"}
        written: dict[str, Any] = {"corpus": {"paths": [str(corpus)]}, "rate": [{**rater, "as": "x"}], "select": select}
        with pytest.raises(PolicyError, match=message):
            resolve(Policy.of({**written, "order": {"using": "shuffled"}}))


def test_equal_windows_go_through_the_model_once(models: dict[str, Path]) -> None:
    model = Causal(folder=str(models["small"]))
    model.load()
    seen: list[int] = []
    real = model._model.forward  # pyright: ignore[reportPrivateUsage]

    def forward(input_ids: Any, **rest: Any) -> Any:
        seen.append(len(input_ids))
        return real(input_ids=input_ids, **rest)

    model._model.forward = forward  # pyright: ignore[reportPrivateUsage]
    losses = model.losses([Window((5, 6, 7), 1), Window((5, 6, 7), 2), Window((5, 6, 7), 1), Window((9, 8), 1)])
    assert sum(seen) == 3 and losses[0] == losses[2] > losses[1]


# ---------------------------------------------------------------- laws and runs


@pytest.mark.slow
def test_raters_with_a_language_model_keep_the_laws(models: dict[str, Path]) -> None:
    small, large = str(models["small"]), str(models["large"])
    given: dict[str, Any] = {"examples": 3, "precision": "float32", "max_tokens": None}  # half precision shows a batch
    check_rater("perplexity", model=small, stride=None, unit="nats", **given)
    check_rater("model_difference", large=large, small=small, stride=None, **given)
    check_rater("preference_difference", strong=large, weak=small, stride=None, **given)
    check_rater("ifd", model=small, prompt=["a"], response="b", messages=None, of="losses", **given)
    check_rater("expected_score", model=small, question="{text}?", least=1, most=6, higher_is="better", **given)


@pytest.mark.slow
def test_raters_with_a_head_keep_the_laws(models: dict[str, Path]) -> None:
    four, one = str(models["four"]), str(models["one"])
    given: dict[str, Any] = {"examples": 3, "precision": "float32", "max_tokens": 64}
    check_rater("classifier", model=four, positive="LABEL_1", higher_is="better", long_documents="mean", **given)
    check_rater("classifier", model=four, positive=None, higher_is="better", long_documents="truncate", **given)
    check_rater("regression", model=one, higher_is="better", long_documents="mean", **given)
    check_rater("qurating", model=four, criteria=["a", "b", "c", "d"], harder=["b"], **given)


@pytest.mark.slow
def test_half_precision_is_near_and_the_same_for_the_same_batch(models: dict[str, Path]) -> None:
    options = {"model": str(models["small"]), "unit": "nats"}
    half, again, full = (
        scores_of("perplexity", {**options, "precision": precision}, text=TEXTS)["perplexity"]
        for precision in ("bfloat16", "bfloat16", "float32")
    )
    assert half == again != full
    assert half == [None if value is None else pytest.approx(value, rel=0.05) for value in full]


@pytest.mark.slow
def test_a_run_stores_what_a_model_says_under_the_model_and_where_it_computes(
    models: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"text": text_of(n)} for n in range(40)])
    policy: dict[str, Any] = {
        "corpus": {"paths": [str(corpus)], "tokenizer": str(tiny_model)},
        "rate": [{"perplexity": {"model": str(models["small"]), "precision": "float32"}}],
        "select": {"budget": {"documents": 40}, "using": {"top": {"score": "perplexity"}}},
        "order": {"using": {"by_score": {"score": "perplexity"}}}, "manifest": {"difficulty": "perplexity"},
    }  # fmt: skip
    manifest = pipeline.run(Policy.of(policy), root=tmp_path / "runs", executor=LocalExecutor())
    difficulty = manifest.rows(0, 40)["difficulty"].to_numpy()
    assert (np.diff(difficulty) >= 0).all() and difficulty[0] > 1
    again = pipeline.run(Policy.of(policy), root=tmp_path / "again", executor=LocalExecutor())
    assert again.digest == manifest.digest


def test_a_worker_with_another_model_stops_the_run(models: dict[str, Path]) -> None:
    with pytest.raises(SelectorError, match="is not, or no longer, the model that the run was planned with"):
        Causal(folder=str(models["small"]), planned="another").load()
