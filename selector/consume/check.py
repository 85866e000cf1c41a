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
        told: dict[str, Any] = _told(loader)
    except UsageError as error:
        told = {"problem": str(error)}
    problem = _problem(_gathered(told))
    if problem is not None:
        raise UsageError(problem)


def _told(loader: Any) -> dict[str, Any]:
    """What this process is about to read."""
    inside = list(callers.within(loader))
    consumers = [found for found in inside if _is_ours(found)]
    if not consumers:
        kinds = ", ".join(dict.fromkeys(type(found).__name__ for found in inside))
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


def _gathered(told: dict[str, Any]) -> list[dict[str, Any]]:
    """What each process told, this one alone if there is no process group."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return [told]
    everybody: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everybody, told)
    return everybody


def _problem(everybody: list[dict[str, Any]]) -> str | None:
    """What is wrong with what the processes told, if anything is."""
    for process, told in enumerate(everybody):
        if "problem" in told:
            return f"Process {process}: {told['problem']}" if len(everybody) > 1 else told["problem"]
    first = everybody[0]
    for name in ("manifest", "global_batch_size", "world_size", "last", "position"):
        values = [told[name] for told in everybody]
        if len(set(values)) > 1:
            return f"The processes do not read the same: {name} is {', '.join(map(str, values))}."
    counts = Counter(told["rank"] for told in everybody)
    times = [counts[rank] for rank in range(first["world_size"])]
    if len(everybody) > 1 and (len(set(times)) > 1 or not times[0]):
        return (
            f"Of world_size={first['world_size']} ranks {len(everybody)} processes read {dict(sorted(counts.items()))}"
            " (rank: processes): not every share of a batch is read equally often. Give each process its own rank=..."
        )
    return None


def _is_ours(found: Any) -> bool:
    dataset: Any = sys.modules.get("selector.consume.dataset")
    return isinstance(found, ManifestBatchSampler) or (
        dataset is not None and isinstance(found, dataset.ManifestDataset)
    )
