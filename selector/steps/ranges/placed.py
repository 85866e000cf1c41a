"""A placed order: one distributed sort by (group, key, id), then, where the order says places of its own, another by
those."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.engine.exchange import by_bucket
from selector.engine.store import Store
from selector.exact import Ints, argsort, tally
from selector.order import Dealt
from selector.order._placed import Read, columns_read, has_places, labelled, left_out, middles, placed
from selector.plugins.blame import blamed, with_blame
from selector.steps.ranges.arranging import Arranging, ShardRows
from selector.steps.ranges.back import Arranged, given_back
from selector.steps.ranges.spans import (
    KEYS,
    LINES,
    Range,
    cuts_between,
    digest_of,
    in_line,
    num_ranges,
    range_of,
    sampled,
    whole_of,
)

_SORTED = pa.schema([("group", pa.int64()), ("shard", pa.int32()), ("row", pa.int64())])


def by_ranks(arranging: Arranging, order: Dealt) -> Arranged:
    """The visits of an order that follows from ranks."""
    done, shards, pool = arranging.done, arranging.shards, arranging.pool
    with blamed("order", arranging.name, order):
        summary = order.summary(with_blame(pool, "order", arranging.name, order), arranging.seed)
    read = _Reading(
        read=Read(order=order, summary=summary, seed=arranging.seed), names=tuple(columns_read(order, pool))
    )
    counted = list(done.map(functools.partial(_count, done.store, read), shards))
    sizes, totals = _added_up([count.sizes for count in counted]), _added_up([count.tokens for count in counted])
    most = num_ranges(sum(count.rows for count in counted))
    cuts = cuts_between([(count.sample, count.rows) for count in counted], most)
    deal = functools.partial(_deal_by_key, read, cuts)
    sort = functools.partial(_sort_by_key, done.passing)
    ranges = in_line(arranging.exchanged("keys", shards, len(cuts) + 1, deal, sort))
    if has_places(order):
        placing = _Placing(order=order, sizes=sizes, tokens=totals, summary=summary)
        samples = list(done.map(functools.partial(_sample_places, done.store, placing), ranges))
        cuts = cuts_between([(sample, span.rows) for sample, span in zip(samples, ranges, strict=True)], most)
        again = functools.partial(_deal_by_place, placing, cuts)
        sort = functools.partial(_sort_by_place, done.passing)
        ranges = in_line(arranging.exchanged("places", ranges, len(cuts) + 1, again, sort))
    answer = given_back(
        arranging, _OfGroups(order=order, summary=summary), ranges, _Unvisited(because=order.left_because)
    )
    return replace(answer, facts=dict(order.facts(sizes, summary)), phases=dict(order.phase_facts(summary)))


@dataclass(frozen=True, kw_only=True)
class _Counted:
    """What a shard says of its rows before they are sorted: how many, of which groups, and a sample of their keys."""

    rows: int
    sizes: Ints
    tokens: Ints  # of the groups, where the order counts them
    sample: npt.NDArray[np.uint64]  # (m, 4)


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """How the order reads a shard's rows."""

    read: Read
    names: tuple[str, ...]

    def __call__(self, store: Store, shard: ShardRows) -> tuple[Ints, npt.NDArray[np.uint64], Ints]:
        """How often each row is seen, and for each time what it is sorted by: (n, 4), in the order of `KEYS`; and its
        tokens, where the order counts them."""
        counts, ids, groups, keys, tokens = self.read(shard.read(store, self.names))
        return counts, np.column_stack([groups.astype(np.uint64), keys, ids]), tokens


def _count(store: Store, read: _Reading, shard: ShardRows) -> _Counted:
    _, rows, tokens = read(store, shard)
    group = rows[:, 0].astype(np.int64)
    totals = tally(np.zeros(0, np.int64), group[: len(tokens)], tokens)
    return _Counted(rows=len(rows), sizes=np.bincount(group), tokens=totals, sample=sampled(rows))


def _deal_by_key(
    read: _Reading, cuts: npt.NDArray[np.uint64], store: Store, shard: ShardRows
) -> Mapping[int, pa.Table]:
    counts, rows, tokens = read(store, shard)
    row = np.repeat(np.arange(len(counts)), counts)
    number = np.full(len(rows), shard.number, np.int32)
    whole = pa.table([*rows.T, number, row], names=[*KEYS, "shard", "row"])
    if read.read.order.measured_in == "tokens":
        whole = whole.append_column("tokens", pa.array(tokens))
    return by_bucket(whole, range_of(rows, cuts))


def _sort_by_key(passing: str, store: Store, _: int, dealt: Iterator[pa.Table]) -> Range:
    whole = whole_of(dealt, [*KEYS, "shard", "row"])  # by shard and row, and equal ones stay so
    group, key, high, low, shard, row = (whole[name].to_numpy() for name in (*KEYS, "shard", "row"))
    order = argsort(key, np.column_stack([high, low]))
    order = order[np.argsort(group[order], kind="stable")]
    group, shard, row = group[order].astype(np.int64), shard[order], row[order]
    tokens = whole["tokens"].to_numpy()[order] if "tokens" in whole.schema.names else None
    return _stored(store, f"{passing}/by_key", group, shard, row, tokens)


@dataclass(frozen=True, kw_only=True)
class _Placing:
    """How the order says the places of rows."""

    order: Dealt
    sizes: Ints
    tokens: Ints  # of the groups, where the order counts them
    summary: Any


def _sample_places(store: Store, placing: _Placing, span: Range) -> npt.NDArray[np.uint64]:
    return sampled(_places(store, placing, span)[0])


def _places(store: Store, placing: _Placing, span: Range) -> tuple[npt.NDArray[np.uint64], pa.Table]:
    """The place, the group and the rank of each row of a range, and the rows."""
    rows = store.read(span.key, "rows")
    group = rows["group"].to_numpy()
    sizes = placing.sizes
    rank = span.first + np.arange(len(group)) - (np.cumsum(sizes) - sizes)[group]
    if placing.order.measured_in == "tokens" and len(group):
        middle = middles(group, rows["tokens"].to_numpy(), placing.tokens, span.tokens_before)
        place = placed(placing.order, group, middle, 2 * placing.tokens, placing.summary)
    else:
        place = placed(placing.order, group, rank, sizes, placing.summary)
    return np.column_stack(
        [place.astype(np.uint64) ^ np.uint64(2**63), group.astype(np.uint64), rank.astype(np.uint64)]
    ), rows


def _deal_by_place(
    placing: _Placing, cuts: npt.NDArray[np.uint64], store: Store, span: Range
) -> Mapping[int, pa.Table]:
    places, rows = _places(store, placing, span)
    whole = pa.table([*places.T[:2], rows["shard"], rows["row"]], names=["place", "group", "shard", "row"])
    return by_bucket(whole, range_of(places, cuts))


def _sort_by_place(passing: str, store: Store, _: int, dealt: Iterator[pa.Table]) -> Range:
    names = ["place", "group", "shard", "row"]
    whole = whole_of(dealt, names)  # by group and rank, and equal places stay so
    place, group, shard, row = (whole[name].to_numpy() for name in names)
    order = np.argsort(place, kind="stable")
    return _stored(store, f"{passing}/by_place", group[order].astype(np.int64), shard[order], row[order])


def _stored(
    store: Store, prefix: str, group: Ints, shard: npt.NDArray[np.int32], row: Ints, tokens: Ints | None = None
) -> Range:
    """A sorted range, once it is stored."""
    table = pa.table([group, shard.astype(np.int32), row], schema=_SORTED)
    if tokens is not None:
        table = table.append_column("tokens", pa.array(tokens))
    key = store.seal(f"{prefix}/{digest_of(table)}", [("rows", table)], form="arrow").key
    return Range(key=key, rows=len(group), tokens=0 if tokens is None else int(tokens.sum()))


@dataclass(frozen=True, kw_only=True)
class _OfGroups:
    """The lines of a placed order: phases and weights follow from groups, or phases from positions."""

    order: Dealt
    summary: Any

    def __call__(self, store: Store, span: Range) -> pa.Table:
        rows = store.read(span.key, "rows")
        positions = span.first + np.arange(rows.num_rows)
        phase, weights = labelled(self.order, rows["group"].to_numpy(), positions, self.summary)
        return pa.table([rows["row"], rows["shard"], phase, weights], schema=LINES)


@dataclass(frozen=True, kw_only=True)
class _Unvisited:
    """The rows that a placed order does not visit."""

    because: str

    def __call__(self, store: Store, number: int, rows: Ints) -> pa.Table:
        return left_out(rows, self.because)


def _added_up(counts: Sequence[Ints]) -> Ints:
    """Counts by group, of which those of some shards end before others."""
    whole = np.zeros(max(map(len, counts), default=0), np.int64)
    for some in counts:
        whole[: len(some)] += some
    return whole
