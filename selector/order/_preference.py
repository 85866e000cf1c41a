"""How much a strong model prefers a document to a weak one: the share by which its perplexity is lower."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa

from selector import exact
from selector.errors import PolicyError
from selector.exact import UInt64


def preference_keys(weak: str, strong: str, batch: pa.RecordBatch) -> UInt64:
    """One key per document: a smaller preference has a smaller key; it is LAST without one of the two scores.

    The preference is (weak - strong) / weak, of two perplexities: below 1, and below 0 where the weak model is better.
    """
    weaker, stronger = (exact.floats(batch[name]) for name in (weak, strong))
    is_known = (weaker > 0) & ~np.isnan(stronger)
    preference = np.divide(weaker - stronger, weaker, out=np.full(len(weaker), np.nan), where=is_known)
    return exact.ascending(pa.array(preference))


def preferring(weak: str, strong: str) -> Callable[[pa.RecordBatch], UInt64]:
    """`preference_keys` of these two scores; it can be sent to a worker."""
    return partial(preference_keys, weak, strong)


def check_models(order: str, weak: str, strong: str) -> None:
    """Raises PolicyError where both models are one."""
    if weak == strong:
        raise PolicyError(
            f"{order}.weak and {order}.strong are both {weak!r}, and no model is preferred to itself: name the "
            "perplexities by two models."
        )
