"""Quotas that lose nothing, and selections as exact as sorting the whole pool would be."""

import dataclasses
import itertools
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import tries
from selector.exact import inclusion
from selector.exact import spend as budgets
from selector.exact.apportion import apportion, tally
from selector.exact.spend import Overshoot, Queued, Taken, take

pytestmark = pytest.mark.slow

WEIGHTS = st.lists(st.one_of(st.integers(0, 10**15), st.decimals(0, 1000, places=3).map(float)), max_size=12)


# ---------------------------------------------------------------- apportion


@given(st.integers(0, 10**15), WEIGHTS)
def test_shares_add_up_and_differ_from_the_exact_ones_by_less_than_one(total: int, weights: list[float]) -> None:
    shares = apportion(total, weights)
    exactly = [Fraction(str(weight)) for weight in weights]
    assert shares.dtype == np.int64 and shares.sum() == (total if any(exactly) else 0)
    if any(exactly):
        assert all(abs(share - total * w / sum(exactly)) < 1 for share, w in zip(shares.tolist(), exactly, strict=True))


@given(st.integers(0, 500), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), max_size=9))
def test_what_a_group_cannot_take_is_spread_over_the_others(total: int, groups: list[tuple[int, int]]) -> None:
    weights, capacities = [weight for weight, _ in groups], [capacity for _, capacity in groups]
    shares = apportion(total, weights, capacities)
    assert shares.sum() == min(total, sum(most for weight, most in groups if weight)) and (shares <= capacities).all()
    rates = [
        share / weight
        for share, weight, most in zip(shares.tolist(), weights, capacities, strict=True)
        if weight and share < most
    ]
    for share, weight, most in zip(shares.tolist(), weights, capacities, strict=True):
        assert weight or not share, "a weight of 0 gets nothing"
        if weight and share == most and rates:
            assert (share - 1) / weight <= max(rates) + 1, "a full group would have had no less without its limit"


@given(st.integers(0, 10**6), st.lists(st.integers(1, 1000), min_size=1, max_size=9))
def test_a_group_of_its_own_size_is_never_given_more_than_it_has(total: int, sizes: list[int]) -> None:
    assert (apportion(total, sizes, sizes) <= sizes).all()


def test_a_weight_of_zero_gets_nothing_so_the_shares_may_fall_short() -> None:
    assert apportion(10, [0, 5, 0], [9, 4, 9]).tolist() == [0, 4, 0]
    assert apportion(5, [0, 0]).tolist() == [0, 0]


def test_a_float_counts_as_the_decimal_that_it_prints_as() -> None:
    assert apportion(10, [0.15, 0.25, 0.6]).tolist() == [2, 2, 6]


def test_shares_of_many_tokens_are_exact() -> None:
    assert apportion(30 * 10**12 + 1, np.array([10**13, 10**13, 10**13])).tolist() == [10**13 + 1, 10**13, 10**13]


# ---------------------------------------------------------------- take


@dataclass(frozen=True, kw_only=True)
class Case:
    """Documents as (group, key, id, size), and how to spend on them."""

    rows: list[tuple[int, int, int, int]]
    quotas: list[int]
    ceilings: list[int] | None = None
    overshoot: Overshoot
    batch: int
    limit: int
    bins: int

    def shards(self) -> Iterator[Queued]:
        for start in range(0, len(self.rows), self.batch):
            rows = self.rows[start : start + self.batch]
            yield Queued(
                group=np.array([row[0] for row in rows], np.int64),
                key=np.array([row[1] for row in rows], np.uint64),
                ids=np.array([divmod(row[2], 2**64) for row in rows], np.uint64),
                sizes=np.array([row[3] for row in rows], np.int64),
            )

    def queues(self, work: Callable[[Queued], Any]) -> Iterator[Any]:
        """Asks every shard as a worker would be asked: work and answers are sent there and back."""
        sent = pickle.dumps(work)
        for shard in self.shards():
            yield pickle.loads(pickle.dumps(pickle.loads(sent)(shard)))  # noqa: S301

    def take(self) -> tuple[Taken, list[bool]]:
        quotas, ceilings = (None if x is None else np.array(x, np.int64) for x in (self.quotas, self.ceilings))
        assert quotas is not None
        with patch.object(budgets, "LIMIT", self.limit), patch.object(budgets, "BINS", self.bins):
            taken = take(self.queues, quotas, self.overshoot, ceilings, count=len(self.rows))
        return taken, [bool(x) for batch in self.shards() for x in taken.mask(batch)]


_KEYS = st.one_of(st.integers(0, 2), st.integers(0, 2**64 - 1), st.sampled_from([2**63, 2**64 - 1]))
_CEILINGS = st.one_of(st.just(0), st.integers(0, 80), st.just(budgets.UNLIMITED))
_IDS = st.one_of(st.integers(0, 20), st.integers(0, 2**128 - 1), st.integers(0, 9).map(lambda i: i << 64))


@st.composite
def cases(draw: Any) -> Case:
    groups = draw(st.integers(1, 4))
    largest = draw(st.sampled_from([1, 1, 3, 40]))
    sizes = st.just(1) if largest == 1 else st.integers(0, largest)
    rows = draw(
        st.lists(st.tuples(st.integers(0, groups - 1), _KEYS, _IDS, sizes), max_size=40, unique_by=lambda row: row[2])
    )
    return Case(
        rows=rows,
        quotas=draw(st.lists(st.integers(0, 60), min_size=groups, max_size=groups)),
        ceilings=draw(st.none() | st.lists(_CEILINGS, min_size=groups, max_size=groups)),
        overshoot=draw(st.sampled_from(["stop", "fill", "cross"])),
        batch=draw(st.integers(1, 40)),
        limit=draw(st.sampled_from([1, 2, 7, 1000])),
        bins=draw(st.sampled_from([1, 64, 2**16])),
    )


def sorted_through(case: Case) -> tuple[list[bool], list[bool]]:
    """What is taken, and what of it within the quotas, by sorting everything and serving one after another."""
    order = sorted(range(len(case.rows)), key=lambda i: case.rows[i][1:3])
    rooms = case.ceilings or [budgets.UNLIMITED] * len(case.quotas)
    left = [min(quota, room) for quota, room in zip(case.quotas, rooms, strict=True)]
    is_open, rooms = [room > 0 for room in rooms], list(rooms)
    within, rest = [False] * len(order), [False] * len(order)
    for i in order:
        group, _, _, size = case.rows[i]
        is_open[group] &= size <= left[group]
        if is_open[group]:
            within[i] = True
            left[group] -= size
            rooms[group] -= size
    unspent = sum(case.quotas) - sum(row[3] for row, is_within in zip(case.rows, within, strict=True) if is_within)
    has_ended = [ceiling == 0 for ceiling in case.ceilings or case.quotas] if case.ceilings else [False] * len(rooms)
    for i in order:
        group, _, _, size = case.rows[i]
        if within[i] or has_ended[group]:
            continue
        if unspent <= 0:
            break
        if size > rooms[group]:
            has_ended[group] = case.overshoot != "fill"
        elif size <= unspent or case.overshoot == "cross":
            rest[i] = True
            unspent -= size
            rooms[group] -= size
        elif case.overshoot == "stop":
            break
    return [a or b for a, b in zip(within, rest, strict=True)], within


@tries(400)
@given(cases())
@example(Case(rows=[(0, 5, 1, 20), (1, 1, 2, 30)], quotas=[10, 10], overshoot="stop", batch=2, limit=1, bins=64))
@example(
    Case(
        rows=[(0, 0, 0, 0), (0, 0, 2**128 - 1, 1), (0, 1, 1, 0)],
        quotas=[0, 1],
        overshoot="stop",
        batch=1,
        limit=1,
        bins=1,
    )
)
def test_take_agrees_with_sorting_everything(case: Case) -> None:
    taken, mask = case.take()
    expected, within = sorted_through(case)
    assert mask == expected
    assert [bool(x) for batch in case.shards() for x in taken.within(batch)] == within
    assert taken.spent == sum(row[3] for row, is_taken in zip(case.rows, mask, strict=True) if is_taken)


@tries(60)
@given(cases(), st.randoms())
def test_take_does_not_depend_on_batches_order_or_memory(case: Case, random: Any) -> None:
    rows = list(case.rows)
    random.shuffle(rows)
    other = dataclasses.replace(case, rows=rows, batch=7, limit=1000, bins=2**16)
    ids = {row[2] for row, is_taken in zip(case.rows, case.take()[1], strict=True) if is_taken}
    assert ids == {row[2] for row, is_taken in zip(rows, other.take()[1], strict=True) if is_taken}


@tries(200)
@given(cases())
def test_no_group_gets_more_than_its_ceiling_and_nothing_that_fits_is_left(case: Case) -> None:
    taken, mask = case.take()
    ceilings = case.ceilings or [budgets.UNLIMITED] * len(case.quotas)
    got = [sum(row[3] for row, kept in zip(case.rows, mask, strict=True) if kept and row[0] == g) for g in range(4)]
    rooms = [ceiling - got[g] for g, ceiling in enumerate(ceilings)]
    assert min(rooms) >= 0
    left = sum(case.quotas) - taken.spent
    waiting = [row for row, kept in zip(case.rows, mask, strict=True) if not kept and ceilings[row[0]] > 0]
    assert not any(kept for row, kept in zip(case.rows, mask, strict=True) if ceilings[row[0]] == 0)
    if case.overshoot == "fill" and left > 0:
        assert all(row[3] > min(left, rooms[row[0]]) for row in waiting)
    if case.overshoot == "cross" and left > 0:
        assert all(any(row[3] > rooms[g] for row in waiting if row[0] == g) for g in {row[0] for row in waiting})


def test_what_quotas_leave_goes_neither_to_a_group_at_its_ceiling_nor_to_one_that_was_given_nothing() -> None:
    rows = [(0, 1, 1, 7), (1, 2, 2, 5), (1, 3, 3, 1), (2, 0, 4, 0), (2, 0, 5, 1), (3, 9, 6, 4)]
    case = Case(rows=rows, quotas=[6, 5, 0, 0], ceilings=[9, 5, 0, 9], overshoot="stop", batch=3, limit=9, bins=64)
    taken, mask = case.take()
    assert mask == [False, True, False, False, False, False] and taken.spent == 5
    taken, mask = dataclasses.replace(case, overshoot="fill").take()
    assert mask == [False, True, False, False, False, True] and taken.spent == 9
    taken, mask = dataclasses.replace(case, overshoot="cross").take()
    assert mask == [True, True, False, False, False, False] and taken.spent == 12


def test_take_reads_a_small_pool_once() -> None:
    case = Case(rows=[(0, i, i, 1) for i in range(9)], quotas=[4], overshoot="stop", batch=2, limit=9, bins=64)
    passes: list[int] = []

    def queues(work: Callable[[Queued], Any]) -> Iterator[Any]:
        passes.append(1)
        return case.queues(work)

    with patch.object(budgets, "LIMIT", 9):
        taken = take(queues, np.array([4]), "stop", count=9)
    assert len(passes) == 1 and taken.spent == 4


def test_a_large_pool_takes_a_few_passes_and_a_little_memory() -> None:
    rng = np.random.default_rng(0)
    batches = [
        Queued(
            group=rng.integers(0, 50, 10_000),
            key=rng.integers(0, 2**64, 10_000, dtype=np.uint64),
            ids=rng.integers(0, 2**64, (10_000, 2), dtype=np.uint64),
            sizes=np.ones(10_000, np.int64),
        )
        for _ in range(10)
    ]
    passes: list[int] = []

    def queues(work: Callable[[Queued], Any]) -> Iterator[Any]:
        passes.append(1)
        return map(work, batches)

    with patch.object(budgets, "LIMIT", 10_000):
        taken = take(queues, np.full(50, 500), "stop")
    assert taken.spent == 25_000 and len(passes) == 3
    group, key = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("group", "key"))
    mask = np.concatenate([taken.mask(batch) for batch in batches])
    for i in range(50):
        assert mask[group == i].sum() == 500
        assert key[(group == i) & mask].max() < key[(group == i) & ~mask].min()


def test_tally_grows_with_its_groups() -> None:
    amounts = tally(np.array([1]), np.array([0, 3, 3]), np.array([5, 2, 2]))
    assert amounts.tolist() == [6, 0, 0, 4]
    assert tally(amounts, np.empty(0, np.int64), np.empty(0, np.int64)).tolist() == [6, 0, 0, 4]


# ---------------------------------------------------------------- inclusion


def chances(
    groups: Any, log_weights: Any, sizes: Any, spent: list[int], batch: int = 10**9, is_counted: bool = False
) -> Any:
    """The inclusion probability of every document."""
    group, log_weight, size = np.array(groups, np.int64), np.array(log_weights, float), np.array(sizes, np.int64)
    total = np.bincount(group, size, len(spent)).astype(np.int64)
    cuts = range(0, len(group), batch)
    draws = [
        inclusion.Drawn(group=group[i : i + batch], log_weight=log_weight[i : i + batch], sizes=size[i : i + batch])
        for i in cuts
    ]
    found = inclusion.inclusion(lambda work: map(work, draws), np.array(spent, np.int64), total, is_counted=is_counted)
    return found(group, log_weight)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.floats(-15, 15), st.integers(1, 1000)), min_size=1, max_size=40),
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
    st.randoms(),
)
@example([(0, -15.0, 1), (0, 15.0, 1000)], [0.9995, 0, 0], None)
def test_probabilities_add_up_to_what_is_spent_in_any_order(
    rows: list[tuple[int, float, int]], share: list[float], random: Any
) -> None:
    group, log_weight, size = (list(column) for column in zip(*rows, strict=True))
    total = np.bincount(group, size, 3)
    spent = [int(part * whole) for part, whole in zip(share, total, strict=True)]
    found = chances(group, log_weight, size, spent)
    np.testing.assert_allclose(np.bincount(group, size * found, 3), spent, rtol=2e-6)
    order = list(range(len(rows)))
    if random is not None:
        random.shuffle(order)
    moved = [[column[i] for i in order] for column in (group, log_weight, size)]
    again = chances(moved[0], moved[1], moved[2], spent, batch=3)
    assert again.tolist() == found[order].tolist(), "not a bit depends on the order of the documents"


@pytest.mark.parametrize("shift", [-700.0, -30.0, 0.0, 30.0, 700.0])
def test_a_common_factor_of_the_weights_does_not_matter(shift: float) -> None:
    weights = np.log([4.0, 3.0, 2.0, 1.0])
    np.testing.assert_allclose(
        chances([0] * 4, weights + shift, [1] * 4, [2]), chances([0] * 4, weights, [1] * 4, [2]), 1e-5
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(-6, 6), min_size=2, max_size=6), min_size=1, max_size=4),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.floats(-30, 30),
)
def test_small_groups_have_the_probabilities_that_all_orders_of_drawing_give(
    groups: list[list[int]], shares: list[float], shift: float
) -> None:
    drawn = [round(share * len(weights)) for weights, share in zip(groups, shares, strict=False)]
    group = [i for i, weights in enumerate(groups) for _ in weights]
    log_weights = [shift + 1.5 * weight for weights in groups for weight in weights]
    found = chances(group, log_weights, [1] * len(group), drawn, batch=5, is_counted=True)
    expected = [
        chance
        for weights, count in zip(groups, drawn, strict=True)
        for chance in by_enumeration(np.exp(1.5 * np.array(weights)), count)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def by_enumeration(weights: Any, count: int) -> Any:
    """The inclusion probabilities of so many draws, from all orders in which they can be drawn."""
    chance = np.zeros(len(weights))
    for order in itertools.permutations(range(len(weights)), count):
        left, probability = weights.sum(), 1.0
        for i in order:
            probability, left = probability * weights[i] / left, left - weights[i]
        chance[list(order)] += probability
    return chance


@pytest.mark.parametrize(("drawn", "spread", "error"), [(2, 0.3, 1e-6), (25, 1.0, 1e-3), (100, 1.0, 1e-4)])
def test_larger_groups_are_corrected_to_the_second_order(
    drawn: int, spread: float, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = spread * np.random.default_rng(drawn).normal(size=200)
    expected = chances([0] * 200, weights, [1] * 200, [drawn], is_counted=True)
    monkeypatch.setattr(inclusion, "_MOST_EXACT", 100)
    found = chances([0] * 200, weights, [1] * 200, [drawn], is_counted=True)
    assert 0 < np.abs(found - expected).max() < error and abs(found.sum() - drawn) < 1e-4


def test_where_few_documents_weigh_all_and_too_many_are_there_no_probability_is_told() -> None:
    weights = 3 * np.random.default_rng(1).normal(size=300)
    assert np.isnan(chances([0] * 300, weights, [1] * 300, [3], is_counted=True)).all()
    assert not np.isnan(chances([0] * 300, weights, [1] * 300, [200], is_counted=True)).any()


def within(weights: Any, sizes: Any, quota: int, spent: int, overshoot: Any = "stop") -> tuple[Any, float | None]:
    """The probabilities of one group where lengths decide too, and how far they can be off."""
    drawn = inclusion.Drawn(group=np.zeros(len(sizes), np.int64), log_weight=weights, sizes=sizes)
    total, taken = np.array([sizes.sum()]), np.array([spent])
    about = inclusion.inclusion(lambda work: [work(drawn)], taken, total, is_counted=False)
    error = inclusion.within(
        lambda work: [work(drawn)],
        about,
        taken[:, None],
        total[:, None],
        np.array([quota]),
        np.array([False]),
        overshoot,
    )
    return about(drawn.group, weights), error


@pytest.mark.slow
@pytest.mark.parametrize("overshoot", ["stop", "cross"])
def test_where_lengths_decide_too_probabilities_are_told_that_draws_agree_with(overshoot: str) -> None:
    rng, trials = np.random.default_rng(4), 5000
    sizes, weights = np.repeat(np.arange(20, 40), 50), 0.5 * rng.normal(size=1000)
    quota, frequency, spent = int(sizes.sum()) // 3, np.zeros(1000), 0
    for _ in range(trials // 1000):
        order = np.argsort(-(weights + rng.gumbel(size=(1000, 1000))), axis=1)
        after = np.cumsum(sizes[order], axis=1)
        taken = (after <= quota) if overshoot == "stop" else (after - sizes[order] < quota)
        np.add.at(frequency, order[taken], 1 / trials)
        spent += int(sizes[order][taken].sum())
    found, error = within(weights, sizes, quota, spent // trials, overshoot)
    assert error is not None and error < 0.005
    apart = np.abs(frequency - found)
    assert (apart < 4 * np.sqrt(found * (1 - found) / trials) + error).all()
    by_length = np.abs((frequency - found).reshape(20, 50).mean(axis=1))
    assert (by_length < 4 * np.sqrt(0.25 / trials / 50) + error).all()


def test_where_lengths_decide_too_much_no_probability_is_told() -> None:
    sizes = np.array([3, 1, 4, 1, 5] * 4)
    assert within(np.zeros(20), sizes, 20, 19)[1] is None, "few documents"
    many = np.tile(sizes, 500)
    found, error = within(np.zeros(10_000), many, 14_000, 14_000)
    assert error is not None and set(found) == {0.5}
    assert within(np.zeros(10_000), many, 14_000, 14_000, "fill")[1] is None, "short documents are taken out of turn"
    assert within(np.zeros(10_000), many, 14_000, 12_000)[1] is None, "much strayed"
    assert within(np.zeros(20), sizes, 60, 56)[1] == 0.0, "all are taken"


def test_a_group_spent_whole_or_not_at_all_leaves_nothing_to_chance() -> None:
    assert chances([0, 0, 1], [0, 5, 0], [1, 2, 9], [3, 0]).tolist() == [1, 1, 0]


def test_equal_weights_have_the_share_that_was_spent() -> None:
    np.testing.assert_allclose(chances([0] * 8, [3.0] * 8, [1, 2, 3, 4] * 2, [5]), 0.25, rtol=1e-14)
