"""How diverse a choice is, in one number: of its groups, or of its vectors."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def entropy(counts: Iterable[float], num_groups: int) -> float:
    """The entropy of these shares, divided by that of so many equal ones; 0 where there is one group at most."""
    shares = np.array([count for count in counts if count], np.float64)
    shares /= shares.sum() or 1.0
    return float(-(shares * np.log(shares)).sum() / np.log(num_groups)) if num_groups > 1 else 0.0


def vendi_score(vectors: npt.NDArray[np.float64]) -> float:
    """The exponential of the entropy of the eigenvalues of the matrix of cosines, divided by their number (arXiv
    2210.02410): 1 where all are the same, their number where none is like another."""
    if not len(vectors):
        return 0.0
    small = vectors.T @ vectors if len(vectors) > vectors.shape[1] else vectors @ vectors.T
    values = np.linalg.eigvalsh(small / len(vectors))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))
