"""Where a document lies among others, and how like a target it is: the worked cases."""

import dataclasses
import hashlib
import re
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import tries
from selector import plugins, tables
from selector.exact.vectors import vector_column
from selector.plugins import Pool, TablePath
from selector.rate import Rater
from selector.rate._answer import ratings_table
from selector.rate._importance import log_ratios
from selector.rate._ngrams import Ngrams
from selector.rate.importance_weight import ImportanceWeight
from selector.steps.neighbours import nearest_of_cluster


def ids(count: int) -> pa.Array:
    return pa.array([i.to_bytes(16) for i in range(count)], tables.DOC_ID)


def rated(name: str, options: dict[str, Any], **columns: pa.Array) -> dict[str, list[Any]]:
    rater = plugins.make("raters", name, options, "rate.0", Rater)
    batch = pa.record_batch({"doc_id": ids(len(next(iter(columns.values())))), **columns})
    return ratings_table(rater, "it", batch).drop_columns("doc_id").to_pydict()


# ---------------------------------------------------------------- R12: density


def test_r12_the_mean_cosine_to_the_nearest_others() -> None:
    angles = np.radians([0, 10, 30, 90])
    vectors = vector_column(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    group = pa.record_batch({"doc_id": ids(4), "embedding": vectors})
    cosines = nearest_of_cluster(3, group)["neighbour_cosines"]
    scores = rated("density", {"neighbours": 2}, neighbour_cosines=cosines)
    assert scores["it"] == pytest.approx([0.925416578, 0.962250187, 0.902859012, 0.336824089], abs=2e-6)
    chord = [2 * np.sin(np.radians(degrees) / 2) for degrees in (30, 20, 30, 80)]
    assert scores["it_distance"] == pytest.approx(chord, abs=2e-6)


def test_a_document_of_a_small_cluster_has_the_neighbours_that_there_are() -> None:
    cosines = pa.array([[0.9, 0.5], [0.25], [], None], pa.list_(pa.float32()))
    scores = rated("density", {"neighbours": 2}, neighbour_cosines=cosines)
    assert scores["it"] == [pytest.approx(0.7, abs=1e-6), 0.25, None, None]
    assert scores["it_distance"] == [1.0, None, None, None]
    assert rated("density", {"neighbours": 1}, neighbour_cosines=cosines.slice(1))["it"] == [0.25, None, None]


# ---------------------------------------------------------------- D1, D2: InstructMining


NAMES = ("reward", "understandability", "naturalness", "coherence")


def test_d1_and_d2_the_rules_of_instruct_mining() -> None:
    values = {"reward": 1.5, "understandability": 0.9, "naturalness": 0.8, "coherence": 0.95, "len": 200, "knn": 0.4}
    scores = {name: pa.array([value, None], pa.float32()) for name, value in values.items()}
    last = rated("instruct_mining", dict(zip(NAMES, NAMES, strict=True)), **scores)
    assert last["it"] == [pytest.approx(-0.012230, abs=1e-6), None] and last["it.state"] == ["ok", "missing"]
    first = rated("instruct_mining_v1", {"reward": "reward", "length": "len", "distance": "knn"}, **scores)
    assert first["it"] == [pytest.approx(-0.487214, abs=1e-6), None]


def test_understandability_has_the_sign_that_was_fitted() -> None:
    same = {name: pa.array([0.5, 0.5], pa.float32()) for name in NAMES}
    differing = {**same, "understandability": pa.array([0.1, 0.9], pa.float32())}
    low, high = rated("instruct_mining", dict(zip(NAMES, NAMES, strict=True)), **differing)["it"]
    assert low > high


# ---------------------------------------------------------------- J: DSIR


def buckets_by_hand(text: str, most_words: int, num_buckets: int) -> Counter[int]:
    words = re.findall(r"\w+|[^\w\s]+", text.lower())
    ngrams = [" ".join(words[i : i + n]) for n in range(1, most_words + 1) for i in range(len(words) - n + 1)]
    return Counter(int(hashlib.sha256(ngram.encode()).hexdigest(), 16) % num_buckets for ngram in ngrams)


def test_j1_and_j2_buckets_and_counts() -> None:
    assert Ngrams.of(pa.array(["Alice"]), 1, 10_000).buckets.tolist() == [6720]
    assert 114 in Ngrams.of(pa.array(["alice went"]), 2, 10_000).buckets.tolist()
    assert len(Ngrams.of(pa.array(["Alice went to the store"]), 2, 10_000).buckets) == 9


@tries(40)
@given(
    st.lists(st.lists(st.sampled_from(["A", "b", "b-c", "d.", "É", "1"]), max_size=6).map(" ".join), max_size=5),
    st.integers(1, 4),
)
def test_ngrams_of_many_texts_are_those_of_each_counted_by_hand(texts: list[str], most_words: int) -> None:
    ngrams = Ngrams.of(pa.array(texts, pa.string()), most_words, 997)
    for i, text in enumerate(texts):
        assert Counter(ngrams.buckets[ngrams.texts == i].tolist()) == buckets_by_hand(text, most_words, 997)


RAW, TARGET = ["a b c", "a b d", "x y z"], ["a b c"]


@pytest.mark.parametrize(
    ("smoothing", "expected"),
    [(0.0, [2.197224, -14.614018, -62.445058]), (1.0, [-2.087826, -2.493291, -1.682361])],
)
def test_j3_and_j4_weights_are_those_of_the_worked_case(smoothing: float, expected: list[float]) -> None:
    fit = ImportanceWeight(target=TablePath("t.jsonl"), words=2, buckets=16, smoothing=smoothing)
    fit = plugins.replaced(fit, {"target": fit.target.attached(pa.table({"text": TARGET}))})
    corpus = pa.table({"doc_id": ids(4), "text": [*RAW, " "]})
    fitted = fit.fit(Pool.of(corpus.slice(0, 3), 2), 7)
    answer = ratings_table(fit.rater(fitted), "it", corpus.to_batches()[0], fit)
    assert answer["it"].to_pylist() == [*(pytest.approx(value, abs=1e-4) for value in expected), None]
    assert answer["it.state"].to_pylist() == ["ok"] * 3 + ["not_applicable"]
    per_ngram = dataclasses.replace(fit, per_ngram=True).rater(fitted)
    means = ratings_table(per_ngram, "it", corpus.to_batches()[0], fit)["it"].to_pylist()
    assert means == [*(pytest.approx(value / 5, abs=1e-4) for value in expected), None]


def test_of_equal_texts_no_bucket_says_anything() -> None:
    counts = Ngrams.of(pa.array(RAW), 2, 64).counts(64)
    assert not log_ratios(counts, counts, 0).any()
