"""A batch on its way from a loader worker to the training: its tensors travel together.

A tensor that crosses processes costs a file and a message of its own, more than a batch's few numbers take to read. So
the small tensors of a batch go as bytes with the rest of it, and arrive as parts of one piece of memory.
"""

import math
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch

_SMALL = 1 << 16  # bytes of a tensor


class Batch(dict[str, Any]):
    """A dict that arrives as a plain one."""

    def __copy__(self) -> Self:
        return type(self)(self)

    def __reduce__(self) -> tuple[Any, ...]:
        small = {name: value.numpy() for name, value in self.items() if _is_small(value)}
        kinds = {name: (array.dtype.str, array.shape) for name, array in small.items()}
        rest = {name: None if name in small else value for name, value in self.items()}
        return _arrived, (rest, kinds, b"".join(_padded(array.tobytes()) for array in small.values()))


def _is_small(value: Any) -> bool:
    if type(value) is not torch.Tensor or value.device.type != "cpu" or value.layout != torch.strided:
        return False
    return not value.requires_grad and value.nbytes <= _SMALL and value.dtype in (torch.int64, torch.float32)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _arrived(rest: dict[str, Any], kinds: dict[str, tuple[str, tuple[int, ...]]], data: bytes) -> dict[str, Any]:
    """The batch, whose tensors share the memory that the bytes are copied to."""
    return rest | dict(_tensors(kinds, bytearray(data)))


def _tensors(kinds: dict[str, tuple[str, tuple[int, ...]]], memory: bytearray) -> Iterator[tuple[str, torch.Tensor]]:
    start = 0
    for name, (dtype, shape) in kinds.items():
        array = np.frombuffer(memory, dtype, math.prod(shape), start).reshape(shape)
        yield name, torch.from_numpy(array)
        start += len(_padded(array.tobytes()))
