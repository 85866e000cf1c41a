"""What the visits of a manifest are worth, where documents are seen several times.

Text that is seen again teaches less than new text: by the law that was fitted to C4 (Muennighoff et al., arXiv
2305.16264, up to 9 billion parameters), U tokens in E epochs are worth D' = U + U R (1 - exp(-(E - 1) / R)) tokens of
new text, with R = 15.387756, so that four epochs are nearly as good as new text and forty are not. The law is about
pretraining on a whole corpus; of long reasoning examples in fine-tuning the opposite was reported (arXiv 2602.11149).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from selector import exact

EPOCHS_OF_WORTH = 15.387756
"""R of the law: however often it is seen, text is worth no more than 1 + R times its tokens."""


def worth_of(tokens: float, epochs: float, scale: float = EPOCHS_OF_WORTH) -> float:
    """How many tokens of new text so many tokens are worth that are seen in so many epochs; part of one is itself."""
    again = max(epochs - 1, 0.0)
    return tokens * (min(epochs, 1.0) - scale * float(exact.expm1(np.array([-again / scale]))[0]))


def repeats(by_visit: Mapping[int, int]) -> dict[str, Any]:
    """The facts of repeated visits, from the tokens of all first visits (0), all second ones (1) and so on.

    `worth_tokens` takes the epochs of each document by themselves, which is the law where all are seen equally often.
    """
    worth = sum(tokens * (worth_of(1, number + 1) - worth_of(1, number)) for number, tokens in sorted(by_visit.items()))
    return {
        "tokens": sum(by_visit.values()),
        "tokens_once": by_visit.get(0, 0),
        "most_visits": max(by_visit, default=-1) + 1,
        "worth_tokens": round(worth),
    }
