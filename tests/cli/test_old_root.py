"""A root of Selector 0.1, whose manifests are of format version 1: listed, kept, refused in words, and never mixed.

`root_of_version_1.tar.xz` was made by Selector 0.1 (commit e07db85): 21 rows, of which one has no text and two are
copies, embedded, clustered and rated; 6 documents kept. Its log is left out.
"""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from command import selector, write_policy
from conftest import text_of, write_jsonl
from selector import tables
from selector.engine.local import LocalExecutor
from selector.engine.step import Done
from selector.engine.store import Store
from selector.errors import SelectorError
from selector.manifest import Manifest
from selector.pipeline import build
from selector.policy import Policy
from selector.steps.survey import Survey

OLD = "844657f0b7853e28"
DIGEST = "2fd8276cd9b008976de8b8cedf54d738bfab32f6a4724ace2fa7b54c1ae32da4"
REFUSED = (
    "manifest/manifest.json has format version 1, and this is Selector for version 2. "
    "Run the policy again to have it in version 2, or read it with Selector 0.1."
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the old root."""
    with tarfile.open(Path(__file__).with_name("root_of_version_1.tar.xz")) as file:
        file.extractall(tmp_path / "runs", filter="data")
    return tmp_path / "runs"


@pytest.fixture
def policy(tmp_path: Path) -> dict[str, Any]:
    """The policy that the old root was made with, as far as it can be the same elsewhere."""
    rows = [{"text": text_of(n % 18, 8), "source": ("web", "books")[n % 2]} for n in range(20)]
    return {
        "seed": 7,
        "corpus": {"paths": [str(write_jsonl(tmp_path / "corpus.jsonl", [*rows, {"text": None}]))]},
        "rate": ["readability"],
        "select": {"budget": {"documents": 6}, "where": "num_tokens > 12"},
        "order": {"using": {"by_score": {"score": "readability"}}},
        "manifest": {"difficulty": "readability"},
    }


def objects(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_show_lists_an_old_run_with_its_counts_and_its_format_version(root: Path) -> None:
    told = selector("show", "--root", root)
    assert (told.code, told.err) == (0, "")
    assert told.out.splitlines()[1].split() == [OLD, "6", "115", DIGEST[:12], "format", "version", "1"]
    entry = {"run": OLD, "digest": DIGEST, "documents": 6, "tokens": 115, "format_version": 1}
    assert selector("show", "--root", root, "--json").json == {"runs": [entry]}


def test_show_lists_an_old_run_that_was_not_finished_and_one_that_is_damaged(root: Path) -> None:
    path = root / OLD / "manifest/manifest.json"
    for data in (b"{", path.read_bytes().replace(b'"kept":6', b'"kept":7')):
        path.write_bytes(data)
        told = selector("show", "--root", root)
        assert told.code == 0 and told.out.splitlines()[1].split()[1:] == ["manifest.json", "is", "damaged"]
    path.unlink()
    assert selector("show", "--root", root).out.splitlines()[1].split() == [OLD, "random", "by_score", "unfinished"]


@pytest.mark.parametrize("command", [["show"], ["at", "0"], ["when", "0" * 32], ["explain", "0" * 32]])
def test_an_old_manifest_is_refused_with_the_two_things_to_do(command: list[str], root: Path) -> None:
    name, *more = command
    ended = selector(name, root / OLD, *more)
    assert (ended.code, ended.out, ended.err) == (1, "", f"error: {REFUSED}\n")
    told = selector(name, root / OLD, *more, "--json")
    assert told.json == {"error": {"kind": "SelectorError", "message": REFUSED, "exit_code": 1}}


def test_verify_says_of_an_old_manifest_that_it_cannot_tell(root: Path) -> None:
    ended = selector("verify", root / OLD)
    assert (ended.code, ended.out) == (1, f"{REFUSED}\n")
    assert selector("verify", root / OLD, "--json").json == {"ok": False, "digest": "", "problems": [REFUSED]}


def test_an_old_manifest_is_refused_from_python_too(root: Path) -> None:
    manifest = Manifest.open(str(root / OLD))
    with pytest.raises(SelectorError, match="Run the policy again to have it in version 2"):
        len(manifest)


def test_gc_counts_an_old_run_as_finished_and_keeps_all_that_it_was_made_from(
    root: Path, policy: dict[str, Any], tmp_path: Path
) -> None:
    nothing = {"deleted": False, "bytes": 0, "keys": [], "unfinished": [], "at_work": []}
    assert selector("gc", "--root", root, "--json").json == nothing
    path = write_policy(tmp_path, policy)
    assert selector("run", path, "--root", root, "--executor", "local").code == 3
    assert selector("run", path, "--root", root, "--executor", "local", "--set", "seed=8").code == 3
    gone = next(plan.parent for plan in sorted(root.glob("*/plan.json")) if plan.parent.name != OLD)
    (gone / "manifest/manifest.json").unlink()
    assert selector("gc", "--root", root, "--delete", "--unfinished", "--json").json["unfinished"] == [gone.name]
    store = Store.open(str(root))
    kept: list[str] = json.loads((root / OLD / "artifacts.json").read_text())["artifacts"]
    assert len(kept) == 15 and all(store.is_sound(key) for key in kept)


def test_an_old_run_without_a_manifest_is_unfinished_to_gc(root: Path) -> None:
    (root / OLD / "manifest/manifest.json").unlink()
    told = selector("gc", "--root", root, "--json").json
    assert told["unfinished"] == [OLD] and f"{OLD}/plan.json" in told["keys"]
    refused = selector("gc", "--root", root, "--delete")
    assert refused.code == 2 and f"1 run has no manifest yet ({OLD})" in refused.err


def test_the_same_policy_makes_a_new_run_beside_the_old_one(root: Path, policy: dict[str, Any], tmp_path: Path) -> None:
    before = objects(root)
    path = write_policy(tmp_path, policy)
    told = selector("run", path, "--root", root, "--executor", "local", "--json").json
    fresh = selector("run", path, "--root", tmp_path / "fresh", "--executor", "local", "--json").json
    assert told["digest"] == fresh["digest"] and not any(step["cached"] for step in told["steps"])
    after = objects(root)
    assert {key: after[key] for key in before} == before, "nothing of the old root is changed"
    listed = [run["run"] for run in selector("show", "--root", root, "--json").json["runs"]]
    assert sorted(listed) == sorted([OLD, Path(told["manifest"]).name])
    assert selector("verify", told["manifest"]).code == 0


def test_what_an_old_survey_found_is_not_taken_for_ours(
    policy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (uri,) = policy["corpus"]["paths"]
    store = Store.open(str(tmp_path / "runs"))
    with monkeypatch.context() as patch:
        patch.setattr(Survey, "version", 1)  # files and options are fingerprinted as they were
        step = Survey(rows_per_part=None, uris=(uri,), sources=(None,))
        (task,) = step.tasks(Done(store))
    found = step.process(task, store)
    store.seal(task.key, [(name, table) for name, table in found.items() if name != "files"])
    outcome = build(Policy.of(policy), root=str(tmp_path / "runs"), executor=LocalExecutor())
    assert not outcome.steps[0].cached and outcome.manifest.verify().ok
    assert outcome.manifest.files.schema == tables.FILES
