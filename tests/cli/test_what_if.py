"""What another policy would choose, and what would change a verdict."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

import command
from runs import policy_of, run, write_corpus
from selector.cli.what_if import compare
from selector.engine import gc
from selector.engine.local import LocalExecutor
from selector.engine.store import Store
from selector.errors import PolicyError
from selector.manifest import Manifest
from selector.policy import Policy
from selector.storage import open_storage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("what-if")
    (folder / "corpus").mkdir()
    write_corpus(folder / "corpus")
    return folder


def policies(place: Path, model: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    policy = policy_of(place / "corpus", model, select={"budget": {"documents": 30}, "using": "random"})
    select = {"budget": {"documents": 40}, "using": {"top": {"score": "readability"}}, "where": "source <> 'web'"}
    return policy, {**policy, "select": select}


def test_what_enters_and_leaves_is_what_two_runs_say(place: Path, tiny_model: Path) -> None:
    first, second = policies(place, tiny_model)
    root = place / "root"
    before = run(first, root).manifest
    runs = sorted(path.name for path in root.iterdir())
    change = compare(Policy.of(first), Policy.of(second), root=str(root), executor=LocalExecutor(workers=1))
    assert sorted(path.name for path in root.iterdir()) == runs, "no run is begun"
    garbage = gc.find(Store.open(str(root)))
    assert not garbage.unfinished and garbage.keys, "what is new is what gc takes"
    after = run(second, root).manifest
    kept = [{row["doc_id"]: row for row in one.rows(0, len(one)).to_pylist()} for one in (before, after)]
    enter, leave = kept[1].keys() - kept[0].keys(), kept[0].keys() - kept[1].keys()
    assert (change["enter"]["documents"], change["leave"]["documents"]) == (len(enter), len(leave))
    assert change["enter"]["sources"] == Counter(kept[1][one]["source"] for one in enter)
    assert change["leave"]["clusters"] == Counter(kept[0][one]["cluster"] for one in leave)
    assert change["tokens"] == {"before": before.info["counts"]["tokens"], "after": after.info["counts"]["tokens"]}
    quality = [sum(row["quality"] for row in rows.values()) / len(rows) for rows in kept]
    assert list(change["quality"].values()) == pytest.approx(quality, rel=1e-6)
    assert change["leave"]["reasons"]["where: source <> 'web'"] == sum(kept[0][one]["source"] == "web" for one in leave)
    assert change["coverage"]["sources"] == {"before": 3, "after": 2}


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("corpus", {"paths": ["elsewhere"]}, "compares choices from one corpus"),
        ("select", {"budget": {"documents": 3}, "using": {"tpo": {}}}, "Did you mean 'top'"),
        ("select", {"budget": {"documents": 3}, "using": {"top": {"score": "nowhere"}}}, "nowhere"),
        ("select", {"budget": {"documents": 3}, "include": "nowhere.jsonl"}, "nowhere.jsonl"),
        ("select", {"budget": {"documents": 3}, "exclude": ["nowhere"]}, "no manifest at"),
    ],
)
def test_what_is_wrong_with_the_other_policy_is_said_before_any_work(
    section: str, value: Any, message: str, place: Path, tiny_model: Path, tmp_path: Path
) -> None:
    first, _ = policies(place, tiny_model)
    second = {**first, section: {**first[section], **value}}
    with pytest.raises(PolicyError, match=message):
        compare(Policy.of(first), Policy.of(second), root=str(tmp_path), executor=LocalExecutor(workers=1))
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_every_verdict_says_who_decided_and_what_would_change_it(place: Path, tiny_model: Path) -> None:
    policy, _ = policies(place, tiny_model)
    select = {"budget": {"documents": 10}, "using": {"top": {"score": "readability"}}, "where": "source <> 'web'"}
    manifest = run({**policy, "select": select}, place / "root").manifest
    decided: dict[str, list[dict[str, Any]]] = {}
    homes = [path.parent.parent for path in (place / "root").glob("*/manifest/manifest.json")]
    home = next(path for path in homes if Manifest.open(path).digest == manifest.digest)
    for doc_id in pq.read_table(home / "decisions")["doc_id"].unique().to_pylist():
        explained = manifest.explain(doc_id)
        decided.setdefault(f"{explained['outcome']} {explained['decided_by']}", []).append(explained)
    assert decided.keys() == {"kept select.using", "left_out select.using", "left_out select.where"}
    kept, left = (decided[f"{outcome} select.using"] for outcome in ("kept", "left_out"))
    last, first = min(one["value"] for one in kept), max(one["value"] for one in left)
    assert all(one["would_change"].startswith(f"a value below {first:.6g}") for one in kept)
    assert all(one["would_change"].startswith(f"a value above {last:.6g}") for one in left)
    assert "a rule that lets it pass" in {one["would_change"] for one in decided["left_out select.where"]}


def test_the_command_prints_it_and_its_json(place: Path, tiny_model: Path) -> None:
    first, _ = policies(place, tiny_model)
    file = place / "policy.yaml"
    file.write_text(yaml.safe_dump(first), "utf-8")
    words = ["what-if", str(file), "--root", str(place / "root"), "--set", "select.budget.documents=20"]
    printed = command.selector(*words)
    assert printed.code == 0 and "10 documents leave" in printed.out and "another order" not in printed.err
    assert (
        "another order"
        in command.selector(
            *words, "--set", "order.using={by_score: {score: readability, direction: anti_curriculum}}"
        ).err
    )
    assert command.selector(*words, "--json").json["documents"] == {"before": 30, "after": 20}
    assert command.selector(*words[:-2]).code == 2
    assert list(open_storage(str(place / "root")).list("leases/")) == [], json.dumps(words)
