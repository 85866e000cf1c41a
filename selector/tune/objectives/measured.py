"""What a manifest is like, without any training: in seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import Floats, keyed
from selector.exact.vectors import vectors_of
from selector.plugins import attached
from selector.plugins.options import ArtefactPath, Columns
from selector.tune.diversity import entropy, vendi_score
from selector.tune.objectives import Better, Objective, Trial, answer

_MOST_VECTORS = 4096
_ALIKE = 0.95  # a cosine from which two documents count as near-duplicates


@dataclass(frozen=True, kw_only=True)
class Measured(Objective):
    """Properties of the manifest: quality, difficulty, groups, diversity of vectors, repetition, distance to a target.

    `quality` and `difficulty` are the means over visits of the scores that the policy's section `manifest` names (0
    where it names none); `sources` the number of sources, `entropy` that of the sources' shares of the visits, as a
    part of the largest; `visits` those of a document. For each of `labels`, columns of words or classes such as
    `score.topic` or `corpus.lang`: `coverage <label>`, how many there are, and `entropy <label>`, of the documents.

    With `vectors`, for which the corpus is embedded: `vendi`, how many documents that have nothing in common would be
    as diverse (arXiv 2210.02410), and `near_duplicates`, the share that has a cosine of 0.95 or more to another. With
    `target`, a table with a column `text`: `target_distance`, the mean over its texts of 1 less the cosine to the
    nearest document. Of more than 4,096 documents a keyed sample is looked at, the same share of every arm.

    Evidence: these are cheap and say nothing of training by themselves; the published numbers of quality filters are
    about models. `random` beside them is what to look at.
    """

    reads_held_out: ClassVar[bool] = False

    labels: tuple[str, ...] = ()
    vectors: bool = False
    target: Annotated[ArtefactPath, Columns(text="string")] | None = None

    def __post_init__(self) -> None:
        table = getattr(self.target, "table", None)
        if table is not None and (not table.num_rows or not all(table["text"].to_pylist())):
            raise PolicyError(f"measured.target: {self.target} is not there, has no rows, or one without a text.")

    @property
    def metrics(self) -> Mapping[str, Better]:
        metrics: dict[str, Better] = {
            "quality": "higher", "difficulty": "lower", "sources": "higher", "entropy": "higher", "visits": "lower",
        }  # fmt: skip
        higher = [f"{word} {label}" for label in self.labels for word in ("coverage", "entropy")]
        lower: list[str] = ["near_duplicates"] if self.vectors else []
        for name in (*higher, *(["vendi"] if self.vectors else [])):
            metrics[name] = "higher"
        for name in (*lower, *(["target_distance"] if self.target is not None else [])):
            metrics[name] = "lower"
        return metrics

    def contents(self) -> Mapping[str, str]:
        return attached.checksums(self, "objective.measured")

    def measure(self, trial: Trial) -> pa.Table:
        described = trial.manifest.describe()
        visits = max(1, described["visits"])
        counts = [source["visits"] for source in described["sources"].values()]
        scored = trial.manifest.rows(0, len(trial.manifest))
        values: dict[str, float] = {
            "quality": _mean(scored["quality"]),
            "difficulty": _mean(scored["difficulty"]),
            "sources": len(counts),
            "entropy": entropy(counts, len(counts)),
            "visits": visits / max(1, described["documents"]),
        }
        for label in self.labels:
            _, times = np.unique(_words(trial.columns([label])[label]), return_counts=True)
            values |= {f"coverage {label}": len(times), f"entropy {label}": entropy(times.tolist(), len(times))}
        if self.vectors or self.target is not None:
            vectors = _vectors(trial)
            if self.vectors:
                values |= {"vendi": vendi_score(vectors), "near_duplicates": near_duplicates(vectors)}
            if self.target is not None:
                nearest = (trial.embed(self.target.table["text"].to_pylist()) @ vectors.T).max(axis=1)
                values["target_distance"] = float((1 - nearest).mean())
        return pa.concat_tables([answer(metric, value) for metric, value in values.items()])


def near_duplicates(vectors: Floats) -> float:
    """The share of the vectors that have another one within a cosine of 0.95."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    return float((cosines.max(axis=1, initial=-1) >= _ALIKE).mean()) if len(vectors) else 0.0


def _vectors(trial: Trial) -> Floats:
    """The vectors of the documents, or of a keyed sample of them; each of length 1."""
    documents = trial.columns(["embedding"])
    share = min(1.0, _MOST_VECTORS / max(1, documents.num_rows))
    drawn = keyed.uniforms(documents["doc_id"], 0, "measured") <= share
    documents = documents.filter(pa.array(drawn & documents["embedding"].is_valid().to_numpy(zero_copy_only=False)))
    vectors = vectors_of(documents["embedding"]).astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _words(column: pa.ChunkedArray) -> "np.ndarray[tuple[int], np.dtype[np.str_]]":
    return np.array([str(word) for word in column.drop_null().to_pylist()], np.str_)


def _mean(column: pa.ChunkedArray) -> float:
    """The mean of a column over the visits that have it; 0 where none has."""
    scores = column.drop_null().to_numpy()
    return float(scores.mean(dtype=np.float64)) if len(scores) else 0.0
