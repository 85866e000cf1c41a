"""What `doctor` finds on the nodes of a cluster."""

from pathlib import Path

import pytest

from cluster import cluster as cluster
from jobs.executor import RayExecutor
from selector.cli.doctor import Look, examine_cluster


@pytest.mark.slow
def test_a_node_is_asked_for_versions_root_and_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n', "utf-8")
    look = Look(root=str(tmp_path / "root"), corpora=(str(tmp_path / "*.jsonl"), str(tmp_path / "none.jsonl")))
    with RayExecutor() as executor:
        answers = executor.on_each_node(look)
    (finding,) = examine_cluster(answers, look(), look.root)
    assert not finding.ok and "none.jsonl" in finding.detail and "a.jsonl cannot" not in finding.detail
    assert "other versions" not in finding.detail and not list((tmp_path / "root").glob("probe/*"))
