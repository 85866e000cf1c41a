"""A selector's answer is checked before it is sealed, shard by shard, and the fault is put on the selector."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest

from selector.errors import SelectorError
from selector.select import Budget, Checker, Decisions, Pool, Selector, reasons, verdicts
from selector.testing._trials import documents

TOKENS = Budget(amount=30, unit="tokens")


@dataclass(frozen=True, kw_only=True)
class Tried(Selector):
    """Its answers are made up below."""

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Early(Tried):
    """One that may end early."""

    fills_budget = False


def shard(num_tokens: list[int]) -> pa.RecordBatch:
    (batch,) = documents([{"num_tokens": tokens} for tokens in num_tokens]).combine_chunks().to_batches()
    return batch


def verdict(kept: list[int], **columns: Any) -> pa.RecordBatch:
    mask = np.array(kept, np.bool_)
    return verdicts(mask, **{**reasons(mask.astype(int), ["not taken", "taken"]), **columns})


def check(
    budget: Budget, *shards: tuple[list[int], list[int]], selector: Selector | None = None, **columns: Any
) -> int:
    """What was spent on shards of (num_tokens, kept)."""
    checker = Checker("mine", selector or Tried(), budget)
    for num_tokens, kept in shards:
        checker.add(checker.totals_of(shard(num_tokens), verdict(kept, **columns)))
    return checker.end()


def test_an_answer_that_keeps_the_contract_says_what_was_spent() -> None:
    assert check(TOKENS, ([10, 10], [1, 1]), ([10, 5], [1, 0])) == 30
    assert check(Budget(amount=2, unit="documents"), ([10, 10], [1, 0]), ([10], [1])) == 2
    assert check(TOKENS) == 0


def test_a_selector_that_overspends_is_blamed_by_name_over_all_shards_together() -> None:
    with pytest.raises(
        SelectorError,
        match=r"The selector 'mine' kept 3 documents with 1,020 tokens, and the budget is 1,000 tokens\. "
        r"This is a fault of the selector, \w*test_check_of_selectors\.Tried\.",
    ):
        check(Budget(amount=1000, unit="tokens"), ([500, 20], [1, 1]), ([500], [1]))
    with pytest.raises(SelectorError, match="kept 2 documents with 20 tokens, and the budget is 1 documents"):
        check(Budget(amount=1, unit="documents"), ([10, 10], [1, 1]))


def test_cross_may_take_one_document_too_many_and_no_more() -> None:
    cross = Budget(amount=30, unit="tokens", overshoot="cross")
    assert check(cross, ([20, 20], [1, 1])) == 40
    with pytest.raises(SelectorError, match="kept 3 documents with 50 tokens"):
        check(cross, ([20, 20, 10], [1, 1, 1]))
    with pytest.raises(SelectorError, match="kept 1 documents with 20 tokens, and the budget is 0 tokens"):
        check(Budget(amount=0, unit="tokens", overshoot="cross"), ([20], [1]))


@pytest.mark.parametrize(("overshoot", "left_out"), [("stop", [5, 10]), ("fill", [5, 40]), ("cross", [40])])
def test_what_would_have_fitted_must_not_be_left(overshoot: Any, left_out: list[int]) -> None:
    budget = Budget(amount=30, unit="tokens", overshoot=overshoot)
    shards = ([20, *left_out], [1, *([0] * len(left_out))])
    with pytest.raises(SelectorError, match="the budget is 30 tokens; it left out documents that would have fitted"):
        check(budget, shards)
    assert check(budget, shards, selector=Early()) == 20, "unless the selector says that it may end early"


def test_stop_ends_before_a_document_that_does_not_fit_though_smaller_ones_are_waiting() -> None:
    assert check(TOKENS, ([20, 40, 5], [1, 0, 0])) == 20
    assert check(Budget(amount=30, unit="tokens", overshoot="fill"), ([20, 40, 11], [1, 0, 0])) == 20


def test_a_document_that_is_seen_several_times_spends_as_often() -> None:
    assert check(TOKENS, ([10], [1]), visits=np.array([3], np.uint16)) == 30
    with pytest.raises(SelectorError, match="kept 1 documents with 40 tokens"):
        check(TOKENS, ([10], [1]), visits=np.array([4], np.uint16))


WRONG: list[tuple[Any, str]] = [
    (None, r"answered with a NoneType instead of a pyarrow\.RecordBatch of `tables\.VERDICTS`"),
    (verdict([1]), "answered with 1 verdicts for 2 documents"),
    (verdict([1, 0]).select(["kept", "reason"]), r"other columns than `tables\.VERDICTS`: 'arguments' is missing"),
    (
        verdict([1, 0]).set_column(5, "inclusion_probability", pa.array([1.0, 0.0])),
        "'inclusion_probability' is double, not float",
    ),
    (verdict([1, 0], visits=pa.array([1, None], pa.uint16())), "left the column 'visits' null for 1 documents"),
    (
        verdict([1, 0], **reasons(np.array([0, 1]), ["taken", "left out"]))
        .set_column(
            1,
            verdict([]).schema.field("reason"),
            pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array(["taken", None], pa.string())),
        ),
        "left the column 'reason' null for 1 documents",
    ),
    (verdict([1, 0], visits=np.array([0, 1], np.uint16)), "kept documents that are to be seen 0 times"),
    (verdict([1, 0], inclusion_probability=np.array([1.5, 0])), "inclusion probability 1.5, which is not between"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "problem"), WRONG)
def test_an_answer_that_is_no_verdict_is_refused_in_words(answer: Any, problem: str) -> None:
    decisions = Decisions(decide=lambda _: answer, columns=("num_tokens",))
    with pytest.raises(SelectorError, match=f"The selector 'mine' {problem}|The selector 'mine' .*{problem}"):
        Checker("mine", Tried(), TOKENS).verdict(decisions, shard([10, 10]))


# The number of tokens of three documents and which are kept, of a budget of 30.
UNSPENT = [
    (Tried, "stop", [20, 40, 5], [1, 0, 0], "the next document in turn does not fit"),
    (Tried, "fill", [20, 40, 11], [1, 0, 0], "no further document fits"),
    (Tried, "stop", [10, 10], [1, 1], "every document that may be chosen is"),
    (Early, "stop", [20, 5, 10], [1, 0, 0], "the selector takes no more by its own rule"),
    (Early, "cross", [20, 40, 5], [1, 0, 0], "the selector takes no more by its own rule"),
    (Early, "stop", [20, 40, 5], [1, 0, 0], "the next document that the selector's own rule allows does not fit"),
    (Early, "fill", [20, 40, 5], [1, 0, 0], "no further document that the selector's own rule allows fits"),
]


@pytest.mark.parametrize(("kind", "overshoot", "num_tokens", "kept", "reason"), UNSPENT)
def test_what_is_left_of_a_budget_has_the_reason_that_can_be_known(
    kind: type[Selector],
    overshoot: Literal["stop", "fill", "cross"],
    num_tokens: list[int],
    kept: list[int],
    reason: str,
) -> None:
    budget = Budget(amount=30, unit="tokens", overshoot=overshoot)
    checker = Checker("mine", kind(), budget)
    checker.add(checker.totals_of(shard(num_tokens), verdict(kept)))
    assert checker.end() < 30 and checker.why_unspent(len(kept)).startswith(reason)
