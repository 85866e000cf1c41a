"""Whether a loader, as it stands before training, gives every rank its share of the order and nothing else."""

import sys
from collections import Counter
from typing import Any

from selector.consume import callers
from selector.consume.sampler import ManifestBatchSampler
from selector.errors import UsageError


def check(loader: Any) -> None:
    """Raises UsageError, with what to write instead, if this loader would not give this process its share of the order.

    For whatever a trainer made of a loader with a `ManifestDataset` or a `ManifestBatchSampler`: it is looked through,
    nothing is read. Where there is a process group, call it on every rank: the ranks compare what they are about to
    read, and all raise if one does.
    """
    try:
        reading: dict[str, Any] = _reading(loader)
    except UsageError as error:
        reading = {"problem": str(error)}
    problem = _problem(_gathered(reading))
    if problem is not None:
        raise UsageError(problem)


def _reading(loader: Any) -> dict[str, Any]:
    """What this process is about to read."""
    inside = list(callers.within(loader))
    consumers = [part for part in inside if _is_ours(part)]
    if not consumers:
        kinds = ", ".join(dict.fromkeys(type(part).__name__ for part in inside))
        raise UsageError(
            f"There is no ManifestDataset and no ManifestBatchSampler in this loader, only {kinds}: nothing keeps the"
            " order. Write DataLoader(ManifestDataset(...), batch_size=None) or"
            " DataLoader(dataset, batch_sampler=ManifestBatchSampler(...))."
        )
    reader = callers.of(loader)
    for consumer in consumers:
        consumer.check_read_by(reader)
    layout = consumers[0].layout
    return {
        "manifest": consumers[0].manifest.digest,
        "global_batch_size": layout.global_batch_size,
        "world_size": layout.world_size,
        "last": layout.last,
        "position": layout.start,
        "rank": layout.rank,
    }


def _gathered(reading: dict[str, Any]) -> list[dict[str, Any]]:
    """What each process told, this one alone if there is no process group."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return [reading]
    everybody: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everybody, reading)
    return everybody


def _problem(everybody: list[dict[str, Any]]) -> str | None:
    """What is wrong with what the processes told, if anything is."""
    for process, reading in enumerate(everybody):
        if "problem" in reading:
            return f"Process {process}: {reading['problem']}" if len(everybody) > 1 else reading["problem"]
    first = everybody[0]
    for name in ("manifest", "global_batch_size", "world_size", "last", "position"):
        values = [reading[name] for reading in everybody]
        if len(set(values)) > 1:
            return f"The processes do not read the same: {name} is {', '.join(map(str, values))}."
    counts = Counter(reading["rank"] for reading in everybody)
    times = [counts[rank] for rank in range(first["world_size"])]
    if len(everybody) > 1 and (len(set(times)) > 1 or not times[0]):
        return (
            f"Of world_size={first['world_size']} ranks {len(everybody)} processes read {dict(sorted(counts.items()))}"
            " (rank: processes): not every share of a batch is read equally often. Give each process its own rank=..."
        )
    return None


def _is_ours(part: Any) -> bool:
    dataset: Any = sys.modules.get("selector.consume.dataset")
    return isinstance(part, ManifestBatchSampler) or (dataset is not None and isinstance(part, dataset.ManifestDataset))
