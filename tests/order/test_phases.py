"""The orders in phases, each with a pool and a mixture: their worked cases, and what each of them claims."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import tries
from selector import plugins
from selector.errors import PolicyError
from selector.exact import apportion, keyed, spend
from selector.exact.rates import Schedule, Training
from selector.order import Order, Pool, Positions, ScoreName, _in_line
from selector.order.by_score import ByScore
from selector.order.heads import Heads
from selector.order.phases import Phase, Phases
from selector.order.quadrants import Quadrants
from selector.order.spread import Spread
from selector.order.warmup import Warmup
from selector.testing import EXACT, SCORE, documents
from selector.testing._awkward import Repeating
from selector.testing.orders import with_visits

NAME = ScoreName(SCORE)
SORTED = ByScore(score=NAME)


def arranged(order: Order, names: str, seed: int = 7, **columns: list[Any]) -> Positions:
    """Documents whose source is a letter, of ten tokens each; a blank is no source."""
    rows = [
        {"source": name.strip() or None, SCORE: float(i), "doc_id": keyed.digest(b"%d" % i)}
        | {column: values[i] for column, values in columns.items()}
        for i, name in enumerate(names)
    ]
    return order.arrange(Pool.of(documents(rows), 7), seed)


def by_phase(positions: Positions, names: str) -> dict[str, str]:
    """The groups of the visits of each phase, first to last."""
    phases: dict[str, str] = {}
    for i, phase in zip(*(positions.visits[column].to_pylist() for column in ("document", "phase")), strict=True):
        phases[phase] = phases.get(phase, "") + names[i]
    return phases


def counted(positions: Positions, names: str, of: str) -> list[list[int]]:
    return [[line.count(name) for name in of] for line in by_phase(positions, names).values()]


# ---------------------------------------------------------------- heads

O7: list[tuple[Any, list[list[int]]]] = [
    ("single", [[6, 0, 0], [0, 6, 0], [0, 0, 6]]),
    ("multi", [[6, 0, 0], [3, 3, 0], [2, 2, 2]]),
]


@pytest.mark.parametrize(("heads", "expected"), O7)
def test_o7_a_pool_is_one_group_or_all_before_it_too(heads: Any, expected: list[list[int]]) -> None:
    names = "342" * 4
    positions = arranged(Heads(heads=heads, epochs=1.5), names)
    assert counted(positions, names, "234") == expected
    assert positions.phases["4"] == {"visits": {n: c for n, c in zip("234", expected[2], strict=True) if c}}
    seen = np.bincount(positions.visits["document"].to_numpy(), minlength=12)
    for group in "234":
        each = [seen[i] for i in range(12) if names[i] == group]
        assert max(each) - min(each) <= 1, "a document is not seen again before all others of its group are"


def test_heads_are_opened_in_the_order_that_is_given_and_what_is_not_drawn_is_left() -> None:
    names = "aaabbb "
    positions = arranged(Heads(first=("b",), epochs=3 / 7), names)
    assert by_phase(positions, names).keys() == {"b", "a", "no value"}
    assert positions.visits.num_rows == 3 and positions.left.num_rows >= 4
    with pytest.raises(PolicyError, match=r"heads\.first: no chosen document has source 'c'"):
        arranged(Heads(first=("c",)), names)
    with pytest.raises(PolicyError, match="has 1 documents for 2,250 visits, more than 1,000 of each"):
        arranged(Heads(epochs=1000, first=("a",)), "abb")


# ---------------------------------------------------------------- phases


def pools(*weights: dict[str, float], pool: Any = "cumulative", tokens: int | None = 60) -> tuple[Phase, ...]:
    return tuple(Phase(tokens=tokens, weights=each, pool=pool) for each in weights)


def test_o7_pools_of_phases_grow_or_are_replaced() -> None:
    names, each = "342" * 4, ({"2": 1.0}, {"3": 1.0}, {"4": 1.0})
    positions = arranged(Phases(phases=pools(*each), visits=3), names)
    assert counted(positions, names, "234") == [[6, 0, 0], [3, 3, 0], [2, 2, 2]]
    positions = arranged(Phases(phases=pools(*each, pool="replaced"), visits=3), names)
    assert counted(positions, names, "234") == [[6, 0, 0], [0, 6, 0], [0, 0, 6]]


def test_a_phase_has_its_tokens_its_mixture_and_its_hints_in_the_manifest() -> None:
    names = "w" * 50 + "c" * 30 + "m" * 20
    positions = arranged(
        Phases(
            phases=(
                Phase(name="broad", share=0.4, weights={"w": 3, "c": 1}, sequence_length=2048, hints={"masking": 0.15}),
                Phase(name="best", tokens=250, weights={"w": 1, "m": 2}, inner=SORTED),
                Phase(name="rest", weights={"w": 1, "c": 1, "m": 1}),
            )
        ),
        names,
    )
    assert counted(positions, names, "wcm") == [[30, 10, 0], [6, 6, 13], [14, 14, 7]]
    assert positions.phases["broad"] == {
        "mixture": {"c": 100, "w": 300}, "tokens_asked_for": 400, "tokens_missing": 0, "sequence_length": 2048,
        "hints": {"masking": 0.15},
    }  # fmt: skip
    assert positions.phases["best"]["mixture"] == {"c": 60, "m": 130, "w": 60}
    best = positions.visits["document"].to_pylist()[40:65]
    assert best == sorted(best) and not positions.left.num_rows
    assert positions.facts["phases"]["tokens_missing"] == {"broad": 0, "best": 0}


def test_a_weight_of_0_takes_a_group_out_and_nobody_is_seen_twice_unless_the_policy_says_so() -> None:
    names = "a" * 4 + "b" * 8
    order = Phases(phases=pools({"a": 1, "b": 1}, {"a": 0}))
    positions = arranged(order, names)
    assert counted(positions, names, "ab") == [[3, 3], [0, 5]]
    assert positions.phases["phase 2"]["tokens_missing"] == 10 and positions.left.num_rows == 1
    assert positions.facts["phases"] == {
        "tokens_missing": {"phase 1": 0, "phase 2": 10}, "short": {"phase 2": 10}, "inside": {},
        "unmet": ["phase 2 asks for 10 tokens more than its groups have left"],
    }  # fmt: skip


def test_what_a_group_cannot_spend_goes_to_the_others() -> None:
    names = "a" * 2 + "b" * 10
    assert counted(arranged(Phases(phases=pools({"a": 1, "b": 1})), names), names, "ab") == [[2, 4]]


def test_the_best_can_come_last() -> None:
    broad, best = Phase(name="broad", weights={"1": 1}), Phase(name="best", weights={"2": 1}, pool="replaced")
    positions = arranged(Phases(phases=(broad, best), bands_of=NAME), "a" * 12)
    places = positions.visits["document"].to_pylist()
    assert set(places[:9]) == set(range(9)) and set(places[9:]) == {9, 10, 11}
    assert by_phase(positions, "a" * 12) == {"broad": "a" * 9, "best": "a" * 3}
    with pytest.raises(PolicyError, match=r"phase 1\.weights: no chosen document has band '3'\. There is: 1, 2"):
        arranged(Phases(phases=pools({"3": 1}), bands_of=NAME), "a" * 12)


def test_documents_are_new_as_long_as_there_are_any() -> None:
    positions = arranged(Phases(phases=pools({}, {}, {}, {}), visits=2), "a" * 12)
    places, visits = (positions.visits[name].to_pylist() for name in ("document", "visit"))
    assert set(places[:12]) == set(places[12:]) == set(range(12)) and visits == [0] * 12 + [1] * 12
    assert places[12:] != places[:12]


def test_a_phase_may_hold_any_order_also_one_with_phases_and_one_that_repeats() -> None:
    names = "a" * 40
    inner = Warmup(inner=SORTED, share=0.5)
    positions = arranged(Phases(phases=(Phase(name="one", share=0.5, inner=inner), Phase(name="two"))), names)
    assert [len(line) for line in by_phase(positions, names).values()] == [10, 10, 20]
    assert list(by_phase(positions, names)) == ["one/warmup", "one", "two"]
    assert positions.phases["one/warmup"]["mixture"] == {"a": 100}
    positions = arranged(Phases(phases=(Phase(share=0.5, inner=Repeating()), Phase(inner=Repeating()))), names)
    assert positions.left.num_rows and set(positions.visits["visit"].to_pylist()) == {0, 1, 2}


@tries(60)
@given(
    st.lists(st.tuples(st.sampled_from("ab "), st.integers(0, 30)), max_size=30),
    st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 3), st.integers(0, 3), st.booleans(), st.integers(0, 2)),
        max_size=4,
    ),
    st.integers(1, 3),
)
def test_no_phase_has_more_tokens_than_it_asked_for_and_no_document_more_visits(
    rows: list[tuple[str, int]], asked_for: list[tuple[int, int, int, bool, int]], visits: int
) -> None:
    names, tokens = "".join(name for name, _ in rows), [count for _, count in rows]
    phases = [
        Phase(
            tokens=amount,
            weights={name: weight for name, weight in (("a", a), ("b", b)) if name in names},
            pool="replaced" if is_replaced else "cumulative",
            most_visits=most or None,
        )
        for amount, a, b, is_replaced, most in asked_for
    ]
    positions = arranged(Phases(phases=(*phases, Phase(pool="replaced")), visits=visits), names, num_tokens=tokens)
    table = positions.visits
    seen = np.bincount(table["document"].to_numpy(), minlength=len(rows))
    assert not len(rows) or seen.max() <= visits
    assert (seen > 0).all(), "the last phase has everything that is left"
    for number, phase in enumerate(phases, 1):
        spent = sum(tokens[i] for i, label in zip(*(table[c].to_pylist() for c in ("document", "phase")), strict=True)
                    if label == f"phase {number}")  # fmt: skip
        missing = positions.facts["phases"]["tokens_missing"][f"phase {number}"]
        assert spent <= (phase.tokens or 0) and spent + missing == phase.tokens
        here = [i for i, label in zip(*(table[c].to_pylist() for c in ("document", "phase")), strict=True)
                if label == f"phase {number}"]  # fmt: skip
        assert max(map(here.count, here), default=0) <= (phase.most_visits or visits)


def test_a_phase_keeps_its_own_cap_on_visits_and_what_that_holds_back_comes_in_the_next_phase() -> None:
    names = "a" * 10
    phases = Phase(tokens=70), Phase(tokens=100, most_visits=1), Phase(tokens=130)
    positions = arranged(Phases(phases=phases, visits=3), names)
    places = positions.visits["document"].to_numpy()
    assert np.bincount(places[:17]).max() <= 2, "the second phase has the rest of the first lap, and seven of the next"
    assert sorted(places[7:17]) == list(range(10)), "no document twice in the phase with the cap"
    assert np.bincount(places).tolist() == [3] * 10, "nothing is lost by it"
    freely = arranged(Phases(phases=(Phase(tokens=70), Phase(tokens=100), Phase(tokens=130)), visits=3), names)
    assert len(set(freely.visits["document"].to_pylist()[7:17])) < 10
    capped = arranged(Phases(phases=(Phase(tokens=150, most_visits=1), Phase(tokens=50)), visits=2), names)
    assert capped.facts["phases"]["short"] == {"phase 1": 50}


def test_a_cap_counts_the_visits_that_select_decided_too() -> None:
    table = with_visits(documents([{"source": "a"} for _ in range(6)]), [2])
    phases = Phase(most_visits=1), Phase()
    positions = Phases(phases=phases).arrange(Pool.of(table), 7)
    assert positions.visits["visit"].to_pylist() == [0] * 6 + [1] * 6


@tries(60)
@given(st.lists(st.tuples(st.sampled_from("abc "), st.integers(0, 30)), min_size=1, max_size=60), st.floats(0.1, 1))
def test_the_mixture_of_a_phase_holds_from_its_beginning_on(rows: list[tuple[str, int]], share: float) -> None:
    names, tokens = "".join(name for name, _ in rows), [count for _, count in rows]
    positions = arranged(Phases(phases=(Phase(share=share), Phase())), names, num_tokens=tokens)
    for phase in ("phase 1", "phase 2"):
        labels, places = (positions.visits[column].to_pylist() for column in ("phase", "document"))
        here = [place for label, place in zip(labels, places, strict=True) if label == phase]
        spent = {name: np.cumsum([tokens[i] * (names[i] == name) for i in here]) for name in "abc "}
        total = np.sum(list(spent.values()), axis=0)
        for of_group in spent.values() if here else ():
            target = of_group[-1] / max(total[-1], 1)
            assert np.abs(of_group - target * total).max() <= (1 + target * 4) * max(tokens), "a few documents off"


@tries(40)
@given(
    st.lists(st.tuples(st.sampled_from("ab "), st.integers(0, 9)), max_size=30),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3), st.integers(0, 3), st.sampled_from([None, 1, 2]))),
    st.integers(1, 3),
)
def test_a_phase_has_what_queues_pay_that_are_served_one_after_another(
    rows: list[tuple[str, int]], asked_for: list[tuple[int, int, int, int | None]], laps: int
) -> None:
    names, tokens = [name.strip() for name, _ in rows], [count for _, count in rows]
    phases = [
        Phase(
            tokens=budget,
            weights={name: weight for name, weight in (("a", a), ("b", b)) if name in names},
            pool="replaced",
            most_visits=most,
        )
        for budget, a, b, most in asked_for
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spend, "LIMIT", 3)  # so that ends are found digit by digit
        patch.setattr(_in_line, "_AT_ONCE", 5)
        order = Phases(phases=(*phases, Phase()), visits=laps)
        positions = arranged(order, "".join(name for name, _ in rows), num_tokens=tokens)
    listed = [keyed.digest(b"%d" % i) for i in range(len(rows))]
    turns = [keyed.hashes(pa.array(listed, pa.binary(16)), 7, f"phases/{lap}").tolist() for lap in range(laps)]
    queue = [i for lap in range(laps) for i in sorted(range(len(rows)), key=lambda i: (turns[lap][i], listed[i]))]
    table = zip(*(positions.visits[column].to_pylist() for column in ("phase", "document")), strict=True)
    visits = [(phase, i) for phase, i in table if phase != f"phase {len(order.phases)}"]
    expected = list[tuple[str, int]]()
    for number, phase in enumerate(phases, 1):
        mine = list[int]()
        for i in queue:  # of each document the first so many that are left
            mine += [i] if mine.count(i) < (phase.most_visits or laps) else []
        groups = sorted({*names} - {""})
        queues = [[i for i in mine if names[i] == name and (name in phase.weights or not phase.weights)]
                  for name in [*groups, ""]]  # fmt: skip
        left = [sum(tokens[i] for i in queue if names[i] == name) for name in [*groups, ""]]
        weights = [phase.weights.get(name, 0) for name in groups] + [0]
        weights = weights if phase.weights else [max(of_group, 1) for of_group in left]
        quotas = apportion(phase.tokens or 0, weights, [sum(tokens[i] for i in line) for line in queues]).tolist()
        spent, drawn = [0] * len(queues), list[int]()
        for g, line in enumerate(queues):
            while quotas[g] and line and spent[g] + tokens[line[0]] <= quotas[g]:
                spent[g] += tokens[line[0]]
                drawn.append(line.pop(0))
        unspent = (phase.tokens or 0) - sum(spent)
        for g in sorted(range(len(queues)), key=lambda g: spent[g] - quotas[g]):
            if weights[g] and queues[g] and 0 < tokens[queues[g][0]] <= unspent:
                unspent -= tokens[queues[g][0]]
                drawn.append(queues[g].pop(0))
        for i in drawn:
            queue.remove(i)
        expected += [(f"phase {number}", i) for i in drawn]
    assert sorted(visits) == sorted(expected)


TEXTS = next((up / "shared/data/text" for up in Path(__file__).parents if (up / "shared/data/text").is_dir()), None)


@pytest.mark.slow
@pytest.mark.skipif(TEXTS is None, reason="the data that nobody here wrote are not there: ../shared/data")
def test_the_prefixes_of_a_phase_of_real_documents_have_its_mixture_within_one_window() -> None:
    """Pages of Debian's documentation, of 3 to 16,000 words, by language."""
    assert TEXTS is not None
    lines = (TEXTS / "debian_docs_sample.jsonl").read_text().splitlines()[::3]
    pages = [json.loads(line) for line in lines]
    rows = [
        {"source": page["lang"], SCORE: float(i), "doc_id": keyed.digest(line.encode()), "num_tokens": size}
        for i, (page, line) in enumerate(zip(pages, lines, strict=True))
        if (size := len(page["text"].split()))
    ]
    groups, tokens = [row["source"] for row in rows], np.array([row["num_tokens"] for row in rows])
    phases = Phase(share=0.3, weights={"en": 3, "de": 1, "fr": 1}), Phase(share=0.3, weights={"de": 0}), Phase()
    visits = Phases(phases=phases).arrange(Pool.of(documents(rows), 1000), 7).visits
    places, labels = visits["document"].to_numpy(), np.array(visits["phase"].to_pylist())
    window = 64
    for phase in ("phase 1", "phase 2", "phase 3"):
        here = places[labels == phase]
        assert len(here) > 3 * window
        reached = np.cumsum(tokens[here])
        widest = (reached[window:] - reached[:-window]).max()
        for group in set(groups):
            of_group = np.cumsum(np.where(np.array(groups)[here] == group, tokens[here], 0))
            target = of_group[-1] / reached[-1]
            assert np.abs(of_group - target * reached).max() <= widest, (phase, group)


def test_an_order_in_a_phase_knows_the_global_batch() -> None:
    names = "ab" * 20
    rows = [
        {"source": name, SCORE: float(name == "b"), "doc_id": keyed.digest(b"%d" % i)} for i, name in enumerate(names)
    ]
    training = Training(global_batch_size=4, schedule=Schedule(peak=0.1, decay="constant"))
    order = Phases(phases=(Phase(share=0.5, inner=Spread(inner=SORTED, most=2)), Phase()))
    positions = order.arrange(replace(Pool.of(documents(rows)), training=training), 7)
    assert positions.facts["phases"]["inside"]["phase 1"]["spread"]["window"] == 4


def test_a_document_that_is_to_be_seen_twice_is_in_phases_twice() -> None:
    table = with_visits(documents([{"source": "a"} for _ in range(6)]), [2])
    positions = Phases(phases=(Phase(share=0.5), Phase())).arrange(Pool.of(table), 7)
    assert sorted(positions.visits["visit"].to_pylist()) == [0] * 6 + [1] * 6


POLICY = {
    "phases": [{"name": "one", "tokens": 100, "inner": {"by_score": {"score": SCORE}}}, {"hints": {"task": "qa"}}]
}


def test_phases_are_written_as_keys_and_are_all_of_what_the_order_is() -> None:
    order = plugins.make("orders", "phases", POLICY, "order.using", Phases)
    assert order.phases == (Phase(name="one", tokens=100, inner=SORTED), Phase(hints={"task": "qa"}))
    spelt_out = plugins.options_spelt_out(order)
    assert plugins.make("orders", "phases", spelt_out, "order.using", Order) == order
    assert spelt_out["phases"][0]["inner"] == {"by_score": {"score": SCORE, "direction": "curriculum"}}
    identity = plugins.identity(order)
    assert identity["options"]["phases"][0]["inner"]["name"] == "by_score"
    other = plugins.make("orders", "phases", {"phases": [*POLICY["phases"], {}]}, "order.using", Order)
    assert plugins.identity(other) != identity
    nested = Phases(phases=(Phase(inner=Quadrants(weak=NAME, strong=ScoreName(EXACT))),))
    assert [option.value for option in plugins.options_of(nested, ScoreName)] == [SCORE, EXACT, None]


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("phases", {"phases": []}, r"phases\.phases has no phase"),
    ("phases", {"phases": [{"name": "a"}, {"name": "a"}]}, "two phases called 'a'"),
    ("phases", {"phases": [{}], "cuts": [0.9, 0.5]}, r"phases\.cuts=\[0\.9, 0\.5\] are no shares"),
    ("phases", {"phases": [{}], "visits": 0}, r"phases\.visits=0 is no number of visits"),
    ("phases", {"phases": [{"tokens": 1, "share": 0.5}]}, "tokens and share are two ways to say one thing"),
    ("phases", {"phases": [{"tokens": -1}]}, "tokens=-1 is no number of tokens"),
    ("phases", {"phases": [{"share": 2}]}, r"share=2\.0 is no share of all tokens"),
    ("phases", {"phases": [{"most_visits": 0}]}, "most_visits=0 leaves no visit"),
    ("phases", {"phases": [{"weights": {"a": -1}}]}, r"weights\.a=-1\.0 is no weight"),
    ("phases", {"phases": [{"sequence_length": 0}]}, "sequence_length=0 is no length"),
    ("phases", {"phases": [{"hints": {"x": float("nan")}}]}, r"hints go into manifest\.json"),
    ("phases", {"phases": [{"inner": {"where_it_counts": {"inner": "shuffled", "score": SCORE}}}]}, "around phases"),
    ("phases", {"phases": [{"token": 1}]}, r"order\.using\.phases\.phases\.0 has no option 'token'\. Did you mean"),
    ("phases", {"phases": [{"tokens": "x"}]}, r"order\.using\.phases\.phases\.0\.tokens: write a whole number"),
    ("phases", {"phases": ["x"]}, r"order\.using\.phases\.phases\.0: write keys below it; it is 'x'"),
    ("phases", {"phases": {"tokens": 1}}, r"order\.using\.phases\.phases: write a list"),
    ("phases", {"phases": [{"inner": "shufled"}]}, r"no order called 'shufled'\. Did you mean 'shuffled'"),
    ("heads", {"epochs": -1}, r"heads\.epochs=-1.0 is no number of epochs"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_phases_that_cannot_be_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        plugins.make("orders", name, options, "order.using", Order)


def test_a_weight_of_a_group_that_is_not_there_is_refused() -> None:
    with pytest.raises(
        PolicyError, match=r"phases: phase 1\.weights: no chosen document has source 'wbe'\. There is: w"
    ):
        arranged(Phases(phases=pools({"wbe": 1})), "w")
