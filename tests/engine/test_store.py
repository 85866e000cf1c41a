"""The five verbs and what stands on them: whole or absent, written once, sealed, and checked before use."""

import contextlib
import ctypes
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import runs
from conftest import use_one_thread
from runs import CONTEXT, Noting, assert_sound, policy_of, run, write_corpus
from selector.engine.local import LocalExecutor
from selector.engine.part import Receipt, Task
from selector.engine.step import Map
from selector.engine.store import WITHIN_BYTES, Form, Seal, Store, from_parquet, seal_from_bytes, to_parquet
from selector.errors import DamagedError, FullError, UsageError

pytestmark = pytest.mark.slow

KEY = "part/0123"
TABLES = {
    "numbers": pa.table({"n": [1, 2, 3]}),
    "names": pa.table({"name": ["a", "b"]}),
    "none": pa.table({"n": pa.array([], pa.int8())}),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "root"))


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small artefacts are as large ones: nothing lies within a seal."""
    monkeypatch.setattr("selector.engine.store.WITHIN_BYTES", -1)


# ---------------------------------------------------------------- sealed


@pytest.mark.usefixtures("apart")
def test_a_seal_is_written_after_all_that_it_names(store: Store, calls: list[str]) -> None:
    seal = store.seal(KEY, TABLES.items())
    linked = [call.removeprefix("link ") for call in calls if call.startswith("link ")]
    assert linked == [*{Path(blob.key).name for blob in seal.tables.values()}, "0123.json"]


def test_a_small_artefact_is_one_object_and_a_larger_one_is_two(store: Store) -> None:
    draw = random.Random(1)
    sizes: list[int] = []
    for num_rows in (1, 2, 100, 500, 2000):
        key = f"part/{num_rows}"
        seal = store.seal(
            key, [("rows", pa.table({"id": [draw.randbytes(16) for _ in range(num_rows)]})), *TABLES.items()]
        )
        own = {f"artifacts/seals/{key}.json", *(blob.key for blob in seal.tables.values())}
        assert len(own) == (1 if seal.num_bytes <= WITHIN_BYTES else 2), num_rows
        assert store.find(key) == seal == store.find_many([key])[key] and store.is_sound(key)
        for name, table in TABLES.items():
            assert all(store.table(one, name).equals(table) for one in (seal, store.sealed(key)))
        sizes.append(seal.num_bytes)
    assert sizes[0] < WITHIN_BYTES < sizes[-1]


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("form", [None, "parquet", "arrow"])
def test_an_artefact_is_two_objects_unless_its_tables_are_read_many_times(form: Form | None, store: Store) -> None:
    seal = store.seal(KEY, TABLES.items(), form)
    keys = {blob.key for blob in seal.tables.values()}
    assert len(keys) == (len(TABLES) if form == "arrow" else 1) and seal == store.find(KEY)
    assert {key for key, _ in store.storage.list("")} == {*keys, f"artifacts/seals/{KEY}.json"}
    whole = b"".join(store.blob(seal, name) for name in TABLES)
    assert form == "arrow" or (keys == {f"artifacts/blobs/{_sha256(whole)[:2]}/{_sha256(whole)}.tables"})
    alone = store.seal("part/alone", [("numbers", TABLES["numbers"])], form)
    assert Path(alone.tables["numbers"].key).name == f"{_sha256(store.blob(alone, 'numbers'))}.{form or 'tables'}"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.int8(), [1, None]),
        (pa.timestamp("s"), [0, None]),
        (pa.timestamp("ms", "Europe/Paris"), [0, 1]),
        (pa.time32("s"), [None, 1]),
        (pa.date64(), [0, None]),
        (pa.dictionary(pa.int32(), pa.string()), ["a", None, "a"]),
        (pa.large_string(), ["\U0001f600", ""]),
        (pa.binary(16), [b"a" * 16, None]),
        (pa.list_(pa.float16(), 2), [[1.0, 2.0], None]),
        (pa.list_(pa.binary(16)), [[b"a" * 16], []]),
        (pa.decimal128(18, 3), [None, None]),
        (pa.null(), [None, None]),
    ],
    ids=str,
)
def test_nobody_can_tell_by_a_table_whether_it_was_small(
    kind: pa.DataType, values: list[Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = [pa.field("value", kind, metadata={"higher_is": "harder"}), pa.field("n", pa.int64(), nullable=False)]
    table = pa.table([pa.array(values, kind), range(len(values))], schema=pa.schema(fields))
    wanted = {"some": table, "none": table.slice(0, 0), "later": table.slice(1)}
    small = store.seal(KEY, wanted.items())
    monkeypatch.setattr("selector.engine.store.SMALL_BYTES", -1)
    large = store.seal("part/large", wanted.items())
    assert {large.tables[name].form for name in ("some", "later")} == {"parquet"}
    for name in wanted:
        one, other = store.table(small, name), store.table(large, name)
        assert one.schema.equals(other.schema) and one.field("value").metadata == other.field("value").metadata
        assert one.equals(other) and one.to_pylist() == wanted[name].to_pylist()
        assert store.table(small, name, ["n"]).equals(store.table(large, name, ["n"]))
    other = table.slice(0, 0).cast(pa.schema([fields[0].with_metadata({"higher_is": "better"}), fields[1]]))
    assert store.table(store.seal("part/other", [("none", other)]), "none").field("value").metadata == {
        b"higher_is": b"better"
    }
    forms = {blob.form for blob in small.tables.values()}
    assert forms == {"parquet" if kind in (pa.timestamp("s"), pa.time32("s"), pa.date64()) else "arrow"}


@pytest.mark.parametrize(("within", "later"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_table_that_is_stored_already_is_given_as_the_blob_that_it_is(
    within: bool, later: bool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selector.engine.store.WITHIN_BYTES", WITHIN_BYTES if within else -1)
    earlier = store.seal("part/earlier", TABLES.items()).tables["names"]
    monkeypatch.setattr("selector.engine.store.WITHIN_BYTES", WITHIN_BYTES if later else -1)
    seal = store.seal(KEY, [("names", earlier), ("numbers", pa.table({"n": [4]}))])
    names = seal.tables["names"]
    assert names.sha256 == earlier.sha256 and (within or names == earlier) and store.find(KEY) == seal
    assert store.read(KEY, "names").equals(TABLES["names"]) and store.read(KEY, "numbers")["n"].to_pylist() == [4]
    store.discard("part/earlier")
    assert store.is_sound(KEY), "what is discarded leaves its blobs, and what lay within its seal was copied"


def test_a_table_within_a_damaged_artefact_is_not_copied(store: Store) -> None:
    earlier = store.seal("part/earlier", TABLES.items()).tables["names"]
    _flipped(_path(store, earlier.key), slice(earlier.start, earlier.start + earlier.num_bytes))
    with pytest.raises(DamagedError, match=r"^part/earlier is damaged: its table 'names' does not have the bytes"):
        store.seal(KEY, [("names", earlier)])
    assert store.find(KEY) is None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


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


@pytest.mark.usefixtures("apart")
def test_equal_tables_share_their_bytes(store: Store) -> None:
    seals = [store.seal(f"part/{number}", TABLES.items()) for number in range(5)]
    assert all(seal.tables == seals[0].tables for seal in seals)
    assert len(list(store.storage.list("artifacts/blobs/"))) == 1


def test_a_store_can_be_sent_to_a_worker(store: Store) -> None:
    import pickle

    store.seal(KEY, TABLES.items())
    assert pickle.loads(pickle.dumps(store)).read(KEY, "names").equals(TABLES["names"])  # noqa: S301 (our own bytes)


@pytest.mark.usefixtures("apart")
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


Bytes = slice
"""Which bytes of a file are damaged."""


def _gone(path: Path, _: Bytes) -> None:
    path.unlink()


def _emptied(path: Path, _: Bytes) -> None:
    path.write_bytes(b"")


def _cut(path: Path, which: Bytes) -> None:
    os.truncate(path, which.stop - 1)


def _longer(path: Path, which: Bytes) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: which.start] + b"\0" + data[which.start :])


def _flipped(path: Path, which: Bytes) -> None:
    data = bytearray(path.read_bytes())
    data[(which.start + which.stop) // 2] ^= 16
    path.write_bytes(data)


def _noise(path: Path, _: Bytes) -> None:
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("damage", [_gone, _emptied, _cut, _longer, _flipped, _noise])
@pytest.mark.parametrize("form", [None, "parquet", "arrow"])
@pytest.mark.parametrize("name", TABLES)
def test_a_damaged_table_is_noticed_before_any_of_it_is_used(
    name: str, form: Form | None, damage: Callable[[Path, Bytes], None], store: Store
) -> None:
    blob = store.seal(KEY, TABLES.items(), form).tables[name]
    damage(_path(store, blob.key), slice(blob.start, blob.start + blob.num_bytes))
    store = Store.open(store.storage.address)  # which has nothing at hand
    seal = store.sealed(KEY)
    message = r"^part/0123 is damaged: its table '" + name + r"' (is gone|does not have the bytes that were sealed)\.$"
    for read in (lambda: store.read(KEY, name), lambda: store.table(seal, name, []), lambda: store.blob(seal, name)):
        with pytest.raises(DamagedError, match=message):
            read()
    assert not store.is_sound(KEY)


@pytest.mark.parametrize("damage", [_emptied, _cut, _longer, _flipped, _noise])
def test_a_damaged_seal_is_noticed(damage: Callable[[Path, Bytes], None], store: Store) -> None:
    store.seal(KEY, TABLES.items())
    path = _path(store, f"artifacts/seals/{KEY}.json")
    damage(path, slice(0, path.stat().st_size))
    for read in (lambda: store.find(KEY), lambda: store.read(KEY, "names"), lambda: store.seal(KEY, TABLES.items())):
        with pytest.raises(
            DamagedError, match=r"^part/0123 is damaged: its seal (cannot be read|does not match its own)"
        ):
            read()
    assert not store.is_sound(KEY)


def test_the_last_arrow_tables_stay_at_hand_once_they_were_found_sound_and_no_more_than_there_is_room_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seals = [store.seal(f"part/{i}", [("numbers", pa.table({"n": [i] * 100}))], form="arrow") for i in range(3)]
    monkeypatch.setattr("selector.engine.store.RECENT_BYTES", 2 * seals[0].num_bytes)
    written, store = store, Store.open(store.storage.address)
    blob, asked = Store.blob, list[str]()

    def noted(store: Store, seal: Seal, name: str) -> bytes:
        asked.append(seal.key)
        return blob(store, seal, name)

    monkeypatch.setattr(Store, "blob", noted)
    for i in (0, 1, 0, 2, 0, 1):  # the room is for two
        assert store.table(seals[i], "numbers")["n"].to_pylist() == [i] * 100
    assert asked == ["part/0", "part/1", "part/2", "part/1"]
    assert written.table(seals[0], "numbers")["n"].to_pylist() == [0] * 100 and len(asked) == 4, "it wrote that itself"
    _path(store, seals[1].tables["numbers"].key).write_bytes(b"damage")
    assert not store.is_sound("part/1"), "whoever asks whether it is sound looks at what is stored"
    with pytest.raises(DamagedError):
        Store.open(store.storage.address).table(seals[1], "numbers")


@pytest.mark.parametrize("name", TABLES)
def test_a_damaged_table_within_a_seal_is_noticed_whoever_reads_it(name: str, store: Store) -> None:
    seal = store.seal(KEY, TABLES.items())
    blob, path = seal.tables[name], _path(store, f"artifacts/seals/{KEY}.json")
    sound = path.read_bytes()
    for at in range(blob.start, blob.start + blob.num_bytes):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1 :])
        with pytest.raises(DamagedError, match=f"^{KEY} is damaged: its table '{name}' does not have the bytes"):
            store.blob(seal, name)
        assert not store.is_sound(KEY)
    store.discard(KEY)
    assert store.seal(KEY, TABLES.items()) == seal and path.read_bytes() == sound


@pytest.mark.parametrize("is_within", [True, False])
def test_every_single_flipped_bit_and_every_cut_of_a_seal_is_noticed(
    is_within: bool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selector.engine.store.WITHIN_BYTES", WITHIN_BYTES if is_within else -1)
    seal = store.seal(KEY, TABLES.items())
    data = _path(store, f"artifacts/seals/{KEY}.json").read_bytes()
    assert seal_from_bytes(KEY, data) == seal
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
    use_one_thread()
    answer: dict[str, Any] = {"errors": [], "digests": [], "wrong": []}
    try:
        _mount(folder, "size=4m")
        root, filler = Path(folder, "root"), Path(folder, "filler")
        for step, room in FULL:
            shutil.rmtree(root, ignore_errors=True)
            try:
                run(policy, root, Filling(step=step, room=room * 1024, filler=filler))
            except FullError as error:
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
        answer["digests"].append(run(policy, root).manifest.digest)  # a finished run is found there
        try:
            run(policy | {"seed": 12345}, root)
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
    """And a root that cannot be written to is refused before any work; a run that is finished is found there."""
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
