"""What is made of what the nodes of a cluster answer."""

from typing import Any

import pytest

from selector.cli.doctor import examine_cluster

OWN: dict[str, Any] = {"versions": {"selector": "0.2.0", "torch": "2.13.0"}, "problems": []}


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (OWN, "the same versions as here"),
        ("It did not answer within 5 seconds.", "did not answer"),
        ({**OWN, "problems": ["the card H100 has no kernels"]}, "no kernels"),
        ({**OWN, "versions": {"selector": "0.2.0", "torch": "2.12.0"}}, "torch 2.12.0 where here is 2.13.0"),
        ({**OWN, "versions": {"selector": "0.2.0"}}, "torch none where here is 2.13.0"),
    ],
)
def test_each_node_is_a_finding(answer: Any, detail: str) -> None:
    (finding,) = examine_cluster({"10.0.0.7 ab12": answer}, OWN, "/root")
    assert finding.name == "node 10.0.0.7 ab12" and detail in finding.detail and finding.ok == (answer is OWN)


def test_a_cluster_without_nodes_is_a_finding_too() -> None:
    (finding,) = examine_cluster({}, OWN, "/root")
    assert not finding.ok
