"""Influence by gradients: the worked cases, a straightforward reference, and a planted truth."""

import functools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from conftest import write_jsonl
from runs import policy_of, run
from selector import plugins, tables
from selector.errors import PolicyError
from selector.exact import Floats, keyed
from selector.models.causal import Causal
from selector.models.gradients import Checkpoint, adam_direction, projected, save_moments, signs
from selector.rate import Rater
from selector.rate._answer import ratings_table
from selector.rate._influence import influences, weights_of
from selector.testing import check_rater
from selector.testing._trials import made_for

pytestmark = pytest.mark.slow

WORDS = {"north": ["ama", "bel", "cor", "dun"], "south": ["pip", "quo", "rus", "tev"]}


def sentence(language: str, number: int) -> str:
    """Five words of a made-up language, each of which follows from the one before and the number."""
    words = WORDS[language]
    return " ".join(words[(number + i * (1 + number % 2)) % 4] for i in range(6))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two checkpoints of a tiny causal model, with Adam's moments, trained on both languages."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    vocabulary = {word: i for i, word in enumerate(["[UNK]", *WORDS["north"], *WORDS["south"]])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=64, tie_word_embeddings=False,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    folders: list[str] = []
    for epoch in range(2):
        for number in range(24):
            ids = tokenizer(sentence(("north", "south")[number % 2], number), return_tensors="pt")["input_ids"]
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        folder = tmp_path_factory.mktemp(f"epoch-{epoch}")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        save_moments(model, optimizer, folder)
        folders.append(str(folder))
    return folders


def checkpoint(folder: str, dimension: int = 2048, parameters: str = "") -> Checkpoint:
    return Checkpoint(model=Causal(folder=folder), max_tokens=32, parameters=parameters, dimension=dimension, seed=3)


def rated(options: dict[str, Any], target: pa.Table, texts: list[str], **columns: Any) -> dict[str, list[Any]]:
    rater = plugins.make("raters", "influence", {"target": "t.jsonl", **options}, "rate.0", Rater)
    rater = plugins.replaced(rater, {"target": getattr(rater, "target").attached(target)})  # noqa: B009
    rater.prepare()
    ids = pa.array([i.to_bytes(16) for i in range(len(texts))], tables.DOC_ID)
    (batch,) = made_for(rater, pa.table({"doc_id": ids, "text": texts, **columns})).combine_chunks().to_batches()
    return ratings_table(rater, "it", batch).drop_columns("doc_id").to_pydict()


# ---------------------------------------------------------------- F1 to F3, Q7


def test_f1_a_checkpoint_weighs_as_much_as_its_learning_rate() -> None:
    rates = [1.687674684e-05, 1.285880712e-05, 7.702884440e-06, 2.561561560e-06]
    expected = [0.421918671, 0.321470178, 0.192572111, 0.064039039]
    np.testing.assert_allclose(weights_of(rates), expected, atol=1e-9)


def test_f2_adams_direction_has_its_small_number_inside_the_root() -> None:
    mean, square, gradient = (torch.tensor(value, dtype=torch.float64) for value in (0.1, 0.04, 0.2))
    assert float(adam_direction(mean, square, gradient)) == pytest.approx(0.549999931, abs=1e-9)


def test_f3_the_mean_within_a_subtask_and_the_largest_over_subtasks() -> None:
    train = ([(1, 0), (0, 1), (1, 1)], [(0, 1), (1, 0), (1, -1)])
    wanted = ([(1, 0), (1, 0), (0, 1), (0, -1)], [(1, 0), (0, 1), (0, 1), (0, 1)])
    cosines = sum(
        weight * unit(train[c]) @ unit(wanted[c]).T for c, weight in enumerate(weights_of([0.75, 0.25]))
    )  # fmt: skip
    assert isinstance(cosines, np.ndarray)
    root = np.sqrt(0.5)
    expected = [[0.75, 1, 0.25, 0.25], [0.25, 0, 0.75, -0.75], [root, root / 2, root / 2, -root]]
    np.testing.assert_allclose(cosines, expected, atol=1e-9)
    by_task = influences(cosines, np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(by_task, [[0.875, 0.25], [0.125, 0], [0.530330086, -0.176776695]], atol=1e-9)
    assert np.argsort(-by_task.max(axis=1)).tolist() == [0, 2, 1]


def unit(rows: Any) -> Floats:
    vectors = np.array(rows, np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_q7_products_of_projections_have_the_mean_and_the_deviation_that_they_should() -> None:
    pair = torch.tensor([[3.0, 4.0], [4.0, 3.0]], dtype=torch.float64)
    products = []
    for seed in range(200):
        x, y = projected(pair, 8192, seed)
        products.append(float(x @ y))
    assert np.mean(products) == pytest.approx(24, abs=4 * 0.276213586 / np.sqrt(200))
    assert np.std(products) == pytest.approx(0.276213586, rel=0.2)


def test_signs_are_those_of_their_places_whatever_is_made_beside_them() -> None:
    whole = signs(0, 40, 100, 5, "cpu")
    assert whole.shape == (40, 100) and set(whole.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(signs(17, 9, 100, 5, "cpu"), whole[17:26])
    assert not torch.equal(signs(0, 40, 100, 6, "cpu"), whole)
    assert abs(float(signs(0, 4096, 256, 1, "cpu").mean())) < 0.005
    first = 0x9E3779B97F4A7C15  # SplitMix64 by hand: the word at place 1, from seed 0
    assert signs(1, 1, 64, 0, "cpu")[0].tolist() == [1.0 if splitmix(first) >> bit & 1 else -1.0 for bit in range(64)]


def splitmix(word: int) -> int:
    full = (1 << 64) - 1
    word = ((word ^ word >> 30) * 0xBF58476D1CE4E5B9) & full
    word = ((word ^ word >> 27) * 0x94D049BB133111EB) & full
    return word ^ word >> 31


# ---------------------------------------------------------------- of a model


def without_moments(folder: str, copy: Path) -> str:
    shutil.copytree(folder, copy)
    (copy / "adam.safetensors").unlink()
    return str(copy)


@functools.cache
def loaded(folder: str) -> tuple[Any, Any, dict[str, Any]]:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    return model, AutoTokenizer.from_pretrained(folder), load_file(Path(folder, "adam.safetensors"))


def by_hand(folder: str, text: str, *, is_update: bool) -> Floats:
    """The whole gradient, or Adam's direction, as a training loop would have it."""
    model, tokenizer, moments = loaded(folder)
    model.zero_grad()
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    model(input_ids=ids, labels=ids).loss.backward()
    flat: list[Floats] = []
    for name, value in model.named_parameters():
        gradient = value.grad.double().numpy()
        if is_update:
            mean, square = (moments[f"{kind}.{name}"].double().numpy() for kind in ("exp_avg", "exp_avg_sq"))
            gradient = (0.9 * mean + 0.1 * gradient) / np.sqrt(0.999 * square + 0.001 * gradient**2 + 1e-8)
        flat.append(gradient.ravel())
    return np.concatenate(flat)


def test_influence_is_that_of_whole_gradients_within_the_error_of_the_projection(checkpoints: list[str]) -> None:
    documents = [sentence(language, number) for number in range(3) for language in WORDS]
    examples = [sentence("north", 5), sentence("north", 8), sentence("south", 7)]
    tasks = ["n", "n", "s"]
    cosines = sum(
        weight
        * unit([by_hand(folder, text, is_update=True) for text in documents])
        @ unit([by_hand(folder, text, is_update=False) for text in examples]).T
        for weight, folder in zip(weights_of([2e-5, 1e-5]), checkpoints, strict=True)
    )
    assert isinstance(cosines, np.ndarray)
    by_task = influences(cosines, np.array([0, 0, 1]))
    options = {"checkpoints": checkpoints, "rates": [2e-5, 1e-5]}
    scores = rated(options, pa.table({"text": examples, "subtask": tasks}), documents)
    assert scores["it"] == pytest.approx(by_task.max(axis=1), abs=4 / np.sqrt(8192))
    is_clear = np.abs(by_task[:, 0] - by_task[:, 1]) > 8 / np.sqrt(8192)
    names = np.array(["n", "s"])[by_task.argmax(axis=1)]
    assert is_clear.sum() >= 3 and (np.array(scores["it_subtask"])[is_clear] == names[is_clear]).all()


@pytest.mark.parametrize("is_adam", [False, True])
def test_documents_of_the_targets_language_have_the_larger_influence(
    checkpoints: list[str], tmp_path: Path, is_adam: bool
) -> None:
    if not is_adam:
        checkpoints = [without_moments(folder, tmp_path / str(i)) for i, folder in enumerate(checkpoints)]
    documents = [sentence(("north", "south")[i % 2], i // 2) for i in range(24)]
    target = pa.table({"text": [sentence("south", number) for number in range(30, 36)], "subtask": ["s"] * 6})
    options = {"checkpoints": checkpoints, "rates": [2.0, 1.0], "dimension": 1024}
    scores = np.array(rated(options, target, documents)["it"])
    north, south = scores[::2], scores[1::2]
    if is_adam:  # the moments, which all steps share, are most of a step of so small a model
        assert south.mean() > north.mean() + 0.02
    else:
        assert south.min() > north.max()
    assert scores.min() >= -1 and scores.max() <= 1


def test_a_document_has_the_same_features_alone_and_among_others(checkpoints: list[str]) -> None:
    texts = [sentence("north", number) for number in range(70)] + ["", "ama", "ama bel " * 100]
    model = checkpoint(checkpoints[0])
    pieces = list(model.updates(model.windows(texts)))
    exists, features = (np.concatenate(column) for column in zip(*pieces, strict=True))
    assert exists.tolist() == [True] * 70 + [False, False, True]
    for i in (0, 65, 72):
        ((_, alone),) = model.updates(model.windows([texts[i]]))
        assert (alone[0] == features[i]).all()
    assert not features[70].any()


def test_after_a_prompt_only_the_tokens_of_the_response_count(checkpoints: list[str]) -> None:
    model, tokenizer, _ = loaded(checkpoints[0])
    model.zero_grad()
    ids = tokenizer("ama bel pip quo rus", return_tensors="pt")["input_ids"]
    labels = ids.clone()
    labels[0, :2] = -100  # what transformers does not count
    model(input_ids=ids, labels=labels).loss.backward()
    whole = np.concatenate([value.grad.double().numpy().ravel() for value in model.parameters()])
    ours = checkpoint(checkpoints[0])
    ((_, expected),) = ours.gradients(ours.windows(["pip quo rus"], ["ama bel\n"]))
    reference = unit(projected(torch.tensor(whole[None]), 2048, 3).numpy())
    assert float((expected @ reference.T).item()) == pytest.approx(1, abs=1e-6)
    (window,) = ours.windows(["pip " * 40], ["ama " * 40])
    assert window.first == 16 and len(window.tokens) == 32

    columns = {"corpus.ask": ["ama bel", None, "cor"], "corpus.say": ["pip quo", "pip quo", ""]}
    target = pa.table({"text": ["pip quo"], "prompt": ["ama bel"], "subtask": ["s"]})
    options = {"checkpoints": checkpoints[:1], "rates": [1.0], "prompt": ["ask"], "response": "say"}
    scores = rated(options, target, ["", "", ""], **columns)
    assert scores["it.state"] == ["ok", "ok", "not_applicable"]
    with pytest.raises(PolicyError, match="write both columns or neither"):
        rated({**options, "prompt": []}, target, [""])


def test_only_parameters_of_a_name_count_and_moments_may_be_absent(checkpoints: list[str], tmp_path: Path) -> None:
    windows = checkpoint(checkpoints[0]).windows(["ama bel"])
    ((_, head),) = checkpoint(checkpoints[0], parameters="lm_head").gradients(windows)
    ((_, whole),) = checkpoint(checkpoints[0]).gradients(windows)
    assert not np.allclose(head, whole)
    bare = checkpoint(without_moments(checkpoints[0], tmp_path / "bare"))
    ((_, update),), ((_, gradient),) = bare.updates(windows), bare.gradients(windows)
    assert (update == gradient).all(), "without moments the step is the gradient"
    with pytest.raises(PolicyError, match=r"No parameter of .* has a name with 'layer_7' in it"):
        checkpoint(checkpoints[0], parameters="layer_7").load()
    with pytest.raises(PolicyError, match=r"there are 1 checkpoints and 2 rates"):
        plugins.make("raters", "influence", {"checkpoints": ["a"], "rates": [1, 1], "target": "t.jsonl"}, "r", Rater)
    (tmp_path / "no").mkdir()
    with pytest.raises(PolicyError, match="cannot be loaded as a language model"):
        checkpoint(str(tmp_path / "no")).load()


def test_a_run_takes_what_helps_with_the_target(checkpoints: list[str], tmp_path: Path, tiny_model: Path) -> None:
    rows = [{"text": sentence(language, number)} for number in range(8) for language in WORDS]
    write_jsonl(tmp_path / "corpus/a.jsonl", rows)
    target = write_jsonl(tmp_path / "target.jsonl", [{"text": sentence("south", 30), "subtask": "s"}])
    bare = [without_moments(folder, tmp_path / str(i)) for i, folder in enumerate(checkpoints)]
    options = {"checkpoints": bare, "rates": [2.0, 1.0], "target": str(target), "dimension": 512, "max_tokens": 32}
    policy = policy_of(
        tmp_path / "corpus",
        tiny_model,
        rate=[{"influence": options}],
        select={"budget": {"documents": 2}, "using": {"top": {"score": "influence"}}},
        order={"using": {"by_score": {"score": "influence"}}},
        manifest={"quality": "influence"},
    )
    visits = run(policy, tmp_path / "runs").manifest.rows(0, 2)
    wanted = {keyed.digest(row["text"].encode()) for row in rows if row["text"].split()[0] in WORDS["south"]}
    assert set(visits["doc_id"].to_pylist()) <= wanted
    assert visits["quality"].to_pylist() == sorted(visits["quality"].to_pylist(), reverse=True)


def test_influence_keeps_the_laws_of_raters(checkpoints: list[str]) -> None:
    check_rater("influence", examples=3, checkpoints=tuple(checkpoints), dimension=64)
