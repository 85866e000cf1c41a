"""Leases: how long they hold, what they hold, and what gc makes of it."""

import json
import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

from conftest import MemoryStorage
from selector.engine import gc, lease
from selector.engine.lease import SECONDS, Held, Lease
from selector.engine.store import Seal, Store
from selector.errors import UsageError


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.time = 1e9

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> Store:
    return Store(MemoryStorage())


def seal(store: Store, key: str) -> Seal:
    return store.seal(key, [("table", pa.table({"key": [key]}))])


def stored(store: Store) -> set[str]:
    """The keys of all artefacts that are whole."""
    return {key for key in store.seals() if store.is_sound(key)}


def test_a_lease_holds_for_its_time_after_every_renewal(store: Store, clock: Clock) -> None:
    mine = Lease(store.storage, clock)
    assert lease.live(store.storage, clock) == {}
    mine.renew()
    for _ in range(3):
        clock.time += SECONDS - 1
        assert list(lease.live(store.storage, clock)) == [mine.key]
        mine.renew()
    clock.time += SECONDS
    assert lease.live(store.storage, clock) == {}
    mine.renew()
    assert list(lease.live(store.storage, clock)) == [mine.key], "also after it had run out"


def test_a_lease_that_was_taken_away_is_put_there_again(store: Store, clock: Clock) -> None:
    mine = Lease(store.storage, clock)
    mine.renew()
    store.storage.delete(mine.key)
    mine.renew()
    assert list(lease.live(store.storage, clock)) == [mine.key]


def test_a_lease_is_there_as_long_as_it_is_entered_also_where_the_run_fails(store: Store, clock: Clock) -> None:
    def fail() -> None:
        with Lease(store.storage, clock) as mine:
            assert list(lease.live(store.storage, clock)) == [mine.key]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(store.storage.list("")) == []


def test_two_runs_of_one_name_have_a_lease_each(store: Store, clock: Clock) -> None:
    with Lease(store.storage, clock) as one, Lease(store.storage, clock) as other:
        assert not one.name("2f1c") and other.name("2f1c"), "the second one hears of the first"
        assert {key: held.run for key, held in lease.live(store.storage, clock).items()} == {
            one.key: "2f1c",
            other.key: "2f1c",
        }
        assert gc.find(store, clock).at_work == ("2f1c",)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"check": "", "expires": 2e9}'])
def test_a_lease_that_is_damaged_has_run_out_and_goes(data: bytes, store: Store, clock: Clock) -> None:
    store.storage.put_if_absent(f"{lease.FOLDER}1.json", data)
    assert lease.live(store.storage, clock) == {}
    assert gc.find(store, clock).keys == (f"{lease.FOLDER}1.json",)


def test_a_lease_that_was_tampered_with_is_not_believed(store: Store, clock: Clock) -> None:
    mine = Lease(store.storage, clock)
    mine.renew()
    assert isinstance(store.storage, MemoryStorage)
    body = json.loads(store.storage.objects[mine.key])
    store.storage.objects[mine.key] = json.dumps({**body, "expires": 2e9}).encode()
    assert lease.live(store.storage, clock) == {}
    mine.renew()
    assert list(lease.live(store.storage, clock)) == [mine.key], "its owner puts it right"


def test_a_process_that_has_ended_is_gone_before_its_parent_has_asked_about_it() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{process.pid}").exists() and not lease.is_at_work(process.pid)
    process.wait()
    assert not lease.is_at_work(process.pid) and lease.is_at_work(os.getpid())


def test_of_a_finished_step_a_run_needs_what_it_lists_and_of_another_anything() -> None:
    held = Held(
        finished=frozenset({"embed", "rate"}), artifacts=frozenset({"embed/1", "steps/rate/a/9", "dedup.parts/1"})
    )
    for key in ("embed/1", "steps/rate/a/9", "cluster/7", "steps/cluster/7", "shards/3", "passing/order/3/x"):
        assert held.holds(key), key
    for key in ("embed/2", "steps/embed/2", "rate/3", "steps/rate/b/3", "embed.parts/3", "passing/embed/3/x"):
        assert not held.holds(key), key


def test_gc_takes_what_a_run_at_work_is_through_with_and_did_not_use(store: Store, clock: Clock) -> None:
    for key in ("embed/mine", "embed/of an earlier run", "cluster/perhaps mine", "shards/perhaps mine"):
        seal(store, key)
    store.seal("steps/embed/1", [("seals", pa.table({"key": ["embed/mine"], "seal": ["..."]}))])
    mine = Lease(store.storage, clock)
    mine.renew()
    before = stored(store)
    assert gc.find(store, clock).keys == (), "until it says more, anything may be its own"
    mine.hold({"embed"}, ["steps/embed/1"])
    mine.renew()
    garbage = gc.find(store, clock)
    assert gc.remove(store, garbage, clock) == 1, "a seal, and within it its table"
    assert before - stored(store) == {"embed/of an earlier run"}
    clock.time += SECONDS
    gc.remove(store, gc.find(store, clock), clock)
    assert list(store.storage.list("")) == [], "it has run out, and no manifest needs any of it"


def test_a_blob_that_is_about_to_be_sealed_stays_and_so_do_attempts_of_parts_in_hand(
    store: Store, clock: Clock
) -> None:
    storage = store.storage
    blob = "artifacts/blobs/00/00.parquet"
    for key in (blob, "attempts/embed/1/1.json", "attempts/ingest/1/1.json"):
        storage.put_if_absent(key, b"...")
    mine = Lease(storage, clock)
    mine.hold({"ingest"}, [])
    mine.renew()
    assert gc.find(store, clock).keys == ("attempts/ingest/1/1.json",)
    clock.time += SECONDS
    assert {blob, "attempts/embed/1/1.json"} < {*gc.find(store, clock).keys}


def test_gc_stops_where_a_run_has_begun_since_it_looked(store: Store, clock: Clock) -> None:
    seal(store, "embed/1")
    garbage = gc.find(store, clock)
    mine = Lease(store.storage, clock)
    mine.renew()
    with pytest.raises(UsageError, match="A run has begun since the garbage was found"):
        gc.remove(store, garbage, clock)
    assert stored(store) == {"embed/1"}
