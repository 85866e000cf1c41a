"""The visits of another order, in their places, weighed."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.order import Along
from selector.order._around import Visits
from selector.order._weighted import Tally, Weighted, divided, divisor, multiplied, weight_facts
from selector.plugins import attached
from selector.plugins.blame import blamed
from selector.plugins.families import name_of
from selector.steps.ranges.along import AlongShard
from selector.steps.ranges.arranging import Arranging
from selector.steps.ranges.back import POSITIONS, Arranged
from selector.steps.ranges.spans import digest_of


def weighed(
    arranging: Arranging, order: Weighted, inner: Arranged, visits: Visits, along: Sequence[AlongShard]
) -> Arranged:
    """The visits of another order, with the loss weights of this one."""
    done, name = arranging.done, arranging.name
    with blamed("order", name, order):
        summary = order.summary(visits, arranging.seed)
    bare = attached.attach(order, {})  # what its tables say is in the summary
    weigh = functools.partial(_weigh, _Weighing(name=name, order=bare, summary=summary), done.passing)
    raw = list(done.map(weigh, along))
    known = Tally.sum(one.known for one in raw)
    pairs = list(zip(along, raw, strict=True))
    product = Tally.sum(done.map(functools.partial(_add_up, known.mean), pairs))
    by = divisor(order.normalised, product)
    items = list(zip(pairs, map(arranging.key, arranging.shards), strict=True))
    keys = list(done.map(functools.partial(_reweigh, known.mean, by), items))
    return replace(
        inner, keys=keys, facts={**inner.facts, name_of(order): weight_facts(name_of(order), known, product, by)}
    )


@dataclass(frozen=True, kw_only=True)
class _Weighing:
    """How visits are weighed."""

    name: str
    order: Weighted
    summary: Any

    def __call__(self, along: Along) -> npt.NDArray[np.float64]:
        with blamed("order", self.name, self.order):
            return self.order.weights(along, self.summary)


@dataclass(frozen=True, kw_only=True)
class _Raw:
    """The weights of a shard's visits, as the order says them: where they are stored, and what those that are known
    add up to."""

    key: str
    known: Tally


def _weigh(weighing: _Weighing, passing: str, one: AlongShard) -> _Raw:
    weights = weighing(one.along(one.positions()))
    table = pa.table({"weight": weights})
    key = one.store.seal(f"{passing}/weights/{digest_of(table)}", [("weights", table)], form="arrow").key
    return _Raw(key=key, known=Tally.of(weights[~np.isnan(weights)]))


def _product(unknown: float, pair: tuple[AlongShard, _Raw]) -> npt.NDArray[np.float64]:
    one, raw = pair
    weights = one.store.read(raw.key, "weights")["weight"].to_numpy()
    return multiplied(weights, one.positions()["loss_weight"].to_numpy(), unknown)


def _add_up(unknown: float, pair: tuple[AlongShard, _Raw]) -> Tally:
    return Tally.of(_product(unknown, pair))


def _reweigh(unknown: float, by: float, item: tuple[tuple[AlongShard, _Raw], str]) -> str:
    """Stores the positions of a shard's rows with their weights; its key."""
    pair, key = item
    one, _ = pair
    weights = pa.array(divided(_product(unknown, pair), by))
    at = POSITIONS.get_field_index("loss_weight")
    positions = one.positions().set_column(at, POSITIONS.field(at), weights)
    left = one.store.read(one.key, "left")
    return one.store.seal(key, [("positions", positions), ("left", left)], form="arrow").key
