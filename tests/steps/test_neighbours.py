"""The documents that are most like each one are found once, for all who select by them."""

from pathlib import Path
from typing import Any

import pytest

from runs import policy_of, write_corpus
from selector.engine.local import LocalExecutor
from selector.errors import SelectorError
from selector.pipeline import FinishedRun, build
from selector.policy import Policy
from selector.steps import neighbours

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("neighbours")
    (folder / "corpus").mkdir()
    write_corpus(folder / "corpus")
    return folder


def made(folder: Path, model: Path, documents: int, **cluster: Any) -> FinishedRun:
    select = {"budget": {"documents": documents}, "using": "facility_location"}
    policy = policy_of(folder / "corpus", model, select=select)
    policy["cluster"] = {**policy.get("cluster", {}), **cluster}
    return build(Policy.of(policy), root=str(folder / "root"), executor=LocalExecutor(workers=1))


def test_another_budget_finds_the_neighbours_done_and_their_number_finds_new_ones(
    folder: Path, tiny_model: Path
) -> None:
    first = made(folder, tiny_model, 20)
    (step,) = [step for step in first.steps if step.name == "neighbours"]
    assert not step.cached and step.rows_out > len(first.manifest)
    (again,) = [step for step in made(folder, tiny_model, 30).steps if step.name == "neighbours"]
    assert again.cached and again.fingerprint == step.fingerprint
    fewer = made(folder, tiny_model, 20, num_neighbours=1)
    assert [step.cached for step in fewer.steps if step.name in ("cluster", "neighbours")] == [True, False]
    assert fewer.manifest.info["order_digest"] != first.manifest.info["order_digest"]


def test_a_cluster_that_is_too_large_is_refused_before_any_work(
    folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "LARGEST_CLUSTER", 5)
    with pytest.raises(SelectorError, match=r"found at once, 5 at most, and cluster \d+ has .*num_clusters"):
        made(folder, tiny_model, 20, num_neighbours=3)
