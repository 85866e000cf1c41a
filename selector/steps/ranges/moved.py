"""The visits of another order, moved by their groups: those alone are held, in line."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.engine.exchange import by_bucket
from selector.engine.step import Done
from selector.engine.store import Store
from selector.order import Along
from selector.order._around import Visits
from selector.order._moved import Moved
from selector.order._spacing import small
from selector.plugins.blame import blamed
from selector.steps.ranges import spans
from selector.steps.ranges.along import AlongShard
from selector.steps.ranges.arranging import Arranging
from selector.steps.ranges.back import PLACED, Arranged, StillUnvisited, collected
from selector.steps.ranges.spans import LINES, Range, digest_of, in_line, whole_of


def moved(arranging: Arranging, order: Moved, inner: Arranged, visits: Visits, along: Sequence[AlongShard]) -> Arranged:
    """The visits of another order, in other places."""
    done, name = arranging.done, arranging.name
    with blamed("order", name, order):
        visits.check_room(order)
        summary = order.summary(visits, arranging.seed)
    deal = functools.partial(_deal_in_line, _Grouping(name=name, order=order, summary=summary))
    num_ranges = max(spans.num_ranges(visits.count), 1)
    line = functools.partial(_line, done.passing)
    ranges = in_line(arranging.exchanged("in line", along, num_ranges, deal, line))
    groups = np.concatenate([np.empty(0, np.int8), *(done.store.read(span.key, "groups")["group"] for span in ranges)])
    with blamed("order", name, order):
        moves = order.moves(groups, visits, summary)
        del groups
        arrivals = [_stored_move(done, i, before) for i, before in enumerate(moves.stretches(spans.RANGE_ROWS))]
        facts = order.facts_of(moves, visits, summary)
    del moves
    leave = functools.partial(_leave, tuple(ranges), done.passing)
    places = arranging.exchanged("moves", arrivals, num_ranges, _deal_moves, leave)
    keys = collected(arranging, places, _deal_moved, StillUnvisited(keys=tuple(inner.keys)))
    return replace(inner, keys=keys, facts={**inner.facts, **facts})  # no visit leaves its stretch of one phase


@dataclass(frozen=True, kw_only=True)
class _Grouping:
    """How visits are grouped by an order that moves them."""

    name: str
    order: Moved
    summary: Any

    def __call__(self, along: Along) -> npt.NDArray[np.int32]:
        with blamed("order", self.name, self.order):
            return self.order.groups(along, self.summary).astype(np.int32)


def _deal_in_line(grouping: _Grouping, _: Store, one: AlongShard) -> Mapping[int, pa.Table]:
    """The visits of a shard, by the ranges that their positions are in."""
    positions = one.positions()
    position = positions["position"].to_numpy()
    shard = np.full(len(position), one.shard.number, np.int32)
    columns = [position, grouping(one.along(positions)), positions["row"], shard]
    carried = [positions["phase"], positions["loss_weight"]]
    return by_bucket(
        pa.table([*columns, *carried], names=["position", "group", *LINES.names]), position // spans.RANGE_ROWS
    )


def _line(passing: str, store: Store, _: int, dealt: Iterator[pa.Table]) -> Range:
    """A range of visits in line, and their groups, once they are stored."""
    none = pa.schema([("position", pa.int64()), ("group", pa.int32()), *LINES])
    whole = pa.concat_tables([none.empty_table(), *dealt]).unify_dictionaries().combine_chunks().sort_by("position")
    rows, groups = whole.select(LINES.names).combine_chunks(), pa.table({"group": small(whole["group"].to_numpy())})
    key = f"{passing}/in_line/{digest_of(whole)}"
    return Range(key=store.seal(key, [("rows", rows), ("groups", groups)], form="arrow").key, rows=len(whole))


@dataclass(frozen=True, kw_only=True)
class _Move:
    """A range of visits in line, and where each of them goes."""

    span: Range
    key: str


@dataclass(frozen=True, kw_only=True)
class _Arrival:
    """A stretch of the new order, and where its visits were before."""

    first: int
    key: str


def _stored_move(done: Done, number: int, before: npt.NDArray[np.integer]) -> _Arrival:
    """Where the visits of a stretch of the new order were, once it is stored."""
    table = pa.table({"position": before})
    key = done.store.seal(f"{done.passing}/moves/{digest_of(table)}", [("moves", table)], form="arrow").key
    return _Arrival(first=number * spans.RANGE_ROWS, key=key)


def _deal_moves(store: Store, one: _Arrival) -> Mapping[int, pa.Table]:
    before = store.read(one.key, "moves")["position"].to_numpy()
    whole = pa.table({"before": before, "after": one.first + np.arange(len(before))})
    return by_bucket(whole, before // spans.RANGE_ROWS)


def _leave(ranges: tuple[Range, ...], passing: str, store: Store, number: int, dealt: Iterator[pa.Table]) -> _Move:
    """Where the visits of a range go, once it is stored."""
    whole = whole_of(dealt, ["before", "after"])
    after = np.empty(len(whole), np.int64)
    after[whole["before"].to_numpy() - number * spans.RANGE_ROWS] = whole["after"].to_numpy()
    table = pa.table({"position": after})
    key = store.seal(f"{passing}/moves/{digest_of(table)}", [("moves", table)], form="arrow").key
    return _Move(span=ranges[number], key=key)


def _deal_moved(store: Store, move: _Move) -> Mapping[int, pa.Table]:
    rows, positions = store.read(move.span.key, "rows"), store.read(move.key, "moves")["position"]
    whole = pa.table([rows["row"], positions, rows["phase"], rows["loss_weight"]], schema=PLACED)
    return by_bucket(whole, rows["shard"].to_numpy())
