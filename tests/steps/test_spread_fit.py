"""A sample too large for one machine is fitted by workers, block by block: the same bytes as in memory, whoever works
and whoever is killed."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from conftest import MemoryStorage
from jobs.executor import RayExecutor
from selector import tables
from selector.engine.executor import Executor
from selector.engine.local import LocalExecutor
from selector.engine.step import Done, Result
from selector.engine.store import Store
from selector.exact import keyed
from selector.exact.vectors import vector_column
from selector.models.kmeans import Kind, Method, Start
from selector.steps import sample
from selector.steps.centroids import Centroids
from selector.steps.embed import samples_of

NUM_DOCUMENTS, DIMENSION, NUM_CLUSTERS = 3_000, 140, 12


def embed(store: Store, rows: int = 75) -> Done:
    """A flow in which embed is done, in parts of so many documents."""
    done, random = Done(store), np.random.default_rng(5)
    topics = random.normal(size=(20, DIMENSION))
    ids = keyed.ids(random.integers(0, 2**63, (NUM_DOCUMENTS, 2)).astype(np.uint64))
    vectors = topics[random.integers(0, 20, NUM_DOCUMENTS)] + 0.8 * random.normal(size=(NUM_DOCUMENTS, DIMENSION))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    table = pa.table([ids, vector_column(vectors)], schema=tables.embeddings(DIMENSION))
    cut = [table.slice(at, rows).combine_chunks() for at in range(0, NUM_DOCUMENTS, rows)]
    seals = [
        store.seal(f"embed/{i}", [("embeddings", one), *samples_of(one, one.num_rows).items()])
        for i, one in enumerate(cut)
    ]
    plain: dict[str, Any] = {"fingerprint": "", "cached": True, "rows_in": 0, "num_bytes": 0, "seconds": 0.0}
    done.add(Result(name="embed", rows_out=NUM_DOCUMENTS, parts=seals, **plain))
    return done


def fitted(done: Done, kind: Kind = "euclidean", start: Start = "sampled", restarts: int = 1) -> pa.Table:
    method = Method(kind=kind, start=start, restarts=restarts, iterations=4, seed=7)
    step = Centroids(num_clusters=NUM_CLUSTERS, documents_per_cluster=200, method=method)
    return dict(step.compute(done))["centroids"]


def fitted_by(executor: Executor, root: str) -> pa.Table:
    """The centroids, fitted block by block on an executor."""
    with executor, spread():
        done = embed(Store.open(root))
        done.map = executor.map
        return fitted(done)


@contextlib.contextmanager
def spread(rows: int = 500) -> Generator[None]:
    """Meanwhile no sample is held in memory, and a block has about so many rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "HELD_BYTES", 0)
        patch.setattr(sample, "BLOCK_ROWS", rows)
        yield


@pytest.fixture(scope="module")
def held() -> pa.Table:
    return fitted(embed(Store(MemoryStorage())))


@pytest.mark.parametrize("rows", [500, 10**6])
@pytest.mark.parametrize("options", [{}, {"kind": "spherical"}, {"start": "k-means++", "restarts": 2}], ids=str)
def test_a_fit_block_by_block_is_that_in_memory(rows: int, options: dict[str, Any]) -> None:
    whole = fitted(embed(Store(MemoryStorage())), **options)
    with spread(rows):
        assert fitted(embed(Store(MemoryStorage())), **options).equals(whole)


def test_blocks_do_not_depend_on_the_cut_into_parts(held: pa.Table) -> None:
    with spread():
        assert fitted(embed(Store(MemoryStorage()), rows=1_100)).equals(held)


@pytest.mark.slow
@pytest.mark.parametrize("on", ["here", "Ray"])
def test_a_fit_is_the_same_for_any_number_of_workers(
    on: str, held: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with RayExecutor() if on == "Ray" else contextlib.nullcontext():  # one Ray, which the executors in it find
        for workers in (1, 2, 5):
            executor = RayExecutor(actors=workers) if on == "Ray" else LocalExecutor(workers=workers)
            assert fitted_by(executor, str(tmp_path / str(workers))).equals(held)


PROGRAM = """
import sys
from test_spread_fit import LocalExecutor, bytes_of, fitted_by
table = fitted_by(LocalExecutor(workers=1), sys.argv[1])
print(bytes_of(table))
"""


def in_a_process(root: Path, failpoint: str) -> tuple[int, str]:
    """The exit code of a process that fits and may be killed, and the centroids that it found."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), str(here.parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "SELECTOR_FAILPOINT": failpoint}
    command = [sys.executable, "-c", PROGRAM, str(root)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout.strip()


def bytes_of(centroids: pa.Table) -> str:
    return centroids["centroid"].combine_chunks().flatten().to_numpy().tobytes().hex()


@pytest.mark.slow
def test_a_fit_that_is_killed_again_and_again_goes_on_and_ends_the_same(held: pa.Table, tmp_path: Path) -> None:
    kills = 0
    while (ended := in_a_process(tmp_path, "store.after_seal:kill:12"))[0] == -signal.SIGKILL:
        kills += 1
        assert kills < 20, "it does not go on where it was"
    assert ended == (0, bytes_of(held)) and kills >= 2
