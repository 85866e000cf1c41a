"""Which positions are next: a batch sampler for a map-style dataset of your own, indexed by position.

    sampler = ManifestBatchSampler(manifest, global_batch_size=512, last="drop", rank=rank, world_size=8)
    loader = DataLoader(my_dataset, batch_sampler=sampler, num_workers=4)

`my_dataset[position]` is, for instance, the tokens of `manifest.at(position)["doc_id"]`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from selector.errors import UsageError
from selector.manifest import Manifest
from selector.manifest.ranks import Layout


class ManifestBatchSampler:
    """The positions of each of a rank's batches, as a list. Every iteration begins where the state says.

    `last` is what becomes of a last batch that is not full: "drop" or "wrap". A sampler cannot pad, since a
    padding place has no document; `ManifestDataset` can.
    """

    def __init__(
        self,
        manifest: Manifest | str,
        *,
        global_batch_size: int,
        last: Literal["drop", "wrap"],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if last not in ("drop", "wrap"):
            raise UsageError(f"last={last!r} is not for a sampler. Give 'drop' or 'wrap', or use ManifestDataset.")
        self._manifest = manifest if isinstance(manifest, Manifest) else Manifest.open(manifest)
        self._layout = Layout(global_batch_size=global_batch_size, rank=rank, world_size=world_size, last=last)

    def __iter__(self) -> Iterator[list[int]]:
        num_positions = len(self._manifest)
        for step in self._layout.steps(num_positions):
            yield self._layout.positions(step, num_positions).tolist()

    def __len__(self) -> int:
        return self._layout.num_steps(len(self._manifest))

    def state_dict(self, num_steps: int) -> dict[str, Any]:
        """What to store after so many steps of this iteration.

        The trainer has to say how many, since a loader with workers takes batches long before it trains on them.
        """
        if not 0 <= num_steps <= len(self):
            raise UsageError(f"num_steps={num_steps} is not a number of steps: an iteration has {len(self)}.")
        position = self._layout.position_after(num_steps, len(self._manifest))
        return {"manifest": self._manifest.digest, "position": position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begins the next iteration where the state says. Raises UsageError if it is another manifest's."""
        self._layout = self._layout.resumed(state, self._manifest.digest, len(self._manifest))
