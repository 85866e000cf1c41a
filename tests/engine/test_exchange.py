"""Rows of different items meet bucket by bucket, and nothing that was dealt is lost without a word."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from conftest import MemoryStorage
from selector.engine.exchange import by_bucket, exchange
from selector.engine.step import Done
from selector.engine.store import Store
from selector.errors import DamagedError


def deal(_: Store, numbers: Sequence[int]) -> Mapping[int, pa.Table]:
    """Numbers by their remainder."""
    table = pa.table({"number": pa.array(numbers, pa.int64())})
    return by_bucket(table, table["number"].to_numpy() % 3)


def meet(_: Store, bucket: int, dealt: Iterator[pa.Table]) -> tuple[int, list[int]]:
    return bucket, [number for table in dealt for number in table["number"].to_pylist()]


@pytest.mark.parametrize("items", [[[]], [[5, 1, 4]], [[5, 1], [], [4, 2, 8], [3]]])
def test_what_is_dealt_into_a_bucket_meets_in_the_items_order(items: list[list[int]]) -> None:
    met = exchange(Done(Store(MemoryStorage())), "toy", items, items, 3, deal, meet)
    assert met == [(n, [number for item in items for number in item if number % 3 == n]) for n in range(3)]


def test_an_item_is_dealt_once_however_often_the_run_is_begun_again() -> None:
    store, items = Store(MemoryStorage()), [[1, 2], [3, 4]]
    dealt: list[list[int]] = []

    def noted(given: Store, item: list[int]) -> Mapping[int, pa.Table]:
        dealt.append(item)
        return deal(given, item)

    answers = [exchange(Done(store), "toy", "inputs", items, 3, noted, meet) for _ in range(2)]
    assert answers[0] == answers[1] and dealt == items
    exchange(Done(store), "toy", "other inputs", items, 3, noted, meet)
    assert dealt == items * 2


def test_what_was_dealt_and_is_gone_is_damage_and_not_nothing() -> None:
    store, items = Store(MemoryStorage()), [[1, 2], [3, 4]]

    def mapper(work: Callable[..., Any], given: Sequence[Any]) -> Iterator[Any]:
        """Loses a hand-over between dealing and meeting."""
        yield from map(work, given)
        store.discard(next(iter(store.seals("toy.dealt/"))))

    with pytest.raises(DamagedError, match=r"toy\.dealt/\w+ is damaged: it is gone"):
        exchange(Done(store, mapper), "toy", "inputs", items, 3, deal, meet)


def test_rows_keep_their_order_within_a_bucket() -> None:
    table = pa.table({"row": range(6)})
    dealt = by_bucket(table, np.array([2, 0, 2, 0, 5, 2]))
    assert {bucket: rows["row"].to_pylist() for bucket, rows in dealt.items()} == {0: [1, 3], 2: [0, 2, 5], 5: [4]}
    assert by_bucket(table.slice(0, 0), np.empty(0, np.int64)) == {}
