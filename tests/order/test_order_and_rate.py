"""Orders that go by the learning rate, and the controls of an order."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from selector.errors import PolicyError
from selector.exact import keyed
from selector.exact.rates import Schedule, Training
from selector.order import Order, Pool, Positions, ScoreName
from selector.order.blocked import Blocked
from selector.order.by_score import ByScore
from selector.order.matched import Matched
from selector.order.shuffled import Shuffled
from selector.order.warmup import Warmup
from selector.order.where_it_counts import WhereItCounts
from selector.testing import ORDER_LAWS, SCORE, documents
from selector.testing._awkward import Repeating
from selector.testing._law import check
from selector.testing._trials import around, pool_for
from selector.testing.orders import with_visits

NAME = ScoreName(SCORE)
SORTED = ByScore(score=NAME)


def training(decay: Any, **options: Any) -> Training:
    """Steps of one visit, with a share of .2 each while the rate is at its peak."""
    return Training(global_batch_size=1, schedule=Schedule(peak=0.2, decay=decay, weight_decay=1, **options))


def arranged(order: Order, count: int, trained: Training | None, seed: int = 7) -> Positions:
    """Documents whose score is their place."""
    rows = [{"doc_id": keyed.digest(b"%d" % i), SCORE: float(i), "source": "ab"[i % 2]} for i in range(count)]
    return order.arrange(replace(Pool.of(documents(rows), 9), training=trained), seed)


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        (training("constant"), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (training("wsd", falling=0.3), [0, 1, 2, 3, 4, 5, 8, 9, 6, 7]),  # .1294 and .1618
        (training("linear"), [0, 1, 8, 9, 2, 3, 4, 5, 6, 7]),  # .0887 and .0902
        (None, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ],
)
def test_the_best_come_where_the_coefficients_of_11_5_are_greatest(
    trained: Training | None, expected: list[int]
) -> None:
    positions = arranged(WhereItCounts(inner=SORTED, score=NAME, share=0.2), 10, trained)
    assert positions.visits["document"].to_pylist() == expected
    facts = positions.facts["where_it_counts"]
    assert (facts["first_position"], facts["visits"]) == (expected.index(8), 2)
    assert facts["counts"] > 1 or trained is None


def test_the_mean_of_checkpoints_moves_the_best() -> None:
    last = arranged(WhereItCounts(inner=SORTED, score=NAME, share=0.1), 10, training("constant"))
    mean = arranged(
        WhereItCounts(inner=SORTED, score=NAME, share=0.1), 10, replace(training("constant"), checkpoints=3)
    )
    places = [positions.visits["document"].to_pylist().index(9) for positions in (last, mean)]
    assert places == [9, 7], "O21: the mean of the checkpoints after steps 7, 8 and 9 has its greatest at 7"


def test_a_phase_is_placed_whole_and_in_its_order() -> None:
    inner = Warmup(inner=SORTED, share=0.3)
    plain = arranged(inner, 20, None).visits["document"].to_pylist()
    positions = arranged(WhereItCounts(inner=inner, phase="warmup"), 20, training("constant"))
    assert positions.visits["document"].to_pylist() == [*plain[6:], *plain[:6]]
    assert positions.visits["phase"].to_pylist() == ["main"] * 14 + ["warmup"] * 6
    with pytest.raises(PolicyError, match=r"the order has no phase 'annealing'. It has 'warmup', 'main'."):
        arranged(WhereItCounts(inner=inner, phase="annealing"), 20, training("constant"))


def test_documents_without_a_score_are_never_the_best() -> None:
    rows = [{SCORE: None if i < 18 else float(i)} for i in range(20)]
    pool = replace(Pool.of(documents(rows), 9), training=training("linear"))
    positions = WhereItCounts(inner=SORTED, score=NAME, share=0.5).arrange(pool, 7)
    assert positions.facts["where_it_counts"]["visits"] == 2


@pytest.mark.parametrize("options", [{}, {"score": NAME, "phase": "main"}, {"score": NAME, "share": 1.5}])
def test_what_is_best_is_said_once(options: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="where_it_counts"):
        WhereItCounts(inner=SORTED, **options)


@pytest.mark.parametrize("inner", [SORTED, Blocked(), Warmup(inner=SORTED, share=0.3), Shuffled()])
def test_a_control_has_the_visits_of_every_phase_at_random(inner: Order) -> None:
    plain = arranged(inner, 200, None)
    draws = [arranged(Matched(inner=inner, draw=draw), 200, None) for draw in range(3)]
    names = plain.visits["phase"].to_pylist()
    for one in draws:
        assert one.visits["phase"].to_pylist() == names
        for name in set(names):
            here = np.array(names) == name
            before, after = (positions.visits["document"].to_numpy()[here] for positions in (plain, one))
            assert sorted(before.tolist()) == sorted(after.tolist()) and before.tolist() != after.tolist()
    orders = [tuple(one.visits["document"].to_pylist()) for one in draws]
    assert len(set(orders)) == 3, "each draw is another order"
    assert orders[0] != tuple(arranged(Matched(inner=inner), 200, None, 8).visits["document"].to_pylist())


def test_a_control_makes_as_many_visits_of_each_document_and_leaves_the_same() -> None:
    table = with_visits(documents([{"doc_id": keyed.digest(b"%d" % i)} for i in range(60)]), [1, 2])
    plain, control = (
        order.arrange(pool_for(order, table, 9), 7) for order in (Repeating(), Matched(inner=Repeating()))
    )
    for column in ("document", "loss_weight"):
        assert sorted(control.visits[column].to_pylist()) == sorted(plain.visits[column].to_pylist())
    assert control.left.equals(plain.left)


@pytest.mark.slow
def test_the_laws_hold_for_the_best_of_every_order() -> None:
    check(ORDER_LAWS, (WhereItCounts(inner=inner, score=NAME, share=0.3) for inner in around("orders")), 5, None)
