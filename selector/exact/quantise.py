"""Computed numbers without their last bits, so that two machines that round differently store the same score."""

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]


def quantise(values: Float32) -> Float32:
    """The values with 20 of float32's 23 bits of mantissa (steps of 1e-6, relative), to nearest, ties to even.

    Monotone and idempotent; -0.0 becomes 0.0; the largest values round down, never to infinity; NaN and infinity
    stay. It hides noise far below a step, such as float64's. A float32's last bit is an eighth of a step: noise there
    still moves about one value in eight to the next.
    """
    bits = values.astype(np.float32, order="C").view(np.uint32)
    sign, magnitude = bits & np.uint32(0x80000000), bits & np.uint32(0x7FFFFFFF)
    half = np.uint32(3) + (magnitude >> np.uint32(3) & np.uint32(1))
    rounded = np.minimum(magnitude + half, np.uint32(0x7F7FFFFF)) & np.uint32(0xFFFFFFF8)
    return np.where(np.isfinite(values), (sign | rounded).view(np.float32) + np.float32(0), values)
