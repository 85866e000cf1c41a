"""Text to unit vectors: the home of sentence-transformers.

The last bits of a vector depend on which texts share a model batch, so batches are part of the plan: the windows of
a part are sorted by length and cut by token count, the same on every worker and every retry.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from selector.engine import alive
from selector.engine.step import versions
from selector.errors import PolicyError
from selector.models.batching import Vectors, batches, pooled
from selector.models.find import checksum, find_model, settings_checksum

Precision = Literal["float32", "bfloat16", "float16"]
Device = Literal["cpu", "cuda"]

LIBRARIES = ("torch", "transformers", "sentence-transformers")

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
        return {**options, "libraries": versions(LIBRARIES)}

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return int(self._model.get_embedding_dimension())

    def load(self) -> None:
        """Loads the model. Raises PolicyError if it is not the one that the run was planned with."""
        assert self._model is not None

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, shape (len(texts), dimension)."""
        if not texts:
            return np.empty((0, self.dimension), np.float32)
        windows, owners = self._windows(texts)
        lengths = np.array([len(window) for window in windows])
        vectors = np.empty((len(windows), self.dimension), np.float32)
        num_done = 0
        for batch in batches(lengths, self.batch_tokens):
            vectors[batch] = self._forward([windows[index] for index in batch])
            num_done += len(batch)
            alive.sign(num_done * len(texts) // len(windows))
        if len(windows) > len(texts):
            vectors = pooled(vectors, lengths, owners, len(texts))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    @functools.cached_property
    def _model(self) -> Any:
        import torch

        model = bare_model(self.folder, self.device)
        if (checksum(Path(self.folder)), settings_checksum(Path(self.folder))) != (
            self.model_sha256,
            self.settings_sha256,
        ):
            raise PolicyError(
                f"embed.model: {self.folder} is not, or no longer, the model that the run was planned with. "
                "Every worker needs the same files; then run the same command again."
            )
        longest = model.get_max_seq_length()
        if longest is not None and longest < self.max_tokens and self._positions < self.max_tokens:
            raise PolicyError(
                f"embed.max_tokens is {self.max_tokens}, and the model reads at most {self._positions}. Lower it."
            )
        return model.to(getattr(torch, self.precision)).eval()

    @property
    def _positions(self) -> int:
        return most_tokens(Path(self.folder)) or 1 << 30

    def _windows(self, texts: Sequence[str]) -> tuple[list[list[int]], npt.NDArray[np.int64]]:
        """Token ids of every window, and the text that each belongs to."""
        encoded = self._model.tokenizer(
            list(texts), truncation=True, max_length=self.max_tokens, padding=False, return_attention_mask=False,
            return_token_type_ids=False, return_overflowing_tokens=self.long_documents == "mean",
        )  # fmt: skip
        owners = encoded.get("overflow_to_sample_mapping", range(len(texts)))
        return encoded["input_ids"], np.asarray(list(owners), np.int64)

    def _forward(self, windows: list[list[int]]) -> Vectors:
        import torch

        features = self._model.tokenizer.pad({"input_ids": windows}, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            return self._model(dict(features))["sentence_embedding"].float().cpu().numpy()


def bare_model(folder: str, device: Device) -> Any:
    """The SentenceTransformer in a folder, as its library loads it. Nothing is downloaded and none of its code is
    run."""
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    return SentenceTransformer(folder, device=device, trust_remote_code=False, local_files_only=True)


def most_tokens(folder: Path) -> int | None:
    """How many tokens a model reads at most; None if its files do not say."""
    config = folder / "config.json"
    return json.loads(config.read_text("utf-8")).get("max_position_embeddings") if config.is_file() else None


def hardware_precision(device: str) -> Precision:
    """The precision that the hardware computes fastest without a loss that matters."""
    if device == "cuda":
        return "bfloat16"
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return "bfloat16" if "avx512_bf16" in file.read() else "float32"
    except OSError:
        return "float32"
