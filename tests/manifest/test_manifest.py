import dataclasses
import functools
import hashlib
import importlib
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
from hypothesis import given
from hypothesis import strategies as st

from manifests import committed_in
from selector import failpoint, tables
from selector.engine.local import LocalExecutor
from selector.engine.store import to_parquet
from selector.errors import DamagedError, NotFoundError, SelectorError, UsageError
from selector.exact import keyed
from selector.manifest import Manifest, ids
from selector.manifest.commit import PART_ROWS
from selector.manifest.digest import LEAF_ROWS, encode, root
from selector.manifest.format import canonical, part_bytes, part_name
from selector.manifest.header import Facts, Parent, seal
from selector.storage import open_storage

FORK = multiprocessing.get_context("fork")


# By outcome: the template, its arguments, and the sentence that they make.
REASONS = {
    "kept": ("cluster {cluster}: within quota {quota}", '{"cluster": 3, "quota": 9}', "cluster 3: within quota 9"),
    "left_out": ("cluster {cluster}: beyond quota {quota}", '{"cluster": 3, "quota": 9}', "cluster 3: beyond quota 9"),
    "duplicate": ("the same text as another document", None, "the same text as another document"),
    "marked": ("marked {by}", '{"by": "contamination"}', "marked contamination"),
    "quarantined": ("quarantined in embed", None, "quarantined in embed"),
}


def example(
    num_documents: int = 60, *, repeats: int = 2, phases: tuple[str, ...] = ("warm", "späte Phase")
) -> dict[str, Any]:
    """What a pipeline gives to `commit`: two files, half of the documents chosen, every second of those seen again."""
    mixed = np.arange(num_documents) * 2_654_435_761 % 2**31  # no generator: its stream may change with NumPy
    ids = [keyed.digest(b"document %d" % number) for number in range(num_documents)]
    file = (np.arange(num_documents) * 2 // num_documents).astype(np.uint32)
    met = np.array(tables.OUTCOMES)[np.array([0, 0, 0, 0, 0, 1, 1, 2, 3, 4])[mixed % 10]]
    kept = met == "kept"
    decisions = pa.table(
        {
            "doc_id": pa.array(ids, tables.DOC_ID),
            "file": file,
            "row": (np.arange(num_documents) - np.searchsorted(file, file) + 3).astype(np.uint32),
            "outcome": labels(met),
            "reason": labels([REASONS[outcome][0] for outcome in met]),
            "arguments": labels([REASONS[outcome][1] for outcome in met]),
            "visits": np.where(kept, 1 + np.arange(num_documents) % 2, 0).astype(np.uint16),
            "round": np.zeros(num_documents, np.uint16),
            "inclusion_probability": pa.array([0.5 if is_kept else None for is_kept in kept], pa.float32()),
            "value": pa.array([float(mixed[n] % 7) if n % 3 else None for n in range(num_documents)]),
            "cut": pa.array([2.5 if is_kept else None for is_kept in kept]),
            "rank": pa.nulls(num_documents, pa.int64()),
            "other": pa.array([ids[0] if outcome == "duplicate" else None for outcome in met], tables.DOC_ID),
        }
    )
    chosen = decisions.filter(pa.array(kept))
    chosen = chosen.select(["doc_id", "file", "row", "inclusion_probability", "reason", "arguments"])
    n = chosen.num_rows
    for name, values in {
        "source": labels(np.array(["web", "books", "web"] * n)[:n]),
        "cluster": pa.array([None if m % 5 == 4 else m % 5 for m in mixed[:n].tolist()], pa.int32()),
        "byte_offset": pa.array([None, 2**40] * n, pa.int64())[:n],
        "byte_length": pa.array([None, 2**32 - 1] * n, pa.uint32())[:n],
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
        "unread": [None, None],
    }
    count = {outcome: int(np.count_nonzero(met == outcome)) for outcome in tables.OUTCOMES}
    explained = ("left_out", "marked", "quarantined")
    return {
        "chosen": chosen,
        "visits": visits,
        "files": pa.table(files, schema=tables.FILES),
        "decisions": [decisions.slice(0, num_documents // 3), decisions.slice(num_documents // 3)],
        "counts": {
            "rows": num_documents + 2,
            "documents": num_documents,
            **count,
            "quarantined": count["quarantined"] + 2,
            "reasons": {**{REASONS[outcome][2]: count[outcome] for outcome in explained}, "not_json": 2},
            "sources": {"web": (40, 4_000), "books": (20, 2_000)},
            "clusters_tried": [(8, 0.25, 1e-7), (16, 0.5, 1.0)],
        },
        "facts": {"select": {"quotas": {"3": 9}, "spent": 1e21}, "order": {"gap": 0.5}},
        "policy": {"seed": 7, "corpus": {"text": "text", "key": None}},
        "lineage": {"select": "5e1ec7", "order": "04de4"},
        "models": {"embed": {"name": "tiny", "sha256": "00"}},
        "versions": {"pyarrow": pa.__version__},
    }


def labels(values: Any) -> pa.Array:
    return pa.array(values, pa.string()).dictionary_encode()


def sealed(decisions: pa.Table) -> bytes:
    """Decisions as the step that makes them stores them."""
    return to_parquet(canonical(decisions, tables.DECISIONS))


def committed(
    where: Path, inputs: dict[str, Any] | None = None, *, part_rows: int = PART_ROWS, **options: Any
) -> Manifest:
    given: dict[str, Any] = {"left": None, **(inputs or example()), **options}
    left, decided = given.pop("left"), given.pop("decisions")
    given["unvisited"] = [] if left is None else unvisited_of(given["chosen"], left, decided)
    given["decisions"] = [table if isinstance(table, bytes) else sealed(table) for table in decided]
    return committed_in(open_storage(str(where)), part_rows=part_rows, **given)


def unvisited_of(chosen: pa.Table, left: pa.Table, decided: list[pa.Table]) -> list[pa.Table]:
    """What the order leaves, for the documents of each table of decisions."""
    left = left.sort_by("document")
    rows = chosen.select(["doc_id", "file", "row"]).take(left["document"])
    for name in ("reason", "arguments"):
        rows = rows.append_column(name, left[name])
    begins = [(table["file"][0].as_py(), table["row"][0].as_py()) for table in decided if len(table)]
    places = list(zip(rows["file"].to_pylist(), rows["row"].to_pylist(), strict=True))
    of = np.array([sum(begin <= place for begin in begins[1:]) for place in places], np.int64)
    return [rows.filter(pa.array(of == number)) for number in range(len(decided))]


def objects(where: Path) -> dict[str, bytes]:
    """The manifest and the decisions, byte for byte; not what was stored on the way."""
    storage = open_storage(str(where))
    return {key: storage.get(key) or b"" for key, _ in storage.list("") if not key.startswith("artifacts/")}


@pytest.fixture(params=[pytest.param(1, marks=pytest.mark.slow), 7])
def small_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus is compared with the visits in stretches of about so many documents, and ids.parquet is sorted in
    ranges of about so many rows."""
    in_pieces_of(request.param, monkeypatch)


def in_pieces_of(num_rows: int, patch: pytest.MonkeyPatch) -> None:
    for module, name in (("commit", "STRETCH_ROWS"), ("verify", "STRETCH_ROWS"), ("commit", "RANGE_ROWS")):
        patch.setattr(importlib.import_module(f"selector.manifest.{module}"), name, num_rows)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """One manifest of several small parts, for the tests that only read."""
    return committed(tmp_path_factory.mktemp("manifest"), part_rows=9)


# The order digest


def digest_row_by_row(rows: list[dict[str, Any]]) -> str:
    """The definition of the digest, in plain Python."""

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


@pytest.mark.slow
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
    decided = pa.concat_tables(inputs["decisions"]).unify_dictionaries()
    decided = replaced(decided, "outcome", labels(["left_out"] * 60))
    manifest = committed(tmp_path, {**inputs, **nothing, "decisions": [decided], "counts": {}})
    assert len(manifest) == 0
    assert manifest.rows(0, 0).schema == tables.MANIFEST
    assert manifest.info["order_digest"] == hashlib.blake2b(b"\0", digest_size=32).hexdigest() == digest_row_by_row([])
    assert manifest.verify().ok
    assert manifest.describe()["difficulty"] == [None] * 10
    assert manifest.when(bytes(16)) == []
    with pytest.raises(NotFoundError, match=r"There is no position 0 in this manifest: it is empty\."):
        manifest.at(0)


@pytest.mark.slow
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
    assert pq.read_schema(tmp_path / "run/decisions/part-00000.parquet").equals(tables.DECISIONS)


def test_the_same_content_has_the_same_bytes_however_it_is_chunked_and_labelled(tmp_path: Path) -> None:
    def relabelled(table: pa.Table, rows: int) -> pa.Table:
        """The same rows in pieces, their labels numbered backwards."""
        for index, field in enumerate(table.schema):
            if pa.types.is_dictionary(field.type):
                words = ["unused", *sorted(set(table[field.name].drop_null().to_pylist()), reverse=True)]
                codes = pa.array([word and words.index(word) for word in table[field.name].to_pylist()], pa.int16())
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
    named |= {f"run/manifest/{name}.parquet": info[name]["sha256"] for name in ("files", "ids")}
    stored = objects(tmp_path)
    assert set(stored) == {*named, "run/manifest/manifest.json"}
    assert all(hashlib.sha256(stored[key]).hexdigest() == sha256 for key, sha256 in named.items())
    content = {name: value for name, value in info.items() if name != "digest"}
    plain = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    plain = plain.replace("1e-07", "1e-7")  # Python writes all else that is here as RFC 8785 does
    assert info["digest"] == manifest.digest == hashlib.blake2b(plain.encode(), digest_size=32).hexdigest()
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


@given(token=st.integers(0, 10**4))
def test_the_position_of_a_token_is_a_bisect(manifest: Manifest, token: int) -> None:
    starts = manifest.rows(0, len(manifest))["token_start"].to_numpy()
    token %= manifest.info["counts"]["tokens"]
    visit = manifest.at(int(np.searchsorted(starts, token, side="right")) - 1)
    assert visit["token_start"] <= token < visit["token_start"] + visit["num_tokens"]


def test_decisions_are_stored_byte_for_byte(tmp_path: Path) -> None:
    inputs = example()
    # Not as we would write them: a step may cut and compress them as it likes.
    written = [to_parquet(canonical(table, tables.DECISIONS), row_group_size=7) for table in inputs["decisions"]]
    manifest = committed(tmp_path, {**inputs, "decisions": written})
    assert manifest.verify().ok
    for index, data in enumerate(written):
        assert (tmp_path / f"run/decisions/{part_name(index)}").read_bytes() == data


def test_what_nobody_told_is_null_or_empty(tmp_path: Path) -> None:
    inputs = example()
    nullable = [field.name for field in tables.MANIFEST if field.nullable]
    assert nullable == ["cluster", "byte_offset", "byte_length", "inclusion_probability", "difficulty", "quality"]
    chosen = inputs["chosen"].drop_columns([*nullable, "arguments"])
    manifest = committed(tmp_path, {**inputs, "chosen": chosen, "counts": {}, "facts": {}})
    assert all(manifest.at(0)[name] is None for name in nullable)
    assert manifest.at(0)["reason"] == REASONS["kept"][0], "without arguments it is a sentence as it stands"
    assert manifest.describe()["clusters"] == {}
    counts = manifest.header.counts
    assert counts.rows == counts.documents == 60 and sum(counts.reasons.values()) == 60 - counts.kept - counts.duplicate
    assert manifest.header.facts == Facts(select={}, order={})
    assert manifest.verify().ok


def test_reasons_are_sentences_in_the_manifest_and_templates_beside_it(tmp_path: Path) -> None:
    inputs = example()
    n = len(inputs["chosen"])
    arguments = [json.dumps({"cluster": at % 3, "quota": 9}) for at in range(n)]
    inputs["chosen"] = replaced(inputs["chosen"], "arguments", labels(arguments))
    manifest = committed(tmp_path, inputs)
    told = [manifest.at(position)["reason"] for position in range(n)]
    assert told == [f"cluster {at % 3}: within quota 9" for at in inputs["visits"]["document"].to_pylist()[:n]]
    stored = pq.read_table(tmp_path / "run/decisions/part-00000.parquet")
    assert set(stored["reason"].to_pylist()) == {template for template, _, _ in REASONS.values()}


def test_phases_carry_what_the_order_says_of_them(tmp_path: Path) -> None:
    facts = {"b": {"mixture": {"web": 0.5}}, "never": {"x": 1}}
    manifest = committed(tmp_path, example(phases=("a", "b", "a")), phases=facts)
    assert [phase["facts"] for phase in manifest.info["phases"]] == [{}, {"mixture": {"web": 0.5}}, {}]
    assert manifest.verify().ok


def test_a_manifest_names_the_one_that_it_continues(tmp_path: Path) -> None:
    parent = Parent(digest="ab" * 32, position=7)
    manifest = committed(tmp_path, parent=parent, plugins={"selector": {"name": "random"}})
    assert manifest.header.parent == parent
    assert manifest.info["parent"] == {"digest": "ab" * 32, "position": 7}
    assert manifest.info["plugins"] == {"selector": {"name": "random"}}


# What the order does not visit


def with_left(rows: list[int], inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    """The example, some rows of the order's pool left by the order."""
    inputs = inputs or example(repeats=1)
    document = inputs["visits"]["document"].to_numpy()
    inputs["visits"] = inputs["visits"].filter(pa.array(~np.isin(document, rows)))
    arguments = labels(['{"gap": 3}'] * len(rows))
    inputs["left"] = pa.table([rows, labels(["no room within {gap}"] * len(rows)), arguments], schema=tables.LEFT)
    return inputs


def test_documents_that_the_order_leaves_have_their_reason_on_file(tmp_path: Path) -> None:
    inputs = with_left([4, 2])
    manifest = committed(tmp_path, inputs)
    assert manifest.verify().ok
    assert manifest.info["facts"]["order"] == {"gap": 0.5, "left": {"no room within 3": 2}}
    assert manifest.info["counts"]["kept"] == len(inputs["chosen"]) == manifest.describe()["documents"] + 2
    ids = inputs["chosen"]["doc_id"].to_pylist()
    told = manifest.explain(ids[4])
    assert (told["outcome"], told["positions"], told["unvisited"]) == ("kept", [], ["no room within 3"])
    assert manifest.explain(ids[5])["unvisited"] == []
    table = pq.read_table(tmp_path / "run/manifest/unvisited.parquet")
    assert table.schema.equals(tables.UNVISITED) and table["doc_id"].to_pylist() == [ids[2], ids[4]]
    assert committed(tmp_path / "again", with_left([2, 4])).digest == manifest.digest
    path = tmp_path / "run/manifest/unvisited.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    assert any("unvisited.parquet is damaged" in problem for problem in manifest.verify().problems)


def test_a_document_has_a_row_in_the_pool_for_every_visit_that_was_decided(tmp_path: Path) -> None:
    inputs = example(repeats=1)
    n = len(inputs["chosen"])
    inputs["chosen"] = pa.concat_tables([inputs["chosen"], inputs["chosen"].slice(0, 3)])
    again = inputs["visits"].slice(0, 3)
    again = replaced(replaced(again, "document", np.arange(n, n + 3)), "visit", np.ones(3, np.uint16))
    inputs["visits"] = pa.concat_tables([inputs["visits"], again]).unify_dictionaries()
    ids = inputs["chosen"]["doc_id"].to_pylist()
    manifest = committed(tmp_path / "all", inputs)
    assert manifest.verify().ok and manifest.describe()["documents"] == n == len(manifest) - 3
    assert len(manifest.when(ids[0])) == 2
    left = committed(tmp_path / "left", with_left([n + 1], inputs))
    assert left.verify().ok and left.describe()["documents"] == n
    assert (len(left.when(ids[1])), left.explain(ids[1])["unvisited"]) == (1, ["no room within 3"])


@pytest.mark.parametrize(
    ("rows", "change", "message"),
    [
        ([2], {"left": None}, "1 documents were kept but never visited, or visited but not kept; the first is row 7"),
        ([2], {"outcome": "left_out"}, "leaves a document that was not kept: row [0-9]+ of file 0"),
    ],
)
def test_documents_that_the_order_leaves_are_compared_with_the_others(
    tmp_path: Path, rows: list[int], change: dict[str, Any], message: str
) -> None:
    inputs = with_left(rows)
    if "outcome" in change:
        decided = pa.concat_tables(inputs["decisions"]).unify_dictionaries().combine_chunks()
        place = decided["doc_id"].to_pylist().index(inputs["chosen"]["doc_id"][rows[0]].as_py())
        outcome = decided["outcome"].to_pylist()
        outcome[place] = "left_out"
        change = {"decisions": [replaced(decided, "outcome", labels(outcome))], "counts": {}}
    with pytest.raises(SelectorError, match=message):
        committed(tmp_path, {**inputs, **change})
    assert not (tmp_path / "run/manifest/manifest.json").exists()


# Commit


def test_committing_again_changes_nothing(tmp_path: Path) -> None:
    first = committed(tmp_path)
    before = objects(tmp_path)
    assert committed(tmp_path).digest == first.digest
    assert objects(tmp_path) == before


@pytest.mark.slow
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
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 8
    answers = {results.get() for _ in workers}
    assert answers == {(committed(tmp_path / "alone", part_rows=10).digest, True)}
    assert objects(tmp_path / "alone") == objects(tmp_path / "together")


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, bytes], int]:
    """The digest and the objects of a commit, and how many it writes: what workers hand to each other as well."""
    count: list[str] = []
    where = tmp_path_factory.mktemp("unharmed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(failpoint, "reach", count.append)
        manifest = committed(where, part_rows=30)
    return manifest.digest, objects(where), count.count("store.before_link")


@pytest.mark.parametrize(
    "place",
    [
        *(name for name in failpoint.POINTS if name.startswith("commit.")),
        *("store.before_link:1", "store.before_link:5", "store.after_link:9", "store.after_link:10"),
        *(
            pytest.param(f"store.{side}_link:{tenths}", marks=pytest.mark.slow)
            for side, places in (("before", (0, 3, 7, 9, 10)), ("after", (0, 1, 3, 5, 7)))
            for tenths in places
        ),
    ],
)
def test_a_commit_killed_anywhere_is_finished_by_the_next_one(
    tmp_path: Path, place: str, unharmed: tuple[str, dict[str, bytes], int]
) -> None:
    digest, stored, num_links = unharmed
    name, _, tenths = place.partition(":")
    rest = f"kill:{max(1, num_links * int(tenths) // 10)}" if tenths else "kill"

    def work() -> None:
        os.environ["SELECTOR_FAILPOINT"] = f"{name}:{rest}"
        committed(tmp_path / "runs", part_rows=30)

    worker = FORK.Process(target=work)
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    is_there = (tmp_path / "runs/run/manifest/manifest.json").exists()
    assert is_there == (name == "commit.after_manifest" or place == "store.after_link:10")
    if is_there:
        assert Manifest.open(str(tmp_path / "runs")).verify().ok
    else:
        with pytest.raises(NotFoundError):
            Manifest.open(str(tmp_path / "runs"))
    manifest = committed(tmp_path / "runs", part_rows=30)
    assert manifest.verify().ok
    assert manifest.digest == digest and objects(tmp_path / "runs") == stored


@pytest.mark.slow
@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("kill", [None, "store.before_link:kill", "store.after_seal:kill:2"])
def test_workers_make_the_same_bytes_as_one_process_also_where_one_of_them_is_killed(
    tmp_path: Path, kill: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = with_left([2, 4, 40], example(90, repeats=1))
    alone = committed(tmp_path / "alone", inputs, part_rows=9)
    blobs = "artifacts/blobs"  # the decisions, which are there before, and not written by a worker
    shutil.copytree(tmp_path / "alone" / blobs, tmp_path / "together" / blobs)
    if kill is not None:
        monkeypatch.setenv("SELECTOR_FAILPOINT", kill)
        monkeypatch.setenv("SELECTOR_FAILPOINT_ONCE", str(tmp_path / "killed"))
    with LocalExecutor(workers=2) as executor:
        together = committed(tmp_path / "together", inputs, part_rows=9, mapper=executor.map)
    assert kill is None or (tmp_path / "killed").exists()
    assert together.verify().ok and together.digest == alone.digest
    assert objects(tmp_path / "together") == objects(tmp_path / "alone")


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
        r"outcomes that there are not: \['lost'\]": {
            "decisions": [replaced(decided, "outcome", labels(["lost"] * 60))]
        },
        "The column doc_id has 60 nulls": {"decisions": [replaced(decided, "doc_id", pa.nulls(60, tables.DOC_ID))]},
        "The decisions are not in the order of the corpus": {"decisions": [decided.slice(30), decided.slice(0, 30)]},
        "The decisions are not `tables.DECISIONS`": {"decisions": [to_parquet(decided.drop_columns(["cut"]))]},
        "The column source has .* nulls": {"chosen": replaced(chosen, "source", labels([None] * len(chosen)))},
        "The count of quarantined is .*, and the rows come to": {"counts": {**counts, "rows": 60}},
        "The count of reasons is 1, and the rows come to": {"counts": {**counts, "reasons": {"where": 1}}},
        "The count of the reason 'marked contamination' is 0, and the rows come to": {
            "counts": {**counts, "reasons": {"where": sum(counts["reasons"].values())}}
        },
        **{
            f"The count of {name} is 1, and the rows come to": {"counts": {**counts, name: 1}}
            for name in ("documents", "kept", "left_out", "duplicate", "marked", "quarantined", "visits", "tokens")
        },
    }


@pytest.mark.slow
@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("small_pieces", [7], indirect=True)
@pytest.mark.parametrize(("message", "change"), flaws().items())
def test_what_does_not_add_up_is_not_committed_in_small_pieces(
    tmp_path: Path, message: str, change: dict[str, Any]
) -> None:
    inputs = example()
    decided = pa.concat_tables(inputs["decisions"]).unify_dictionaries().combine_chunks()
    inputs["decisions"] = [decided.slice(first, 7) for first in range(0, 60, 7)]
    with pytest.raises(SelectorError, match=f"{message}.*fault of ours|fault of ours.*{message}"):
        committed(tmp_path, {**inputs, **change}, part_rows=11)


@pytest.mark.parametrize(("message", "change"), flaws().items())
def test_what_does_not_add_up_is_not_committed(tmp_path: Path, message: str, change: dict[str, Any]) -> None:
    with pytest.raises(SelectorError, match=f"{message}.*fault of ours|fault of ours.*{message}"):
        committed(tmp_path, {**example(), **change})
    assert not (tmp_path / "run/manifest/manifest.json").exists()


# Verify


@pytest.mark.slow
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
        "run/manifest/ids.parquet": [lambda manifest: manifest.when(doc_id), lambda manifest: manifest.explain(doc_id)],
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
    (where / "run/manifest/manifest.json").write_bytes(seal(content))
    found = Manifest.open(str(where)).verify()
    assert found.ok == (not found.problems)
    return found.problems


@pytest.mark.usefixtures("small_pieces")
def test_a_manifest_is_the_same_and_sound_however_small_the_pieces_are(tmp_path: Path) -> None:
    inputs = with_left([4, 2, 9], example(repeats=1))
    decided = pa.concat_tables(inputs["decisions"]).unify_dictionaries().combine_chunks()
    inputs["decisions"] = [decided.slice(first, 7) for first in range(0, 60, 7)]
    manifest = committed(tmp_path / "pieces", inputs, part_rows=11)
    assert manifest.verify().problems == []
    with pytest.MonkeyPatch.context() as patch:
        in_pieces_of(1 << 20, patch)
        assert manifest.verify().problems == []
        committed(tmp_path / "whole", inputs, part_rows=11)
    assert objects(tmp_path / "pieces") == objects(tmp_path / "whole")


def test_verify_compares_what_is_left_with_the_files_and_the_decisions(tmp_path: Path) -> None:
    manifest = committed(tmp_path, with_left([2, 4]))
    part = (tmp_path / "run/manifest/parts/part-00000.parquet").read_bytes()
    path = tmp_path / "run/manifest/unvisited.parquet"
    left = pq.read_table(path)
    for change, message in (
        ({"row": pa.array([1 << 30, 5], pa.uint32())}, "The rows of unvisited.parquet name a file or row that files"),
        ({"row": pa.array([0, 1], pa.uint32())}, "2 documents were kept but never visited"),
        ({"doc_id": left["doc_id"].take([1, 0])}, "The doc_ids of the visits are not those of the decisions."),
    ):
        changed = left
        for name, values in change.items():
            changed = replaced(changed, name, values)
        data = to_parquet(canonical(changed, tables.UNVISITED))
        path.write_bytes(data)
        entry = {"rows": 2, "sha256": hashlib.sha256(data).hexdigest()}
        assert any(message in told for told in sealed_again(tmp_path, manifest, part, unvisited=entry))


def test_verify_checks_where_each_of_the_decisions_is_listed(tmp_path: Path) -> None:
    manifest = committed(tmp_path)
    part = (tmp_path / "run/manifest/parts/part-00000.parquet").read_bytes()
    problems = sealed_again(tmp_path, manifest, part, decisions=manifest.info["decisions"][::-1])
    assert any(
        "part-00001.parquet of the decisions in run/manifest/manifest.json is out of place" in p for p in problems
    )


def test_positions_that_a_step_gives_are_checked_and_not_made_again(tmp_path: Path) -> None:
    inputs = example()
    inputs["chosen"] = inputs["chosen"].append_column("position", pa.array(np.arange(len(inputs["chosen"]))))
    with pytest.raises(SelectorError, match="The visits from position 0 on are not numbered one after the other"):
        committed(tmp_path, inputs)


@pytest.mark.usefixtures("small_pieces")
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
    assert message in sealed_again(tmp_path, manifest, part_bytes(rows))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("phases", [], "The phases in"),
        ("leaf_digests", ["00" * 32], "The leaf_digests in"),
        ("order_digest", "00" * 32, "The order_digest in"),
        (
            "order_digest",
            "00",
            "is damaged: it is no manifest.json of format version 2: order_digest is '00' and is to",
        ),
        ("files", {"rows": 3}, "files.parquet is damaged: it has 2 rows and 3 were committed."),
        ("counts", {"kept": 1}, "The count of kept is 1"),
        ("counts", {"rows": 1}, "The count of quarantined is"),
        ("format_version", 3, "has format version 3, and this is Selector for version 2. Install a newer Selector."),
        ("facts", {"order": {"left": {"why": 1}}}, "The facts.order.left in"),
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
    (tmp_path / "run/manifest/manifest.json").write_bytes(seal({**content, "parts": parts}))
    problems = Manifest.open(str(tmp_path)).verify().problems
    assert "part-00001.parquet in run/manifest/manifest.json is out of place: it has first_position 10." in problems[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.slice(1), "The rows of ids.parquet are not those of the visits."),
        (lambda table: moved(table, "position"), "The rows of ids.parquet are not those of the visits."),
        (lambda table: table.take(np.arange(len(table))[::-1]), "The rows of ids.parquet are not sorted."),
    ],
)
def test_verify_compares_the_index_with_the_visits(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    manifest = committed(tmp_path)
    path = tmp_path / "run/manifest/ids.parquet"
    changed = change(pq.read_table(path))
    data = b"".join(ids.index_pieces([changed.cast(tables.IDS)]))
    path.write_bytes(data)
    part = (tmp_path / "run/manifest/parts/part-00000.parquet").read_bytes()
    entry = {"rows": len(changed), "sha256": hashlib.sha256(data).hexdigest()}
    assert message in sealed_again(tmp_path, manifest, part, ids=entry)


def test_verify_checks_where_manifest_json_places_the_decisions(tmp_path: Path) -> None:
    manifest = committed(tmp_path)
    part = (tmp_path / "run/manifest/parts/part-00000.parquet").read_bytes()
    first, second = manifest.info["decisions"]
    (problem,) = sealed_again(tmp_path, manifest, part, decisions=[first, {**second, "first_row": 99}])
    assert problem.startswith("The first row of part-00001.parquet of the decisions in run/manifest/manifest.json")


def test_a_part_with_other_columns_or_row_groups_is_not_of_this_format(tmp_path: Path) -> None:
    manifest = committed(tmp_path)
    rows = manifest.rows(0, len(manifest))
    (problem,) = sealed_again(tmp_path, manifest, to_parquet(rows.drop_columns(["quality"])))
    assert "its columns are not those of format version 2" in problem
    (problem,) = sealed_again(tmp_path, manifest, to_parquet(rows, row_group_size=10))
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
        assert manifest.explain(manifest.at(0)["doc_id"])["outcome"] == "kept"


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


@given(data=st.data())
def test_any_positions_are_read_in_the_order_asked_for(manifest: Manifest, data: st.DataObject) -> None:
    everything = manifest.rows(0, len(manifest)).to_pylist()
    wanted = data.draw(st.lists(st.integers(0, len(manifest) - 1), max_size=40))
    taken = manifest.take(wanted)
    assert taken.schema == tables.MANIFEST
    assert taken.to_pylist() == [everything[position] for position in wanted]


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


NOT_WHOLE = [1.5, "1", None, True, b"1", [1], {}, float("nan"), object(), np.float32(2), np.array([1, 2])]
NOT_POSITIONS = [5, None, "abc", [1.5], ["a"], [None], [True], [[1], [1, 2]], [[1, 2]], object(), np.array([True]), {}]


@pytest.mark.parametrize("value", NOT_WHOLE, ids=lambda value: type(value).__name__)
def test_a_call_takes_whole_numbers_and_says_which_one_is_none(value: Any, manifest: Manifest) -> None:
    calls: dict[str, Callable[[], Any]] = {
        "position": lambda: manifest.at(value),
        "step": lambda: manifest.batch(value, global_batch_size=4),
        "start": lambda: manifest.rows(value, 3),
        "stop": lambda: manifest.rows(0, value),
    }
    for name in ("global_batch_size", "rank", "world_size", "start"):
        calls[f"{name}"] = functools.partial(manifest.batch, 0, **{"global_batch_size": 4, name: value})
    for name, call in calls.items():
        with pytest.raises(UsageError, match=rf"^{name}=.* is not a whole number\."):
            call()
    with pytest.raises(UsageError, match="is not a doc_id"):
        manifest.when(value)
    with pytest.raises(UsageError, match="is not a doc_id"):
        manifest.explain(value)


@pytest.mark.parametrize("value", NOT_POSITIONS)
def test_what_is_no_list_of_positions_is_refused(value: Any, manifest: Manifest) -> None:
    with pytest.raises(UsageError, match="is not a list of positions"):
        manifest.take(value)


def test_positions_of_any_size_and_kind_are_there_or_not_found(manifest: Manifest) -> None:
    size = len(manifest)
    for far in (10**26, size, 2**63, -1, -(10**26)):
        outside: list[Callable[[], Any]] = [
            functools.partial(manifest.at, far), functools.partial(manifest.take, [0, far]),
            functools.partial(manifest.rows, min(0, far), max(far, 0) + 1),
            functools.partial(manifest.batch, far, global_batch_size=4),
        ]  # fmt: skip
        for call in outside:
            with pytest.raises(NotFoundError, match=r"There is no (position|step) -?\d+"):
                call()
    with pytest.raises(UsageError, match=r"^start=3 is behind stop=1\."):
        manifest.rows(3, 1)
    assert len(manifest.rows(size, size)) == 0 and len(manifest.take([])) == 0
    everything = manifest.rows(0, size)
    assert manifest.batch(0, global_batch_size=10**26).equals(everything), "and no array of that size is made"
    for positions in (range(size), np.arange(size, dtype=np.uint8), tuple(range(size)), pa.array(range(size))):
        assert manifest.take(positions).equals(everything)
    assert manifest.at(everything["position"].to_numpy()[3]) == manifest.at(3)


@pytest.mark.parametrize("uri", [None, 5, b"x", "", "a\0b", "~nobody-of-this-name/runs", "file://host/x", 1.5])
def test_what_cannot_be_an_address_is_refused(uri: Any) -> None:
    with pytest.raises(UsageError, match="The address "):
        Manifest.open(uri)


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
    outcomes: dict[str, int] = dict.fromkeys(tables.OUTCOMES, 0)
    for decided in pa.concat_tables(example()["decisions"]).to_pylist():
        told = manifest.explain(decided["doc_id"])
        assert (told["outcome"], told["row"], told["cut"]) == (decided["outcome"], decided["row"], decided["cut"])
        assert told["reason"] == REASONS[told["outcome"]][2]
        assert told["arguments"] == json.loads(decided["arguments"] or "{}")
        assert told["uri"] == ["/corpus/a.jsonl", "/corpus/b.parquet"][decided["file"]]
        assert told["other"] == (decided["other"] and decided["other"].hex())
        assert bool(told["positions"]) == (told["outcome"] == "kept")
        outcomes[told["outcome"]] += 1
        json.dumps(told)
    counts = manifest.info["counts"]
    assert all(counts[outcome] == count for outcome, count in outcomes.items() if outcome != "quarantined")
    with pytest.raises(NotFoundError, match=r"There is no document 0{32} in the corpus of this manifest"):
        manifest.explain(bytes(16))


def test_copies_of_a_document_are_explained_by_the_one_that_was_kept(tmp_path: Path) -> None:
    inputs = example()
    decided = pa.concat_tables(inputs["decisions"]).unify_dictionaries().combine_chunks()
    outcome = decided["outcome"].to_pylist()
    copy = outcome.index("duplicate")
    kept = outcome.index("kept", copy)
    ids = decided["doc_id"].to_pylist()
    ids[copy] = ids[kept]
    inputs["decisions"] = [replaced(decided, "doc_id", pa.array(ids, tables.DOC_ID))]
    told = committed(tmp_path, inputs).explain(ids[kept])
    assert told["outcome"] == "kept"
    copies = [(found["row"], found["outcome"]) for found in told["copies"]]
    assert copies == [(decided["row"][copy].as_py(), "duplicate")]


def test_a_look_up_decodes_only_the_row_groups_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = committed(tmp_path, example(200_000, repeats=2))
    metadata = pq.read_metadata(tmp_path / "run/manifest/ids.parquet")
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)][:2] == [65_536, 65_536]
    assert all(metadata.row_group(0).column(index).has_column_index for index in range(2))
    doc_id = manifest.at(100_000)["doc_id"]
    positions = manifest.when(doc_id)
    fresh, decoded = Manifest.open(str(tmp_path)), list[int]()
    read = pq.ParquetFile.read_row_group

    def noted(file: pq.ParquetFile, group: int, **options: Any) -> pa.Table:
        decoded.append(group)
        return read(file, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read", None)  # nothing is read whole
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", noted)
    assert fresh.when(doc_id) == positions and 100_000 in positions and len(positions) == 2
    assert len(decoded) == 3, "one of the index and one for each visit"
    assert fresh.when(bytes(16)) == []


def test_documents_whose_ids_begin_alike_are_told_apart(tmp_path: Path) -> None:
    def alike(ids: pa.ChunkedArray) -> pa.Array:
        return pa.array([b"\xff" * 8 + doc_id[8:] for doc_id in ids.to_pylist()], tables.DOC_ID)

    inputs = example()
    for name in ("chosen", "decisions"):
        given = inputs[name] if name == "chosen" else pa.concat_tables(inputs[name]).unify_dictionaries()
        changed = replaced(given, "doc_id", alike(given["doc_id"]))
        inputs[name] = changed if name == "chosen" else [changed]
    manifest = committed(tmp_path, inputs)
    ids = manifest.rows(0, len(manifest))["doc_id"].to_pylist()
    for doc_id in set(ids):
        assert manifest.when(doc_id) == [position for position, found in enumerate(ids) if found == doc_id]
    assert manifest.when(b"\xff" * 8 + bytes(8)) == []
    assert manifest.verify().ok


@given(heads=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), max_size=50), cut=st.integers(0, 50))
def test_an_index_finds_every_position_of_a_prefix(heads: list[int], cut: int) -> None:
    whole = keyed.ids(np.array([heads, heads], np.uint64).reshape(2, -1).T)
    pieces = [
        ids.listed_in(whole[part], pa.array(range(len(heads)), pa.int64())[part])
        for part in (slice(0, cut), slice(cut, None))
    ]
    rows = ids.by_prefix(pa.concat_tables(pieces))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selector.manifest.ids.LEAF_ROWS", 4)  # so that a prefix spans row groups
        file = pq.ParquetFile(pa.BufferReader(b"".join(ids.index_pieces([rows]))))
    opened = ids.Index("ids.parquet", file)
    for prefix in {*heads, 0, 1, 2**63, 2**64 - 1}:
        assert opened.positions(prefix).tolist() == [at for at, head in enumerate(heads) if head == prefix]


def test_a_kept_document_is_explained_without_reading_other_decisions(tmp_path: Path) -> None:
    inputs = example()
    decided = pa.concat_tables(inputs["decisions"]).unify_dictionaries().combine_chunks()
    others = ["kept" if outcome == "kept" else "left_out" for outcome in decided["outcome"].to_pylist()]
    decided = replaced(replaced(decided, "outcome", labels(others)), "value", pa.nulls(60, pa.float64()))
    inputs["decisions"] = [decided.slice(0, 20), decided.slice(20, 0), decided.slice(20, 20), decided.slice(40)]
    manifest = committed(tmp_path, {**inputs, "counts": {}})
    expected = {doc_id: manifest.explain(doc_id) for doc_id in inputs["chosen"]["doc_id"].to_pylist()}
    rows = {row["doc_id"]: index for index, row in enumerate(decided.to_pylist())}
    for part in (0, 2, 3):
        path = tmp_path / f"run/decisions/{part_name(part)}"
        sound = path.read_bytes()
        path.write_bytes(b"")
        for doc_id, told in expected.items():
            if {0: 0, 1: 2, 2: 3}[rows[doc_id] // 20] == part:
                with pytest.raises(DamagedError, match=re.escape(path.name)):
                    manifest.explain(doc_id)
            else:
                assert manifest.explain(doc_id) == told
        path.write_bytes(sound)


def test_a_rank_that_the_selector_did_not_give_is_counted_where_it_is_asked_for(tmp_path: Path) -> None:
    inputs = example()
    manifest = committed(tmp_path, inputs)
    decided = pa.concat_tables(inputs["decisions"]).to_pylist()
    shared = 0
    for row in decided:
        told = manifest.explain(row["doc_id"])
        if row["value"] is None:
            assert (told["value"], told["rank"], told["of"]) == (None, None, None)
            continue
        group = [
            other for other in decided if (other["arguments"], other["value"] is None) == (row["arguments"], False)
        ]
        group.sort(key=lambda other: (-other["value"], other["doc_id"]))
        assert (told["rank"], told["of"]) == (1 + group.index(row), len(group))
        shared += sum(other["value"] == row["value"] for other in group) - 1
    assert shared, "some have equal values, and their ids decide"


def test_a_rank_that_the_selector_gave_is_told_from_one_on(tmp_path: Path) -> None:
    inputs = example()
    decided = pa.concat_tables(inputs["decisions"]).unify_dictionaries().combine_chunks()
    inputs["decisions"] = [replaced(decided, "rank", pa.array(range(60), pa.int64()))]
    told = committed(tmp_path, inputs).explain(decided["doc_id"][7].as_py())
    assert (told["rank"], told["of"]) == (8, None)


def test_describe_tells_how_many_have_which_reason(manifest: Manifest) -> None:
    told, counts = manifest.describe(), manifest.info["counts"]
    assert told["reasons"] == {
        "cluster 3: beyond quota 9": counts["left_out"],
        "marked contamination": counts["marked"],
        "quarantined in embed": counts["quarantined"] - 2,
        "not_json": 2,
    }
    assert told["facts"] == {"select": {"quotas": {"3": 9}, "spent": 1e21}, "order": {"gap": 0.5}}


def test_describe_measures_the_order_the_same_however_it_is_cut_into_parts(tmp_path: Path) -> None:
    whole, cut = committed(tmp_path / "whole"), committed(tmp_path / "cut", part_rows=7)
    assert len(cut.header.parts) > 3
    told, other = whole.describe()["measures"], cut.describe()["measures"]
    assert other["diversity"] == told["diversity"] and other["quality"]["scored"] == told["quality"]["scored"]
    for name in ("tau", "displacement", "displaced_at_most"):
        assert other["difficulty"][name] == told["difficulty"][name]
    assert other["difficulty"]["continuity"] == pytest.approx(told["difficulty"]["continuity"])
    assert [border["phase"] for border in told["difficulty"]["borders"]] == ["späte Phase"]
    assert told["quality"]["tau"] is None, "all of them are equal"
    assert told["quality"]["scored"] < len(whole) and set(told["diversity"]) == {"source", "cluster"}


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
        there = [row for row in rows if row[column] is not None]
        assert sum(share["visits"] for share in mixture.values()) == len(there)
    for tenth, mean in enumerate(told["difficulty"]):
        there = [row["difficulty"] for row in rows if row["position"] * 10 // len(rows) == tenth]
        assert mean == pytest.approx(np.mean(there))
    json.dumps(told, allow_nan=False)
    json.dumps(manifest.at(0))
