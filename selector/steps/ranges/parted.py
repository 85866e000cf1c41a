"""The visits of one part after another, each arranged over the rows that it has."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from selector.engine.canonical import fingerprint
from selector.engine.store import Store
from selector.exact import Ints, keyed
from selector.order import Order, numbered
from selector.order._parted import Arrangement, Part, Parted, arrangement, mixtures_of, phases_of_part
from selector.order._placed import columns_read, left_out
from selector.plugins.blame import blamed, with_blame
from selector.steps.ranges.arranging import Arranging, RowsOf, ShardRows
from selector.steps.ranges.back import PLACED, POSITIONS, Arranged, Lined
from selector.steps.ranges.spans import digest_of

Arrange = Callable[[Arranging, Order], Arranged]


def in_parts(whole: Arranging, order: Parted, arrange: Arrange) -> Arranged:
    """The visits of an order that divides them among others, which `arrange` arranges."""
    done, name = whole.done, whole.name
    pool = with_blame(whole.pool, "order", name, order)
    with blamed("order", name, order):
        summary = order.summary(pool, whole.seed)
        parts = list(order.parts(summary, whole.seed))
    parting = _Parting(name=name, order=order, summary=summary, columns=tuple(columns_read(order, pool)))
    cut = list(done.map(functools.partial(_cut_up, done.store, parting, done.passing), whole.shards))
    arranged_parts, arrangement_of = list[_OfPart](), dict[str, Arrangement]()
    ranges, before = list[Lined](), 0
    for number, part in enumerate(parts):
        counts = [one.counts[number] for one in cut]
        if not sum(counts):
            continue
        inner = arrange(_of_part(whole, part, number, cut, counts), part.order)
        mixtures = _mixtures(whole, parting, number, cut, inner)
        arrangement_of[part.name] = arrangement(inner.facts, inner.phases, mixtures)
        arranged_parts.append(_OfPart(name=part.name, number=number, before=before, keys=tuple(inner.keys)))
        ranges += [
            replace(lined, before=before + lined.before, parts=(*lined.parts, part.name)) for lined in inner.ranges
        ]
        before += inner.count
    with blamed("order", name, order):
        facts, phases = order.all_facts(arrangement_of, summary)
    join = functools.partial(_join, done.store, tuple(arranged_parts), order.left_because)
    items = [(shard, one.key, whole.key(shard)) for shard, one in zip(whole.shards, cut, strict=True)]
    return Arranged(keys=list(done.map(join, items)), ranges=ranges, facts=facts, phases=phases)


def _of_part(whole: Arranging, part: Part, number: int, cut: "Sequence[_CutUp]", counts: Sequence[int]) -> Arranging:
    """What one part is arranged with: shards that have its rows alone, so many of each."""
    shards = [_PartOfShard(shard=shard, key=one.key, part=number) for shard, one in zip(whole.shards, cut, strict=True)]
    rows = [
        RowsOf(store=whole.done.store, shard=shard, num_rows=count) for shard, count in zip(shards, counts, strict=True)
    ]
    return replace(
        whole,
        inputs=[whole.inputs, "part", number],
        pool=replace(whole.pool, num_documents=sum(counts), shards=rows),
        shards=shards,
        seed=part.seed,
        home=f"{whole.done.passing}/parts",
    )


def _mixtures(
    whole: Arranging, parting: "_Parting", number: int, cut: "Sequence[_CutUp]", inner: Arranged
) -> dict[str, dict[str, int]]:
    """For each phase of a part the tokens of each group."""
    mix = functools.partial(_mixtures_of_shard, whole.done.store, parting, number)
    mixtures = dict[str, dict[str, int]]()
    for some in whole.done.map(mix, list(zip(whole.shards, (one.key for one in cut), inner.keys, strict=True))):
        for phase, mixture in some.items():
            into = mixtures.setdefault(phase, {})
            for group, tokens in mixture.items():
                into[group] = into.get(group, 0) + tokens
    return mixtures


@dataclass(frozen=True, kw_only=True)
class _Parting:
    """How visits are divided into parts."""

    name: str
    order: Parted
    summary: Any
    columns: tuple[str, ...]

    def rows(self, batch: pa.RecordBatch) -> list[Ints]:
        with blamed("order", self.name, self.order):
            return list(self.order.rows(batch, self.summary))


@dataclass(frozen=True, kw_only=True)
class _CutUp:
    """The rows that each part has of a shard: where they are stored, and how many they are."""

    key: str
    counts: list[int]


@dataclass(frozen=True, kw_only=True)
class _PartOfShard:
    """The rows that a part has of a shard."""

    shard: ShardRows
    key: str
    part: int

    @property
    def number(self) -> int:
        return self.shard.number

    def read(self, store: Store, names: Sequence[str]) -> pa.RecordBatch:
        return self.shard.read(store, names).take(store.read(self.key, str(self.part))["row"].combine_chunks())


@dataclass(frozen=True, kw_only=True)
class _OfPart:
    """A part that is arranged: how many visits come before it, and the keys of its positions, shard by shard."""

    name: str
    number: int
    before: int
    keys: tuple[str, ...]


def _cut_up(store: Store, parting: _Parting, passing: str, shard: ShardRows) -> _CutUp:
    rows = [pa.table({"row": row}) for row in parting.rows(shard.read(store, parting.columns))]
    key = f"{passing}/parted/{fingerprint([shard.number, [digest_of(some) for some in rows]])}"
    stored = store.seal(key, [(str(number), some) for number, some in enumerate(rows)], form="arrow")
    return _CutUp(key=stored.key, counts=[some.num_rows for some in rows])


def _mixtures_of_shard(
    store: Store, parting: _Parting, number: int, item: tuple[ShardRows, str, str]
) -> dict[str, dict[str, int]]:
    """For each phase of a part the tokens of each group, of the visits to a shard's rows."""
    shard, key, arranged_key = item
    positions = store.read(arranged_key, "positions").unify_dictionaries()
    rows = store.read(key, str(number))["row"].to_numpy()[positions["row"].to_numpy()]
    batch = shard.read(store, parting.columns)
    with blamed("order", parting.name, parting.order):
        groups = parting.order.groups(batch, parting.summary)
        names = parting.order.group_names(parting.summary)
    tokens = batch["num_tokens"].to_numpy().astype(np.int64)
    return mixtures_of(positions["phase"].combine_chunks(), groups[rows], tokens[rows], names)


def _join(store: Store, parts: tuple[_OfPart, ...], because: str, item: tuple[ShardRows, str, str]) -> str:
    """Stores the positions of a shard's rows, those in one part after those in another; its key."""
    shard, key, home = item
    ids = keyed.words(shard.read(store, ["doc_id"])["doc_id"])
    placed_rows = [PLACED.empty_table()]
    for part in parts:
        positions = store.read(part.keys[shard.number], "positions").unify_dictionaries()
        rows = store.read(key, str(part.number))["row"].to_numpy()[positions["row"].to_numpy()]
        position = part.before + positions["position"].to_numpy()
        phase = phases_of_part(part.name, positions["phase"].combine_chunks())
        placed_rows.append(pa.table([rows, position, phase, positions["loss_weight"]], schema=PLACED))
    whole = pa.concat_tables(placed_rows).unify_dictionaries().combine_chunks()
    row = whole["row"].to_numpy()
    positions = pa.table(
        [row, whole["position"], numbered(ids[row]), whole["phase"], whole["loss_weight"]], schema=POSITIONS
    )
    left = left_out(np.flatnonzero(np.bincount(row, minlength=len(ids)) == 0), because)
    return store.seal(home, [("positions", positions), ("left", left)], form="arrow").key
