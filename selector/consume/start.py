"""Where the next iteration begins, known to a dataset and to its copies in loader workers alike.

Workers read ahead in processes of their own. What they have to tell each other and the training's process is a few
numbers, which lie in memory that all of them share: where the next iteration begins, and which workers have come to the
end of the one that goes on. When all have, the loaded position is dropped.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_POSITION, _VERSION, _READ_AHEAD, _WORKERS = range(4)  # places of the numbers; one for each worker follows
_MOST_WORKERS = 4096


class Start:
    """A position shared by processes. A copy of it that a loader pickles for its workers shares it too."""

    def __init__(self) -> None:
        self._memory = torch.zeros(_WORKERS + _MOST_WORKERS, dtype=torch.int64).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self._memory.is_shared():
            self._memory.share_memory_()

    @property
    def position(self) -> int:
        return int(self._numbers[_POSITION])

    @property
    def version(self) -> int:
        """How often the position was loaded or dropped: what an iteration with an older one ends is past."""
        return int(self._numbers[_VERSION])

    @property
    def is_read_ahead(self) -> bool:
        """Whether loader workers or a wrapper took batches before the training asked for them."""
        return bool(self._numbers[_READ_AHEAD])

    @is_read_ahead.setter
    def is_read_ahead(self, value: bool) -> None:
        self._numbers[_READ_AHEAD] = value

    def load(self, position: int) -> None:
        """The next iteration begins here."""
        self._numbers[_POSITION] = position
        self._numbers[_VERSION] += 1

    def drop(self, version: int) -> None:
        """An iteration that began with this version has ended: the next one begins at 0."""
        if self.version == version:
            self.load(0)

    def begins(self, iteration: int, worker: int) -> None:
        """This worker is not at its end of the iteration, which has the same number in all workers."""
        assert worker < _MOST_WORKERS, worker
        self._numbers[_WORKERS + worker] = ~iteration

    def ends(self, iteration: int, worker: int, num_workers: int, version: int) -> None:
        """This worker was asked for more batches than it has. The iteration ends when all were."""
        ends = self._numbers[_WORKERS : _WORKERS + num_workers]
        ends[worker] = iteration
        if (ends == iteration).all():
            self.drop(version)

    @property
    def _numbers(self) -> npt.NDArray[np.int64]:
        return self._memory.numpy()
