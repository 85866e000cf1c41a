"""Another order, with every visit moved a little at random."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from selector import exact
from selector.errors import PolicyError
from selector.exact import Ints, UInt64, keyed
from selector.order import Along, Resorted


@dataclass(frozen=True, kw_only=True)
class Jittered(Resorted):
    """Another order in which neighbours change places: near the same way, with more variety in every batch.

    With the noise `window`, visits are shuffled within windows of `size` of them (JIT), so none moves further than
    that. With `gumbel`, `size` times Gumbel noise is added to every position, and the visits are sorted by the sums:
    most move about `size` places, a few much further. A visit does not leave its phase.

    Evidence: arXiv 2605.30334 (160M to 1.7B parameters, 1B to 50B tokens of web text, one group) has both: that a batch
    should be diverse while difficulty rises is one of its four principles. A window as large as the pool is `shuffled`.

    When: another order is to be kept by and large, and its batches are too much alike. What it gains by itself is
    not reported in what we could read.
    """

    noise: Literal["window", "gumbel"] = "window"
    size: float = 1024

    def __post_init__(self) -> None:
        is_whole = self.size >= 1 and self.size % 1 == 0
        if not 0 <= self.size < math.inf or (self.noise == "window" and not is_whole):
            raise PolicyError(
                f"jittered.size={self.size} does not go with the noise {self.noise!r}: write a whole number of visits "
                "from 1 on for windows, and any number from 0 on for Gumbel noise."
            )

    def keys(self, along: Along, summary: None, seed: int) -> Sequence[UInt64 | Ints]:
        chance = along.chance(seed, "jittered")
        place = along.position - along.begin
        if self.noise == "window":
            return along.stretch, place // int(self.size), chance
        noise = -exact.log(-exact.log(keyed.fractions(chance)))
        return along.stretch, exact.largest_first(-(place + self.size * noise))
