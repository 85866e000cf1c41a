"""Sums that never round: the same whatever the order of their terms, and the sums of shards add up.

A sum of floats depends on the order of its terms. Here every number is counted as an integer under its exponent,
and the counts are turned into one fraction at the end.
"""

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from selector.exact.sortkeys import Ints


def parts(values: npt.NDArray[Any]) -> Ints:
    """Finite numbers as integer counts by exponent, shape (2, 2200): add the parts of batches, then take `total`."""
    assert np.isfinite(values).all()
    fraction, exponent = np.frexp(values.astype(np.float64))
    whole = np.ldexp(fraction, 53).astype(np.int64)
    counts = np.zeros((2, 2200), np.int64)
    np.add.at(counts[0], exponent + 1100, whole >> 27)
    np.add.at(counts[1], exponent + 1100, whole & (2**27 - 1))
    return counts


def total(counts: Ints) -> Fraction:
    """The sum of everything that was counted, not rounded."""
    used = np.flatnonzero(counts.any(axis=0)).tolist()
    return sum(
        ((int(counts[0, i]) * 2**27 + int(counts[1, i])) * Fraction(2) ** (i - 1153) for i in used), start=Fraction()
    )
