"""What each of our selectors chooses; the laws that they keep are in tests/testing."""

import hashlib
import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import tries
from selector import plugins
from selector.errors import PolicyError
from selector.exact import keyed
from selector.manifest.describe import sentence
from selector.plugins.pool import Pool
from selector.select import Budget, Grouped, ScoreName, Selector
from selector.select.kmeans_quality import KmeansQuality
from selector.select.random import Random
from selector.select.top import Top
from selector.testing import SCORE, documents
from selector.testing.selectors import decide


def scored(scores: list[float | None], **rest: Any) -> pa.Table:
    return documents(
        [{SCORE: score, **{key: values[i] for key, values in rest.items()}} for i, score in enumerate(scores)]
    )


def kept(selector: Selector, table: pa.Table, budget: Budget, seed: int = 7) -> list[int]:
    return np.flatnonzero(decide(selector, table, 5, budget, seed)["kept"].to_numpy()).tolist()


def test_top_takes_the_highest_scores_with_ties_by_id_and_no_score_last() -> None:
    top = Top(score=ScoreName(SCORE))
    table = scored([0.5, None, -0.0, 2.0, 0.0, 0.5, -3.0])
    order = [3, 0, 5, 2, 4, 6, 1]
    for count in range(8):
        assert kept(top, table, Budget(amount=count, unit="documents")) == sorted(order[:count])


def test_top_says_what_it_took_and_what_it_did_not() -> None:
    decided = decide(Top(score=ScoreName(SCORE)), scored([1.0, 2.0, 3.0]), 5, Budget(amount=2, unit="documents"), 0)
    best = "among the best by quality, 2 documents in all"
    assert decided["reason"].to_pylist() == [f"not {best}", best, best]


@pytest.mark.slow
def test_random_gives_every_document_the_same_chance() -> None:
    table = documents([{"doc_id": keyed.digest(b"%d" % i)} for i in range(40)])
    budget = Budget(amount=10, unit="documents")
    counts = sum(decide(Random(), table, 41, budget, seed)["kept"].to_numpy().astype(int) for seed in range(400))
    assert np.abs(counts - 100).max() < 4.5 * math.sqrt(400 * 0.25 * 0.75)
    assert set(decide(Random(), table, 41, budget, 0)["inclusion_probability"].to_pylist()) == {0.25}


def test_kmeans_quality_gives_every_cluster_its_share() -> None:
    clusters = [0] * 50 + [1] * 30 + [3] * 20
    table = scored([float(i % 9) for i in range(100)], cluster=clusters)
    chosen = kept(KmeansQuality(score=ScoreName(SCORE)), table, Budget(amount=10, unit="documents"))
    assert np.bincount(np.array(clusters)[chosen]).tolist() == [5, 3, 0, 2]


def test_kmeans_quality_at_temperature_zero_takes_the_best_of_every_cluster() -> None:
    table = scored([1.0, 5.0, None, 3.0, 2.0, None, 9.0, 2.0], cluster=[0, 0, 0, 0, 1, 1, 1, 1])
    decided = decide(
        KmeansQuality(score=ScoreName(SCORE), temperature=0), table, 3, Budget(amount=4, unit="documents"), 1
    )
    assert np.flatnonzero(decided["kept"].to_numpy()).tolist() == [1, 3, 4, 6]
    assert decided["inclusion_probability"].to_pylist() == decided["kept"].cast(pa.float32()).to_pylist()
    assert decided["reason"].to_pylist()[:2] == [
        "cluster 0: beyond quota 2 (documents)",
        "cluster 0: within quota 2 (documents)",
    ]


@pytest.mark.parametrize("temperature", [1e-300, 1e-9, 0.01, 0.5, 2.0, 1e3, 1e300])
def test_kmeans_quality_works_at_any_temperature(temperature: float) -> None:
    table = scored([float(i * 37 % 101) for i in range(100)], cluster=[i % 3 for i in range(100)])
    selector = KmeansQuality(score=ScoreName(SCORE), temperature=temperature)
    decided = decide(selector, table, 100, Budget(amount=30, unit="documents"), 1)
    probability = decided["inclusion_probability"].to_numpy().astype(float)
    assert decided["kept"].to_numpy().sum() == 30
    np.testing.assert_allclose(probability.sum(), 30, rtol=1e-5)
    if temperature <= 1e-9:
        best = decide(
            KmeansQuality(score=ScoreName(SCORE), temperature=0), table, 100, Budget(amount=30, unit="documents"), 1
        )
        assert decided["kept"].equals(best["kept"])
    if temperature >= 1e3:
        np.testing.assert_allclose(probability, 0.3, atol=0.01)


@pytest.mark.parametrize("temperature", [-1.0, math.nan, math.inf])
def test_kmeans_quality_refuses_a_temperature_that_says_nothing(temperature: float) -> None:
    with pytest.raises(PolicyError, match=r"temperature=.* is not a temperature, .* Write 0 for the best"):
        KmeansQuality(score=ScoreName(SCORE), temperature=temperature)


@tries(40)
@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 2)), min_size=1, max_size=40),
    st.integers(0, 40),
    st.integers(-6, 6),
    st.integers(-100, 100),
)
def test_a_positive_affine_map_of_the_scores_leaves_kmeans_quality_unchanged(
    rows: list[tuple[int, int]], amount: int, scale: int, shift: int
) -> None:
    scores, clusters = [float(score) for score, _ in rows], [cluster for _, cluster in rows]
    moved = [2.0**scale * score + shift for score in scores]
    selector, budget = KmeansQuality(score=ScoreName(SCORE)), Budget(amount=amount, unit="documents")
    before = decide(selector, scored([*scores], cluster=clusters), 7, budget, 1)
    after = decide(selector, scored([*moved], cluster=clusters), 7, budget, 1)
    assert after["kept"].equals(before["kept"])
    np.testing.assert_allclose(
        after["inclusion_probability"].to_numpy(), before["inclusion_probability"].to_numpy(), 1e-5
    )


def test_equal_scores_have_equal_chances() -> None:
    selector = KmeansQuality(score=ScoreName(SCORE))
    decided = decide(selector, scored([5.0] * 12), 7, Budget(amount=3, unit="documents"), 1)
    np.testing.assert_allclose(decided["inclusion_probability"].to_numpy(), 0.25, rtol=1e-6)


def test_documents_without_a_score_are_drawn_only_when_their_cluster_has_no_others_left() -> None:
    selector = KmeansQuality(score=ScoreName(SCORE))
    table = scored([None, 1.0, None, 2.0, None])
    few = decide(selector, table, 5, Budget(amount=2, unit="documents"), 1)
    assert few["inclusion_probability"].to_pylist() == [0, 1, 0, 1, 0]
    more = decide(selector, table, 5, Budget(amount=3, unit="documents"), 1)
    np.testing.assert_allclose(more["inclusion_probability"].to_numpy(), [1 / 3, 1, 1 / 3, 1, 1 / 3], rtol=1e-6)
    assert more["kept"].to_pylist().count(True) == 3


def test_what_quotas_of_tokens_leave_over_is_spent_and_said() -> None:
    table = scored([3.0, 2.0, 1.0, 3.0], cluster=[0, 0, 1, 1], num_tokens=[30, 70, 5, 95])
    selector = KmeansQuality(score=ScoreName(SCORE), temperature=0)
    decided = decide(selector, table, 2, Budget(amount=100, unit="tokens", overshoot="fill"), 1)
    assert decided["kept"].to_pylist() == [True, False, True, False] or decided["kept"].to_pylist() == [
        True,
        True,
        False,
        False,
    ]
    assert "cluster 0: within quota 50 (tokens)" in decided["reason"].to_pylist()
    assert any("paid by what other quotas left" in reason for reason in decided["reason"].to_pylist())


@pytest.mark.parametrize("name", plugins.names("selectors"))
def test_a_selector_says_its_evidence_when_chance_is_as_good_and_what_it_can_hold(name: str) -> None:
    cls = plugins.find("selectors", name)
    words = " ".join((cls.__doc__ or "").split())
    assert re.search(r"\b(Source|Evidence): ", words) and re.search(r"\b([Nn]ot m|M)easured\b", words)
    assert "random" in words or name == "random"
    if issubclass(cls, Grouped):
        assert cls.largest_group is not None and f"{cls.largest_group:,}" in words


def golden_pool() -> Pool:
    rows = [
        {
            "doc_id": keyed.digest(b"golden %d" % i),
            "source": ["web", "code", "math"][i * i % 3],
            "num_tokens": 20 + i * 7919 % 500,
            "cluster": i * 31 % 7,
            SCORE: None if i % 29 == 0 else i * 6151 % 1009 / 64,
        }
        for i in range(300)
    ]
    return Pool.of(documents(rows), 64)


GOLDEN = {  # of the ids and probabilities; of the reasons
    ("random", "documents"): ("3db16d7c89a807eb", "184fa1a9048590bc"),
    ("random", "tokens"): ("2bf7dab5a7259f23", "35da3e149adae835"),
    ("top", "documents"): ("8523b0d024437758", "31da01a118161bf4"),
    ("top", "tokens"): ("3bb598f2e928ff69", "2c105138d0e635e6"),
    ("kmeans_quality", "documents"): ("5fb21845b3b38bf7", "e357a47c5dbe3db3"),
    ("kmeans_quality", "tokens"): ("4d6efb888f8c689c", "1bd0a1cfd5b71651"),
}


@pytest.mark.parametrize(("name", "unit"), GOLDEN)
def test_golden_selections(name: str, unit: Any) -> None:
    pool = golden_pool()
    options = {} if name == "random" else {"score": SCORE}
    budget = Budget(amount={"documents": 77, "tokens": 20_000}[unit], unit=unit, overshoot="fill")
    decisions = plugins.make("selectors", name, options, "select.using", Selector).select(pool, budget, 7)
    decided = pa.Table.from_batches([decisions.decide(batch) for batch in pool.batches(*decisions.columns)])
    chosen = pool.table("doc_id")["doc_id"].filter(decided["kept"])
    probability = decided["inclusion_probability"].to_numpy().tobytes()
    digest = hashlib.sha256(b"".join(chosen.to_pylist()) + probability).hexdigest()[:16]
    pairs = zip(decided["reason"].to_pylist(), decided["arguments"].to_pylist(), strict=True)
    said = hashlib.sha256("\n".join(sentence(*pair) for pair in pairs).encode()).hexdigest()[:16]
    assert (digest, said) == GOLDEN[name, unit], "changing this changes every user's data"
