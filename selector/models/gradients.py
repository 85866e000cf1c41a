"""What a document would change in a causal language model: its gradient, small enough to be compared.

A gradient has as many numbers as the model has parameters, so it is projected: its products with rows of random signs,
as many as asked for, keep angles (Johnson and Lindenstrauss). The signs follow from a seed and their place alone, on
any device, and are made as they are used. Every text goes through the model by itself and every sum of a projection is
exact, so a document's features do not depend on what stands beside it.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from selector.engine import alive
from selector.errors import PolicyError
from selector.exact import Floats
from selector.models.causal import Causal, Window

Bools = npt.NDArray[np.bool_]

MOMENTS = "adam.safetensors"
"""The file beside a model's weights with the moments of Adam: for every parameter `exp_avg.<name>` and
`exp_avg_sq.<name>`."""

BETAS = (0.9, 0.999)
EPSILON = 1e-8

_BLOCK = 1 << 23  # signs that are held at once
_GROUP_BYTES = 1 << 28  # of gradients that are projected together
_BITS = 24  # that are kept of a gradient's numbers, beside the largest of them: so their sums are exact in float64


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A causal language model as it was at one time of its training. It is loaded on first use."""

    model: Causal
    max_tokens: int | None  # of a text; None: as many as the model reads
    parameters: str  # a regular expression: those whose names it is found in
    dimension: int
    seed: int

    def windows(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> list[Window]:
        """What the model reads of each text, cut to what it can read. After a prompt only the text's own tokens count:
        a prompt that is too long loses its beginning, and a text is cut so that half is left to its prompt."""
        width, begins = self.model.window(self.max_tokens), self.model.begins
        tokens = self.model.tokens(texts)
        if prompts is None:
            return [Window((*begins, *one)[:width], max(1, len(begins))) for one in tokens]
        windows: list[Window] = []
        for before, one in zip(self.model.tokens(prompts), tokens, strict=True):
            counted = one[: width // 2]
            room = width - len(begins) - len(counted)
            given = (*begins, *(before[-room:] if room > 0 else ()))
            windows.append(Window((*given, *counted), max(1, len(given))))
        return windows

    def gradients(self, windows: Sequence[Window]) -> Iterator[tuple[Bools, Floats]]:
        """Features of texts by plain gradients: see `updates`."""
        return self._features(windows, is_update=False)

    def updates(self, windows: Sequence[Window]) -> Iterator[tuple[Bools, Floats]]:
        """Features of texts by the step that the optimizer would take, group by group: which texts have one (a token
        that counts), and a unit vector for each, (texts, dimension); zeros where there is none, NaN where the gradient
        is not finite. The loss is the mean over the tokens that count.

        With the moments of Adam that is m' / sqrt(v' + 1e-8), m' = 0.9 m + 0.1 g and v' = 0.999 v + 0.001 g^2, without
        a correction of the bias and with the small number inside the root, as LESS has it. Without them it is g.
        """
        return self._features(windows, is_update=True)

    def load(self) -> None:
        """Loads the model. Raises PolicyError where it is none, or no parameter has such a name."""
        assert self._loaded.names

    def _features(self, windows: Sequence[Window], *, is_update: bool) -> Iterator[tuple[Bools, Floats]]:
        import torch

        loaded = self._loaded
        size = max(1, min(64, _GROUP_BYTES // (8 * loaded.num_parameters)))
        for first in range(0, len(windows), size):
            group: list[Any] = []
            for window in windows[first : first + size]:
                group.append(self._gradient(window, is_update=is_update))
                alive.sign()
            vectors = torch.zeros(len(group), loaded.num_parameters, dtype=torch.float64, device=self.model.device)
            for place, one in enumerate(group):
                if one is not None:
                    vectors[place] = one
            features = projected(vectors, self.dimension, self.seed).cpu().numpy()
            lengths = np.sqrt((features * features).sum(axis=1, keepdims=True))
            unit = features / np.where(lengths == 0, 1, lengths)
            yield np.array([one is not None for one in group], np.bool_), unit

    def _gradient(self, window: Window, *, is_update: bool) -> Any:
        """The numbers of one text, rounded so that their sums are exact; None where no token counts."""
        import torch

        loaded = self._loaded
        if len(window.tokens) <= window.first:
            return None
        ids = torch.tensor([window.tokens], device=self.model.device)
        logits = self.model.network(input_ids=ids).logits[0, window.first - 1 : -1].float()
        loss = torch.nn.functional.cross_entropy(logits, ids[0, window.first :])
        gradients: Any = torch.autograd.grad(loss, loaded.values, allow_unused=True)
        pieces = [
            torch.zeros_like(value).reshape(-1) if gradient is None else gradient.reshape(-1)
            for value, gradient in zip(loaded.values, gradients, strict=True)
        ]
        flat = torch.cat([piece.double() for piece in pieces])
        if is_update and loaded.moments is not None:
            flat = adam_direction(*loaded.moments, flat)
        largest = flat.abs().max()
        if not bool(torch.isfinite(largest)) or largest == 0:
            return flat
        exponent = torch.frexp(largest).exponent
        return torch.round(torch.ldexp(flat, _BITS - exponent))

    @functools.cached_property
    def _loaded(self) -> "_Loaded":
        return _Loaded.of(self)


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """A model with the parameters that count."""

    names: tuple[str, ...]
    values: tuple[Any, ...]
    moments: tuple[Any, Any] | None  # flat, in the order of the names

    @property
    def num_parameters(self) -> int:
        return sum(value.numel() for value in self.values)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "_Loaded":
        model = checkpoint.model
        network = model.network
        wanted = re.compile(checkpoint.parameters)
        for name, value in network.named_parameters():
            value.requires_grad_(wanted.search(name) is not None)
        used = {name: value for name, value in network.named_parameters() if value.requires_grad}
        if not used:
            raise PolicyError(
                f"No parameter of {model.folder} has a name with {checkpoint.parameters!r} in it. There are, for "
                f"example: {', '.join(name for name, _ in list(network.named_parameters())[-3:])}."
            )
        moments = _moments(Path(model.folder, MOMENTS), used, model.device)
        return cls(names=tuple(used), values=tuple(used.values()), moments=moments)


def _moments(file: Path, used: dict[str, Any], device: str) -> tuple[Any, Any] | None:
    """Adam's moments of these parameters, flat; None where there is no such file."""
    if not file.is_file():
        return None
    import torch
    from safetensors.torch import load_file

    stored = load_file(file)
    if missing := [name for name in used if f"exp_avg.{name}" not in stored]:
        raise PolicyError(f"{file} has no moments of {missing[0]}. Write it with `save_moments`.")

    def flat(kind: str) -> Any:
        return torch.cat([stored[f"{kind}.{name}"].double().reshape(-1) for name in used]).to(device)

    return flat("exp_avg"), flat("exp_avg_sq")


def save_moments(model: Any, optimizer: Any, folder: str | Path) -> Path:
    """Writes the moments of a torch Adam or AdamW beside a model's weights: what `influence` needs of a checkpoint."""
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    for name, value in model.named_parameters():
        state = optimizer.state.get(value)
        if state:
            for kind in ("exp_avg", "exp_avg_sq"):
                tensors[f"{kind}.{name}"] = state[kind].detach().contiguous().cpu().clone()
    save_file(tensors, Path(folder, MOMENTS))
    return Path(folder, MOMENTS)


def adam_direction(mean: Any, square: Any, gradient: Any) -> Any:
    """The direction of Adam's next step, of arrays or tensors: m' / sqrt(v' + epsilon)."""
    first, second = BETAS
    new_mean = first * mean + (1 - first) * gradient
    new_square = second * square + (1 - second) * gradient**2
    return new_mean / (new_square + EPSILON) ** 0.5


def projected(vectors: Any, dimension: int, seed: int) -> Any:
    """Tensors of float64, (n, numbers), times random signs, (numbers, dimension), divided by sqrt(dimension).

    Where the numbers are whole and below 2^24, every sum is exact up to 2^29 of them.
    """
    import torch

    count = vectors.shape[1]
    rows = max(1, _BLOCK // dimension)
    total = torch.zeros(vectors.shape[0], dimension, dtype=torch.float64, device=vectors.device)
    for first in range(0, count, rows):
        some = vectors[:, first : first + rows]
        total += some @ signs(first, some.shape[1], dimension, seed, vectors.device)
    return total / dimension**0.5


def signs(first: int, count: int, dimension: int, seed: int, device: Any) -> Any:
    """Rows `first` to `first + count` of an endless matrix of random signs, 1 and -1 in float64, (count, dimension).

    Its words of 64 bits are those of SplitMix64 (Steele et al. 2014) at their places, so any row is made alone.
    """
    import torch

    width = -(-dimension // 64)
    places = torch.arange(first * width, (first + count) * width, dtype=torch.int64, device=device)
    words = places * _signed(0x9E3779B97F4A7C15) + _mixed(torch.tensor(seed, dtype=torch.int64, device=device))
    octets = _mixed(words).view(torch.uint8).int()  # the lowest first, on every machine that torch runs on
    bits = torch.arange(256, device=device).reshape(-1, 1) >> torch.arange(8, device=device) & 1
    of_octet = (2 * bits - 1).double()  # the signs of each of the 256 octets: looking them up is faster than shifting
    return of_octet[octets].reshape(count, width * 64)[:, :dimension]


def _mixed(words: Any) -> Any:
    """The finalizer of SplitMix64; torch has no unsigned words, so a shift to the right must clear what it copies."""
    words = (words ^ ((words >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    words = (words ^ ((words >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return words ^ ((words >> 31) & ((1 << 33) - 1))


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word
