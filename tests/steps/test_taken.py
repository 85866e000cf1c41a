"""`cluster.from`: the centroids of a finished run are taken as they are, and nothing is assigned to them twice."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import write_jsonl
from runs import Noting, corpus_rows, policy_of, run, uncached, write_corpus
from selector.engine.store import Store
from selector.errors import PolicyError
from selector.manifest import Manifest
from selector.pipeline import FinishedRun
from selector.policy import Policy

pytestmark = pytest.mark.slow

Make = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def make(corpus: Path, tiny_model: Path) -> Make:
    def policy(**sections: Any) -> dict[str, Any]:
        return policy_of(corpus, tiny_model, **sections)

    return policy


@pytest.fixture(scope="module")
def first(make: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[FinishedRun, Path]:
    root = tmp_path_factory.mktemp("root")
    return run(make(), root), root


def taking(uri: str, **more: Any) -> dict[str, Any]:
    return {"from": uri, **more}


def test_a_corpus_that_grows_assigns_only_what_is_new(
    make: Make, corpus: Path, first: tuple[FinishedRun, Path], tmp_path: Path
) -> None:
    larger, root, notes = tmp_path / "corpus", tmp_path / "root", tmp_path / "notes"
    shutil.copytree(corpus, larger)
    shutil.copytree(first[1], root)
    write_jsonl(larger / "00.jsonl", corpus_rows(500, 560))
    notes.touch()
    (home,) = [path.parent for path in root.glob("*/plan.json")]
    wanted = make(corpus={"paths": [str(larger)], "rows_per_part": 20}, cluster=taking(str(home)))
    after = run(wanted, root, Noting(notes=notes))
    done = [key.partition("/")[0] for key in notes.read_text("utf-8").split()]
    assert done.count("cluster") == done.count("embed") == 3 and done.count("rate") == 3 + 3
    assert "centroids" not in uncached(after)
    assert after.manifest.header.lineage["centroids"] == first[0].manifest.header.lineage["centroids"]


def test_wherever_the_other_run_lies_the_manifest_is_the_same(
    make: Make, first: tuple[FinishedRun, Path], tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(first[1], moved)
    found = set[str]()
    for number, uri in enumerate((first[0].uri, f"{first[0].uri}/manifest", str(moved))):
        outcome = run(make(cluster=taking(uri)), tmp_path / str(number))
        assert "centroids" in uncached(outcome) and outcome.manifest.verify().ok
        found.add(outcome.manifest.digest)
    assert len(found) == 1
    again = run(make(cluster=taking(str(tmp_path / "0"))), tmp_path / "again")
    assert {again.manifest.digest} == found, "they can be handed on"


def test_what_takes_no_clusters_does_not_look_at_the_other_run(make: Make, tmp_path: Path) -> None:
    plain = make(rate=[], manifest={}, order={"using": "shuffled"}, cluster=taking("nowhere"))
    plain["select"] = {"budget": {"documents": 10}, "using": "random"}
    assert len(run(plain, tmp_path).manifest) == 10


def test_a_run_that_does_not_fit_is_refused_in_words(
    make: Make, first: tuple[FinishedRun, Path], tiny_model: Path, tmp_path: Path
) -> None:
    def refused(match: str, uri: str = first[0].uri, /, *, model: Path = tiny_model, **more: Any) -> None:
        embed = {"model": str(model), "precision": "float32", "max_tokens": 32}
        with pytest.raises(PolicyError, match=match):
            run(make(cluster=taking(uri, **more), embed=embed), tmp_path / "root")

    refused(r"cluster\.from: '.*nowhere' is no finished run: .*no manifest", str(tmp_path / "nowhere"))
    plain = make(rate=[], manifest={}, order={"using": "shuffled"})
    plain["select"] = {"budget": {"documents": 10}, "using": "random"}
    without = run(plain, tmp_path / "without").uri
    refused("has no centroids: nothing in its policy reads clusters", without)
    refused(r"cluster\.num_clusters is 5, and .* has 4 centroids\. Leave out one", num_clusters=5)
    other = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    refused("embedded with another model than .*model", model=other)
    gone = tmp_path / "gone"
    shutil.copytree(first[1], gone)
    fingerprint = Manifest.open(str(gone)).header.lineage["centroids"]
    Store.open(str(gone)).discard(f"centroids/{fingerprint}")
    refused("its centroids are gone. Run its policy again", str(gone))
    run(make(), gone)
    (seal,) = gone.rglob(f"*{fingerprint}*")
    seal.write_bytes(seal.read_bytes()[:-1] + b"\0")
    refused("its centroids are damaged: .* Run its policy again", str(gone))


@pytest.mark.parametrize("value", ["", 7, ["a"]])
def test_a_run_is_named_by_text(value: Any, make: Make) -> None:
    with pytest.raises(PolicyError, match=r"cluster\.from"):
        Policy.of(make(cluster={"from": value}))


def test_a_policy_that_takes_centroids_is_written_as_it_is_read(make: Make) -> None:
    policy = Policy.of(make(cluster=taking("runs/2f1c")))
    assert policy.resolved()["cluster"]["from"] == "runs/2f1c"
    assert Policy.of(policy.resolved()).resolved() == policy.resolved()
