"""Ranges of an order: where their rows are stored, where they begin, and how rows are dealt into them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.exact import Ints, keyed

RANGE_ROWS = 1 << 18
_SAMPLE = 2048  # of each shard, to find where ranges begin
_GOLDEN = (5**0.5 - 1) / 2

KEYS = ("group", "key", "high", "low")  # what rows are sorted by
LINES = pa.schema([("row", pa.int64()), ("shard", pa.int32()), ("phase", tables.LABEL), ("loss_weight", pa.float32())])


@dataclass(frozen=True, kw_only=True)
class Range:
    """A stretch of the order: where its rows are stored, and how many come before it."""

    key: str
    rows: int
    first: int = 0
    tokens: int = 0  # of its rows, where the order counts them
    tokens_before: int = 0


def num_ranges(num_rows: int) -> int:
    """How many ranges so many rows are dealt into."""
    return -(-num_rows // RANGE_ROWS)


def in_line(ranges: Sequence[Range]) -> list[Range]:
    """The ranges, each with what comes before it."""
    firsts = np.cumsum([0, *(span.rows for span in ranges)]).tolist()
    tokens = np.cumsum([0, *(span.tokens for span in ranges)]).tolist()
    before = zip(ranges, firsts, tokens, strict=False)
    return [replace(span, first=first, tokens_before=num_tokens) for span, first, num_tokens in before]


def cuts_between(samples: Sequence[tuple[npt.NDArray[np.uint64], int]], count: int) -> npt.NDArray[np.uint64]:
    """Where ranges begin, shape (ranges - 1, columns), so that they have about the same number of rows."""
    width = next((sample.shape[1] for sample, _ in samples), 1)
    rows = np.concatenate([np.empty((0, width), np.uint64), *(sample for sample, _ in samples)])
    weights = np.concatenate([np.empty(0), *(np.full(len(s), rows / max(len(s), 1)) for s, rows in samples)])
    order = np.lexsort(rows.T[::-1])
    reached = np.cumsum(weights[order])
    if count < 2 or not len(order):
        return rows[:0]
    wanted = reached[-1] * np.arange(1, count) / count
    at = np.minimum(np.searchsorted(reached, wanted), len(order) - 1)
    return np.unique(rows[order[at]], axis=0)


def range_of(rows: npt.NDArray[np.uint64], cuts: npt.NDArray[np.uint64]) -> Ints:
    """The range of each row: how many cuts are not behind it. The next column is looked at only where one ties."""
    number, end = (np.searchsorted(cuts[:, 0], rows[:, 0], side) for side in ("left", "right"))
    if rows.shape[1] == 1:
        return end
    tied = np.flatnonzero(number < end)
    begins = number[tied]
    for begin in np.unique(begins).tolist():
        here = tied[begins == begin]
        number[here] += range_of(rows[here, 1:], cuts[begin : end[here[0]], 1:])
    return number


def sampled(rows: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Rows from all over, at distances that follow no period: by the fractions of multiples of the golden ratio."""
    if len(rows) <= _SAMPLE:
        return rows
    return rows[(np.arange(_SAMPLE) * _GOLDEN % 1 * len(rows)).astype(np.int64)]


def whole_of(dealt: Iterator[pa.Table], names: Sequence[str]) -> pa.Table:
    """All rows of a bucket; none, if nothing was dealt into it."""
    tables_dealt = list(dealt)
    if not tables_dealt:
        return pa.table([pa.array([], pa.int64()) for _ in names], names=list(names))
    return pa.concat_tables(tables_dealt).combine_chunks()


def digest_of(table: pa.Table) -> str:
    """What a range is called: after what is in it."""
    data = list[bytes]()
    for column in table.combine_chunks().columns:
        whole = column.combine_chunks()
        if pa.types.is_dictionary(whole.type):
            data.append(repr(whole.dictionary.to_pylist()).encode())
            whole = whole.indices
        data.append(np.ascontiguousarray(whole.to_numpy()).tobytes())
    return keyed.digest(b"".join(data)).hex()
