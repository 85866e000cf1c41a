"""Small language models over bytes, trained from nothing: what a proxy for a large one is made of.

A token is a byte of UTF-8, so nothing has to be fitted before training, and losses are bits per byte in any language.
Before each document stands a byte that UTF-8 never has. The architecture is Llama's (RMSNorm, rotary positions,
SwiGLU), with the weights of input and output tied; the optimizer is AdamW with betas .9 and .95, and gradients of at
most norm 1. On GPUs products are computed in bfloat16.

The same bytes, seed and schedule give the same weights on the same machine.
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from selector.engine import alive
from selector.exact import Floats
from selector.exact.rates import Schedule

Ints = npt.NDArray[np.int64]

LIBRARIES = ("torch", "transformers")

SIZES: Mapping[str, tuple[int, int]] = {
    "0.3M": (96, 3), "1.3M": (160, 4), "5M": (256, 6), "15M": (384, 8), "60M": (640, 12), "150M": (896, 16),
}  # fmt: skip
"""Width and layers of the models, by about how many parameters they have."""

_BEGIN = 0xFF  # stands before a document; UTF-8 has no such byte
_HEAD_WIDTH = 32
_SPREAD = 0.8  # of the weights at the beginning, times the root of the width
_BETAS = (0.9, 0.95)
_MOST_NORM = 1.0
_ASKED_AT_ONCE = 64  # windows


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Documents one after another, cut into rows of `context` bytes."""

    data: npt.NDArray[np.uint8]
    ends: Ints  # of each document
    weights: Floats  # how much a byte of each document counts
    context: int

    @classmethod
    def of(cls, texts: Sequence[bytes], weights: Floats, context: int) -> "Stream":
        """A stream of whole texts, in their order."""
        data = np.frombuffer(b"".join(bytes([_BEGIN]) + text for text in texts), np.uint8)
        ends = np.cumsum([len(text) + 1 for text in texts], dtype=np.int64)
        return cls(data=data, ends=ends, weights=np.asarray(weights, np.float64), context=context)

    def __len__(self) -> int:
        """The number of rows; the last one may be short."""
        return -(-max(len(self.data) - 1, 0) // self.context)

    def rows(self, first: int, count: int) -> tuple[Ints, Ints, Floats]:
        """Inputs, targets and weights, (count, context) each. What is beyond the end counts nothing, and neither does
        where a document begins, since nothing foretells that."""
        begin, end = first * self.context, min((first + count) * self.context + 1, len(self.data))
        read = np.full(count * self.context + 1, _BEGIN, np.int64)
        read[: end - begin] = self.data[begin:end]
        counts = np.zeros(count * self.context)
        counts[: end - begin - 1] = self.weights[np.searchsorted(self.ends, np.arange(begin + 1, end), side="right")]
        counts[read[1:] == _BEGIN] = 0.0
        shape = count, self.context
        return read[:-1].reshape(shape), read[1:].reshape(shape), counts.reshape(shape)


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """How a model is built and trained."""

    size: str  # one of SIZES
    context: int  # bytes
    rows_per_step: int
    schedule: Schedule
    averaged: int  # the checkpoints at the end whose mean is the model
    seed: int

    def trained(self, stream: Stream) -> "Trained":
        """A model that has seen the stream once, in its order."""
        torch = _torch()
        num_steps = -(-len(stream) // self.rows_per_step)
        model = self._built()
        weights = list(model.parameters())
        matrices, vectors = [one for one in weights if one.dim() > 1], [one for one in weights if one.dim() < 2]
        optimizer = torch.optim.AdamW(
            [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
            betas=_BETAS, weight_decay=self.schedule.weight_decay, fused=True,
        )  # fmt: skip
        after = last_checkpoints(num_steps, self.averaged)
        mean = [torch.zeros_like(one) for one in weights]
        for step, rate in enumerate(self.schedule.rates(num_steps).tolist()):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            self._loss(model, stream, step).backward()
            torch.nn.utils.clip_grad_norm_(weights, _MOST_NORM)
            optimizer.step()
            alive.sign()
            if step in after:
                for averaged, one in zip(mean, weights, strict=True):
                    averaged.add_(one.detach(), alpha=1 / len(after))
        if after:
            with torch.no_grad():
                for averaged, one in zip(mean, weights, strict=True):
                    one.copy_(averaged)
        return Trained(model=model.eval(), context=self.context)

    def _built(self) -> Any:
        """A model with weights that the seed draws, on whatever device there is."""
        from transformers import LlamaConfig, LlamaForCausalLM

        torch = _torch()
        width, layers = SIZES[self.size]
        config = LlamaConfig(
            vocab_size=256, hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=layers,
            num_attention_heads=width // _HEAD_WIDTH, max_position_embeddings=self.context, tie_word_embeddings=True,
            initializer_range=_SPREAD * width**-0.5,
            use_cache=False, bos_token_id=_BEGIN, eos_token_id=_BEGIN,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model: Any = LlamaForCausalLM(config)
        return model.to("cuda" if torch.cuda.is_available() else "cpu").train()

    def _loss(self, model: Any, stream: Stream, step: int) -> Any:
        inputs, targets, counts = stream.rows(step * self.rows_per_step, self.rows_per_step)
        losses = _losses(model, inputs, targets)
        return (losses * _torch().from_numpy(counts).to(losses)).sum() / max(float(counts.sum()), 1.0)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model that says how well it foretells texts."""

    model: Any
    context: int

    def bits(self, texts: Sequence[bytes], after: Sequence[bytes] | None = None) -> Floats:
        """What each text costs, in bits; with `after`, each one after a text that costs nothing.

        A window has `context` bytes and all but the first of a text begin with half of the window before: a byte has at
        least half a context before it.
        """
        after = after or [b""] * len(texts)
        sums = np.zeros(len(texts))
        waiting: list[tuple[int, Ints, Ints, Floats]] = []
        for i, (before, text) in enumerate(zip(after, texts, strict=True)):
            for window in self._windows(before, text):
                waiting.append((i, *window))
                if len(waiting) == _ASKED_AT_ONCE:
                    self._add(sums, waiting)
                    waiting = []
        self._add(sums, waiting)
        return sums / math.log(2)

    def _windows(self, before: bytes, text: bytes) -> Iterator[tuple[Ints, Ints, Floats]]:
        """Inputs, targets, and which of these are asked for: each byte of the text once."""
        data = np.frombuffer(bytes([_BEGIN]) + before + text, np.uint8).astype(np.int64)
        counted = len(before) + 1  # the next byte that is asked for
        start = max(0, min(len(before) - self.context // 2, len(data) - 1 - self.context))
        while counted < len(data):
            end = min(start + self.context + 1, len(data))
            read = np.full(self.context + 1, _BEGIN, np.int64)
            read[: end - start] = data[start:end]
            counts = np.zeros(self.context)
            counts[counted - start - 1 : end - start - 1] = 1.0
            yield read[:-1], read[1:], counts
            counted, start = end, end - 1 - self.context // 2

    def _add(self, sums: Floats, windows: Sequence[tuple[int, Ints, Ints, Floats]]) -> None:
        if not windows:
            return
        alive.sign()
        inputs, targets, counts = (np.stack([window[at] for window in windows]) for at in (1, 2, 3))
        with _torch().inference_mode():
            losses = _losses(self.model, inputs, targets).double().cpu().numpy()
        np.add.at(sums, [window[0] for window in windows], (losses * counts).sum(axis=1))


def last_checkpoints(num_steps: int, averaged: int) -> list[int]:
    """The steps after which a checkpoint is taken for the mean: the last, and others a hundredth of all steps apart."""
    apart = max(1, num_steps // 100)
    return sorted(range(num_steps - 1, max(-1, num_steps - 1 - averaged * apart), -apart))


def _losses(model: Any, inputs: Ints, targets: Ints) -> Any:
    """-ln p of each target, (rows, context)."""
    torch = _torch()
    device = model.device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        logits = model(input_ids=torch.from_numpy(inputs).to(device)).logits
    wanted = torch.from_numpy(targets).to(device)
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), reduction="none").view(
        wanted.shape
    )


@functools.cache
def _torch() -> Any:
    import torch

    return torch
