"""A placed order over shards: one distributed sort by (group, key, id), then arithmetic on ranks.

Every shard deals its rows into ranges of the sort key, every range is sorted on its own, and what comes before a range
is known by counting. Where the order says places of its own, the ranges deal again, by place. At last each shard gets
back the positions of its rows. An order around it that sorts its visits anew is one more such sort, of what the shards
got back. The answer is that of `arrange`, bit for bit.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.engine.exchange import by_bucket, exchange
from selector.engine.step import Done
from selector.engine.store import Store, fingerprint
from selector.exact import Ints, UInt64, keyed
from selector.order import Order, Placed, numbered
from selector.order._moved import stretches
from selector.order._placed import Read, columns_read, has_places, labelled, left_out, placed
from selector.order._resorted import MOST_KEYS, Along, Resorted, Visits, phases_at, taken
from selector.order._resorted import labelled as column_of
from selector.plugins.blame import Blamed, blamed, with_blame
from selector.plugins.pool import Pool
from selector.steps.chosen import ChosenShard

Answer = TypeVar("Answer")

RANGE_ROWS = 1 << 18
_SAMPLE = 1024  # of each shard, to find where ranges begin

_KEYS = ("group", "key", "high", "low")  # what rows are sorted by
_SORTED = pa.schema([("group", pa.int64()), ("shard", pa.int32()), ("row", pa.int64())])
_LINES = pa.schema([("row", pa.int64()), ("shard", pa.int32()), ("phase", tables.LABEL), ("loss_weight", pa.float32())])
_PLACED = pa.schema(
    [("row", pa.int64()), ("position", pa.int64()), ("phase", tables.LABEL), ("loss_weight", pa.float32())]
)
POSITIONS = pa.schema(
    [
        ("row", pa.int64()),  # of the shard's chosen documents
        ("position", pa.int64()),  # in the order; the table is sorted by it
        ("visit", pa.uint16()),
        ("phase", tables.LABEL),
        ("loss_weight", pa.float32()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class _Counted:
    """What a shard says of its rows before they are sorted: how many, of which groups, and a sample of their keys."""

    rows: int
    sizes: Ints
    sample: npt.NDArray[np.uint64]  # (m, 4)


@dataclass(frozen=True, kw_only=True)
class _Range:
    """A stretch of the order: where its rows are stored, and how many come before it."""

    key: str
    rows: int
    first: int = 0


def arranged(
    done: Done, inputs: Any, name: str, order: Order, pool: Pool, shards: Sequence[ChosenShard], seed: int
) -> tuple[list[str], dict[str, Any]]:
    """The keys of what each shard's rows are in the order: `positions` (`POSITIONS`) and `left` (`tables.LEFT`); and
    what the order says of itself.

    `name` is what the policy calls the order, for the message where it fails. The order is one that is sorted by shards
    (`is_sorted_by_shards`).
    """
    answer = _arranged(done, inputs, name, order, pool, shards, seed, "order.shards")
    return answer.keys, answer.facts


def _arranged(
    done: Done, inputs: Any, name: str, order: Order, pool: Pool, shards: Sequence[ChosenShard], seed: int, home: str
) -> "_Arranged":
    """The order over shards, with what each shard gets back below `home`."""
    if isinstance(order, Resorted):
        within = [inputs, "inner"]
        inner = _arranged(done, within, name, order.inner, pool, shards, seed, f"{done.passing}/inner")
        return _sorted_anew(done, inputs, name, order, inner, pool, shards, seed, home)
    assert isinstance(order, Placed)
    with blamed("order", name, order):
        summary = order.summary(with_blame(pool, "order", name, order), seed)
    read = _Reading(read=Read(order=order, summary=summary, seed=seed), names=tuple(columns_read(order, pool)))
    counted = list(done.map(functools.partial(_count, done.store, read), shards))
    sizes = np.zeros(max((len(count.sizes) for count in counted), default=0), np.int64)
    for count in counted:
        sizes[: len(count.sizes)] += count.sizes
    total = sum(count.rows for count in counted)
    cuts = _cuts([(count.sample, count.rows) for count in counted], -(-total // RANGE_ROWS))
    deal = functools.partial(_deal_by_key, read, cuts)
    sort = functools.partial(_sort_by_key, done.passing)
    ranges = _in_line(exchange(done, "order", [inputs, "keys"], shards, len(cuts) + 1, deal, sort))
    if has_places(order):
        placing = _Placing(order=order, sizes=sizes, summary=summary)
        samples = list(done.map(functools.partial(_sample_places, done.store, placing), ranges))
        cuts = _cuts(
            [(sample, span.rows) for sample, span in zip(samples, ranges, strict=True)], -(-total // RANGE_ROWS)
        )
        again = functools.partial(_deal_by_place, placing, cuts)
        sort = functools.partial(_sort_by_place, done.passing)
        ranges = _in_line(exchange(done, "order", [inputs, "places"], ranges, len(cuts) + 1, again, sort))
    lines = _OfGroups(order=order, summary=summary)
    return _given_back(done, inputs, lines, ranges, shards, _Unvisited(read=read), home)


def _sorted_anew(
    done: Done,
    inputs: Any,
    name: str,
    order: Resorted,
    inner: "_Arranged",
    pool: Pool,
    shards: Sequence[ChosenShard],
    seed: int,
    home: str,
) -> "_Arranged":
    """The visits of another order, sorted anew."""
    begins, phases = _stretches(done, inner)
    along = [
        _AlongShard(store=done.store, shard=shard, key=key, begins=begins, reads=order.reads)
        for shard, key in zip(shards, inner.keys, strict=True)
    ]
    total = sum(span.rows for span in inner.ranges)

    def everywhere(work: Callable[[Along], Answer]) -> Iterator[Answer]:
        return done.map(Blamed(kind="order", name=name, plugin=order, work=_OfAlong(work=work)), along)

    with blamed("order", name, order):
        visits = Visits(each=everywhere, count=total, phases=phases, chosen=with_blame(pool, "order", name, order))
        summary = order.summary(visits, seed)
        own = dict(order.facts(summary))
        keeps_phases = order.phases(np.empty(0, np.int64), total) is None
    keyed_by = _Anew(name=name, order=order, summary=summary, seed=seed)
    samples = list(done.map(functools.partial(_sample_anew, keyed_by), along))
    cuts = _cuts([(sample, rows) for sample, rows in samples], -(-total // RANGE_ROWS))
    deal = functools.partial(_deal_anew, keyed_by, cuts)
    sort = functools.partial(_sort_anew, done.passing)
    ranges = _in_line(exchange(done, "order", [inputs, "anew"], along, len(cuts) + 1, deal, sort))
    lines = _Carried(order=order, total=total)
    answer = _given_back(done, inputs, lines, ranges, shards, _StillUnvisited(keys=tuple(inner.keys)), home)
    return replace(answer, facts={**inner.facts, **own} if keeps_phases else own)


def _given_back(
    done: Done,
    inputs: Any,
    lines: "_Lines",
    ranges: "Sequence[_Range]",
    shards: Sequence[ChosenShard],
    unvisited: "_NotVisited",
    home: str,
) -> "_Arranged":
    """Gives each shard the positions of its rows; `lines` says what is in a range, one visit after another."""
    back = functools.partial(_deal_back, lines)
    keys = [f"{home}/{fingerprint([inputs, shard.number])}" for shard in shards]
    collect = functools.partial(_collect, unvisited, tuple(shards), tuple(keys))
    keys = exchange(done, "order", [inputs, "back"], ranges, len(shards), back, collect)
    return _Arranged(keys=keys, ranges=ranges, lines=lines)


def _stretches(done: Done, inner: "_Arranged") -> tuple[Ints, pa.DictionaryArray]:
    """The positions at which another phase begins, the first one included, and those phases."""
    begins, phases = [np.empty(0, np.int64)], [pa.chunked_array([], tables.LABEL)]
    last: str | None = None
    for first, phase in done.map(functools.partial(_runs, done.store, inner.lines), inner.ranges):
        if len(first):
            is_same = phase[0].as_py() == last
            begins.append(first[is_same:])
            phases.append(pa.chunked_array([phase[is_same:]]))
            last = phase[-1].as_py()
    whole = pa.chunked_array([chunk for column in phases for chunk in column.chunks], tables.LABEL)
    where = np.concatenate(begins)
    return where, phases_at(whole, np.arange(len(where)))


def _in_line(ranges: Sequence[_Range]) -> list[_Range]:
    """The ranges, each with what comes before it."""
    firsts = np.cumsum([0, *(span.rows for span in ranges)]).tolist()
    return [_Range(key=span.key, rows=span.rows, first=first) for span, first in zip(ranges, firsts, strict=False)]


def _cuts(samples: Sequence[tuple[npt.NDArray[np.uint64], int]], num_ranges: int) -> npt.NDArray[np.uint64]:
    """Where ranges begin, shape (ranges - 1, columns), so that they have about the same number of rows."""
    width = next((sample.shape[1] for sample, _ in samples), 1)
    rows = np.concatenate([np.empty((0, width), np.uint64), *(sample for sample, _ in samples)])
    weights = np.concatenate([np.empty(0), *(np.full(len(s), rows / max(len(s), 1)) for s, rows in samples)])
    order = np.lexsort(rows.T[::-1])
    reached = np.cumsum(weights[order])
    if num_ranges < 2 or not len(order):
        return rows[:0]
    wanted = reached[-1] * np.arange(1, num_ranges) / num_ranges
    at = np.minimum(np.searchsorted(reached, wanted), len(order) - 1)
    return np.unique(rows[order[at]], axis=0)


def _range_of(rows: npt.NDArray[np.uint64], cuts: npt.NDArray[np.uint64]) -> Ints:
    """The range of each row: how many cuts are not behind it. The next column is looked at only where one ties."""
    number, end = (np.searchsorted(cuts[:, 0], rows[:, 0], side) for side in ("left", "right"))
    if rows.shape[1] == 1:
        return end
    tied = np.flatnonzero(number < end)
    begins = number[tied]
    for begin in np.unique(begins).tolist():
        here = tied[begins == begin]
        number[here] += _range_of(rows[here, 1:], cuts[begin : end[here[0]], 1:])
    return number


def _sampled(rows: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Rows at even distances along their order."""
    if len(rows) <= _SAMPLE:
        return rows
    order = np.lexsort(rows.T[::-1])
    return rows[order[np.linspace(0, len(order) - 1, _SAMPLE).astype(np.int64)]]


# What workers do.


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """How the order reads a shard's rows."""

    read: Read
    names: tuple[str, ...]

    def __call__(self, store: Store, shard: ChosenShard) -> tuple[Ints, npt.NDArray[np.uint64]]:
        """How often each row is seen, and for each time what it is sorted by: (n, 4), in the order of `_KEYS`."""
        counts, ids, groups, keys = self.read(shard.read(store, self.names))
        return counts, np.column_stack([groups.astype(np.uint64), keys, ids])


def _count(store: Store, read: _Reading, shard: ChosenShard) -> _Counted:
    _, rows = read(store, shard)
    return _Counted(rows=len(rows), sizes=np.bincount(rows[:, 0].astype(np.int64)), sample=_sampled(rows))


def _deal_by_key(
    read: _Reading, cuts: npt.NDArray[np.uint64], store: Store, shard: ChosenShard
) -> Mapping[int, pa.Table]:
    counts, rows = read(store, shard)
    row = np.repeat(np.arange(len(counts)), counts)
    number = np.full(len(rows), shard.number, np.int32)
    whole = pa.table([*rows.T, number, row], names=[*_KEYS, "shard", "row"])
    return by_bucket(whole, _range_of(rows, cuts))


def _sort_by_key(passing: str, store: Store, _: int, dealt: Iterator[pa.Table]) -> _Range:
    whole = _whole(dealt, [*_KEYS, "shard", "row"])
    columns = [whole[name].to_numpy() for name in (*_KEYS, "shard", "row")]
    order = np.lexsort(columns[::-1])
    return _stored(store, f"{passing}/by_key", columns[0][order].astype(np.int64), columns[4][order], columns[5][order])


@dataclass(frozen=True, kw_only=True)
class _Placing:
    """How the order says the places of rows."""

    order: Placed
    sizes: Ints
    summary: Any


def _sample_places(store: Store, placing: _Placing, span: _Range) -> npt.NDArray[np.uint64]:
    return _sampled(_places(store, placing, span)[0])


def _places(store: Store, placing: _Placing, span: _Range) -> tuple[npt.NDArray[np.uint64], pa.Table]:
    """The place, the group and the rank of each row of a range, and the rows."""
    rows = store.read(span.key, "rows")
    group = rows["group"].to_numpy()
    sizes = placing.sizes
    rank = span.first + np.arange(len(group)) - (np.cumsum(sizes) - sizes)[group]
    place = placed(placing.order, group, rank, sizes, placing.summary)
    return np.column_stack(
        [place.astype(np.uint64) ^ np.uint64(2**63), group.astype(np.uint64), rank.astype(np.uint64)]
    ), rows


def _deal_by_place(
    placing: _Placing, cuts: npt.NDArray[np.uint64], store: Store, span: _Range
) -> Mapping[int, pa.Table]:
    places, rows = _places(store, placing, span)
    whole = pa.table([*places.T, rows["shard"], rows["row"]], names=["place", "group", "rank", "shard", "row"])
    return by_bucket(whole, _range_of(places, cuts))


def _sort_by_place(passing: str, store: Store, _: int, dealt: Iterator[pa.Table]) -> _Range:
    names = ["place", "group", "rank", "shard", "row"]
    whole = _whole(dealt, names)
    place, group, rank, shard, row = (whole[name].to_numpy() for name in names)
    order = np.lexsort((rank, group, place))
    return _stored(store, f"{passing}/by_place", group[order].astype(np.int64), shard[order], row[order])


class _Lines(Protocol):
    """What is in a range, one visit after another: row and shard, phase and loss weight. Picklable."""

    def __call__(self, store: Store, span: "_Range", /) -> pa.Table: ...


@dataclass(frozen=True, kw_only=True)
class _OfGroups:
    """The lines of a placed order: phases and weights follow from groups."""

    order: Placed
    summary: Any

    def __call__(self, store: Store, span: "_Range") -> pa.Table:
        rows = store.read(span.key, "rows")
        phase, weights = labelled(self.order, rows["group"].to_numpy(), self.summary)
        return pa.table([rows["row"], rows["shard"], phase, weights], schema=_LINES)


@dataclass(frozen=True, kw_only=True)
class _Carried:
    """The lines of visits that were sorted anew: weights are carried along, and phases where the order says none."""

    order: Resorted
    total: int

    def __call__(self, store: Store, span: "_Range") -> pa.Table:
        rows = store.read(span.key, "rows")
        labels = self.order.phases(span.first + np.arange(rows.num_rows), self.total)
        if labels is None:
            return rows
        return rows.set_column(_LINES.get_field_index("phase"), _LINES.field("phase"), column_of(labels))


@dataclass(frozen=True, kw_only=True)
class _Arranged:
    """An order over shards: what each shard got back, and the ranges that its visits are in, first to last."""

    keys: list[str]
    ranges: Sequence[_Range]
    lines: _Lines
    facts: dict[str, Any] = field(default_factory=dict[str, Any])


def _runs(store: Store, lines: _Lines, span: _Range) -> tuple[Ints, pa.DictionaryArray]:
    """Where the stretches of one phase begin in a range, and their phases."""
    phase = lines(store, span)["phase"]
    begins, _ = stretches(phase)
    return span.first + begins, phases_at(phase, begins)


@dataclass(frozen=True, kw_only=True)
class _AlongShard:
    """The visits of another order to the rows of one shard."""

    store: Store
    shard: ChosenShard
    key: str
    begins: Ints
    reads: tuple[str, ...]

    def positions(self) -> pa.Table:
        return self.store.read(self.key, "positions")

    def along(self, positions: pa.Table) -> Along:
        batch, rows = self.shard.read(self.store, ["doc_id", *self.reads]), positions["row"].to_numpy()
        position = positions["position"].to_numpy()
        stretch = np.searchsorted(self.begins, position, "right") - 1
        return Along(
            ids=keyed.words(batch["doc_id"])[rows],
            visit=positions["visit"].to_numpy().astype(np.int64),
            position=position,
            stretch=stretch,
            begin=self.begins[stretch],
            batch=taken(batch.select(list(self.reads)), rows),
        )


@dataclass(frozen=True, kw_only=True)
class _OfAlong(Generic[Answer]):
    """Work on the visits to the rows of one shard."""

    work: Callable[[Along], Answer]

    def __call__(self, one: _AlongShard) -> Answer:
        return self.work(one.along(one.positions()))


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


def _sample_anew(anew: _Anew, one: _AlongShard) -> tuple[npt.NDArray[np.uint64], int]:
    rows = anew(one.along(one.positions()))
    return _sampled(rows), len(rows)


def _deal_anew(anew: _Anew, cuts: npt.NDArray[np.uint64], _: Store, one: _AlongShard) -> Mapping[int, pa.Table]:
    positions = one.positions()
    rows = anew(one.along(positions))
    shard = np.full(len(rows), one.shard.number, np.int32)
    carried = [positions["row"], shard, positions["phase"], positions["loss_weight"]]
    whole = pa.table([*rows.T, *carried], names=[*_KEYS, *_LINES.names])
    return by_bucket(whole, _range_of(rows, cuts))


def _sort_anew(passing: str, store: Store, _: int, dealt: Iterator[pa.Table]) -> _Range:
    none = pa.schema([*((name, pa.uint64()) for name in _KEYS), *_LINES])
    whole = pa.concat_tables([none.empty_table(), *dealt]).unify_dictionaries().combine_chunks()
    order = np.lexsort([whole[name].to_numpy() for name in reversed(_KEYS)])
    rows = whole.select(_LINES.names).take(pa.array(order))
    return _Range(
        key=store.seal(f"{passing}/anew/{_digest(rows)}", [("rows", rows)], form="arrow").key, rows=len(order)
    )


def _deal_back(lines: _Lines, store: Store, span: _Range) -> Mapping[int, pa.Table]:
    rows = lines(store, span)
    positions = span.first + np.arange(rows.num_rows)
    whole = pa.table([rows["row"], positions, rows["phase"], rows["loss_weight"]], schema=_PLACED)
    return by_bucket(whole, rows["shard"].to_numpy())


class _NotVisited(Protocol):
    """`tables.LEFT` of a shard: the rows that the order does not visit. Picklable."""

    def __call__(self, store: Store, shard: ChosenShard, number: int, /) -> pa.Table: ...


@dataclass(frozen=True, kw_only=True)
class _Unvisited:
    """The rows that a placed order does not visit."""

    read: _Reading

    def __call__(self, store: Store, shard: ChosenShard, number: int) -> pa.Table:
        counts, _ = self.read(store, shard)
        return left_out(self.read.read.order, np.flatnonzero(counts == 0))


@dataclass(frozen=True, kw_only=True)
class _StillUnvisited:
    """The rows that the order inside does not visit."""

    keys: tuple[str, ...]

    def __call__(self, store: Store, shard: ChosenShard, number: int) -> pa.Table:
        return store.read(self.keys[number], "left")


def _collect(
    unvisited: _NotVisited,
    shards: tuple[ChosenShard, ...],
    keys: tuple[str, ...],
    store: Store,
    number: int,
    dealt: Iterator[pa.Table],
) -> str:
    """Stores the positions of a shard's rows; its key."""
    shard = shards[number]
    whole = pa.concat_tables([_PLACED.empty_table(), *dealt]).unify_dictionaries().sort_by("position").combine_chunks()
    ids: UInt64 = keyed.words(shard.read(store, ["doc_id"])["doc_id"])
    visit = numbered(ids[whole["row"].to_numpy()])
    positions = pa.table(
        [whole["row"], whole["position"], visit, whole["phase"], whole["loss_weight"]], schema=POSITIONS
    )
    left = unvisited(store, shard, number)
    return store.seal(keys[number], [("positions", positions), ("left", left)], form="arrow").key


def _whole(dealt: Iterator[pa.Table], names: Sequence[str]) -> pa.Table:
    """All rows of a bucket; none, if nothing was dealt into it."""
    tables_dealt = list(dealt)
    if not tables_dealt:
        return pa.table([pa.array([], pa.int64()) for _ in names], names=list(names))
    return pa.concat_tables(tables_dealt).combine_chunks()


def _stored(store: Store, prefix: str, group: Ints, shard: npt.NDArray[np.int32], row: Ints) -> _Range:
    """A sorted range, once it is stored."""
    table = pa.table([group, shard.astype(np.int32), row], schema=_SORTED)
    return _Range(key=store.seal(f"{prefix}/{_digest(table)}", [("rows", table)], form="arrow").key, rows=len(group))


def _digest(table: pa.Table) -> str:
    """What a range is called: after what is in it."""
    data = list[bytes]()
    for column in table.combine_chunks().columns:
        whole = column.combine_chunks()
        if pa.types.is_dictionary(whole.type):
            data.append(repr(whole.dictionary.to_pylist()).encode())
            whole = whole.indices
        data.append(np.ascontiguousarray(whole.to_numpy()).tobytes())
    return keyed.digest(b"".join(data)).hex()
