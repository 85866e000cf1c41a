"""What gc may take: nothing that a finished manifest was made from, and everything else."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runs import Child, assert_killed, assert_sound, killed_at, policy_of, run, uncached, write_corpus
from selector.engine import gc, journal, lease
from selector.engine.canonical import canonical_json, fingerprint
from selector.engine.journal import Journal
from selector.engine.lease import Lease
from selector.engine.local import LocalExecutor
from selector.engine.part import Receipt, Task
from selector.engine.runner import NoProgress
from selector.engine.step import Map
from selector.engine.store import Store
from selector.errors import UsageError
from selector.manifest import Manifest
from selector.storage import Storage, open_storage
from selector.storage.file import FileStorage

pytestmark = pytest.mark.slow

Make = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def make(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"))
    return lambda **sections: policy_of(corpus, tiny_model, **sections)


@pytest.fixture(scope="module")
def finished(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one finished run."""
    root = tmp_path_factory.mktemp("finished") / "root"
    run(make(), root)
    assert not [key for key in contents(root) if key.startswith("artifacts/passing/")], "it goes with its step"
    sweep(root)
    return root


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "root"))


def contents(root: Path) -> dict[str, int]:
    return dict(Store.open(str(root)).storage.list(""))


LATER = 2 * lease.SECONDS


def collect(root: Path, later: float = LATER) -> gc.Garbage:
    """Removes the garbage, and says what it was, by a clock that is ahead: leases of runs that were killed ran out."""
    store = Store.open(str(root))

    def now() -> float:
        return time.time() + later

    garbage = gc.find(store, now)
    assert gc.remove(store, garbage, now) == len(garbage.keys)
    assert gc.find(store, now).keys == ()
    return garbage


PASSING = ("shards", "shards.columns", "chosen.columns", "manifest.sources")
"""Families of what steps hand to each other on the way, and what the next selection is quicker with."""


def sweep(root: Path) -> None:
    """Removes what steps handed to each other on the way, which is all that there is to remove beside old leases."""
    keys = collect(root).keys
    assert {key.split("/")[2] for key in keys if key.startswith("artifacts/seals/")} <= {*PASSING}
    assert all(key.startswith(("artifacts/", journal.FOLDER, lease.FOLDER)) for key in keys)


def folder_of(root: Path) -> Path:
    (plan,) = root.glob("*/plan.json")
    return plan.parent


def test_a_finished_run_leaves_nothing_but_what_went_from_step_to_step(root: Path) -> None:
    """See `finished`."""
    garbage = gc.find(Store.open(str(root)))
    assert garbage == gc.Garbage(keys=(), num_bytes=0, unfinished=())
    assert gc.find(Store.open(str(root.parent / "nothing"))) == garbage


def test_what_two_runs_share_stays_until_both_are_gone(root: Path, make: Make) -> None:
    alone = contents(root)
    first = folder_of(root)
    second = run(make(order={"using": "shuffled"}), root)
    sweep(root)
    both = contents(root)
    shutil.rmtree(second.uri)
    garbage = collect(root)
    assert set(garbage.keys) == {
        key for key in both if key not in alone and key.startswith(("artifacts/", journal.FOLDER))
    }
    assert garbage.num_bytes == sum(both[key] for key in garbage.keys) > 0
    assert contents(root) == alone and uncached(run(make(), root)) == []
    shutil.rmtree(first)
    collect(root)
    assert contents(root) == {}


def test_nothing_that_a_finished_manifest_needs_is_taken(root: Path, make: Make) -> None:
    """Among unfinished, changed and abandoned runs."""
    for section in ({"cluster": {"num_clusters": 3}}, {"embed": {**make()["embed"], "max_tokens": 16}}):
        shutil.rmtree(Path(run(make(**section), root).uri) / "manifest")
    before = contents(root)
    garbage = collect(root)
    assert len(garbage.unfinished) == 2
    assert {f"{key.split('/')[0]}/" for key in garbage.keys} == {
        "artifacts/", journal.FOLDER, *(f"{run}/" for run in garbage.unfinished)
    }  # fmt: skip
    again = run(make(), root)
    assert uncached(again) == [] and again.manifest.verify().ok
    assert_sound(root)
    assert sum(before.values()) - garbage.num_bytes == sum(contents(root).values()) - _log(root, before)
    once_more = run(make(cluster={"num_clusters": 3}), root)
    assert "cluster" in uncached(once_more) and "embed" not in uncached(once_more) and once_more.manifest.verify().ok


def _log(root: Path, before: dict[str, int]) -> int:
    """The size of what was logged since."""
    return sum(size for key, size in contents(root).items() if key not in before)


def test_an_unfinished_run_is_garbage_with_all_that_it_made_and_starts_over(root: Path, make: Make) -> None:
    digest = Manifest.open(str(root)).digest
    shutil.rmtree(folder_of(root) / "manifest")
    everything = contents(root)
    garbage = collect(root)
    assert garbage.unfinished == (folder_of_name(everything),) and set(garbage.keys) == set(everything)
    assert contents(root) == {}
    again = run(make(), root)
    assert uncached(again) == [step.name for step in again.steps] and again.manifest.digest == digest


def folder_of_name(keys: dict[str, int]) -> str:
    (name,) = {key.split("/")[0] for key in keys if key.endswith("/plan.json")}
    return name


def test_what_dead_processes_left_behind_is_garbage(root: Path) -> None:
    old = root / "artifacts/blobs/.partial-0123"
    old.write_bytes(b"half")
    os.utime(old, (0, time.time() - 90_000))
    young = root / "artifacts/blobs/.partial-4567"
    young.write_bytes(b"half of one that is being written")
    (root / "probe").mkdir(exist_ok=True)
    (root / "probe/0123").write_bytes(b"probe")
    (root / "attempts/embed/0123").mkdir(parents=True)
    (root / "attempts/embed/0123/1.json").write_bytes(b"{}")
    garbage = collect(root)
    assert set(garbage.keys) == {"artifacts/blobs/.partial-0123", "probe/0123", "attempts/embed/0123/1.json"}
    assert garbage.num_bytes == 4 + 5 + 2
    assert young.exists() and not old.exists()


def test_what_others_keep_in_the_root_is_not_touched(root: Path) -> None:
    (root / "notes").mkdir()
    (root / "notes/plan.txt").write_text("mine")
    (root / "README").write_text("mine")
    assert gc.find(Store.open(str(root))).keys == ()


@pytest.mark.parametrize("damage", [None, b"", b"[]", b"{}", b'{"artifacts":["embed/0"],"check":"0"}', "flip"])
def test_a_list_of_artefacts_that_is_not_sound_stops_gc_and_is_made_again_by_the_next_run(
    damage: bytes | str | None, root: Path, make: Make
) -> None:
    listed = folder_of(root) / "artifacts.json"
    sound = listed.read_bytes()
    if damage is None:
        listed.unlink()
    else:
        listed.write_bytes(damage if isinstance(damage, bytes) else sound.replace(b"a", b"b", 1))
    with pytest.raises(
        UsageError, match=r"^The run \w+ has a manifest and no sound artifacts.json.* Run its policy once"
    ):
        gc.find(Store.open(str(root)))
    run(make(), root)
    assert listed.read_bytes() == sound
    sweep(root)


def test_a_manifest_whose_plan_is_lost_still_keeps_what_it_needs(root: Path) -> None:
    (folder_of(root) / "plan.json").unlink()
    assert gc.find(Store.open(str(root))).keys == ()


def test_a_run_killed_between_its_manifest_and_its_list_of_artefacts_is_finished_before_gc_takes_anything(
    make: Make, tmp_path: Path
) -> None:
    root, marker = tmp_path / "root", tmp_path / "marker"
    child = Child(make(), root, tmp_path / "told", killed_at("commit.after_manifest", 1, marker))
    assert_killed(child, marker)
    committed = contents(root)
    assert set(gc.find(Store.open(str(root))).keys) == set(), "its lease still holds"
    with pytest.raises(UsageError, match="no sound artifacts"):
        gc.find(Store.open(str(root)), lambda: time.time() + LATER)
    again = run(make(), root)
    assert uncached(again) == ["manifest"] and again.manifest.verify().ok, "it is found, and its step sealed"
    passing = (lease.FOLDER, "artifacts/passing/")
    assert {key for key in committed if not key.startswith(passing)} < contents(root).keys()
    sweep(root)
    assert uncached(run(make(), root)) == []


def test_a_driver_that_is_killed_leaves_a_lease_that_runs_out_and_the_same_command_does_not_wait_for_it(
    finished: Path, make: Make, tmp_path: Path
) -> None:
    root, marker = tmp_path / "root", tmp_path / "marker"
    assert_killed(Child(make(), root, tmp_path / "told", killed_at("step.embed.done", 1, marker)), marker)
    store, name = Store.open(str(root)), folder_of(root).name
    assert (gc.find(store).keys, gc.find(store).at_work) == ((), (name,)), "nobody can know yet that it is dead"
    (held,) = lease.live(store.storage)
    later = gc.find(store, lambda: time.time() + LATER)
    assert later.unfinished == (name,) and later.at_work == () and held in later.keys
    embedded = set(store.seals("embed/"))
    again = run(make(), root)
    assert again.manifest.digest == Manifest.open(str(finished)).digest and "embed" not in uncached(again)
    assert embedded == set(store.seals("embed/"))


def test_the_next_run_removes_what_a_killed_one_has_left_half_written(make: Make, tmp_path: Path) -> None:
    root, marker = tmp_path / "root", tmp_path / "marker"
    storage = FileStorage(str(root))
    assert_killed(Child(make(), root, tmp_path / "told", killed_at("store.before_link", 9, marker)), marker)
    (dead,) = lease.dead(storage)
    assert dead in lease.live(storage) and list(root.rglob(".partial-*"))
    with lease.Lease(storage):
        run(make(), root)
    assert list(root.rglob(".partial-*")) and lease.dead(storage) == [dead], "it might have been the other run's"
    run(make(), root)
    assert [
        path
        for path in root.rglob("*")
        if path.name.startswith(".partial-") or (path.is_dir() and not [*path.iterdir()])
    ] == []
    assert {path.name for path in root.iterdir()} == {"artifacts", "journals", folder_of(root).name}


def test_a_gc_that_is_killed_leaves_garbage_and_nothing_worse(root: Path, make: Make, tmp_path: Path) -> None:
    other = make(cluster={"num_clusters": 3})
    shutil.rmtree(Path(run(other, root).uri) / "manifest")
    garbage = gc.find(Store.open(str(root)))
    assert garbage.unfinished and not garbage.at_work
    for number, hit in enumerate((1, len(garbage.keys) // 2, 3)):
        marker = tmp_path / f"marker{number}"
        child = Child(None, root, tmp_path / "told", killed_at("gc.before_delete", hit, marker))
        assert_killed(child, marker)
        assert_sound(root)
    assert uncached(run(make(), root)) == [] and run(other, root).manifest.verify().ok
    assert_sound(root)


@dataclass(frozen=True, kw_only=True)
class Collecting(LocalExecutor):
    """Someone removes garbage from the root, once, while a run is at work on it."""

    step: str
    root: Path
    later: float  # seconds after which whoever removes it comes, by his clock

    def run(self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int | None = None) -> Iterator[Receipt]:
        marker = self.root.parent / "collected"
        if step.family == self.step and not marker.exists():
            garbage = collect(self.root, self.later)
            marker.write_text(json.dumps([len(garbage.keys), garbage.at_work, garbage.unfinished]))
        yield from super().run(step, tasks, store, num_rows)


@pytest.mark.parametrize("step", ["ingest", "embed", "cluster", "rate"])
def test_gc_leaves_alone_what_a_run_at_work_has_made(step: str, finished: Path, make: Make, tmp_path: Path) -> None:
    outcome = run(make(), tmp_path / "root", Collecting(step=step, root=tmp_path / "root", later=0))
    name = Path(outcome.uri).name
    assert json.loads((tmp_path / "collected").read_text()) == [0, [name], []], "nothing is taken, and it is named"
    assert outcome.manifest.digest == Manifest.open(str(finished)).digest
    assert list(Store.open(str(tmp_path / "root")).storage.list(lease.FOLDER)) == [], "it is at work no more"
    sweep(tmp_path / "root")


@pytest.mark.parametrize("step", ["ingest", "embed", "cluster", "rate"])
def test_a_run_whose_lease_ran_out_gets_over_a_gc_that_takes_what_it_has_made_so_far(
    step: str, finished: Path, make: Make, tmp_path: Path
) -> None:
    outcome = run(make(), tmp_path / "root", Collecting(step=step, root=tmp_path / "root", later=LATER))
    num_taken, at_work, unfinished = json.loads((tmp_path / "collected").read_text())
    assert num_taken > 0 and at_work == [] and unfinished == [Path(outcome.uri).name]
    assert outcome.manifest.digest == Manifest.open(str(finished)).digest and outcome.manifest.verify().ok
    assert_sound(tmp_path / "root")


def test_a_run_that_finishes_after_the_garbage_was_counted_stays(root: Path, make: Make) -> None:
    store, home = Store.open(str(root)), folder_of(root)
    shutil.move(home / "manifest", root.parent / "manifest")
    garbage = gc.find(store)
    shutil.move(root.parent / "manifest", home / "manifest")
    gc.remove(store, garbage)
    assert Manifest.open(str(home)).verify().ok
    assert json.loads((home / "plan.json").read_bytes())["policy"]["seed"] == 7
    again = run(make(), root)
    assert again.manifest.verify().ok and "embed" in uncached(again)


def test_a_journal_stays_as_long_as_its_run(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "root")
    finished, at_work, left = (journal_of(storage, name) for name in ("f" * 16, None, "e" * 16))
    storage.put_if_absent(f"{'f' * 16}/manifest/manifest.json", b"{}")
    storage.put_if_absent(f"{'f' * 16}/artifacts.json", canonical_json({"artifacts": [], "check": fingerprint([])}))
    storage.delete(finished.lease)
    storage.delete(left.lease)
    keys = gc.find(Store(storage)).keys
    assert [seen.key for seen in (finished, at_work, left) if f"{seen.key}progress.json" in keys] == [left.key]


def journal_of(storage: Storage, run: str | None) -> journal.Seen:
    """The journal of a run that has begun."""
    lease = Lease(storage)
    lease.renew()
    if run is not None:
        lease.name(run)
    Journal(storage, lease, NoProgress())._write()  # pyright: ignore[reportPrivateUsage]
    (seen,) = [seen for seen in journal.read(storage) if seen.lease == lease.key]
    return seen
