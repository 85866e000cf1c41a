"""The worked cases of the published methods: computed independently of this code, and copied here by their ids."""

import numpy as np
import pyarrow as pa
import pytest

from laws import SCORE, decide, documents
from selector import exact
from selector.exact import inclusion, keyed
from selector.exact.apportion import apportion
from selector.exact.draws import Lottery
from selector.exact.spend import Budget, Overshoot
from selector.order import Order
from selector.order.by_score import ByScore
from selector.order.interleaved import Interleaved
from selector.plugins.options import Score
from selector.plugins.pool import Pool
from selector.select.kmeans_quality import KmeansQuality
from selector.select.top import Top

# ---------------------------------------------------------------- A, C9, G1, Q1: integer allocation

APPORTIONED: dict[str, tuple[int, list[float], list[int] | None, list[int]]] = {
    "A1": (10, [50, 30, 20], None, [5, 3, 2]),
    "A2": (5, [5, 3, 3], None, [2, 2, 1]),
    "A3": (10, [7, 7, 7], None, [4, 3, 3]),
    "A4": (100, [0.7, 0.2, 0.1], [30, 40, 60], [30, 40, 30]),
    "A5": (9800, [1, 1, 1], None, [3267, 3267, 3266]),  # 5 % of 196,000 over 3 rounds; published code draws 6
    "C9": (100, [333, 333, 334], None, [33, 33, 34]),
    "G1": (100, [50, 30], None, [63, 37]),
    "Q1": (10_000, [1, 1, 1], None, [3334, 3333, 3333]),
}


@pytest.mark.parametrize("case", APPORTIONED)
def test_shares_are_those_of_the_worked_case(case: str) -> None:
    total, weights, capacities, expected = APPORTIONED[case]
    assert apportion(total, weights, capacities).tolist() == expected


def test_a6_equal_clusters_lose_nothing() -> None:
    shares = apportion(9800, [1] * 512)
    assert shares.sum() == 9800 and set(shares.tolist()) == {19, 20}


def test_a7_fewer_documents_than_clusters_are_all_spent() -> None:
    assert apportion(1000, [1] * 1024).tolist() == [1] * 1000 + [0] * 24


# ---------------------------------------------------------------- C, Q16: draws and budgets


@pytest.mark.parametrize(("overshoot", "expected"), [("cross", [0, 1]), ("stop", [0]), ("fill", [0, 2, 4])])
def test_q16_and_c8_tokens_in_rank_order(overshoot: Overshoot, expected: list[int]) -> None:
    rows = [{SCORE: -float(i), "num_tokens": tokens} for i, tokens in enumerate([100, 300, 200, 400, 50])]
    decided = decide(
        Top(score=Score(SCORE)), documents(rows), 2, Budget(amount=350, unit="tokens", overshoot=overshoot), 0
    )
    assert np.flatnonzero(decided["kept"].to_numpy()).tolist() == expected


def lottery(scores: list[float], temperature: float) -> tuple[Lottery, pa.RecordBatch]:
    pool = Pool.of(documents([{SCORE: score} for score in scores]))
    (batch,) = pool.batches("doc_id", SCORE)
    return Lottery.of(pool, score=SCORE, temperature=temperature, seed=0, purpose="test"), batch


def test_c6_scores_are_standardised_with_ddof_0() -> None:
    draw, batch = lottery([1, 2, 3, 4, 10], 1.0)
    np.testing.assert_allclose(
        draw.values(batch), [-0.948683298, -0.632455532, -0.316227766, 0, 1.897366596], atol=1e-9
    )


def test_c7_noise_is_gumbel_and_scores_are_divided_by_the_temperature() -> None:
    draw, batch = lottery([1, 2, 3, 4, 10], 2.0)
    noise = np.array([0.756581053, -1.10198042, -0.275163309, 0.091082321, 1.774165924])
    assert np.argsort(-(draw.values(batch) + noise)).tolist() == [4, 0, 3, 2, 1]
    uniform = keyed.uniforms(batch["doc_id"], 0, "test")
    expected = np.argsort(-(draw.values(batch) - np.log(-np.log(uniform))))
    assert exact.argsort(draw.keys(batch), keyed.words(batch["doc_id"])).tolist() == expected.tolist()


def test_c10_without_noise_quality_alone_decides() -> None:
    table = documents([{SCORE: score} for score in (1.0, 2.0, 3.0, 4.0, 10.0)])
    plain = KmeansQuality(score=Score(SCORE), temperature=0)
    for count in range(6):
        budget = Budget(amount=count, unit="documents")
        assert decide(plain, table, 5, budget, 0)["kept"].equals(
            decide(Top(score=Score(SCORE)), table, 5, budget, 0)["kept"]
        )


C5 = {  # exact inclusion probabilities of Plackett-Luce draws with weights 4, 3, 2, 1: (number drawn, temperature)
    (2, 1): [0.715873016, 0.608333333, 0.441269841, 0.23452381],
    (2, 2): [0.613561171, 0.556716845, 0.476076151, 0.353645833],
    (3, 1): [0.922222222, 0.870238095, 0.758730159, 0.448809524],
}
WEIGHTS = np.log([4.0, 3.0, 2.0, 1.0])


@pytest.mark.parametrize(("drawn", "temperature"), C5)
def test_c5_kmeans_quality_draws_with_the_exact_probabilities(drawn: int, temperature: int) -> None:
    trials = 20_000  # as many clusters of four documents; Q8 says how far from C5 chance may lead
    rows = {
        "doc_id": pa.array([keyed.digest(b"%d" % i) for i in range(4 * trials)], pa.binary(16)),
        "num_tokens": np.full(4 * trials, 10, np.uint32),
        "cluster": np.repeat(np.arange(trials, dtype=np.int32), 4),
        SCORE: np.tile(WEIGHTS.astype(np.float32), trials),
    }
    selector = KmeansQuality(score=Score(SCORE), temperature=temperature / WEIGHTS.std())
    decided = decide(selector, pa.table(rows), 65_536, Budget(amount=drawn * trials, unit="documents"), 7)
    found = decided["kept"].to_numpy().reshape(trials, 4).mean(axis=0)
    expected = np.array(C5[drawn, temperature])
    q8 = 4 * np.sqrt(expected * (1 - expected) / trials)
    if (drawn, temperature) == (2, 1):
        np.testing.assert_allclose(q8, [0.012756139, 0.013806198, 0.014044238, 0.011984069], atol=1e-9)
    assert (np.abs(found - expected) < q8).all()


@pytest.mark.parametrize(("drawn", "temperature", "within"), [(2, 1, 0.025), (2, 2, 0.016), (3, 1, 0.033)])
def test_c5_rosens_approximation_is_as_near_as_its_docstring_says(drawn: int, temperature: int, within: float) -> None:
    group, ones = np.zeros(4, np.int64), np.ones(4, np.int64)
    draws = [(group, WEIGHTS / temperature, ones)]
    log_time = inclusion.solve(lambda: iter(draws), np.array([drawn]), np.array([4]))
    probability = inclusion.probability(log_time, group, WEIGHTS / temperature)
    error = np.abs(probability - C5[drawn, temperature]).max()
    assert within - 0.001 < error < within


# ---------------------------------------------------------------- O7 and section 11.1: orders

DOCS = {  # topic, difficulty, quality
    "d00": ("math", 0.90, 0.95), "d01": ("code", 0.10, 0.40), "d02": ("web", 0.35, 0.30), "d03": ("math", 0.20, 0.70),
    "d04": ("web", 0.05, 0.10), "d05": ("code", 0.60, 0.80), "d06": ("web", 0.75, 0.55), "d07": ("math", 0.50, 0.60),
    "d08": ("code", 0.35, 0.50), "d09": ("web", 0.55, 0.20), "d10": ("math", 0.30, 0.90), "d11": ("code", 0.80, 0.85),
}  # fmt: skip
DIFFICULTY, QUALITY = Score("difficulty"), Score("quality")
ORDERS = {
    "curriculum": (ByScore(score=DIFFICULTY), "04 01 03 10 02 08 07 09 05 06 11 00"),
    "anti": (ByScore(score=DIFFICULTY, direction="anti_curriculum"), "00 11 06 05 09 07 02 08 10 03 01 04"),
    "quality ascending": (ByScore(score=QUALITY), "04 09 02 01 08 06 07 03 05 11 10 00"),
    "blocked curriculum": (Interleaved(rounds=1, score=DIFFICULTY), "01 08 05 11 03 10 07 00 04 02 09 06"),
    "interleaved curriculum": (Interleaved(rounds=3, score=DIFFICULTY), "01 08 03 10 04 02 05 07 09 11 00 06"),
}


@pytest.mark.parametrize("case", ORDERS)
def test_11_1_orders_are_those_of_the_worked_case(case: str) -> None:
    order, expected = ORDERS[case]
    names = sorted(DOCS, key=lambda name: keyed.digest(name.encode()))  # any order but that of the names
    pool = Pool.of(
        pa.table(
            [
                pa.array([name.encode().ljust(16, b"\0") for name in names], pa.binary(16)),
                pa.array([DOCS[name][0] for name in names]).dictionary_encode(),
                pa.array([DOCS[name][1] for name in names], pa.float32()),
                pa.array([DOCS[name][2] for name in names], pa.float32()),
            ],
            schema=pa.schema(
                [
                    ("doc_id", pa.binary(16)),
                    ("source", pa.dictionary(pa.int32(), pa.string())),
                    pa.field("difficulty", pa.float32(), metadata={"higher_is": "harder"}),
                    pa.field("quality", pa.float32(), metadata={"higher_is": "better"}),
                ]
            ),
        ),
        batch_rows=5,
    )
    assert arranged(order, pool, names) == expected


def arranged(order: Order, pool: Pool, names: list[str]) -> str:
    return " ".join(names[i].removeprefix("d") for i in order.arrange(pool, 7).visits["document"].to_pylist())


def test_o7_ties_are_in_the_order_of_their_ids() -> None:
    rows = [("a0", 0.5), ("b", 0.5), ("z", 0.1), ("a", 0.5)]
    table = documents([{"doc_id": name.encode().ljust(16, b"\0"), SCORE: score} for name, score in rows])
    order = ByScore(score=Score(SCORE)).arrange(Pool.of(table), 0).visits["document"].to_pylist()
    assert [rows[i][0] for i in order] == ["z", "a", "a0", "b"]
