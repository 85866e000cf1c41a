"""Rounds that turn to the clusters that are worth it, and back where the signal cannot be believed."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from conftest import write_jsonl
from runs import policy_of, write_corpus
from selector import tables
from selector.engine.local import LocalExecutor
from selector.errors import PolicyError, SelectorError
from selector.exact import keyed
from selector.manifest.describe import undone
from selector.manifest.header import Parent
from selector.pipeline import build
from selector.plugins.options import TablePath, TextsPath, columns_of
from selector.policy import Policy
from selector.select import Budget, Decisions, ScoreName, Selector, SignalName
from selector.select._reports import Reports
from selector.select._rounds import Means, Trust, exponential, head, in_proportion, logits, shrunk, softmax
from selector.select.iterative import Iterative
from selector.select.kmeans_quality import KmeansQuality
from selector.select.random import Random
from selector.steps.constraints import Bound, Limits, constrained
from selector.testing import SCORE, documents
from selector.testing._trials import attached, pool_for
from selector.testing.selectors import decide


def test_s1_weights_grow_with_the_shrunk_signal_and_forget_no_cluster() -> None:
    before, sizes = np.array([0.2, 0.3, 0.5]), np.array([50, 30, 20])
    seen = Means(means=np.array([0.4, 0.1, np.nan]), counts=np.array([10, 4, 0]))
    signal = shrunk(seen, 8)
    assert signal == pytest.approx([0.361904762, 0.242857143, 0.314285714], abs=1e-9)
    raised = exponential(before, signal, sizes, 1, 0)
    assert raised == pytest.approx([0.481654793, 0.063394141, 0.454951066], abs=1e-9)
    floored = exponential(before, signal, sizes, 1, 0.05)
    assert floored == pytest.approx([0.482572053, 0.075224434, 0.442203512], abs=1e-9)
    assert exponential(before, np.full(3, 0.3), sizes, 1, 0) == pytest.approx(before)


def test_published_weights_are_those_of_the_paper_and_of_its_code() -> None:
    equal = np.full(3, 1 / 3)
    first = in_proportion(equal, np.array([0.6, 0.3, 0.1]))
    assert first == pytest.approx([0.6, 0.3, 0.1])
    assert in_proportion(first, np.array([0.2, 0.2, 0.6])) == pytest.approx([0.5, 0.25, 0.25])
    assert in_proportion(equal, np.array([0.5, -0.3, 0.1])) == pytest.approx([0.833333, 0, 0.166667], abs=1e-6)
    for shift in (0, 5):
        weights = softmax(first, np.array([1.0, 0.0, -1.0]) + shift)
        assert weights == pytest.approx([0.665241, 0.244728, 0.090031], abs=1e-6)


def q2(signals: list[float]) -> pa.Table:
    clusters = [0] * 6 + [1] * 4 + [2] * 2
    return documents(
        [{"doc_id": keyed.digest(b"%d" % i), "cluster": c, SCORE: signals[c]} for i, c in enumerate(clusters)]
    )


@pytest.mark.parametrize(
    ("mode", "signals", "weights", "second"),
    [
        ("eq6", [0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [2, 1, 0]),
        ("eq6", [0.5, -0.3, 0.1], [0.833333, 0, 0.166667], [2, 0, 1]),
        ("softmax", [0.6, 0.3, 0.1], [0.426013, 0.315598, 0.258390], [1, 1, 1]),
    ],
)
def test_q2_rounds_are_those_of_the_worked_case(mode: Any, signals: Any, weights: Any, second: list[int]) -> None:
    selector = attached(
        Iterative(inner=Random(), rounds=2, signal=SignalName(SCORE), mode=mode, start="equal", shrink=0, floor=0)
    )
    table, budget = q2(signals), Budget(amount=6, unit="documents")
    facts = selector.select(pool_for(selector, table, 5), budget, 3).facts["rounds"]
    assert list(facts[1]["weights"].values()) == pytest.approx(weights, abs=1e-6)
    decided = decide(selector, table, 5, budget, 3)
    clusters, rounds = np.array(table["cluster"].to_pylist()), decided["round"].to_numpy()
    kept = decided["kept"].to_numpy()
    for number, expected in enumerate([[1, 1, 1], second]):
        assert np.bincount(clusters[kept & (rounds == number)], minlength=3).tolist() == expected
    if mode == "eq6" and second == [2, 1, 0]:
        assert set(decided["inclusion_probability"].to_pylist()) == {0.5}


def many(kind: str, count: int = 4000, num_clusters: int = 20) -> pa.Table:
    """Documents of many clusters, whose signal is planted by cluster, or drawn."""
    rng = np.random.default_rng(5)
    clusters = rng.integers(num_clusters, size=count)
    signal = clusters / num_clusters + rng.normal(size=count) if kind == "planted" else rng.normal(size=count)
    rows = [
        {"doc_id": keyed.digest(b"%d" % i), "cluster": int(c), SCORE: float(np.float32(s))}
        for i, (c, s) in enumerate(zip(clusters, signal, strict=True))
    ]
    return documents(rows)


def decided_by(selector: Selector, table: pa.Table, amount: int = 1500) -> tuple[pa.Table, Decisions]:
    pool = pool_for(selector, table, 1000)
    decisions = selector.select(pool, Budget(amount=amount, unit="documents"), 7)
    batches = (decisions.pool or pool).batches(*decisions.columns)
    return pa.Table.from_batches([decisions.decide(batch) for batch in batches], schema=tables.VERDICTS), decisions


def test_a_planted_signal_is_followed_and_a_random_one_is_not() -> None:
    inner = KmeansQuality(score=ScoreName(SCORE), temperature=0)
    selector = attached(Iterative(inner=Random(), signal=SignalName(SCORE)))
    table = many("planted")
    decided, decisions = decided_by(selector, table)
    rounds = decisions.facts["rounds"]
    assert [one["planned"] for one in rounds] == [500, 500, 500] and sum(one["spent"] for one in rounds) == 1500
    assert all(one["trust"]["lower"] > 0 for one in rounds[:2]) and "fallback" not in decisions.facts
    clusters = np.array(table["cluster"].to_pylist())[decided["kept"].to_numpy()]
    assert (clusters >= 10).mean() > 0.6

    drawn = many("random")
    decided, decisions = decided_by(attached(Iterative(inner=inner, signal=SignalName(SCORE))), drawn)
    assert "the rest is spent by the clusters' sizes" in decisions.facts["fallback"]
    plain = decide(inner, drawn, 1000, Budget(amount=1500, unit="documents"), 7)
    assert decided["kept"].to_pylist() == plain["kept"].to_pylist(), "it falls back to kMQ"


def test_a_probe_finds_the_clusters_that_are_like_the_target() -> None:
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(12, 4))

    rows: list[dict[str, Any]] = []
    for i in range(2400):
        vector = centres[i % 12] + 0.3 * rng.normal(size=4)
        vector = (vector / np.linalg.norm(vector)).astype(np.float16).tolist()
        rows.append({"doc_id": keyed.digest(b"%d" % i), "cluster": i % 12, "embedding": vector})
    table = documents(rows)
    wanted = [rows[i]["embedding"] for i in range(2400) if i % 12 in (0, 1)][:60]
    examples = pa.table({"text": ["x"] * 60, "embedding": pa.array(wanted, table.schema.field("embedding").type)})
    probed = attached(Iterative(inner=Random(), target=TextsPath("examples.jsonl")))
    selector = replace(probed, target=probed.target.attached(examples))
    decided, decisions = decided_by(selector, table, 600)
    assert "fallback" not in decisions.facts
    clusters = np.array(table["cluster"].to_pylist())[decided["kept"].to_numpy()]
    counts = np.bincount(clusters, minlength=12)
    assert counts[:2].min() > 1.3 * np.median(counts)


def test_a_head_has_the_same_bits_whatever_the_order_of_its_rows() -> None:
    rng = np.random.default_rng(0)
    wanted, others = (rng.normal(size=(n, 16)) for n in (300, 500))
    wanted[:, 0] += 2
    wanted, others = ((rows / np.linalg.norm(rows, axis=1)[:, None]).astype(np.float16) for rows in (wanted, others))
    weights = head(wanted, others)
    assert np.array_equal(weights, head(wanted[::-1], others[rng.permutation(500)]))
    assert logits(wanted, weights).mean() > logits(others, weights).mean() + 1


def test_trust_is_in_the_lower_end_of_an_interval() -> None:
    places = np.arange(40.0)
    assert Trust.of(places, places).is_enough and not Trust.of(places, -places).is_enough
    rng = np.random.default_rng(1)
    wrong = sum(Trust.of(rng.normal(size=40), rng.normal(size=40)).is_enough for _ in range(400))
    assert wrong <= 400 * 0.025 + 3 * (400 * 0.025) ** 0.5
    assert not Trust.of(places[:4], places[:4]).is_enough and not Trust.of(places, np.zeros(40)).is_enough


@pytest.mark.parametrize("given", [{}, {"signal": "a", "feedback": TablePath("b.jsonl")}])
def test_one_signal_is_asked_for(given: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="write one of signal, target and feedback"):
        Iterative(inner=Random(), **given)


FED = pa.schema([("doc_id", tables.DOC_ID), ("round", pa.int64()), ("score", pa.float64())])
SOURCES = ("web", "code", "math")


def fed(rows: pa.Table, **options: Any) -> Iterative:
    """A selector in three rounds, and what training has said so far."""
    return Iterative(inner=Random(), feedback=TablePath("feedback.jsonl").attached(rows), mode="softmax", **options)


def by_sources(count: int = 400) -> pa.Table:
    rng = np.random.default_rng(0)
    columns = zip(
        rng.integers(8, size=count), rng.integers(3, size=count), rng.integers(1, 30, size=count), strict=True
    )
    return documents(
        [
            {
                "doc_id": keyed.digest(b"%d" % i),
                "cluster": int(c),
                "source": SOURCES[s if i % 2 else 0],
                "num_tokens": t,
            }
            for i, (c, s, t) in enumerate(columns)
        ]
    )


def held(selector: Iterative, table: pa.Table, rows: int, budget: Budget, limits: Limits) -> tuple[pa.Table, Decisions]:
    """What is decided within limits."""
    pool = pool_for(selector, table, rows)
    decisions = constrained("iterative", selector, pool, columns_of(selector), budget, 3, limits).decisions
    assert decisions.pool is not None
    decided = [decisions.decide(batch) for batch in decisions.pool.batches(*decisions.columns)]
    return pa.Table.from_batches(decided, schema=tables.VERDICTS), decisions


def answered(feedback: pa.Table, table: pa.Table, decided: pa.Table, number: int) -> pa.Table:
    """The feedback, with a row for each document that a round took, counted from 0."""
    places = np.flatnonzero(decided["kept"].to_numpy() & (decided["round"].to_numpy() == number))
    columns = [table["doc_id"].take(pa.array(places)), np.full(len(places), number + 1), places % 7.0]
    return pa.concat_tables(
        [
            feedback,
            pa.table(
                [pa.array(column) if isinstance(column, np.ndarray) else column for column in columns], schema=FED
            ),
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("unit", "amount", "overshoot"),
    [("documents", 90, "stop"), ("tokens", 1000, "stop"), ("tokens", 1000, "fill"), ("tokens", 1000, "cross")],
)
def test_bounds_hold_for_all_rounds_so_far_and_a_later_one_changes_none_before_it(
    unit: Any, amount: int, overshoot: Any
) -> None:
    table, budget = by_sources(), Budget(amount=amount, unit=unit, overshoot=overshoot)
    is_included = np.arange(table.num_rows) < 5
    table = table.append_column("listed", pa.array(is_included))
    bounds = {"web": Bound(most=amount * 3 // 10), "code": Bound(least=amount // 2)}
    limits = Limits(by="source", bounds=bounds, visits=1, included="listed")
    costs = budget.sizes(table.combine_chunks().to_batches()[0])
    sources = np.array(table["source"].to_pylist())
    selector, before = fed(FED.empty_table()), np.zeros(table.num_rows, np.bool_)
    for number in range(3):
        decided, decisions = held(selector, table, [400, 100, 150][number], budget, limits)
        kept, rounds = decided["kept"].to_numpy(), decided["round"].to_numpy()
        assert np.array_equal(kept & (rounds < number) if number else before, before), "what was trained on stays"
        spent = {name: int(costs[kept & (sources == name)].sum()) for name in SOURCES}
        planned = costs[is_included].sum() + sum(one["planned"] for one in decisions.facts["rounds"])
        slack = costs.max() if unit == "tokens" else 1
        assert spent["web"] <= bounds["web"].most * (number + 1) / 3 + slack and spent["web"] <= bounds["web"].most
        assert spent["code"] >= min(bounds["code"].least, bounds["code"].least * (number + 1) / 3)
        assert unit == "tokens" or kept.sum() == planned == 5 + [28, 57, 85][number] + (number == 0)
        assert kept[is_included].all() and decided["inclusion_probability"].null_count == table.num_rows - 5
        assert (decisions.waiting is None) == (number == 2) and decisions.num_rounds == number + 1
        if number == 2:
            groups = decisions.facts["limits"]["shares"]["groups"]
            assert groups["web"]["spent"] == spent["web"] and "in round 3" in groups["web"]["held"]
            assert all("in round" in word for one in decisions.facts["rounds"] for word in one["held"].values())
            other, _ = held(selector, table, 60, budget, limits)
            assert all(other[name].to_pylist() == decided[name].to_pylist() for name in ("kept", "round", "reason"))
        before, selector = kept, fed(answered(selector.feedback_rows, table, decided, number))


@pytest.mark.parametrize("unit", ["documents", "tokens"])
def test_rounds_that_no_bound_holds_are_the_selectors_own(unit: Any) -> None:
    amount = 60 if unit == "documents" else 600
    table, budget = by_sources(100), Budget(amount=amount, unit=unit)
    limits = Limits(by="source", bounds={"web": Bound(most=amount - 1), "code": Bound(least=1)})
    feedback = FED.empty_table()
    for number in range(3):
        selector = fed(feedback)
        decided, decisions = held(selector, table, 50, budget, limits)
        alone = decide(selector, table, 50, budget, 3)
        assert decided.drop_columns(["reason", "arguments"]).equals(alone.drop_columns("reason"))
        assert "held" not in str(decisions.facts["rounds"])
        feedback = answered(feedback, table, decided, number)


def spent_by(feedback: pa.Table, table: pa.Table) -> tuple[pa.Table, Decisions]:
    return decided_by(fed(feedback), table, 30)


def test_rows_of_feedback_are_read_in_any_order_and_what_is_not_read_is_counted() -> None:
    table = by_sources(100)
    first, decisions = spent_by(FED.empty_table(), table)
    assert decisions.facts["feedback"] == {
        "rows": 0, "read": 0, "repeated": 0, "unknown": 0, "of_other_rounds": 0, "other_rounds": [],
    }  # fmt: skip
    rows = answered(FED.empty_table(), table, first, 0)
    others = pa.table(
        [
            pa.array([keyed.digest(b"nobody"), table["doc_id"][0].as_py(), rows["doc_id"][0].as_py(), None]),
            [1, 0, 2, 1],
            [math.nan, math.inf, 1.0, 2.0],
        ],
        schema=FED,
    )
    given = pa.concat_tables([others, rows.slice(3), rows.slice(0, 5)])
    second, decisions = spent_by(given, table)
    assert second.equals(spent_by(rows, table)[0]) and decisions.num_rounds == 2
    assert decisions.facts["feedback"] == {
        "rows": 16, "read": 10, "repeated": 2, "unknown": 3, "of_other_rounds": 1, "other_rounds": [0],
    }  # fmt: skip


def test_a_score_that_is_no_number_is_none_and_rows_that_do_not_agree_stop_the_run() -> None:
    table = by_sources(100)
    rows = answered(FED.empty_table(), table, spent_by(FED.empty_table(), table)[0], 0)
    answers = {
        score: spent_by(rows.set_column(2, FED.field("score"), pa.array([score] * 10, pa.float64())), table)[0]
        for score in (None, math.nan, math.inf, -1e300)
    }
    assert len({str(answer.to_pydict()) for answer in answers.values()}) == 1
    other = rows.slice(4, 1).set_column(2, FED.field("score"), pa.array([0.25]))
    doc_id = other["doc_id"][0].as_py().hex()
    message = (
        rf"document {doc_id} has the scores (0.25 and \S+|\S+ and 0.25) in round 1, and nobody knows .* Leave one row"
    )
    with pytest.raises(SelectorError, match=message):
        spent_by(pa.concat_tables([rows, other]), table)


def test_reports_are_what_looking_each_document_up_gives() -> None:
    rng = np.random.default_rng(2)
    numbers = rng.permutation(500)[:300]
    columns = [keyed.ids(np.stack([numbers, numbers[::-1]], axis=1).astype(np.uint64)), rng.integers(1, 4, 300)]
    rows = pa.table([columns[0], columns[1], rng.normal(size=300)], schema=FED)
    known = {row["doc_id"]: row["score"] for row in rows.to_pylist() if row["round"] == 2}
    asked = pa.record_batch([rows["doc_id"].combine_chunks()], names=["doc_id"])
    values, num_missing = Reports.of(rows, 2)(asked)
    expected = [known.get(doc_id, math.nan) for doc_id in asked["doc_id"].to_pylist()]
    assert np.array_equal(values, expected, equal_nan=True) and num_missing == 300 - len(known)
    assert Reports.of(FED.empty_table(), 1)(asked.slice(0, 2))[1] == 2


BAD_FEEDBACK: list[tuple[str, str]] = [
    ('{"doc_id": "00", "round": 1, "score": 1}', "column 'doc_id' that is not 32 hex digits: '00'"),
    ('{"doc_id": "zz112233445566778899aabbccddeeff", "round": 1, "score": 1}', "not 32 hex digits: 'zz11"),
    ('{"doc_id": 5, "round": 1, "score": 1}', "not 32 hex digits: '5'"),
    ('{"doc_id": null, "round": 1.5, "score": 1}', "'round' that is not int64"),
    ('{"doc_id": null, "round": "x", "score": 1}', "'round' that is not int64"),
    ('{"doc_id": null, "round": 1, "score": "high"}', "'score' that is not double"),
    ('{"doc_id": null, "round": 1}', "has no column 'score'"),
    ('{"document": "00", "round": 1, "score": 1}', "has no column 'doc_id'"),
    ("{", "is not JSONL"),
]


@pytest.mark.parametrize(("line", "message"), BAD_FEEDBACK)
def test_feedback_that_is_no_table_of_scores_is_refused_before_any_work(
    line: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "feedback.jsonl"
    path.write_text(line)
    using = {"iterative": {"inner": "random", "feedback": str(path)}}
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"text": "a"}])
    with pytest.raises(PolicyError, match=message):
        build(
            Policy.of({"corpus": {"paths": str(corpus)}, "select": {"budget": {"documents": 1}, "using": using}}),
            root=str(tmp_path / "root"), executor=LocalExecutor(workers=1),
        )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "order", "phases"),
    [
        ("softmax", "shuffled", ["round 1", "round 2", "round 3"]),
        (
            "exp",
            {"warmup": {"share": 0.5, "inner": "shuffled"}},
            ["round 1/warmup", "round 1", "round 2/warmup", "round 2"],
        ),
    ],
)
def test_a_run_waits_for_feedback_and_the_same_command_goes_on(
    mode: str, order: Any, phases: list[str], tmp_path: Path, tiny_model: Path
) -> None:
    (tmp_path / "corpus").mkdir()
    write_corpus(tmp_path / "corpus")
    path = tmp_path / "feedback.jsonl"
    using = {"iterative": {"inner": "random", "rounds": 3, "feedback": str(path), "mode": mode}}
    policy = policy_of(
        tmp_path / "corpus", tiny_model, rate=[], manifest={}, order={"using": order},
        select={"budget": {"documents": 30}, "using": using, "visits": {"most": 2}},
    )  # fmt: skip

    def go(root: str = "root") -> Any:
        return build(Policy.of(policy), root=str(tmp_path / root), executor=LocalExecutor(workers=1)).manifest

    def order_of(manifest: Any, count: int) -> list[dict[str, Any]]:
        return manifest.rows(0, count).select(["doc_id", "visit", "phase", "loss_weight"]).to_pylist()

    rows: list[dict[str, Any]] = []
    made: list[Any] = []
    chosen: list[set[bytes]] = []
    for number in (1, 2, 3):
        manifest = go()
        if made:
            before = len(made[-1])
            assert order_of(manifest, before) == order_of(made[-1], before), "it begins like the one before"
            assert manifest.header.parent == Parent(digest=made[-1].digest, position=before)
        else:
            assert manifest.header.parent is None
        made.append(manifest)
        chosen.append(set(manifest.rows(0, len(manifest))["doc_id"].to_pylist()))
        facts = manifest.info["facts"]["select"]
        if "fallback" in facts or number == 3:
            break
        assert len(manifest) == 10 * number
        assert facts["waiting"] == f"round {number + 1} needs feedback on 10 documents of round {number}"
        assert facts["shortfall"]["reason"] == "later rounds spend it"
        assert any(line.startswith("waiting: ") for line in undone(manifest.header))
        new = sorted(chosen[-1] - set().union(*chosen[:-1]))
        rows += [{"doc_id": doc_id.hex(), "round": number, "score": float(i) or 1e308} for i, doc_id in enumerate(new)]
        write_jsonl(path, rows[:-1])
        assert go().info["facts"]["select"]["waiting"].endswith("(9 are there)")
        write_jsonl(path, rows)
    assert len(chosen[-1]) == 30 and all(one < other for one, other in itertools.pairwise(chosen))
    assert "waiting" not in facts and manifest.verify().ok
    assert [phase.name for phase in manifest.header.phases] == phases
    assert go().digest == manifest.digest
    alone = go("another root, where no round was waited for").header
    assert alone.order_digest == manifest.header.order_digest and alone.parent is None
