"""Raters: each gives every document numbers or labels. One file here is one rater; its name is the file's.

A rater is a frozen, keyword-only dataclass whose fields are its options. It sees one batch at a time and gives the
same answer whatever the batch is made of. What it needs before it can rate (a model) is loaded by `prepare`, once per
worker. What must be known of the whole corpus first (a regression, a z-score) is a `Fit`, which makes a rater of what
it learned.
"""

import abc
from collections.abc import Mapping
from typing import ClassVar, Literal

import pyarrow as pa

from selector.engine.part import Resources
from selector.errors import PolicyError
from selector.plugins.options import (
    ArtefactPath,
    Columns,
    Endpoint,
    ManifestPath,
    ModelPath,
    ScoreName,
    SignalName,
    TablePath,
    TextsPath,
    inner_plugins,
)
from selector.plugins.pool import Pool

__all__ = [
    "ArtefactPath", "Columns", "Endpoint", "Fit", "HigherIs", "ManifestPath", "Meaning", "ModelPath", "Pool",
    "Rater", "Resources", "ScoreName", "SignalName", "TablePath", "TextsPath",
]  # fmt: skip

HigherIs = Literal["harder", "easier", "better", "rarer", "closer"]
Meaning = Literal["harder", "easier", "better", "rarer", "closer", "label"]
"""What a large number means; or that the score is a word for each document, which has no order."""


class _Scoring(abc.ABC):
    """What a rater and a fit declare alike."""

    version: ClassVar[int] = 1  # raise it when the same options give other scores
    libraries: ClassVar[tuple[str, ...]] = ()  # distributions whose version may change the scores
    resources: ClassVar[Resources] = Resources()  # what a worker of it holds
    is_exact: ClassVar[bool] = True  # False of a model's: who shares a document's batch changes the last bits
    higher_is: Meaning  # of a rater with one score

    @property
    def needs(self) -> tuple[str, ...]:
        """The batch's columns beside doc_id and the scores that options name: text, source, num_bytes, num_tokens,
        embedding, cluster, distance, `score.x` of another rater, `corpus.x` for a column that the corpus has."""
        return ("text",)

    def cost(self, num_documents: int) -> str | None:
        """What rating so many documents costs, in words that are printed before it begins; None: nothing worth saying.

        Raises PolicyError where that is more than its options allow. (It is asked of a Fit.)
        """
        return None

    def check(self) -> None:
        """Raises PolicyError where what its options name (a model) is not what it needs, as far as that can be known
        before any work, where no model is loaded. By default it asks the raters that are options.
        """
        for inner in inner_plugins(self):
            if isinstance(inner, _Scoring):
                inner.check()

    def scores(self, name: str) -> dict[str, Meaning]:
        """The scores it gives and what a large one means, or "label"; by default one, called as the rater is."""
        if not hasattr(self, "higher_is"):
            raise PolicyError(
                f"The rater {name!r} does not say what a large score means. Write into {type(self).__qualname__}, for"
                ' example: higher_is = "harder" (or "easier", "better", "rarer", "closer", or "label").'
            )
        return {name: self.higher_is}


class Rater(_Scoring):
    """Gives every document numbers or labels. What a large number means is declared, so an order never guesses."""

    def check_types(self, types: Mapping[str, pa.DataType]) -> None:
        """Raises CorpusError if a column of the corpus that it needs is of a type that it cannot rate at all.

        It is called once the types of whole columns are known, and before the first document is rated.
        """
        for inner in inner_plugins(self):
            if isinstance(inner, Rater):
                inner.check_types(types)

    def check_vectors(self, encoder: Mapping[str, str]) -> None:
        """Raises PolicyError if it was made for vectors of another encoder than the policy's, which is described by
        model_sha256, settings_sha256, max_tokens and long_documents."""
        for inner in inner_plugins(self):
            if isinstance(inner, Rater):
                inner.check_vectors(encoder)

    def prepare(self) -> None:
        """Loads what `rate` needs, once per worker. If it raises, it is the run that is at fault and not a document.

        A rater is frozen, so hold what is loaded in a `functools.cached_property`, and name that property here. Raters
        that are options are prepared by this method: call `super().prepare()` where you write your own.
        """
        for inner in inner_plugins(self):
            if isinstance(inner, Rater):
                inner.prepare()

    @abc.abstractmethod
    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """One row per row of the batch, in its order: each score by its name, null where there is none.

        The law: the same answer however the corpus is split into batches, but for the last bits where `is_exact` is
        False. A column of floats is a number, of which 20 bits are kept; one of integers, dates, timestamps or decimals
        of at most 18 digits is kept exactly; a label is text. `state` (ok, missing, failed, not_applicable) says why
        scores are null, `<score>.state` why one is; left out, a null means not_applicable. NaN and infinity become
        failed: a failed score is never a number. A rater with one score may call its column `score`; one with several
        whose names depend on what it is called may answer with the names of `scores("score")`.
        """

    def pairs(self, batch: pa.RecordBatch) -> pa.Table | None:
        """The comparisons that its scores of a batch are made of (`tables.PAIRS`), if it compares documents.

        A run writes them to files, from which `selector fit-rater` learns. Asked after `rate`, with the same batch.
        """
        return None


class Fit(_Scoring):
    """Looks at the corpus first, then makes a rater of what it learned: that is stored, and given to workers."""

    sample: ClassVar[int | None] = 65_536  # about how many documents `fit` sees, by a keyed hash; None: all of them

    @abc.abstractmethod
    def fit(self, sample: Pool, seed: int) -> pa.Table:
        """What `rater` needs to know of the corpus. The pool's columns are doc_id and those of `needs`."""

    @abc.abstractmethod
    def rater(self, fitted: pa.Table) -> Rater:
        """The rater, from what `fit` returned. It gives the scores and needs the columns that the fit declares."""
