"""Language models and classifiers over text: the home of what asks a model of transformers for numbers.

Windows of tokens are sorted by length and batched by tokens, so little is padded; two windows that are equal go through
the model once. The last bits of an answer depend on who shares a batch: so whoever calls fixes the cut of documents
first, and stores what comes out.
"""

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from selector.engine import alive
from selector.errors import PolicyError
from selector.models.batching import Room, each_batch, padded
from selector.models.encoder import BATCH_TOKENS, Device, Precision
from selector.models.find import checksum, settings_checksum

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LIBRARIES = ("torch", "transformers", "tokenizers")

Head = Literal["language model", "classifier"]
"""What a model says of a window: the next token after each, or numbers for the whole."""

_HEADS = ("score.", "classifier.")  # begin the names of the weights of a classifier's head
_ARCHITECTURES: Mapping[Head, tuple[str, ...]] = {
    "language model": ("ForCausalLM", "LMHeadModel", "LMHead", "ForConditionalGeneration"),
    "classifier": ("ForSequenceClassification", "RewardModel"),
}
"""How the names of architectures end that have such a head."""
_ROWS: Mapping[Device, int] = {"cpu": 32, "cuda": 2048}
"""Tokens whose losses are computed at once: on a CPU as many as stay in its cache, once their logits are float32."""

_MOST_TOKENS = 2048  # of a window, where nobody says how many


class Window(NamedTuple):
    """Tokens that a model sees together, and from which on their losses count (1 or more, since nothing is before the
    first)."""

    tokens: tuple[int, ...]
    first: int


def identity_of(folder: Path) -> str:
    """What says which model lies in a folder: its weights and its settings."""
    return f"{checksum(folder)} {settings_checksum(folder)}"


@dataclass(frozen=True, kw_only=True)
class Causal:
    """A model in a folder, loaded on first use, once per process."""

    folder: str
    head: Head = "language model"
    device: Device = "cpu"
    precision: Precision = "float32"
    planned: str | None = None  # `identity_of` the model that a run was planned with; None: any
    where: str = "model"  # what a message calls the option that names it

    @property
    def network(self) -> Any:
        """The model itself, as transformers loads it."""
        return self._model

    @property
    def batch_tokens(self) -> int:
        return BATCH_TOKENS[self.device]

    def check(self) -> None:
        """Looks at what the folder holds, without loading a weight. Raises PolicyError where that cannot be such a
        model: no settings, no tokenizer, or an architecture or weights of another kind."""
        assert self._config is not None and self.tokenizer is not None
        named: list[str] = getattr(self._config, "architectures", None) or []
        heads = [name for name in self._weights if name.startswith(_HEADS)]
        if self.head == "language model" and heads:
            raise PolicyError(f"{self.where}: {self.folder} is no language model but a classifier: it has {heads[0]}.")
        ends = _ARCHITECTURES[self.head]
        if named and not heads and not any(name.endswith(ends) for name in named):
            raise PolicyError(
                f"{self.where}: {self.folder} is no {self.head}: its config.json says that it is a {named[0]}, and it"
                f" would have to be a …{ends[0]}."
            )

    @property
    def _weights(self) -> list[str]:
        """The names of the weights in the folder."""
        from safetensors import safe_open

        names: list[str] = []
        for file in sorted(Path(self.folder).glob("*.safetensors")):
            with safe_open(file, "np") as weights:
                names += weights.keys()
        return names

    @functools.cached_property
    def _room(self) -> Room:
        return Room(tokens=self.batch_tokens)

    def load(self) -> None:
        """Loads the model. Raises PolicyError if it cannot be used, or is not the one that was planned with."""
        assert self._model is not None

    @functools.cached_property
    def max_tokens(self) -> int | None:
        """How many tokens the model can read at once; None if its files do not say."""
        return getattr(self._config, "max_position_embeddings", None)

    def window(self, max_tokens: int | None) -> int:
        """How many tokens a window has: as many as wanted, or as the model reads, at most 2,048."""
        positions = self.max_tokens
        if max_tokens is None:
            return min(positions or _MOST_TOKENS, _MOST_TOKENS)
        if positions is not None and max_tokens > positions:
            raise PolicyError(
                f"{self.where}: {self.folder} reads at most {positions} tokens, not {max_tokens}. Lower max_tokens."
            )
        return max_tokens

    @functools.cached_property
    def begins(self) -> tuple[int, ...]:
        """The tokens that the tokenizer puts before every text; mostly one, or none."""
        return self._around[0]

    @functools.cached_property
    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokens that the tokenizer puts before and after every text."""
        whole, alone = self.tokenizer("a")["input_ids"], self.tokens(["a"])[0]
        first = next(i for i in range(len(whole)) if whole[i : i + len(alone)] == alone)
        return tuple(whole[:first]), tuple(whole[first + len(alone) :])

    @functools.cached_property
    def vocabulary(self) -> Mapping[str, int]:
        """Every token with its number."""
        return self.tokenizer.get_vocab()

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, without special ones."""
        if not texts:
            return []
        return self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]

    def token_of(self, word: str) -> int:
        """The one token that spells a word after other text. Raises PolicyError if there is none."""
        last = self.tokens([word])[0][-1:]
        if not last or self.tokenizer.decode(last).strip() != word:
            raise PolicyError(f"{self.where}: the tokenizer of {self.folder} has no token for {word!r} alone.")
        return last[0]

    def losses(self, windows: Sequence[Window]) -> Floats:
        """Of each window the sum of -ln p of the tokens that count."""

        from torch.nn import functional

        most = _ROWS[self.device]

        def answer(logits: Any, ids: Any, some: Sequence[Window]) -> Floats:
            torch = _torch()
            wanted, sums = ids.to(self.device), torch.zeros(len(some), dtype=torch.float64, device=self.device)
            left_out = ids.shape[1] - logits.shape[1]
            for row, (tokens, first) in enumerate(some):
                for start in range(max(first, 1), len(tokens), most):
                    end = min(start + most, len(tokens))
                    # half precision has too few digits
                    before = logits[row, start - 1 - left_out : end - 1 - left_out].float()
                    losses = functional.cross_entropy(before, wanted[row, start:end], reduction="none")
                    sums[row] += losses.double().sum()
            return sums.cpu().numpy()

        return self._answers(windows, answer, (), are_all_asked=False)

    def next_words(self, prompts: Sequence[Sequence[int]], words: Sequence[int]) -> Floats:
        """The logits of these tokens after each prompt, (n, words)."""
        windows = [Window(tuple(prompt), len(prompt)) for prompt in prompts]

        def answer(logits: Any, _: Any, some: Sequence[Window]) -> Floats:
            torch = _torch()
            last = torch.tensor([len(window.tokens) - 1 for window in some], device=self.device)
            rows = logits[torch.arange(len(some), device=self.device), last]
            return rows[:, list(words)].double().cpu().numpy()

        return self._answers(windows, answer, (len(words),))

    def outputs(self, windows: Sequence[Sequence[int]]) -> Floats:
        """What the head of a classifier says of each window of tokens, (n, outputs)."""

        def answer(logits: Any, *_: Any) -> Floats:
            return logits.double().cpu().numpy()

        whole = [Window(tuple(window), len(window)) for window in windows]
        return self._answers(whole, answer, (self.num_outputs,))

    @functools.cached_property
    def num_outputs(self) -> int:
        """Of the head of a classifier."""
        return int(self._config.num_labels)

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """What the outputs of a classifier are called."""
        return tuple(str(self._config.id2label[i]) for i in range(self.num_outputs))

    def segments(self, tokens: Sequence[int], most: int) -> list[list[int]]:
        """The tokens of a text in windows of at most so many, each with what the tokenizer puts around a text."""
        before, after = self._around
        room = most - self.num_around
        if room < 1:
            raise PolicyError(f"{self.where}: max_tokens is {most}, which leaves no room for a text. Raise it.")
        return [[*before, *tokens[start : start + room], *after] for start in range(0, len(tokens), room)]

    @property
    def num_around(self) -> int:
        """How many tokens the tokenizer puts around a text."""
        return sum(map(len, self._around))

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, as transformers loads it; nothing is downloaded, and none of its code is run."""
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False, local_files_only=True)
        except (ValueError, OSError, KeyError) as error:
            raise PolicyError(f"{self.where}: the tokenizer in {self.folder} cannot be loaded: {error}.") from error
        if not tokenizer.is_fast:
            raise PolicyError(f"{self.where}: {self.folder} has no tokenizer.json. Take a model with one.")
        return tokenizer

    @functools.cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(self.folder, trust_remote_code=False, local_files_only=True)
        except (ValueError, OSError, KeyError) as error:
            raise PolicyError(f"{self.where}: {self.folder} holds no model that is known: {error}.") from error

    @functools.cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
        from transformers.utils import logging

        logging.disable_progress_bar()
        kind: Any = AutoModelForCausalLM if self.head == "language model" else AutoModelForSequenceClassification
        try:
            model, loading = kind.from_pretrained(
                self.folder, trust_remote_code=False, local_files_only=True, dtype=getattr(_torch(), self.precision),
                output_loading_info=True,
            )  # fmt: skip
        except (ValueError, OSError, KeyError) as error:
            raise PolicyError(f"{self.where}: {self.folder} cannot be loaded as a {self.head}: {error}.") from error
        beside = sorted(key for key in loading["unexpected_keys"] if key.startswith(_HEADS))
        if self.head == "language model" and beside:
            raise PolicyError(f"{self.where}: {self.folder} is no language model but a classifier: it has {beside[0]}.")
        if missing := sorted(loading["missing_keys"]):
            raise PolicyError(
                f"{self.where}: {self.folder} is no {self.head}: it has no weights for {', '.join(missing[:3])}."
            )
        if self.planned is not None and identity_of(Path(self.folder)) != self.planned:
            raise PolicyError(
                f"{self.where}: {self.folder} is not, or no longer, the model that the run was planned with. "
                "Every worker needs the same files; then run the same command again."
            )
        model.config.pad_token_id = self._pad
        return model.to(self.device).eval()

    @functools.cached_property
    def _pad(self) -> int:
        """What fills a window up; it is masked."""
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((token for token in known if token is not None), 0)

    @functools.cached_property
    def _can_leave_out(self) -> bool:
        """Whether the model can be asked for the logits of the last tokens alone."""
        return "logits_to_keep" in inspect.signature(self._model.forward).parameters

    def _answers(
        self, windows: Sequence[Window], answer: Any, shape: tuple[int, ...], *, are_all_asked: bool = True
    ) -> Floats:
        """What `answer` makes of the model's logits, for each window; equal ones are asked once.

        Where not all are asked, those before the first token that counts in any window of a batch may be left out: of
        windows that overlap that is half of what the largest matrix has to do.
        """
        torch = _torch()
        different = sorted(dict.fromkeys(windows), key=lambda window: window.first)
        place = {window: i for i, window in enumerate(different)}
        lengths = np.array([len(window.tokens) for window in different], np.int64)
        answers, num_done = np.zeros((len(different), *shape)), 0

        def compute(batch: Ints) -> Floats:
            some = [different[i] for i in batch]
            ids, mask = map(torch.from_numpy, padded([tokens for tokens, _ in some], self._pad))
            options: dict[str, int] = {}
            if not are_all_asked and self._can_leave_out:
                options["logits_to_keep"] = ids.shape[1] + 1 - max(1, min(window.first for window in some))
            with torch.inference_mode():
                output = self._model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device), **options)
                return answer(output.logits, ids, some)

        for batch, values in each_batch(lengths, self._room, compute):
            answers[batch] = values
            num_done += len(batch)
            alive.sign(num_done)
        return answers[[place[window] for window in windows]]


def windows_of(tokens: Sequence[int], begins: Sequence[int], width: int, stride: int) -> list[Window]:
    """Windows such that every token counts once, with as much before it as the width allows: the first window counts
    all but its first token, each later one those that are new in it.

    `begins` are tokens before the text, which do not count; without them the first token of the text does not either.
    """
    whole = (*begins, *tokens)
    windows: list[Window] = []
    counted = max(1, len(begins))
    start = 0
    while counted < len(whole):
        end = min(start + width, len(whole))
        windows.append(Window(whole[start:end], counted - start))
        counted = end
        start += stride
    return windows


def _torch() -> Any:
    import torch

    return torch
