"""What every cluster gets of a budget: in proportion to its size, or the same."""

from typing import Literal

import numpy as np

from selector.exact import Ints
from selector.exact.apportion import apportion

Quota = Literal["proportional", "equal"]


def quotas_of(quota: Quota, sizes: Ints, amount: int) -> Ints:
    """The quota of each cluster, by largest remainder; what a small one has no documents for, the others get."""
    return apportion(amount, sizes if quota == "proportional" else np.ones_like(sizes), sizes)
