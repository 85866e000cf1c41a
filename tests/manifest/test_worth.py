"""What repeated visits are worth, by the worked cases."""

import pytest

from selector.manifest.worth import EPOCHS_OF_WORTH, repeats, worth_of

WORTH = {0.5: 50.0, 1: 100.0, 2: 196.819922379, 4: 372.567312306, 10: 781.412332284, 40: 1516.746480153}
OF_REPEAT = {1: 0.968199224, 3: 0.850193872, 9: 0.575675427, 39: 0.08193629}


@pytest.mark.parametrize("epochs", WORTH)
def test_s6_tokens_are_worth_less_the_more_often_they_are_seen(epochs: float) -> None:
    assert worth_of(100, epochs) == pytest.approx(WORTH[epochs], abs=1e-8)


def test_s6_there_is_an_end_to_it() -> None:
    assert EPOCHS_OF_WORTH == 15.387756
    assert worth_of(100, 1e6) == pytest.approx(1638.7756)
    assert worth_of(100, 3, scale=1e9) == pytest.approx(300, abs=1e-5)


@pytest.mark.parametrize("repeat", OF_REPEAT)
def test_s6_each_repetition_is_worth_less_than_the_one_before(repeat: int) -> None:
    assert worth_of(1, repeat + 1) - worth_of(1, repeat) == pytest.approx(OF_REPEAT[repeat], abs=1e-8)


def test_s8_a_strict_filter_repeated_is_worth_less_than_a_loose_one_seen_once() -> None:
    strict, loose = worth_of(10, 100 / 10), worth_of(100, 100 / 100)
    assert (strict, loose) == pytest.approx((78.141233228, 100))
    assert loose / strict == pytest.approx(1.27973409)


def test_the_facts_take_the_epochs_of_each_document_by_themselves() -> None:
    assert repeats(dict.fromkeys(range(4), 100)) == {
        "tokens": 400, "tokens_once": 100, "most_visits": 4, "worth_tokens": 373,
    }  # fmt: skip
    uneven = repeats({0: 1_000, 1: 10, 2: 10})
    assert uneven["worth_tokens"] == round(990 + worth_of(10, 3))
    assert repeats({}) == {"tokens": 0, "tokens_once": 0, "most_visits": 0, "worth_tokens": 0}
