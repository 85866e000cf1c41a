"""Text to unit vectors: the only home of sentence-transformers for embedding.

The last bits of a vector depend on which texts share a model batch, so batches are part of the plan: the
windows of a part are sorted by length and cut by token count, the same on every worker and every retry.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.corpus.texts import live_documents, texts_of
from selector.engine.part import Task
from selector.engine.step import APART, Stage
from selector.engine.store import Store
from selector.errors import PolicyError
from selector.models.find import checksum, find_model, settings_checksum
from selector.policy.sections import EmbedPolicy

Vectors = npt.NDArray[np.float32]
Precision = Literal["float32", "bfloat16", "float16"]

BATCH_TOKENS = {"cpu": 2048, "cuda": 32_768}
"""Tokens of a model batch, padding included. On a CPU a small batch stays in the cache."""


@dataclass(frozen=True, kw_only=True)
class Embed(Stage):
    """One unit vector per document."""

    name = "embed"
    output = "embeddings"
    libraries = ("torch", "transformers", "sentence-transformers")

    folder: str = field(metadata=APART)
    model_sha256: str
    settings_sha256: str  # of its tokenizer, its pooling and so on
    max_tokens: int
    long_documents: Literal["mean", "truncate"]
    precision: Precision
    device: Literal["cpu", "cuda"]
    batch_tokens: int
    text: str = field(metadata=APART)
    max_document_bytes: int = field(metadata=APART)

    @property
    def wants_gpu(self) -> bool:
        return True

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        documents = live_documents(task, store)
        texts = texts_of(task.part, documents, self.text, self.max_document_bytes)
        vectors = self.encode(texts)
        bad = ~np.isfinite(vectors).all(axis=1)
        lost = documents.filter(pa.array(bad)).select(["doc_id", "row"])
        good = documents.filter(pa.array(~bad))
        quarantine = [
            {**row, "step": self.name, "reason": "not_finite", "detail": "the model gave a vector with NaN or infinity"}
            for row in lost.to_pylist()
        ]
        return {
            "embeddings": pa.table(
                [good["doc_id"], vector_column(vectors[~bad].astype(np.float16))],
                schema=tables.embeddings(self._dimension),
            ),
            "quarantine": pa.Table.from_pylist(quarantine, schema=tables.QUARANTINE),
        }

    @functools.cached_property
    def _model(self) -> Any:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        model = SentenceTransformer(self.folder, device=self.device, trust_remote_code=False, local_files_only=True)
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
        import json

        config = json.loads(Path(self.folder, "config.json").read_text("utf-8"))
        return int(config.get("max_position_embeddings", 1 << 30))

    @property
    def _dimension(self) -> int:
        return int(self._model.get_embedding_dimension())

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, shape (len(texts), dimension)."""
        if not texts:
            return np.empty((0, self._dimension), np.float32)
        windows, owners = self._windows(texts)
        lengths = np.array([len(window) for window in windows])
        vectors = np.empty((len(windows), self._dimension), np.float32)
        for batch in _batches(lengths, self.batch_tokens):
            vectors[batch] = self._forward([windows[index] for index in batch])
        if len(windows) > len(texts):
            vectors = _pooled(vectors, lengths, owners, len(texts))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

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


def stage_for(policy: EmbedPolicy, device: Literal["cpu", "cuda"], text: str, max_document_bytes: int) -> Embed:
    """The embed stage that a policy describes, with `auto` settled for the hardware of `device`."""
    folder = find_model(policy.model)
    precision: Precision = hardware_precision(device) if policy.precision == "auto" else policy.precision
    return Embed(
        folder=str(folder),
        model_sha256=checksum(folder),
        settings_sha256=settings_checksum(folder),
        max_tokens=policy.max_tokens,
        long_documents=policy.long_documents,
        precision=precision,
        device=device,
        batch_tokens=BATCH_TOKENS[device],
        text=text,
        max_document_bytes=max_document_bytes,
    )


def vector_column(vectors: npt.NDArray[Any]) -> pa.Array:
    """An (n, d) array as an Arrow column of fixed-size lists, without copying."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def vectors_of(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[Any]:
    """The inverse of `vector_column`."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)


def _batches(lengths: npt.NDArray[np.int64], batch_tokens: int) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of windows, longest first, such that a padded batch has at most `batch_tokens` tokens."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + max(1, batch_tokens // int(lengths[order[start]]))
        yield order[start:stop]
        start = stop


def _pooled(vectors: Vectors, lengths: npt.NDArray[np.int64], owners: npt.NDArray[np.int64], n: int) -> Vectors:
    """The token-weighted mean of each text's windows."""
    sums = np.zeros((n, vectors.shape[1]))
    np.add.at(sums, owners, vectors.astype(np.float64) * lengths[:, None])
    return (sums / np.bincount(owners, lengths, n)[:, None]).astype(np.float32)


def hardware_precision(device: str) -> Precision:
    if device == "cuda":
        return "bfloat16"
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return "bfloat16" if "avx512_bf16" in file.read() else "float32"
    except OSError:
        return "float32"
