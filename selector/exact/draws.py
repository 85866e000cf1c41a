"""Draws by score: what a score weighs, and where chance places its document.

Adding Gumbel noise to a log weight and taking the largest sums is drawing without replacement with those
weights (Plackett-Luce). With the weights exp(z / temperature), z being the standardised score, this is the
sampling of QuRating (arXiv 2402.09739): temperature 0, or below a millionth, is plain top; a high one is
almost uniform.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector import exact
from selector.exact import Floats, UInt64, keyed
from selector.plugins.pool import Pool

_STEP = np.uint64(22)  # places are told apart to the 2**-40th part of their range: coarser than the last bits of a z


@dataclass(frozen=True, kw_only=True)
class Lottery:
    """One draw over a pool. A document's value is z / temperature + noise, divided by the larger of the two scales."""

    score: str
    purpose: str
    seed: int
    mean: float
    deviation: float  # times the temperature, if that is above 1
    noise: float  # what Gumbel noise is multiplied by: the temperature, at most 1
    lowest: float  # between these lie all values
    highest: float

    @classmethod
    def of(cls, pool: Pool, *, score: str, temperature: float, seed: int, purpose: str) -> "Lottery":
        """The draw for the scores of this pool, which are standardised together (ddof 0; constant ones become 0)."""
        noise = min(temperature, 1.0) if temperature > 1e-6 else 0.0
        blank = cls(
            score=score,
            purpose=purpose,
            seed=seed,
            mean=0.0,
            deviation=1.0,
            noise=noise,
            lowest=-4 * noise,
            highest=38 * noise,
        )
        count, least, most = 0, math.inf, -math.inf
        sums, squares = exact.parts(np.empty(0)), exact.parts(np.empty(0))
        for batch in pool.batches(score):
            scores = exact.floats(batch[score])
            scores = scores[~np.isnan(scores)]
            count += len(scores)
            sums, squares = sums + exact.parts(scores), squares + exact.parts(scores**2)
            least, most = min(least, scores.min(initial=math.inf)), max(most, scores.max(initial=-math.inf))
        if count == 0:
            return blank
        mean = exact.total(sums) / count
        deviation = (math.sqrt(exact.total(squares) / count - mean**2) or 1.0) * max(temperature, 1.0)
        return dataclasses.replace(
            blank,
            mean=float(mean),
            deviation=deviation,
            lowest=blank.lowest + (least - float(mean)) / deviation,
            highest=blank.highest + (most - float(mean)) / deviation,
        )

    def values(self, batch: pa.RecordBatch) -> Floats:
        """What each score adds to its document's value; NaN where there is none."""
        return (exact.floats(batch[self.score]) - self.mean) / self.deviation

    def keys(self, batch: pa.RecordBatch) -> UInt64:
        """The key of each document, lowest first. Those without a score are last, by chance if there is any noise."""
        if self.noise == 0:
            return exact.descending(batch[self.score])
        uniform = keyed.uniforms(batch["doc_id"], self.seed, self.purpose)
        values = self.values(batch) - self.noise * exact.log(-exact.log(uniform))
        places = np.rint((self.highest - values) / (self.highest - self.lowest) * 2**40)
        last = (uniform * 2**62).astype(np.uint64) | np.uint64(2**63)
        return np.where(np.isnan(places), last, np.nan_to_num(places).astype(np.uint64) << _STEP)

    def log_weights(self, batch: pa.RecordBatch, cuts: UInt64) -> Floats:
        """The logarithm of each weight, up to a constant: 0 for a value that lies, without noise, on its cut (a key).

        Documents without a score all weigh the same, 0. Nothing lies beyond 1000 either way, where the
        probability of a draw is 0 or 1.
        """
        cut = self.highest - (cuts >> _STEP) * 2.0**-40 * (self.highest - self.lowest)
        bound = 1000 * self.noise
        return np.nan_to_num(np.clip(self.values(batch) - cut, -bound, bound) / self.noise)
