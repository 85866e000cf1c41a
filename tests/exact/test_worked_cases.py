"""The worked cases of the published methods: computed independently of this code, and copied here by their ids."""

import numpy as np
import pyarrow as pa
import pytest

from selector import exact
from selector.exact import inclusion, keyed
from selector.exact.apportion import apportion
from selector.exact.draws import Lottery, Moments
from selector.exact.spend import Budget, Overshoot
from selector.select import ScoreName
from selector.select.kmeans_quality import KmeansQuality
from selector.select.top import Top
from selector.testing._trials import SCORE, documents
from selector.testing.selectors import decide

pytestmark = pytest.mark.slow

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
        Top(score=ScoreName(SCORE)), documents(rows), 2, Budget(amount=350, unit="tokens", overshoot=overshoot), 0
    )
    assert np.flatnonzero(decided["kept"].to_numpy()).tolist() == expected


SCORES = np.array([1.0, 2.0, 3.0, 4.0, 10.0])


def test_c6_scores_are_standardised_with_ddof_0() -> None:
    standardised = Lottery.of(Moments.of(SCORES), 1.0).standardised(SCORES)
    np.testing.assert_allclose(standardised, [-0.948683298, -0.632455532, -0.316227766, 0, 1.897366596], atol=1e-9)


def test_c7_noise_is_gumbel_and_scores_are_divided_by_the_temperature() -> None:
    draw = Lottery.of(Moments.of(SCORES), 2.0)
    noise = np.array([0.756581053, -1.10198042, -0.275163309, 0.091082321, 1.774165924])
    assert np.argsort(-(draw.standardised(SCORES) + noise)).tolist() == [4, 0, 3, 2, 1]
    ids = documents([{SCORE: score} for score in SCORES.tolist()])["doc_id"]
    uniform = keyed.uniforms(ids, 0, "test")
    expected = np.argsort(-(draw.standardised(SCORES) - np.log(-np.log(uniform))))
    assert np.argsort(-draw.values(SCORES, uniform)).tolist() == expected.tolist()
    assert exact.argsort(draw.keys(SCORES, uniform), keyed.words(ids)).tolist() == expected.tolist()


def test_c10_without_noise_quality_alone_decides() -> None:
    table = documents([{SCORE: score} for score in (1.0, 2.0, 3.0, 4.0, 10.0)])
    plain = KmeansQuality(score=ScoreName(SCORE), temperature=0)
    for count in range(6):
        budget = Budget(amount=count, unit="documents")
        assert decide(plain, table, 5, budget, 0)["kept"].equals(
            decide(Top(score=ScoreName(SCORE)), table, 5, budget, 0)["kept"]
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
    selector = KmeansQuality(score=ScoreName(SCORE), temperature=temperature / WEIGHTS.std())
    decided = decide(selector, pa.table(rows), 65_536, Budget(amount=drawn * trials, unit="documents"), 7)
    found = decided["kept"].to_numpy().reshape(trials, 4).mean(axis=0)
    expected = np.array(C5[drawn, temperature])
    q8 = 4 * np.sqrt(expected * (1 - expected) / trials)
    if (drawn, temperature) == (2, 1):
        np.testing.assert_allclose(q8, [0.012756139, 0.013806198, 0.014044238, 0.011984069], atol=1e-9)
    assert (np.abs(found - expected) < q8).all()


@pytest.mark.parametrize(("drawn", "temperature"), C5)
def test_c5_the_probabilities_that_are_told_are_the_exact_ones(drawn: int, temperature: int) -> None:
    group, weights = np.zeros(4, np.int64), WEIGHTS / temperature
    everything = inclusion.Drawn(group=group, log_weight=weights, sizes=np.ones(4, np.int64))
    exactly = inclusion.inclusion(lambda work: [work(everything)], np.array([drawn]), np.array([4]), is_counted=True)
    np.testing.assert_allclose(exactly(group, weights), C5[drawn, temperature], atol=2e-9)


@pytest.mark.parametrize(("drawn", "temperature", "within"), [(2, 1, 0.025), (2, 2, 0.016), (3, 1, 0.033)])
def test_c5_where_lengths_count_too_they_are_rosens(drawn: int, temperature: int, within: float) -> None:
    group, weights = np.zeros(4, np.int64), WEIGHTS / temperature
    everything = inclusion.Drawn(group=group, log_weight=weights, sizes=np.full(4, 9))
    about = inclusion.inclusion(
        lambda work: [work(everything)], np.array([9 * drawn]), np.array([36]), is_counted=False
    )
    error = np.abs(about(group, weights) - C5[drawn, temperature]).max()
    assert within - 0.001 < error < within
