"""What an order is asked, and what it answers."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.exact import UInt64
from selector.plugins.pool import Pool


@dataclass(frozen=True, kw_only=True)
class Positions:
    """The visits, first to last, as a table of `tables.VISITS`: row i is position i.

    `left` (`tables.LEFT`) are the documents that are not visited at all, each with its reason. `phases` says of a
    phase, by its name, what a reader of the manifest should know: its mixture, hints for the trainer. `facts` go into
    the manifest, those of an order under its name: gaps or windows that could not be met. What people should read of
    that is a list of lines there under `unmet`.
    """

    visits: pa.Table
    left: pa.Table = field(default_factory=tables.LEFT.empty_table)
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

    def rearranged(self, places: npt.NDArray[Any], ids: UInt64) -> "Positions":
        """The same visits in another order, with the visits of each document counted anew along it.

        `places` are the positions that the visits have here, in the order in which they are to come. `ids` are the
        `keyed.words` of the pool's documents, in the pool's order.
        """
        moved = self.visits.take(pa.array(places, pa.int64()))
        visit = pa.array(numbered(ids[moved["document"].to_numpy()]))
        at = tables.VISITS.get_field_index("visit")
        return replace(self, visits=moved.set_column(at, tables.VISITS.field(at), visit))


def batch_of(chosen: Pool) -> int:
    """The trainer's global batch, in visits, where the policy says it; 512 otherwise."""
    return 512 if chosen.training is None else chosen.training.global_batch_size


def numbered(ids: UInt64) -> npt.NDArray[np.uint16]:
    """For each visit of an order, how many visits of its document come before it; `ids` are in the order's order."""
    words = np.sort(ids[:, 0])
    if (words[1:] != words[:-1]).all():
        return np.zeros(len(ids), np.uint16)
    order = np.lexsort((ids[:, 1], ids[:, 0]))  # the visits of a document stay in their order
    ordered = ids[order]
    begins = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)]) if len(order) else order
    lengths = np.diff(begins, append=len(order))
    numbers = np.empty(len(order), np.uint16)
    numbers[order] = np.arange(len(order)) - np.repeat(begins, lengths)
    return numbers


def numbered_together(ids: UInt64) -> npt.NDArray[np.uint16]:
    """The same for rows of which those of a document come one after another."""
    begin = np.arange(len(ids), dtype=np.int32 if len(ids) < 2**31 else np.int64)
    number = begin.copy()
    begin[1:][(ids[1:] == ids[:-1]).all(axis=1)] = 0
    return (number - np.maximum.accumulate(begin)).astype(np.uint16)


class Order(abc.ABC):
    """Arranges the chosen documents."""

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Options, as a policy writes them, with which the gallery shows it over 12,000 documents: those that have no
    default and cannot be told from their types, and those whose default is for many more documents."""
    most_held: ClassVar[int] = 100_000_000
    """The most rows of a pool that it is asked to arrange in one piece; a run that has more is refused in words. An
    order that is arranged by shards (`Dealt`, `Around` or `Parted`) is never asked in one piece by a run, and one
    around another that holds some bytes for each visit takes as many visits."""
    reads_training: ClassVar[bool] = False
    """Whether it asks its pool for `training`: then the policy must say it, and another one makes another order."""

    @property
    def reads_batch(self) -> bool:
        """Whether it asks its pool for `training` to know the global batch, where the policy says that (see
        `batch_of`)."""
        return False

    @property
    def needs(self) -> tuple[str, ...]:
        """The pool's columns beside doc_id, num_tokens and the scores that options name."""
        return ()

    @property
    def ranks(self) -> Mapping[str, "Order"]:
        """Further columns of the pool that the order reads: under each name the position that each row has in a placed
        order, which visits it at most once. A row without a visit has the position of the row before."""
        return {}

    @abc.abstractmethod
    def arrange(self, chosen: Pool, seed: int) -> Positions:
        """The position of every visit.

        The laws: every row of the pool is visited, or told as left; ties break on the doc_id; the answer depends on the
        documents and not on how they are cut into shards; randomness is `exact.keyed`; the visits of a document count
        up from 0 along the order (`numbered`), also where another order's visits are rearranged (`rearranged`).
        """
