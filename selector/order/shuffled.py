"""The control: a random order."""

from dataclasses import dataclass

from selector import exact
from selector.exact import keyed
from selector.order import Order, Positions
from selector.plugins.pool import Pool


@dataclass(frozen=True, kw_only=True)
class Shuffled(Order):
    """Arranges the documents at random: the control.

    A document's place follows from a keyed hash of its id, so adding or removing others does not change
    which of two documents comes first.
    """

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        ids = chosen.table("doc_id")["doc_id"]
        return Positions.of(exact.argsort(keyed.hashes(ids, seed, "shuffled"), keyed.words(ids)))
