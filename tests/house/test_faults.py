"""Runs that are killed, race each other, or find that what they stored is no longer what it was."""

import gzip
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import write_jsonl
from runs import (
    CONTEXT,
    Child,
    Noting,
    assert_killed,
    assert_no_manifest_or_a_sound_one,
    assert_sound,
    corpus_rows,
    killed_at,
    policy_of,
    run,
    uncached,
    write_corpus,
)
from selector import failpoint
from selector.corpus import formats
from selector.engine import gc
from selector.engine.local import LocalExecutor
from selector.engine.part import Receipt, Task
from selector.engine.runner import Runner, summary_key
from selector.engine.step import Map
from selector.engine.store import Blob, Store
from selector.errors import CorpusError, DamagedError, SelectorError
from selector.manifest import Manifest
from selector.pipeline import plan
from selector.policy import Policy
from selector.steps.survey import Survey, parts
from selector.storage.file import FileStorage

pytestmark = pytest.mark.slow

RATER = '''
"""A rater that looks at the corpus first, reads a table and another's score, and notes every part that it rates."""

import os
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa

from selector.rate import Columns, Fit, Rater, TablePath


@dataclass(frozen=True, kw_only=True)
class Words(Fit):
    weights: Annotated[TablePath, Columns(weight="float64")]
    higher_is = "harder"
    needs = ("text", "score.readability")

    def fit(self, sample, seed):
        counts = [text.count(" ") for batch in sample.batches("text") for text in batch["text"].to_pylist()]
        return pa.table({"mean": [float(np.mean(counts))]})

    def rater(self, fitted):
        return MoreWords(mean=fitted["mean"][0].as_py(), weight=self.weights.table["weight"][0].as_py())


@dataclass(frozen=True, kw_only=True)
class MoreWords(Rater):
    mean: float
    weight: float
    higher_is = "harder"
    needs = ("text", "score.readability")

    def rate(self, batch):
        if "WORDS_NOTES" in os.environ:
            with open(os.environ["WORDS_NOTES"], "a") as file:
                file.write("part\\n")
        counts = np.array([text.count(" ") for text in batch["text"].to_pylist()], np.float64)
        scores = batch["score.readability"].to_numpy() * self.weight + counts - self.mean
        return pa.record_batch({"score": pa.array(scores)})
'''
NUM_PARTS = 6
FAMILIES = (
    "survey", "ingest", "columns", "dedup", "embed", "centroids", "cluster", "attach", "fit", "rate", "select", "order",
    "manifest",
)  # fmt: skip
NAMES = (*failpoint.POINTS, *(f"step.{family}.done" for family in FAMILIES))
"""Every failpoint that a run of the world's policy comes by."""


@dataclass(frozen=True, kw_only=True)
class World:
    """A policy, what it gives when nothing disturbs it, and a root in which it did."""

    policy: dict[str, Any]
    other: dict[str, Any]  # another policy over the same corpus
    digest: str
    root: Path

    def copy(self, root: Path) -> Path:
        subprocess.run(["cp", "-a", self.root, root], check=True)  # what is one file by two names stays so
        return root


@pytest.fixture(scope="module")
def world(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    (folder / "package/countable").mkdir(parents=True)
    (folder / "package/countable/raters.py").write_text(RATER, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "package")  # children inherit it
        weights = write_jsonl(folder / "weights.jsonl", [{"weight": 0.5}])
        policy = policy_of(
            write_corpus(folder / "corpus"),
            tiny_model,
            rate=[
                "readability",
                {"countable.raters:Words": {"weights": str(weights)}},
                "prototypicality",
                {"column": {"column": "edu", "higher_is": "better"}},
            ],
        )
        while any(formats.is_fresh(formats.version_of(str(file))) for file in (folder / "corpus").iterdir()):
            pass  # or else the first runs write notes about that, and the later ones none
        digest = run(policy, folder / "root").manifest.digest
        other = {**policy, "order": {"using": "shuffled"}, "select": {"budget": {"documents": 20}}}
        yield World(policy=policy, other=other, digest=digest, root=folder / "root")


# ---------------------------------------------------------------- killed


def an_empty_root(_: World, root: Path) -> None:
    root.mkdir()


def a_root_with_damage(world: World, root: Path) -> None:
    flip(stored(world.copy(root), "select.shards", "decisions"), 1000)
    take_manifest(root)


def a_root_with_garbage(world: World, root: Path) -> None:
    take_manifest(world.copy(root))


def take_manifest(root: Path) -> None:
    """The run is as if it had not committed yet."""
    shutil.rmtree(run_folder(root) / "manifest")
    shutil.rmtree(root / "artifacts/seals/manifest")


PLACES: dict[str, Callable[[World, Path], None]] = {
    "store.before_swap": a_root_with_damage,
    "store.after_discard": a_root_with_damage,
    "gc.before_delete": a_root_with_garbage,
}
"""Where to go to come by a failpoint that an ordinary run does not come by."""


@pytest.fixture(scope="module")
def hits(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How often a child that nothing disturbs comes by each failpoint, in the place for it."""
    folder = tmp_path_factory.mktemp("hits")
    reached: dict[str, dict[str, int]] = {}
    for prepare in (an_empty_root, *dict.fromkeys(PLACES.values())):
        root = folder / prepare.__name__
        prepare(world, root)
        child = start_at(prepare, world, root, folder / f"{prepare.__name__}.json")
        assert child.wait() == 0
        reached[prepare.__name__] = child.told()["reached"]
        assert set(reached[prepare.__name__]) <= set(NAMES), "the flow has a step that no test kills"
    return {name: reached[PLACES.get(name, an_empty_root).__name__].get(name, 0) for name in NAMES}


def start_at(
    prepare: Callable[[World, Path], None],
    world: World,
    root: Path,
    told: Path,
    environment: dict[str, str] | None = None,
) -> Child:
    return Child(None if prepare is a_root_with_garbage else world.policy, root, told, environment)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_killed_anywhere_is_finished_by_the_same_command(
    name: str, world: World, hits: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hits[name], f"nothing comes by {name}"
    prepare = PLACES.get(name, an_empty_root)
    children: list[tuple[Child, Path]] = []
    for hit in sorted({1, hits[name] // 2 + 1, hits[name]}):
        folder = tmp_path / str(hit)
        folder.mkdir()
        prepare(world, folder / "root")
        environment = {**killed_at(name, hit, folder / "marker"), "WORDS_NOTES": str(folder / "rated")}
        children.append((start_at(prepare, world, folder / "root", folder / "told", environment), folder))
    for child, folder in children:
        root, notes = folder / "root", folder / "notes"
        assert_killed(child, folder / "marker")
        assert_no_manifest_or_a_sound_one(root)

        store = Store.open(str(root))
        sealed = {key for key in store.seals() if store.is_sound(key)}
        if prepare is a_root_with_damage:
            sealed = {key for key in sealed if not key.startswith("select/")}  # it lists what is damaged
        notes.touch()
        monkeypatch.setenv("WORDS_NOTES", str(folder / "rated"))
        outcome = run(world.policy, root, Noting(notes=notes))
        assert outcome.manifest.digest == world.digest and outcome.manifest.verify().ok
        assert sealed.isdisjoint(notes.read_text("utf-8").split()), "what was sealed is not computed again"
        assert [
            f"{step.name}/{step.fingerprint}" for step in outcome.steps if not step.cached if in_(sealed, step)
        ] == []
        if prepare is an_empty_root:
            rated = (folder / "rated").read_text("utf-8").count("part")
            assert NUM_PARTS <= rated <= NUM_PARTS + 1, "the part in flight is all that may be lost"
        assert_sound(root)
        assert uncached(run(world.policy, root)) == []


def in_(sealed: set[str], step: Any) -> bool:
    return not sealed.isdisjoint({f"{step.name}/{step.fingerprint}", summary_key(step.name, step.fingerprint)})


def test_a_run_killed_again_and_again_still_ends_at_the_same_digest(
    world: World, hits: dict[str, int], tmp_path: Path
) -> None:
    """Every process is killed as soon as it has sealed three artefacts more."""
    root, kills = tmp_path / "root", 0
    while True:
        marker = tmp_path / f"marker{kills}"
        child = Child(world.policy, root, tmp_path / "told", killed_at("store.after_seal", 4, marker))
        if child.wait() == 0:
            break
        assert_killed(child, marker)
        assert_no_manifest_or_a_sound_one(root)
        kills += 1
    assert child.told()["digest"] == world.digest
    assert kills == (hits["store.after_seal"] - 1) // 4, "each of them went on where the last one stopped"


def test_a_run_killed_at_any_write_of_its_commit_shows_no_manifest_or_a_sound_one(world: World, tmp_path: Path) -> None:
    """Everything that a manifest is made from is there; it is written, object by object, and the list of artefacts."""
    prepared = world.copy(tmp_path / "prepared")
    shutil.rmtree(run_folder(prepared))
    calm = Child(world.policy, Path(shutil.copytree(prepared, tmp_path / "calm")), tmp_path / "told")
    assert calm.wait() == 0
    num_writes = calm.told()["reached"]["store.before_link"]
    assert num_writes >= 7, "plan, decisions, parts, files, manifest, quarantine, list of artefacts"
    for hit in range(1, num_writes + 1):
        root, marker = tmp_path / f"root{hit}", tmp_path / f"marker{hit}"
        shutil.copytree(prepared, root)
        assert_killed(Child(world.policy, root, tmp_path / "told", killed_at("store.before_link", hit, marker)), marker)
        assert_no_manifest_or_a_sound_one(root)
        assert run(world.policy, root).manifest.digest == world.digest


# ---------------------------------------------------------------- at once


def together(
    policies: list[dict[str, Any]], root: Path, folder: Path, killed: dict[int, str] | None = None
) -> list[Child]:
    """Children that begin at the same moment; while they work, a reader looks at the root all the time."""
    barrier = CONTEXT.Barrier(len(policies))
    children: list[Child] = []
    for i, policy in enumerate(policies):
        environment = killed_at(killed[i], 2, folder / f"marker{i}") if killed and i in killed else None
        children.append(Child(policy, root, folder / f"told{i}", environment, barrier))
    while any(child.is_alive(0.05) for child in children):  # the reader leaves them most of the time
        for path in root.glob("*/manifest"):
            assert_no_manifest_or_a_sound_one(path.parent)
    return children


def test_what_was_lost_is_on_file_before_the_manifest_is(world: World, tmp_path: Path) -> None:
    root, marker = tmp_path / "root", tmp_path / "marker"
    assert_killed(Child(world.policy, root, tmp_path / "told", killed_at("commit.after_manifest", 1, marker)), marker)
    lost = (run_folder(root) / "quarantine.jsonl").read_bytes()
    assert lost and lost == (run_folder(world.root) / "quarantine.jsonl").read_bytes()


def test_eight_processes_with_one_policy_and_one_root_make_one_manifest(world: World, tmp_path: Path) -> None:
    root = tmp_path / "root"
    children = together([world.policy] * 8, root, tmp_path)
    assert [child.wait() for child in children] == [0] * 8
    assert [child.told().get("digest", child.told()) for child in children] == [world.digest] * 8
    assert len(list(root.glob("*/manifest/manifest.json"))) == 1
    assert Manifest.open(str(root)).verify().ok
    assert_sound(root)


def test_it_does_not_matter_to_the_others_if_some_of_them_are_killed(world: World, tmp_path: Path) -> None:
    killed = {0: "store.before_link", 2: "part.after_work", 4: "store.before_seal", 6: "store.after_link"}
    children = together([world.policy] * 8, tmp_path / "root", tmp_path, killed)
    for i, child in enumerate(children):
        if i in killed:
            assert_killed(child, tmp_path / f"marker{i}")
        else:
            assert child.wait() == 0 and child.told().get("digest", child.told()) == world.digest
    assert_sound(tmp_path / "root")


def test_eight_processes_that_find_the_same_damage_all_get_over_it(world: World, tmp_path: Path) -> None:
    root = world.copy(tmp_path / "root")
    shutil.rmtree(run_folder(root))
    for step, table in (("select.shards", "decisions"), ("shards.columns", "column")):
        flip(stored(root, step, table), 700)
    flip(Stored.whole(next((root / "artifacts/seals/dedup").iterdir())), 99)
    children = together([world.policy] * 8, root, tmp_path)
    assert [child.wait() for child in children] == [0] * 8
    assert [child.told().get("digest", child.told()) for child in children] == [world.digest] * 8
    assert_sound(root)


def test_two_policies_at_once_in_one_root_each_get_what_they_get_alone(world: World, tmp_path: Path) -> None:
    alone = run(world.other, tmp_path / "alone").manifest.digest
    children = together([world.policy, world.other] * 4, tmp_path / "root", tmp_path)
    assert [child.wait() for child in children] == [0] * 8
    assert [child.told().get("digest", child.told()) for child in children] == [world.digest, alone] * 4
    assert len(list((tmp_path / "root").glob("*/manifest/manifest.json"))) == 2
    assert_sound(tmp_path / "root")


# ---------------------------------------------------------------- damaged


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Bytes of an object: all of them, or one table of several."""

    path: Path
    start: int
    end: int

    @classmethod
    def whole(cls, path: Path) -> "Stored":
        return cls(path=path, start=0, end=path.stat().st_size)

    @classmethod
    def of(cls, root: Path, blob: Blob) -> "Stored":
        return cls(path=root / blob.key, start=blob.start, end=blob.start + blob.num_bytes)

    def is_in(self, ranges: Iterable[tuple[int, int]]) -> bool:
        return any(start <= self.start and self.end <= end for start, end in ranges)


def flip(stored: Stored, bit: int) -> None:
    data = bytearray(stored.path.read_bytes())
    at, bit = divmod(bit % (8 * (stored.end - stored.start)), 8)
    data[stored.start + at] ^= 1 << bit
    stored.path.write_bytes(data)


def truncate(stored: Stored, size: int) -> None:
    os.truncate(stored.path, stored.start + size % (stored.end - stored.start))


def run_folder(root: Path) -> Path:
    (plan_file,) = root.glob("*/plan.json")
    return plan_file.parent


def stored(root: Path, step: str, table: str, column: str | None = None) -> Stored:
    """Where one of a step's tables lies that has rows, and this column."""
    store = Store.open(str(root))
    seals = [store.sealed(key) for key in store.seals(f"{step}/")]
    having = [seal for seal in seals if table in seal.tables and seal.tables[table].num_rows]
    blobs = (seal.tables[table] for seal in having if column is None or column in store.table(seal, table).schema.names)
    return Stored.of(root, next(blobs))


def kinds_of(root: Path) -> dict[str, list[Stored]]:
    """What lies below a root by its kind, e.g. "seal of embed", "clusters of cluster"."""
    store = Store.open(str(root))
    kinds: dict[str, set[Stored]] = {}
    for key in store.seals():
        family = "/".join(key.split("/")[:-1])
        kinds.setdefault(f"seal of {family}", set()).add(Stored.whole(root / f"artifacts/seals/{key}.json"))
        seal = store.find(key)
        for table, blob in seal.tables.items() if seal is not None else ():
            kinds.setdefault(f"{table} of {family}", set()).add(Stored.of(root, blob))
    home = run_folder(root)
    for path in home.rglob("*"):
        if path.is_file() and path.parent.name != "log":
            kinds.setdefault(path.relative_to(home).as_posix(), set()).add(Stored.whole(path))
    return {kind: sorted(group, key=str) for kind, group in sorted(kinds.items())}


@pytest.fixture
def ranges_read(monkeypatch: pytest.MonkeyPatch) -> dict[Path, list[tuple[int, int]]]:
    """Of each file that was read, from where to where."""
    ranges: dict[Path, list[tuple[int, int]]] = {}
    get, get_range = FileStorage.get, FileStorage.get_range

    def noted(storage: FileStorage, key: str) -> bytes | None:
        ranges.setdefault(storage.root / key, []).append((0, 1 << 60))
        return get(storage, key)

    def noted_range(storage: FileStorage, key: str, start: int, length: int) -> bytes | None:
        ranges.setdefault(storage.root / key, []).append((start, start + length))
        return get_range(storage, key, start, length)

    monkeypatch.setattr(FileStorage, "get", noted)
    monkeypatch.setattr(FileStorage, "get_range", noted_range)
    return ranges


HIDDEN: list[tuple[str, ...]] = [
    (),
    ("manifest",),
    ("steps", "dedup", "centroids", "fit"),
    ("steps", "columns", "attach", "rate"),
    ("steps", "cluster", "select", "order"),
]
"""Families whose seals are gone, in turn."""


def test_200_damaged_objects_of_every_kind_are_put_right_before_they_are_used(
    world: World, tmp_path: Path, ranges_read: dict[Path, list[tuple[int, int]]]
) -> None:
    """Some of the runs find their manifest; the others make it again, from more or less of what is stored. What one
    step handed to the next, `gc` takes; it is damaged with all else in the next test."""
    draw = random.Random(20_241_117)
    store = Store.open(str(world.root))
    garbage = set(gc.find(store).keys)
    everything = [
        (kind, one)
        for kind, group in kinds_of(world.root).items()
        for one in group
        if one.path.relative_to(world.root).as_posix() not in garbage
    ]

    def without(hidden: Sequence[str]) -> Path:
        root = world.copy(tmp_path / "root")
        for name in hidden:  # so that what is above them is read again
            shutil.rmtree(root / "artifacts/seals" / name)
        if hidden:
            shutil.rmtree(run_folder(root) / "manifest")
        ranges_read.clear()
        return root

    read = set[str]()  # most quarantines, for example, have no rows and are not read
    for hidden in HIDDEN:
        root = without(hidden)
        run(world.policy, root)
        there = [(kind, replace(one, path=root / one.path.relative_to(world.root))) for kind, one in everything]
        read |= {kind for kind, one in there if one.is_in(ranges_read.get(one.path, ()))}
        shutil.rmtree(root)
    assert len(read) > 60, read
    put_right = dict.fromkeys(sorted(read), 0)
    for number in range(50):
        root = without(HIDDEN[number % len(HIDDEN)])
        damaged: dict[Path, tuple[str, Stored]] = {}
        while len(damaged) < 4:
            wanted = [
                (kind, replace(one, path=root / one.path.relative_to(world.root)))
                for kind, one in everything
                if kind in read
            ]
            there = [pair for pair in wanted if pair[1].path not in damaged and pair[1].path.exists()]
            kind, one = draw.choice([pair for pair in there if put_right[pair[0]] == 0] or there)
            draw.choice((flip, truncate))(one, draw.randrange(1 << 30))
            damaged[one.path] = (kind, one)
        ranges_read.clear()
        outcome = run(world.policy, root)
        assert outcome.manifest.digest == world.digest and outcome.manifest.verify().ok, damaged
        for path, (kind, one) in damaged.items():
            if one.is_in(ranges_read.get(path, ())):
                assert path.read_bytes() == (world.root / path.relative_to(root)).read_bytes(), kind
                put_right[kind] += 1
        shutil.rmtree(root)
    assert min(put_right.values()) > 0 and sum(put_right.values()) > 100, put_right


def test_decisions_that_are_damaged_by_both_their_names_are_made_again(world: World, tmp_path: Path) -> None:
    """Where the manifest took them over from select, both names lead to one file."""
    root = world.copy(tmp_path / "root")
    for path in (run_folder(root) / "decisions").iterdir():
        assert path.stat().st_nlink == 2
        flip(Stored.whole(path), 12_345)
    outcome = run(world.policy, root)
    assert "select" in uncached(outcome) and outcome.manifest.digest == world.digest and outcome.manifest.verify().ok
    shutil.rmtree(run_folder(root) / "manifest")
    (path, *_) = (run_folder(root) / "decisions").iterdir()
    path.unlink()
    assert run(world.policy, root).manifest.verify().ok and path.stat().st_nlink == 2, "it takes no more room again"


def test_every_artefact_damaged_at_once_is_as_good_as_none(world: World, tmp_path: Path) -> None:
    root = world.copy(tmp_path / "root")
    for path in root.rglob("*"):
        if path.is_file() and path.stat().st_size:  # a lock is empty
            flip(Stored.whole(path), path.stat().st_size * 5)
    outcome = run(world.policy, root)
    assert outcome.manifest.digest == world.digest and outcome.manifest.verify().ok
    assert_sound(root)


def test_a_plan_over_a_damaged_root_reports_it_and_writes_nothing(world: World, tmp_path: Path) -> None:
    root = world.copy(tmp_path / "root")
    flip(stored(root, "dedup", "parts"), 333)
    before = contents(root)
    with pytest.raises(DamagedError, match=r"dedup/\w+ is damaged: its seal does not match its own checksum"):
        plan(Policy.of(world.policy), root=str(root), executor=LocalExecutor())
    assert contents(root) == before


@dataclass(frozen=True, kw_only=True)
class Spoiling(LocalExecutor):
    """On storage that forgets: whatever a step has embedded is no longer there when it is needed."""

    def run(self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int | None = None) -> Iterator[Receipt]:
        for receipt in super().run(step, tasks, store, num_rows):
            yield receipt
            if step.name == "embed":
                seal = store.find(receipt.key)
                assert seal is not None
                store.storage.delete(seal.tables["embeddings"].key)


def test_storage_that_does_not_keep_what_is_written_to_it_is_reported(world: World, tmp_path: Path) -> None:
    with pytest.raises(
        SelectorError, match=r"It was computed again three times: .* does not keep what is written to it"
    ):
        run(world.policy, tmp_path / "root", Spoiling())
    assert run(world.policy, tmp_path / "root").manifest.digest == world.digest


# ---------------------------------------------------------------- moved and changed


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_root_can_be_moved(world: World, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere/root"
    world.copy(tmp_path / "root")
    moved.parent.mkdir()
    shutil.move(tmp_path / "root", moved)
    outcome = run(world.policy, moved)
    assert uncached(outcome) == [] and outcome.manifest.digest == world.digest


def test_a_corpus_file_that_is_only_touched_changes_nothing(world: World, tmp_path: Path) -> None:
    corpus = Path(shutil.copytree(world.policy["corpus"]["paths"][0], tmp_path / "corpus"))
    policy = {**world.policy, "corpus": {**world.policy["corpus"], "paths": [str(corpus)]}}
    before = run(policy, tmp_path / "root")
    os.utime(corpus / "1.jsonl", (0, 0))
    after, elsewhere = run(policy, tmp_path / "root"), run(policy, tmp_path / "elsewhere")
    assert uncached(after) == ["survey"]
    assert before.manifest.digest == after.manifest.digest == elsewhere.manifest.digest


def test_a_corpus_file_rewritten_between_two_runs_is_read_again(world: World, tmp_path: Path) -> None:
    """Also where only a column changed that nothing but a rater reads, and where the file keeps its size."""
    corpus = write_corpus(tmp_path / "corpus")
    policy = policy_of(
        corpus,
        Path(world.policy["embed"]["model"]),
        rate=[{"column": {"column": "edu", "higher_is": "better"}}],
        select={"budget": {"documents": 30}, "using": {"top": {"score": "edu"}}},
        order={"using": "shuffled"},
        manifest={"quality": "edu"},
    )
    run(policy, tmp_path / "root")
    rows = corpus_rows(0, 40)
    write_jsonl(corpus / "0.jsonl", [{**row, "edu": 9 - row["edu"]} for row in rows])
    again = run(policy, tmp_path / "root")
    assert uncached(again) == ["survey", "ingest", "columns", "dedup", "rate/edu", "select", "order", "manifest"]
    assert again.manifest.digest == run(policy, tmp_path / "elsewhere").manifest.digest


@pytest.mark.parametrize("name", ["0.jsonl", "0.jsonl.gz", "0.parquet"])
def test_a_corpus_file_that_changes_while_a_part_is_read_is_noticed_before_anything_is_sealed(
    name: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    table = pa.Table.from_pylist(corpus_rows(0, 20))
    if name.endswith(".parquet"):
        pq.write_table(table, file)
    else:
        lines = b"".join(json.dumps(row).encode() + b"\n" for row in table.to_pylist())
        file.write_bytes(gzip.compress(lines) if name.endswith(".gz") else lines)
    step = Survey(rows_per_part=None, uris=(str(file),), sources=(None,))
    with Runner(Store.open(str(tmp_path / "root")), LocalExecutor()) as runner:
        (part,) = parts(runner.run([step]), step)
    rows = formats.rows(part, ["text"], 1 << 20, Task(key="", part=part).places)
    next(rows)
    file.write_bytes(file.read_bytes())
    with pytest.raises(CorpusError, match="changed while the run was reading it"):
        list(rows)


@dataclass(frozen=True, kw_only=True)
class Meddling(LocalExecutor):
    """Rewrites a corpus file just before a step begins."""

    step: str
    file: Path

    def run(self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int | None = None) -> Iterator[Receipt]:
        if step.family == self.step:
            write_jsonl(self.file, corpus_rows(200, 240))
        yield from super().run(step, tasks, store, num_rows)


@pytest.mark.parametrize("step", ["ingest", "embed", "rate"])
def test_a_corpus_file_that_changes_during_a_run_ends_it_and_the_same_command_starts_over(
    step: str, world: World, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    policy = policy_of(corpus, Path(world.policy["embed"]["model"]))
    policy["corpus"]["keep_texts"] = False
    with pytest.raises(
        CorpusError, match=r"2\.jsonl changed while the run was reading it\. Run the same command again\."
    ):
        run(policy, tmp_path / "root", Meddling(step=step, file=corpus / "2.jsonl"))
    again = run(policy, tmp_path / "root")
    assert again.manifest.digest == run(policy, tmp_path / "elsewhere").manifest.digest
    assert_sound(tmp_path / "root")


@dataclass(frozen=True, kw_only=True)
class Removing(LocalExecutor):
    """Removes a corpus file just before a step begins."""

    step: str
    file: Path

    def run(self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int | None = None) -> Iterator[Receipt]:
        if step.family == self.step:
            self.file.unlink(missing_ok=True)
        yield from super().run(step, tasks, store, num_rows)


@pytest.mark.parametrize("step", ["ingest", "rate"])
def test_a_corpus_file_that_goes_away_during_a_run_is_none_of_its_corpus(
    step: str, world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    policy = policy_of(corpus, Path(world.policy["embed"]["model"]))
    policy["corpus"]["keep_texts"] = False
    manifest = run(policy, tmp_path / "root", Removing(step=step, file=corpus / "2.jsonl")).manifest
    assert "2.jsonl cannot be read: No such file or directory. The corpus is looked at again." in caplog.text
    assert manifest.digest == run(policy, tmp_path / "elsewhere").manifest.digest
    policy["corpus"]["paths"] = [str(corpus / "1.jsonl")]
    with pytest.raises(CorpusError, match=r"there is no file at '.*1\.jsonl'"):
        run(policy, tmp_path / "named", Removing(step="ingest", file=corpus / "1.jsonl"))


def test_a_file_that_changes_after_its_texts_were_kept_changes_nothing(world: World, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    policy = policy_of(corpus, Path(world.policy["embed"]["model"]))
    expected = run(policy, tmp_path / "elsewhere").manifest.digest
    meddling = Meddling(step="embed", file=corpus / "2.jsonl")
    assert run(policy, tmp_path / "root", meddling).manifest.digest == expected
