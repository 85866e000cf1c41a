"""The five verbs of a storage on a file system: whole or absent, written once, on disk before it is said."""

import fcntl
import hashlib
import os
import re
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import MemoryStorage, tries
from runs import CONTEXT
from selector.errors import UnreachableError, UsageError
from selector.storage import check_spelling, is_address, local_path, open_storage, plain_path
from selector.storage.file import FileStorage


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(str(tmp_path / "root"))


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


def test_pieces_are_put_whole_once_and_replace_only_what_is_wrong(storage: FileStorage) -> None:
    def pieces() -> Iterator[bytes]:
        yield from (b"one ", b"", b"two")

    assert storage.put_pieces_if_absent("a/b", pieces()) is True and storage.get("a/b") == b"one two"
    assert storage.put_pieces_if_absent("a/b", [b"three"]) is False and storage.get("a/b") == b"one two"
    assert storage.ensure_pieces("a/b", pieces) == hashlib.sha256(b"one two").hexdigest()
    for wrong in (b"one tw", b"one two and three", b"", b"two"):
        (storage.root / "a/b").write_bytes(wrong)
        assert storage.ensure_pieces("a/b", pieces) == hashlib.sha256(b"one two").hexdigest()
        assert storage.get("a/b") == b"one two"
    assert storage.ensure_pieces("c", list) == hashlib.sha256().hexdigest() and storage.get("c") == b""


def test_a_copy_takes_no_room_and_outlives_what_it_was_made_of(storage: FileStorage) -> None:
    storage.put_if_absent("a/source", b"data")
    for _ in range(2):
        storage.ensure_copy("b/c/copy", b"data", "a/source")
    source, copy = storage.root / "a/source", storage.root / "b/c/copy"
    assert copy.samefile(source) and storage.get("b/c/copy") == b"data"
    source.write_bytes(b"harm")  # where it lies, so that the copy is harmed too
    storage.ensure_copy("b/c/copy", b"data", "a/source")
    assert storage.get("b/c/copy") == b"data" and storage.get("a/source") == b"harm"
    assert storage.delete("a/source") and storage.get("b/c/copy") == b"data"
    storage.ensure_copy("d", b"data", "gone")
    assert storage.get("d") == b"data", "what cannot be linked is written"


def test_symbolic_links_are_followed_and_one_that_leads_nowhere_is_named(storage: FileStorage) -> None:
    storage.put_if_absent("elsewhere", b"data")
    (storage.root / "a").symlink_to("elsewhere")
    storage.ensure_copy("b/c/copy", b"data", "a")
    assert not (storage.root / "b/c/copy").is_symlink() and storage.get("b/c/copy") == b"data"
    (storage.root / "elsewhere").unlink()
    for put in (storage.ensure, storage.put_if_absent):
        with pytest.raises(UnreachableError, match=r"/a is a symbolic link that leads nowhere\. Remove it"):
            put("a", b"data")


def test_pieces_that_come_to_a_stop_leave_nothing(storage: FileStorage) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        assert storage.get("a") is None and list(storage.list("")) == [], "half of it is not there"
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        storage.put_pieces_if_absent("a", pieces())
    assert storage.get("a") is None and list(storage.root.iterdir()) == []


@pytest.mark.parametrize("kind", [FileStorage, MemoryStorage])
def test_an_object_is_opened_to_read_parts_of_it(kind: type[Any], tmp_path: Path) -> None:
    storage = kind(str(tmp_path)) if kind is FileStorage else kind()
    assert storage.open("a") is None
    assert storage.ensure_pieces("a", lambda: [b"0123", b"4567"]) == hashlib.sha256(b"01234567").hexdigest()
    file = storage.open("a")
    assert file is not None
    with file:
        assert (file.seek(3), file.read(2)) == (3, b"34")


NAMES = st.text("ab-./0_", min_size=1, max_size=4).filter(lambda name: name.strip(".") != "" and "/" not in name)
KEYS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@tries(60)
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


ODD_PLACES: dict[str, str | None] = {
    "runs": "runs", "/data/x": "/data/x", "file:///data/x": "/data/x", "file:////data/x": "//data/x", "~/x": "~/x",
    "/data/s3:/x": "/data/s3:/x", "a:b": "a:b", "2026-11-26T10:00": "2026-11-26T10:00", "./C:/x": "./C:/x", "": "",
    "s3://bucket/x": None, "S3://bucket/x": None, "file://host/x": None, "FILE:///x": None, "://x": None,
    "/data/a://b": None, "file://": None, "file:///s3://bucket/x": None, " s3://bucket/x": None,
    "hf://datasets/a/b@main": None,
}  # fmt: skip


def test_a_path_of_this_machine_and_an_address_are_told_apart_in_one_way() -> None:
    assert {place: local_path(place) for place in ODD_PLACES} == ODD_PLACES
    for place, path in ODD_PLACES.items():
        assert is_address(place) == (path is None)
        if path is not None:
            check_spelling(path)


@pytest.mark.parametrize(
    ("place", "cure"),
    [
        ("s3:/bucket/x", "Write s3://bucket/x, or ./s3:/bucket/x"), ("s3:bucket/x", "Write s3://bucket/x"),
        ("hf:datasets/a/b", "Write hf://datasets/a/b"), ("S3:/bucket", "Write s3://bucket"),
        ("file:/data/x", "Write file:///data/x"), ("file://", "is empty"),
        ("C:\\runs", "as it is here, e.g. /mnt/c/"), ("d:/runs", "drive of Windows"), ("file://host/x", "names a host"),
        ("S3://bucket/x", "no storage called 'S3'. Write s3://, in"), ("FILE:///x", "Write file://, in lower case"),
        ("file:x", "Write x, or ./file:x"), ("file:~/x", "Write ~/x, or"), ("FILE:/x", "Write file:///x, or"),
        ("file://host/a#b", "names a host"),
        ("://x", "no storage called ''"), ("/data/a://b", "no storage called '/data/a'"),
        ("file:///s3://bucket/x", "names a host"),
    ],
)  # fmt: skip
def test_what_is_nearly_an_address_is_refused_and_no_folder_is_made(
    place: str, cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=re.escape(cure)):
        open_storage(place).put_if_absent("a", b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", [*filter(None, ODD_PLACES.values()), "./~/x", "./s3:/b", "./file:x", "./C:\\x", "./a/./b/"]
)
def test_the_shortest_spelling_of_a_path_means_the_same_path(path: str) -> None:
    short = plain_path(path)
    assert plain_path(short) == short and len(short) <= len(path)
    assert os.path.abspath(os.path.expanduser(short)) == os.path.abspath(os.path.expanduser(path))
    assert open_storage(short).address == open_storage(path).address
    check_spelling(plain_path(path))


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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_killed_writer_leaves_a_file_that_is_swept_up_a_day_later(storage: FileStorage) -> None:
    storage.put_if_absent("a/b", b"data")
    left = storage.root / "a/.partial-0123"
    left.write_bytes(b"half")
    assert list(storage.leftovers(3600.0)) == [], "its writer may be alive"
    os.utime(left, (0, time.time() - 90_000))
    assert list(storage.leftovers(3600.0)) == [("a/.partial-0123", 4)]
    assert storage.delete("a/.partial-0123") and not left.exists()


def test_a_place_that_cannot_hold_a_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    storage = FileStorage(str(tmp_path / "file"))
    assert storage.get("a") is None and list(storage.list("")) == [] and storage.delete("a") is False
    with pytest.raises(UnreachableError, match=r"file cannot be used: .* \(.*file\)\.$"):
        storage.put_if_absent("a", b"")


def test_a_file_larger_than_the_process_may_write_is_said_with_its_path_and_the_cure(storage: FileStorage) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        with pytest.raises(
            UnreachableError, match=r"File too large \(.*root/a/b\)\. Raise .* \(`ulimit -f unlimited`\)"
        ):
            storage.put_if_absent("a/b", bytes(5_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(storage.list("")) == [] and list(storage.leftovers(-1.0)) == []
    assert storage.put_if_absent("a/b", bytes(5_000))


def test_a_folder_goes_with_its_last_object_and_comes_again_with_the_next(storage: FileStorage) -> None:
    for key in ("run/plan.json", "run/manifest/parts/0", "run/manifest/parts/1"):
        assert storage.put_if_absent(key, b"data")
    assert storage.compare_and_swap("run/manifest/parts/0", b"data", b"new"), "which leaves a lock there"
    for number in (0, 1):
        assert storage.delete(f"run/manifest/parts/{number}")
    assert [path.name for path in storage.root.rglob("*")] == ["run", "plan.json"]
    assert storage.delete("run/plan.json") and list(storage.root.iterdir()) == []
    assert storage.compare_and_swap("run/plan.json", b"data", b"new") is False
    assert storage.put_if_absent("run/plan.json", b"data")


def test_a_folder_that_others_remove_is_made_until_an_object_is_in_it(storage: FileStorage) -> None:
    def put(number: int) -> int:
        return sum(
            storage.put_if_absent(f"folder/{number}", b"data") and storage.delete(f"folder/{number}")
            for _ in range(200)
        )

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(put, range(4))) == [200] * 4
