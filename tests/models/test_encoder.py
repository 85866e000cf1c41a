"""A text has the vector that sentence-transformers gives it, whatever the model's settings, or the model is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from conftest import text_of
from selector.errors import PolicyError
from selector.models.encoder import Encoder
from selector.models.settings import settings_of

TEXTS = [
    "A short text.",
    "EVERY Word Of This One Begins With A Capital Letter, Or Is Written In THEM.",
    "Ein Übergrößenträger läßt grüßen: 日本語 🎉 e\u0301.",
    " ".join(f"number {i}" for i in range(25)),
    "\u200b",
]
MODES = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
PROMPTS = {"query": "query: ", "document": "Represent the passage: "}
PROMPT: dict[str, Any] = {"prompts": PROMPTS, "default_prompt_name": "document"}

Change = Callable[[Path], None]


def edited(file: str, **keys: Any) -> Change:
    """Afterwards a JSON file of the model says this."""

    def edit(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        path.write_text(json.dumps({**content, **keys}), "utf-8")

    return edit


def pooling(*modes: str, **more: Any) -> Change:
    return edited("1_Pooling/config.json", **{f"pooling_mode_{mode}": mode in modes for mode in MODES}, **more)


def cased(folder: Path) -> None:
    """The tokenizer no longer lowers the case of a text."""
    told = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    told["normalizer"] = {**told["normalizer"], "lowercase": False}
    (folder / "tokenizer.json").write_text(json.dumps(told), "utf-8")
    edited("tokenizer_config.json", do_lower_case=False)(folder)


def broken(folder: Path) -> None:
    (folder / "modules.json").write_text("{", "utf-8")


def padded_left(folder: Path) -> None:
    edited("tokenizer_config.json", padding_side="left")(folder)


def with_modules(*types: str) -> Change:
    """The modules of these types, each in a folder of its own where it has one."""

    def write(folder: Path) -> None:
        paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
        named = [(kind.rpartition(".")[2], kind) for kind in types]
        modules = [
            {
                "idx": i,
                "name": str(i),
                "path": paths.get(name, f"{i}_{name}"),
                "type": kind if "." in kind else _OURS + kind,
            }
            for i, (name, kind) in enumerate(named)
        ]
        (folder / "modules.json").write_text(json.dumps(modules), "utf-8")

    return write


_OURS = "sentence_transformers.models."


def dense(folder: Path) -> None:
    """A projection to 24 dimensions, and no unit vectors."""
    import torch
    from sentence_transformers.base.modules import Dense

    torch.manual_seed(1)
    with_modules("Transformer", "Pooling", "Dense")(folder)
    (folder / "2_Dense").mkdir()
    Dense(32, 24).save(str(folder / "2_Dense"))


def saved_anew(folder: Path) -> None:
    """As the sentence-transformers that is installed writes it, with all the settings that it spells out."""
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(str(folder), device="cpu", prompts=PROMPTS, default_prompt_name="query")
    loaded.max_seq_length = 64
    shutil.rmtree(folder)
    loaded.save(str(folder))


def without_modules(folder: Path) -> None:
    """A plain model of transformers: sentence-transformers pools it by the mean."""
    for name in ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"):
        (folder / name).unlink()


def several(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


SETTINGS = "config_sentence_transformers.json"
CONFIGURATIONS: dict[str, Change] = {
    "as it is": several(),
    "a default prompt": edited(SETTINGS, **PROMPT),
    "a default prompt that is not pooled": several(
        edited(SETTINGS, **PROMPT), pooling("mean_tokens", include_prompt=False)
    ),
    "prompts and none by default": edited(SETTINGS, prompts=PROMPTS),
    "lower case": several(cased, edited("sentence_bert_config.json", do_lower_case=True)),
    "no lower case": cased,
    "pooling by the first token": pooling("cls_token"),
    "pooling by the largest": pooling("max_tokens"),
    "pooling by the root of the length": pooling("mean_sqrt_len_tokens"),
    "pooling by place": pooling("weightedmean_tokens"),
    "pooling by the last token": pooling("lasttoken"),
    "pooling by the last token, padded left": several(pooling("lasttoken"), padded_left),
    "pooling in two ways": pooling("cls_token", "mean_tokens"),
    "no normalisation": with_modules("Transformer", "Pooling"),
    "a dense layer": dense,
    "a short max_seq_length": edited("sentence_bert_config.json", max_seq_length=64),
    "no modules": without_modules,
    "saved anew": saved_anew,
}


def changed(model: Path, folder: Path, change: Change) -> Path:
    copy = Path(shutil.copytree(model, folder / "model"))
    change(copy)
    return copy


def encoder(folder: Path, max_tokens: int = 64, long_documents: Literal["mean", "truncate"] = "mean") -> Encoder:
    options: dict[str, Any] = {"max_tokens": max_tokens, "long_documents": long_documents}
    return Encoder.of(str(folder), device="cpu", precision="float32", **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_text_has_the_vector_that_sentence_transformers_gives_it(name: str, tiny_model: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = changed(tiny_model, tmp_path, CONFIGURATIONS[name])
    wanted = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, normalize_embeddings=True)
    for ours in (encoder(folder).encode(TEXTS), encoder(folder, long_documents="truncate").encode(TEXTS)):
        assert ours.shape == wanted.shape
        assert (ours * wanted).sum(axis=1).min() >= 0.99999


@pytest.mark.parametrize(
    "change",
    [several(), padded_left, edited("tokenizer_config.json", model_input_names=["input_ids"])],
    ids=["as it is", "left", "without a mask"],
)
def test_a_batch_is_what_the_tokenizer_pads(change: Change, tiny_model: Path, tmp_path: Path) -> None:
    one = encoder(changed(tiny_model, tmp_path, change))
    windows, _ = one._windows(TEXTS)  # pyright: ignore[reportPrivateUsage]
    ours = one._features(windows)  # pyright: ignore[reportPrivateUsage]
    tokenizer = one._model.tokenizer  # pyright: ignore[reportPrivateUsage]
    wanted = dict(tokenizer.pad(windows, return_tensors="pt"))
    assert ours.keys() == wanted.keys() and all(ours[name].equal(wanted[name]) for name in wanted)


def test_a_model_without_a_padding_token_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    bare = edited("tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", pad_token=None)
    folder = changed(tiny_model, tmp_path, several(bare, edited("special_tokens_map.json", pad_token=None)))
    with pytest.raises(PolicyError, match="has no padding token, so texts cannot share a batch"):
        encoder(folder).load()


REFUSED: list[tuple[Change, str]] = [
    (with_modules("StaticEmbedding"), r"module 0 in its modules\.json is .*StaticEmbedding. There can be Transformer"),
    (with_modules("Router"), r"module 0 in its modules\.json is .*Router"),
    (
        with_modules("Transformer", "Pooling", "mine.Cut"),
        r"module 2 in its modules\.json is mine\.Cut. There can be Pool",
    ),
    (with_modules("Transformer", "Pooling", "LSTM"), r"module 2 in its modules\.json is .*LSTM"),
    (edited(SETTINGS, model_type="SparseEncoder"), r"its model_type is 'SparseEncoder'"),
    (
        edited(SETTINGS, prompts={}, default_prompt_name="query"),
        r"default_prompt_name 'query' is not among its prompts",
    ),
    (edited("sentence_bert_config.json", transformer_task="fill-mask"), r"its transformer_task is 'fill-mask'"),
    (edited("sentence_bert_config.json", processing_kwargs={"text": {"max_length": 8}}), r"its processing_kwargs is"),
    (edited("sentence_bert_config.json", tokenizer_name_or_path="/else"), r"its tokenizer_name_or_path is '/else'"),
    (edited("sentence_bert_config.json", modality_config={"message": {}}), r"its modality_config names message"),
    (edited("sentence_bert_config.json", max_seq_length=32), r"max_tokens is 64, and the max_seq_length of .* is 32"),
    (broken, r"modules\.json cannot be read"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_setting_that_is_not_obeyed_is_refused_by_name(
    change: Change, message: str, tiny_model: Path, tmp_path: Path
) -> None:
    folder = changed(tiny_model, tmp_path, change)
    with pytest.raises(PolicyError, match=message):
        settings_of(folder).check_length(64, str(folder))
    with pytest.raises(PolicyError, match=message):
        encoder(folder).load()


def test_weights_that_would_be_unpickled_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    def pickled(folder: Path) -> None:
        with_modules("Transformer", "Pooling", "Dense")(folder)
        (folder / "2_Dense").mkdir()
        (folder / "2_Dense/pytorch_model.bin").write_bytes(b"")

    with pytest.raises(PolicyError, match=r"the weights of 2_Dense are a pytorch_model\.bin. Only safetensors"):
        settings_of(changed(tiny_model, tmp_path, pickled))


@pytest.mark.slow
def test_every_window_of_a_long_text_begins_with_the_prompt(tiny_model: Path, tmp_path: Path) -> None:
    folder = changed(tiny_model, tmp_path, edited(SETTINGS, **PROMPT))
    plain, prompted = encoder(tiny_model, max_tokens=32), encoder(folder, max_tokens=32)
    words = [f"word{i}" for i in range(60)]
    long = " ".join(words)
    prompt = PROMPTS["document"]
    windows, owners = prompted._windows([long, "short"])  # pyright: ignore[reportPrivateUsage]
    beginning = plain._windows([prompt])[0][0]["input_ids"][:-1]  # pyright: ignore[reportPrivateUsage]
    assert owners.tolist() == [0] * (len(windows) - 1) + [1] and len(windows) > 3
    assert all(window["input_ids"][: len(beginning)] == beginning for window in windows)
    tokenizer = plain._model.tokenizer  # pyright: ignore[reportPrivateUsage]
    read = [tokenizer.decode(window["input_ids"][len(beginning) : -1]) for window in windows[:-1]]
    assert "".join(read).replace(" ", "") == "".join(words), "every word is in one window"
    assert np.isclose(np.linalg.norm(prompted.encode([long]), axis=1), 1)


def test_a_prompt_that_leaves_no_room_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = changed(tiny_model, tmp_path, edited(SETTINGS, **PROMPT))
    with pytest.raises(PolicyError, match=r"max_tokens is 8, and the default prompt of .* leaves too little room"):
        encoder(folder, max_tokens=8).load()


def test_many_texts_have_the_vectors_that_each_has_alone_though_memory_runs_out(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of one length are taken together, the next ones become tokens meanwhile, a batch is done in halves."""
    texts = [text_of(n, 3 + n * 7 % 50) for n in range(60)]
    long_documents: Literal["mean", "truncate"] = "mean"
    options: dict[str, Any] = {"device": "cpu", "precision": "float32", "max_tokens": 32}
    alone = Encoder.of(str(tiny_model), long_documents=long_documents, **options)
    wanted = np.concatenate([alone.encode([text]) for text in texts])
    monkeypatch.setattr("selector.models.encoder._AHEAD", 16)
    monkeypatch.setattr("selector.failpoint._reached", {})
    monkeypatch.setenv("SELECTOR_FAILPOINT", "model.before_batch:memory:2")
    monkeypatch.setenv("SELECTOR_FAILPOINT_ONCE", str(marker := tiny_model.parent / "ran out"))
    together = Encoder.of(str(tiny_model), long_documents=long_documents, **options)
    np.testing.assert_allclose(together.encode(texts), wanted, atol=1e-6)
    assert marker.exists()
    marker.unlink()
