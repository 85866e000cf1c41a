"""Draws by score: what a score weighs, and where chance places its document.

Adding Gumbel noise to a log weight and taking the largest sums is drawing without replacement with those
weights (Plackett-Luce). With the weights exp(z / temperature), z being the standardised score, this is the
sampling of QuRating (arXiv 2402.09739): temperature 0, or below a millionth, is plain top; a high one is
almost uniform.
"""

import math
from dataclasses import dataclass

import numpy as np

from selector.exact.functions import log
from selector.exact.sortkeys import Floats, Ints, UInt64
from selector.exact.sums import parts, total

_STEP = np.uint64(22)  # places are told apart to the 2**-40th part of their range: coarser than the last bits of a z


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What must be known of scores to standardise them; the moments of shards add up, and nothing rounds."""

    count: int
    sums: Ints
    squares: Ints
    least: float
    most: float

    @classmethod
    def of(cls, scores: Floats) -> "Moments":
        """The moments of these scores; NaN is no score."""
        scores = scores[~np.isnan(scores)]
        return cls(
            count=len(scores),
            sums=parts(scores),
            squares=parts(scores**2),
            least=scores.min(initial=math.inf),
            most=scores.max(initial=-math.inf),
        )

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            count=self.count + other.count,
            sums=self.sums + other.sums,
            squares=self.squares + other.squares,
            least=min(self.least, other.least),
            most=max(self.most, other.most),
        )


@dataclass(frozen=True, kw_only=True)
class Lottery:
    """One draw over a pool. A document's value is z / temperature + noise, divided by the larger of the two scales."""

    mean: float
    deviation: float  # times the temperature, if that is above 1
    noise: float  # what Gumbel noise is multiplied by: the temperature, at most 1; 0: nothing is left to chance
    lowest: float  # between these lie all values
    highest: float

    @classmethod
    def of(cls, moments: Moments, temperature: float, *, is_standardised: bool = True) -> "Lottery":
        """The draw for scores with these moments, standardised together (ddof 0; constant ones become 0).

        Scores that are logarithms of weights are not standardised: their mean is taken away, which changes no draw.
        """
        noise = min(temperature, 1.0) if temperature > 1e-6 else 0.0
        if moments.count == 0:
            return cls(mean=0.0, deviation=1.0, noise=noise, lowest=-4 * noise, highest=38 * noise)
        mean = total(moments.sums) / moments.count
        spread = math.sqrt(total(moments.squares) / moments.count - mean**2) if is_standardised else 1.0
        deviation = (spread or 1.0) * max(temperature, 1.0)
        return cls(
            mean=float(mean),
            deviation=deviation,
            noise=noise,
            lowest=-4 * noise + (moments.least - float(mean)) / deviation,
            highest=38 * noise + (moments.most - float(mean)) / deviation,
        )

    def standardised(self, scores: Floats) -> Floats:
        """What each score adds to its document's value; NaN where there is none."""
        return (scores - self.mean) / self.deviation

    def values(self, scores: Floats, uniforms: Floats) -> Floats:
        """What the documents are compared by, the largest first: NaN without a score. `uniforms` are their chances."""
        return self.standardised(scores) - self.noise * log(-log(uniforms))

    def keys(self, scores: Floats, uniforms: Floats) -> UInt64:
        """The key of each document, lowest first; those without a score are last, by chance. Only with noise."""
        return self.keys_of(self.values(scores, uniforms), uniforms)

    def keys_of(self, values: Floats, uniforms: Floats) -> UInt64:
        """The same for documents whose `values` are known."""
        places = np.rint((self.highest - values) / (self.highest - self.lowest) * 2**40)
        last = (uniforms * 2**62).astype(np.uint64) | np.uint64(2**63)
        return np.where(np.isnan(places), last, np.nan_to_num(places).astype(np.uint64) << _STEP)

    def log_weights(self, scores: Floats, cuts: UInt64) -> Floats:
        """The logarithm of each weight, up to a constant: 0 for a value that lies, without noise, on its cut (a key).

        Documents without a score all weigh the same, 0. Nothing lies beyond 1000 either way, where the
        probability of a draw is 0 or 1.
        """
        cut = self.highest - (cuts >> _STEP) * 2.0**-40 * (self.highest - self.lowest)
        bound = 1000 * self.noise
        return np.nan_to_num(np.clip(self.standardised(scores) - cut, -bound, bound) / self.noise)
