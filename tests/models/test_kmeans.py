"""k-means is exact: nobody can tell who proposed the neighbours, or how the vectors were dealt out."""

import functools
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector.models import kmeans, neighbours
from selector.models.kmeans import Kind, Method, Start
from selector.models.neighbours import (
    Halves,
    Proposals,
    Propose,
    Singles,
    closest,
    closest_within,
    distances,
    nearest,
    on_cpu,
)


def drawn(num: int, dimension: int, num_topics: int = 30, spread: float = 0.7, seed: int = 3) -> Halves:
    """Unit vectors around topics, as embed stores them."""
    random = np.random.default_rng(seed)
    topics = random.normal(size=(num_topics, dimension))
    vectors = topics[random.integers(0, num_topics, num)] + spread * random.normal(size=(num, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def through_all(vectors: Halves, base: Halves) -> Any:
    """The nearest by the plain formula: exact too, since float16 numbers do not round in double precision."""
    squares = np.square(vectors[:, None].astype(np.float64) - base[None].astype(np.float64)).sum(axis=2)
    return squares.argmin(axis=1)


def rounded(vectors: Halves | Singles, bits: int) -> Any:
    """Numbers with so many bits left of their fraction, as a graphics card's fast formats have."""
    fraction, exponent = np.frexp(vectors.astype(np.float64))
    return np.ldexp(np.rint(fraction * 2.0**bits) / 2.0**bits, exponent).astype(np.float32)


def on_fast_hardware(bits: int, most: int, vectors: Halves | Singles, base: Halves) -> Proposals:
    """What a graphics card would propose: the best of products of rounded numbers, summed in single precision."""
    short, other = rounded(vectors, bits), rounded(base, bits)
    scores = short @ other.T - (other * other).sum(axis=1) / np.float32(2)
    labels = np.argsort(-scores, axis=1)[:, :most]
    return Proposals(
        scores=np.take_along_axis(scores, labels, axis=1), labels=labels, error=3 * 2.0**-bits + 400 * 2.0**-24
    )


PROPOSERS: dict[str, Propose] = {
    "numpy": on_cpu,
    "bf16, 8 proposed": functools.partial(on_fast_hardware, 8, 8),
    "bf16, 2 proposed": functools.partial(on_fast_hardware, 8, 2),
    "tf32, 8 proposed": functools.partial(on_fast_hardware, 11, 8),
}


@pytest.mark.parametrize("propose", PROPOSERS.values(), ids=list(PROPOSERS))
@pytest.mark.parametrize(("num", "of", "dimension"), [(700, 2, 3), (900, 40, 24), (300, 9, 384)])
def test_who_proposes_neighbours_does_not_change_which_are_the_nearest(
    propose: Propose, num: int, of: int, dimension: int
) -> None:
    vectors, base = drawn(num, dimension), drawn(of, dimension, seed=4)
    base = np.concatenate([base, base[:1], vectors[:2]])  # one twice, and some that a vector lies on
    base[-1, 0] = np.nextafter(base[-1, 0], np.float16(2), dtype=np.float16)  # and one beside it by the last bit
    near = closest_within(vectors, base, propose)
    expected = through_all(vectors, base)
    assert near.labels.tolist() == expected.tolist() and of not in near.labels
    every = np.sqrt(np.square(vectors[:, None].astype(np.float64) - base[None]).sum(axis=2))
    own = every[np.arange(num), expected]
    every[np.arange(num), expected] = np.inf
    assert (near.upper >= own).all() and (near.lower <= every.min(axis=1)).all()
    assert distances(vectors, base, near.labels).tolist() == own.astype(np.float32).tolist()


def test_on_a_graphics_card_the_bytes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done there is done here, faiss searching on this CPU what is to be searched on the card."""
    import faiss

    def search(_: None, vectors: Halves, base: Halves, k: int) -> Any:
        assert vectors.dtype == base.dtype == np.float16
        return faiss.knn(vectors.astype(np.float32), base.astype(np.float32), k)

    vectors, base = drawn(900, 40), drawn(60, 40, seed=4)
    centroids = np.concatenate([base, base[:5]])
    here = closest_within(vectors, centroids)
    method = Method(kind="spherical", start="sampled", restarts=2, iterations=6, seed=3)
    fit = kmeans.centroids_of(vectors, 20, method)
    calls: list[int] = []
    monkeypatch.setattr(faiss, "knn_gpu", lambda *given: calls.append(1) or search(*given), raising=False)
    monkeypatch.setattr(neighbours, "_resources", lambda: None)
    monkeypatch.setattr(neighbours, "has_gpu", lambda: True)
    assert closest_within(vectors, centroids).labels.tobytes() == here.labels.tobytes() and calls
    assert closest(vectors, base[:2]).tobytes() == closest(vectors, base[:2], on_cpu).tobytes()
    assert kmeans.centroids_of(vectors, 20, method).tobytes() == fit.tobytes()


@given(seed=st.integers(0, 2**31), num=st.integers(1, 40), of=st.integers(1, 30), dimension=st.integers(1, 6))
def test_the_closest_is_the_first_of_the_nearest_also_among_copies(
    seed: int, num: int, of: int, dimension: int
) -> None:
    random = np.random.default_rng(seed)
    vectors, base = (random.integers(-2, 3, (n, dimension)).astype(np.float16) for n in (num, of))
    assert closest(vectors, base).tolist() == through_all(vectors, base).tolist()
    assert nearest(vectors, base, 1)[0][:, 0].tolist() == through_all(vectors, base).tolist()
    labels, apart = nearest(vectors, base, 3)
    every = np.square(vectors[:, None].astype(np.float64) - base[None]).sum(axis=2)
    assert labels.tolist() == np.argsort(every, axis=1, kind="stable")[:, :3].tolist()
    assert apart.tolist() == np.sqrt(np.sort(every, axis=1)[:, :3]).astype(np.float32).tolist()


def test_there_is_an_answer_for_no_vectors_and_for_one_centroid() -> None:
    none, one = np.empty((0, 4), np.float16), np.ones((1, 4), np.float16)
    assert closest(none, one).shape == closest(none, np.ones((3, 4), np.float16)).shape == (0,)
    assert closest(np.ones((3, 4), np.float16), one).tolist() == [0, 0, 0]
    assert nearest(none, one, 2)[0].shape == (0, 1) and distances(none, one, closest(none, one)).shape == (0,)


def test_lloyd_of_the_worked_case_ends_after_two_steps() -> None:
    points = np.array([[0], [1], [2], [10], [11], [12]], np.float16)
    measure = kmeans.Measure(points)
    lengths = float(np.square(points.astype(np.float64)).sum())
    sums = measure(points[:2])
    first = kmeans.moved(sums, points[:2], "euclidean")
    assert first[:, 0].tolist() == [0, np.float16(7.2)]
    assert lengths + kmeans.objective(sums, first) == pytest.approx(110.8, abs=1e-4)
    fit = kmeans.lloyd(points[:2], measure, 10, "euclidean")
    assert fit.centroids[:, 0].tolist() == [1, 11] and lengths + fit.objective == 4


@pytest.mark.parametrize("kind", ["euclidean", "spherical"])
def test_what_is_remembered_of_the_last_step_changes_no_sum(kind: Kind) -> None:
    vectors = drawn(2_000, 20)
    measure, centroids = kmeans.Measure(vectors), vectors[:25]
    for _ in range(12):
        labels = through_all(vectors, centroids)
        sums, afresh = measure(centroids), kmeans.sums_by(labels, 25, vectors)
        assert np.array_equal(sums.vectors, afresh.vectors) and np.array_equal(sums.sizes, afresh.sizes)
        centroids = kmeans.moved(sums, centroids, kind)
    if kind == "spherical":
        assert np.linalg.norm(centroids.astype(np.float64), axis=1) == pytest.approx(1, abs=1e-3)


def test_sums_of_pieces_add_up_to_those_of_the_whole_in_any_order() -> None:
    vectors = drawn(3_000, 16)
    whole = kmeans.sums(vectors, vectors[:9], vectors)
    pieces = [vectors[first : first + 700] for first in range(0, 3_000, 700)]
    for order in itertools.islice(itertools.permutations(pieces), 0, 120, 17):
        added = functools.reduce(kmeans.Sums.__add__, (kmeans.sums(some, vectors[:9], some) for some in order))
        assert np.array_equal(added.vectors, whole.vectors) and np.array_equal(added.sizes, whole.sizes)


def test_an_empty_cluster_is_given_half_of_the_largest_and_the_first_of_equal_ones() -> None:
    sums = kmeans.Sums(vectors=np.array([[4.0, 4.0], [0, 0], [4, -4], [0, 0]]), sizes=np.array([4, 0, 4, 0]))
    split = kmeans.moved(sums, np.zeros((4, 2), np.float16), "euclidean")
    low, high = np.float16(1 - 1 / 128), np.float16(1 + 1 / 128)
    assert split.tolist() == [[low, high], [high, low], [low, -high], [high, -low]]
    alone = kmeans.Sums(vectors=np.array([[1.0, 0], [0, 0]]), sizes=np.array([1, 0]))
    kept = kmeans.moved(alone, np.array([[0, 0], [0, 5]], np.float16), "euclidean")
    assert kept.tolist() == [[1, 0], [0, 5]], "a cluster of one document is not split"


@pytest.mark.parametrize("start", ["sampled", "k-means++"])
def test_a_start_is_drawn_by_keyed_numbers(start: Start) -> None:
    vectors = drawn(900, 12)
    method = Method(kind="euclidean", start=start, restarts=1, iterations=1, seed=7)
    first = kmeans.start(vectors, 20, method, 0)
    assert np.array_equal(first, kmeans.start(vectors, 20, method, 0)) and first.shape == (20, 12)
    assert not np.array_equal(first, kmeans.start(vectors, 20, method, 1))
    assert {row.tobytes() for row in first} <= {row.tobytes() for row in vectors}


def test_a_likelier_start_covers_topics_that_an_equal_one_misses() -> None:
    """In a hundred starts of eight among eight topics far apart, of which one has most of the documents."""
    random, topics = np.random.default_rng(2), np.eye(8)
    of = np.where(random.random(4_000) < 0.8, 0, random.integers(0, 8, 4_000))
    vectors = (topics[of] + 0.02 * random.normal(size=(4_000, 8))).astype(np.float16)

    def covered(start: Start) -> float:
        method = Method(kind="euclidean", start=start, restarts=1, iterations=1, seed=1)
        starts = (kmeans.start(vectors, 8, method, number) for number in range(100))
        return float(np.mean([len(set(through_all(begin, topics.astype(np.float16)).tolist())) for begin in starts]))

    assert covered("k-means++") > 7 and covered("sampled") < 4


def test_more_starts_are_never_worse() -> None:
    vectors = drawn(1_500, 8, num_topics=12, spread=0.2)

    def objective(restarts: int) -> float:
        method = Method(kind="euclidean", start="sampled", restarts=restarts, iterations=10, seed=5)
        measure = kmeans.Measure(vectors)
        best = kmeans.fitted(vectors, 12, measure, method)
        return kmeans.objective(measure(best), best)

    found = [objective(restarts) for restarts in (1, 4, 12)]
    assert found == sorted(found, reverse=True) and found[2] < found[0]


def test_a_hierarchy_covers_where_there_is_little_as_where_there_is_much() -> None:
    """Nineteen documents in twenty are in one half of the circle: resampled, its half of the centroids comes nearer."""
    random = np.random.default_rng(8)
    angles = np.where(random.random(6_000) < 0.95, random.random(6_000), 1 + random.random(6_000)) * np.pi
    vectors = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float16)
    method = Method(kind="euclidean", start="sampled", restarts=1, iterations=15, seed=2)
    flat = kmeans.centroids_of(vectors, 64, method)
    fine, coarse = kmeans.hierarchy(vectors, (64, 8), method)
    assert fine.shape == (64, 2) and coarse.shape == (8, 2)
    sparse = [int((centroids[:, 1] < 0).sum()) for centroids in (flat, fine)]
    assert sparse[1] > 2 * sparse[0] > 0, sparse
    assert np.array_equal(fine, kmeans.hierarchy(vectors, (64,), method)[0])


def test_all_equal_vectors_leave_clusters_empty_and_do_no_harm() -> None:
    same = np.full((50, 5), 0.4, np.float16)
    fit = kmeans.lloyd(same[:4], kmeans.Measure(same), 10, "euclidean")
    assert (
        np.isfinite(fit.centroids).all() and distances(same, fit.centroids, closest(same, fit.centroids)).max() < 0.01
    )


def test_a_projection_on_principal_components_rounds_once_and_loses_little() -> None:
    random = np.random.default_rng(4)
    flat = random.normal(size=(2_000, 20)) @ random.normal(size=(20, 200))
    vectors = (flat / np.linalg.norm(flat, axis=1, keepdims=True)).astype(np.float16)
    directions = kmeans.components(vectors, 20)
    assert directions is not None and directions.dtype == np.float16 and directions.shape == (200, 20)
    along = kmeans.projected(vectors, directions)
    exact = vectors.astype(np.float64) @ directions.astype(np.float64)
    assert np.array_equal(along, exact.astype(np.float16))
    assert np.array_equal(kmeans.projected(vectors[::-1], directions)[::-1], along)
    assert np.linalg.norm(along.astype(np.float64), axis=1) == pytest.approx(1, abs=3e-3)
    assert kmeans.components(vectors, 200) is None and kmeans.projected(vectors, None) is vectors


def test_lifted_centroids_are_means_of_whole_vectors() -> None:
    vectors = drawn(1_000, 150)
    directions = kmeans.components(vectors, 10)
    along = kmeans.projected(vectors, directions)
    far = np.full((1, 10), 3, np.float16)  # nobody's nearest
    fit = np.concatenate([kmeans.lloyd(along[:6], kmeans.Measure(along), 5, "euclidean").centroids, far])
    lifted = kmeans.lifted(kmeans.sums(along, fit, vectors), fit, directions, "euclidean")
    labels = through_all(along, fit)
    for cluster in range(6):
        mean = vectors[labels == cluster].astype(np.float64).mean(axis=0)
        assert np.array_equal(lifted[cluster], mean.astype(np.float16))
    assert lifted.shape == (7, 150) and np.isfinite(lifted).all()
