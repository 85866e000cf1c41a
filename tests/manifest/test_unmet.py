"""What an order could not do as it was asked is said: the facts that say it, and the lines that a person reads."""

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from selector.exact.rates import Schedule, Training
from selector.manifest.unmet import left, unmet
from selector.order import Order, ScoreName, TablePath
from selector.order.apart import Apart
from selector.order.by_score import ByScore
from selector.order.fixed import Fixed, Metric
from selector.order.least_share import LeastShare
from selector.order.mixed import Mixed
from selector.order.phases import Phase, Phases
from selector.order.prerequisites import Prerequisites
from selector.order.rounds import Rounds
from selector.order.score_weights import ScoreWeights
from selector.order.spread import Spread
from selector.order.where_it_counts import WhereItCounts
from selector.testing import SCORE, documents
from selector.testing._trials import pool_for
from selector.testing.orders import with_visits

NAME = ScoreName(SCORE)
SORTED = ByScore(score=NAME)
GRAPH = TablePath("graph.jsonl").attached(
    pa.table({"before": ["web", "code", "math"], "after": ["code", "web", "code"]})
)
TRAINED = Training(global_batch_size=8, schedule=Schedule(peak=0.5, decay="linear", weight_decay=0.1))
BEYOND = "49 visits are beyond the cap of spread, at most 1 of one source in 4 visits: no order keeps to it"
CASES: list[tuple[Order, list[str]]] = [
    (Spread(inner=SORTED, window=4, most=1),
     [f"order: {BEYOND}"]),
    (Apart(inner=SORTED, gap=500),
     ["order: a gap of 500 is not possible everywhere: some visits of a document lie 60 apart"]),
    (LeastShare(inner=SORTED, shares={"code": 0.5}),
     ["order: 10 visits are missing of code for its least share"]),
    (Mixed(weights={"web": 2, "code": 2, "cod": 1}),
     ["order: mixed.weights: no chosen document has the source cod. Did you mean 'code'?",
      "order: the weights of mixed hold for 40 visits: after them there is no more of code"]),
    (Mixed(weights={"web": 2, "code": 1}), []),
    (Mixed(weights={"web": 0, "code": 1, "zzzz": 4}),
     ["order: mixed.weights: no chosen document has the source zzzz"]),
    (Rounds(score=NAME, hard=0.9),
     ["order: 23 visits are of the other side than asked for: one of both has no more documents"]),
    (Rounds(score=NAME), []),
    (Fixed(metrics=(Metric(score=NAME, difficulty="value", least=-5, greatest=100, full=1.0),), steps=20),
     ["order: 1 step draws from all documents, as none is within every limit of fixed"]),
    (ScoreWeights(inner=SORTED, score=NAME),
     ["order: 3 visits are of documents that score_weights knows nothing of: "
      "they weigh what the others do on average"]),
    (WhereItCounts(inner=SORTED, score=NAME, share=0.97),
     ["order: the best part lacks 1 visit of those that where_it_counts asks for: no more have a score"]),
    (Prerequisites(score=NAME, graph=GRAPH),
     ["order: code, web build on each other in a circle, and come together"]),
    (Phases(phases=(Phase(tokens=10_000), Phase(name="rest"))),
     ["order: phase 1 asks for 9,460 tokens more than its groups have left"]),
    (Phases(phases=(Phase(name="first", tokens=3, inner=SORTED), Phase(inner=Spread(inner=SORTED, window=4, most=1)))),
     ["order: the phase first has 3 tokens less than it asks for: its next documents have more",
      f"order, phase 2: {BEYOND}"]),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(CASES)))
def test_what_an_order_cannot_do_as_it_is_asked_is_said(case: int) -> None:
    order, lines = CASES[case]
    rows: list[dict[str, Any]] = [
        {"source": ["web", "code", "web"][i % 3], SCORE: float(i % 17) if i % 20 else None, "num_tokens": 9}
        for i in range(60)
    ]
    pool = pool_for(order, with_visits(documents(rows), [1, 2, 1] if isinstance(order, Apart) else [1]), 16)
    facts = order.arrange(replace(pool, training=TRAINED), 7).facts
    assert list(unmet(facts)) == lines


def test_what_rounds_that_are_arranged_by_themselves_cannot_do_is_said_of_each() -> None:
    line = "1 visit is missing of code for its least share"
    facts = {"round 2": {"least_share": {"missing": {"code": 1}, "late": 0, "unmet": [line]}}}
    assert list(unmet(facts)) == ["order, round 2: 1 visit is missing of code for its least share"]


@pytest.mark.parametrize(
    ("count", "line"),
    [
        (1, "order: 1 visit is not made: no phase visits it"),
        (12, "order: 12 visits are not made: no phase visits them"),
    ],
)
def test_visits_that_are_not_made_are_said_in_sentences(count: int, line: str) -> None:
    assert left("no phase visits it", count) == line
