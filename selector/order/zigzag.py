"""From easy to hard and back again, with other documents each time."""

from dataclasses import dataclass

from selector.exact import Ints
from selector.order import Shaped
from selector.order._shaped import check_layers, zigzagged


@dataclass(frozen=True, kw_only=True)
class Zigzag(Shaped):
    """Goes from easy to hard and from hard to easy by turns, one layer each (zigzag).

    The layers are those of `folded`; the second, the fourth and so on are reversed, so difficulty does not jump where a
    layer ends.

    Evidence: arXiv 2605.30334 (160M to 1.7B parameters, 1B to 50B tokens of web text, one group), where it is a step on
    the way to `saw`. Among its four principles is that difficulty should not jump; how much of an effect is due to that
    alone is not reported in what we could read.

    When: as of `stair`, which did better.
    """

    layers: int = 3

    def __post_init__(self) -> None:
        check_layers("zigzag", self.layers)

    def shape(self, rank: Ints, length: int) -> Ints:
        return zigzagged(rank, length, self.layers)
