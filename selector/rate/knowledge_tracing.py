"""How likely a learner is to get a document right now, by what was practised, how long ago, and what it builds on.

Source: PSI-KT (Zhou et al. 2024, ICLR, "Predictive, scalable and interpretable knowledge tracing on structured
domains"): the state of a concept is drawn back, at the learner's rate of forgetting, to a level that what the learner
knows of its prerequisites lifts. With z the state when it was last practised and dt the time since:
    level_k  = level + transfer / K sum_i a_ik z_i
    mean     = z exp(-decay dt) + level_k (1 - exp(-decay dt))
    variance = volatility^2 (1 - exp(-2 decay dt)) / (2 decay)
and P(right) = logistic(mean). K is the number of the learner's other concepts. The traits (level, transfer, decay,
volatility) are inferred by their network, which is not part of this: give them as columns.

Unit: a probability. Range: 0 to 1. A high value means easier, of the deviation rarer. Evidence there is of predicting
people's answers; for choosing what a model trains on there is none that we know of, and we did not measure one.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa

from selector.exact import Floats, expm1
from selector.rate import Columns, Meaning, Rater, TablePath
from selector.rate._concepts import Concepts, folded

_LEARNER = Columns(
    concept="string", state="float64", elapsed="float64", level="float64", transfer="float64", decay="float64",
    volatility="float64",
)  # fmt: skip
_GRAPH = Columns(before="string", after="string", strength="float64")


@dataclass(frozen=True, kw_only=True)
class KnowledgeTracing(Rater):
    """How likely the learner is right about the least known concept of the document, and how unsure that is.

    The table `learner` has a row for each concept: its `state` when it was last practised, the time `elapsed` since,
    and the learner's `level`, `transfer`, `decay` and `volatility`. The table `graph` says how strongly one concept
    (`before`) lifts another (`after`). A document's concepts are those that the column `by` lists. `deviation` is the
    standard deviation of the state that the probability is of. Concepts that the learner's table does not have say
    nothing; a document with no other is not_applicable, one without a list is missing, and one whose concept has a
    negative decay or time has failed.
    """

    learner: Annotated[TablePath, _LEARNER]
    graph: Annotated[TablePath, _GRAPH] | None = None
    by: str = "corpus.concepts"

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by,)

    def scores(self, name: str) -> dict[str, Meaning]:
        return {name: "easier", f"{name}_deviation": "rarer"}

    def prepare(self) -> None:
        super().prepare()
        assert self._states is not None

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        concepts, states = Concepts.listed(batch[self.by]), self._states
        rows = np.array([states.rows.get(name, -1) for name in concepts.names], np.int64)
        documents, rows = concepts.documents[rows >= 0], rows[rows >= 0]
        mean, deviation = states.means[rows], states.deviations[rows]
        order = np.lexsort((-deviation, np.where(np.isnan(mean), -np.inf, mean), documents))
        first = order[np.r_[True, documents[order][1:] != documents[order][:-1]][: len(order)]]
        least = np.zeros(batch.num_rows, np.int64)
        least[documents[first]] = first
        is_known = np.bincount(documents, minlength=batch.num_rows) > 0
        has_failed = np.zeros(batch.num_rows, np.bool_)
        has_failed[documents[np.isnan(mean)]] = True
        listed = np.array(concepts.states, np.str_)
        state = np.select(
            [listed != "ok", ~is_known, has_failed], [listed, np.array("not_applicable"), np.array("failed")], "ok"
        )
        taken = pa.array(least, mask=state != "ok")
        chance = 1 / (2 + expm1(-np.nan_to_num(mean)))
        state_column = pa.array(state, pa.string())
        return pa.record_batch(
            {
                "score": pa.array(chance).take(taken),
                "score_deviation": pa.array(deviation).take(taken),
                "score.state": state_column,
                "score_deviation.state": state_column,
            }
        )

    @functools.cached_property
    def _states(self) -> "States":
        table = self.learner.table.drop_null()
        arrows = self.graph.table.drop_null() if self.graph is not None else None
        return States.of(table, arrows)


@dataclass(frozen=True, kw_only=True)
class States:
    """What a learner knows of each concept now: the mean and the standard deviation of its state, NaN where the table
    says what cannot be."""

    rows: Mapping[str, int]
    means: Floats
    deviations: Floats

    @classmethod
    def of(cls, learner: pa.Table, graph: pa.Table | None) -> "States":
        """By the table of a learner and the graph of prerequisites; of a concept with several rows, the last."""
        names = [folded(name) for name in learner["concept"].to_pylist()]
        rows = {name: i for i, name in enumerate(names)}
        state, elapsed, level, transfer, decay, volatility = (
            learner[name].to_numpy().astype(np.float64) for name in _LEARNER.types if name != "concept"
        )
        lift = np.zeros(len(names))
        if graph is not None:
            edges = zip(*(graph[name].to_pylist() for name in _GRAPH.types), strict=True)
            for before, after, strength in sorted(edges):
                known = folded(before), folded(after)
                if known[0] in rows and known[1] in rows and known[0] != known[1]:
                    lift[rows[known[1]]] += strength * state[rows[known[0]]]
        is_possible = (decay >= 0) & (elapsed >= 0) & (volatility >= 0)
        decay, elapsed = np.where(is_possible, decay, 0), np.where(is_possible, elapsed, 0)
        gone = -expm1(-decay * elapsed)
        mean = state * (1 - gone) + (level + transfer * lift / max(len(rows) - 1, 1)) * gone
        since = np.where(decay > 0, -expm1(-2 * decay * elapsed) / np.where(decay > 0, 2 * decay, 1), elapsed)
        deviation = np.sqrt(volatility**2 * since)
        is_possible &= np.isfinite(mean) & np.isfinite(deviation)
        return cls(
            rows=rows, means=np.where(is_possible, mean, np.nan), deviations=np.where(is_possible, deviation, np.nan)
        )
