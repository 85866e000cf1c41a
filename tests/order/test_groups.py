"""The orders that go by groups: their worked cases, and what each of them claims."""

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import tries
from selector import plugins
from selector.errors import PolicyError
from selector.exact import keyed
from selector.order import Order, Pool, ScoreName
from selector.order.balanced import Balanced
from selector.order.bands import Bands
from selector.order.blocked import Blocked
from selector.order.mixed import Mixed
from selector.order.round_robin import RoundRobin
from selector.plugins.options import hints_of
from selector.testing import EXACT, ORDER_LAWS, SCORE, TOPIC, documents, variants
from selector.testing._law import check
from selector.testing._trials import TABLES, pool_for

BY_GROUP = [
    order["name"]
    for order in plugins.describe("orders")
    if order["options"].get("by", {}).get("type") in ("str", "str | None")
]
NAME = ScoreName(SCORE)


def visited(order: Order, table: pa.Table, seed: int = 7) -> list[int]:
    """The documents first to last, by their row."""
    return order.arrange(pool_for(order, table, 5), seed).visits["document"].to_pylist()


def groups(order: Order, names: str) -> str:
    """The groups of documents, first to last; each letter is a document of that group."""
    table = documents([{"source": name} for name in names])
    return "".join(names[i] for i in visited(order, table))


# ---------------------------------------------------------------- the worked cases


def test_o5_levels_are_finished_one_by_one_with_the_subjects_in_turn() -> None:
    docs = [("m", 1), ("m", 1), ("m", 2), ("h", 1), ("h", 2), ("h", 2), ("c", 2)]
    table = documents([{"source": subject, EXACT: level, SCORE: 0.0} for subject, level in docs])
    assert visited(RoundRobin(level=EXACT, score=NAME), table) == [3, 0, 1, 6, 4, 2, 5]
    assert visited(Blocked(score=ScoreName(EXACT)), table) == [6, 3, 4, 5, 0, 1, 2]


def test_o6_objectives_come_in_the_given_order_and_difficulty_rises_in_each() -> None:
    docs = [("purity", 0.1), ("relevance", 0.9), ("relevance", 0.2), ("comprehensiveness", 0.5), ("purity", 0.05)]
    table = documents([{TOPIC: objective, SCORE: difficulty} for objective, difficulty in docs])
    order = Blocked(by=TOPIC, first=("relevance", "comprehensiveness", "purity"), score=NAME)
    assert visited(order, table) == [2, 1, 3, 4, 0]


def test_o22_clients_come_in_the_order_of_their_mean_loss_and_documents_by_difficulty() -> None:
    clients = {"x": [0.9, 0.1], "y": [0.2, 0.4], "z": [0.3, 0.1]}
    rows = [{TOPIC: client, SCORE: loss} for client, losses in clients.items() for loss in losses]
    assert visited(Blocked(by=TOPIC, score=NAME, groups_by=NAME), documents(rows)) == [5, 4, 2, 3, 1, 0]
    hard_first = Blocked(by=TOPIC, score=NAME, groups_by=NAME, direction="anti_curriculum")
    assert visited(hard_first, documents(rows)) == [0, 1, 3, 2, 4, 5]
    table = documents([*rows, {TOPIC: "a"}, {TOPIC: None, SCORE: 0.0}])
    assert visited(Blocked(by=TOPIC, score=NAME, groups_by=NAME, first=("y",)), table) == [2, 3, 5, 4, 1, 0, 6, 7]


def test_the_kth_easiest_of_every_class_come_together_in_the_order_of_their_scores() -> None:
    table = documents([{"source": name, SCORE: float(i)} for i, name in enumerate("mmmccw")])
    assert visited(Balanced(score=NAME), table) == [0, 3, 5, 1, 4, 2]


MIXERS: list[tuple[dict[str, float], str, str]] = [
    ({"a": 0.5, "b": 0.25, "c": 0.25}, "a" * 6 + "b" * 3 + "c" * 3, "abcaabcaabca"),
    ({"a": 0.6, "b": 0.3, "c": 0.1}, "a" * 6 + "b" * 3 + "c", "abacabaaba"),
    ({"a": 1, "b": 1}, "aaabbb", "ababab"),
    ({"b": 1, "a": 1}, "aaabbb", "bababa"),
    ({"a": 2, "b": 1}, "aabbbbb", "abab" + "bbb"),
    ({"a": 0, "b": 1, "c": 2}, "aabbcc", "cbcbaa"),
    ({"a": 1}, "aaa", "aaa"),
    ({}, "aaaabb", "abaaba"),
]


@pytest.mark.parametrize(("weights", "names", "expected"), MIXERS)
def test_groups_take_turns_as_in_the_worked_cases(weights: dict[str, float], names: str, expected: str) -> None:
    assert groups(Mixed(weights=weights), names) == expected


# ---------------------------------------------------------------- what they claim


def deficit_round_robin(names: list[str], weights: dict[str, Fraction], sizes: dict[str, int]) -> list[str]:
    """The groups that take turns, one by one and with fractions."""
    left, order = dict(sizes), list[str]()
    count = dict.fromkeys(names, 0)
    while active := [name for name in names if left[name] and weights[name]]:
        whole, turn = sum(weights[name] for name in active), sum(count[name] for name in active)
        behind = {name: weights[name] / whole * max(turn, 1) - count[name] for name in active}
        name = max(active, key=lambda name: behind[name])  # the first of those that are most behind
        order.append(name)
        left[name], count[name] = left[name] - 1, count[name] + 1
    return order + [name for name in names for _ in range(left[name])]


@pytest.mark.slow
@tries(80)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 30)), min_size=1, max_size=5))
def test_mixed_is_deficit_round_robin_in_fractions(groups_of: list[tuple[int, int]]) -> None:
    weights = {f"g{i}": weight for i, (weight, _) in enumerate(groups_of)}
    sizes = {f"g{i}": size for i, (_, size) in enumerate(groups_of)}
    if not any(weights.values()):
        return
    table = documents([{"source": name} for name, size in sizes.items() for _ in range(size)])
    named = [name for name in weights if sizes[name]]
    expected = deficit_round_robin(named, {name: Fraction(w, 10) for name, w in weights.items()}, sizes)
    order = Mixed(weights={name: weight / 10 for name, weight in weights.items()})
    assert [table["source"][i].as_py() for i in visited(order, table)] == expected


@pytest.mark.parametrize("window", [50])
def test_every_window_of_a_mixture_has_its_shares(window: int) -> None:
    names = "a" * 600 + "b" * 300 + "c" * 100
    order = groups(Mixed(weights={"a": 0.6, "b": 0.3, "c": 0.1}), names)
    for begin in range(1000 - window):
        counts = [order[begin : begin + window].count(name) for name in "abc"]
        assert all(abs(n - share * window) < 2 for n, share in zip(counts, (0.6, 0.3, 0.1), strict=True))


@pytest.mark.slow
@tries(40)
@given(TABLES, st.sampled_from(["source", "cluster", TOPIC]))
def test_a_block_is_contiguous_and_ascends(table: pa.Table, by: str) -> None:
    order = visited(Blocked(by=by, score=NAME), table)
    values, scores, ids = (table[name].to_pylist() for name in (by, SCORE, "doc_id"))
    blocks = [list(block) for _, block in itertools.groupby(order, key=lambda i: values[i])]
    assert len(blocks) == len(set(values))
    for block in blocks:
        ranks = [(scores[i] is None, scores[i] or 0, ids[i]) for i in block]
        assert ranks == sorted(ranks)
    named = [values[block[0]] for block in blocks]
    assert named == sorted(named, key=lambda value: (value is None, value or 0 if by == "cluster" else str(value)))


@pytest.mark.slow
@tries(40)
@given(TABLES, st.sampled_from(["source", TOPIC]))
def test_going_round_visits_the_kth_document_of_every_group_before_the_next_of_any(table: pa.Table, by: str) -> None:
    values, seen = table[by].to_pylist(), dict[Any, int]()
    rounds: list[tuple[int, bool, str]] = []
    for i in visited(RoundRobin(by=by), table):
        rounds.append((seen.get(values[i], 0), values[i] is None, values[i] or ""))
        seen[values[i]] = seen.get(values[i], 0) + 1
    assert rounds == sorted(rounds)


@pytest.mark.slow
@tries(40)
@given(TABLES, st.integers(1, 5), st.sampled_from(["curriculum", "anti_curriculum"]))
def test_bands_follow_one_another_and_are_of_equal_size(table: pa.Table, bands: int, direction: Any) -> None:
    scores = table[SCORE].to_pylist()
    order = [scores[i] for i in visited(Bands(score=NAME, bands=bands, direction=direction), table)]
    scored = [score if direction == "curriculum" else -score for score in order if score is not None]
    assert order[len(scored) :] == [None] * (len(order) - len(scored)), "without a score is behind all bands"
    ends = [round(Fraction(i, bands) * len(scored)) for i in range(bands + 1)]
    parts = [sorted(scored[begin:end]) for begin, end in itertools.pairwise(ends)]
    assert list(itertools.chain(*parts)) == sorted(scored)


def test_bands_end_at_the_scores_that_the_policy_gives() -> None:
    scores = [0.1, 0.66, 0.8, 0.81, None, 0.67, 1.0, 0.0]
    table = documents([{SCORE: score} for score in scores])
    bands = [{0, 1, 7}, {2, 5}, {3, 6}, {4}]
    order = visited(Bands(score=NAME, up_to=(0.66, 0.8)), table)
    assert [set(order[a:b]) for a, b in itertools.pairwise((0, 3, 5, 7, 8))] == bands
    order = visited(Bands(score=NAME, up_to=(0.66, 0.8), direction="anti_curriculum"), table)
    assert [set(order[a:b]) for a, b in itertools.pairwise((0, 2, 4, 7, 8))] == [bands[i] for i in (2, 1, 0, 3)]
    table = documents([{EXACT: n} for n in (5, 2**60, 7, 6)])
    assert visited(Bands(score=ScoreName(EXACT), up_to=(5, 6), inside="sorted"), table) == [0, 3, 2, 1]


def test_only_the_groups_that_are_named_are_sorted() -> None:
    rows = [{"source": "ab"[i % 2], SCORE: float(i), "doc_id": keyed.digest(b"%d" % i)} for i in range(40)]
    table = documents(rows)
    for order in (
        Blocked(score=NAME, sorted_groups=("b",)),
        Mixed(score=NAME, weights={"a": 1, "b": 1}, sorted_groups=("b",)),
    ):
        places = visited(order, table)
        assert [i for i in places if i % 2] == list(range(1, 40, 2))
        assert [i for i in places if not i % 2] != list(range(0, 40, 2))
        assert [i for i in places if not i % 2] != [i for i in visited(order, table, 8) if not i % 2]


def test_what_a_mixture_costs_does_not_grow_with_the_documents() -> None:
    order = Mixed(weights={f"g{i}": i + 1 for i in range(40)})
    sizes = np.full(40, 10**9)
    group, rank = np.arange(40), np.full(40, 10**9 - 1)
    table = documents([{"source": f"g{i}"} for i in range(40)])
    places = order.places(group, rank, sizes, order.summary(Pool.of(table), 7))
    assert places.max() == 40 * 10**9 - 1 and len(set(places.tolist())) == 40


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("mixed", {"weights": {"web": 0}}, r"mixed\.weights gives no group a weight"),
    ("mixed", {"weights": {"web": -1}}, r"mixed\.weights\.web=-1.0 is no weight: write a number from 0 on"),
    ("mixed", {"weights": {"web": 1, "code": 0.333333333}}, "repeats every 1,333,333,333 documents"),
    ("bands", {"score": SCORE, "bands": 0}, r"bands\.bands=0 leaves no band"),
    ("bands", {"score": SCORE, "up_to": [0.8, 0.6]}, r"bands\.up_to=\[0\.8, 0\.6\] does not rise"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_an_order_by_group_that_cannot_be_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        plugins.make("orders", name, options, "order.using", Order)


def test_a_group_that_is_not_there_or_has_no_weight_is_named() -> None:
    table = documents([{"source": "web"}, {"source": "code"}])
    with pytest.raises(PolicyError, match=r"blocked: no chosen document has source 'wbe'\. Did you mean 'web'\?"):
        visited(Blocked(first=("wbe",)), table)
    with pytest.raises(PolicyError, match=r"mixed\.weights says nothing of source 'code', .* add it, with 0 if"):
        visited(Mixed(weights={"web": 1}), table)
    with pytest.raises(PolicyError, match=r"blocked\.sorted_groups needs a score .*: add score: NAME"):
        visited(Blocked(sorted_groups=("web",)), table)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_GROUP)
def test_any_column_can_make_the_groups(name: str) -> None:
    """Each column by some variants of the order, and each variant by a column, but for most of those that differ in
    the order that they are around."""
    columns = ("cluster", f"score.{TOPIC}", "corpus.lang")
    given_: dict[str, Any] = {"weights": dict.fromkeys(("0", "1", "2", "3", "a", "b", "art", "law"), 1)}
    for place, by in enumerate(columns):
        every = list(variants("orders", name, by=by, **(given_ if name == "mixed" else {})))
        is_around = {"inner", "phases"} & set(hints_of(plugins.find("orders", name)))
        every = [order for i, order in enumerate(every) if i % 12 == 0 or not is_around]
        check(ORDER_LAWS, every[place :: len(columns)] or every[:1], 3, None)
