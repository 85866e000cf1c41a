"""Arithmetic with the same bits on every machine and in every order of its terms.

A manifest must not depend on the CPU that computed it or on the order in which its documents arrived.
NumPy picks its `log` and `exp` by the CPU (without AVX2 and AVX-512, 9,347 of 199,999 values of `exp` came
out different), and a sum of floats depends on the order of its terms; so here are a `log` and an `expm1` made
of operations that IEEE 754 rounds in one way only, a sum that never rounds, and a map from scores to integers
that sort like them.
"""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

LAST = np.uint64(2**64 - 1)
_LN2_HIGH = float.fromhex("0x1.62e42feep-1")  # few enough bits that a multiple by an exponent is exact
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")


def floats(values: pa.Array | pa.ChunkedArray) -> Floats:
    """The numbers of an Arrow column as float64, NaN where it is null."""
    return values.to_numpy(zero_copy_only=False).astype(np.float64)


def ascending(scores: pa.Array | pa.ChunkedArray) -> UInt64:
    """One key per float32 score: a smaller score has a smaller key, equal scores have equal keys, null is LAST."""
    values = floats(scores)
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32).astype(np.uint64)  # -0.0 becomes 0.0
    keys = np.where(bits >> np.uint64(31), ~bits, bits | np.uint64(2**31)) << np.uint64(32)
    return np.where(np.isnan(values), LAST, keys)


def descending(scores: pa.Array | pa.ChunkedArray) -> UInt64:
    """One key per float32 score: a larger score has a smaller key, equal scores have equal keys, null is LAST."""
    keys = ascending(scores)
    return np.where(keys == LAST, LAST, ~(keys | np.uint64(2**32 - 1)))


def argsort(keys: UInt64, ids: UInt64) -> npt.NDArray[np.intp]:
    """The indices that sort by (key, id); `ids` are the words of `keyed.words`."""
    order = np.argsort(keys)
    if (keys[order[1:]] != keys[order[:-1]]).all():
        return order
    return np.lexsort((ids[:, 1], ids[:, 0], keys))


def log(x: Floats) -> Floats:
    """Natural logarithm of positive finite numbers, to about 5e-16 of its value."""
    fraction, exponent = np.frexp(x)
    small = fraction < math.sqrt(0.5)
    fraction, exponent = np.where(small, 2 * fraction, fraction), exponent - small
    s = (fraction - 1) / (fraction + 1)
    series = _horner(s * s, [2 / (2 * k + 1) for k in range(11)])
    return exponent * _LN2_HIGH + (exponent * _LN2_LOW + s * series)


def expm1(x: Floats) -> Floats:
    """exp(x) - 1, to about 4e-16 of its value; what lies above 709 counts as 709."""
    x = np.clip(x, -750.0, 709.0)
    exponent = np.rint(x * (1 / (_LN2_HIGH + _LN2_LOW)))
    rest = (x - exponent * _LN2_HIGH) - exponent * _LN2_LOW
    series = rest * _horner(rest, [1 / math.factorial(k + 1) for k in range(14)])
    scale = np.ldexp(1.0, exponent.astype(np.int32))
    return scale * series + (scale - 1)


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


def _horner(x: Floats, coefficients: list[float]) -> Floats:
    result = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + coefficient
    return result
