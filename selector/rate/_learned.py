"""What was learned from labels or judgements, as a plain table: the artefact that the rater `fitted` reads.

The table has a row for each number or word, under a name and a place: any tool can read it, and nothing in it is run.
The score of a document is the same bits wherever and in whatever company it is computed: features are rounded to steps
of a 4,096th of their deviation and weights to steps of a power of two, so that no sum of their products is rounded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import Floats, Ints, expm1
from selector.models.linear import Kind, Linear
from selector.rate import Meaning
from selector.rate._counts import NAMES, KnownWords

FORMAT = 1

COLUMNS: Mapping[str, str] = {"name": "string", "place": "int64", "value": "double", "text": "string"}
"""Those of the table: a number stands in `value`, a word in `text`."""

Uses = Literal["embedding and counts", "embedding", "counts"]
"""What a rater looks at."""

_FEATURE_STEPS = 1 << 12
_WEIGHT_BITS = 24
_FURTHEST = 32.0  # deviations from the mean that a feature can have


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A linear model, what its features are, and what its score means."""

    kind: Kind
    uses: Uses
    higher_is: Meaning
    lows: Floats  # of each feature: a value beyond those of the examples counts as the most extreme of them
    highs: Floats
    means: Floats
    scales: Floats
    model: Linear
    levels: Floats  # of `ordinal`: the labels, ascending
    slope: float  # calibration: slope * output + offset
    offset: float
    known: KnownWords
    encoder: Mapping[str, Any]  # what made the embeddings, as `selector.models.encoder.Encoder.identity`

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns that it looks at."""
        return tuple(column for column, used in (("embedding", "embedding"), ("text", "counts")) if used in self.uses)

    def scores(self, features: Floats) -> Floats:
        """The score of each row of features, in the unit of the labels; of `logistic` the probability of the second
        label, of `preference` log-odds, 0 for the mean of the examples."""
        if features.shape[1] != len(self.means):
            raise PolicyError(
                f"The artefact was fitted on vectors with {len(self.means) - self._num_counts} numbers, and these have"
                f" {features.shape[1] - self._num_counts}. Use the model that it was fitted with."
            )
        bounded = np.clip(features, self.lows, self.highs)
        steps = np.rint(np.clip((bounded - self.means) / self.scales, -_FURTHEST, _FURTHEST) * _FEATURE_STEPS)
        outputs = np.zeros((len(features), len(self.model.intercepts)))
        for k, (weights, intercept) in enumerate(zip(self.model.weights, self.model.intercepts, strict=True)):
            units, unit = _in_units(weights)
            outputs[:, k] = (steps @ units) * (unit / _FEATURE_STEPS) + intercept
        return (
            self.slope * combined(self.kind, outputs, self.levels) + self.offset
            if self.kind != "logistic"
            else (_sigmoid(self.slope * outputs[:, 0] + self.offset))
        )

    @property
    def _num_counts(self) -> int:
        return len(NAMES) if "counts" in self.uses else 0

    def table(self) -> pa.Table:
        """The artefact."""
        words = {
            "kind": self.kind, "uses": self.uses, "higher_is": self.higher_is,
            **{f"encoder.{name}": str(self.encoder[name]) for name in ENCODER},
        }  # fmt: skip
        numbers: dict[str, Any] = {
            "format": [FORMAT], "lows": self.lows, "highs": self.highs, "means": self.means, "scales": self.scales,
            "levels": self.levels, "slope": [self.slope], "offset": [self.offset],
            "intercepts": self.model.intercepts,
            **{f"weights.{k}": weights for k, weights in enumerate(self.model.weights)},
        }  # fmt: skip
        rows: list[tuple[str, int, float | None, str | None]] = [(n, 0, None, text) for n, text in words.items()]
        rows += [(n, i, float(value), None) for n, values in numbers.items() for i, value in enumerate(values)]
        rows += [("words", i, None, word) for i, word in enumerate(self.known.words)]
        columns = zip(*rows, strict=True)
        schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
        return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)

    @classmethod
    def of(cls, table: pa.Table, where: str) -> "Learned":
        """What a table holds. Raises PolicyError where it is none that `fit-rater` wrote."""
        numbers: dict[str, list[float]] = {}
        words: dict[str, list[str]] = {}
        for name, value, text in zip(*(table[column].to_pylist() for column in ("name", "value", "text")), strict=True):
            numbers.setdefault(name, []).append(value) if text is None else words.setdefault(name, []).append(text)
        if numbers.get("format") != [FORMAT] or "kind" not in words:
            raise PolicyError(
                f"{where}: this is no fitted rater of format {FORMAT}, which is what this version of selector reads."
                " Make one with: selector fit-rater."
            )
        arrays = {name: np.array(values, np.float64) for name, values in numbers.items()}
        outputs = range(len(arrays["intercepts"]))
        return cls(
            kind=cast(Kind, words["kind"][0]),
            uses=cast(Uses, words["uses"][0]),
            higher_is=cast(Meaning, words["higher_is"][0]),
            lows=arrays["lows"], highs=arrays["highs"], means=arrays["means"], scales=arrays["scales"],
            model=Linear(
                weights=np.stack([arrays[f"weights.{k}"] for k in outputs]), intercepts=arrays["intercepts"]
            ),
            levels=arrays.get("levels", np.empty(0)),
            slope=float(arrays["slope"][0]),
            offset=float(arrays["offset"][0]),
            known=KnownWords(words=tuple(words.get("words", ()))),
            encoder={name: words[f"encoder.{name}"][0] for name in ENCODER},
        )  # fmt: skip


ENCODER = ("model_sha256", "settings_sha256", "max_tokens", "long_documents")
"""What of an encoder decides whether two of them give a text about the same vector."""


def combined(kind: Kind, outputs: Floats, levels: Floats) -> Floats:
    """What a model says of each row before it is calibrated: the expected level of `ordinal`, else its one output."""
    if kind != "ordinal":
        return outputs[:, 0]
    above = _sigmoid(outputs)
    expected = np.full(len(outputs), levels[0])
    for k, gap in enumerate(np.diff(levels)):  # one after another: a row's sum must not depend on the others
        expected = expected + gap * above[:, k]
    return expected


def _in_units(weights: Floats) -> tuple[Floats, float]:
    """Weights as whole numbers of a unit, which is a power of two."""
    unit = float(2.0 ** (np.frexp(np.abs(weights).max(initial=0.0))[1] - _WEIGHT_BITS))
    return np.rint(weights / unit), unit


def _sigmoid(values: Floats) -> Floats:
    return 1 / (2 + expm1(-values.ravel())).reshape(values.shape)


def features_of(uses: Uses, vectors: Floats | None, counted: Floats | None) -> Floats:
    """The columns that a model looks at: counts first, then the embedding."""
    blocks = [block for block, name in ((counted, "counts"), (vectors, "embedding")) if name in uses]
    assert all(block is not None for block in blocks), f"{uses} was asked for"
    return np.concatenate(cast(list[Floats], blocks), axis=1)


def places(values: Floats) -> Ints:
    """The place of each label among the different ones."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)
