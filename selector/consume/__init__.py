"""The trainer's side: what a rank sees at a step, from a manifest and the corpus it was made from.

    from selector.consume import ManifestDataset

    dataset = ManifestDataset("runs/2f1c", global_batch_size=512)   # rank and world size: torch.distributed's
    for batch in DataLoader(dataset, batch_size=None, num_workers=2):
        loss = (model(batch["text"]) * batch["loss_weight"]).sum() / batch["weight_per_rank"]
        loss.backward()
        save({"model": model.state_dict(), "data": dataset.state_dict(batch)})

The state is the manifest's digest and one position, so training goes on exactly where it stopped on another
number of ranks, with another number of workers, and from there with another batch size.

    layout (selector.manifest.ranks) the rank function, which other loaders build on
    place.py                   which rank this process is
    columns.py text.py         what visits hold: columns as arrays; the texts, read from the corpus and checked
    dataset.py                 ManifestDataset, for torch
    start.py batch.py          what its copies in loader workers share, and how a batch travels from one
    sampler.py                 ManifestBatchSampler, for a dataset of your own
    feedback.py                what training reports of visits, and the table that it becomes
    callers.py check.py        what reads them, and whether that would undo the order

It needs numpy and pyarrow; torch is imported by ManifestDataset alone.
"""

from typing import TYPE_CHECKING, Any

from selector.consume.check import check
from selector.consume.feedback import Feedback
from selector.consume.sampler import ManifestBatchSampler
from selector.consume.text import Texts
from selector.manifest.ranks import PADDING, Layout

if TYPE_CHECKING:
    from selector.consume.dataset import ManifestDataset

__all__ = ["PADDING", "Feedback", "Layout", "ManifestBatchSampler", "ManifestDataset", "Texts", "check"]


def __getattr__(name: str) -> Any:
    if name != "ManifestDataset":
        raise AttributeError(f"module 'selector.consume' has no attribute {name!r}")
    try:
        from selector.consume.dataset import ManifestDataset
    except ModuleNotFoundError as error:
        if error.name == "torch":
            error.add_note("ManifestDataset needs torch: pip install torch. Without it, use Manifest.batch and Texts.")
        raise
    return ManifestDataset
