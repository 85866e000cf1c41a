"""Every selector of ours makes the same manifest in a run, whatever the size of the shards."""

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import write_jsonl
from runs import policy_of, write_corpus
from selector import failpoint, plugins
from selector.engine.local import LocalExecutor
from selector.errors import PolicyError, SelectorError
from selector.manifest import Manifest
from selector.pipeline import build
from selector.policy import Policy
from selector.steps import regroup, shards

pytestmark = pytest.mark.slow

BEST: dict[str, Any] = {"score": "prototypicality"}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "closest": [{}],
    "decorrelated": [{"batch": 30, "picks": 8}],
    "determinantal": [{"score": "prototypicality", "quota": "equal"}],
    "difference": [{"reference": "readability", "teacher": "prototypicality"}],
    "diverse": [{**BEST, "most": 0.8}],
    "facility_location": [{"score": "prototypicality"}],
    "farthest": [{"quota": "equal"}],
    "hierarchical": [{}, {"levels": [2, 3], "inside": "closest"}],
    "importance": [BEST],
    "iterative": [{"inner": {"kmeans_quality": BEST}, "signal": "readability", "mode": "softmax"}],
    "k_center": [{}, {"start": "central"}],
    "kmeans_quality": [{**BEST, "quota": "equal"}],
    "marginal_relevance": [BEST],
    "matching": [{"queries": ["EXAMPLES", "EXAMPLES"]}],
    "mixture": [{"weights": {"web": 2.0, "code": 1.0}, "visits": 2}, {"by": "corpus.edu", "temperature": 2.0}],
    "negatives": [{"queries": "EXAMPLES", "first": 3, "last": 40, "count": 5, "most": 0.99}],
    "parallel": [{"scores": ["readability"]}, {"scores": ["readability", "prototypicality"], "forms": 3}],
    "prune": [{"most": 0.9, "rule": "transitive"}, {"most": 0.9, "first": "drawn"}],
    "quality_sampling": [{**BEST, "within": "source"}],
    "random": [{}],
    "repeats": [{"score": "readability", "decay": 0.5}],
    "task_balanced": [{"targets": {"web": 0.5, "books": 0.5, "law": 0.1}, "gap": "readability", "least": -3.0}],
    "threshold": [{**BEST, "most": -0.1}],
    "top": [BEST],
}
"""Options of every selector, for a corpus of three sources."""

CASES = [(name, options) for name, variants in OPTIONS.items() for options in variants]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("selectors")
    (folder / "corpus").mkdir()
    write_jsonl(folder / "examples.jsonl", [{"text": "Paper and music."}, {"text": "The river runs in winter."}])
    write_corpus(folder / "corpus")
    return folder


@pytest.fixture(scope="module")
def make(corpus: Path, tiny_model: Path) -> Any:
    """Makes the manifest of a selector in shards of so many documents; the steps before are done once for each size."""

    def do(name: str, options: dict[str, Any], rows: int) -> Manifest:
        written = json.loads(json.dumps(options).replace("EXAMPLES", str(corpus / "examples.jsonl")))
        select = {"budget": {"documents": 30}, "using": {name: written}}
        policy = Policy.of(policy_of(corpus / "corpus", tiny_model, select=select))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(shards, "SHARD_ROWS", rows)
            patched.setattr(regroup, "BUCKET_ROWS", rows)
            return build(policy, root=str(corpus / f"root-{rows}"), executor=LocalExecutor(workers=1)).manifest

    return do


def test_every_selector_is_tried() -> None:
    assert sorted(OPTIONS) == plugins.names("selectors")


@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)])
def test_a_selector_makes_the_same_manifest_whatever_the_shards(name: str, options: dict[str, Any], make: Any) -> None:
    small, whole = make(name, options, 25), make(name, options, 1 << 20)
    assert small.verify().ok and len(small) > 0
    for what in ("order_digest", "facts", "counts"):
        assert small.info[what] == whole.info[what]


def test_two_files_of_examples_count_with_what_they_hold(corpus: Path, make: Any) -> None:
    options = {"queries": ["EXAMPLES", str(corpus / "more.jsonl")]}
    write_jsonl(corpus / "more.jsonl", [{"text": "Mathematics at the university."}])
    before = make("matching", options, 1 << 20)
    write_jsonl(corpus / "more.jsonl", [{"text": "A beautiful animal in the garden."}])
    assert make("matching", options, 1 << 20).digest != before.digest
    write_jsonl(corpus / "more.jsonl", [{"text": "Mathematics at the university."}])
    assert make("matching", options, 1 << 20).digest == before.digest


def test_an_option_that_names_no_column_is_refused(make: Any) -> None:
    with pytest.raises(PolicyError, match="flavour"):
        make("mixture", {"by": "flavour"}, 25)


@pytest.mark.parametrize("name", ["decorrelated", "facility_location", "iterative", "matching", "prune"])
def test_a_selection_that_is_stopped_again_and_again_ends_at_the_same_manifest(
    name: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every second write of select, order and manifest; what comes before is there."""
    options = OPTIONS[name][0]
    expected = make(name, options, 25)
    make("random", {}, 26)
    monkeypatch.setenv("SELECTOR_FAILPOINT", "store.after_seal:raise:2")
    for stops in range(100):
        monkeypatch.setattr(failpoint, "_reached", {})
        try:
            found = make(name, options, 26)
        except (RuntimeError, SelectorError):
            continue
        assert found.info["order_digest"] == expected.info["order_digest"] and stops > 3
        return
    raise AssertionError("it makes no progress")
