"""Which documents are too like an earlier one, by the cosines of their vectors.

Vectors are stored as float16 and have length 1 (within 0.0005), so in float64 no product and no sum of their cosines
rounds: they are the same on every machine and in any order of the terms, and a limit cuts them exactly.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.exact import Floats, Ints
from selector.exact.vectors import vectors_of

_ROWS = 256  # whose cosines to all earlier ones are held at once


@dataclass(frozen=True, kw_only=True)
class Alike:
    """What is said of vectors in their order, `given` ones before them."""

    is_alike: npt.NDArray[np.bool_]  # (n,), whether a cosine to an earlier one is above the limit
    nearest: Ints  # (n,), the place of the nearest earlier one among the given and then the others; -1: there is none


def vectors(batch: pa.RecordBatch) -> Floats:
    """The vectors of documents in float64, (n, d)."""
    return vectors_of(batch["embedding"]).astype(np.float64)


def alike(ordered: Floats, given: Floats, most: float, *, is_transitive: bool) -> Alike:
    """Whether each vector is too like one of those before it: of the given ones and, of the others, either of those
    that were not too like an earlier one themselves, or (`is_transitive`) of all. Of equal cosines the first decides.
    """
    n, num_given = len(ordered), len(given)
    earlier = np.concatenate([given.reshape(-1, ordered.shape[1]), np.empty_like(ordered)])
    places, count = np.arange(num_given + n), num_given
    cosines, nearest = np.full(n, -np.inf), np.full(n, -1)
    for start in range(0, n, _ROWS):
        block = ordered[start : start + _ROWS]
        end = start + len(block)
        if count:
            to_earlier = block @ earlier[:count].T
            best = to_earlier.argmax(axis=1)
            cosines[start:end], nearest[start:end] = to_earlier[np.arange(len(block)), best], places[best]
        inside = block @ block.T
        if is_transitive:
            added = list(range(len(block)))
            inside[np.triu_indices(len(block))] = -np.inf
            best = inside.argmax(axis=1)
            closer = inside[np.arange(len(block)), best]
            is_closer = closer > cosines[start:end]
            cosines[start:end] = np.where(is_closer, closer, cosines[start:end])
            nearest[start:end] = np.where(is_closer, num_given + start + best, nearest[start:end])
        else:
            added: list[int] = []
            for i in range(len(block)):
                if added:
                    row = inside[i, added]
                    best_of_block = int(row.argmax())
                    if row[best_of_block] > cosines[start + i]:
                        cosines[start + i] = row[best_of_block]
                        nearest[start + i] = num_given + start + added[best_of_block]
                if cosines[start + i] <= most:
                    added.append(i)
        earlier[count : count + len(added)] = block[added]
        places[count : count + len(added)] = num_given + start + np.array(added, np.int64)
        count += len(added)
    return Alike(is_alike=cosines > most, nearest=nearest)


def in_given_order(
    pairs: Alike, order: Ints, ids: pa.Array, given_ids: pa.Array
) -> tuple[npt.NDArray[np.bool_], pa.Array]:
    """The same in the order in which the documents stand: whether each is too like an earlier one, and which that is;
    `order` are their places in the order of comparison."""
    is_alike = np.empty(len(order), np.bool_)
    is_alike[order] = pairs.is_alike
    nearest = np.empty(len(order), np.int64)
    nearest[order] = pairs.nearest
    known = pa.concat_arrays([given_ids, ids.take(pa.array(order))])
    return is_alike, known.take(pa.array(nearest, mask=~is_alike))
