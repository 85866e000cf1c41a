"""A manifest as a torch dataset of whole batches: for `DataLoader(dataset, batch_size=None, num_workers=…)`.

Loader workers read ahead of the training in copies of the dataset, so the dataset itself cannot know how far
the training is. Each batch does: store `dataset.state_dict(batch)` after training on it, and it is exact
however many workers there are. Without workers `dataset.state_dict()` says the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed
from torch.utils.data import IterableDataset, get_worker_info

from selector import tables
from selector.consume.text import Texts
from selector.errors import UsageError, did_you_mean
from selector.manifest import Manifest
from selector.manifest.ranks import PADDING, Last, Layout

_ALWAYS = ("position", "doc_id", "phase", "num_tokens", "loss_weight")


class ManifestDataset(IterableDataset[dict[str, Any]]):
    """One rank's batches, in the order of the manifest. Every iteration begins where the state says, else at 0.

    A batch is a dict of the rank's share of a step, `global_batch_size / world_size` documents:

        text         list[str]      as the policy renders it; absent with `text=False`
        doc_id       list[str]      32 hex digits
        phase        list[str]
        position     int64 tensor
        num_tokens   int64 tensor
        loss_weight  float32 tensor
        …            further `columns` of `tables.MANIFEST`: tensors of float32 (null is NaN) or int64 (null is -1),
                     or lists
        next_position  int          where training goes on after this step, on every rank

    A last batch that is not full is, by `last`, filled up with padding ("pad": position -1, else all zero or
    empty, so loss_weight 0), left out ("drop"), or filled from the beginning of the order ("wrap"). Rank and
    world size are those of `torch.distributed` if it is initialised, else 0 and 1.
    """

    def __init__(
        self,
        manifest: Manifest | str,
        *,
        global_batch_size: int,
        rank: int | None = None,
        world_size: int | None = None,
        last: Last = "pad",
        text: bool = True,
        columns: Sequence[str] = (),
    ) -> None:
        """Raises UsageError if the sizes do not fit together or there is no such column, NotFoundError if there is
        no such manifest."""
        super().__init__()
        wanted = list(dict.fromkeys((*_ALWAYS, *columns)))
        for name in wanted:
            if name not in tables.MANIFEST.names:
                raise UsageError(f"A manifest has no column {name!r}. {did_you_mean(name, tables.MANIFEST.names)}")
        is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if rank is None:
            rank = torch.distributed.get_rank() if is_distributed else 0
        if world_size is None:
            world_size = torch.distributed.get_world_size() if is_distributed else 1
        self._layout = Layout(global_batch_size=global_batch_size, rank=rank, world_size=world_size, last=last)
        self._manifest = manifest if isinstance(manifest, Manifest) else Manifest.open(manifest)
        self._texts = Texts(self._manifest) if text else None
        self._columns = wanted
        self._position = 0
        # Set by loader workers, in memory that they share with this process.
        self._is_read_ahead = torch.zeros(1, dtype=torch.uint8).share_memory_()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        self._is_read_ahead[0] = worker is not None
        self._position = self._layout.start
        share = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        for step in self._layout.steps(len(self._manifest), *share):
            batch = self._batch(step)
            self._position = batch["next_position"]
            yield batch

    def __len__(self) -> int:
        """The number of steps of an iteration."""
        return self._layout.num_steps(len(self._manifest))

    def state_dict(self, batch: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What to store after training on a batch, the last one if none is given: `{"manifest", "position"}`.

        Raises UsageError where "the last one" is not known here, since loader workers read ahead.
        """
        if get_worker_info() is not None:
            raise UsageError(
                "state_dict() was called in a loader worker, which is ahead of the training."
                " Take torch.utils.data.DataLoader, and dataset.state_dict(batch) where the batch was trained on."
            )
        if batch is None and self._is_read_ahead.item():
            raise UsageError(
                "Loader workers read this dataset ahead of the training, so it does not know what was trained on."
                " Give the last batch: dataset.state_dict(batch)."
            )
        position = self._position if batch is None else int(batch["next_position"])
        return {"manifest": self._manifest.digest, "position": position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begins the next iteration where the state says. Loader workers that are already running (with
        persistent_workers) do not hear of it: make a new DataLoader.

        Raises UsageError if the state is another manifest's, or no state.
        """
        self._layout = self._layout.resumed(state, self._manifest.digest, len(self._manifest))
        self._position = self._layout.start
        self._is_read_ahead[0] = 0

    def _batch(self, step: int) -> dict[str, Any]:
        positions = self._layout.positions(step, len(self._manifest))
        visits = self._manifest.take(positions[positions != PADDING])
        num_padding = len(positions) - visits.num_rows
        batch: dict[str, Any] = {name: _column(visits[name], num_padding) for name in self._columns}
        batch["position"] = torch.from_numpy(positions)
        if self._texts is not None:
            batch["text"] = self._texts.read(visits) + [""] * num_padding
        batch["next_position"] = self._layout.position_after(step + 1, len(self._manifest))
        return batch


def _column(column: pa.ChunkedArray, num_padding: int) -> Any:
    """A column as torch and Python have it, with zeros or empty strings appended."""
    if column.type == tables.DOC_ID:
        return [doc_id.hex() for doc_id in column.to_pylist()] + [""] * num_padding
    if column.type == tables.LABEL:
        return column.to_pylist() + [""] * num_padding
    is_float = pa.types.is_floating(column.type)
    values = np.zeros(len(column) + num_padding, np.float32 if is_float else np.int64)
    values[: len(column)] = column.to_numpy() if is_float else column.cast(pa.int64()).fill_null(-1).to_numpy()
    return torch.from_numpy(values)
