"""The control of another order: its own visits, at random within its phases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from selector.errors import PolicyError
from selector.exact import Ints, UInt64
from selector.order import Along, Resorted


@dataclass(frozen=True, kw_only=True)
class Matched(Resorted):
    """Shuffles the visits of another order within each of its phases: the random control that matches it.

    It has the same visits with the same loss weights, and every phase has the same documents in the same stretch of
    positions. So what differs in training is what the order does inside of its phases, and nothing else. `draw` tells
    controls of one order apart: each number is another random order, whatever the seed. `selector run --controls 3`
    writes the draws 0, 1 and 2 beside a manifest.

    Evidence: a random order of a good mixture is a strong baseline, and what an order gains is lost in the noise of one
    run: compare with several. OLMo 2 7B averages the weights of three runs that saw the same data in different orders.
    """

    example: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"inner": {"warmup": {"inner": {"by_score": {"score": "difficulty"}}, "share": 0.3, "of": "beginning"}}}
    )

    draw: int = 0

    def __post_init__(self) -> None:
        if self.draw < 0:
            raise PolicyError(f"matched.draw={self.draw} is no number of a draw: write a whole number from 0 on.")

    def keys(self, along: Along, summary: None, seed: int) -> Sequence[UInt64 | Ints]:
        return along.stretch, along.chance(seed, f"matched/{self.draw}")
