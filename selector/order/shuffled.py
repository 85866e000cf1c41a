"""The control: a random order."""

from dataclasses import dataclass

import pyarrow as pa

from selector.exact import UInt64
from selector.order import Placed, random_keys


@dataclass(frozen=True, kw_only=True)
class Shuffled(Placed):
    """Arranges the documents at random: the control.

    A document's place follows from a keyed hash of its id, so adding or removing others does not change which of two
    documents comes first. A document that is seen several times has as many places.

    Evidence: the control of every comparison. With the usual budget of steps it was as good as 180 curricula (arXiv
    2012.03107, image classification), and what orders gain shrinks with scale (2601.21698, language models of 14M
    to 1B parameters).

    When: always as the control, and as the order itself unless a comparison with your own data says otherwise.
    """

    def keys(self, batch: pa.RecordBatch, summary: None, seed: int) -> UInt64:
        return random_keys(batch, seed, "shuffled")
