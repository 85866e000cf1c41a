"""What training reported of each document, round by round, and the signals that are read off it.

Think of a curve as one document's row of losses. Training reports documents in any order and perhaps several times in a
round; here they are sorted, a round that was reported several times counts as the mean of its reports, and a round of
which nothing is known (null) is left out. So the signals do not depend on the order of the table's rows.
"""

import functools
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import Floats, Ints, expm1, keyed, log
from selector.rate import Columns, Rater, TablePath
from selector.rate._known import Known

Bools = npt.NDArray[np.bool_]
ReportIs = Literal["loss", "probability", "right"]
Feedback = Annotated[TablePath, Columns.several(doc_id="doc_id", round="int64", score="float64")] | None
"""The table that training writes, as the selector `iterative` reads it. One that is not there yet has no rows."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """One curve per document of a table: its values in the order of the rounds."""

    ids: npt.NDArray[np.bytes_]  # (documents,), sorted
    first: Ints  # (documents,), where each curve begins
    rounds: Ints  # (points,), ascending inside a curve, each once
    values: Floats  # (points,)

    @classmethod
    def of(cls, table: pa.Table) -> "Curves":
        """The curves of a table with doc_id, round and score."""
        table = table.select(["doc_id", "round", "score"]).drop_null().combine_chunks()
        ids, rounds = keyed.sortable(table["doc_id"]), table["round"].to_numpy()
        values = table["score"].to_numpy().astype(np.float64)
        order = np.lexsort((values, rounds, ids))
        ids, rounds, values = ids[order], rounds[order], values[order]
        is_new_document = np.r_[True, ids[1:] != ids[:-1]][: len(ids)]
        is_new_round = is_new_document | np.r_[True, rounds[1:] != rounds[:-1]][: len(ids)]
        points = np.flatnonzero(is_new_round)
        return cls(
            ids=ids[is_new_document],
            first=np.flatnonzero(is_new_document[points]),
            rounds=rounds[points],
            values=_sums(values, points) / np.diff(np.r_[points, len(values)]),
        )

    @property
    def lengths(self) -> Ints:
        """How many rounds each document was reported in."""
        return np.diff(np.r_[self.first, len(self.values)])

    @property
    def last(self) -> Ints:
        """Where each curve ends: the place of its last point."""
        return self.first + self.lengths - 1

    @property
    def step(self) -> Ints:
        """Of each point, its number in its curve, from 0 on."""
        return np.arange(len(self.values)) - np.repeat(self.first, self.lengths)

    def sums(self, of: npt.NDArray[Any]) -> Floats:
        """The sum of what is said of the points of each curve."""
        return _sums(of.astype(np.float64), self.first)

    def means(self, of: npt.NDArray[Any]) -> Floats:
        """The mean of what is said of the points of each curve."""
        return self.sums(of) / self.lengths

    def probabilities(self, score_is: ReportIs) -> Floats:
        """Of each point, the probability that the model gave to what is right."""
        return expm1(-self.values) + 1 if score_is == "loss" else self.values

    def losses(self, score_is: ReportIs) -> Floats:
        """Of each point, the loss; infinite for a probability of 0."""
        if score_is == "loss":
            return self.values
        is_positive = self.values > 0
        return np.where(is_positive, -log(np.where(is_positive, self.values, 1)), np.inf)

    def are_impossible(self, score_is: ReportIs, *, is_likelihood: bool) -> Bools:
        """Whether a curve has a point that is no such report: not finite, no probability, or of a likelihood a loss
        below 0."""
        is_possible = np.isfinite(self.values)
        if score_is != "loss":
            is_possible &= (self.values >= 0) & (self.values <= 1)
        elif is_likelihood:
            is_possible &= self.values >= 0
        return self.sums(~is_possible) > 0


@dataclass(frozen=True, kw_only=True)
class FromTraining(Rater):
    """A rater of what training reported: its `signals` say what a document's curve comes to.

    `score_is` says of the table's scores whether each is a `loss`, a `probability`, or whether the model was `right` (1
    or 0). A document that the table does not have is missing; one of which it says what cannot be (a loss that is not
    finite, a probability of 2) has failed; one whose signal is null is not_applicable. The table is held whole by every
    worker, about 100 bytes a row.
    """

    is_likelihood: ClassVar[bool] = True  # a loss is minus the logarithm of a probability, and so not below 0

    feedback: Feedback
    score_is: ReportIs = "loss"

    def __post_init__(self) -> None:
        if self.feedback is None:
            raise PolicyError(
                "feedback: name the table that training writes (doc_id, round, score), e.g. feedback.parquet."
            )

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    @abstractmethod
    def signals(self, curves: Curves) -> Mapping[str, pa.Array]:
        """By its short name, each score of the documents of the curves; null where there is none."""

    def prepare(self) -> None:
        super().prepare()
        assert self._signals is not None

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self._signals.of(batch["doc_id"])

    @functools.cached_property
    def _signals(self) -> Known:
        assert self.feedback is not None
        curves = Curves.of(self.feedback.table)
        with np.errstate(invalid="ignore", over="ignore"):  # of what has failed
            scores = self.signals(curves)
        has_failed = curves.are_impossible(self.score_is, is_likelihood=self.is_likelihood)
        return Known(ids=curves.ids, scores=scores, has_failed=has_failed)


def _sums(values: Floats, first: Ints) -> Floats:
    return np.add.reduceat(values, first) if len(first) else np.empty(0)
