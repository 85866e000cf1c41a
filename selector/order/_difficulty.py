"""What a score says of a document's place between easy and hard.

A score means something (`higher_is`), so an order never guesses: where it means harder or rarer, low is easy, since the
common is learned before the rare; where it means easier or closer, high is easy, since the typical is learned before
the unusual. Where it means better, low comes first too, so that a curriculum ends on the best data; that is worthwhile
only with a moderate decay of the learning rate (arXiv 2511.18903).
"""

from typing import Literal

import pyarrow as pa

from selector import exact
from selector.exact import UInt64

Direction = Literal["curriculum", "anti_curriculum"]


def difficulty_keys(batch: pa.RecordBatch, score: str, higher_is: str, direction: Direction) -> UInt64:
    """One key per document, lowest first: easy to hard, or hard to easy; a document without a score is last in both.

    Equal scores have equal keys in both directions: with ties broken by doc_id, an anti-curriculum is not the
    curriculum reversed. Integers, dates and decimals are compared exactly (see `exact.ascending`).
    """
    return (exact.descending if is_high_first(higher_is, direction) else exact.ascending)(batch[score])


def is_high_first(higher_is: str, direction: Direction) -> bool:
    """Whether large scores come before small ones in this direction."""
    return (higher_is in ("easier", "closer")) != (direction == "anti_curriculum")
