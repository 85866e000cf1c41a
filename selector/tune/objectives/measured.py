"""What a manifest is like, without any training: in seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from selector.exact.vectors import vectors_of
from selector.tune.diversity import entropy, vendi_score
from selector.tune.objectives import Better, Objective, Trial, answer

_MOST_VECTORS = 4096


@dataclass(frozen=True, kw_only=True)
class Measured(Objective):
    """Properties of the manifest: quality, difficulty, sources, diversity of vectors, repetition.

    `quality` and `difficulty` are the means over visits of the scores that the policy's section `manifest` names (0
    where it names none); `sources` the number of sources, `entropy` that of the sources' shares of the visits, as a
    part of the largest; `visits` those of a document. With `vectors`, for which the corpus is embedded: `vendi`, how
    many documents that have nothing in common would be as diverse.

    Evidence: these are cheap and say nothing of training by themselves; the published numbers of quality filters are
    about models. `random` beside them is what to look at.
    """

    reads_held_out: ClassVar[bool] = False

    vectors: bool = False

    @property
    def metrics(self) -> Mapping[str, Better]:
        plain: dict[str, Better] = {
            "quality": "higher", "difficulty": "lower", "sources": "higher", "entropy": "higher", "visits": "lower",
        }  # fmt: skip
        of_vectors: dict[str, Better] = {"vendi": "higher"} if self.vectors else {}
        return plain | of_vectors

    def measure(self, trial: Trial) -> pa.Table:
        described = trial.manifest.describe()
        visits = max(1, described["visits"])
        counts = np.array([source["visits"] for source in described["sources"].values()], np.float64)
        values = {
            "quality": _mean_of(trial, "quality"),
            "difficulty": _mean_of(trial, "difficulty"),
            "sources": len(counts),
            "entropy": entropy(counts, len(counts)),
            "visits": visits / max(1, described["documents"]),
        }
        if self.vectors:
            documents = trial.columns(["embedding"])
            few = documents.take(
                pa.array(np.arange(0, documents.num_rows, max(1, documents.num_rows // _MOST_VECTORS)))
            )
            values["vendi"] = vendi_score(vectors_of(few["embedding"]).astype(np.float64))
        return pa.concat_tables([answer(metric, value) for metric, value in values.items()])


def _mean_of(trial: Trial, column: str) -> float:
    """The mean of a column over the visits that have it; 0 where none has."""
    scores = trial.manifest.take(np.arange(len(trial.manifest)))[column].drop_null().to_numpy()
    return float(scores.mean(dtype=np.float64)) if len(scores) else 0.0
