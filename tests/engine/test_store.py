"""The five verbs and what stands on them: whole or absent, written once, sealed, and checked before use."""

import contextlib
import ctypes
import fcntl
import json
import os
import random
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runs
from runs import CONTEXT, Noting, assert_sound, policy_of, run, write_corpus
from selector.engine.local import LocalExecutor
from selector.engine.part import Receipt, Task
from selector.engine.step import Map
from selector.engine.store import Store, from_parquet, seal_from_bytes, seal_to_bytes, to_parquet
from selector.errors import DamagedError, UnreachableError, UsageError
from selector.storage import open_storage
from selector.storage.file import FileStorage

KEY = "part/0123"
TABLES = {
    "numbers": pa.table({"n": [1, 2, 3]}),
    "names": pa.table({"name": ["a", "b"]}),
    "none": pa.table({"n": pa.array([], pa.int8())}),
}


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(str(tmp_path / "root"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "root"))


# ---------------------------------------------------------------- the five verbs


def test_an_object_is_got_as_it_was_put_and_a_second_of_its_key_is_refused(storage: FileStorage) -> None:
    assert storage.get("a/b") is None
    assert storage.put_if_absent("a/b", b"first") is True
    assert storage.put_if_absent("a/b", b"second") is False
    assert storage.get("a/b") == b"first"
    assert storage.put_if_absent("a/empty", b"") is True and storage.get("a/empty") == b""


def test_a_deleted_object_is_gone_and_can_be_put_again(storage: FileStorage) -> None:
    assert storage.delete("a/b") is False
    storage.put_if_absent("a/b", b"first")
    assert storage.delete("a/b") is True and storage.get("a/b") is None
    assert storage.delete("a/b") is False and storage.delete("a/b/c") is False
    assert storage.put_if_absent("a/b", b"second") is True and storage.get("a/b") == b"second"


def test_compare_and_swap_replaces_what_was_expected_and_nothing_else(storage: FileStorage) -> None:
    assert storage.compare_and_swap("a/b", b"", b"new") is False and storage.get("a/b") is None
    assert list(storage.list("")) == [] and not storage.root.exists(), "it makes nothing"
    storage.put_if_absent("a/b", b"old")
    assert storage.compare_and_swap("a/b", b"other", b"new") is False and storage.get("a/b") == b"old"
    assert storage.compare_and_swap("a/b", b"old", b"new") is True and storage.get("a/b") == b"new"


def test_ensure_leaves_what_is_right_and_replaces_what_is_not(storage: FileStorage) -> None:
    storage.ensure("a", b"right")
    inode = (storage.root / "a").stat().st_ino
    storage.ensure("a", b"right")
    assert (storage.root / "a").stat().st_ino == inode, "it was not written again"
    (storage.root / "a").write_bytes(b"wrong")
    storage.ensure("a", b"right")
    assert storage.get("a") == b"right"


NAMES = st.text("ab-./0_", min_size=1, max_size=4).filter(lambda name: name.strip(".") != "" and "/" not in name)
KEYS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@settings(max_examples=60, deadline=None)
@given(keys=st.sets(KEYS, max_size=12), prefix=st.lists(NAMES, max_size=2))
def test_a_listing_has_every_object_below_its_prefix_once_and_sorted(keys: set[str], prefix: list[str]) -> None:
    there = [key for key in sorted(keys) if not any(other.startswith(f"{key}/") for other in keys)]
    below = "".join(f"{name}/" for name in prefix)
    with tempfile.TemporaryDirectory() as folder:
        storage = FileStorage(folder)
        for key in there:
            storage.put_if_absent(key, key.encode() * 2)
        assert list(storage.list(below)) == [(key, 2 * len(key)) for key in there if key.startswith(below)]


def test_a_listing_shows_neither_what_is_being_written_nor_a_lock(storage: FileStorage) -> None:
    storage.put_if_absent("a/b", b"old")
    storage.compare_and_swap("a/b", b"old", b"new")
    (storage.root / "a/.partial-0123").write_bytes(b"half")
    assert list(storage.list("")) == [("a/b", 3)]


def test_a_listing_that_cannot_be_complete_is_an_error(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root that looks smaller than it is would have its artefacts taken for garbage's neighbours, or the reverse."""
    storage.put_if_absent("a/b/c", b"")
    scandir = os.scandir

    def refused(path: Any) -> Any:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UnreachableError, match=r"cannot be used: Permission denied \(.*/a/b\)"):
        list(storage.list(""))


@pytest.mark.parametrize("key", ["", "/", "a//b", "a/", "../a", "a/../b", ".", "a\0b"])
def test_a_key_cannot_lead_out_of_the_root(key: str, storage: FileStorage) -> None:
    for verb in (storage.get, storage.delete, lambda key: storage.put_if_absent(key, b"")):  # pyright: ignore[reportUnknownLambdaType]
        with pytest.raises(AssertionError):
            verb(key)


@pytest.mark.parametrize("address", ["file:///{0}", "{0}"])
def test_an_address_opens_the_same_storage_anywhere(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(address.format(str(tmp_path).lstrip("/") if "//" in address else str(tmp_path)))
    storage.put_if_absent("a", b"1")
    monkeypatch.chdir("/")
    assert open_storage(storage.address).get("a") == b"1"


# ---------------------------------------------------------------- many at once


def test_of_many_threads_that_put_one_key_exactly_one_is_told_that_it_did(storage: FileStorage) -> None:
    barrier = threading.Barrier(16)

    def put(key: str, number: int) -> bool:
        barrier.wait()
        return storage.put_if_absent(key, bytes([number]) * 100_000)

    with ThreadPoolExecutor(16) as pool:
        for turn in range(20):
            won = list(pool.map(put, [f"a/{turn}"] * 16, range(16)))
            assert won.count(True) == 1
            assert storage.get(f"a/{turn}") == bytes([won.index(True)]) * 100_000


def _put(root: str, number: int, start: Any, won: Any) -> None:
    storage = FileStorage(root)
    for turn in range(20):
        start.wait()
        if storage.put_if_absent(f"folder-{turn}/a", f"{number}".encode()):
            won.put((turn, number))


def test_of_many_processes_that_put_one_key_exactly_one_is_told_that_it_did(storage: FileStorage) -> None:
    start, won = CONTEXT.Barrier(16), CONTEXT.Queue()
    processes = [CONTEXT.Process(target=_put, args=(str(storage.root), number, start, won)) for number in range(16)]
    for process in processes:
        process.start()
    winners = dict(won.get(timeout=60) for _ in range(20))
    for process in processes:
        process.join()
    assert won.empty() and sorted(winners) == list(range(20))
    assert {turn: int(storage.get(f"folder-{turn}/a") or b"-1") for turn in range(20)} == winners


def _add(root: str, start: Any) -> None:
    storage = FileStorage(root)
    start.wait()
    for _ in range(25):
        while not storage.compare_and_swap("count", found := storage.get("count") or b"", str(int(found) + 1).encode()):
            pass


def test_no_swap_is_lost_between_processes(storage: FileStorage) -> None:
    storage.put_if_absent("count", b"0")
    start = CONTEXT.Barrier(8)
    processes = [CONTEXT.Process(target=_add, args=(str(storage.root), start)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert storage.get("count") == b"200"


def test_a_reader_sees_a_whole_object_or_none(storage: FileStorage) -> None:
    """While it is put, swapped and deleted over and over."""
    whole = [bytes([number]) * 300_000 for number in range(4)]
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            storage.put_if_absent("a", whole[0])
            storage.compare_and_swap("a", whole[0], whole[1])
            storage.ensure("a", whole[2])
            storage.delete("a")

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write) for _ in range(2)]
        seen = [storage.get("a") for _ in range(500)]
        listed = [list(storage.list("")) for _ in range(100)]
        stop.set()
    assert [writer.result() for writer in writers] == [None, None]
    assert {found for found in seen if found is not None} <= set(whole)
    assert {size for listing in listed for _, size in listing} <= {300_000}
    assert list(storage.root.glob(".partial-*")) == []


def test_a_swap_waits_for_the_one_before_it(storage: FileStorage) -> None:
    storage.put_if_absent("a", b"0")
    storage.compare_and_swap("a", b"0", b"1")
    with ThreadPoolExecutor(1) as pool, (storage.root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        swap = pool.submit(storage.compare_and_swap, "a", b"2", b"3")
        (storage.root / "a").write_bytes(b"2")
        assert not swap.done()
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert swap.result(30) is True


# ---------------------------------------------------------------- durable


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every fsync, link and replace, in order, with the name of what it was about."""
    made: list[str] = []

    def noted(verb: str, name_of: Callable[..., str]) -> None:
        call = getattr(os, verb)

        def wrapper(*args: Any, **options: Any) -> Any:
            result = call(*args, **options)
            made.append(f"{verb} {name_of(*args)}")
            return result

        monkeypatch.setattr(os, verb, wrapper)

    noted("fsync", lambda descriptor: _plain(os.readlink(f"/proc/self/fd/{descriptor}")))
    noted("link", lambda _, target: _plain(target))
    noted("replace", lambda _, target: _plain(target))
    return made


def _plain(path: Any) -> str:
    name = Path(path).name
    return "the data" if name.startswith(".partial-") else name


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not tell what a descriptor is about")
def test_an_object_is_on_disk_before_its_name_and_its_name_before_the_answer(
    storage: FileStorage, calls: list[str]
) -> None:
    storage.root.mkdir()
    assert storage.put_if_absent("seals/embed/0", b"data")
    assert calls == ["fsync root", "fsync seals", "fsync the data", "link 0", "fsync embed"]
    calls.clear()
    assert storage.put_if_absent("seals/embed/1", b"data")
    assert calls == ["fsync the data", "link 1", "fsync embed"]
    calls.clear()
    assert storage.compare_and_swap("seals/embed/1", b"data", b"new")
    assert calls == ["fsync the data", "replace 1", "fsync embed"]


def test_a_seal_is_written_after_all_that_it_names(store: Store, calls: list[str]) -> None:
    seal = store.seal(KEY, TABLES.items())
    linked = [call.removeprefix("link ") for call in calls if call.startswith("link ")]
    assert linked == [*(f"{blob.sha256}.parquet" for blob in seal.tables.values()), "0123.json"]


def test_a_killed_writer_leaves_a_file_that_is_swept_up_a_day_later(storage: FileStorage) -> None:
    storage.put_if_absent("a/b", b"data")
    left = storage.root / "a/.partial-0123"
    left.write_bytes(b"half")
    assert list(storage.leftovers()) == [], "its writer may be alive"
    os.utime(left, (0, time.time() - 90_000))
    assert list(storage.leftovers()) == [("a/.partial-0123", 4)]
    assert storage.delete("a/.partial-0123") and not left.exists()


# ---------------------------------------------------------------- sealed


def test_an_artefact_is_read_as_it_was_sealed(store: Store) -> None:
    assert store.find(KEY) is None and not store.is_sound(KEY)
    seal = store.seal(KEY, TABLES.items())
    assert store.find(KEY) == seal and store.is_sound(KEY)
    for name, table in TABLES.items():
        assert store.read(KEY, name).equals(table) and store.table(seal, name).equals(table)
    assert store.read(KEY, "numbers", []).num_columns == 0
    assert seal.num_bytes == sum(blob.num_bytes for blob in seal.tables.values())
    assert list(store.seals()) == [KEY] == list(store.seals("part/")) and list(store.seals("other/")) == []


def test_the_first_seal_holds_and_both_get_it(store: Store) -> None:
    first = store.seal(KEY, [("numbers", pa.table({"n": [1]}))])
    second = store.seal(KEY, [("numbers", pa.table({"n": [2]}))])
    assert first == second and store.read(KEY, "numbers")["n"].to_pylist() == [1]


def test_equal_tables_share_their_bytes(store: Store) -> None:
    seals = [store.seal(f"part/{number}", TABLES.items()) for number in range(5)]
    assert all(seal.tables == seals[0].tables for seal in seals)
    assert len(list(store.storage.list("artifacts/blobs/"))) == len(TABLES)


def test_a_store_can_be_sent_to_a_worker(store: Store) -> None:
    import pickle

    store.seal(KEY, TABLES.items())
    assert pickle.loads(pickle.dumps(store)).read(KEY, "names").equals(TABLES["names"])  # noqa: S301 (our own bytes)


def test_a_discarded_artefact_is_sealed_again_and_its_blobs_are_put_right(store: Store) -> None:
    seal = store.seal(KEY, TABLES.items())
    other = store.seal("part/other", TABLES.items())
    for blob in seal.tables.values():
        _path(store, blob.key).write_bytes(b"damaged")
    store.discard(KEY)
    assert store.find(KEY) is None and not store.is_sound("part/other")
    assert store.seal(KEY, TABLES.items()) == seal
    assert store.is_sound(KEY) and store.is_sound(other.key), "for every artefact that shares them"


def _path(store: Store, key: str) -> Path:
    return Path(store.storage.address, key)


def _gone(path: Path) -> None:
    path.unlink()


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def _noise(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [_gone, _emptied, _cut, _longer, _flipped, _noise])
@pytest.mark.parametrize("name", TABLES)
def test_a_damaged_table_is_noticed_before_any_of_it_is_used(
    name: str, damage: Callable[[Path], None], store: Store
) -> None:
    seal = store.seal(KEY, TABLES.items())
    damage(_path(store, seal.tables[name].key))
    message = r"^part/0123 is damaged: its table '" + name + r"' (is gone|does not have the bytes that were sealed)\.$"
    for read in (lambda: store.read(KEY, name), lambda: store.table(seal, name, []), lambda: store.blob(seal, name)):
        with pytest.raises(DamagedError, match=message):
            read()
    assert not store.is_sound(KEY)


@pytest.mark.parametrize("damage", [_emptied, _cut, _longer, _flipped, _noise])
def test_a_damaged_seal_is_noticed(damage: Callable[[Path], None], store: Store) -> None:
    store.seal(KEY, TABLES.items())
    damage(_path(store, f"artifacts/seals/{KEY}.json"))
    for read in (lambda: store.find(KEY), lambda: store.read(KEY, "names"), lambda: store.seal(KEY, TABLES.items())):
        with pytest.raises(
            DamagedError, match=r"^part/0123 is damaged: its seal (cannot be read|does not match its own)"
        ):
            read()
    assert not store.is_sound(KEY)


def test_every_single_flipped_bit_and_every_cut_of_a_seal_is_noticed(store: Store) -> None:
    data = seal_to_bytes(store.seal(KEY, TABLES.items()))
    flipped = [
        data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :] for bit in range(8 * len(data))
    ]
    for damaged in (*flipped, *(data[:size] for size in range(len(data)))):
        with pytest.raises(DamagedError):
            seal_from_bytes(KEY, damaged)


def test_a_seal_in_the_place_of_another_is_noticed(store: Store) -> None:
    store.seal(KEY, TABLES.items())
    store.seal("part/other", [("numbers", pa.table({"n": [9]}))])
    shutil.copy(_path(store, "artifacts/seals/part/other.json"), _path(store, f"artifacts/seals/{KEY}.json"))
    with pytest.raises(DamagedError, match=r"^part/0123 is damaged"):
        store.find(KEY)


def test_an_artefact_that_is_not_there_cannot_be_read(store: Store) -> None:
    with pytest.raises(DamagedError, match=r"^part/0123 is damaged: it is gone\.$"):
        store.read(KEY, "numbers")


def test_pages_carry_checksums_so_that_a_copy_elsewhere_can_be_checked_too() -> None:
    table = pa.table({"n": pa.array(range(10_000)), "name": [f"name {n % 7}" for n in range(10_000)]})
    data = to_parquet(table)
    assert to_parquet(table) == data, "equal tables have equal bytes"
    draw, silent = random.Random(7), 0
    for _ in range(200):
        damaged = bytearray(data)
        damaged[draw.randrange(4, len(data) // 2)] ^= 1 << draw.randrange(8)
        with contextlib.suppress(DamagedError):
            silent += not from_parquet(bytes(damaged), 10_000, KEY).equals(table)
    assert silent == 0
    with pytest.raises(DamagedError, match="it has 10000 rows and 9 were sealed"):
        from_parquet(data, 9, KEY)


# ---------------------------------------------------------------- no room, no right


def test_a_place_that_cannot_hold_a_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    storage = FileStorage(str(tmp_path / "file"))
    assert storage.get("a") is None and list(storage.list("")) == [] and storage.delete("a") is False
    with pytest.raises(UnreachableError, match=r"file cannot be used: .* \(.*file\)\.$"):
        storage.put_if_absent("a", b"")


@dataclass(frozen=True, kw_only=True)
class Filling(LocalExecutor):
    """Another program fills the disk, but for so many bytes, when a step begins."""

    step: str
    room: int
    filler: Path

    def run(self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int | None = None) -> Iterator[Receipt]:
        if step.name == self.step:
            with self.filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.filler.parent).free - self.room)
        yield from super().run(step, tasks, store, num_rows)


# Where the disk becomes full, and how many kilobytes are left then.
FULL = [
    *[("survey", 0), ("ingest", 0), ("ingest", 16), ("embed", 8), ("cluster", 4), ("rate/readability", 20)],
    *[("rate/prototypicality", room) for room in range(0, 120, 12)],
]


def _on_a_small_disk(folder: str, policy: dict[str, Any], told: str) -> None:
    runs.use_one_thread()
    answer: dict[str, Any] = {"errors": [], "digests": [], "wrong": []}
    try:
        _mount(folder, "size=4m")
        root, filler = Path(folder, "root"), Path(folder, "filler")
        for step, room in FULL:
            shutil.rmtree(root, ignore_errors=True)
            try:
                run(policy, root, Filling(step=step, room=room * 1024, filler=filler))
            except UnreachableError as error:
                answer["errors"].append(str(error))
            runs.assert_no_manifest_or_a_sound_one(root)
            assert_sound(root)
            sealed = set(Store.open(str(root)).seals())
            answer["wrong"] += [str(path) for path in root.rglob(".partial-*")]
            filler.unlink()
            notes = Path(f"{told}.notes")
            notes.write_text("")
            answer["digests"].append(run(policy, root, Noting(notes=notes)).manifest.digest)
            answer["wrong"] += sealed & set(notes.read_text().split())
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - 40_000)
        answer["digests"].append(run(policy, root).manifest.digest)  # what is finished needs no room to speak of
        _mount(folder, "", _REMOUNT | _READ_ONLY)
        answer["read"] = runs.Manifest.open(str(root)).verify().ok
        try:
            run(policy, root)
        except UsageError as error:
            answer["read_only"] = str(error)
    except _NotPermitted as error:
        answer["skip"] = str(error)
    Path(told).write_text(json.dumps(answer), "utf-8")


class _NotPermitted(Exception):
    pass


_NEW_MOUNTS, _NEW_USER = 0x20000, 0x10000000
_READ_ONLY, _REMOUNT, _PRIVATE = 1, 32, 0x44000
_entered = False


def _mount(folder: str, options: str, flags: int = 0) -> None:
    """Mounts a disk in memory that only this process sees. Raises _NotPermitted where the system has no such thing."""
    global _entered
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if not _entered:
            uid, gid = os.getuid(), os.getgid()
            if libc.unshare(_NEW_MOUNTS) != 0:
                if libc.unshare(_NEW_MOUNTS | _NEW_USER) != 0:
                    raise OSError(ctypes.get_errno(), "unshare")
                Path("/proc/self/setgroups").write_text("deny")
                Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
                Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
            if libc.mount(b"none", b"/", None, _PRIVATE, None) != 0:
                raise OSError(ctypes.get_errno(), "mount --make-rprivate /")
            _entered = True
        if libc.mount(b"tmpfs", folder.encode(), b"tmpfs", flags, options.encode()) != 0:
            raise OSError(ctypes.get_errno(), f"mount -o {options} {folder}")
    except (OSError, AttributeError) as error:
        raise _NotPermitted(f"no disk of our own can be mounted here: {error}") from error


def test_a_full_disk_ends_a_run_with_its_reason_and_costs_nothing_once_there_is_room(
    tiny_model: Path, tmp_path: Path
) -> None:
    """And a root that cannot be written to is refused before any work; what is in it can be read."""
    policy = policy_of(write_corpus(tmp_path / "corpus"), tiny_model)
    disk, told = tmp_path / "disk", tmp_path / "told"
    disk.mkdir()
    process = CONTEXT.Process(target=_on_a_small_disk, args=(str(disk), policy, str(told)))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    answer = json.loads(told.read_text("utf-8"))
    if "skip" in answer:
        pytest.skip(answer["skip"])
    full = f"The disk of {disk}/root is full. Free some space and run the same command again: finished parts are kept."
    assert len(answer["errors"]) > len(FULL) / 2 and set(answer["errors"]) == {full}
    assert answer["wrong"] == [], "nothing half-written is left, and nothing that was sealed is computed again"
    assert set(answer["digests"]) == {run(policy, tmp_path / "root").manifest.digest}
    assert answer["read"] is True
    assert re.match(r"--root: .*/disk/root cannot be used: Read-only file system", answer["read_only"])
