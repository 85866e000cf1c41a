"""Orders: each arranges the chosen documents in time. One file here is one order; its name is the file's.

Think of the result as the list of visits from first to last. A simple order is a permutation; one with
repeats lists a document several times, one with phases names a stretch of the list, one with loss weights
gives every visit a weight.
"""

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.plugins.pool import Pool


@dataclass(frozen=True, kw_only=True)
class Positions:
    """The visits, first to last, as a table of `tables.VISITS`: row i is position i."""

    visits: pa.Table

    @classmethod
    def of(cls, documents: npt.NDArray[Any]) -> "Positions":
        """One visit per document, in this order, one phase, weight 1. `documents` are indices into the pool."""
        n = len(documents)
        phase = pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), pa.array(["main"]))
        columns = [documents.astype(np.int64), np.zeros(n, np.uint16), phase, np.ones(n, np.float32)]
        return cls(visits=pa.table(columns, schema=tables.VISITS))


class Order(abc.ABC):
    """Arranges the chosen documents: a permutation, as a function of rank, so that it can be computed part by part."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ()  # columns beside doc_id, num_tokens and the scores that its options name

    @abc.abstractmethod
    def arrange(self, chosen: Pool, seed: int) -> Positions:
        """The position of every visit.

        The laws: every chosen document is visited (once, unless the order is about repeats, and then its
        visits count up from 0); ties break on the doc_id; the answer depends on the documents and not on
        how they are split into batches; randomness is `keyed`.
        """
