"""Model batches: which windows of text go through a model together, and how the windows of one text are put
together."""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from selector import failpoint

Answer = TypeVar("Answer")
Ints = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Side = Literal["left", "right"]

_RAN_OUT = ("out of memory", "can't allocate memory", "alloc_cpu")
"""What torch says where memory runs out, on a GPU and elsewhere: not always by an error of its own."""


@dataclass(kw_only=True)
class Room:
    """How many tokens a batch may have, padding included: as many as were planned, until memory runs out once."""

    tokens: int


def batches(lengths: Ints, room: Room) -> Iterator[Ints]:
    """Indices of windows, longest first, such that a padded batch has no more tokens than there is room for."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + max(1, room.tokens // int(lengths[order[start]]))
        yield order[start:stop]
        start = stop


def each_batch(lengths: Ints, room: Room, compute: Callable[[Ints], Answer]) -> Iterator[tuple[Ints, Answer]]:
    """What is computed of every batch of windows, with their indices.

    A batch that runs out of memory is computed in halves, and none after it is larger than those. That changes no more
    than the last bits of what a model says, as another plan of batches would. One window alone has to fit.
    """
    for batch in batches(lengths, room):
        try:
            failpoint.reach("model.before_batch")
            answers = [(batch, compute(batch))]
        except (MemoryError, RuntimeError) as error:
            if len(batch) == 1 or not _is_of_memory(error):
                raise
            answers = None
        if answers is None:  # outside of the handler, which holds on to what the batch had allocated
            room.tokens = int(lengths[batch[0]]) * (len(batch) // 2)
            _give_back()
            answers = ((batch[part], answer) for part, answer in each_batch(lengths[batch], room, _of(batch, compute)))
        yield from answers


def padded(rows: Sequence[Sequence[int]], filler: int, side: Side = "right") -> tuple[Ints, Ints]:
    """Rows as long as the longest, filled up on this side; and a mask, 1 at what is a row's own.

    Both have the shape (rows, longest).
    """
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    longest = int(lengths.max(initial=0))
    columns = np.arange(longest)
    is_own = columns < lengths[:, None] if side == "right" else columns >= longest - lengths[:, None]
    whole = np.full(is_own.shape, filler, np.int64)
    whole[is_own] = np.fromiter(itertools.chain.from_iterable(rows), np.int64, int(lengths.sum()))
    return whole, is_own.astype(np.int64)


def _of(batch: Ints, compute: Callable[[Ints], Answer]) -> Callable[[Ints], Answer]:
    return lambda part: compute(batch[part])


def _is_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error) for words in _RAN_OUT)


def _give_back() -> None:
    """What torch keeps of a GPU's memory for later is free again."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def pooled(vectors: Vectors, lengths: Ints, owners: Ints, n: int) -> Vectors:
    """The token-weighted mean of each text's windows."""
    sums = np.zeros((n, vectors.shape[1]))
    np.add.at(sums, owners, vectors.astype(np.float64) * lengths[:, None])
    return (sums / np.bincount(owners, lengths, n)[:, None]).astype(np.float32)
