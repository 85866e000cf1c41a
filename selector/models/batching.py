"""Model batches: which windows of text go through a model together, and how the windows of one text are put
together."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


def batches(lengths: npt.NDArray[np.int64], batch_tokens: int) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of windows, longest first, such that a padded batch has at most `batch_tokens` tokens."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + max(1, batch_tokens // int(lengths[order[start]]))
        yield order[start:stop]
        start = stop


def pooled(vectors: Vectors, lengths: npt.NDArray[np.int64], owners: npt.NDArray[np.int64], n: int) -> Vectors:
    """The token-weighted mean of each text's windows."""
    sums = np.zeros((n, vectors.shape[1]))
    np.add.at(sums, owners, vectors.astype(np.float64) * lengths[:, None])
    return (sums / np.bincount(owners, lengths, n)[:, None]).astype(np.float32)
