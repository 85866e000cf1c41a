"""Several scores as one, whatever their scales: the mean of their ranks.

Source: rank aggregation by Borda (1781); in data selection it is the plain rival of learned weights. A rank is the
mid-rank quantile among a keyed sample of the corpus: the share of documents below, and half of the share that is equal.

Unit: quantiles. Range: between 0 and 1. A high value means what you say it means, in `higher_is`; a score of which less
is better has a negative weight: its rank counts from the other end.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import floats
from selector.rate import Fit, HigherIs, Meaning, Pool, Rater, ScoreName
from selector.rate._quantiles import mid_ranks, quantiles


@dataclass(frozen=True, kw_only=True)
class MeanRank(Fit):
    """The weighted mean of the quantiles of other scores.

    `weights` are in the order of `of`; by default all are 1. A document that lacks one of the scores has none, unless
    `impute` says which quantile stands for it, such as 0.5.
    """

    of: tuple[ScoreName, ...]
    higher_is: HigherIs  # pyright: ignore[reportIncompatibleVariableOverride] (a label has no order)
    weights: tuple[float, ...] | None = None
    impute: float | None = None

    def __post_init__(self) -> None:
        if not self.of:
            raise PolicyError("mean_rank.of names no score. Write two or more: of: [educational_value, readability].")
        if self.weights is not None and len(self.weights) != len(self.of):
            raise PolicyError(f"mean_rank.weights has {len(self.weights)} numbers for {len(self.of)} scores: one each.")
        if self.weights is not None and not any(self.weights):
            raise PolicyError("mean_rank.weights are all 0: give one score a weight at least.")
        if self.impute is not None and not 0 <= self.impute <= 1:
            raise PolicyError(f"mean_rank.impute is {self.impute}: write a quantile between 0 and 1, such as 0.5.")

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def scores(self, name: str) -> dict[str, Meaning]:
        return {name: self.higher_is}

    def fit(self, sample: Pool, seed: int) -> pa.Table:
        parts = [[np.empty(0)] for _ in self.of]
        for batch in sample.batches(*dict.fromkeys(self.of)):
            for part, name in zip(parts, self.of, strict=True):
                part.append(floats(batch[name]))
        tables = [pa.table({"part": pa.array([], pa.int32()), "at": np.empty(0), "to": np.empty(0)})]
        for i, part in enumerate(parts):
            values = np.concatenate(part)
            at, to = mid_ranks(values[np.isfinite(values)])
            tables.append(pa.table({"part": pa.array(np.full(len(at), i, np.int32)), "at": at, "to": to}))
        return pa.concat_tables(tables)

    def rater(self, fitted: pa.Table) -> Rater:
        return _MeanRank(declared=self, fitted=fitted)


@dataclass(frozen=True, kw_only=True)
class _MeanRank(Rater):
    """The mean of quantiles by what was fitted."""

    declared: MeanRank = field(repr=False)
    fitted: pa.Table = field(repr=False)

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def scores(self, name: str) -> dict[str, Meaning]:
        return self.declared.scores(name)

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        parts, at, to = (self.fitted[name].to_numpy() for name in ("part", "at", "to"))
        weights = np.array(self.declared.weights or [1.0] * len(self.declared.of))
        total, is_missing = np.zeros(batch.num_rows), np.zeros(batch.num_rows, bool)
        for i, (name, weight) in enumerate(zip(self.declared.of, weights, strict=True)):
            rank = quantiles(floats(batch[name]), at[parts == i], to[parts == i])
            if self.declared.impute is not None:
                rank = np.where(np.isnan(rank), self.declared.impute, rank)
            is_missing |= np.isnan(rank)
            total += abs(weight) * (rank if weight >= 0 else 1 - rank)
        state = pa.array(np.where(is_missing, "missing", "ok").tolist(), pa.string())
        return pa.record_batch({"score": pa.array(total / np.abs(weights).sum(), mask=is_missing), "state": state})
