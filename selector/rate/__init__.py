"""Raters: each gives every document one or more numbers. One file here is one rater; its name is the file's.

A rater is a frozen, keyword-only dataclass whose fields are its options. It sees one batch at a time and
must give the same answer whatever the batch is made of. A model is loaded on first use, by a
`functools.cached_property`, so once per worker. What must be known of the whole corpus beforehand (a
regression, bucket counts, a z-score) is a `FittedRater`'s `fit`, done once and stored.
"""

import abc
from typing import ClassVar, Literal

import pyarrow as pa

from selector.plugins.pool import Pool

HigherIs = Literal["harder", "better", "rarer", "closer"]


class Rater(abc.ABC):
    """Gives every document one or more numbers. `higher_is` says what a large one means, so an order never guesses."""

    version: ClassVar[int] = 1  # raise it when the same options give other numbers
    libraries: ClassVar[tuple[str, ...]] = ()  # distributions whose version may change the numbers
    wants_gpu: ClassVar[bool] = False
    higher_is: HigherIs

    @property
    def needs(self) -> tuple[str, ...]:
        """The batch's columns: text, embedding, cluster, distance, num_bytes, num_tokens, source, or `corpus.<column>`
        for a column that the corpus already has."""
        return ("text",)

    def scores(self, name: str) -> dict[str, HigherIs]:
        """The scores this rater gives and what a large one means; by default one, called as the rater is (`name`)."""
        return {name: self.higher_is}

    @abc.abstractmethod
    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """One row per row of the batch: its scores by name, null where there is none, and optionally `state`.

        The law: same rows, same order, and the same answer however the corpus is split into batches. `state`
        (ok, missing, failed, not_applicable) says why a score is null; left out, a null means not_applicable.
        NaN and infinity become failed: a failed score is never a number. A rater with one score may name its
        column `score`.
        """


class FittedRater(Rater):
    """A rater that looks at the corpus once before it rates: the fit is stored, and given to every worker."""

    fit_documents: ClassVar[int | None] = 65_536  # size of the keyed sample that `fit` sees; None for the whole corpus

    @abc.abstractmethod
    def fit(self, sample: Pool, seed: int) -> pa.Table:
        """What `rate_fitted` needs to know of the corpus. The sample's columns are doc_id and those of `needs`."""

    @abc.abstractmethod
    def rate_fitted(self, batch: pa.RecordBatch, fitted: pa.Table) -> pa.RecordBatch:
        """As `rate`, with what `fit` returned."""

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        raise TypeError(f"{type(self).__name__} rates only with a fit: call rate_fitted.")
