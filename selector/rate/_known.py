"""Scores that are known of some documents, looked up for any others by their ids."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.exact import Ints, keyed
from selector.rate import Meaning, Rater

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of some documents: their scores, null where one is not applicable, and which have failed."""

    ids: npt.NDArray[np.bytes_]  # sorted
    scores: Mapping[str, pa.Array]
    has_failed: Bools

    def of(self, ids: pa.Array) -> pa.RecordBatch:
        """The scores of these documents, with their states; missing where nothing is known."""
        places, is_known = places_of(ids, self.ids)
        has_failed = np.zeros(len(places), np.bool_)
        has_failed[is_known] = self.has_failed[places[is_known]]
        rows = pa.array(places, mask=~is_known | has_failed)
        columns: dict[str, pa.Array] = {}
        for name, values in self.scores.items():
            columns[name] = values.take(rows)
            is_null = columns[name].is_null().to_numpy(zero_copy_only=False)
            state = np.select([~is_known, has_failed, is_null], ["missing", "failed", "not_applicable"], "ok")
            columns[f"{name}.state"] = pa.array(state, pa.string())
        return pa.record_batch(columns)


@dataclass(frozen=True, kw_only=True)
class LookedUp(Rater):
    """What a fit knows of each document: a table with doc_id, sorted, and a column for each score, called as `scores`
    of a rater called `score` are; null where it is not applicable."""

    table: pa.Table
    meanings: Mapping[str, Meaning]

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def scores(self, name: str) -> dict[str, Meaning]:
        return {f"{name}{score.removeprefix('score')}": meaning for score, meaning in self.meanings.items()}

    def prepare(self) -> None:
        super().prepare()
        assert self._known is not None

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self._known.of(batch["doc_id"])

    @functools.cached_property
    def _known(self) -> Known:
        scores = {score: self.table[score].combine_chunks() for score in self.meanings}
        has_failed = np.zeros(self.table.num_rows, np.bool_)
        return Known(ids=keyed.sortable(self.table["doc_id"]), scores=scores, has_failed=has_failed)


def places_of(ids: pa.Array, among: npt.NDArray[np.bytes_]) -> tuple[Ints, Bools]:
    """For each id its place among sorted ones, and whether it is one of them."""
    wanted = keyed.sortable(ids)
    if not len(among):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    places = np.minimum(np.searchsorted(among, wanted), len(among) - 1)
    return places, among[places] == wanted
