"""Centroids are fitted on a sample that depends on the documents alone, and a large corpus is not read for it."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from conftest import MemoryStorage
from selector import tables
from selector.engine.step import Done, Result
from selector.engine.store import Seal, Store
from selector.exact import keyed
from selector.exact.vectors import vector_column, vectors_of
from selector.models import kmeans
from selector.models.kmeans import Method
from selector.models.neighbours import closest
from selector.steps.centroids import Centroids, branches_of, tree
from selector.steps.embed import SAMPLES, sampled, samples_of

NUM_DOCUMENTS = 9_000


@pytest.fixture(scope="module")
def embeddings() -> pa.Table:
    random = np.random.default_rng(5)
    ids = keyed.ids(random.integers(0, 2**63, (NUM_DOCUMENTS, 2)).astype(np.uint64))
    vectors = random.normal(size=(NUM_DOCUMENTS, 4)).astype(np.float16)
    return pa.table([ids, vector_column(vectors)], schema=tables.embeddings(4))


def embedded(store: Store, table: pa.Table, rows: int) -> list[Seal]:
    """What embed stores of the documents, in parts of so many."""
    cut = [table.slice(first, rows).combine_chunks() for first in range(0, table.num_rows, rows)]
    return [
        store.seal(f"embed/{i}", [("embeddings", one), *samples_of(one, one.num_rows).items()])
        for i, one in enumerate(cut)
    ]


def fitted(store: Store, seals: list[Seal], per_cluster: int, seed: int = 7) -> pa.Table:
    done = Done(store)
    done.add(
        Result(
            name="embed", fingerprint="", cached=True, rows_in=0, rows_out=NUM_DOCUMENTS, num_bytes=0, seconds=0,
            parts=seals,
        )
    )  # fmt: skip
    method = Method(kind="euclidean", start="sampled", restarts=1, iterations=4, seed=seed)
    step = Centroids(num_clusters=3, documents_per_cluster=per_cluster, method=method)
    return dict(step.compute(done))["centroids"]


@pytest.mark.parametrize("per_cluster", [100, 3_000])  # a sample has enough; only the whole corpus has
def test_centroids_do_not_depend_on_the_cut_into_parts(per_cluster: int, embeddings: pa.Table) -> None:
    stores = [Store(MemoryStorage()) for _ in range(2)]
    large, small = (embedded(store, embeddings, rows) for store, rows in zip(stores, (3000, 500), strict=True))
    assert "sample.4" in large[0].tables and set(small[0].tables) == {"embeddings"}
    first, second = (fitted(store, seals, per_cluster) for store, seals in zip(stores, (large, small), strict=True))
    assert first.equals(second) and first.num_rows == 3
    assert not first.equals(fitted(stores[0], large, per_cluster, seed=8))


def test_a_cluster_knows_the_coarser_ones_that_hold_it_the_coarsest_first(embeddings: pa.Table) -> None:
    store, vectors = Store(MemoryStorage()), vectors_of(embeddings["embedding"])
    method = Method(kind="euclidean", start="sampled", restarts=1, iterations=4, seed=1)
    levels = kmeans.hierarchy(vectors[:1500], (40, 9, 2), method)
    store.seal("levels", [("levels", tree(levels))])
    fine = closest(levels[0], levels[1])
    expected = np.column_stack([closest(levels[1], levels[2])[fine], fine])
    assert branches_of(store, "levels", 40).to_pylist() == expected.tolist()
    store.seal("flat", [("levels", tree(levels[:1]))])
    assert branches_of(store, "flat", 40).to_pylist() == [[]] * 40


@pytest.mark.parametrize(("per_cluster", "read"), [(100, {"sample.4"}), (3_000, {"embeddings"})])
def test_where_a_sample_has_enough_no_other_vector_is_read(
    per_cluster: int, read: set[str], embeddings: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, names, blob = Store(MemoryStorage()), set[str](), Store.blob

    def noted(store: Store, seal: Seal, name: str) -> bytes:
        if seal.key.startswith("embed/"):
            names.add(name)
        return blob(store, seal, name)

    seals = embedded(store, embeddings, 3000)
    monkeypatch.setattr(Store, "blob", noted)
    fitted(store, seals, per_cluster)
    assert names == read


def test_samples_are_nested_and_as_large_as_they_say(embeddings: pa.Table) -> None:
    store = Store(MemoryStorage())
    seals = embedded(store, embeddings, 3000)
    ids = [
        {doc_id for seal in seals for doc_id in sampled(store, seal, one_of)["doc_id"].to_pylist()}
        for one_of in (1, *SAMPLES)
    ]
    assert all(inner < outer for outer, inner in itertools.pairwise(ids))
    expected = [NUM_DOCUMENTS / one_of for one_of in (1, *SAMPLES)]
    assert [len(some) for some in ids] == pytest.approx(expected, rel=0.2)
