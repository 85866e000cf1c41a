"""The visits of another order, sorted anew: one more sort, of what shards got back."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.engine.exchange import by_bucket
from selector.engine.store import Store
from selector.order import Along, Resorted
from selector.order._around import Visits
from selector.order._resorted import MOST_KEYS, labelled
from selector.plugins.blame import blamed
from selector.steps.ranges.along import AlongShard
from selector.steps.ranges.arranging import Arranging
from selector.steps.ranges.back import Arranged, StillUnvisited, given_back
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
)


def sorted_anew(
    arranging: Arranging, order: Resorted, inner: Arranged, visits: Visits, along: Sequence[AlongShard]
) -> Arranged:
    """The visits of another order, by keys of their own."""
    done = arranging.done
    with blamed("order", arranging.name, order):
        summary = order.summary(visits, arranging.seed)
        own = dict(order.facts(summary))
        keeps_phases = order.phases(np.empty(0, np.int64), visits.count) is None
    keyed_by = _Anew(name=arranging.name, order=order, summary=summary, seed=arranging.seed)
    cuts = cuts_between(list(done.map(functools.partial(_sample_anew, keyed_by), along)), num_ranges(visits.count))
    deal = functools.partial(_deal_anew, keyed_by, cuts)
    sort = functools.partial(_sort_anew, done.passing)
    ranges = in_line(arranging.exchanged("anew", along, len(cuts) + 1, deal, sort))
    lines = _Carried(order=order, total=visits.count)
    answer = given_back(arranging, lines, ranges, StillUnvisited(keys=tuple(inner.keys)))
    return (
        replace(answer, facts={**inner.facts, **own}, phases=inner.phases)
        if keeps_phases
        else replace(answer, facts=own)
    )


@dataclass(frozen=True, kw_only=True)
class _Anew:
    """How the visits of one shard are sorted anew."""

    name: str
    order: Resorted
    summary: Any
    seed: int

    def __call__(self, along: Along) -> npt.NDArray[np.uint64]:
        """What each visit is sorted by: (n, 4), the last one being its position."""
        with blamed("order", self.name, self.order):
            keys = [np.asarray(key).astype(np.uint64) for key in self.order.keys(along, self.summary, self.seed)]
            assert len(keys) <= MOST_KEYS
        none = np.zeros(len(along.position), np.uint64)
        return np.column_stack([*keys, *[none] * (MOST_KEYS - len(keys)), along.position.astype(np.uint64)])


def _sample_anew(anew: _Anew, one: AlongShard) -> tuple[npt.NDArray[np.uint64], int]:
    rows = anew(one.along(one.positions()))
    return sampled(rows), len(rows)


def _deal_anew(anew: _Anew, cuts: npt.NDArray[np.uint64], _: Store, one: AlongShard) -> Mapping[int, pa.Table]:
    positions = one.positions()
    rows = anew(one.along(positions))
    shard = np.full(len(rows), one.shard.number, np.int32)
    carried = [positions["row"], shard, positions["phase"], positions["loss_weight"]]
    whole = pa.table([*rows.T, *carried], names=[*KEYS, *LINES.names])
    return by_bucket(whole, range_of(rows, cuts))


def _sort_anew(passing: str, store: Store, _: int, dealt: Iterator[pa.Table]) -> Range:
    none = pa.schema([*((name, pa.uint64()) for name in KEYS), *LINES])
    whole = pa.concat_tables([none.empty_table(), *dealt]).unify_dictionaries().combine_chunks()
    order = np.lexsort([whole[name].to_numpy() for name in reversed(KEYS)])
    rows = whole.select(LINES.names).take(pa.array(order))
    return Range(
        key=store.seal(f"{passing}/anew/{digest_of(rows)}", [("rows", rows)], form="arrow").key, rows=len(order)
    )


@dataclass(frozen=True, kw_only=True)
class _Carried:
    """The lines of visits that were sorted anew: weights are carried along, and phases where the order says none."""

    order: Resorted
    total: int

    def __call__(self, store: Store, span: Range) -> pa.Table:
        rows = store.read(span.key, "rows")
        labels = self.order.phases(span.first + np.arange(rows.num_rows), self.total)
        if labels is None:
            return rows
        return rows.set_column(LINES.get_field_index("phase"), LINES.field("phase"), labelled(labels))
