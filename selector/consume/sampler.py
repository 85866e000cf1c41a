"""Which positions are next: a batch sampler for a map-style dataset of your own, indexed by position.

    sampler = ManifestBatchSampler(manifest, global_batch_size=512, last="drop")
    loader = DataLoader(my_dataset, batch_sampler=sampler, num_workers=4)

`my_dataset[position]` is what is to be seen at that position, for instance the tokens of the document with
`manifest.at(position)["doc_id"]`. So it has as many items as the order has positions. A Hugging Face dataset of a
corpus of one file becomes that by `dataset.select(manifest.rows(0, len(manifest))["row"].to_numpy())`.
"""

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from selector.consume import callers
from selector.consume.place import Place, opened, parent_of
from selector.errors import UsageError
from selector.manifest import Manifest
from selector.manifest.ranks import Layout, whole_number

_UNCUT = "Let it take whole batches (split_batches=False) of a sampler of its own rank and world size, or none."


class ManifestBatchSampler:
    """The positions of each of a rank's batches, as a list.

    The first iteration after `load_state_dict` begins where the state says, all others at 0; one that is broken off
    before its last batch counts for nothing.

    `last` is what becomes of a last batch that is not full: "drop" or "wrap". A sampler cannot pad, since a
    padding place has no document; `ManifestDataset` can. Rank and world size are as for that. Where accelerate has
    prepared the loader, which then takes every n-th batch on each of n processes, it finds its own there.
    """

    def __init__(
        self,
        manifest: Manifest | str,
        *,
        global_batch_size: int,
        last: Literal["drop", "wrap"],
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """Raises as `ManifestDataset` does."""
        if last not in ("drop", "wrap"):
            raise UsageError(f"last={last!r} is not for a sampler. Give 'drop' or 'wrap', or use ManifestDataset.")
        self._place = Place.find(rank, world_size)
        self._layout = Layout(
            global_batch_size=global_batch_size, rank=self._place.rank, world_size=self._place.world_size, last=last
        )
        self._manifest = opened(manifest)
        self._start = 0  # of the iteration that comes
        self._last = _Iteration(layout=self._layout)
        self._is_begun = False  # the last iteration, since a position was loaded
        self._is_loaded = False  # a position, ever

    def __iter__(self) -> Iterator[list[int]]:
        above = callers.above()
        try:
            self.check_read_by(above)
        except UsageError as error:
            if above.is_new and any(loader.num_workers > 0 for loader in above.loaders):
                return _refused(error)  # a moment later, as it fills its workers: before, it cannot clean up
            raise
        self._settle(above)
        layout = replace(self._layout, start=self._start)
        self._is_begun = True
        self._last = _Iteration(layout=layout, is_read_ahead=above.reads_ahead, is_dealt=bool(above.cuts))
        if above.iterator is not None:
            self._last.reader, self._last.progress = weakref.ref(above.iterator), vars(above.iterator)
        return self._last.batches(len(self._manifest))

    def __len__(self) -> int:
        """The number of batches of the iteration that comes."""
        above = callers.above()
        self.check_read_by(above)
        num_steps = self.layout.num_steps(len(self._manifest))
        return num_steps * self._layout.world_size if above.cuts else num_steps

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def layout(self) -> Layout:
        """How the iteration that comes goes through the positions."""
        self._settle(callers.Callers())
        return replace(self._layout, start=self._start)

    def check_read_by(self, reader: callers.Callers) -> None:
        """Raises UsageError if it would undo the order."""
        self._place.check()
        own = (self._layout.world_size, self._layout.rank)
        if any((cut.num_processes, cut.process) != own or not cut.takes_whole_batches for cut in reader.cuts):
            callers.check_cuts(reader.cuts, self._layout.rank, self._layout.world_size, cure=_UNCUT)
        callers.check_sampler(self, reader, len(self._manifest))
        callers.check_counted(reader)
        callers.check_skipped(reader.num_skipped, self._start)
        callers.check_resumed(reader.num_unskipped, is_loaded=self._is_loaded)

    def state_dict(self, num_steps: int | None = None) -> dict[str, Any]:
        """What to store after so many steps of the iteration that was begun last.

        The trainer has to say how many where a loader takes batches before they are trained on, with workers or a
        wrapper. A loader that keeps states itself (torchdata's) knows. Raises UsageError.
        """
        layout = self._last.layout
        total = layout.num_steps(len(self._manifest))
        if num_steps is None:
            if self._last.is_read_ahead and not callers.is_stateful_loader():
                raise UsageError(
                    "The loader takes this sampler's batches ahead of the training, so it does not know what was"
                    " trained on. Give the number of steps: sampler.state_dict(num_steps)."
                )
            num_steps = self._last.num_given
        if not 0 <= whole_number("num_steps", num_steps) <= total:
            raise UsageError(f"num_steps={num_steps} is not a number of steps: an iteration has {total}.")
        position = layout.position_after(num_steps, len(self._manifest))
        return {"manifest": self._manifest.digest, "position": position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration begins where the state says. Raises UsageError if it is another manifest's."""
        layout = self._layout.resumed(state, self._manifest.digest, len(self._manifest), parent_of(self._manifest))
        self._start = layout.start
        self._last = _Iteration(layout=layout)
        self._is_begun, self._is_loaded = False, True

    def _settle(self, by: callers.Callers) -> None:
        """Drops the loaded position if the iteration that began there has ended, as these begin another."""
        if self._is_begun and self._last.has_ended(len(self._manifest), by):
            self._start = 0


def _refused(error: UsageError) -> Iterator[list[int]]:
    raise error
    yield


@dataclass(kw_only=True)
class _Iteration:
    """One pass of a sampler from its start to its end, and how far it is."""

    layout: Layout
    is_read_ahead: bool = False
    is_dealt: bool = False  # the batches of all ranks in turn, to a wrapper that takes every n-th
    num_given: int = 0  # steps
    reader: Any = None  # a weak reference to the iterator of a DataLoader that reads it
    progress: Mapping[str, Any] | None = None  # of that reader

    def batches(self, num_positions: int) -> Iterator[list[int]]:
        ranks = range(self.layout.world_size) if self.is_dealt else [self.layout.rank]
        shares = [replace(self.layout, rank=rank) for rank in ranks]
        for step in self.layout.steps(num_positions):
            for share in shares:
                self.num_given += share is shares[-1]
                yield share.positions(step, num_positions).tolist()

    def has_ended(self, num_positions: int, by: callers.Callers) -> bool:
        """Whether the training was given the last batch. One without batches ends as another is begun, but for an
        iterator that still is being made."""
        num_steps = self.layout.num_steps(num_positions)
        if not num_steps:
            return not by.is_new or self.reader is None or self.reader() is not by.iterator
        progress = self.progress or {}
        is_on_its_way = progress.get("_send_idx", 0) > progress.get("_rcvd_idx", 0)
        return self.num_given == num_steps and not is_on_its_way
