"""Text to unit vectors: the home of sentence-transformers.

The last bits of a vector depend on which texts share a model batch, so batches are part of the plan: the windows of
a part are sorted by length and cut by token count, the same on every worker and every retry. Of more than a thousand
texts those of about one length are taken together, and the next thousand becomes tokens while the last is computed.

A text that is not longer than `max_tokens` has the vector that `SentenceTransformer.encode` gives it, made a unit
vector: the model's default prompt before it, its lower case, its pooling (`selector.models.settings`).
"""

import contextlib
import dataclasses
import functools
import importlib.util
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from selector.engine import alive
from selector.engine.step import versions
from selector.errors import PolicyError
from selector.models.batching import Room, Vectors, each_batch, padded, pooled
from selector.models.find import checksum, find_model, settings_checksum
from selector.models.settings import Settings, settings_of

Precision = Literal["float32", "bfloat16", "float16"]
Device = Literal["cpu", "cuda"]

Ints = npt.NDArray[np.int64]

Window = dict[str, list[int]]
"""The tokens of a window, as its tokenizer tells them: `input_ids`, and whatever else the model wants of each."""

_LEAST_ROOM = 8
"""Tokens of a window that are left beside a prompt."""

LIBRARIES = ("torch", "transformers", "sentence-transformers")

_FLASH = "flash-attn"
"""The distribution by which models of half precision leave out the padding on a GPU, where it is installed."""

_AHEAD = 1024
"""Texts that become tokens at a time, while the model is at those before."""

BATCH_TOKENS = {"cpu": 2048, "cuda": 32_768}
"""Tokens of a model batch, padding included. On a CPU a small batch stays in the cache."""


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Turns texts into unit vectors. The model is loaded on first use, once per process."""

    folder: str
    model_sha256: str
    settings_sha256: str  # of its tokenizer, its pooling and so on
    max_tokens: int
    long_documents: Literal["mean", "truncate"]
    precision: Precision
    device: Device
    batch_tokens: int

    @classmethod
    def of(
        cls,
        model: str,
        *,
        device: Device,
        max_tokens: int = 256,
        long_documents: Literal["mean", "truncate"] = "mean",
        precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    ) -> "Encoder":
        """The encoder of a model, with `auto` settled for the hardware of `device`. Raises PolicyError."""
        folder = find_model(model)
        return cls(
            folder=str(folder),
            model_sha256=checksum(folder),
            settings_sha256=settings_checksum(folder),
            max_tokens=max_tokens,
            long_documents=long_documents,
            precision=hardware_precision(device) if precision == "auto" else precision,
            device=device,
            batch_tokens=BATCH_TOKENS[device],
        )

    def identity(self) -> dict[str, Any]:
        """All that decides a vector: the model's files and not where they lie, and how they are used."""
        options = dataclasses.asdict(self)
        del options["folder"]
        return {**options, "libraries": versions((*LIBRARIES, _FLASH) if self._has_flash else LIBRARIES)}

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return int(self._model.get_embedding_dimension())

    def load(self) -> None:
        """Loads the model. Raises PolicyError if it is not the one that the run was planned with."""
        assert self._model is not None

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, shape (len(texts), dimension)."""
        vectors = np.empty((len(texts), self.dimension), np.float32)
        num_done = 0
        for places, windows, owners in self._tokenized_ahead(texts):
            vectors[places] = self._vectors(windows, owners, len(places), num_done)
            num_done += len(places)
        return vectors

    def _tokenized_ahead(self, texts: Sequence[str]) -> Iterator[tuple[Ints, list[Window], Ints]]:
        """The windows of about a thousand texts at a time, and the text that each belongs to; the next ones are
        made meanwhile. Where there are more, texts of about one length are together."""
        places = np.arange(len(texts))
        if len(texts) > _AHEAD:
            places = np.argsort([-len(text) for text in texts], kind="stable")
        blocks = [places[start : start + _AHEAD] for start in range(0, len(texts), _AHEAD)]
        if len(blocks) <= 1:
            yield from ((block, *self._windows(texts)) for block in blocks)
            return
        assert self._model is not None  # here, rather than in two threads at once
        with ThreadPoolExecutor(1, thread_name_prefix="tokens") as thread:
            some = [[str(texts[place]) for place in block.tolist()] for block in blocks]
            ready = thread.submit(self._windows, some[0])
            for block, later in itertools.zip_longest(blocks, some[1:]):
                windows, owners = ready.result()
                if later is not None:
                    ready = thread.submit(self._windows, later)
                yield block, windows, owners

    def _vectors(self, windows: list[Window], owners: Ints, num_texts: int, num_done: int) -> Vectors:
        """The unit vectors of some texts; as many as `num_done` had theirs before."""
        import torch

        lengths = np.array([len(window["input_ids"]) for window in windows])
        answers, order, num_windows = list[Any](), list[Ints](), 0
        for batch, answer in each_batch(lengths, self._room, lambda batch: self._forward([windows[i] for i in batch])):
            answers.append(answer)
            order.append(batch)
            num_windows += len(batch)
            alive.sign(num_done + num_windows * num_texts // len(windows))
        vectors = np.empty((len(windows), self.dimension), np.float32)
        vectors[np.concatenate(order)] = torch.cat(answers).cpu().numpy()  # a GPU is waited for once, here
        if len(windows) > num_texts:
            vectors = pooled(vectors, lengths, owners, num_texts)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    @functools.cached_property
    def _room(self) -> Room:
        return Room(tokens=self.batch_tokens)

    @property
    def _has_flash(self) -> bool:
        """Whether padding is left out."""
        return (
            self.device == "cuda" and self.precision != "float32" and importlib.util.find_spec("flash_attn") is not None
        )

    @functools.cached_property
    def _model(self) -> Any:
        import torch

        self._settings.check_length(self.max_tokens, self.folder)
        model = bare_model(self.folder, self.device, flash=self.precision if self._has_flash else None)
        if (checksum(Path(self.folder)), settings_checksum(Path(self.folder))) != (
            self.model_sha256,
            self.settings_sha256,
        ):
            raise PolicyError(
                f"embed.model: {self.folder} is not, or no longer, the model that the run was planned with. "
                "Every worker needs the same files; then run the same command again."
            )
        self._check_loaded(model)
        return model.to(getattr(torch, self.precision)).eval()

    @functools.cached_property
    def _settings(self) -> Settings:
        return settings_of(Path(self.folder))

    @functools.cached_property
    def _prompt_features(self) -> dict[str, Any]:
        """What a model that pools without its prompt must know of it."""
        prompt = self._settings.prompt
        features = self._model.preprocess([prompt], prompt=prompt) if prompt else {}
        return {name: features[name] for name in ("prompt_length",) if name in features}

    def _check_loaded(self, model: Any) -> None:
        """Texts go into the model as we make them: as tokens of a tokenizer that can cut them, beside its prompt.
        Raises PolicyError."""
        first, where = model[0], f"embed.model: {self.folder}"
        if not getattr(first.tokenizer, "is_fast", False):
            kind = type(first.tokenizer).__name__
            raise PolicyError(
                f"{where} has a {kind}, which does not say where it cuts a text. Take a model with a tokenizer.json."
            )
        if first.tokenizer.pad_token_id is None:
            raise PolicyError(f"{where} has no padding token, so texts cannot share a batch. Take a model with one.")
        if "message" in first.modality_config:
            raise PolicyError(f"{where} puts texts into a chat template, which we do not. Take a model without one.")
        if _prompt_tokens(model, self._settings) + _LEAST_ROOM > self.max_tokens:
            raise PolicyError(
                f"embed.max_tokens is {self.max_tokens}, and the default prompt of {self.folder},"
                f" {self._settings.prompt!r}, leaves too little room beside it. Raise it."
            )

    def _windows(self, texts: Sequence[str]) -> tuple[list[Window], Ints]:
        """Every window, and the text that it belongs to. Each begins with the model's prompt."""
        prompt, is_cut = self._settings.prompt, self.long_documents == "mean"
        windows, owners = self._tokenized([prompt + text for text in texts], is_cut)
        if not prompt or len(windows) == len(texts):
            return windows, owners
        long = np.flatnonzero(np.bincount(owners, minlength=len(texts)) > 1).tolist()
        pieces = [[prompt + text] for text in texts]
        for index, cut in zip(long, self._spans([texts[index] for index in long]), strict=True):
            pieces[index] = [prompt + texts[index][start:end] for start, end in cut]
        windows, _ = self._tokenized([piece for of_text in pieces for piece in of_text], False)
        return windows, np.repeat(np.arange(len(texts)), [len(of_text) for of_text in pieces])

    def _tokenized(self, texts: Sequence[str], is_cut: bool) -> tuple[list[Window], Ints]:
        """The windows of texts, all or the first of each, and the text that each belongs to."""
        encoded = self._model.tokenizer(
            list(texts), truncation=True, max_length=self.max_tokens, padding=False, return_attention_mask=False,
            return_overflowing_tokens=is_cut,
        )  # fmt: skip
        owners = np.asarray(list(encoded.pop("overflow_to_sample_mapping", range(len(texts)))), np.int64)
        names = list(encoded)
        return [dict(zip(names, row, strict=True)) for row in zip(*encoded.values(), strict=True)], owners

    def _spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Where each text is cut, so that a piece and the prompt before it fit into a window."""
        room = self.max_tokens - _prompt_tokens(self._model, self._settings) - 1  # it may be cut in another way alone
        encoded = self._model.tokenizer(
            list(texts), truncation=True, max_length=room, padding=False, return_overflowing_tokens=True,
            return_offsets_mapping=True, return_special_tokens_mask=True,
        )  # fmt: skip
        starts: list[list[int]] = [[] for _ in texts]
        columns = (encoded[name] for name in ("overflow_to_sample_mapping", "offset_mapping", "special_tokens_mask"))
        for owner, offsets, is_special in zip(*columns, strict=True):
            starts[owner].append(offsets[is_special.index(0)][0])
        return [
            list(itertools.pairwise([0, *begins[1:], len(text)])) for text, begins in zip(texts, starts, strict=True)
        ]

    def _forward(self, windows: list[Window]) -> Any:
        """The vectors of a batch, on the device that computes them."""
        import torch

        features = self._features(windows)
        tensors = {name: value for name, value in features.items() if isinstance(value, torch.Tensor)}
        if self.device == "cuda":  # a copy from pinned memory goes on beside the work
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        features |= {name: tensor.to(self.device, non_blocking=True) for name, tensor in tensors.items()}
        with torch.inference_mode():
            return self._model({**features, **self._prompt_features})["sentence_embedding"].float()

    def _features(self, windows: list[Window]) -> dict[str, Any]:
        """A batch as the model takes it: padded, or one after another where it can tell them apart."""
        import torch

        first, tokenizer = self._model[0], self._model.tokenizer
        if self._has_flash and first.can_flatten_inputs and not any(any(w.get("token_type_ids", ())) for w in windows):
            bare = [{"input_ids": window["input_ids"]} for window in windows]
            features = dict(first.data_collator(bare, return_tensors="pt"))
            features["position_ids"] += getattr(first, "_flatten_position_offset", 0)
            return {name: value for name, value in features.items() if name != "labels"}
        # What tokenizer.pad answers. That goes over every token in Python, which takes longer than a GPU needs.
        fillers = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        columns: dict[str, Ints] = {}
        for name in windows[0]:
            columns[name], mask = padded([window[name] for window in windows], fillers[name], tokenizer.padding_side)
            if "attention_mask" in tokenizer.model_input_names:
                columns["attention_mask"] = mask
        return {name: torch.from_numpy(column) for name, column in columns.items()}


def _prompt_tokens(model: Any, settings: Settings) -> int:
    return len(model.tokenizer(settings.prompt, add_special_tokens=False)["input_ids"]) if settings.prompt else 0


def bare_model(folder: str, device: Device, flash: Precision | None = None) -> Any:
    """The SentenceTransformer in a folder, as its library loads it. Nothing is downloaded and none of its code is
    run. With `flash`, in that precision, its attention is FlashAttention-2, if the model can have it."""
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    if flash is not None:
        options = {"attn_implementation": "flash_attention_2", "dtype": flash}
        with contextlib.suppress(ValueError, ImportError):  # of a model that has no such attention
            return SentenceTransformer(
                folder, device=device, trust_remote_code=False, local_files_only=True, model_kwargs=options
            )
    return SentenceTransformer(folder, device=device, trust_remote_code=False, local_files_only=True)


def hardware_precision(device: str) -> Precision:
    """The precision that the hardware computes fastest without a loss that matters."""
    if device == "cuda":
        return "bfloat16"
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return "bfloat16" if "avx512_bf16" in file.read() else "float32"
    except OSError:
        return "float32"
