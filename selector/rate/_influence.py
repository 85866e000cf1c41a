"""How much a document moves a model towards what is wanted, from features of both at several checkpoints."""

from collections.abc import Sequence

import numpy as np

from selector.exact import Floats, Ints


def weights_of(rates: Sequence[float]) -> Floats:
    """The checkpoints' weights: their learning rates, which sum to 1."""
    return np.array(rates, np.float64) / sum(rates)


def influences(cosines: Floats, tasks: Ints) -> Floats:
    """The mean over each subtask of weighted sums of cosines, (documents, examples) to (documents, subtasks)."""
    return np.stack([cosines[:, tasks == task].mean(axis=1) for task in range(int(tasks.max(initial=-1)) + 1)], axis=1)
