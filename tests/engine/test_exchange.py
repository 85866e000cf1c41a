"""Rows of different items meet bucket by bucket, and nothing that was dealt is lost without a word."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from conftest import MemoryStorage
from selector.engine import gc
from selector.engine.exchange import by_bucket, exchange
from selector.engine.lease import SECONDS, Lease
from selector.engine.local import LocalExecutor
from selector.engine.runner import Runner
from selector.engine.step import APART, Done, Tables, Whole
from selector.engine.store import Seal, Store
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
        store.discard(next(iter(store.seals("passing/alone/0/toy.dealt/"))))

    with pytest.raises(DamagedError, match=r"/toy\.dealt/\w+ is damaged: it is gone"):
        exchange(Done(store, mapper), "toy", "inputs", items, 3, deal, meet)


@dataclass(frozen=True, kw_only=True)
class Sums(Whole):
    """The sums of numbers by their remainder: an exchange on the way."""

    name: str = field(default="sums", metadata=APART)
    reads: tuple[str, ...] = field(default=(), metadata=APART)

    items: tuple[tuple[int, ...], ...]

    def rows_in(self, done: Done) -> int:
        return 0

    def inputs(self, done: Done) -> Any:
        return None

    def compute(self, done: Done) -> Tables:
        met = exchange(done, "toy", "inputs", self.items, 3, deal, meet)
        yield "sums", pa.table({"sum": [sum(numbers) for _, numbers in met]})

    def rows_out(self, seal: Seal, store: Store) -> int:
        return seal.tables["sums"].num_rows


@pytest.mark.parametrize(("finished", "stays"), [(None, False), ((), True), (("sums",), False)])
def test_what_was_dealt_goes_once_the_step_is_sealed_unless_another_run_at_work_may_want_it(
    finished: tuple[str, ...] | None, stays: bool
) -> None:
    store, step = Store(MemoryStorage()), Sums(items=((1, 2), (3, 4, 6)))
    if finished is not None:
        other = Lease(store.storage)
        other.hold(finished, [])
        other.renew()
    with Lease(store.storage) as own, Runner(store, LocalExecutor(workers=1), lease=own) as runner:
        assert runner.run([step]).table("sums", "sums")["sum"].to_pylist() == [9, 5, 2]
        dealt = list(store.seals("passing/"))
        blobs = [key for key, _ in store.storage.list("artifacts/passing/") if key.endswith(".arrow")]
    assert (len(dealt), len(blobs)) == ((2, 4) if stays else (0, 0))
    assert not stays or not {*blobs} & {*gc.find(store).keys}, "nor does gc take it"
    later = time.time() + 2 * SECONDS
    assert {*blobs} <= {*gc.find(store, lambda: later).keys}


def test_rows_keep_their_order_within_a_bucket() -> None:
    table = pa.table({"row": range(6)})
    dealt = by_bucket(table, np.array([2, 0, 2, 0, 5, 2]))
    assert {bucket: rows["row"].to_pylist() for bucket, rows in dealt.items()} == {0: [1, 3], 2: [0, 2, 5], 5: [4]}
    assert by_bucket(table.slice(0, 0), np.empty(0, np.int64)) == {}
