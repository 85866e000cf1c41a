"""From easy to hard, going back and forth where one section meets the next."""

from dataclasses import dataclass

from selector.exact import Ints
from selector.order import Shaped
from selector.order._shaped import check_transitions, in_transitions, zigzagged


@dataclass(frozen=True, kw_only=True)
class Saw(Shaped):
    """Goes from easy to hard, and zigzags through the documents around every border between two sections (SAW).

    Like `stair`, with the stretches around the borders arranged as in `zigzag`. Of few documents (less than 20 with the
    usual options), or of more sections than documents, it is the plain curriculum.

    Evidence: as of `stair`, arXiv 2605.30334, where saw and stair are the two orders that are recommended.

    When: as of `stair`.
    """

    sections: int = 3
    ratio: float = 0.075
    layers: int = 2

    def __post_init__(self) -> None:
        check_transitions("saw", self.sections, self.ratio, self.layers)

    def shape(self, rank: Ints, length: int) -> Ints:
        return in_transitions(rank, length, self.sections, self.ratio, zigzagged, self.layers)
