"""Orders: each arranges the chosen documents in time. One file here is one order; its name is the file's.

Think of the result as the list of visits from first to last. A simple order is a permutation; one with repeats lists a
document several times, one with phases names a stretch of the list, one with loss weights gives every visit a weight.

Most orders are a `Placed`: documents sorted by (group, key, id), then put in their places by arithmetic on ranks.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.exact import UInt64
from selector.plugins.options import Columns, ManifestPath, ModelPath, ScoreName, SignalName, TablePath, TextsPath
from selector.plugins.pool import Pool

__all__ = [
    "Columns", "Direction", "ManifestPath", "ModelPath", "Order", "Placed", "Pool", "Positions", "ScoreName", "SignalName",
    "TablePath", "TextsPath", "difficulty_keys", "numbered",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Positions:
    """The visits, first to last, as a table of `tables.VISITS`: row i is position i.

    `left` (`tables.LEFT`) are the documents that are not visited at all, each with its reason. `phases` says of a phase, by
    its name, what a reader of the manifest should know: its mixture, hints for the trainer. `facts` go into the manifest:
    gaps or windows that could not be met.
    """

    visits: pa.Table
    left: pa.Table = tables.LEFT.empty_table()
    phases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, rows: npt.NDArray[Any], ids: UInt64 | None = None) -> "Positions":
        """Every row of the pool in this order, one phase, weight 1. `rows` are indices into the pool.

        `ids` are the `keyed.words` of the pool's documents, in the pool's order: by them the visits of a document that
        has several rows are numbered. Without them every visit is a first one.
        """
        n = len(rows)
        visit = np.zeros(n, np.uint16) if ids is None else numbered(ids[rows])
        phase = pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), pa.array(["main"]))
        columns = [rows.astype(np.int64), visit, phase, np.ones(n, np.float32)]
        return cls(visits=pa.table(columns, schema=tables.VISITS))


def numbered(ids: UInt64) -> npt.NDArray[np.uint16]:
    """For each visit of an order, how many visits of the same document come before it; `ids` are in the order's order."""
    order = np.lexsort((ids[:, 1], ids[:, 0]))  # stable: the visits of a document stay in their order
    ordered = ids[order]
    begins = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)]) if len(order) else order
    lengths = np.diff(begins, append=len(order))
    numbers = np.empty(len(order), np.uint16)
    numbers[order] = np.arange(len(order)) - np.repeat(begins, lengths)
    return numbers


class Order(abc.ABC):
    """Arranges the chosen documents."""

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """The pool's columns beside doc_id, num_tokens and the scores that options name."""
        return ()

    @abc.abstractmethod
    def arrange(self, chosen: Pool, seed: int) -> Positions:
        """The position of every visit.

        The laws: every row of the pool is visited, or told as left; ties break on the doc_id; the answer depends on the
        documents and not on how they are cut into shards; randomness is `exact.keyed`; the visits of a document count up
        from 0 along the order (`numbered`), also where another order's visits are rearranged.
        """


from selector.order._difficulty import Direction, difficulty_keys  # noqa: E402 (they extend what is above)
from selector.order._placed import Placed  # noqa: E402
