"""From easy to hard several times over, with other documents each time."""

from dataclasses import dataclass

from selector.exact import Ints
from selector.order import Shaped
from selector.order._shaped import check_layers, folded


@dataclass(frozen=True, kw_only=True)
class Folded(Shaped):
    """Goes from easy to hard once per layer: a layer is every third document of the sorted ones (folding, DELT).

    Layer l has the ranks l, l + layers, l + 2 * layers and so on. One layer is the plain curriculum.

    Evidence: DELT, arXiv 2506.21545, and its sequel 2605.30334: language models of 160M to 1.7B parameters on 1B to 50B
    tokens of web text, where folding did better than the sorted and than the random order, and `stair` and `saw` better
    than folding. All of it is from one group. A folded file that a loader cuts into as many contiguous shards as there
    are layers is plainly sorted again; a manifest's ranks take turns, so here that does not happen.

    When: as of `stair`, which did better.
    """

    layers: int = 3

    def __post_init__(self) -> None:
        check_layers("folded", self.layers)

    def shape(self, rank: Ints, length: int) -> Ints:
        return folded(rank, length, self.layers)
