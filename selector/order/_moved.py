"""What orders around another one share: the stretches that a visit may not leave."""

import numpy as np
import pyarrow as pa

from selector.exact import Ints


def stretches(phase: pa.ChunkedArray) -> tuple[Ints, Ints]:
    """Where each stretch of one phase begins, and the number of the stretch of every visit."""
    codes = phase.unify_dictionaries().combine_chunks().indices.to_numpy() if len(phase) else np.empty(0, np.int64)
    is_new = np.ones(len(codes), np.bool_)
    is_new[1:] = codes[1:] != codes[:-1]
    return np.flatnonzero(is_new), np.cumsum(is_new) - 1
