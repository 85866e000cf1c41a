"""Four phases, by the preference of a strong model to a weak one and by perplexity."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from selector import exact
from selector.exact import LAST, Ints, UInt64
from selector.order import Placed, Pool, ScoreName, random_keys
from selector.order._cuts import median_key
from selector.order._preference import check_models, preferring

PHASES = (
    "low preference, high perplexity", "low preference, low perplexity", "high preference, high perplexity",
    "high preference, low perplexity", "no score",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Quadrants(Placed):
    """Visits documents of low preference before those of high, and of either those of high perplexity first (FRAME).

    `weak` and `strong` are a document's perplexities by two models, its preference is (weak - strong) / weak, and the
    perplexity that counts is the strong one. Both are cut at their medians, over all documents; what is at a median is
    low. The four quadrants, shuffled, are four phases; documents without a score are a fifth.

    Evidence: FRAME, arXiv 2502.05551 (3B parameters, one group): +16.8 % on the average of MMLU and CMMLU over a random
    order. We read the abstract: the order of the four is inferred from its two findings (from low preference to high,
    from high perplexity to low), the formula of the preference is from memory, and that the perplexity is the strong
    model's and the medians those of all documents is ours. Two models must have read the corpus.

    When: as for `preference`; the four phases are also of use to look at what a model is like after each.
    """

    weak: ScoreName
    strong: ScoreName

    def __post_init__(self) -> None:
        check_models("quadrants", self.weak, self.strong)

    def summary(self, chosen: Pool, seed: int) -> tuple[np.uint64, np.uint64]:
        preference = median_key(chosen, preferring(self.weak, self.strong), self.weak, self.strong)
        return preference, median_key(chosen, partial(_perplexity, self.weak, self.strong), self.weak, self.strong)

    def groups(self, batch: pa.RecordBatch, summary: tuple[np.uint64, np.uint64]) -> Ints:
        preference = preferring(self.weak, self.strong)(batch)
        perplexity = _perplexity(self.weak, self.strong, batch)
        quadrant = 2 * (preference > summary[0]) + (perplexity <= summary[1])
        return np.where(preference == LAST, 4, quadrant).astype(np.int64)

    def keys(self, batch: pa.RecordBatch, summary: tuple[np.uint64, np.uint64], seed: int) -> UInt64:
        return random_keys(batch, seed, "quadrants")

    def phases(self, group: Ints, summary: tuple[np.uint64, np.uint64]) -> tuple[Ints, Sequence[str]]:
        return group, PHASES


def _perplexity(weak: str, strong: str, batch: pa.RecordBatch) -> UInt64:
    """The strong model's perplexity as keys, of documents that have a preference; LAST of the others."""
    return np.where(preferring(weak, strong)(batch) == LAST, LAST, exact.ascending(batch[strong]))
