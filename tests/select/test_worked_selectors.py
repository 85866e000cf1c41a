"""The published selectors choose what their worked cases say, which were computed independently of this code."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from selector.errors import PolicyError
from selector.exact import Floats, keyed, quantise
from selector.exact.draws import Lottery, Moments
from selector.select import Budget, ScoreName, Selector, Weighted
from selector.select.closest import Closest
from selector.select.difference import Difference
from selector.select.farthest import Farthest
from selector.select.importance import Importance
from selector.select.kmeans_quality import KmeansQuality
from selector.select.quality_sampling import QualitySampling
from selector.select.threshold import Threshold
from selector.select.top import Top
from selector.testing import SCORE, documents
from selector.testing.selectors import decide

pytestmark = pytest.mark.slow

QUALITY = ScoreName(SCORE)


def table_of(**columns: Sequence[Any]) -> pa.Table:
    """Documents with these columns; those that a corpus of the tests does not have are float32."""
    count = len(next(iter(columns.values())))
    known = documents([{}]).schema.names
    rows = [{name: values[i] for name, values in columns.items() if name in known} for i in range(count)]
    table = documents(rows)
    for name, values in columns.items():
        if name not in known:
            field = pa.field(name, pa.float32(), metadata={"higher_is": "better"})
            table = table.append_column(field, pa.array(values, pa.float32()))
    return table


def kept(selector: Selector, table: pa.Table, count: int, seed: int = 7) -> list[int]:
    """The places of the documents that it keeps of a budget of so many."""
    decided = decide(selector, table, 3, Budget(amount=count, unit="documents"), seed)
    return np.flatnonzero(decided["kept"].to_numpy()).tolist()


# ---------------------------------------------------------------- S10: by distance


@pytest.mark.parametrize(("selector", "expected"), [(Closest(), [0, 1, 3]), (Farthest(), [1, 2, 4])])
def test_s10_the_closest_and_the_farthest_of_every_cluster(selector: Selector, expected: list[int]) -> None:
    table = table_of(distance=[0.1, 0.3, 0.3, 0.2, 0.4], cluster=[0, 0, 0, 1, 1])
    assert kept(selector, table, 3) == expected
    decided = decide(selector, table, 2, Budget(amount=3, unit="documents"), 0)
    assert (
        decided["reason"][0].as_py().startswith("cluster 0: ") and "quota 2 (documents)" in decided["reason"][0].as_py()
    )


@pytest.mark.parametrize("selector", [Closest(), Farthest()])
def test_a_document_without_a_distance_comes_last(selector: Selector) -> None:
    table = table_of(distance=[None, 0.3, 0.1])
    assert kept(selector, table, 2) == [1, 2]


# ---------------------------------------------------------------- Q3, N7: limits


def test_q3_the_published_cut_of_fineweb_edu_is_above_two_and_a_half() -> None:
    table = table_of(quality=[-0.2, 2.49, 2.5, 2.51, 3.5, 4.5, 5.7])
    assert kept(Threshold(score=QUALITY, least=2.5, borders="left_out"), table, 7) == [3, 4, 5, 6]
    assert kept(Threshold(score=QUALITY, least=2.5), table, 7) == [2, 3, 4, 5, 6]
    assert kept(Threshold(score=QUALITY, least=3.0), table, 7) == [4, 5, 6]


def test_n7_ifd_is_kept_below_one() -> None:
    table = table_of(quality=[0.5, 0.99, 1.0, 1.2, None])
    below = Threshold(score=QUALITY, most=1.0, borders="left_out")
    decided = decide(below, table, 2, Budget(amount=5, unit="documents"), 0)
    assert decided["kept"].to_pylist() == [True, True, False, False, False]
    assert decided["reason"].to_pylist()[1:3] == [
        "quality within ( … 1): 2 of 2 documents were drawn",
        "quality not within ( … 1)",
    ]


def test_a_limit_means_the_score_that_was_stored_for_it() -> None:
    for limit in (0.1, 0.018112, 2.7):
        stored = float(quantise(np.array([limit], np.float32))[0])
        table = table_of(quality=[stored, np.nextafter(stored, -1, dtype=np.float32)])
        assert stored != limit and kept(Threshold(score=QUALITY, least=limit), table, 2) == [0]


def test_documents_within_the_limits_have_the_same_chance() -> None:
    table = table_of(quality=[float(i % 4) for i in range(40)])
    decided = decide(Threshold(score=QUALITY, least=2.0), table, 9, Budget(amount=5, unit="documents"), 0)
    chances = decided["inclusion_probability"].to_pylist()
    assert chances == [0.25 if i % 4 >= 2 else 0.0 for i in range(40)]


def test_limits_that_leave_nothing_are_refused() -> None:
    with pytest.raises(PolicyError, match=r"threshold has no limit\. Write threshold\.least, threshold\.most or both"):
        Threshold(score=QUALITY)
    with pytest.raises(PolicyError, match=r"least=2\.0 is not below threshold\.most=1\.0"):
        Threshold(score=QUALITY, least=2.0, most=1.0)


# ---------------------------------------------------------------- C5, C7, S16: draws

TRIALS = 20_000
C5 = {  # exact inclusion probabilities of draws with weights 4, 3, 2, 1: (number drawn, temperature)
    (2, 1): [0.715873016, 0.608333333, 0.441269841, 0.23452381],
    (2, 2): [0.613561171, 0.556716845, 0.476076151, 0.353645833],
    (3, 1): [0.922222222, 0.870238095, 0.758730159, 0.448809524],
}
S16 = {1: [0.946614701, 0.755271529, 0.29811377], 2: [0.847037519, 0.692804114, 0.460158367]}


def trials_of(scores: Floats) -> pa.Table:
    """As many clusters of documents with these scores as there are trials."""
    size = len(scores)
    return pa.table(
        {
            "doc_id": pa.array([keyed.digest(b"%d" % i) for i in range(size * TRIALS)], pa.binary(16)),
            "num_tokens": np.full(size * TRIALS, 10, np.uint32),
            "cluster": np.repeat(np.arange(TRIALS, dtype=np.int32), size),
            SCORE: np.tile(scores.astype(np.float32), TRIALS),
        }
    )


def check_chances(found: Floats, expected: list[float]) -> None:
    wanted = np.array(expected)
    assert (np.abs(found - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / TRIALS)).all()


@pytest.mark.parametrize(("temperature", "expected"), S16.items())
def test_s16_documents_are_drawn_with_the_exact_probabilities(temperature: int, expected: list[float]) -> None:
    z = np.array([1.0, 0.0, -1.0])
    budget = Budget(amount=2 * TRIALS, unit="documents")
    options: dict[str, Any] = {"score": QUALITY, "temperature": temperature / z.std()}
    for selector in (
        KmeansQuality(**options),
        KmeansQuality(quota="equal", **options),
        QualitySampling(within="cluster", **options),
    ):
        decided = decide(selector, trials_of(z), 65_536, budget, 7)
        check_chances(decided["kept"].to_numpy().reshape(TRIALS, 3).mean(axis=0), expected)


@pytest.mark.parametrize(("drawn", "temperature"), C5)
def test_c5_log_weights_are_drawn_by_as_they_are(drawn: int, temperature: int) -> None:
    log_weights = np.log([4.0, 3.0, 2.0, 1.0]) - 30.0
    table = trials_of(log_weights)
    importance = Importance(score=QUALITY, temperature=temperature)
    (batch,) = table.combine_chunks().to_batches()
    keys = importance.keys(batch, _lottery(importance, table), 7).reshape(TRIALS, 4)
    is_drawn = np.argsort(np.argsort(keys, axis=1), axis=1) < drawn
    check_chances(is_drawn.mean(axis=0), C5[drawn, temperature])


def _lottery(selector: Weighted, table: pa.Table) -> Lottery:
    moments = Moments.of(table[selector.score].to_numpy().astype(np.float64))
    return Lottery.of(moments, selector.temperature, is_standardised=selector.is_standardised)


@pytest.mark.parametrize(
    "selector", [QualitySampling(score=QUALITY, temperature=0), Importance(score=QUALITY, temperature=0)]
)
def test_c10_without_noise_the_score_alone_decides(selector: Selector) -> None:
    table = table_of(quality=[1.0, 2.0, None, 3.0, 4.0, 10.0])
    for count in range(7):
        assert kept(selector, table, count) == kept(Top(score=QUALITY), table, count)


def test_importance_draws_the_likelier_by_the_ratio_of_weights_whatever_the_spread() -> None:
    """Standardised, log weights of 0 and 1 and of 0 and 10 would be drawn alike."""
    chances: list[float] = []
    for step in (1.0, 3.0):
        table = table_of(quality=[step * (i % 2) for i in range(60)])
        decided = decide(Importance(score=QUALITY), table, 60, Budget(amount=2, unit="documents"), 3)
        low, high = decided["inclusion_probability"].to_numpy().astype(float)[:2]
        chances.append(math.log(1 - high) / math.log(1 - low))
    np.testing.assert_allclose(chances, [math.e, math.e**3], rtol=1e-4)


# ---------------------------------------------------------------- A6, A7: equal clusters


def test_equal_clusters_give_what_small_ones_lack_to_the_others() -> None:
    table = table_of(quality=[float(i) for i in range(13)], cluster=[0] * 8 + [1] * 4 + [2])
    equal = KmeansQuality(score=QUALITY, temperature=0, quota="equal")
    assert kept(equal, table, 3) == [7, 11, 12]
    assert kept(equal, table, 9) == [4, 5, 6, 7, 8, 9, 10, 11, 12], "the published code would take 7 of 9"


# ---------------------------------------------------------------- E1, E2: difference

E1 = [0.3, 0.1, 1.0, -0.1, 0.8, 0.1]


def test_e1_the_larger_half_of_the_differences_of_losses() -> None:
    teacher = [2.0, 3.0, 1.5, 2.5, 0.5, 2.0]
    table = table_of(reference=[t + d for t, d in zip(teacher, E1, strict=True)], teacher=teacher)
    selector = Difference(reference=ScoreName("reference"), teacher=ScoreName("teacher"))
    assert kept(selector, table, 3) == [0, 2, 4]
    decided = decide(selector, table, 6, Budget(amount=3, unit="documents"), 0)
    np.testing.assert_allclose(decided["value"].to_numpy(), E1, atol=1e-6)


def test_a_difference_is_compared_in_more_bits_than_the_scores_have() -> None:
    table = table_of(reference=[2.0**20, 2.0**20, 1.0], teacher=[2.0**-20, 2.0**-19, None])
    selector = Difference(reference=ScoreName("reference"), teacher=ScoreName("teacher"))
    assert kept(selector, table, 1) == [0] and kept(selector, table, 2) == [0, 1]
