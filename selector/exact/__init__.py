"""The same bits on every machine: arrays in, arrays out.

A manifest must not depend on the CPU that computed it, or on the order in which its documents arrived. So whatever
decides something is here: numbers drawn by a keyed hash (`keyed`), functions and sums that do not round differently
elsewhere, keys that sort like scores, budgets dealt out and spent to the last token, draws and their probabilities.
"""

from selector.exact import keyed
from selector.exact.apportion import apportion, tally
from selector.exact.functions import expm1, log
from selector.exact.quantise import Float32, quantise
from selector.exact.sortkeys import (
    LAST,
    Floats,
    Ints,
    UInt64,
    argsort,
    ascending,
    descending,
    floats,
    largest_first,
)
from selector.exact.spend import Budget, Ends, Overshoot, Queued, Queues, Taken, ends_of, take
from selector.exact.sums import parts, total

__all__ = [
    "LAST",
    "Budget",
    "Ends",
    "Float32",
    "Floats",
    "Ints",
    "Overshoot",
    "Queued",
    "Queues",
    "Taken",
    "UInt64",
    "apportion",
    "argsort",
    "ascending",
    "descending",
    "ends_of",
    "expm1",
    "floats",
    "keyed",
    "largest_first",
    "log",
    "parts",
    "quantise",
    "take",
    "tally",
    "total",
]  # fmt: skip
