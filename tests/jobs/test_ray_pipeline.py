"""The whole flow on real Ray actors: the same bytes as in one process, whatever happens to the workers."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import cluster as cluster
from conftest import write_jsonl
from jobs.executor import RayExecutor
from runs import policy_of, run, write_corpus
from selector.manifest import Manifest
from selector.manifest.header import Parent
from selector.pipeline import FinishedRun, build
from selector.policy import Policy
from selector.steps import shards

pytestmark = pytest.mark.slow

Make = Callable[..., dict[str, Any]]


def rate_of(folder: Path, trouble: str, *, always: bool = False) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return {"troubled:Troubled": {"folder": str(folder), "trouble": trouble, "always": always}}


@pytest.fixture(scope="module")
def make(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"))
    return lambda **sections: policy_of(corpus, tiny_model, **sections)


@pytest.fixture(scope="module")
def here(make: Make, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The policy, run in one process."""
    return run(make(), tmp_path_factory.mktemp("here"))


@pytest.fixture
def root(here: FinishedRun, tmp_path: Path) -> Path:
    """A root in which all that needs a model is done, so that the workers that fail are quick to start."""
    return Path(shutil.copytree(Path(here.uri).parent, tmp_path / "root"))


@pytest.mark.parametrize("actors", [1, 2, 3])
def test_any_number_of_actors_gives_the_manifest_of_one_process(
    actors: int, make: Make, here: FinishedRun, tmp_path: Path
) -> None:
    there = build(Policy.of(make()), root=str(tmp_path), executor=RayExecutor(actors=actors)).manifest
    assert there.digest == here.manifest.digest and there.verify().ok


def test_rounds_limits_and_groups_that_meet_are_decided_by_actors_as_in_one_process(
    make: Make, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two actors, shards of thirty documents; of rounds that wait the second follows the first."""
    monkeypatch.setattr(shards, "SHARD_ROWS", 30)
    must = write_jsonl(tmp_path / "must.jsonl", [{"doc_id": row["doc_id"].hex()} for row in rows_of(root)[:3]])
    bounds = {"source": {"web": {"least": 0.5}, "books": {"most": 0.2}}}
    limits = {"shares": bounds, "visits": {"most": 1}, "include": [str(must)]}
    feedback = write_jsonl(tmp_path / "feedback.jsonl", [])
    fed = {"inner": "random", "rounds": 2, "mode": "softmax", "feedback": str(feedback)}
    made: list[Manifest] = []
    for using, more in (
        ({"iterative": {"inner": {"kmeans_quality": {"score": "prototypicality"}}, "signal": "readability"}}, limits),
        ({"k_center": {"quota": "equal"}}, {"include": [str(must)]}),
        ({"iterative": fed}, {"visits": {"most": 2}}),
        ({"iterative": fed}, {"visits": {"most": 2}}),
    ):
        if made and "feedback" in json.dumps(using) and made[-1].info["facts"]["select"].get("waiting"):
            rows = [{"doc_id": row["doc_id"].hex(), "round": 1, "score": 0.5} for row in rows_of(made[-1])]
            write_jsonl(feedback, rows)
        policy = make(select={"budget": {"documents": 24}, "using": using, **more})
        here = run(policy, tmp_path / "alone").manifest
        made.append(build(Policy.of(policy), root=str(root), executor=RayExecutor(actors=2)).manifest)
        assert made[-1].digest == here.digest and made[-1].verify().ok, using
    first, second = made[-2:]
    assert second.header.parent == Parent(digest=first.digest, position=len(first)) and len(second) == 2 * len(first)


def rows_of(run: Path | Manifest) -> list[dict[str, Any]]:
    """The visits of a manifest, or of the one run in a root."""
    manifest = run if isinstance(run, Manifest) else Manifest.open(str(next(run.glob("*/manifest")).parent))
    return manifest.rows(0, len(manifest)).to_pylist()


@pytest.mark.parametrize("trouble", ["dies", "hangs", "raises"])
def test_a_worker_that_fails_once_in_the_middle_of_a_part_changes_nothing(
    trouble: str, make: Make, root: Path, tmp_path: Path
) -> None:
    policy = make(rate=["readability", "prototypicality", rate_of(tmp_path / "work", trouble)])
    outcome = build(Policy.of(policy), root=str(root), executor=RayExecutor(actors=2, deadline=15))
    assert (tmp_path / "work/met").exists() and outcome.num_quarantined == 2, "rows that have no text"
    finished = Counter((tmp_path / "work/parts").read_text().splitlines())
    again = {text for text, times in finished.items() if times > 1 and text}  # a trial of no rows has no text
    assert len(again) <= (trouble == "hangs"), "only the part at which a worker hung is done again, in pieces"
    undisturbed = run(policy, tmp_path / "local")
    assert outcome.manifest.digest == undisturbed.manifest.digest


def test_a_document_that_no_worker_survives_ends_in_quarantine_and_the_run_completes(
    make: Make, root: Path, tmp_path: Path
) -> None:
    rate = ["readability", "prototypicality", rate_of(tmp_path / "work", "dies", always=True)]
    policy = Policy.of(make(rate=rate, select={"budget": {"fraction": 1.0}}))
    outcome = build(policy, root=str(root), executor=RayExecutor(actors=2))
    manifest = Manifest.open(outcome.uri)
    assert outcome.num_quarantined == 2 + 1 and manifest.verify().ok
    lost = [json.loads(line) for line in Path(outcome.uri, "quarantine.jsonl").read_text().splitlines()]
    (lost,) = [row for row in lost if row["step"] != "ingest"]
    assert lost["row"] == 37 and lost["step"] == "rate/Troubled" and lost["reason"] == "worker_died"
    counts = manifest.info["counts"]
    assert counts["kept"] == counts["documents"] - counts["duplicate"] - 1
