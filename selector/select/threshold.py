"""All documents whose score lies within limits, as far as the budget goes."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import exact
from selector.errors import PolicyError
from selector.exact import Floats, UInt64, keyed
from selector.select import Group, Ranked, Reasons, ScoreName


@dataclass(frozen=True, kw_only=True)
class Threshold(Ranked):
    """Takes documents with a score from `least` to `most`; where the budget does not pay for all, it draws among them.

    A score exactly on a limit is `kept` or `left_out`, as `borders` says: FineWeb-Edu's published cut rounds 2.5 down,
    so it is `least: 2.5, borders: left_out`; IFD keeps what is below `most: 1`, likewise. Limits are compared as
    scores are stored, with 20 bits. The draw is uniform, by a keyed hash, and a document's inclusion probability is the
    share of those within the limits that was taken. A document without a score is never taken. Where too few lie within
    the limits, budget is left and the manifest says so.

    Source: DCLM (arXiv 2406.11794: a classifier's best tenth), FineWeb-Edu (arXiv 2406.17557: 3 of 5 points). Reported:
    better benchmarks than the whole crawl at equal numbers of tokens. Not measured here. It is as good as its score:
    with one that says nothing it is `random` on a smaller corpus.
    """

    fills_budget = False

    score: ScoreName
    least: float | None = None
    most: float | None = None
    borders: Literal["kept", "left_out"] = "kept"

    def __post_init__(self) -> None:
        if self.least is None and self.most is None:
            raise PolicyError("threshold has no limit. Write threshold.least, threshold.most or both.")
        if not (-np.inf if self.least is None else self.least) <= (np.inf if self.most is None else self.most):
            raise PolicyError(
                f"threshold.least={self.least} is not below threshold.most={self.most}, so nothing lies within. "
                "Exchange them, or leave one out."
            )

    def allowed(self, batch: pa.RecordBatch, summary: Any) -> npt.NDArray[np.bool_]:
        scores = batch[self.score]
        values = exact.floats(scores)
        is_within = ~np.isnan(values)
        for limit, sign in ((self.least, 1.0), (self.most, -1.0)):
            if limit is not None:
                border = _as_stored(limit, scores.type)
                is_within &= (
                    sign * values > sign * border if self.borders == "left_out" else sign * values >= sign * border
                )
        return is_within

    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> UInt64:
        return keyed.hashes(batch["doc_id"], seed, "threshold")

    def log_weights(self, batch: pa.RecordBatch, summary: Any, cuts: UInt64) -> Floats:
        return np.zeros(batch.num_rows)

    def reasons(self, group: Group) -> Reasons:
        within = f"{self.score} is {self._limits()}"
        drawn = "{spent} of {total} {unit} were drawn"
        return Reasons(
            kept=f"{within}: {drawn}",
            left_out=f"{within}, but not drawn: {drawn}",
            never=f"{self.score} is not {self._limits()}, or not known",
        )

    def _limits(self) -> str:
        least, most = ("at least", "at most") if self.borders == "kept" else ("above", "below")
        words = [f"{word} {limit:g}" for word, limit in ((least, self.least), (most, self.most)) if limit is not None]
        return " and ".join(words)


def _as_stored(limit: float, kind: pa.DataType) -> float:
    """The limit as a score of this type would be stored: a number in 20 bits, an exact score as it is."""
    return float(exact.quantise(np.array([limit], np.float32))[0]) if pa.types.is_floating(kind) else limit
