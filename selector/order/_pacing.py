"""Pacing: which share of the documents, from the easiest on, is available at each time.

Every schedule begins with the share `start`, and has everything available once the share `full` of the time is over
(arXiv 2012.03107: b and a). The same on every machine.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Literal

import numpy as np

from selector import exact
from selector.errors import PolicyError

Pacing = Literal["linear", "quadratic", "root", "step", "exponential", "logarithmic", "competence"]

PoolPacing = Literal["linear", "quadratic", "root", "step", "exponential", "logarithmic", "competence", "cyclical"]
"""What is available may also become less again, where documents are drawn from it several times."""
Course = Literal["cycle", "sharp_cycle", "lower_to_bigger", "bigger_to_lower"]

_STEEP = 10.0  # the published constant of the exponential and the logarithmic schedule


def available(pacing: Pacing, progress: Fraction, start: float, full: float) -> float:
    """The share that is available when this share of the time is over: from `start` to 1.

    With x = progress / full, b = start and c = 10: linear, quadratic and root are b + (1 - b) x^p with p = 1, 2, 1/2;
    step is b until x = 1; exponential is b + (1 - b) (e^(cx) - 1) / (e^c - 1); logarithmic is
    b + (1 - b) (1 + ln(x + e^-c) / c); competence is the root of b^2 + (1 - b^2) x (arXiv 1903.09848).
    """
    x = float(progress / Fraction(str(full)))
    if x >= 1:
        return 1.0
    match pacing:
        case "linear":
            grown = x
        case "quadratic":
            grown = x * x
        case "root":
            grown = float(np.sqrt(x))
        case "step":
            grown = 0.0
        case "exponential":
            grown = float(exact.expm1(np.array(_STEEP * x)) / exact.expm1(np.array(_STEEP)))
        case "logarithmic":
            least = exact.expm1(np.array([-_STEEP])) + 1
            grown = max(float(1 + exact.log(x + least)[0] / _STEEP), 0.0)
        case "competence":
            return float(np.sqrt(start * start + (1 - start * start) * x))
    return start + (1 - start) * grown


def pool_size(pacing: Pacing, progress: Fraction, start: float, full: float, num_documents: int) -> int:
    """How many documents are available: rounded down, and a billionth more than a whole number is that number."""
    return min(int(available(pacing, progress, start, full) * num_documents + 1e-9), num_documents)


def cycle(course: Course, least: Fraction, greatest: Fraction, factor: Fraction) -> Iterator[Fraction]:
    """Share after share of a cycle (arXiv 2202.05531), without an end: from `least` on divided by the factor up to
    `greatest`, then multiplied by it down to `least`, and so on; or as the course says (see `cyclical`)."""
    is_rising = course != "bigger_to_lower"
    share = least if is_rising else greatest
    while True:
        yield share
        if course == "sharp_cycle" and share == greatest:
            share = least
            continue
        if course == "cycle":
            is_rising = share == least or (is_rising and share < greatest)
        share = min(share / factor, greatest) if is_rising else max(share * factor, least)


def check_pacing(order: str, start: float, full: float, steps: int) -> None:
    """Raises PolicyError unless these are shares, and there is a step."""
    if not 0 <= start <= 1:
        raise PolicyError(f"{order}.start={start} is no share of the documents: write a number from 0 to 1.")
    if not 0 < full <= 1:
        raise PolicyError(f"{order}.full={full} is no share of the time: write a number above 0, up to 1.")
    if not 1 <= steps <= 1000:
        raise PolicyError(f"{order}.steps={steps} is no number of steps: write a whole number from 1 to 1000, e.g. 20.")
