"""From easy to hard in steps, with a mixture of both where one step meets the next."""

from dataclasses import dataclass

from selector.exact import Ints
from selector.order import Shaped
from selector.order._shaped import check_transitions, folded, in_transitions


@dataclass(frozen=True, kw_only=True)
class Stair(Shaped):
    """Goes from easy to hard, and folds the documents around every border between two sections (STR).

    `ratio` of all documents before a border and as many behind it are folded in `layers` (see `folded`); all others
    stay where the sorted order has them. Where the stretches of two borders would overlap, they are shorter: nothing is
    arranged twice. Of few documents, or of more sections than documents, it is the plain curriculum.

    Evidence: arXiv 2605.30334: language models of 160M to 1.7B parameters on 1B to 50B tokens of FineWeb-Edu and
    QuRatedPajama, pre-trained and fine-tuned: stair and saw did better than the random, the sorted and the folded
    order. One group; not repeated by others, and effects of order shrink with scale (2601.21698).

    When: models have up to 1.7B parameters, there are up to 50B tokens, and documents are scored by quality. Beyond
    that, compare with `shuffled`.
    """

    sections: int = 2
    ratio: float = 0.225
    layers: int = 3

    def __post_init__(self) -> None:
        check_transitions("stair", self.sections, self.ratio, self.layers)

    def shape(self, rank: Ints, length: int) -> Ints:
        return in_transitions(rank, length, self.sections, self.ratio, folded, self.layers)
