"""Where workers find room: what each one needs beside what every node has, and why some of them are not placed."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray as _ray
from ray._private.state import state as _state

ray: Any = _ray  # whose own types are partly unknown
state: Any = _state

Amounts = Mapping[str, float]
"""By the names that Ray gives resources: CPU, GPU, memory (in bytes)."""

_NAMES = {"CPU": (1, "CPUs"), "GPU": (1, "GPUs"), "memory": (2**30, "GiB of memory")}


@dataclass(frozen=True, kw_only=True)
class Demand:
    """The workers that some steps ask for."""

    steps: tuple[str, ...]
    needs: Amounts  # of each worker
    num_workers: int  # at most
    measured: int | None = None  # bytes of memory that a worker of theirs had in an earlier run


def spelt_out(amounts: Amounts) -> str:
    """Resources in words, for a message."""
    quantities = [f"{amounts[name] / size:,g} {unit}" for name, (size, unit) in _NAMES.items() if amounts.get(name)]
    return ", ".join(quantities) or "none of it"


def holds(node: Amounts, needs: Amounts) -> int:
    """How many workers with these needs a node can hold."""
    return int(min((node.get(name, 0.0) // amount for name, amount in needs.items() if amount), default=0))


def grows_to() -> Amounts:
    """The most that an autoscaler may make of the cluster, if it tells the head; Ray's own do not."""
    return dict(state.get_max_resources_from_cluster_config() or {})


def explained(demands: Iterable[Demand]) -> Iterator[str]:
    """For every kind of worker a line on each node: how many it holds, or what it lacks; and what of the rest."""
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    free: Mapping[str, Amounts] = state.available_resources_per_node()
    leaving = set(state.get_draining_nodes())
    for demand in demands:
        needs = {name: amount for name, amount in demand.needs.items() if amount}
        had = "" if demand.measured is None else f" (one had {demand.measured / 2**30:.2f} GiB in an earlier run)"
        number = "1 worker" if demand.num_workers == 1 else f"{demand.num_workers} workers"
        yield f"{', '.join(demand.steps)}: {number} at most, each of {spelt_out(needs)}{had}"
        room = now = 0
        for node, listed in nodes.items():
            has = {name: listed["Resources"].get(name, 0.0) for name in needs}
            left = {name: free.get(node, {}).get(name, 0.0) for name in needs}
            num, num_now = (
                (holds(has, needs), holds(left, needs)) if needs else (demand.num_workers, demand.num_workers)
            )
            if node in leaving:
                num, words = 0, "will be taken away: it gets none"
            elif num:
                words = f"has {spelt_out(has)}, of which {spelt_out(left)} is free: room for {num}, now for {num_now}"
            else:
                lacking = {name: amount for name, amount in needs.items() if has[name] < amount}
                words = (
                    f"none: a worker needs {spelt_out(lacking)}, and it has {spelt_out({n: has[n] for n in lacking})}"
                )
            room, now = room + num, now + (num_now if num else 0)
            yield f"  {listed['NodeManagerAddress']} {node[:8]}  {words}"
        if not nodes:
            yield "  no machine of the cluster answers"
        elif room < demand.num_workers:
            yield (
                f"  {demand.num_workers - room} of them find no room. An autoscaler is asked for it, where there is "
                "one; without it they wait for nothing."
            )
        elif now < demand.num_workers:
            yield f"  {demand.num_workers - now} of them wait until others let go of what they hold."
