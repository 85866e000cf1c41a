"""What people or a judge said of some texts, learned for all: a linear model of embeddings and counts of the text.

`selector fit-rater` makes the artefact, in seconds and on a CPU, and prints how well it agrees with labels that it was
not fitted on, beside word count, characters and the Flesch-Kincaid grade.

Sources: Hoerl and Kennard 1970 (ridge); Frank and Hall 2001 (ordinal); Bradley and Terry 1952 and, for texts,
Wettig et al. 2024, "QuRating", arXiv:2402.09739 (judgements); Penedo et al. 2024, "FineWeb", arXiv:2406.17557, section
4.1 (a linear head on frozen embeddings).
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact.vectors import vectors_of
from selector.rate import ArtefactPath, Columns, Meaning, Rater
from selector.rate._counts import counts
from selector.rate._learned import COLUMNS, ENCODER, Learned, features_of


@dataclass(frozen=True, kw_only=True)
class Fitted(Rater):
    """The score that `selector fit-rater` learned, in the unit of the labels.

    After `logistic` it is the probability of the label 1, after `preference` log-odds of being the better text. What
    a large value means was said when it was fitted. A text unlike all examples is rated as the most extreme of them.
    """

    artefact: Annotated[ArtefactPath, Columns(**COLUMNS)]

    @functools.cached_property
    def learned(self) -> Learned:
        """What the artefact holds."""
        return Learned.of(self.artefact.table, f"fitted.artefact: {self.artefact}")

    @property
    def needs(self) -> tuple[str, ...]:
        return self.learned.needs

    def scores(self, name: str) -> dict[str, Meaning]:
        return {name: self.learned.higher_is}

    def check_vectors(self, encoder: Mapping[str, str]) -> None:
        if "embedding" not in self.learned.uses:
            return
        for name in ENCODER:
            if self.learned.encoder[name] != encoder[name]:
                raise PolicyError(
                    f"{self.artefact} was fitted on vectors whose {name} is {self.learned.encoder[name]}, and that of"
                    f" this policy's embed is {encoder[name]}. Fit it again with the model and settings of embed."
                )

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        uses = self.learned.uses
        vectors = vectors_of(batch["embedding"]).astype(np.float64) if "embedding" in uses else None
        counted = counts(batch["text"], self.learned.known) if "counts" in uses else None
        return pa.record_batch({"score": pa.array(self.learned.scores(features_of(uses, vectors, counted)))})
