"""The orders that weigh visits: their worked cases, and what each of them claims."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from selector import plugins
from selector.errors import PolicyError
from selector.exact import keyed
from selector.order import Order, Pool, ScoreName, TablePath
from selector.order._weighted import Reported, Weighted, ensembled
from selector.order.by_score import ByScore
from selector.order.early_learning_weights import EarlyLearningWeights, gradient, memorised_late
from selector.order.improvement_weights import ImprovementWeights
from selector.order.rank_weights import RankWeights, density_below
from selector.order.score_weights import ScoreWeights
from selector.order.shuffled import Shuffled
from selector.testing import SCORE, documents
from selector.testing._awkward import Repeating
from selector.testing._trials import pool_for
from selector.testing.orders import with_visits

NAME = ScoreName(SCORE)
RUN = pa.schema(
    [("query", pa.string()), ("document", pa.binary(16)), ("score", pa.float64()), ("relevant", pa.bool_())]
)
REPORTED = pa.schema([("document", pa.binary(16)), ("epoch", pa.int64()), ("loss", pa.float64())])


def doc(number: int) -> bytes:
    return number.to_bytes(16)


def run_of(*rows: tuple[str, int, float | None, bool | None]) -> TablePath:
    """A ranking: query, document, score, and whether it is relevant."""
    columns = [
        [query for query, *_ in rows],
        [doc(row[1]) for row in rows],
        *([row[i] for row in rows] for i in (2, 3)),
    ]
    return TablePath("run.jsonl").attached(pa.table(columns, schema=RUN))


def reported_of(*curves: list[float], first_epoch: int = 0) -> TablePath:
    """What an earlier training said: of document 0 its probabilities epoch by epoch, of document 1, and so on."""
    rows = [
        {"document": doc(number), "epoch": epoch, "loss": -float(np.log(p))}
        for number, curve in enumerate(curves)
        for epoch, p in enumerate(curve, first_epoch)
    ]
    return TablePath("reported.jsonl").attached(pa.Table.from_pylist(rows[::-1], schema=REPORTED))


def weights(order: Weighted, num_documents: int, times: int = 1) -> dict[int, list[float]]:
    """By document the weights of its visits, first to last."""
    table = with_visits(documents([{SCORE: float(i)} for i in range(num_documents)]), [times])
    visits = order.arrange(pool_for(order, table, 3), 7).visits.to_pylist()
    by_document: dict[int, list[float]] = {}
    for visit in visits:
        by_document.setdefault(visit["document"] // times, []).append(visit["loss_weight"])
    return by_document


# ---------------------------------------------------------------- rank_weights

FIVE = [("q", 10 + rank, 1.0 - rank / 10, None) for rank in range(1, 6)]


def ranking(*judged: tuple[int, bool]) -> TablePath:
    """A run of five ranks, of which some are judged: the document of a rank is the rank."""
    verdicts = dict(judged)
    return run_of(*[("q", rank if rank in verdicts else doc_, score, verdicts.get(rank))
                    for rank, (_, doc_, score, _) in enumerate(FIVE, 1)])  # fmt: skip


@pytest.mark.parametrize(
    ("rank", "is_relevant", "expected"),
    [(2, True, [0.5, 0.625, 0.75, 0.975, 1]), (2, False, [0.5, 0.625, 0.75, 0.975, 1]),
     (4, False, [0.75, 0.8125, 0.875, 0.9875, 1])],
)  # fmt: skip
def test_o10_pointwise_weights_are_released_over_the_epochs(
    rank: int, is_relevant: bool, expected: list[float]
) -> None:
    order = RankWeights(inner=Shuffled(), run=ranking((rank, is_relevant)), normalised=False)
    weighed = weights(order, 5, 22)[rank]
    assert [weighed[epoch] for epoch in (0, 5, 10, 19, 20)] == pytest.approx(expected)
    anti = RankWeights(
        inner=Shuffled(), run=ranking((rank, is_relevant)), normalised=False, direction="anti_curriculum"
    )
    assert weights(anti, 5, 1)[rank] == pytest.approx([1 - expected[0]])


def test_11_5_pairwise_ease_is_that_of_the_nearest_negative() -> None:
    for negatives in ([(5, False)], [(5, False), (4, True)]):
        run = ranking((2, True), *negatives)
        order = RankWeights(inner=Shuffled(), run=run, compared="pairwise", normalised=False)
        weighed = weights(order, 6, 21)
        assert [weighed[2][epoch] for epoch in (0, 5, 10, 20)] == pytest.approx([0.65, 0.7375, 0.825, 1])
    run = ranking((2, True), (5, False), (3, False))
    order = RankWeights(inner=Shuffled(), run=run, compared="pairwise", normalised=False)
    assert weights(order, 6)[2] == pytest.approx([(1 / 2 - 1 / 3 + 1) / 2])
    alone = RankWeights(inner=Shuffled(), run=ranking((2, True)), compared="pairwise", normalised=False)
    assert weights(alone, 6)[2] == [1], "without a negative nothing is compared"


def test_o10_a_document_that_the_ranker_missed_has_rank_1000() -> None:
    run = run_of(("q", 0, 3.0, None), ("q", 1, None, True))
    assert weights(RankWeights(inner=Shuffled(), run=run, normalised=False), 2)[1] == pytest.approx([0.001])


def test_o10_normalised_scores_and_the_share_of_the_density() -> None:
    run = run_of(("q", 5, 2.0, None), ("q", 0, 4.0, True), ("q", 6, 10.0, None))
    order = RankWeights(inner=Shuffled(), run=run, by="norm_score", normalised=False)
    assert weights(order, 1)[0] == pytest.approx([0.25])
    run = run_of(("q", 5, 1.0, None), ("q", 0, 2.0, True), ("q", 6, 4.0, None))
    order = RankWeights(inner=Shuffled(), run=run, by="kde", normalised=False)
    assert weights(order, 1)[0] == pytest.approx([0.448017918], abs=5e-8)
    assert density_below(np.array([1.0, 2.0, 4.0]), np.array([2.0]))[0] == pytest.approx(0.448017918, abs=1e-9)


@pytest.mark.slow
def test_the_density_below_a_score_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    chance = np.random.default_rng(1)
    for n in (2, 3, 50):
        scores, values = chance.normal(size=n) * 3, chance.normal(size=20) * 9
        expected = [stats.gaussian_kde(scores).integrate_box_1d(-np.inf, value) for value in values]
        assert np.allclose(density_below(scores, values), expected, rtol=0, atol=1e-12)
    assert density_below(np.array([3.0]), np.array([2.0, 3.0, 4.0])).tolist() == pytest.approx([0, 0.5, 1])


def test_each_query_is_a_ranking_of_its_own_and_a_document_of_two_has_the_least_ease() -> None:
    run = run_of(
        ("a", 0, 1.0, True), ("a", 9, 2.0, None), ("b", 0, 1.0, True), ("b", 1, 0.5, True), ("b", 2, 0.1, None)
    )
    weighed = weights(RankWeights(inner=Shuffled(), run=run, normalised=False), 3)
    assert (weighed[0], weighed[1]) == ([0.5], [0.5])
    assert weighed[2] == [0.5], "a document that is not judged weighs what the others do"


# ---------------------------------------------------------------- score_weights


def test_hard_documents_weigh_nothing_in_the_first_epoch_and_all_in_the_last() -> None:
    order = ScoreWeights(inner=Shuffled(), score=NAME, epochs=2, normalised=False)
    assert weights(order, 5, 3) == {i: pytest.approx([1 - i / 4, 1 - i / 8, 1]) for i in range(5)}
    order = ScoreWeights(inner=Shuffled(), score=NAME, direction="anti_curriculum", normalised=False)
    assert weights(order, 5) == {i: pytest.approx([i / 4]) for i in range(5)}


# ---------------------------------------------------------------- improvement_weights


def test_o11_documents_that_improved_most_weigh_least() -> None:
    pairs = zip([0.9, 0.5, 0.2, 0.5], [0.8, 0.5, 0.1, 0.3], strict=True)
    table = reported_of(*([q, p] for p, q in pairs), first_epoch=4)
    order = ImprovementWeights(inner=Shuffled(), reported=table, normalised=False)
    weighed = weights(order, 4, 6)
    assert [weighed[i][5] for i in range(4)] == pytest.approx([0.2, 0.6, 0.55, 0.44])
    assert [weighed[i][0] for i in range(4)] == [1] * 4


@pytest.mark.parametrize(
    ("before", "now", "expected"), [(0.5, 1.0, 0), (1.0, 1.0, 0.2), (0.1, 0.99, 0), (0.9, 0.1, 0.9111111)]
)
def test_certain_documents_and_those_that_got_worse_have_weights_too(
    before: float, now: float, expected: float
) -> None:
    order = ImprovementWeights(inner=Shuffled(), reported=reported_of([before, now]), epochs=1, normalised=False)
    assert weights(order, 1, 2)[0] == pytest.approx([1, expected])


def test_later_visits_than_were_reported_count_as_the_last() -> None:
    order = ImprovementWeights(inner=Shuffled(), reported=reported_of([0.3, 0.5]), epochs=2, normalised=False)
    assert weights(order, 1, 5)[0] == pytest.approx([1, 1 - 0.4 * 0.7 / 0.5, 0, 0, 0])


# ---------------------------------------------------------------- early_learning_weights


def test_o12_probabilities_are_ensembled_over_time() -> None:
    reported = Reported.of(reported_of([0.9], [0.2, 0.5, 0.8]).table, "tried")
    by_id = {doc_id: i for i, doc_id in enumerate(reported.documents.to_pylist())}
    rows = reported.document == by_id[doc(1)]
    assert ensembled(reported, 0.7)[rows] == pytest.approx([0.2, 0.376470588, 0.569863014])
    late = memorised_late(reported, ensembled(reported, 0.7), 2)
    assert late[by_id[doc(1)]] == pytest.approx(0.8 - 0.376470588)
    assert late[by_id[doc(0)]] == pytest.approx(0)


def test_what_is_memorised_late_weighs_less() -> None:
    table = reported_of([0.2, 0.5, 0.8], [0.8, 0.8, 0.8], [0.8, 0.5, 0.2])
    order = EarlyLearningWeights(inner=Shuffled(), reported=table, early=2, normalised=False)
    late = 0.8 - 0.376470588
    assert weights(order, 3, 2) == {0: pytest.approx([1 - late] * 2), 1: [1, 1], 2: [1, 1]}
    harder = EarlyLearningWeights(inner=Shuffled(), reported=table, early=2, strength=3, normalised=False)
    assert weights(harder, 3)[0] == [0], "weights are at least 0"


def test_o12b_the_gradient_of_the_regulariser() -> None:
    p, t = np.array([[0.7, 0.2, 0.1]]), np.array([[0.1, 0.8, 0.1]])
    assert gradient(p, t)[0] == pytest.approx([0.128947368, -0.147368421, 0.018421053])

    def value(logits: Any) -> float:
        exps = np.exp(logits)
        return float(np.log(1 - (exps / exps.sum()) @ t[0]))

    logits, step = np.log(p[0]), 1e-6
    assert value(logits) == pytest.approx(-0.274436846)
    differences = [(value(logits + step * unit) - value(logits - step * unit)) / (2 * step) for unit in np.eye(3)]
    assert gradient(p, t)[0] == pytest.approx(differences, abs=1e-8)


def test_the_regulariser_takes_from_what_is_learned_against_its_beginning() -> None:
    table = reported_of([0.2, 0.5], [0.8, 0.9])
    order = EarlyLearningWeights(inner=Shuffled(), reported=table, by="regularised", momentum=0.5, normalised=False)
    weighed = weights(order, 2, 3)
    p, t = 0.5, 0.4  # (0.25 * 0.2 + 0.5 * 0.5) / 0.75
    second = 1 - p * (1 - 2 * t) / (p + t - 2 * p * t)
    assert weighed[0] == pytest.approx([1 - 0.2 * 0.6 / 0.32, second, second])
    assert weighed[1] == [1, 1, 1], "what was learned first keeps its weight"


# ---------------------------------------------------------------- all of them

ORDERS: dict[str, Weighted] = {
    "rank": RankWeights(inner=Shuffled(), run=ranking((2, True), (4, False), (3, True))),
    "score": ScoreWeights(inner=Shuffled(), score=NAME, epochs=3),
    "improvement": ImprovementWeights(inner=Shuffled(), reported=reported_of([0.1, 0.7], [0.4, 0.2])),
    "early": EarlyLearningWeights(inner=Shuffled(), reported=reported_of([0.1, 0.3, 0.9], [0.6, 0.6, 0.7]), early=1),
}


@pytest.mark.parametrize("case", ORDERS)
def test_the_weights_of_all_visits_are_1_on_average_and_no_visit_moves(case: str) -> None:
    order, table = ORDERS[case], with_visits(documents([{SCORE: float(i % 4)} for i in range(6)]), [3, 1, 2])
    pool = pool_for(order, table, 2)
    plain, answer = Shuffled().arrange(pool, 7), order.arrange(pool, 7)
    assert plain.visits.drop_columns("loss_weight").equals(answer.visits.drop_columns("loss_weight"))
    weighed = answer.visits["loss_weight"].to_numpy()
    assert weighed.mean() == pytest.approx(1, abs=1e-6) and len(set(weighed.tolist())) > 1
    (facts,) = answer.facts.values()
    assert facts["least"] == pytest.approx(weighed.min()) and facts["greatest"] == pytest.approx(weighed.max())


def test_weights_in_weights_are_multiplied() -> None:
    once = ScoreWeights(inner=ByScore(score=NAME), score=NAME, normalised=False)
    twice = ScoreWeights(inner=once, score=NAME, normalised=False)
    assert weights(twice, 5) == {i: pytest.approx([(1 - i / 4) ** 2]) for i in range(5)}


def test_what_is_not_known_weighs_what_the_others_do_and_is_counted() -> None:
    order = ImprovementWeights(inner=Repeating(), reported=reported_of([0.1, 0.2]))
    table = documents([{"doc_id": keyed.digest(b"%d" % i)} for i in range(30)])
    visits = order.arrange(pool_for(order, with_visits(table, [1]), 9), 7)
    assert set(visits.visits["loss_weight"].to_pylist()) == {1}
    again = np.count_nonzero(visits.visits["visit"].to_numpy())
    assert visits.facts["improvement_weights"]["unknown"] == again > 0


def test_no_visits_have_no_weights() -> None:
    for order in ORDERS.values():
        assert order.arrange(pool_for(order, with_visits(documents([]), [1]), 9), 7).visits.num_rows == 0


TABLE = [(0, 0, 0.5), (0, 1, None), (1, 0, float("nan")), (1, 1, 0.25)]


def test_rows_without_a_value_are_not_there() -> None:
    rows = [{"document": doc(number), "epoch": epoch, "loss": loss} for number, epoch, loss in TABLE]
    reported = Reported.of(pa.Table.from_pylist(rows, schema=REPORTED), "tried")
    assert reported.epoch.tolist() == [0, 1] and len(reported.documents) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, 0, -0.1)], r"tried\.reported has a loss below 0.*document 0{32}"),
        ([(0, -1, 0.1)], r"tried\.reported has an epoch that is not from 0 to 65,535"),
        ([(0, 1, 0.1), (0, 1, 0.2)], r"tried\.reported has two rows for one document and epoch"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(rows: list[tuple[int, int, float]], message: str) -> None:
    listed = [{"document": doc(number), "epoch": epoch, "loss": loss} for number, epoch, loss in rows]
    with pytest.raises(PolicyError, match=message):
        Reported.of(pa.Table.from_pylist(listed, schema=REPORTED), "tried")


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("score_weights", {"score": SCORE, "epochs": 0}, r"score_weights\.epochs=0 is no number of epochs"),
    ("rank_weights", {"run": "run.jsonl", "epochs": 0}, r"rank_weights\.epochs=0 is no number of epochs"),
    ("improvement_weights", {"reported": "a.jsonl", "strength": 2}, r"improvement_weights\.strength=2\.0 is no share"),
    ("early_learning_weights", {"reported": "a.jsonl", "momentum": 1}, r"early_learning_weights\.momentum=1\.0 is no"),
    (
        "early_learning_weights",
        {"reported": "a.jsonl", "strength": -1},
        r"early_learning_weights\.strength=-1\.0 is no",
    ),
    ("early_learning_weights", {"reported": "a.jsonl", "early": 0}, r"early_learning_weights\.early=0 is no number"),
    ("apart", {"gap": 0}, r"apart\.gap=0 is no number of places"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        plugins.make("orders", name, {"inner": "shuffled", **options}, "order.using", Order)


def test_a_score_that_is_infinite_is_refused() -> None:
    order = RankWeights(inner=Shuffled(), run=run_of(("q", 0, float("inf"), True)))
    with pytest.raises(PolicyError, match=r"rank_weights\.run has a score that is infinite"):
        order.arrange(Pool.of(documents([{}])), 7)


def test_a_table_without_rows_says_nothing() -> None:
    table = with_visits(documents([{SCORE: float(i)} for i in range(5)]), [2])
    for by in ("recip_rank", "kde"):
        for compared in ("pointwise", "pairwise"):
            order = RankWeights(inner=Shuffled(), run=run_of(), by=by, compared=compared)
            assert set(order.arrange(pool_for(order, table, 2), 7).visits["loss_weight"].to_pylist()) == {1}
    for order in (
        ImprovementWeights(inner=Shuffled(), reported=reported_of()),
        EarlyLearningWeights(inner=Shuffled(), reported=reported_of(), by="regularised"),
        EarlyLearningWeights(inner=Shuffled(), reported=reported_of()),
    ):
        assert set(order.arrange(pool_for(order, table, 2), 7).visits["loss_weight"].to_pylist()) == {1}
