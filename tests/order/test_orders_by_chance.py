"""The orders in which a score and chance both have a part: what each of them claims."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import tries
from selector import plugins
from selector.errors import PolicyError
from selector.exact import keyed
from selector.order import Order, Pool, ScoreName
from selector.order.by_score import ByScore
from selector.order.drawn import Drawn
from selector.order.segmented import End, Segmented
from selector.testing import SCORE, documents
from selector.testing.orders import arranged, with_visits

NAME = ScoreName(SCORE)


def pool(scores: list[Any]) -> Pool:
    """Documents with these scores, in shards of 7."""
    return Pool.of(documents([{"doc_id": keyed.digest(b"%d" % i), SCORE: s} for i, s in enumerate(scores)]), 7)


def visited(order: Order, scores: list[Any], seed: int = 7) -> list[int]:
    return order.arrange(pool(scores), seed).visits["document"].to_pylist()


# ---------------------------------------------------------------- segmented

ENDS: list[tuple[End, End, range, range]] = [  # which of 20 ranks are in front, which at the back
    ("easy", "hard", range(2), range(14, 20)),
    ("easy", "easy", range(2), range(2, 8)),
    ("hard", "easy", range(18, 20), range(6)),
    ("hard", "hard", range(18, 20), range(12, 18)),
]


@pytest.mark.parametrize(("front_from", "back_from", "front", "back"), ENDS)
def test_a_segment_has_the_documents_of_its_end(front_from: End, back_from: End, front: range, back: range) -> None:
    order = Segmented(score=NAME, front=0.1, back=0.3, front_from=front_from, back_from=back_from)
    scores = [float(i * 7 % 20) for i in range(20)] + [None] * 5
    ranks = [20 if scores[i] is None else int(scores[i] or 0) for i in visited(order, scores)]
    assert set(ranks[:2]) == set(front) and set(ranks[14:20]) == set(back) and ranks[20:] == [20] * 5
    assert ranks[2:14] != sorted(ranks[2:14]), "what is between is shuffled"
    assert visited(order, scores, 8) != visited(order, scores, 7)


@pytest.mark.slow
@tries(40)
@given(st.lists(st.sampled_from([None, 1.0, 2.0, 3.0]), max_size=40), st.integers(0, 10), st.integers(0, 10))
def test_segments_are_cut_exactly_also_between_equal_scores(scores: list[Any], tenths: int, others: int) -> None:
    front, back = tenths / 10, min(others, 10 - tenths) / 10
    ids = [keyed.digest(b"%d" % i) for i in range(len(scores))]
    ranked = sorted((i for i, score in enumerate(scores) if score), key=lambda i: (scores[i], ids[i]))
    first, last = round(len(ranked) * tenths / 10), round(len(ranked) * (10 - min(others, 10 - tenths)) / 10)
    order = visited(Segmented(score=NAME, front=front, back=back), scores)
    assert set(order[:first]) == set(ranked[:first])
    assert set(order[first:last]) == set(ranked[first:last])
    assert set(order[last : len(ranked)]) == set(ranked[last:])


def test_all_visits_of_a_document_are_in_its_segment() -> None:
    table = with_visits(documents([{SCORE: float(i)} for i in range(10)]), [3])
    visits, _ = arranged(Segmented(score=NAME, front=0.2, back=0.2), table, 4, 7)
    assert [int.from_bytes(doc_id) // 2 for doc_id, *_ in visits[:6] + visits[-6:]] == [0] * 6 + [4] * 6


# ---------------------------------------------------------------- drawn


@pytest.mark.parametrize("direction", ["curriculum", "anti_curriculum"])
def test_drawn_at_temperature_0_is_by_score(direction: Any) -> None:
    scores = [float(i * 7 % 11) for i in range(40)] + [None] * 3
    drawn = Drawn(score=NAME, temperature=0, direction=direction)
    assert visited(drawn, scores) == visited(ByScore(score=NAME, direction=direction), scores)


def test_a_curriculum_is_the_draw_reversed_with_what_has_no_score_at_the_end_of_both() -> None:
    scores = [float(i * 7 % 11) for i in range(40)] + [None] * 3
    up, down = (visited(Drawn(score=NAME, direction=way), scores) for way in ("curriculum", "anti_curriculum"))
    assert up[:40] == down[:40][::-1] and set(up[40:]) == set(down[40:]) == {40, 41, 42}


def test_a_likely_document_is_drawn_first_as_often_as_its_weight_says() -> None:
    """Of two documents, one with a weight of e times the other's, that one comes first in 1 / (1 + 1 / e) of all draws.
    Half of these documents have a z of -1 and half of 1, and the temperature is 2."""
    table, pairs = documents([{SCORE: float(i % 2)} for i in range(1200)]), np.arange(1200).reshape(-1, 2)
    order = Drawn(score=NAME, direction="anti_curriculum").arrange(Pool.of(table), 7).visits["document"].to_numpy()
    place = np.argsort(order)
    expected = 1 / (1 + np.exp(-1))
    share = (place[pairs[:, 1]] < place[pairs[:, 0]]).mean()
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / len(pairs))


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("segmented", {"front": 1.1}, r"segmented\.front=1\.1 is no share .*: write a number from 0 to 1"),
    ("segmented", {"back": -0.1}, r"segmented\.back=-0\.1 is no share"),
    ("segmented", {"front": 0.6, "back": 0.5}, r"segmented\.front=0\.6 and segmented\.back=0\.5 are more than all"),
    ("drawn", {"temperature": -1}, r"drawn\.temperature=-1.0 is not a temperature"),
    ("drawn", {"temperature": float("inf")}, r"drawn\.temperature=inf is not a temperature"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_an_order_by_chance_that_cannot_be_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        plugins.make("orders", name, {"score": SCORE, **options}, "order.using", Order)
