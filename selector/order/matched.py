"""The control of another order: its own visits, at random within its phases."""

from dataclasses import dataclass

import numpy as np

from selector.errors import PolicyError
from selector.exact import keyed
from selector.order import Order, Pool, Positions, random_visits
from selector.order._moved import stretches


@dataclass(frozen=True, kw_only=True)
class Matched(Order):
    """Shuffles the visits of another order within each of its phases: the random control that matches it.

    It has the same visits with the same loss weights, and every phase has the same documents in the same stretch of
    positions. So what differs in training is what the order does inside of its phases, and nothing else. `draw` tells
    controls of one order apart: each number is another random order, whatever the seed. `selector run --controls 3`
    writes the draws 0, 1 and 2 beside a manifest. The driver holds all visits.

    Evidence: a random order of a good mixture is a strong baseline, and what an order gains is lost in the noise of one
    run: compare with several. OLMo 2 7B averages the weights of three runs that saw the same data in different orders.
    """

    inner: Order
    draw: int = 0

    def __post_init__(self) -> None:
        if self.draw < 0:
            raise PolicyError(f"matched.draw={self.draw} is no number of a draw: write a whole number from 0 on.")

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        positions = self.inner.arrange(chosen, seed)
        ids = keyed.words(chosen.table("doc_id")["doc_id"])
        visits = positions.visits
        visited = keyed.ids(ids[visits["document"].to_numpy()])
        chance = random_visits(visited, visits["visit"].to_numpy(), seed, f"matched/{self.draw}")
        _, number = stretches(visits["phase"])
        return positions.rearranged(np.lexsort((chance, number)), ids)
