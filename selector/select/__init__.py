"""Selectors: each chooses documents within a budget, and says why. One file here is one selector.

A selector sees only documents that may be chosen: duplicates, documents that a rule left out and
documents without a needed score have had their decision already. It reads columns batch by batch and
answers batch by batch.
"""

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from selector.exact.spend import Budget
from selector.plugins.pool import Pool


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What a selector decided: for each batch of the pool, in order, as many rows of `tables.DECISIONS`."""

    batches: Iterator[pa.RecordBatch]


class Selector(abc.ABC):
    """Chooses documents within a budget, and says why for each one."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ()  # columns beside doc_id, num_tokens and the scores that its options name

    @abc.abstractmethod
    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        """One decision per document of the pool.

        The laws: what is kept fits the budget exactly (see `budget.take`); the answer depends on the
        documents and not on how they are split into batches; a reason is a short sentence shared by many
        documents, never one per document; inclusion probabilities are those of the design, 1 or 0 where
        nothing was drawn.
        """
