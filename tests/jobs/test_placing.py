"""Where workers find room, in words."""

from typing import Any

import pytest

from jobs import placing
from jobs.placing import Demand, explained

NODE = {"NodeID": "0123456789ab", "NodeManagerAddress": "10.0.0.7", "Alive": True, "Resources": {"CPU": 2.0}}


@pytest.mark.parametrize(
    ("nodes", "line"),
    [
        ([], "  no machine of the cluster answers"),
        ([NODE | {"Alive": False}], "  no machine of the cluster answers"),
        ([NODE], "  10.0.0.7 01234567  has 2 CPUs, of which 1 CPUs is free: room for 2, now for 1"),
    ],
)
def test_a_cluster_without_machines_is_not_said_to_lack_room(
    nodes: list[dict[str, Any]], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing.ray, "nodes", lambda: nodes)
    free = {node["NodeID"]: {"CPU": 1.0} for node in nodes}
    monkeypatch.setattr(placing.state, "available_resources_per_node", lambda: free)
    monkeypatch.setattr(placing.state, "get_draining_nodes", list)
    demand = Demand(steps=("the first one",), needs={"CPU": 1.0}, num_workers=1)
    assert list(explained([demand])) == ["the first one: 1 worker at most, each of 1 CPUs", line]
