"""A manifest as a torch dataset of whole batches: for `DataLoader(dataset, batch_size=None, num_workers=…)`.

Loader workers read ahead of the training in copies of the dataset, so the dataset itself cannot know how far
the training is. Each batch does: store `dataset.state_dict(batch)` after training on it, and it is exact
however many workers there are. Without workers `dataset.state_dict()` says the same.
"""

import copy
import functools
import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from selector import tables
from selector.consume import callers
from selector.consume.batch import Batch
from selector.consume.columns import Column, Columns, Labels, ids
from selector.consume.place import Place, opened, parent_of
from selector.consume.start import Start
from selector.consume.text import TEXT_COLUMNS, Texts
from selector.errors import UsageError, did_you_mean
from selector.manifest import Manifest
from selector.manifest.ranks import PADDING, Int64, Last, Layout

_ALWAYS = ("position", "doc_id", "phase", "num_tokens", "loss_weight")
_UNCUT = (
    "Do not let it prepare the loader: iterate DataLoader(dataset, batch_size=None, ...) itself, and move each batch"
    " to the device."
)


class ManifestDataset(IterableDataset[dict[str, Any]]):
    """One rank's batches, in the order of the manifest.

    The first iteration after `load_state_dict` begins where the state says, all others at 0; one that is broken off
    before its last batch counts for nothing. A batch is a dict of the rank's share of a step,
    `global_batch_size / world_size` documents:

        text         list[str]      as the policy renders it; absent with `text=False`
        doc_id       list[str]      32 hex digits
        phase        list[str]
        position     int64 tensor
        num_tokens   int64 tensor
        loss_weight  float32 tensor
        …            further `columns` of `tables.MANIFEST`: tensors of float32 (null is NaN) or int64 (null is -1),
                     or lists
        next_position    int        where training goes on after this step, on every rank
        weight_per_rank  float      the loss weights of the whole global batch, divided by the number of ranks

    With one loss per document, `(losses * batch["loss_weight"]).sum() / batch["weight_per_rank"]` is a rank's loss. Its
    mean over the ranks, which is what DistributedDataParallel takes of the gradients, is the mean of the global batch
    weighted by `loss_weight`, whatever the world size, also where a rank has nothing but padding.

    A last batch that is not full is, by `last`, filled up with padding ("pad": position -1, else all zero or
    empty, so loss_weight 0), left out ("drop"), or filled from the beginning of the order ("wrap").

    Rank and world size are those of `torch.distributed`, which has to be initialised before; without it, 0 and 1.
    What would undo the order is refused with UsageError when an iteration begins: `selector.consume.callers`.
    """

    epoch: int = 0
    """For trainers that count epochs here. The order is the same in each."""

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
        """Raises UsageError if the sizes do not fit together, there is no such column or the rank is not known yet, and
        NotFoundError if there is no such manifest."""
        super().__init__()
        wanted = list(dict.fromkeys((*_ALWAYS, *([columns] if isinstance(columns, str) else columns))))
        for name in wanted:
            if name not in tables.MANIFEST.names:
                raise UsageError(f"A manifest has no column {name!r}. {did_you_mean(name, tables.MANIFEST.names)}")
        self._place = Place.find(rank, world_size)
        self._layout = Layout(
            global_batch_size=global_batch_size, rank=self._place.rank, world_size=self._place.world_size, last=last
        )
        self._names = wanted
        self._has_text = text
        self._open(opened(manifest))
        self._position = 0
        self._start = Start()
        self._of_worker: tuple[int, int] | None = None  # the position that this worker was given, and how old that is
        self._num_iterations = 0  # in this process

    def __iter__(self) -> Iterator[dict[str, Any]]:
        above = self._check()
        self._num_iterations += 1
        version = self._start.version
        layout = self.layout
        worker = get_worker_info()
        if worker is None:
            self._start.is_read_ahead = above.reads_ahead
            return self._begin(layout, 0, 1, functools.partial(self._start.drop, version))
        self._start.is_read_ahead = True
        if self._pid != os.getpid():
            gc.freeze()  # what the parent process had is not for this one to end
            self._open(copy.copy(self._manifest))  # nor to read on with: it opens its own files
        number = worker.seed - worker.id + self._num_iterations  # of this iteration, in all of its workers
        self._start.begins(number, worker.id)
        end = functools.partial(self._start.ends, number, worker.id, worker.num_workers, version)
        first = worker.id
        if self._of_worker is not None and self._of_worker[1] == version:
            layout, first = replace(layout, start=self._of_worker[0]), 0
        return self._begin(layout, first, worker.num_workers, end)

    def __len__(self) -> int:
        """The number of steps of the iteration that comes."""
        self._check()
        return self.layout.num_steps(len(self._manifest))

    def __getstate__(self) -> dict[str, Any]:
        above = self._check()  # a loader that spawns its workers pickles the dataset
        if above.reads_ahead:
            self._start.is_read_ahead = True
        return {**self.__dict__, "_columns": None, "_texts": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open(self._manifest)

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def layout(self) -> Layout:
        """How the iteration that comes goes through the positions."""
        return replace(self._layout, start=self._start.position)

    def check_read_by(self, reader: callers.Callers) -> None:
        """Raises UsageError if it would undo the order."""
        self._place.check()
        callers.check_cuts(reader.cuts, self._place.rank, self._place.world_size, cure=_UNCUT)
        callers.check_dataset(self, reader)
        callers.check_skipped(reader.num_skipped, self._start.position)
        callers.check_resumed(reader.num_unskipped, is_loaded=self._start.version > 0)

    def set_epoch(self, epoch: int) -> None:
        """Sets `epoch`, as trainers do."""
        self._check()
        self.epoch = epoch

    def state_dict(self, batch: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What to store after training on a batch, the last one if none is given: `{"manifest", "position"}`.

        Raises UsageError where "the last one" is not known here, since loader workers or a wrapper read ahead. A loader
        that keeps the states of its workers (torchdata's) gets of each where it goes on itself.
        """
        is_asked_by_loader = batch is None and callers.is_stateful_loader()
        if get_worker_info() is not None and not is_asked_by_loader:
            raise UsageError(
                "state_dict() was called in a loader worker, which is ahead of the training."
                " Take torch.utils.data.DataLoader, and dataset.state_dict(batch) where the batch was trained on."
            )
        if batch is None and self._start.is_read_ahead and not is_asked_by_loader:
            raise UsageError(
                "This dataset is read ahead of the training, so it does not know what was trained on."
                " Give the last batch: dataset.state_dict(batch)."
            )
        if batch is not None and "next_position" not in batch:
            raise UsageError("This batch has no next_position. A collate_fn has to leave it in what it makes.")
        position = self._position if batch is None else int(batch["next_position"])
        return {"manifest": self._manifest.digest, "position": position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration begins where the state says, in loader workers that are already running too.

        A state of the manifest's parent (the round before) is one of this manifest too, since both begin alike. Raises
        UsageError if it is another one's, or no state.
        """
        parent = parent_of(self._manifest)
        position = self._layout.resumed(state, self._manifest.digest, len(self._manifest), parent).start
        self._position = position
        if get_worker_info() is not None:  # a loader gives its worker back what it had
            self._of_worker = (position, self._start.version)
        else:
            self._start.load(position)
            self._start.is_read_ahead = False

    def _open(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._columns = Columns(manifest, [*self._names, *(TEXT_COLUMNS if self._has_text else ())])
        self._weights = Columns(manifest, ["loss_weight"])
        self._texts = Texts(manifest) if self._has_text else None
        self._pid = os.getpid()

    def _check(self) -> callers.Callers:
        """What is about to read this dataset. Raises UsageError if it would undo the order."""
        above = callers.above()
        self.check_read_by(above)
        return above

    def _begin(self, layout: Layout, first: int, num_workers: int, end: Callable[[], None]) -> Iterator[dict[str, Any]]:
        """The batches of the steps first, first + num_workers, … `end` is called before the last is given out, since
        many trainers count batches and never ask for one more."""
        steps = layout.steps(len(self._manifest), first, num_workers)
        self._position = min(layout.start + first * layout.global_batch_size, len(self._manifest))
        if not steps:
            end()
        return self._batches(layout, steps, end)

    def _batches(self, layout: Layout, steps: range, end: Callable[[], None]) -> Iterator[dict[str, Any]]:
        for step in steps:
            batch = self._batch(layout, step)
            self._position = min(layout.start + (step + steps.step) * layout.global_batch_size, len(self._manifest))
            if step == steps[-1]:
                end()
            yield batch

    def _batch(self, layout: Layout, step: int) -> dict[str, Any]:
        num_positions = len(self._manifest)
        of_all = replace(layout, rank=0, world_size=1).positions(step, num_positions)
        positions = of_all[layout.rank :: layout.world_size]
        seen = positions[positions != PADDING]
        num_padding = len(positions) - len(seen)
        visits = self._columns.take(seen)
        batch = Batch({name: _in_torch(visits[name], num_padding) for name in self._names})
        batch["position"] = torch.from_numpy(positions.copy())
        if self._texts is not None:
            batch["text"] = self._texts.read_columns(visits) + [""] * num_padding
        batch["next_position"] = layout.position_after(step + 1, num_positions)
        batch["weight_per_rank"] = self._weight_per_rank(of_all[of_all != PADDING])
        return batch

    def _weight_per_rank(self, positions: Int64) -> float:
        """Of the loss weights of a global batch of these positions; 1 where all are 0, for they are divided by it."""
        weights = self._weights.take(positions)["loss_weight"]
        assert not isinstance(weights, Labels)
        return float(weights.sum(dtype=np.float64)) / self._layout.world_size or 1.0


def _in_torch(column: Column, num_padding: int) -> Any:
    """A column as torch and Python have it, with zeros or empty strings appended."""
    if isinstance(column, Labels):
        return [column.words[code] for code in column.codes.tolist()] + [""] * num_padding
    if column.dtype.kind == "V":
        return [doc_id.hex() for doc_id in ids(column)] + [""] * num_padding
    return torch.from_numpy(np.concatenate([column, np.zeros(num_padding, column.dtype)]))
