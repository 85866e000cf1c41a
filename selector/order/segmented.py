"""The easiest documents first and the hardest last, and everything in between at random."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import Ints, UInt64
from selector.order import Cuts, Placed, Pool, ScoreName, cut_at, random_keys

End = Literal["easy", "hard"]


@dataclass(frozen=True, kw_only=True)
class Segmented(Placed):
    """Begins with a share of documents from one end of the score, and ends with a share from one end (SEG).

    `front` of the scored documents are the easiest of them, or the hardest, and come first; `back` of them come last;
    what is left is between. Each of the three segments is shuffled. Where both shares are from the same end, the front
    has the outermost. What is easy is said in `selector.order`: of a quality score, low is easy, so the best come last.
    Documents without a score come behind all others, shuffled. A document that is seen several times counts once in
    the shares, and is seen within one segment.

    Evidence: arXiv 2605.30334 (160M to 1.7B parameters, 1B to 50B tokens of web text, one group): that the two borders
    of training should be sharp is one of its four principles, and this order has nothing else. Most of its effect may
    be that of its last segment: good data late, in a second phase, gives 3.4 % over a random order (2412.15285), and
    loses it where the learning rate has decayed to nothing by then (2511.18903).

    When: a part of the data is clearly better, and the learning rate is still high when it comes last. Where it has
    decayed by then, `shuffled` is as good.
    """

    score: ScoreName
    front: float = 0.1
    back: float = 0.1
    front_from: End = "easy"
    back_from: End = "hard"

    def __post_init__(self) -> None:
        for name, share in (("front", self.front), ("back", self.back)):
            if not 0 <= share <= 1:
                raise PolicyError(f"segmented.{name}={share} is no share of the documents: write a number from 0 to 1.")
        if sum(self._shares) > 1:
            raise PolicyError(
                f"segmented.front={self.front} and segmented.back={self.back} are more than all documents together: "
                "write shares that add up to 1 or less."
            )

    @property
    def _shares(self) -> tuple[Fraction, Fraction]:
        return Fraction(str(self.front)), Fraction(str(self.back))

    def summary(self, chosen: Pool, seed: int) -> Cuts:
        front, back = self._shares
        match self.front_from, self.back_from:
            case "easy", "hard":
                shares = front, 1 - back
            case "easy", "easy":
                shares = front, front + back
            case "hard", "easy":
                shares = back, 1 - front
            case _:
                shares = 1 - front - back, 1 - front
        return cut_at(chosen, self.score, shares)

    def groups(self, batch: pa.RecordBatch, summary: Cuts) -> Ints:
        segments = {("easy", "hard"): (0, 1, 2), ("easy", "easy"): (0, 2, 1), ("hard", "easy"): (2, 1, 0)}
        of_piece = segments.get((self.front_from, self.back_from), (1, 2, 0))
        return np.array([*of_piece, 3])[summary.pieces(batch)]

    def keys(self, batch: pa.RecordBatch, summary: Cuts, seed: int) -> UInt64:
        return random_keys(batch, seed, "segmented")
