"""Whole shares of a total, in proportion to weights: how a budget is dealt out to groups."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from selector.exact.sortkeys import Ints


def apportion(
    total: int,
    weights: Sequence[float | Fraction] | npt.NDArray[Any],
    capacities: Sequence[int] | npt.NDArray[Any] | None = None,
) -> Ints:
    """Whole shares of `total` in proportion to the weights: largest remainder, ties to the lower index.

    What a group has no capacity for is spread over the others by weight. A weight of 0 gets nothing, whatever is left:
    the shares add up to the smaller of `total` and the capacities of the groups that weigh something, so a caller sees
    a shortfall by their sum. A float counts as the decimal that it prints as.
    """
    decimals = [Fraction(str(weight)) for weight in np.asarray(weights).tolist()]
    scale = math.lcm(*(weight.denominator for weight in decimals))
    whole = [int(weight * scale) for weight in decimals]
    most = [total] * len(whole) if capacities is None else [int(capacity) for capacity in capacities]
    assert total >= 0 and min(whole, default=0) >= 0 and min(most, default=0) >= 0 and len(most) == len(whole)
    shares = [0] * len(whole)
    open_ = [i for i in range(len(whole)) if whole[i]]
    left = min(total, sum(most[i] for i in open_))
    while left:
        all_weight = sum(whole[i] for i in open_)
        full = {i for i in open_ if left * whole[i] >= most[i] * all_weight}
        for i in full or open_:
            shares[i] = most[i] if full else left * whole[i] // all_weight
        if not full:
            missing = left - sum(shares[i] for i in open_)
            for i in sorted(open_, key=lambda i: (-(left * whole[i] % all_weight), i))[:missing]:
                shares[i] += 1
            break
        left -= sum(most[i] for i in full)
        open_ = [i for i in open_ if i not in full]
    return np.array(shares, np.int64)


def tally(amounts: Ints, group: Ints, sizes: Ints) -> Ints:
    """`amounts` per group with these sizes added to theirs; longer if a group is new."""
    groups = max(len(amounts), int(group.max(initial=-1)) + 1)
    amounts = np.concatenate([amounts, np.zeros(groups - len(amounts), np.int64)])
    np.add.at(amounts, group, sizes)
    return amounts
