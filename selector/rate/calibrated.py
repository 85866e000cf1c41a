"""A score made comparable: its z-score or its quantile among the documents of the corpus, or of each source.

Source: z-scores as QuRating takes them before it draws (Wettig et al. 2024, arXiv:2402.09739; population standard
deviation); mid-rank quantiles, by which Meta-rater and others put scores of different scales together. Per source, what
counts is to be good for its kind, so that a selection does not choose between kinds.

Unit: standard deviations, or quantiles. Range: any number, most within 3 of 0; or between 0 and 1. A high value means
what a high value of the score means: say so in `higher_is`.

What is fitted, on a keyed sample of the corpus, is stored and stays as it is for every document.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from selector.exact import Floats, Ints, floats
from selector.rate import Fit, HigherIs, Meaning, Pool, Rater, ScoreName
from selector.rate._quantiles import mid_ranks, quantiles


@dataclass(frozen=True, kw_only=True)
class Calibrated(Fit):
    """Another score as standard deviations from its mean (`z_score`), or as the share of documents below (`quantile`).

    `within: source` calibrates each source by itself; one that the sample lacks is calibrated by all documents. Where
    all values are equal, the z-score is 0 and the quantile 0.5. A document without the score has none.
    """

    score: ScoreName
    higher_is: HigherIs  # pyright: ignore[reportIncompatibleVariableOverride] (a label has no order)
    method: Literal["z_score", "quantile"] = "z_score"
    within: Literal["corpus", "source"] = "corpus"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("source",) if self.within == "source" else ()

    def scores(self, name: str) -> dict[str, Meaning]:
        return {name: self.higher_is}

    def fit(self, sample: Pool, seed: int) -> pa.Table:
        values, sources = [np.empty(0)], list[pa.Array]()
        for batch in sample.batches(self.score, *self.needs):
            values.append(floats(batch[self.score]))
            sources += [batch[need].cast(pa.string()) for need in self.needs]
        whole = np.concatenate(values)
        names, code = _coded(pa.chunked_array(sources, pa.string()).combine_chunks())
        groups: list[tuple[str | None, Floats]] = [(None, whole)]
        groups += [(names[i], whole[code == i]) for i in sorted(range(len(names)), key=names.__getitem__)]
        return pa.concat_tables([self._of_group(source, group) for source, group in groups])

    def _of_group(self, source: str | None, values: Floats) -> pa.Table:
        known = np.sort(values[np.isfinite(values)])  # so that a sum does not depend on the order of documents
        if self.method == "quantile":
            at, to = mid_ranks(known)
        else:
            mean = known.sum() / max(1, len(known))
            deviation = np.sqrt(((known - mean) ** 2).sum() / max(1, len(known)))
            at, to = np.array([mean]), np.array([deviation])
        return pa.table({"source": pa.array([source] * len(at), pa.string()), "at": at, "to": to})

    def rater(self, fitted: pa.Table) -> Rater:
        return _Calibrated(declared=self, fitted=fitted)


@dataclass(frozen=True, kw_only=True)
class _Calibrated(Rater):
    """A score by what was fitted."""

    declared: Calibrated = field(repr=False)
    fitted: pa.Table = field(repr=False)

    @property
    def needs(self) -> tuple[str, ...]:
        return self.declared.needs

    def scores(self, name: str) -> dict[str, Meaning]:
        return self.declared.scores(name)

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        values = floats(batch[self.declared.score])
        of_fit, code_of_fit = _coded(self.fitted["source"].combine_chunks())
        of_rows, code = _coded(batch["source"] if self.needs else pa.nulls(len(values), pa.string()))
        scores = np.full(len(values), np.nan)
        place = {source: i for i, source in enumerate(of_fit)}
        for i, source in enumerate(of_rows):
            known = code_of_fit == place.get(source, place.get(None, -1))  # none where the sample had no score at all
            at, to = (self.fitted[name].to_numpy()[known] for name in ("at", "to"))
            scores[code == i] = self._scores(values[code == i], at, to)
        is_missing = batch[self.declared.score].is_null()
        state = pa.array(np.where(is_missing.to_numpy(zero_copy_only=False), "missing", "ok").tolist(), pa.string())
        return pa.record_batch({"score": pa.array(scores, mask=np.isnan(scores)), "state": state})

    def _scores(self, values: Floats, at: Floats, to: Floats) -> Floats:
        if self.declared.method == "quantile":
            return quantiles(values, at, to)
        mean, deviation = at[0], to[0]
        return (values - mean) / deviation if deviation > 0 else np.where(np.isnan(values), np.nan, 0.0)


def _coded(sources: pa.Array) -> tuple[list[Any], Ints]:
    """The names of the sources, each once (None for null), and for each row the place of its own."""
    coded = sources.cast(pa.string()).dictionary_encode(null_encoding="encode")
    return coded.dictionary.to_pylist(), coded.indices.to_numpy().astype(np.int64)
