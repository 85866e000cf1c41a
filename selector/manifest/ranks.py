"""The rank function: which positions each rank and worker of a trainer sees, and when.

Think of the order as a line of visits cut into global batches of B. Within a batch the ranks deal the
visits out like cards (rank r of R takes the r-th, then every R-th), and the loader workers of a rank take
whole batches in turn. So at every step all ranks together see the same B visits whatever R and W are, and
one number, the next position, is all that a trainer needs to remember.
"""

import operator
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from selector.errors import NotFoundError, UsageError, did_you_mean

Int64 = npt.NDArray[np.int64]

Last = Literal["pad", "drop", "wrap"]
"""What becomes of a last batch that is not full: filled up with nothing (weight 0), left out, or filled up
from the beginning of the order."""

LASTS: tuple[Last, ...] = ("pad", "drop", "wrap")

PADDING = -1
"""The position of a place in a last batch that no visit fills."""


def whole_number(name: str, value: Any) -> int:
    """The value as an int; NumPy's and torch's integers are as good as Python's. Raises UsageError for others."""
    if not is_whole_number(value):
        raise UsageError(f"{name}={value!r} is not a whole number. Write one, e.g. {name}=8.")
    return operator.index(value)


def is_whole_number(value: Any) -> bool:
    """Whether the value is one integer; true is none."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, (bool, np.bool_))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one rank goes through the positions of an order, from `start` on.

    Raises UsageError if the numbers do not fit together.
    """

    global_batch_size: int
    rank: int = 0
    world_size: int = 1
    start: int = 0
    last: Last = "pad"

    def __post_init__(self) -> None:
        for name in ("global_batch_size", "rank", "world_size", "start"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        size, world = self.global_batch_size, self.world_size
        if world < 1:
            raise UsageError(f"world_size={world} has no ranks. It is at least 1.")
        if not 0 <= self.rank < world:
            raise UsageError(f"rank={self.rank} is not one of world_size={world} ranks. They are 0 to {world - 1}.")
        if size < 1:
            raise UsageError(f"global_batch_size={size} has no documents. It is at least 1.")
        if size % world:
            below, above = size - size % world, size - size % world + world
            near = f"{below} and {above} do" if below else f"{above} does"
            raise UsageError(f"global_batch_size={size} does not divide evenly over world_size={world} ranks. {near}.")
        if self.start < 0:
            raise UsageError(f"start={self.start} is before the first position. It is at least 0.")
        if self.last not in LASTS:
            raise UsageError(f"There is no last={self.last!r}. {did_you_mean(str(self.last), LASTS)}")

    @property
    def batch_size(self) -> int:
        """Documents of this rank in one step."""
        return self.global_batch_size // self.world_size

    def num_steps(self, num_positions: int) -> int:
        """Steps until an order of so many positions ends."""
        left = max(num_positions - self.start, 0)
        return left // self.global_batch_size if self.last == "drop" else -(-left // self.global_batch_size)

    def steps(self, num_positions: int, worker: int = 0, num_workers: int = 1) -> range:
        """The steps whose batches this loader worker makes."""
        return range(worker, self.num_steps(num_positions), num_workers)

    def positions(self, step: int, num_positions: int) -> Int64:
        """This rank's positions at a step, shape (batch_size,); PADDING comes last, in the last batch only.

        Raises NotFoundError past the last step.
        """
        first = self._first(step, num_positions)
        positions = np.arange(first + self.rank, first + self.global_batch_size, self.world_size, dtype=np.int64)
        if self.last == "wrap":
            return positions % num_positions
        positions[positions >= num_positions] = PADDING
        return positions

    def visited(self, step: int, num_positions: int) -> range:
        """The same, but only those that the step comes to for the first time: without padding.

        Raises NotFoundError past the last step.
        """
        first = self._first(step, num_positions)
        return range(first + self.rank, min(first + self.global_batch_size, num_positions), self.world_size)

    def _first(self, step: int, num_positions: int) -> int:
        """Where a step begins. Raises NotFoundError."""
        total = self.num_steps(num_positions)
        if not 0 <= whole_number("step", step) < total:
            raise NotFoundError(
                f"There is no step {step}: from position {self.start} to the end at {num_positions} there are"
                f" {total} steps of global_batch_size={self.global_batch_size}."
            )
        return self.start + step * self.global_batch_size

    def position_after(self, num_steps: int, num_positions: int) -> int:
        """Where training goes on after so many steps: beside the manifest's digest, all of a trainer's state."""
        assert 0 <= num_steps <= self.num_steps(num_positions), num_steps
        return min(self.start + num_steps * self.global_batch_size, max(self.start, num_positions))

    def resumed(
        self, state: Mapping[str, Any], digest: str, num_positions: int, parent: tuple[str, int] | None = None
    ) -> Self:
        """This layout from the position in a state `{"manifest": digest, "position": p}`; the state's manifest has
        to be the one with this digest, or its `parent`, up to which position both are the same. Raises UsageError."""
        if not _is_state(state):
            raise UsageError(
                f"This is not a state: {reprlib.repr(state)}. It is {{'manifest': digest, 'position': int}}."
            )
        if parent is not None and state["manifest"] == parent[0]:
            if state["position"] > parent[1]:
                raise UsageError(
                    f"The state has position {state['position']} of the manifest {parent[0]}, and this one is like it"
                    f" up to {parent[1]} only. Open the manifest that was trained on."
                )
        elif state["manifest"] != digest:
            raise UsageError(
                f"The state belongs to the manifest {state['manifest']}, and this is {digest}."
                " Open the manifest that was trained on."
            )
        if not 0 <= state["position"] <= num_positions:
            raise UsageError(f"The state has position {state['position']}, and there are 0 to {num_positions}.")
        return replace(self, start=state["position"])


def _is_state(state: Any) -> bool:
    return isinstance(state, Mapping) and set(state) == {"manifest", "position"} and type(state["position"]) is int
