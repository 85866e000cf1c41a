"""What is said of clusters that are of little use: each fault by its own gate, and nothing of sound ones."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from conftest import MemoryStorage
from selector import tables
from selector.engine.step import Done, Result
from selector.engine.store import Store
from selector.errors import SelectorError
from selector.exact import keyed
from selector.exact.vectors import vector_column
from selector.models.neighbours import Halves, closest, distances
from selector.steps import health
from selector.steps.embed import samples_of

DIMENSION, NUM_DOCUMENTS = 16, 2_000


def unit(vectors: Any) -> Halves:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def sound(num: int = NUM_DOCUMENTS, spread: float = 0.3) -> tuple[Halves, Halves]:
    """Documents around twenty topics, and the topics."""
    random = np.random.default_rng(6)
    topics = random.normal(size=(20, DIMENSION))
    vectors = topics[random.integers(0, 20, num)] + spread * random.normal(size=(num, DIMENSION))
    return unit(vectors), unit(topics)


def lopsided() -> tuple[Halves, Halves]:
    vectors, topics = sound()
    vectors[:1_900] = vectors[0]
    vectors[:1_900] += np.random.default_rng(1).normal(scale=0.05, size=(1_900, DIMENSION)).astype(np.float16)
    return vectors, topics


def with_unused() -> tuple[Halves, Halves]:
    vectors, topics = sound()
    return vectors, np.concatenate([topics, 9 + np.arange(80, dtype=np.float16).reshape(5, 16)])


def in_spots() -> tuple[Halves, Halves]:
    topics = sound()[1]
    return np.repeat(topics, 100, axis=0), topics


def with_twins() -> tuple[Halves, Halves]:
    vectors, topics = sound()
    return vectors, np.concatenate([topics, topics[:3]])


def beside() -> tuple[Halves, Halves]:
    """A tenth of the documents points away from every centroid."""
    vectors, topics = sound()
    vectors[:200] = unit(-topics.astype(np.float64).sum(axis=0, keepdims=True))
    return vectors, topics


def done_of(vectors: Halves, centroids: Halves, rows: int = 500, without: int = 0) -> Done:
    """A flow in which cluster is done, in parts of so many rows; some documents have no vector."""
    store = Store(MemoryStorage())
    done = Done(store)
    random = np.random.default_rng(5)
    ids = keyed.ids(random.integers(0, 2**63, (len(vectors), 2)).astype(np.uint64))
    table = pa.table([ids, vector_column(vectors)], schema=tables.embeddings(vectors.shape[1]))
    seals = [
        store.seal(f"embed/{i}", [("embeddings", some), *samples_of(some, len(some)).items()])
        for i, some in enumerate(table.slice(at, rows).combine_chunks() for at in range(0, len(vectors), rows))
    ]
    numbers = pa.array(np.arange(len(centroids), dtype=np.int32))
    middle = pa.table([numbers, vector_column(centroids)], schema=tables.centroids(vectors.shape[1]))
    plain: dict[str, Any] = {"fingerprint": "", "cached": True, "rows_in": 0, "num_bytes": 0, "seconds": 0.0}
    done.add(Result(name="dedup", rows_out=len(vectors) + without, **plain))
    done.add(Result(name="embed", rows_out=len(vectors), parts=seals, **plain))
    centroids_seal = store.seal("centroids/0", [("centroids", middle)])
    done.add(Result(name="centroids", rows_out=len(centroids), answer=centroids_seal, **plain))
    labels = closest(vectors, centroids)
    apart = distances(vectors, centroids, labels)
    places = [slice(at, at + rows) for at in range(0, len(vectors), rows)]
    examined = health.examined(done, (health.sizes_of(labels[at], apart[at], vectors[at]) for at in places))
    done.add(
        Result(name="cluster", rows_out=len(vectors), answer=store.seal("cluster/0", [("health", examined)]), **plain)
    )
    return done


GATES: dict[str, tuple[Callable[[], tuple[Halves, Halves]], str]] = {
    "imbalance": (
        lopsided,
        r"their imbalance is 1\d\.\d, 10 at most: the largest of 20 has 1,9\d\d of 2,000 documents",
    ),
    "near_empty": (with_unused, r"5 of 25 are nearly empty: less than a tenth of the mean"),
    "spots": (in_spots, r"20 of 20 have collapsed"),
    "twins": (with_twins, r"6 of 23 have collapsed"),
    "unassignable": (beside, r"200 documents are of no cluster in particular"),
}


def test_sound_clusters_pass_every_gate(caplog: pytest.LogCaptureFixture) -> None:
    done = done_of(*sound())
    health.check(done, "stop")
    health.check(done, "warn")
    assert caplog.records == []
    (row,) = done.table("cluster", "health").to_pylist()
    assert row["clusters"] == 20 and row["documents"] == 2_000 and 1 <= row["imbalance"] < 1.2
    assert row["near_empty"] == row["collapsed"] == row["unassignable"] == row["without_vector"] == 0
    assert row["coherence"] > 0.95 and row["coherence_by_chance"] < 0.1


@pytest.mark.parametrize(("make", "problem"), GATES.values(), ids=list(GATES))
def test_each_fault_is_told_or_stops_the_run(
    make: Callable[[], tuple[Halves, Halves]], problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    done = done_of(*make())
    with caplog.at_level(logging.WARNING):
        health.check(done, "warn")
    assert [record.getMessage()[:10] for record in caplog.records] == ["clusters: "] * len(caplog.records) != []
    with pytest.raises(SelectorError, match=rf"cluster\.gates is stop, .*{problem}.* write cluster\.gates: warn"):
        health.check(done, "stop")


def test_documents_without_a_vector_belong_to_no_cluster() -> None:
    done = done_of(*sound(), without=30)
    assert done.table("cluster", "health")["without_vector"].to_pylist() == [30]
    with pytest.raises(SelectorError, match="30 documents are of no cluster in particular"):
        health.check(done, "stop")


def test_what_is_said_does_not_depend_on_the_cut_into_parts() -> None:
    first, second = (done_of(*beside(), rows=rows).table("cluster", "health") for rows in (2_000, 130))
    assert first.equals(second)


def test_a_corpus_of_next_to_nothing_has_a_report() -> None:
    vectors, _ = sound(num=1)
    (row,) = done_of(vectors, vectors).table("cluster", "health").to_pylist()
    assert row["documents"] == 1 and row["coherence"] is None
    health.check(done_of(vectors, vectors), "stop")


def test_clusters_that_neighbours_do_not_share_say_little() -> None:
    (row,) = done_of(*sound()).table("cluster", "health").to_pylist()
    for coherence, chance, is_told in ((0.3, 0.25, True), (0.3, 0.05, False), (1.0, 1.0, False), (None, 0.5, False)):
        lines = list(health.problems_of({**row, "coherence": coherence, "coherence_by_chance": chance}))
        assert [line[:63] for line in lines] == [
            "neighbours are together in 0.3 of the sampled cases, and 0.25 w"
        ] * is_told
