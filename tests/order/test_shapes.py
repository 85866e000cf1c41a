"""The orders that move ranks: their worked cases, and what each of them claims."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import tries
from selector import plugins
from selector.errors import PolicyError
from selector.order import Order, Pool, ScoreName, Shaped
from selector.order.folded import Folded
from selector.order.saw import Saw
from selector.order.stair import Stair
from selector.order.zigzag import Zigzag
from selector.testing import SCORE, documents

NAME = ScoreName(SCORE)


def ranks(order: Shaped, length: int) -> list[int]:
    """The ranks, in the order in which they are visited."""
    places = order.shape(np.arange(length), length)
    assert sorted(places.tolist()) == list(range(length)), "a shape is a permutation"
    return np.argsort(places).tolist()


def moved(text: str) -> list[int]:
    """Ranks as the worked cases write them: `0..3 7 5` is 0 1 2 3 7 5."""
    numbers: list[int] = []
    for word in text.split():
        first, _, last = word.partition("..")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


SHAPES: list[tuple[Shaped, int, str]] = [
    (Folded(score=NAME, layers=5), 12, "0 5 10 1 6 11 2 7 3 8 4 9"),
    (Zigzag(score=NAME, layers=5), 12, "0 5 10 11 6 1 2 7 8 3 4 9"),
    (Stair(score=NAME), 40, "0..10 11 14 17 20 23 26 12 15 18 21 24 27 13 16 19 22 25 28 29..39"),
    (Saw(score=NAME), 40, "0..10 12 14 15 13 11 16..23 24 26 28 29 27 25 30..39"),
    (Saw(score=NAME), 12, "0..11"),
    (Folded(score=NAME, layers=1), 5, "0..4"),
    (Folded(score=NAME, layers=9), 4, "0..3"),
    (Stair(score=NAME, sections=50), 12, "0..11"),
    (Stair(score=NAME, sections=2, ratio=0.5), 6, "0 3 1 4 2 5"),
    (Stair(score=NAME, ratio=0), 40, "0..39"),
    (Saw(score=NAME, sections=4, ratio=0.5), 16, "0 1 2 4 5 3 6 8 9 7 10 12 13 11 14 15"),
]


@pytest.mark.parametrize(("order", "length", "expected"), SHAPES)
def test_shapes_are_those_of_the_worked_cases(order: Shaped, length: int, expected: str) -> None:
    assert ranks(order, length) == moved(expected)


LENGTHS = st.integers(0, 60)
LAYERS = st.integers(1, 9)


@tries(60)
@given(LENGTHS, LAYERS)
def test_every_fold_ascends_and_zigzag_turns_every_second_one(length: int, layers: int) -> None:
    folds = [list(range(length))[layer::layers] for layer in range(layers)]
    assert ranks(Folded(score=NAME, layers=layers), length) == list(itertools.chain(*folds))
    turned = [fold[::-1] if layer % 2 else fold for layer, fold in enumerate(folds)]
    assert ranks(Zigzag(score=NAME, layers=layers), length) == list(itertools.chain(*turned))


@given(LENGTHS, st.integers(2, 8), st.floats(0, 0.5), LAYERS, st.sampled_from([Stair, Saw]))
def test_a_stair_and_a_saw_leave_every_document_near_its_place_and_the_others_where_they_were(
    length: int, sections: int, ratio: float, layers: int, shape: Any
) -> None:
    order: Shaped = shape(score=NAME, sections=sections, ratio=ratio, layers=layers)
    radius = round(ratio * length + 1e-9)
    borders = [round(length * k / sections) for k in range(1, sections)]
    for place, rank in enumerate(ranks(order, length)):
        around = [border for border in borders if -radius <= rank - border < radius]
        assert rank == place or any(-radius <= place - border < radius for border in around)


@pytest.mark.parametrize("name", ["folded", "zigzag", "stair", "saw"])
def test_documents_without_a_score_come_behind_the_shape(name: str) -> None:
    scores = [None if i % 5 == 0 else float(i * 7 % 40) for i in range(40)]
    order = plugins.make("orders", name, {"score": SCORE}, "order.using", Order)
    visits = order.arrange(Pool.of(documents([{SCORE: score} for score in scores]), 9), 7).visits
    visited = visits["document"].to_pylist()
    assert visited[-8:] == list(range(0, 40, 5))
    scored = sorted((i for i in range(40) if i % 5), key=lambda i: scores[i] or 0)
    assert visited[:-8] == [scored[rank] for rank in ranks(order, 32)]  # pyright: ignore[reportArgumentType]


def test_a_shape_goes_from_hard_to_easy_where_it_is_told_so() -> None:
    table = documents([{SCORE: float(i)} for i in range(12)])
    order = Folded(score=NAME, direction="anti_curriculum")
    visited = order.arrange(Pool.of(table), 7).visits["document"].to_pylist()
    assert [a > b for a, b in itertools.pairwise(visited)] == [i % 4 != 3 for i in range(11)]


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("folded", {"layers": 0}, r"folded\.layers=0 leaves no layer .*: write 1 or more"),
    ("zigzag", {"layers": -1}, r"zigzag\.layers=-1 leaves no layer"),
    ("stair", {"sections": 1}, r"stair\.sections=1 has no border .*: write 2 or more"),
    ("stair", {"ratio": 0.6}, r"stair\.ratio=0\.6 .* write a number from 0 to 0\.5,"),
    ("saw", {"ratio": float("nan")}, r"saw\.ratio=nan"),
    ("saw", {"layers": 0}, r"saw\.layers=0"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_a_shape_that_cannot_be_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        plugins.make("orders", name, {"score": SCORE, **options}, "order.using", Order)
