"""Where a value stands among those of a sample: its mid-rank quantile."""

import numpy as np

from selector.exact import Floats


def mid_ranks(sample: Floats) -> tuple[Floats, Floats]:
    """The different values of a sample, in order, and the quantile of each: the share that is less, and half of the
    share that is equal. So the middle is 0.5, and the ends are never 0 or 1."""
    values, counts = np.unique(sample, return_counts=True)
    return values, (np.cumsum(counts) - counts / 2) / max(1, len(sample))


def quantiles(values: Floats, known: Floats, of_known: Floats) -> Floats:
    """The quantiles of values by those of a sample: between two of them along a line, beyond the ends those of the
    ends; NaN of NaN, and of everything where the sample was empty."""
    if not len(known):
        return np.full(len(values), np.nan)
    return np.where(np.isnan(values), np.nan, np.interp(values, known, of_known))
