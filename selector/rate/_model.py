"""What raters that ask a language model have in common: how a model is loaded, and the losses of texts.

It computes on a GPU where the cluster has one, in the precision that is fastest there: both are in the fingerprint.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import Floats, Ints
from selector.models.causal import LIBRARIES, Causal, Head, Window, windows_of
from selector.plugins.options import written
from selector.rate import ModelPath, Rater, Resources

Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""`auto`: bfloat16 on a GPU and on a CPU that multiplies it, else float32."""


class Modelled(Rater):
    """A rater with models: those of its options that are a `ModelPath`, of one kind."""

    libraries = LIBRARIES
    is_exact = False
    resources = Resources(gpus=1, documents=512)
    head: ClassVar[Head] = "language model"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("text",)

    def check(self) -> None:
        for model in self.models.values():
            model.check()
            if hasattr(self, "stride"):
                _widths(model, getattr(self, "max_tokens"), getattr(self, "stride"))  # noqa: B009
            else:
                model.window(getattr(self, "max_tokens", None))

    def prepare(self) -> None:
        self.check()
        for model in self.models.values():
            model.load()

    @functools.cached_property
    def models(self) -> Mapping[str, Causal]:
        """The models, by the names of their options."""
        precision: Precision = getattr(self, "precision", "auto")
        paths = {option.path: option.value for option in written(self, ModelPath)}
        return {name: causal(path, name, self.head, precision) for name, path in paths.items()}


def check_number(name: str, higher_is: str) -> None:
    """Raises PolicyError for a rater of numbers that is said to give words."""
    if higher_is == "label":
        raise PolicyError(f"{name}.higher_is: its score is a number, not a label. Write harder, better, or what it is.")


def causal(path: ModelPath, name: str, head: Head, precision: Precision) -> Causal:
    """The model that an option called `name` names."""
    return Causal(
        folder=str(path), head=head, device=path.device,
        precision=path.precision if precision == "auto" else precision, planned=path.planned, where=path.where or name,
    )  # fmt: skip


def losses_of(model: Causal, texts: Sequence[str], max_tokens: int | None, stride: int | None) -> tuple[Floats, Ints]:
    """Of each text the sum of -ln p of its tokens that count, and how many do."""
    width, step = _widths(model, max_tokens, stride)
    windows: list[Window] = []
    owners: list[int] = []
    for i, tokens in enumerate(model.tokens(texts)):
        some = windows_of(tokens, model.begins, width, step)
        windows += some
        owners += [i] * len(some)
    sums, counted = np.zeros(len(texts)), np.zeros(len(texts), np.int64)
    np.add.at(sums, np.array(owners, np.int64), model.losses(windows))
    np.add.at(
        counted,
        np.array(owners, np.int64),
        np.array([len(window.tokens) - window.first for window in windows], np.int64),
    )
    return sums, counted


def _widths(model: Causal, max_tokens: int | None, stride: int | None) -> tuple[int, int]:
    """How many tokens a window has, and after how many the next one begins."""
    width = model.window(max_tokens)
    step = width // 2 if stride is None else stride
    if width < 2:
        raise PolicyError(f"{model.where}: max_tokens is {width}, and a loss needs a token before: write 2 or more.")
    if not 1 <= step < width:
        raise PolicyError(f"{model.where}: stride is {step}, and has to be from 1 to {width - 1}, below max_tokens.")
    return width, step


def mean_losses(model: Causal, texts: Sequence[str], max_tokens: int | None, stride: int | None) -> Floats:
    """The mean of -ln p over the tokens of each text that count; NaN of a text without any."""
    return ratio(*losses_of(model, texts, max_tokens, stride))


def ratio(sums: Floats, counted: Floats | Ints) -> Floats:
    """The quotient, NaN where nothing was counted."""
    return np.divide(sums, counted, out=np.full(len(sums), np.nan), where=counted > 0)


def segment_means(model: Causal, texts: Sequence[str], most: int | None, is_cut: bool) -> Floats:
    """The outputs of a classifier's head for each text, (n, outputs): those of its segments of at most so many tokens,
    weighted by their tokens, or of its first one alone. NaN of a text without tokens."""
    width = model.window(most)
    windows: list[list[int]] = []
    owners: list[int] = []
    for i, tokens in enumerate(model.tokens(texts)):
        some = model.segments(tokens, width)[: None if is_cut else 1]
        windows += some
        owners += [i] * len(some)
    lengths = np.array([len(window) - model.num_around for window in windows], np.float64)
    sums, weights = np.zeros((len(texts), model.num_outputs)), np.zeros(len(texts))
    np.add.at(sums, np.array(owners, np.int64), model.outputs(windows) * lengths[:, None])
    np.add.at(weights, np.array(owners, np.int64), lengths)
    return np.divide(sums, weights[:, None], out=np.full(sums.shape, np.nan), where=weights[:, None] > 0)


def texts_of(batch: pa.RecordBatch, column: str = "text") -> list[str]:
    """The texts of a batch; one that is null is empty."""
    return ["" if text is None else text for text in batch[column].to_pylist()]


def answer(values: Floats) -> pa.RecordBatch:
    """A score that is not applicable where it is NaN, and has failed where it is infinite."""
    return pa.record_batch({"score": pa.array(values, mask=np.isnan(values))})
