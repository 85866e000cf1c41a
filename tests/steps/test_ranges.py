"""An order over shards is the same as in one piece: one sort after another, around any order that is placed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import MemoryStorage, tries
from selector import plugins
from selector.engine.step import Done
from selector.engine.store import Store
from selector.exact import Ints, UInt64, keyed, spend
from selector.exact.rates import Schedule, Training
from selector.order import Order, Placed, ScoreName
from selector.order._around import Along, Around, is_arranged_by_shards
from selector.order._resorted import Resorted
from selector.order.apart import Apart
from selector.order.balanced import Balanced
from selector.order.bands import Bands
from selector.order.by_score import ByScore
from selector.order.cyclical import Cyclical
from selector.order.fixed import Fixed
from selector.order.heads import Heads
from selector.order.jittered import Jittered
from selector.order.least_share import LeastShare
from selector.order.matched import Matched
from selector.order.phases import Phase, Phases
from selector.order.pooled import Pooled
from selector.order.score_weights import ScoreWeights
from selector.order.shuffled import Shuffled
from selector.order.spread import Spread
from selector.order.warmup import Warmup
from selector.order.where_it_counts import WhereItCounts
from selector.steps import ranges
from selector.steps.ranges import spans
from selector.storage import Storage, open_storage
from selector.testing import EXACT, SCORE, variants
from selector.testing._awkward import Held, Repeating
from selector.testing._trials import TABLES, made_up, pickled_copy, pool_for
from selector.testing.orders import TIMES, with_visits

NAME = ScoreName(SCORE)


@dataclass(frozen=True, kw_only=True)
class InTurn(Placed):
    """Three phases that take turns: a stretch is one visit long."""

    def groups(self, batch: pa.RecordBatch, summary: None) -> Ints:
        return (keyed.words(batch["doc_id"])[:, 1] % np.uint64(3)).astype(np.int64)

    def keys(self, batch: pa.RecordBatch, summary: None, seed: int) -> UInt64:
        return keyed.hashes(batch["doc_id"], seed, "in turn")

    def place(self, group: Ints, rank: Ints, sizes: Ints) -> Ints:
        return rank

    def phases(self, group: Ints, summary: None) -> tuple[Ints, list[str]]:
        return group, ["one", "two", "three"]

    def loss_weights(self, group: Ints, summary: None) -> Any:
        return 1.0 + group


@dataclass(frozen=True, kw_only=True)
class Backwards(Resorted):
    """Another order from its end to its beginning."""

    def keys(self, along: Along, summary: None, seed: int) -> list[Ints]:
        return [-1 - along.position + 2**62]


SORTED, TURNS = ByScore(score=NAME), InTurn()
TRAINING = Training(global_batch_size=3, schedule=Schedule(peak=0.3, decay="wsd", falling=0.5, weight_decay=0.5))
MOVED = Spread(inner=Warmup(inner=SORTED, share=0.3), window=5, most=2)
SHARES = Phase(share=0.2, name="a"), Phase(share=0.5, inner=TURNS), Phase(tokens=90, inner=MOVED)
PHASES = [
    Phases(phases=(*SHARES, Phase(inner=Repeating()))),
    Phases(phases=(*SHARES, Phase(most_visits=1), Phase(inner=Fixed(scores=(NAME,), steps=2))), visits=3),
    Phases(phases=(Phase(tokens=0), Phase(share=0.7, weights={"1": 1, "3": 2}, most_visits=2), Phase(pool="replaced")),
           bands_of=NAME, cuts=(0.4, 0.8), visits=2),
    Phases(phases=(Phase(share=0.4, name="x", inner=Phases(phases=SHARES)), Phase(name="y")), by="cluster"),
]  # fmt: skip
ORDERS: list[Order] = [
    Jittered(inner=SORTED, size=5), Jittered(inner=TURNS, size=5), Jittered(inner=SORTED, noise="gumbel", size=1.5),
    Jittered(inner=Repeating(), noise="gumbel", size=3), Matched(inner=Repeating(), draw=2), Matched(inner=TURNS),
    *(Warmup(inner=Repeating(), share=share, of=of) for share in (0, 0.3, 1) for of in ("sample", "beginning")),
    Warmup(inner=TURNS), Backwards(inner=Bands(score=NAME)), Backwards(inner=Shuffled()),
    Matched(inner=Jittered(inner=Warmup(inner=TURNS, share=0.4), size=4)),
    Warmup(inner=Matched(inner=Warmup(inner=Repeating(), share=0.6)), share=0.5),
    Jittered(inner=Jittered(inner=Warmup(inner=SORTED, share=0.5), size=1), size=1),
    *(WhereItCounts(inner=inner, score=NAME, share=0.2) for inner in (SORTED, Repeating(), TURNS)),
    *(WhereItCounts(inner=inner, score=NAME, share=0.6) for inner in (SORTED, Repeating(), TURNS)),
    WhereItCounts(inner=Warmup(inner=Repeating(), share=0.4), phase="warmup"),
    Warmup(inner=WhereItCounts(inner=Shuffled(), phase="main")),
    Matched(inner=WhereItCounts(inner=Repeating(), score=ScoreName(EXACT))),
    Pooled(score=NAME, steps=3, epochs=2.5), Pooled(score=NAME, pacing="cyclical", direction="anti_curriculum"),
    Fixed(scores=(NAME, ScoreName(EXACT)), steps=4, epochs=1.7), Balanced(score=NAME),
    Cyclical(score=NAME, epochs=2.2, ages=True), Cyclical(score=NAME, weight="inverse", course="bigger_to_lower"),
    Heads(epochs=2.3), Heads(epochs=0.4, heads="single", by="cluster"), Matched(inner=Heads(epochs=1.5)),
    Apart(inner=Pooled(score=NAME, steps=2, epochs=3), gap=6), Warmup(inner=Fixed(scores=(NAME,), steps=2)),
    *(ScoreWeights(inner=inner, score=NAME, epochs=3) for inner in (SORTED, Repeating(), TURNS)),
    *(Spread(inner=inner, window=6, most=2) for inner in (SORTED, Repeating(), TURNS, Bands(score=NAME))),
    *(Apart(inner=inner, gap=gap) for inner in (SORTED, Repeating(), TURNS) for gap in (2, 20)),
    *(LeastShare(inner=inner, at=at) for inner in (SORTED, Repeating(), TURNS) for at in ("end", "start")),
    LeastShare(inner=Spread(inner=ScoreWeights(inner=Apart(inner=Repeating(), gap=4), score=NAME), window=3, most=1)),
    Warmup(inner=Apart(inner=ScoreWeights(inner=Matched(inner=TURNS), score=NAME, normalised=False), gap=5), share=0.5),
    Warmup(inner=PHASES[0], share=0.4), Matched(inner=PHASES[1]), Jittered(inner=PHASES[3], size=4),
    LeastShare(inner=PHASES[2]), ScoreWeights(inner=PHASES[3], score=NAME),
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The chosen documents of a shard, in memory."""

    number: int
    batch: pa.RecordBatch

    def read(self, _: Store, names: Sequence[str]) -> pa.RecordBatch:
        return self.batch.select(list(names))


def far(work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """Workers on other machines, which share what is stored."""
    return (pickled_copy(work)(pickled_copy(item)) for item in items)


def answers(
    order: Order, table: pa.Table, rows: int, storage: Storage | None = None, mapper: Any = map
) -> tuple[list[Any], list[Any]]:
    """The visits of the order and the documents that it leaves, by their rows: in one piece, and over shards."""
    pool = pool_for(order, table, rows)
    store = Store(storage or MemoryStorage())
    shards: Any = [Shard(number=i, batch=shard.read(pool.schema.names)) for i, shard in enumerate(pool.shards)]
    pool = replace(pool, training=TRAINING)
    positions = order.arrange(pool, 7)
    over_shards = ranges.arranged(Done(store, mapper), "inputs", "tried", order, pool, shards, 7)
    firsts = np.cumsum([0, *(shard.batch.num_rows for shard in shards)]).tolist()
    placed, left = list[tuple[Any, ...]](), list[tuple[Any, ...]]()
    for first, key in zip(firsts, over_shards.keys, strict=False):
        for row in store.read(key, "positions").to_pylist():
            values = (row[name] for name in ("visit", "phase", "loss_weight"))
            placed.append((row["position"], first + row["row"], *values))
        left += [(first + row["document"], row["reason"]) for row in store.read(key, "left").to_pylist()]
    visits = enumerate(positions.visits.to_pylist())
    whole = [(at, row["document"], row["visit"], row["phase"], row["loss_weight"]) for at, row in visits]
    whole_left = [(row["document"], row["reason"]) for row in positions.left.to_pylist()]
    in_words = dict(positions.facts), dict(positions.phases)
    return [whole, sorted(whole_left), *in_words], [sorted(placed), sorted(left), over_shards.facts, over_shards.phases]


@pytest.mark.slow
def test_every_one_of_these_orders_is_the_same_over_shards_and_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "RANGE_ROWS", 20)
    table = with_visits(made_up(24, 3), [1, 2])
    for order in ORDERS:
        whole, over_shards = answers(order, table, 20)
        assert over_shards == whole, order


@pytest.mark.slow
@tries(20)
@given(TABLES, TIMES, st.integers(1, 20), st.sampled_from([3, 7, 1000]), st.sampled_from(ORDERS))
def test_an_order_around_a_placed_one_is_the_same_over_shards_and_in_one_piece(
    table: pa.Table, times: list[int], rows: int, range_rows: int, order: Order
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "RANGE_ROWS", range_rows)
        whole, over_shards = answers(order, with_visits(table, times), rows)
    assert over_shards == whole


@pytest.mark.slow
def test_phases_are_the_same_over_shards_and_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "RANGE_ROWS", 20)
    monkeypatch.setattr(spend, "LIMIT", 8)
    for order in PHASES:
        whole, over_shards = answers(order, with_visits(made_up(24, 3), [1, 2]), 9)
        assert over_shards == whole, order
        assert len({phase for _, _, _, phase, _ in whole[0]}) > 1


AROUND = [name for name in plugins.names("orders") if issubclass(plugins.find("orders", name), Around)]


@pytest.mark.slow
@pytest.mark.parametrize("name", AROUND)
def test_every_order_around_another_one_is_the_same_over_shards_around_every_placed_order(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "RANGE_ROWS", 9)
    table = with_visits(made_up(40, 3), [1, 2])
    given_ = {"score": SCORE} if name == "where_it_counts" else {}
    tried = [order for order in variants("orders", name, **given_) if is_arranged_by_shards(order)]
    assert len(tried) > 15
    for order in tried:
        whole, over_shards = answers(order, table, 8)
        assert over_shards == whole, order


@pytest.mark.slow
def test_the_work_of_every_sort_can_be_sent_to_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "RANGE_ROWS", 20)
    best = WhereItCounts(inner=Jittered(inner=Repeating(), size=4), score=NAME, share=0.3)
    storage = open_storage(str(tmp_path))
    whole, over_shards = answers(Warmup(inner=best, share=0.4), with_visits(made_up(40, 3), [2]), 21, storage, far)
    assert over_shards == whole


class Killed(OSError):
    """The end of a worker."""


@dataclass
class Dying:
    """Workers of which the one that is given this item dies; those before it have done their work."""

    left: int

    def __call__(self, work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        for item in items:
            if not self.left:
                raise Killed
            self.left -= 1
            yield work(item)


@pytest.mark.slow
def test_a_sort_that_is_killed_anywhere_goes_on_to_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "RANGE_ROWS", 20)
    phases = Phases(phases=(Phase(share=0.6, inner=Repeating()), Phase()))
    order, table = WhereItCounts(inner=phases, score=NAME, share=0.3), with_visits(made_up(30, 3), [2])
    after, has_died = 0, True
    while has_died:
        storage, has_died = MemoryStorage(), False
        try:
            answers(order, table, 16, storage, Dying(after))
        except Killed:
            has_died = True
        whole, over_shards = answers(order, table, 16, storage)
        assert over_shards == whole, f"killed at item {after}"
        after += 7
    assert after > 40


def test_an_order_around_one_that_must_be_held_is_held_too() -> None:
    assert is_arranged_by_shards(Matched(inner=Jittered(inner=Shuffled())))
    assert is_arranged_by_shards(Matched(inner=Spread(inner=Shuffled())))
    assert not is_arranged_by_shards(Matched(inner=Spread(inner=Held())))
    assert is_arranged_by_shards(Matched(inner=Phases(phases=(Phase(), Phase(inner=Jittered(inner=Shuffled()))))))
    assert not is_arranged_by_shards(Phases(phases=(Phase(), Phase(inner=Jittered(inner=Held())))))
