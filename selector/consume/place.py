"""Which of the training's processes this is: its rank and how many ranks there are.

Given numbers are believed. Where none are given they are those of `torch.distributed`; a process that has every sign of
being one of several and cannot yet tell which is refused, since as the only one it would see what all others see too.
"""

import os
import sys
from typing import Any, NamedTuple, Self

from selector.errors import UsageError
from selector.manifest import Manifest

_SIGNS = {
    "WORLD_SIZE": 1, "RANK": 0, "LOCAL_WORLD_SIZE": 1, "LOCAL_RANK": 0, "GROUP_WORLD_SIZE": 1, "GROUP_RANK": 0,
    "SLURM_NTASKS": 1, "SLURM_NPROCS": 1, "SLURM_STEP_NUM_TASKS": 1, "SLURM_PROCID": 0,
    "OMPI_COMM_WORLD_SIZE": 1, "OMPI_COMM_WORLD_RANK": 0, "MV2_COMM_WORLD_SIZE": 1, "MV2_COMM_WORLD_RANK": 0,
    "PMI_SIZE": 1, "PMI_RANK": 0, "PMIX_RANK": 0,
}  # fmt: skip
"""What launchers tell the processes they start, and the largest value that the only one of them is told."""

_CURE = "Call torch.distributed.init_process_group(...) before, or give both: rank=..., world_size=..."


class Place(NamedTuple):
    """A rank, and whether it was given or found."""

    rank: int
    world_size: int
    is_given: bool

    @classmethod
    def find(cls, rank: int | None, world_size: int | None) -> Self:
        """The place that was given, else that in torch's process group, else the only one.

        Raises UsageError where only one of the numbers is given, or where a launcher started several processes and
        there is no process group yet.
        """
        if rank is not None and world_size is not None:
            return cls(rank, world_size, True)
        if rank is not None or world_size is not None:
            raise UsageError(f"rank={rank} and world_size={world_size}: give both or neither.")
        group = _group()
        if group is not None:
            return cls(*group, False)
        for name, most in _SIGNS.items():
            value = os.environ.get(name, "").strip()
            if value.isdecimal() and int(value) > most:
                raise UsageError(
                    f"{name}={value} in the environment says that this is one of several processes, and"
                    f" torch.distributed does not say which yet. {_CURE} (0 and 1 if this one trains alone)."
                )
        return cls(0, 1, False)

    def check(self) -> None:
        """Raises UsageError if a process group has been made since that says otherwise."""
        group = None if self.is_given else _group()
        if group is not None and group != (self.rank, self.world_size):
            raise UsageError(
                f"This was made as rank {self.rank} of {self.world_size}, and torch.distributed now says rank"
                f" {group[0]} of {group[1]}: it would read what is not its share. {_CURE}."
            )


def opened(manifest: Manifest | str) -> Manifest:
    """A manifest, or the one at an address. Raises UsageError if it is neither."""
    if isinstance(manifest, Manifest):
        return manifest
    if not isinstance(manifest, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"{manifest!r} is not a manifest. Give a Manifest or the address of one.")
    return Manifest.open(os.fspath(manifest))


def parent_of(manifest: Manifest) -> tuple[str, int] | None:
    """The digest of the manifest that this one continues, and up to which position the two are the same."""
    parent = manifest.header.parent
    return None if parent is None else (parent.digest, parent.position)


def _group() -> tuple[int, int] | None:
    """Rank and world size of torch's process group, if there is one."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed.get_rank(), distributed.get_world_size()
