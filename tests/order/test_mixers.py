"""What the mixers of training systems make of sources: their worked cases, as orders."""

from collections import Counter

import pytest

from selector.order import Order
from selector.order.mixed import Mixed
from selector.order.phases import Phase, Phases
from selector.testing import documents
from selector.testing._trials import pool_for
from selector.testing.orders import with_visits


def sources(order: Order, sizes: dict[str, int]) -> list[str]:
    """The sources of documents of one token each, first to last: so many of each."""
    rows = [{"source": name, "num_tokens": 1} for name, size in sizes.items() for _ in range(size)]
    visits = order.arrange(pool_for(order, with_visits(documents(rows), [1]), 16), 7).visits
    return [rows[row]["source"] for row in visits["document"].to_pylist()]


@pytest.mark.parametrize(("weights", "blend"), [((0.5, 0.25, 0.25), "012001200120"), ((0.6, 0.3, 0.1), "0102010010")])
def test_11_4_mixed_is_the_blend_of_megatron(weights: tuple[float, ...], blend: str) -> None:
    named = {str(i): weight for i, weight in enumerate(weights)}
    assert "".join(sources(Mixed(weights=named), dict(Counter(blend)))) == blend


def test_11_4_every_block_of_mixed_has_the_shares_of_levanter_and_what_it_rounds_away_is_not_lost() -> None:
    """Levanter gives every block of 10 whole numbers and rounds in each alike: 6 3 1 for .55 .3 .15, for ever."""
    order = sources(Mixed(weights={"a": 0.7, "b": 0.2, "c": 0.1}), {"a": 70, "b": 20, "c": 10})
    assert all(Counter(order[i : i + 10]) == {"a": 7, "b": 2, "c": 1} for i in range(0, 100, 10))
    order = sources(Mixed(weights={"a": 0.55, "b": 0.3, "c": 0.15}), {"a": 55, "b": 30, "c": 15})
    blocks = [Counter(order[i : i + 10]) for i in range(0, 100, 10)]
    assert all(abs(block["a"] - 5.5) < 1.5 and block["b"] in (2, 3, 4) and block["c"] in (1, 2) for block in blocks)
    assert Counter(order) == {"a": 55, "b": 30, "c": 15}


@pytest.mark.parametrize(("weights", "counts"), [((0.7, 0.2, 0.1), (7, 2, 1)), ((0.55, 0.3, 0.15), (6, 3, 1))])
def test_11_4_a_phase_as_long_as_a_block_has_the_numbers_of_levanter(
    weights: tuple[float, ...], counts: tuple[int, ...]
) -> None:
    order = Phases(phases=(Phase(tokens=10, weights=dict(zip("abc", weights, strict=True))),))
    assert Counter(sources(order, dict.fromkeys("abc", 20))) == dict(zip("abc", counts, strict=True))


def test_11_4_phases_with_odds_grow_like_the_length_curriculum_of_olmo_core() -> None:
    """Grow-P2: four buckets, short to long, and in every cycle the longest odds go one bucket further."""
    odds = [(8, 4, 2, 1), (4, 8, 2, 1), (2, 4, 8, 1), (1, 2, 4, 8)]
    phases = [
        Phase(tokens=15, pool="replaced", weights={f"bucket {i}": weight for i, weight in enumerate(cycle)})
        for cycle in odds
    ]
    order = sources(Phases(phases=tuple(phases)), {f"bucket {i}": 20 for i in range(4)})
    for number, cycle in enumerate(odds):
        counts = Counter(order[15 * number : 15 * number + 15])
        assert counts == {f"bucket {i}": weight for i, weight in enumerate(cycle)}
