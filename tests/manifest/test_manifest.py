import dataclasses
import hashlib
import json
import multiprocessing
import os
import pickle
import random
import re
import shutil
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selector import failpoint, tables
from selector.errors import DamagedError, NotFoundError, SelectorError, UsageError
from selector.exact import keyed
from selector.manifest import Manifest, commit
from selector.manifest import format as sealed
from selector.manifest.ledger import LEAF_ROWS, encode, root
from selector.storage import open_storage

FORK = multiprocessing.get_context("fork")


REASONS = ["cluster 3: rank 1 of quota 9", "where: num_tokens >= 32", "the same text", "quarantined in embed"]


def example(
    num_documents: int = 60, *, repeats: int = 2, phases: tuple[str, ...] = ("warm", "späte Phase")
) -> dict[str, Any]:
    """What a pipeline gives to `commit`: two files, half of the documents chosen, every second of those seen again."""
    mixed = np.arange(num_documents) * 2_654_435_761 % 2**31  # no generator: its stream may change with NumPy
    ids = [keyed.digest(b"document %d" % number) for number in range(num_documents)]
    file = (np.arange(num_documents) * 2 // num_documents).astype(np.uint32)
    fate = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 3])[mixed % 10]
    decisions = pa.table(
        {
            "doc_id": pa.array(ids, tables.DOC_ID),
            "file": file,
            "row": (np.arange(num_documents) - np.searchsorted(file, file) + 3).astype(np.uint32),
            "fate": labels(np.array(tables.FATES)[fate]),
            "reason": labels(np.array(REASONS)[fate]),
            "duplicate_of": pa.array([ids[0] if met == 2 else None for met in fate], tables.DOC_ID),
            "inclusion_probability": np.where(fate == 0, 0.5, 0).astype(np.float32),
            "round": np.zeros(num_documents, np.uint16),
        }
    )
    chosen = decisions.filter(pa.array(fate == 0)).select(["doc_id", "file", "row", "inclusion_probability", "reason"])
    n = chosen.num_rows
    for name, values in {
        "source": labels(np.array(["web", "books", "web"] * n)[:n]),
        "cluster": (mixed[:n] % 5).astype(np.int32),
        "num_tokens": (mixed[:n] % 99 + 1).astype(np.uint32),
        "difficulty": np.arange(n).astype(np.float32),
        "quality": pa.array([None, 0.25] * n, pa.float32())[:n],
    }.items():
        chosen = chosen.append_column(name, [values])
    seen = [np.arange(n), *[np.arange(0, n, 2)] * (repeats - 1)]
    document = np.concatenate([listed[np.argsort(mixed[: len(listed)] % 1_000_003)] for listed in seen])
    visits = pa.table(
        {
            "document": document,
            "visit": np.repeat(np.arange(repeats), [len(listed) for listed in seen]).astype(np.uint16),
            "phase": labels(np.array(phases)[np.arange(len(document)) * len(phases) // max(len(document), 1)]),
            "loss_weight": np.where(document % 3, 1.0, 0.5).astype(np.float32),
        }
    )
    files = {
        "uri": ["/corpus/a.jsonl", "/corpus/b.parquet"],
        "format": ["jsonl", "parquet"],
        "num_rows": np.bincount(file, minlength=2) + 4,
        "size": [9, 9],
        "sha256": ["aa", "bb"],
    }
    met = [int(count) for count in np.bincount(fate, minlength=4)]
    return {
        "chosen": chosen,
        "visits": visits,
        "files": pa.table(files, schema=tables.FILES),
        "decisions": [decisions.slice(0, num_documents // 3), decisions.slice(num_documents // 3)],
        "counts": {
            "rows": num_documents + 2,
            "documents": num_documents,
            **dict(zip(tables.FATES, [*met[:3], met[3] + 2], strict=True)),
            "reasons": {"where": met[1], "quarantined in embed": met[3], "not_json": 2},
        },
        "policy": {"seed": 7, "corpus": {"text": "text", "key": None}},
        "lineage": {"select": "5e1ec7", "order": "04de4"},
        "models": {"embed": {"name": "tiny", "sha256": "00"}},
        "versions": {"pyarrow": pa.__version__},
    }


def labels(values: Any) -> pa.Array:
    return pa.array(values, pa.string()).dictionary_encode()


def committed(where: Path, inputs: dict[str, Any] | None = None, **options: Any) -> Manifest:
    return commit(open_storage(str(where)), "run", **(inputs or example()), **options)


def objects(where: Path) -> dict[str, bytes]:
    storage = open_storage(str(where))
    return {key: storage.get(key) or b"" for key, _ in storage.list("")}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """One manifest of several small parts, for the tests that only read."""
    return committed(tmp_path_factory.mktemp("manifest"), part_rows=9)


# The order digest


def digest_row_by_row(rows: list[dict[str, Any]]) -> str:
    """DESIGN, section 4, in plain Python."""

    def blake(data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=32).digest()

    written: list[bytes] = []
    for row in rows:
        phase = row["phase"].encode()
        head = struct.pack("<q16sHH", row["position"], row["doc_id"], row["visit"], len(phase))
        written.append(head + phase + struct.pack("<f", row["loss_weight"]))
    nodes = [blake(b"\0" + b"".join(written[at : at + 65536])) for at in range(0, max(len(written), 1), 65536)]
    while len(nodes) > 1:
        level = [blake(b"\1" + nodes[at] + nodes[at + 1]) for at in range(0, len(nodes) - 1, 2)]
        nodes = level + (nodes[-1:] if len(nodes) % 2 else [])
    return nodes[0].hex()


def test_the_order_digest_is_what_plain_python_computes_row_by_row(tmp_path: Path) -> None:
    manifest = committed(tmp_path, example(90, phases=("", "warm", "ü" * 40)), part_rows=17)
    rows = manifest.rows(0, len(manifest)).to_pylist()
    assert manifest.info["order_digest"] == digest_row_by_row(rows)


def test_the_order_digest_of_many_leaves_is_what_plain_python_computes(tmp_path: Path) -> None:
    manifest = committed(tmp_path, example(220_000))
    assert len(manifest.info["leaf_digests"]) == 3
    rows = manifest.rows(0, len(manifest)).select(["position", "doc_id", "visit", "phase", "loss_weight"])
    assert manifest.info["order_digest"] == digest_row_by_row(rows.to_pylist())
    assert manifest.verify().ok


@given(phases=st.lists(st.text(max_size=9), min_size=1, max_size=30), weights=st.data())
def test_rows_are_encoded_without_padding_or_separators(phases: list[str], weights: st.DataObject) -> None:
    n = len(phases)
    rows = pa.table(
        {
            "position": np.arange(n) + 2**40,
            "doc_id": pa.array([bytes([at]) * 16 for at in range(n)], tables.DOC_ID),
            "visit": np.arange(n).astype(np.uint16),
            "phase": pa.array(phases).dictionary_encode(),
            "loss_weight": pa.array(weights.draw(st.lists(st.floats(width=32), min_size=n, max_size=n)), pa.float32()),
        }
    )
    expected = b"".join(
        struct.pack("<q16sHH", row["position"], row["doc_id"], row["visit"], len(row["phase"].encode()))
        + row["phase"].encode()
        + struct.pack("<f", row["loss_weight"])
        for row in rows.to_pylist()
    )
    assert encode(rows).tobytes() == expected


def test_the_digest_of_a_known_order_stays_what_it_is(tmp_path: Path) -> None:
    # Changing this changes every user's data.
    golden = "73f65d99350f6ac0ce10357a159aa39340836473d453e2348f140de3d179536c"
    assert committed(tmp_path).info["order_digest"] == golden


def test_a_manifest_without_visits_has_one_leaf_over_no_rows(tmp_path: Path) -> None:
    inputs = example()
    nothing = {name: inputs[name].slice(0, 0) for name in ("chosen", "visits")}
    left_out = pa.array(["left_out"] * 60).dictionary_encode()
    decided = pa.concat_tables(inputs["decisions"]).unify_dictionaries()
    decided = decided.set_column(3, "fate", left_out)
    manifest = committed(tmp_path, {**inputs, **nothing, "decisions": [decided], "counts": {}})
    assert len(manifest) == 0
    assert manifest.rows(0, 0).schema == tables.MANIFEST
    assert manifest.info["order_digest"] == hashlib.blake2b(b"\0", digest_size=32).hexdigest() == digest_row_by_row([])
    assert manifest.verify().ok
    assert manifest.describe()["difficulty"] == [None] * 10
    with pytest.raises(NotFoundError, match=r"There is no position 0 in this manifest: it is empty\."):
        manifest.at(0)


def test_equal_beginnings_have_equal_leaves(tmp_path: Path) -> None:
    inputs = example(280_000, repeats=1)
    changed = 2 * LEAF_ROWS + 100
    order = inputs["visits"]["document"].to_numpy().copy()
    order[[changed, changed + 1]] = order[[changed + 1, changed]]
    other = {**inputs, "visits": inputs["visits"].set_column(0, "document", [order])}
    ours = committed(tmp_path / "a", inputs).info
    theirs = committed(tmp_path / "b", other).info
    same = [mine == yours for mine, yours in zip(ours["leaf_digests"], theirs["leaf_digests"], strict=True)]
    assert same == [True, True, False]
    assert ours["order_digest"] != theirs["order_digest"]
    assert root(ours["leaf_digests"]) == ours["order_digest"]


# What is written


def test_parts_are_laid_out_as_the_format_says(tmp_path: Path) -> None:
    manifest = committed(tmp_path, example(200_000, repeats=1), part_rows=70_000)
    assert [part["first_position"] for part in manifest.info["parts"]] == [0, 70_000]
    path = tmp_path / "run/manifest/parts/part-00000.parquet"
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [65_536, 4_464]
    group = metadata.row_group(0)
    assert [column.column_index for column in group.sorting_columns] == [0]
    for index in range(group.num_columns):
        column = group.column(index)
        assert column.compression == "ZSTD"
        assert column.has_column_index
        assert column.has_offset_index
    assert pq.read_schema(path).equals(tables.MANIFEST)
    assert pq.read_schema(tmp_path / "run/decisions/part-00000.parquet").equals(tables.FATE)


def test_the_same_content_has_the_same_bytes_however_it_is_chunked_and_labelled(tmp_path: Path) -> None:
    def relabelled(table: pa.Table, rows: int) -> pa.Table:
        """The same rows in pieces, their labels numbered backwards."""
        for index, field in enumerate(table.schema):
            if pa.types.is_dictionary(field.type):
                words = ["unused", *sorted(set(table[field.name].to_pylist()), reverse=True)]
                codes = pa.array([words.index(word) for word in table[field.name].to_pylist()], pa.int16())
                table = table.set_column(index, field.name, pa.DictionaryArray.from_arrays(codes, words))
        return pa.concat_tables([table.slice(at, rows) for at in range(0, table.num_rows, rows)])

    inputs = example()
    other = {**inputs, **{name: relabelled(inputs[name], 7) for name in ("chosen", "visits")}}
    other["decisions"] = [relabelled(table, 3) for table in inputs["decisions"]]
    committed(tmp_path / "a", inputs)
    committed(tmp_path / "b", other)
    assert objects(tmp_path / "a") == objects(tmp_path / "b")


def test_manifest_json_names_everything_and_says_nothing_of_when_or_where(tmp_path: Path) -> None:
    manifest = committed(tmp_path, part_rows=20)
    info = json.loads((tmp_path / "run/manifest/manifest.json").read_bytes())
    assert info == manifest.info
    named = {f"run/manifest/parts/{part['name']}": part["sha256"] for part in info["parts"]}
    named |= {f"run/decisions/{part['name']}": part["sha256"] for part in info["decisions"]}
    named["run/manifest/files.parquet"] = info["files"]["sha256"]
    stored = objects(tmp_path)
    assert set(stored) == {*named, "run/manifest/manifest.json"}
    assert all(hashlib.sha256(stored[key]).hexdigest() == sha256 for key, sha256 in named.items())
    content = {name: value for name, value in info.items() if name != "digest"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert info["digest"] == manifest.digest == hashlib.blake2b(canonical, digest_size=32).hexdigest()
    assert str(tmp_path) not in json.dumps(info)
    assert [phase["name"] for phase in info["phases"]] == ["warm", "späte Phase"]
    assert sum(phase["tokens"] for phase in info["phases"]) == info["counts"]["tokens"]


def test_phases_are_stretches_and_may_come_back(tmp_path: Path) -> None:
    manifest = committed(tmp_path, example(phases=("a", "b", "a")), part_rows=7)
    first = 0
    for phase in manifest.info["phases"]:
        rows = manifest.rows(phase["first_position"], phase["first_position"] + phase["rows"])
        assert phase["first_position"] == first
        assert set(rows["phase"].to_pylist()) == {phase["name"]}
        assert phase["tokens"] == sum(rows["num_tokens"].to_pylist())
        first += phase["rows"]
    assert [phase["name"] for phase in manifest.info["phases"]] == ["a", "b", "a"]
    assert first == len(manifest)


@settings(deadline=None)
@given(token=st.integers(0, 10**4))
def test_the_position_of_a_token_is_a_bisect(manifest: Manifest, token: int) -> None:
    starts = manifest.rows(0, len(manifest))["token_start"].to_numpy()
    token %= manifest.info["counts"]["tokens"]
    visit = manifest.at(int(np.searchsorted(starts, token, side="right")) - 1)
    assert visit["token_start"] <= token < visit["token_start"] + visit["num_tokens"]


# Commit


def test_committing_again_changes_nothing(tmp_path: Path) -> None:
    first = committed(tmp_path)
    before = objects(tmp_path)
    assert committed(tmp_path).digest == first.digest
    assert objects(tmp_path) == before


def test_eight_processes_that_commit_at_once_get_the_same_manifest(tmp_path: Path) -> None:
    barrier, results = FORK.Barrier(8), FORK.SimpleQueue()

    def work() -> None:
        inputs = example()
        barrier.wait()
        manifest = committed(tmp_path / "together", inputs, part_rows=10)
        results.put((manifest.digest, manifest.verify().ok))

    workers = [FORK.Process(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    answers = {results.get() for _ in workers}
    for worker in workers:
        worker.join()
    assert answers == {(committed(tmp_path / "alone", part_rows=10).digest, True)}
    assert objects(tmp_path / "alone") == objects(tmp_path / "together")


@pytest.mark.parametrize(
    "place",
    [name for name in failpoint.NAMES if name.startswith("commit.")]
    + [f"store.{side}_link:kill:{count}" for side in ("before", "after") for count in (1, 2, 4, 6)],
)
def test_a_commit_killed_anywhere_is_finished_by_the_next_one(tmp_path: Path, place: str) -> None:
    name, _, rest = place.partition(":")

    def work() -> None:
        os.environ["SELECTOR_FAILPOINT"] = f"{name}:{rest or 'kill'}"
        committed(tmp_path / "runs", part_rows=30)

    worker = FORK.Process(target=work)
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    is_there = (tmp_path / "runs/run/manifest/manifest.json").exists()
    assert is_there == (name == "commit.after_manifest" or place == "store.after_link:kill:6")
    if is_there:
        assert Manifest.open(str(tmp_path / "runs")).verify().ok
    else:
        with pytest.raises(NotFoundError):
            Manifest.open(str(tmp_path / "runs"))
    manifest = committed(tmp_path / "runs", part_rows=30)
    assert manifest.verify().ok
    assert manifest.digest == committed(tmp_path / "unharmed", part_rows=30).digest
    assert objects(tmp_path / "runs") == objects(tmp_path / "unharmed")


def test_what_a_crash_or_a_disk_has_damaged_is_replaced(tmp_path: Path) -> None:
    committed(tmp_path)
    sound = objects(tmp_path)
    for key in sound:
        (tmp_path / key).write_bytes(b"{}" + sound[key][:50])
    assert committed(tmp_path).verify().ok
    assert objects(tmp_path) == sound


def test_a_sound_manifest_is_never_replaced_by_another(tmp_path: Path) -> None:
    committed(tmp_path)
    before = objects(tmp_path)
    inputs = example()
    weightless = replaced(inputs["visits"], "loss_weight", np.zeros(len(inputs["visits"]), np.float32))
    for change in ({"policy": {"seed": 8}}, {"visits": weightless}):
        with pytest.raises(SelectorError, match=r"manifest\.json has the digest .* One run has one manifest"):
            committed(tmp_path, {**inputs, **change})
        assert objects(tmp_path) == before


def replaced(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, [values])


def moved(table: pa.Table, name: str) -> pa.Table:
    """Each row has the value of the row before it."""
    return replaced(table, name, table[name].combine_chunks().take(np.roll(np.arange(table.num_rows), 1)))


def flaws() -> dict[str, dict[str, Any]]:
    """What a faulty pipeline might give to `commit`, by what should be said of it."""
    inputs = example()
    chosen, visits, files, counts = (inputs[name] for name in ("chosen", "visits", "files", "counts"))
    decided = pa.concat_tables(inputs["decisions"]).unify_dictionaries().combine_chunks()
    cut = visits.slice(0, 3)
    return {
        "kept but never visited, or visited but not kept; the first is row 3 of file 0": {
            "decisions": [decided.slice(1)]
        },
        "two rows for one row of the corpus": {"decisions": [decided, decided]},
        "The decisions have two rows": {"decisions": [pa.concat_tables([decided, decided])]},
        "documents were kept but never visited": {"visits": cut},
        "do not count the visits of each document": {"visits": moved(visits, "visit")},
        "The doc_ids of the visits are not those of the decisions": {"chosen": moved(chosen, "doc_id")},
        "were kept but never visited, or visited but not kept": {"chosen": moved(chosen, "row")},
        "on name a file or row that files.parquet does not have": {
            "files": replaced(files, "num_rows", pa.array([5, 99]))
        },
        "decisions name a file or row that files.parquet does not have": {"files": files.slice(0, 1)},
        r"fates that there are not: \['lost'\]": {"decisions": [replaced(decided, "fate", labels(["lost"] * 60))]},
        "keep a document that has no doc_id": {"decisions": [replaced(decided, "doc_id", pa.nulls(60, tables.DOC_ID))]},
        "The column source has .* nulls": {"chosen": replaced(chosen, "source", labels([None] * len(chosen)))},
        "The count of quarantined is .*, and the rows come to": {"counts": {**counts, "rows": 60}},
        "The count of reasons is 1, and the rows come to": {"counts": {**counts, "reasons": {"where": 1}}},
        **{
            f"The count of {name} is 1, and the rows come to": {"counts": {**counts, name: 1}}
            for name in ("documents", "kept", "left_out", "duplicate", "quarantined", "visits", "tokens")
        },
    }


@pytest.mark.parametrize(("message", "change"), flaws().items())
def test_what_does_not_add_up_is_not_committed(tmp_path: Path, message: str, change: dict[str, Any]) -> None:
    with pytest.raises(SelectorError, match=f"{message}.*fault of ours|fault of ours.*{message}"):
        committed(tmp_path, {**example(), **change})
    assert not (tmp_path / "run/manifest/manifest.json").exists()


# Verify


def test_any_flipped_bit_any_truncation_and_any_loss_is_found(tmp_path: Path) -> None:
    committed(tmp_path / "sound", part_rows=20)
    manifest = Manifest.open(str(tmp_path / "sound"))
    assert manifest.verify() == dataclasses.replace(manifest.verify(), ok=True, digest=manifest.digest, problems=[])
    draw = random.Random(3)
    sound = objects(tmp_path / "sound")
    damages: list[tuple[str, bytes | None]] = []
    for key, data in sound.items():
        damages += [(key, None), (key, b""), (key, data[: len(data) // 2]), (key, data[:-1]), (key, data + b"\0")]
    for _ in range(250):
        key = draw.choice(sorted(sound))
        data = bytearray(sound[key])
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        damages.append((key, bytes(data)))
    for key, data in damages:
        path = tmp_path / "sound" / key
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        found = manifest.verify()
        assert not found.ok
        assert any(key in problem for problem in found.problems), (key, found.problems)
        assert all(re.fullmatch(r"(?s).+\.", problem) for problem in found.problems)
        path.write_bytes(sound[key])
    assert manifest.verify().ok


def test_damage_is_found_before_anything_damaged_is_used(tmp_path: Path) -> None:
    doc_id = committed(tmp_path, part_rows=20).at(25)["doc_id"]
    uses: dict[str, list[Callable[[Manifest], Any]]] = {
        "run/manifest/parts/part-00001.parquet": [
            lambda manifest: manifest.batch(2, global_batch_size=10),
            lambda manifest: manifest.at(25),
            lambda manifest: manifest.take([3, 25]),
            lambda manifest: manifest.when(doc_id),
            lambda manifest: manifest.describe(),
        ],
        "run/decisions/part-00001.parquet": [lambda manifest: manifest.explain(doc_id)],
        "run/manifest/files.parquet": [lambda manifest: manifest.files],
        "run/manifest/manifest.json": [len, lambda manifest: manifest.info, lambda manifest: manifest.at(0)],
    }
    for key, readers in uses.items():
        sound = (tmp_path / key).read_bytes()
        for read in readers:
            for data in (sound[:-30] + bytes([sound[-30] ^ 1]) + sound[-29:], None):
                if data is None and key.endswith(".json"):
                    continue
                (tmp_path / key).unlink()
                if data is not None:
                    (tmp_path / key).write_bytes(data)
                with pytest.raises(DamagedError, match=re.escape(key.removeprefix("run/"))):
                    read(Manifest.open(str(tmp_path / "run")))
                (tmp_path / key).write_bytes(sound)


def sealed_again(where: Path, manifest: Manifest, part: bytes, **changes: Any) -> list[str]:
    """The problems of a manifest in which someone changed things, and then computed the checksums again."""
    (where / "run/manifest/parts/part-00000.parquet").write_bytes(part)
    parts = [{**manifest.info["parts"][0], "sha256": hashlib.sha256(part).hexdigest()}]
    content = {**manifest.info, "parts": parts, **changes}
    del content["digest"]
    (where / "run/manifest/manifest.json").write_bytes(sealed.seal(content))
    found = Manifest.open(str(where)).verify()
    assert found.ok == (not found.problems)
    return found.problems


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("position", "The visits from position 0 on are not numbered one after the other."),
        ("token_start", "The visits from position 0 on have a token_start that is not the sum of the tokens before."),
        ("visit", "The visits from position 0 on do not count the visits of each document 0, 1, 2 and so on."),
        ("doc_id", "The order_digest in run/manifest/manifest.json is not that of the rows."),
        ("loss_weight", "The leaf_digests in run/manifest/manifest.json is not that of the rows."),
        ("phase", "The phases in run/manifest/manifest.json is not that of the rows."),
    ],
)
def test_verify_works_out_the_rows_again(tmp_path: Path, column: str, message: str) -> None:
    manifest = committed(tmp_path)
    rows = moved(manifest.rows(0, len(manifest)), column).cast(tables.MANIFEST)
    assert message in sealed_again(tmp_path, manifest, sealed.part_bytes(rows))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("phases", [], "The phases in"),
        ("leaf_digests", ["00"], "The leaf_digests in"),
        ("order_digest", "00", "The order_digest in"),
        ("files", {"rows": 3}, "files.parquet is damaged: it has 2 rows and 3 were committed."),
        ("counts", {"kept": 1}, "The count of kept is 1"),
        ("counts", {"rows": 1}, "The count of quarantined is"),
        ("format_version", 2, "has format version 2, and this is Selector for version 1. Install a newer Selector."),
    ],
)
def test_verify_works_out_what_manifest_json_says(tmp_path: Path, name: str, value: Any, message: str) -> None:
    manifest = committed(tmp_path)
    part = (tmp_path / "run/manifest/parts/part-00000.parquet").read_bytes()
    told = {**manifest.info[name], **value} if isinstance(value, dict) else value
    assert any(message in problem for problem in sealed_again(tmp_path, manifest, part, **{name: told}))


def test_verify_checks_where_manifest_json_places_its_parts(tmp_path: Path) -> None:
    manifest = committed(tmp_path, part_rows=20)
    parts = [{**part, "first_position": part["first_position"] // 2} for part in manifest.info["parts"]]
    content = {name: value for name, value in manifest.info.items() if name != "digest"}
    (tmp_path / "run/manifest/manifest.json").write_bytes(sealed.seal({**content, "parts": parts}))
    problems = Manifest.open(str(tmp_path)).verify().problems
    assert "part-00001.parquet in run/manifest/manifest.json is out of place: it has first_position 10." in problems[0]


def test_a_part_with_other_columns_or_row_groups_is_not_of_this_format(tmp_path: Path) -> None:
    manifest = committed(tmp_path)
    rows = manifest.rows(0, len(manifest))
    (problem,) = sealed_again(tmp_path, manifest, sealed.to_parquet(rows.drop_columns(["quality"])))
    assert "its columns are not those of format version 1" in problem
    (problem,) = sealed_again(tmp_path, manifest, sealed.to_parquet(rows, row_group_size=10))
    assert "its row groups are not of 65,536 rows" in problem


# Open and read


def test_a_manifest_is_opened_by_its_directory_its_run_or_a_root_with_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = committed(tmp_path).digest
    monkeypatch.chdir(tmp_path / "run")
    absolute = [
        f"{tmp_path}",
        f"{tmp_path}/run",
        f"{tmp_path}/run/",
        f"{tmp_path}/run/manifest",
        f"file://{tmp_path}/run",
    ]
    for uri in (*absolute, ".", "..", "manifest", "../run/manifest/"):
        manifest = Manifest.open(uri)
        assert manifest.digest == digest
        assert manifest.verify().ok
        assert manifest.explain(manifest.at(0)["doc_id"])["fate"] == "kept"


def test_a_manifest_that_is_not_there_is_said_so_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no manifest at .*nowhere: .* Give the directory of a finished run"):
        Manifest.open(str(tmp_path / "nowhere"))
    committed(tmp_path)
    shutil.copytree(tmp_path / "run", tmp_path / "walk")
    with pytest.raises(NotFoundError, match=rf"holds 2 manifests: run, walk\. Name one of them: {tmp_path}/run"):
        Manifest.open(str(tmp_path))


def test_a_manifest_travels_to_other_processes(tmp_path: Path) -> None:
    manifest = committed(tmp_path)
    copy = pickle.loads(pickle.dumps(manifest))  # noqa: S301
    assert copy.digest == manifest.digest
    assert copy.rows(0, 9).equals(manifest.rows(0, 9))
    assert "run/manifest" in repr(copy)


@settings(deadline=None)
@given(data=st.data())
def test_any_positions_are_read_in_the_order_asked_for(manifest: Manifest, data: st.DataObject) -> None:
    everything = manifest.rows(0, len(manifest)).to_pylist()
    wanted = data.draw(st.lists(st.integers(0, len(manifest) - 1), max_size=40))
    taken = manifest.take(wanted)
    assert taken.schema == tables.MANIFEST
    assert taken.to_pylist() == [everything[position] for position in wanted]


@settings(deadline=None)
@given(world_size=st.integers(1, 4), per_rank=st.integers(1, 9), start=st.integers(0, 30))
def test_the_ranks_of_a_batch_share_out_its_rows(
    manifest: Manifest, world_size: int, per_rank: int, start: int
) -> None:
    size = world_size * per_rank
    for step in range(-(-(len(manifest) - start) // size)):
        first = start + step * size
        batch = list(range(first, min(first + size, len(manifest))))
        for rank in range(world_size):
            rows = manifest.batch(step, global_batch_size=size, rank=rank, world_size=world_size, start=start)
            assert rows["position"].to_pylist() == batch[rank::world_size]


def test_a_batch_that_cannot_be_says_why(manifest: Manifest) -> None:
    with pytest.raises(UsageError, match=r"=12 does not divide evenly over world_size=5 ranks\. 10 and 15 do\."):
        manifest.batch(0, global_batch_size=12, world_size=5)
    with pytest.raises(UsageError, match=r"rank=5 is not one of world_size=5 ranks\. They are 0 to 4\."):
        manifest.batch(0, global_batch_size=10, rank=5, world_size=5)
    with pytest.raises(NotFoundError, match=r"There is no step 99: from position 3 to the end at \d+ there are \d+"):
        manifest.batch(99, global_batch_size=10, start=3)
    with pytest.raises(NotFoundError, match=r"There is no position -1 in this manifest: positions are 0 to \d+\."):
        manifest.at(-1)


def test_a_document_is_found_at_each_of_its_positions(manifest: Manifest) -> None:
    everything = manifest.rows(0, len(manifest))
    for doc_id in set(everything["doc_id"].to_pylist()):
        positions = [position for position, there in enumerate(everything["doc_id"].to_pylist()) if there == doc_id]
        assert manifest.when(doc_id) == manifest.when(doc_id.hex()) == manifest.when(doc_id.hex().upper()) == positions
    assert manifest.when(bytes(16)) == []
    for nonsense in ("abc", b"abc", "g" * 32):
        with pytest.raises(UsageError, match=r"is not a doc_id\. Give its 32 hex digits"):
            manifest.when(nonsense)


def test_every_document_of_the_corpus_is_explained(manifest: Manifest) -> None:
    fates: dict[str, int] = dict.fromkeys(tables.FATES, 0)
    for decided in pa.concat_tables(example()["decisions"]).to_pylist():
        told = manifest.explain(decided["doc_id"])
        assert (told["fate"], told["reason"], told["row"]) == (decided["fate"], decided["reason"], decided["row"])
        assert told["uri"] == ["/corpus/a.jsonl", "/corpus/b.parquet"][decided["file"]]
        assert told["duplicate_of"] == (decided["duplicate_of"] and decided["duplicate_of"].hex())
        assert bool(told["positions"]) == (told["fate"] == "kept")
        fates[told["fate"]] += 1
    assert all(manifest.info["counts"][fate] == count for fate, count in fates.items() if fate != "quarantined")
    with pytest.raises(NotFoundError, match=r"There is no document 0{32} in the corpus of this manifest"):
        manifest.explain(bytes(16))


def test_copies_of_a_document_are_explained_by_the_one_that_was_kept(tmp_path: Path) -> None:
    inputs = example()
    decided = pa.concat_tables(inputs["decisions"]).unify_dictionaries().combine_chunks()
    fate = decided["fate"].to_pylist()
    copy = fate.index("duplicate")
    kept = fate.index("kept", copy)
    ids = decided["doc_id"].to_pylist()
    ids[copy] = ids[kept]
    inputs["decisions"] = [replaced(decided, "doc_id", pa.array(ids, tables.DOC_ID))]
    told = committed(tmp_path, inputs).explain(ids[kept])
    assert told["fate"] == "kept"
    assert [(found["row"], found["fate"]) for found in told["copies"]] == [(decided["row"][copy].as_py(), "duplicate")]


def test_describe_adds_up(manifest: Manifest) -> None:
    told = manifest.describe()
    rows = manifest.rows(0, len(manifest)).to_pylist()
    assert told["visits"] == len(rows)
    assert told["documents"] == len({row["doc_id"] for row in rows}) == told["counts"]["kept"]
    assert told["tokens"] == sum(row["num_tokens"] for row in rows)
    for mixture, column in ((told["sources"], "source"), (told["clusters"], "cluster")):
        for name, share in mixture.items():
            there = [row for row in rows if row[column] == name]
            assert share == {"visits": len(there), "tokens": sum(row["num_tokens"] for row in there)}
        assert sum(share["visits"] for share in mixture.values()) == len(rows)
    for tenth, mean in enumerate(told["difficulty"]):
        there = [row["difficulty"] for row in rows if row["position"] * 10 // len(rows) == tenth]
        assert mean == pytest.approx(np.mean(there))
    json.dumps(told)
    json.dumps(manifest.at(0))
