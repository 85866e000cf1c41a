"""A placed order over shards: one distributed sort by (group, key, id), then arithmetic on ranks.

Every shard deals its rows into ranges of the sort key, every range is sorted on its own, and what comes before a range
is known by counting. Where the order says places of its own, the ranges deal again, by place. At last each shard gets
back the positions of its rows. An order around it goes on from what the shards got back: one that sorts its visits anew
is one more such sort, one that moves them by their groups reads those in line, and one that weighs them leaves them
where they are. One with parts arranges each over the rows that it has, and puts them after each other. The answer is
that of `arrange`, bit for bit.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.engine.canonical import fingerprint
from selector.engine.exchange import by_bucket, exchange
from selector.engine.step import Done
from selector.engine.store import Store
from selector.exact import Ints, UInt64, keyed, tally
from selector.order import Dealt, Order, numbered
from selector.order._around import Along, Around, Visits, phases_at, stretches, taken
from selector.order._moved import Moved
from selector.order._parted import Arrangement, Part, Parted, arrangement, mixtures_of, phases_of_part
from selector.order._placed import Read, columns_read, has_places, labelled, left_out, middles, placed, standing
from selector.order._resorted import MOST_KEYS, Resorted
from selector.order._resorted import labelled as column_of
from selector.order._spacing import small
from selector.order._weighted import Tally, Weighted, divided, divisor, multiplied, weight_facts
from selector.plugins import attached
from selector.plugins.blame import Blamed, blamed, with_blame
from selector.plugins.families import name_of
from selector.plugins.pool import Pool

Answer = TypeVar("Answer")

RANGE_ROWS = 1 << 18
_SAMPLE = 1024  # of each shard, to find where ranges begin

_KEYS = ("group", "key", "high", "low")  # what rows are sorted by
_GROUPS = np.empty(0, np.int8)
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


class ShardRows(Protocol):
    """The rows of one shard, wherever their columns are, such as a `ChosenShard`. Picklable."""

    @property
    def number(self) -> int: ...

    def read(self, store: Store, names: Sequence[str]) -> pa.RecordBatch:
        """The rows with these columns; those of a document one after another."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Counted:
    """What a shard says of its rows before they are sorted: how many, of which groups, and a sample of their keys."""

    rows: int
    sizes: Ints
    tokens: Ints  # of the groups, where the order counts them
    sample: npt.NDArray[np.uint64]  # (m, 4)


@dataclass(frozen=True, kw_only=True)
class _Range:
    """A stretch of the order: where its rows are stored, and how many come before it."""

    key: str
    rows: int
    first: int = 0
    tokens: int = 0  # of its rows, where the order counts them
    tokens_before: int = 0


def arranged(
    done: Done, inputs: Any, name: str, order: Order, pool: Pool, shards: Sequence[ShardRows], seed: int
) -> "Arranged":
    """What each shard's rows are in the order, by the keys of `positions` (`POSITIONS`) and `left` (`tables.LEFT`); and
    what the order says of itself.

    `name` is what the policy calls the order, for the message where it fails. The order is one that is arranged by
    shards (`is_arranged_by_shards`).
    """
    return _arranged(done, inputs, name, order, pool, shards, seed, "order.shards")


def _arranged(
    done: Done, inputs: Any, name: str, order: Order, pool: Pool, shards: Sequence[ShardRows], seed: int, home: str
) -> "Arranged":
    """The order over shards, with what each shard gets back below `home`."""
    with_ranks, ranked = _with_ranks(done, inputs, name, order, pool, shards, seed)
    if isinstance(order, Around):
        within = [inputs, "inner"]
        inner = _arranged(done, within, name, order.inner, pool, shards, seed, f"{done.passing}/inner")
        outside = _Outside(done=done, inputs=inputs, name=name, pool=with_ranks, shards=ranked, seed=seed, home=home)
        return _around(outside, order, inner)
    if isinstance(order, Parted):
        whole = _Outside(done=done, inputs=inputs, name=name, pool=with_ranks, shards=ranked, seed=seed, home=home)
        return _in_parts(whole, order)
    assert isinstance(order, Dealt)
    pool, shards = with_ranks, ranked
    with blamed("order", name, order):
        summary = order.summary(with_blame(pool, "order", name, order), seed)
    read = _Reading(read=Read(order=order, summary=summary, seed=seed), names=tuple(columns_read(order, pool)))
    counted = list(done.map(functools.partial(_count, done.store, read), shards))
    sizes, totals = _added_up([count.sizes for count in counted]), _added_up([count.tokens for count in counted])
    total = sum(count.rows for count in counted)
    cuts = _cuts([(count.sample, count.rows) for count in counted], -(-total // RANGE_ROWS))
    deal = functools.partial(_deal_by_key, read, cuts)
    sort = functools.partial(_sort_by_key, done.passing)
    ranges = _in_line(exchange(done, "order", [inputs, "keys"], shards, len(cuts) + 1, deal, sort))
    if has_places(order):
        placing = _Placing(order=order, sizes=sizes, tokens=totals, summary=summary)
        samples = list(done.map(functools.partial(_sample_places, done.store, placing), ranges))
        cuts = _cuts(
            [(sample, span.rows) for sample, span in zip(samples, ranges, strict=True)], -(-total // RANGE_ROWS)
        )
        again = functools.partial(_deal_by_place, placing, cuts)
        sort = functools.partial(_sort_by_place, done.passing)
        ranges = _in_line(exchange(done, "order", [inputs, "places"], ranges, len(cuts) + 1, again, sort))
    lines = _OfGroups(order=order, summary=summary)
    answer = _given_back(done, inputs, lines, ranges, shards, _Unvisited(read=read), home)
    return replace(answer, facts=dict(order.facts(sizes, summary)), phases=dict(order.phase_facts(summary)))


def _with_ranks(
    done: Done, inputs: Any, name: str, order: Order, pool: Pool, shards: Sequence[ShardRows], seed: int
) -> tuple[Pool, Sequence[ShardRows]]:
    """The pool and its shards with the further columns that the order reads (`Order.ranks`)."""
    for column, by in order.ranks.items():
        in_it = _arranged(done, [inputs, column], name, by, pool, shards, seed, f"{done.passing}/ranks")
        ranked = [_Ranked(shard=shard, column=column, key=key) for shard, key in zip(shards, in_it.keys, strict=True)]
        rows = [
            _RowsOf(store=done.store, shard=shard, num_rows=one.num_rows)
            for shard, one in zip(ranked, pool.shards, strict=True)
        ]
        shards = ranked
        pool = replace(pool, schema=pool.schema.append(pa.field(column, pa.int64())), shards=rows)
    return pool, shards


@dataclass(frozen=True, kw_only=True)
class _Outside:
    """What an order around another one is arranged with."""

    done: Done
    inputs: Any
    name: str
    pool: Pool
    shards: Sequence[ShardRows]
    seed: int
    home: str

    def key(self, shard: ShardRows) -> str:
        """Where the positions of a shard's rows are stored."""
        return f"{self.home}/{fingerprint([self.inputs, shard.number])}"


def _around(outside: _Outside, order: Around, inner: "Arranged") -> "Arranged":
    """What an order does to the visits of another one."""
    done, name = outside.done, outside.name
    begins, phases = _stretches(done, inner)
    along = [
        _AlongShard(store=done.store, shard=shard, key=key, begins=begins, reads=order.reads)
        for shard, key in zip(outside.shards, inner.keys, strict=True)
    ]

    def everywhere(work: Callable[[Along], Answer]) -> Iterator[Answer]:
        return done.map(Blamed(kind="order", name=name, plugin=type(order), work=_OfAlong(work=work)), along)

    pool = with_blame(outside.pool, "order", name, order)
    total = inner.count
    visits = Visits(each=everywhere, count=total, begins=begins, phases=phases, chosen=pool)
    if isinstance(order, Resorted):
        return _sorted_anew(outside, order, inner, visits, along)
    if isinstance(order, Moved):
        return _moved(outside, order, inner, visits, along)
    assert isinstance(order, Weighted)
    return _weighed(outside, order, inner, visits, along)


def _sorted_anew(
    outside: _Outside, order: Resorted, inner: "Arranged", visits: Visits, along: "Sequence[_AlongShard]"
) -> "Arranged":
    """The visits of another order, sorted anew."""
    done, inputs = outside.done, outside.inputs
    with blamed("order", outside.name, order):
        summary = order.summary(visits, outside.seed)
        own = dict(order.facts(summary))
        keeps_phases = order.phases(np.empty(0, np.int64), visits.count) is None
    keyed_by = _Anew(name=outside.name, order=order, summary=summary, seed=outside.seed)
    samples = list(done.map(functools.partial(_sample_anew, keyed_by), along))
    cuts = _cuts([(sample, rows) for sample, rows in samples], -(-visits.count // RANGE_ROWS))
    deal = functools.partial(_deal_anew, keyed_by, cuts)
    sort = functools.partial(_sort_anew, done.passing)
    ranges = _in_line(exchange(done, "order", [inputs, "anew"], along, len(cuts) + 1, deal, sort))
    lines = _Carried(order=order, total=visits.count)
    unvisited = _StillUnvisited(keys=tuple(inner.keys))
    answer = _given_back(done, inputs, lines, ranges, outside.shards, unvisited, outside.home)
    return (
        replace(answer, facts={**inner.facts, **own}, phases=inner.phases)
        if keeps_phases
        else replace(answer, facts=own)
    )


def _moved(
    outside: _Outside, order: Moved, inner: "Arranged", visits: Visits, along: "Sequence[_AlongShard]"
) -> "Arranged":
    """The visits of another order, moved by their groups: those are all that is held, in line."""
    done, inputs = outside.done, outside.inputs
    with blamed("order", outside.name, order):
        visits.check_room(order)
        summary = order.summary(visits, outside.seed)
    deal = functools.partial(_deal_in_line, _Grouping(name=outside.name, order=order, summary=summary))
    num_ranges = max(-(-visits.count // RANGE_ROWS), 1)
    line = functools.partial(_line, done.passing)
    ranges = _in_line(exchange(done, "order", [inputs, "in line"], along, num_ranges, deal, line))
    groups = np.concatenate([_GROUPS[:0], *(done.store.read(span.key, "groups")["group"] for span in ranges)])
    with blamed("order", outside.name, order):
        moves = order.moves(groups, visits, summary)
        del groups
        arrivals = [_stored_move(done, i, before) for i, before in enumerate(moves.stretches(RANGE_ROWS))]
        facts = order.facts_of(moves, visits, summary)
    del moves
    meet = functools.partial(_leave, tuple(ranges), done.passing)
    moved = exchange(done, "order", [inputs, "moves"], arrivals, num_ranges, _deal_moves, meet)
    keys = [outside.key(shard) for shard in outside.shards]
    unvisited = _StillUnvisited(keys=tuple(inner.keys))
    collect = functools.partial(_collect, unvisited, tuple(outside.shards), tuple(keys))
    keys = exchange(done, "order", [inputs, "back"], moved, len(keys), _deal_moved, collect)
    return replace(inner, keys=keys, facts={**inner.facts, **facts})  # no visit leaves its stretch of one phase


def _weighed(
    outside: _Outside, order: Weighted, inner: "Arranged", visits: Visits, along: "Sequence[_AlongShard]"
) -> "Arranged":
    """The visits of another order, in their places, weighed."""
    done, name = outside.done, outside.name
    with blamed("order", name, order):
        summary = order.summary(visits, outside.seed)
    bare = attached.attach(order, {})  # what its tables say is in the summary
    weigh = functools.partial(_weigh, _Weighing(name=name, order=bare, summary=summary), done.passing)
    raw = list(done.map(weigh, along))
    known = Tally.sum(one.known for one in raw)
    pairs = list(zip(along, raw, strict=True))
    product = Tally.sum(done.map(functools.partial(_add_up, known.mean), pairs))
    by = divisor(order.normalised, product)
    store = functools.partial(_reweigh, known.mean, by)
    keys = [outside.key(shard) for shard in outside.shards]
    keys = list(done.map(store, list(zip(pairs, keys, strict=True))))
    return replace(
        inner, keys=keys, facts={**inner.facts, name_of(order): weight_facts(name_of(order), known, product, by)}
    )


def _in_parts(whole: _Outside, order: Parted) -> "Arranged":
    """The visits of one part after another, each arranged over the rows that it has."""
    done, name = whole.done, whole.name
    pool = with_blame(whole.pool, "order", name, order)
    with blamed("order", name, order):
        summary = order.summary(pool, whole.seed)
        parts = list(order.parts(summary, whole.seed))
    parting = _Parting(name=name, order=order, summary=summary, columns=tuple(columns_read(order, pool)))
    cut = list(done.map(functools.partial(_cut_up, done.store, parting, done.passing), whole.shards))
    arranged_parts, arrangement_of = list[_OfPart](), dict[str, Arrangement]()
    ranges, before = list[_Lined](), 0
    for number, part in enumerate(parts):
        counts = [one.counts[number] for one in cut]
        if not sum(counts):
            continue
        inner = _part(whole, part, number, [one.key for one in cut], counts)
        mix = functools.partial(_mixtures, done.store, parting, number)
        pairs = list(zip(whole.shards, (one.key for one in cut), inner.keys, strict=True))
        mixtures = dict[str, dict[str, int]]()
        for some in done.map(mix, pairs):
            for phase, mixture in some.items():
                into = mixtures.setdefault(phase, {})
                for group, tokens in mixture.items():
                    into[group] = into.get(group, 0) + tokens
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


def _part(whole: _Outside, part: Part, number: int, keys: Sequence[str], counts: Sequence[int]) -> "Arranged":
    """One part, arranged over shards that have its rows alone; `keys` are of the rows, `counts` how many they are."""
    shards = [_PartOfShard(shard=shard, key=key, part=number) for shard, key in zip(whole.shards, keys, strict=True)]
    rows = [
        _RowsOf(store=whole.done.store, shard=shard, num_rows=count)
        for shard, count in zip(shards, counts, strict=True)
    ]
    pool = replace(whole.pool, num_documents=sum(counts), shards=rows)
    inputs, home = [whole.inputs, "part", number], f"{whole.done.passing}/parts"
    return _arranged(whole.done, inputs, whole.name, part.order, pool, shards, part.seed, home)


def _given_back(
    done: Done,
    inputs: Any,
    lines: "_Lines",
    ranges: "Sequence[_Range]",
    shards: Sequence[ShardRows],
    unvisited: "_NotVisited",
    home: str,
) -> "Arranged":
    """Gives each shard the positions of its rows; `lines` says what is in a range, one visit after another."""
    back = functools.partial(_deal_back, lines)
    keys = [f"{home}/{fingerprint([inputs, shard.number])}" for shard in shards]
    collect = functools.partial(_collect, unvisited, tuple(shards), tuple(keys))
    keys = exchange(done, "order", [inputs, "back"], ranges, len(shards), back, collect)
    return Arranged(keys=keys, ranges=[_Lined(span=span, lines=lines) for span in ranges])


def _stretches(done: Done, inner: "Arranged") -> tuple[Ints, pa.DictionaryArray]:
    """The positions at which another phase begins, the first one included, and those phases."""
    begins, phases = [np.empty(0, np.int64)], [pa.chunked_array([], tables.LABEL)]
    last: str | None = None
    for first, phase in done.map(functools.partial(_runs, done.store), inner.ranges):
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
    tokens = np.cumsum([0, *(span.tokens for span in ranges)]).tolist()
    before = zip(ranges, firsts, tokens, strict=False)
    return [replace(span, first=first, tokens_before=num_tokens) for span, first, num_tokens in before]


def _added_up(counts: Sequence[Ints]) -> Ints:
    """Counts by group, of which those of some shards end before others."""
    whole = np.zeros(max(map(len, counts), default=0), np.int64)
    for some in counts:
        whole[: len(some)] += some
    return whole


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

    def __call__(self, store: Store, shard: ShardRows) -> tuple[Ints, npt.NDArray[np.uint64], Ints]:
        """How often each row is seen, and for each time what it is sorted by: (n, 4), in the order of `_KEYS`; and its
        tokens, where the order counts them."""
        counts, ids, groups, keys, tokens = self.read(shard.read(store, self.names))
        return counts, np.column_stack([groups.astype(np.uint64), keys, ids]), tokens


def _count(store: Store, read: _Reading, shard: ShardRows) -> _Counted:
    _, rows, tokens = read(store, shard)
    group = rows[:, 0].astype(np.int64)
    totals = tally(np.zeros(0, np.int64), group[: len(tokens)], tokens)
    return _Counted(rows=len(rows), sizes=np.bincount(group), tokens=totals, sample=_sampled(rows))


def _deal_by_key(
    read: _Reading, cuts: npt.NDArray[np.uint64], store: Store, shard: ShardRows
) -> Mapping[int, pa.Table]:
    counts, rows, tokens = read(store, shard)
    row = np.repeat(np.arange(len(counts)), counts)
    number = np.full(len(rows), shard.number, np.int32)
    whole = pa.table([*rows.T, number, row], names=[*_KEYS, "shard", "row"])
    if read.read.order.measured_in == "tokens":
        whole = whole.append_column("tokens", pa.array(tokens))
    return by_bucket(whole, _range_of(rows, cuts))


def _sort_by_key(passing: str, store: Store, _: int, dealt: Iterator[pa.Table]) -> _Range:
    whole = _whole(dealt, [*_KEYS, "shard", "row"])
    columns = [whole[name].to_numpy() for name in (*_KEYS, "shard", "row")]
    order = np.lexsort(columns[::-1])
    group, shard, row = columns[0][order].astype(np.int64), columns[4][order], columns[5][order]
    tokens = whole["tokens"].to_numpy()[order] if "tokens" in whole.schema.names else None
    return _stored(store, f"{passing}/by_key", group, shard, row, tokens)


@dataclass(frozen=True, kw_only=True)
class _Placing:
    """How the order says the places of rows."""

    order: Dealt
    sizes: Ints
    tokens: Ints  # of the groups, where the order counts them
    summary: Any


def _sample_places(store: Store, placing: _Placing, span: _Range) -> npt.NDArray[np.uint64]:
    return _sampled(_places(store, placing, span)[0])


def _places(store: Store, placing: _Placing, span: _Range) -> tuple[npt.NDArray[np.uint64], pa.Table]:
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
    """The lines of a placed order: phases and weights follow from groups, or phases from positions."""

    order: Dealt
    summary: Any

    def __call__(self, store: Store, span: "_Range") -> pa.Table:
        rows = store.read(span.key, "rows")
        positions = span.first + np.arange(rows.num_rows)
        phase, weights = labelled(self.order, rows["group"].to_numpy(), positions, self.summary)
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
class _Lined:
    """A range, with what says which visits are in it, and where it is in the whole order."""

    span: _Range
    lines: _Lines
    before: int = 0  # visits of parts before its own
    parts: tuple[str, ...] = ()  # the part that it is in, and the one that that is in


@dataclass(frozen=True, kw_only=True)
class Arranged:
    """An order over shards: what each shard got back, and the ranges that its phases are in, first to last."""

    keys: list[str]
    ranges: Sequence[_Lined]
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    phases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])

    @property
    def count(self) -> int:
        """How many visits there are."""
        return sum(lined.span.rows for lined in self.ranges)


def _runs(store: Store, lined: _Lined) -> tuple[Ints, pa.DictionaryArray]:
    """Where the stretches of one phase begin in a range, and their phases."""
    phase = lined.lines(store, lined.span)["phase"]
    begins, _ = stretches(phase)
    phases = phases_at(phase, begins)
    for part in lined.parts:
        phases = phases_of_part(part, phases)
    return lined.before + lined.span.first + begins, phases


@dataclass(frozen=True, kw_only=True)
class _AlongShard:
    """The visits of another order to the rows of one shard."""

    store: Store
    shard: ShardRows
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


@dataclass(frozen=True, kw_only=True)
class _Ranked:
    """A shard with one more column: the positions of its rows in another order."""

    shard: ShardRows
    column: str
    key: str

    @property
    def number(self) -> int:
        return self.shard.number

    def read(self, store: Store, names: Sequence[str]) -> pa.RecordBatch:
        others = [name for name in names if name != self.column]
        batch = self.shard.read(store, others or ["doc_id"])
        if self.column in names:
            positions = store.read(self.key, "positions")
            rank = standing(positions["row"].to_numpy(), positions["position"].to_numpy(), batch.num_rows)
            batch = batch.append_column(self.column, pa.array(rank))
        return batch.select(list(names))


@dataclass(frozen=True, kw_only=True)
class _RowsOf:
    """The rows of a shard, as a shard of a pool."""

    store: Store
    shard: ShardRows
    num_rows: int

    def read(self, columns: Sequence[str]) -> pa.RecordBatch:
        return self.shard.read(self.store, columns)


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
    key = f"{passing}/parted/{fingerprint([shard.number, [_digest(some) for some in rows]])}"
    stored = store.seal(key, [(str(number), some) for number, some in enumerate(rows)], form="arrow")
    return _CutUp(key=stored.key, counts=[some.num_rows for some in rows])


def _mixtures(
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
    placed_rows = [_PLACED.empty_table()]
    for part in parts:
        positions = store.read(part.keys[shard.number], "positions").unify_dictionaries()
        rows = store.read(key, str(part.number))["row"].to_numpy()[positions["row"].to_numpy()]
        position = part.before + positions["position"].to_numpy()
        phase = phases_of_part(part.name, positions["phase"].combine_chunks())
        placed_rows.append(pa.table([rows, position, phase, positions["loss_weight"]], schema=_PLACED))
    whole = pa.concat_tables(placed_rows).unify_dictionaries().combine_chunks()
    row = whole["row"].to_numpy()
    positions = pa.table(
        [row, whole["position"], numbered(ids[row]), whole["phase"], whole["loss_weight"]], schema=POSITIONS
    )
    left = left_out(np.flatnonzero(np.bincount(row, minlength=len(ids)) == 0), because)
    return store.seal(home, [("positions", positions), ("left", left)], form="arrow").key


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


@dataclass(frozen=True, kw_only=True)
class _Grouping:
    """How visits are grouped by an order that moves them."""

    name: str
    order: Moved
    summary: Any

    def __call__(self, along: Along) -> npt.NDArray[np.int32]:
        with blamed("order", self.name, self.order):
            return self.order.groups(along, self.summary).astype(np.int32)


def _deal_in_line(grouping: _Grouping, _: Store, one: _AlongShard) -> Mapping[int, pa.Table]:
    """The visits of a shard, by the ranges that their positions are in."""
    positions = one.positions()
    position = positions["position"].to_numpy()
    shard = np.full(len(position), one.shard.number, np.int32)
    columns = [position, grouping(one.along(positions)), positions["row"], shard]
    carried = [positions["phase"], positions["loss_weight"]]
    return by_bucket(pa.table([*columns, *carried], names=["position", "group", *_LINES.names]), position // RANGE_ROWS)


def _line(passing: str, store: Store, _: int, dealt: Iterator[pa.Table]) -> _Range:
    """A range of visits in line, and their groups, once they are stored."""
    none = pa.schema([("position", pa.int64()), ("group", pa.int32()), *_LINES])
    whole = pa.concat_tables([none.empty_table(), *dealt]).unify_dictionaries().combine_chunks().sort_by("position")
    rows, groups = whole.select(_LINES.names).combine_chunks(), pa.table({"group": small(whole["group"].to_numpy())})
    key = f"{passing}/in_line/{_digest(whole)}"
    return _Range(key=store.seal(key, [("rows", rows), ("groups", groups)], form="arrow").key, rows=len(whole))


@dataclass(frozen=True, kw_only=True)
class _Move:
    """A range of visits in line, and where each of them goes."""

    span: _Range
    key: str


@dataclass(frozen=True, kw_only=True)
class _Arrival:
    """A stretch of the new order, and where its visits were before."""

    first: int
    key: str


def _stored_move(done: Done, number: int, before: npt.NDArray[np.integer]) -> _Arrival:
    """Where the visits of a stretch of the new order were, once it is stored."""
    table = pa.table({"position": before})
    key = done.store.seal(f"{done.passing}/moves/{_digest(table)}", [("moves", table)], form="arrow").key
    return _Arrival(first=number * RANGE_ROWS, key=key)


def _deal_moves(store: Store, one: _Arrival) -> Mapping[int, pa.Table]:
    before = store.read(one.key, "moves")["position"].to_numpy()
    whole = pa.table({"before": before, "after": one.first + np.arange(len(before))})
    return by_bucket(whole, before // RANGE_ROWS)


def _leave(ranges: tuple[_Range, ...], passing: str, store: Store, number: int, dealt: Iterator[pa.Table]) -> _Move:
    """Where the visits of a range go, once it is stored."""
    whole = _whole(dealt, ["before", "after"])
    after = np.empty(len(whole), np.int64)
    after[whole["before"].to_numpy() - number * RANGE_ROWS] = whole["after"].to_numpy()
    table = pa.table({"position": after})
    key = store.seal(f"{passing}/moves/{_digest(table)}", [("moves", table)], form="arrow").key
    return _Move(span=ranges[number], key=key)


def _deal_moved(store: Store, move: _Move) -> Mapping[int, pa.Table]:
    rows, positions = store.read(move.span.key, "rows"), store.read(move.key, "moves")["position"]
    whole = pa.table([rows["row"], positions, rows["phase"], rows["loss_weight"]], schema=_PLACED)
    return by_bucket(whole, rows["shard"].to_numpy())


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


def _weigh(weighing: _Weighing, passing: str, one: _AlongShard) -> _Raw:
    weights = weighing(one.along(one.positions()))
    table = pa.table({"weight": weights})
    key = one.store.seal(f"{passing}/weights/{_digest(table)}", [("weights", table)], form="arrow").key
    return _Raw(key=key, known=Tally.of(weights[~np.isnan(weights)]))


def _product(unknown: float, pair: tuple[_AlongShard, _Raw]) -> npt.NDArray[np.float64]:
    one, raw = pair
    weights = one.store.read(raw.key, "weights")["weight"].to_numpy()
    return multiplied(weights, one.positions()["loss_weight"].to_numpy(), unknown)


def _add_up(unknown: float, pair: tuple[_AlongShard, _Raw]) -> Tally:
    return Tally.of(_product(unknown, pair))


def _reweigh(unknown: float, by: float, item: tuple[tuple[_AlongShard, _Raw], str]) -> str:
    """Stores the positions of a shard's rows with their weights; its key."""
    pair, key = item
    one, _ = pair
    weights = pa.array(divided(_product(unknown, pair), by))
    at = POSITIONS.get_field_index("loss_weight")
    positions = one.positions().set_column(at, POSITIONS.field(at), weights)
    left = one.store.read(one.key, "left")
    return one.store.seal(key, [("positions", positions), ("left", left)], form="arrow").key


def _deal_back(lines: _Lines, store: Store, span: _Range) -> Mapping[int, pa.Table]:
    rows = lines(store, span)
    positions = span.first + np.arange(rows.num_rows)
    whole = pa.table([rows["row"], positions, rows["phase"], rows["loss_weight"]], schema=_PLACED)
    return by_bucket(whole, rows["shard"].to_numpy())


class _NotVisited(Protocol):
    """`tables.LEFT` of a shard: the rows that the order does not visit. Picklable."""

    def __call__(self, store: Store, shard: ShardRows, number: int, /) -> pa.Table: ...


@dataclass(frozen=True, kw_only=True)
class _Unvisited:
    """The rows that a placed order does not visit."""

    read: _Reading

    def __call__(self, store: Store, shard: ShardRows, number: int) -> pa.Table:
        counts, _, _ = self.read(store, shard)
        return left_out(np.flatnonzero(counts == 0), self.read.read.order.left_because)


@dataclass(frozen=True, kw_only=True)
class _StillUnvisited:
    """The rows that the order inside does not visit."""

    keys: tuple[str, ...]

    def __call__(self, store: Store, shard: ShardRows, number: int) -> pa.Table:
        return store.read(self.keys[number], "left")


def _collect(
    unvisited: _NotVisited,
    shards: tuple[ShardRows, ...],
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


def _stored(
    store: Store, prefix: str, group: Ints, shard: npt.NDArray[np.int32], row: Ints, tokens: Ints | None = None
) -> _Range:
    """A sorted range, once it is stored."""
    table = pa.table([group, shard.astype(np.int32), row], schema=_SORTED)
    if tokens is not None:
        table = table.append_column("tokens", pa.array(tokens))
    key = store.seal(f"{prefix}/{_digest(table)}", [("rows", table)], form="arrow").key
    return _Range(key=key, rows=len(group), tokens=0 if tokens is None else int(tokens.sum()))


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
