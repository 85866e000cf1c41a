"""The published selectors choose what their worked cases say, which were computed independently of this code."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import tries
from selector.errors import PolicyError
from selector.exact import Floats, keyed, quantise
from selector.exact.draws import Lottery, Moments
from selector.select import Budget, Pool, ScoreName, Selector, SignalName, Weighted
from selector.select.closest import Closest
from selector.select.difference import Difference
from selector.select.farthest import Farthest
from selector.select.importance import Importance
from selector.select.kmeans_quality import KmeansQuality
from selector.select.mixture import Mixture
from selector.select.quality_sampling import QualitySampling
from selector.select.repeats import Repeats
from selector.select.task_balanced import TaskBalanced
from selector.select.threshold import Threshold
from selector.select.top import Top
from selector.testing import SCORE, check_selector, documents
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
        "quality is below 1: 2 of 2 documents were drawn",
        "quality is not below 1, or not known",
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
Q17 = [0.257325756, 0.190631609, 0.127784189, 0.424258447]
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


@pytest.mark.parametrize(
    ("selector", "scores", "drawn", "expected"),
    [
        *(
            (KmeansQuality(score=QUALITY, temperature=float(t / np.std([1, 0, -1]))), [1, 0, -1], 2, S16[t])
            for t in S16
        ),
        *(
            (Importance(score=QUALITY, temperature=float(tau)), np.log([4, 3, 2, 1]).tolist(), k, chances)
            for (k, tau), chances in C5.items()
        ),
        (Importance(score=QUALITY, temperature=1.0), [0, -1, -2], 1, [0.665240956, 0.244728471, 0.090030573]),  # C11
        (Importance(score=QUALITY, temperature=1.0), [0.9, 0.6, 0.2, 1.4], 1, Q17),  # of the scores, not of whole ones
    ],
)
def test_the_probabilities_that_are_told_are_exact(
    selector: Selector, scores: list[float], drawn: int, expected: list[float]
) -> None:
    table = documents([{SCORE: score} for score in scores])
    decided = decide(selector, table, 3, Budget(amount=drawn, unit="documents"), 1)
    np.testing.assert_allclose(decided["inclusion_probability"].to_numpy(), expected, atol=2e-6)


def test_o9_a_better_score_can_be_less_likely_where_scores_are_standardised_anew() -> None:
    chances: list[float] = []
    for score in (-10.0, -5.0, -3.0, -2.0):
        table = documents([{SCORE: value} for value in (score, 0.0, 0.0, 1.0)])
        selector = KmeansQuality(score=QUALITY, temperature=0.5)
        decided = decide(selector, table, 3, Budget(amount=1, unit="documents"), 1)
        chances.append(decided["inclusion_probability"][0].as_py())
    np.testing.assert_allclose(chances, [0.003264837, 0.003225877, 0.003151358, 0.003070178], atol=1e-7)


def test_c11_noise_is_on_the_side_of_the_largest_weight() -> None:
    """The published code of MATES takes the smallest of m + noise, which draws with .702, .245 and .053 instead."""
    table = trials_of(np.array([0.0, -1.0, -2.0]))
    importance = Importance(score=QUALITY, temperature=1.0)
    (batch,) = table.combine_chunks().to_batches()
    keys = importance.keys(batch, _lottery(importance, table), 7).reshape(TRIALS, 3)
    first = np.bincount(keys.argmin(axis=1), minlength=3) / TRIALS
    check_chances(first, [0.665240956, 0.244728471, 0.090030573])


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
    for step in (1.0, 3.0):
        table = table_of(quality=[step * (i % 2) for i in range(60)])
        decided = decide(Importance(score=QUALITY), table, 60, Budget(amount=2, unit="documents"), 3)
        weights, total = [1.0, math.exp(step)], 30 * (1 + math.exp(step))
        second = sum(30 * weight / total / (total - weight) for weight in weights)  # for a weight of 1, but for itself
        exactly = [w * (1 / total + second - w / total / (total - w)) for w in weights]
        np.testing.assert_allclose(decided["inclusion_probability"].to_numpy()[:2], exactly, rtol=1e-6)


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


def test_e2_the_difference_ranks_otherwise_than_the_ratio() -> None:
    reference, teacher = [3.2, 2.5, 4.1, 1.0, 3.0, 5.0], [2.9, 2.4, 3.1, 1.1, 2.2, 4.9]
    selector = Difference(reference=ScoreName("reference"), teacher=ScoreName("teacher"))
    values = np.array(reference) - np.array(teacher)
    taken: list[int] = []
    for count in range(1, 7):
        table = table_of(reference=reference, teacher=teacher)
        taken += [place for place in kept(selector, table, count) if place not in taken]
    assert taken[:3] == [2, 4, 0] and sorted(taken[3:5]) == [1, 5] and taken[5] == 3
    assert np.argsort(-np.array(reference) / np.array(teacher)).tolist()[:2] == [4, 2] and values.argmax() == 2


def test_a_difference_is_compared_in_more_bits_than_the_scores_have() -> None:
    table = table_of(reference=[2.0**20, 2.0**20, 1.0], teacher=[2.0**-20, 2.0**-19, None])
    selector = Difference(reference=ScoreName("reference"), teacher=ScoreName("teacher"))
    assert kept(selector, table, 1) == [0] and kept(selector, table, 2) == [0, 1]


# ---------------------------------------------------------------- G1, G2, S4, S5, Q19, N2, N4: shares of groups


def of_sizes(**sizes: int) -> pa.Table:
    """So many documents of each source."""
    return documents([{"source": name} for name, count in sizes.items() for _ in range(count)])


def shares(selector: Selector, table: pa.Table, budget: Budget) -> dict[str, int]:
    """What each source gets, in visits."""
    decided = decide(selector, table, 1000, budget, 7)
    visits = np.where(decided["kept"].to_numpy(), decided["visits"].to_numpy(), 0)
    sources = np.array(table["source"].to_pylist())
    return {name: int(visits[sources == name].sum()) for name in dict.fromkeys(sources.tolist())}


def test_g1_targets_of_tasks_that_are_absent_go_to_the_others() -> None:
    selector = TaskBalanced(targets={"algebra": 0.5, "code": 0.3, "law": 0.2})
    assert shares(selector, of_sizes(algebra=200, code=90), Budget(amount=100, unit="documents")) == {
        "algebra": 63,
        "code": 37,
    }


def test_g2_only_what_the_student_misses_by_enough_is_taken() -> None:
    selector = TaskBalanced(gap=SignalName(SCORE))
    assert kept(selector, table_of(quality=[3.0, 0.0, 4.0, -1.0, None]), 5) == [0, 2]
    decided = decide(selector, table_of(quality=[3.0, 0.0]), 2, Budget(amount=5, unit="documents"), 0)
    assert decided["reason"].to_pylist() == ["source web: within quota 1 (documents)", "quality below 2, or not known"]


def test_a_small_task_is_repeated_where_the_policy_allows_it() -> None:
    table, budget = of_sizes(math=10, code=100), Budget(amount=60, unit="documents")
    assert shares(TaskBalanced(), table, budget) == {"math": 10, "code": 50}
    assert shares(TaskBalanced(visits=2), table, budget) == {"math": 20, "code": 40}
    assert shares(TaskBalanced(visits=9), table, budget) == {"math": 30, "code": 30}


def test_s4_a_temperature_brings_shares_nearer_to_each_other() -> None:
    table, budget = of_sizes(a=7000, b=2000, c=800, d=200), Budget(amount=1000, unit="documents")
    assert shares(Mixture(temperature=2.0), table, budget) == {"a": 490, "b": 262, "c": 165, "d": 83}
    assert shares(Mixture(), table, budget) == {"a": 700, "b": 200, "c": 80, "d": 20}
    assert shares(Mixture(temperature=1e9), table, budget) == {"a": 267, "b": 267, "c": 266, "d": 200}


def test_s4_and_s5_weights_are_those_of_the_worked_cases() -> None:
    weights = Mixture(temperature=2.0).weigh("abcd", np.array([70, 20, 8, 2]))
    np.testing.assert_allclose(
        np.array(weights) / np.sum(weights), [0.489808305, 0.261813552, 0.165585429, 0.082792715], atol=1e-9
    )
    adjusted = Mixture(weights={"a": 0.5, "b": 0.3, "c": 0.2}, rises={"a": 0.4, "b": -0.1, "c": 0.2}).weigh(
        "abc", np.ones(3, int)
    )
    np.testing.assert_allclose(adjusted / np.sum(adjusted), [0.559006211, 0.242236025, 0.198757764], atol=1e-9)


def test_h1_shares_move_by_stated_factors() -> None:
    mixture = Mixture(weights={"a": 0.5, "b": 0.3, "c": 0.2}, rises={"a": 0.2, "b": -0.1, "c": 0.0}, step=0.3)
    shares = mixture.weigh("abc", np.ones(3, int))
    np.testing.assert_allclose(shares / np.sum(shares), [0.560747664, 0.252336449, 0.186915888], atol=1e-9)


def test_q19_repetition_is_capped_and_the_rest_goes_to_the_others() -> None:
    table = documents(
        [{"source": name, "num_tokens": 1} for name, count in (("a", 20), ("b", 200), ("c", 200)) for _ in range(count)]
    )
    selector = Mixture(weights={"a": 0.5, "b": 0.3, "c": 0.2}, visits=2)
    assert shares(selector, table, Budget(amount=100, unit="tokens")) == {"a": 40, "b": 36, "c": 24}


def test_n4_a_source_is_visited_whole_before_some_of_it_once_more() -> None:
    table = documents([{"num_tokens": 5} for _ in range(20)])
    decided = decide(Mixture(visits=4), table, 3, Budget(amount=250, unit="tokens"), 0)
    assert sorted(decided["visits"].to_pylist()) == [2] * 10 + [3] * 10 and all(decided["kept"].to_pylist())
    assert set(decided["inclusion_probability"].to_pylist()) == {1.0}
    everything = decide(Mixture(visits=4), table, 3, Budget(amount=1000, unit="tokens"), 0)
    assert set(everything["visits"].to_pylist()) == {4}


def test_a_group_without_a_weight_gets_nothing() -> None:
    table, budget = of_sizes(a=5, b=50), Budget(amount=30, unit="documents")
    assert shares(Mixture(weights={"a": 1.0}, visits=3), table, budget) == {"a": 15, "b": 0}
    assert shares(Mixture(weights={"z": 1.0}), table, budget) == {"a": 0, "b": 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"a": -1.0}}, r"mixture\.weights\.a=-1\.0 is not a weight"),
        ({"weights": {"a": 0.0}}, r"mixture\.weights gives nothing to any group"),
        ({"temperature": 0.0}, r"temperature=0\.0 is not a temperature here"),
        ({"visits": 0}, r"mixture\.visits=0 is not a number of visits"),
        ({"step": 2.0}, r"mixture\.step=2\.0 is not between 0 and 1"),
        ({"rises": {"a": math.nan}}, r"mixture\.rises\.a=nan is not a number"),
    ],
)
def test_a_mixture_that_is_none_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Mixture(**options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mixture", {"weights": {"web": 2.0, "code": 1.0}, "visits": 3}),
        ("mixture", {"by": "cluster", "temperature": 3.0, "visits": 2}),
        ("task_balanced", {"targets": {"web": 0.5, "law": 0.5}, "visits": 2}),
        ("quality_sampling", {"within": "topic"}),
    ],
)
def test_every_law_holds_for_shares_that_are_repeated(name: str, options: dict[str, Any]) -> None:
    check_selector(name, examples=4, **options)


# ---------------------------------------------------------------- S6, S7, S8: repetitions


def visited(selector: Selector, table: pa.Table, budget: Budget, rows: int = 3) -> list[int]:
    decided = decide(selector, table, rows, budget, 0)
    return np.where(decided["kept"].to_numpy(), decided["visits"].to_numpy(), 0).tolist()


def test_s7_the_most_valuable_visits_are_taken() -> None:
    table, budget = table_of(quality=[5.0, 4.0, 3.0, 1.0]), Budget(amount=6, unit="documents")
    selector = Repeats(score=QUALITY, decay=0.5, visits=3)
    assert visited(selector, table, budget) == [2, 2, 2, 0]
    decided = decide(selector, table, 3, budget, 0)
    assert decided["cut"].to_pylist() == [1.25] * 4 and decided["value"].to_pylist() == [5.0, 4.0, 3.0, 1.0]
    assert selector.select(Pool.of(table), budget, 0).facts == {"documents_by_visits": {"2": 3}}


def test_s6_the_default_decay_is_that_of_the_fitted_law() -> None:
    decay = Repeats(score=QUALITY).decay
    r_star = 15.387756
    assert abs(decay - math.exp(-1 / r_star)) < 1e-6
    for repeat, worth in {1: 0.968199224, 3: 0.850193872, 9: 0.575675427, 39: 0.08193629}.items():
        assert abs(r_star * (1 - math.exp(-1 / r_star)) * decay ** (repeat - 1) - worth) < 1e-5


def test_s8_a_strict_set_is_repeated_beside_a_loose_one() -> None:
    """Ten documents worth 1.28 times as much as ninety others are worth as much once more as those are at first."""
    table = table_of(quality=[1.28] * 10 + [1.0] * 90)
    assert visited(Repeats(score=QUALITY, visits=10), table, Budget(amount=40, unit="documents"))[:11] == [4] * 10 + [0]
    spread = visited(Repeats(score=QUALITY, visits=10), table, Budget(amount=130, unit="documents"))
    assert set(spread[:10]) == {4} and set(spread[10:]) == {1}


@tries(60)
@given(
    st.lists(st.tuples(st.sampled_from([None, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 7.0]), st.integers(0, 9)), max_size=9),
    st.sampled_from([0.25, 0.5, 0.9, 1.0]),
    st.integers(1, 4),
    st.integers(0, 40),
    st.sampled_from(["stop", "fill", "cross"]),
)
def test_visits_are_those_that_sorting_all_of_them_gives(
    rows: list[tuple[float | None, int]], decay: float, most: int, amount: int, overshoot: Any
) -> None:
    table = documents([{SCORE: score, "num_tokens": tokens} for score, tokens in rows])
    budget = Budget(amount=amount, unit="tokens", overshoot=overshoot)
    values = [
        (-score * decay**k, k, i) for i, (score, _) in enumerate(rows) for k in range(most) if score and score > 0
    ]
    expected, left = [0] * len(rows), amount
    for _, _, i in sorted(values):
        size = max(rows[i][1], 1)
        if left <= 0 or (size > left and overshoot == "stop"):
            break
        if size <= left or overshoot == "cross":
            expected[i] += 1
            left -= size
    assert visited(Repeats(score=QUALITY, decay=decay, visits=most), table, budget) == expected


@pytest.mark.parametrize(
    ("options", "message"), [({"decay": 0.0}, "decay=0.0 is not above 0"), ({"visits": 65}, "from 1 to 64")]
)
def test_repetitions_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Repeats(score=QUALITY, **options)
