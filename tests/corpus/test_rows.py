import datetime
import decimal
import gzip
import json
import math
import multiprocessing
import os
import pickle
import resource
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather

from conftest import tries
from corpus_files import form_of, part_of, rows_of
from selector import tables
from selector.corpus import fields
from selector.corpus.formats import _cache, _columnar, _stream
from selector.corpus.formats._arrow import Batches
from selector.corpus.render import NoText, columns, file_columns, render
from selector.corpus.rows import Rows
from selector.errors import CorpusError, FullError, PolicyError, UnreachableError, UsageError

FORK = multiprocessing.get_context("fork")


def corpus(*paths: Path, **changes: Any) -> Rows:
    listed = [
        {
            "uri": str(path),
            "format": path.name.partition(".")[2],
            "num_rows": 0,
            "size": path.stat().st_size,
            "sha256": "",
            **changes,
        }
        for path in paths
    ]
    return Rows(pa.Table.from_pylist(listed, schema=tables.FILES))


def write(path: Path, documents: list[dict[str, Any]], rows_per_group: int = 3) -> Path:
    lines = b"".join(json.dumps(document, ensure_ascii=False).encode() + b"\n" for document in documents)
    if path.name.endswith(".parquet"):
        table = pa.Table.from_pylist(documents)
        pq.write_table(table, path, row_group_size=rows_per_group, write_page_checksum=True)
    elif path.name.endswith(".arrow"):
        with (
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, pa.Table.from_pylist(documents).schema) as stream,
        ):
            stream.write_table(pa.Table.from_pylist(documents), rows_per_group)
    else:
        path.write_bytes(gzip.compress(lines, 1) if path.name.endswith(".gz") else lines)
    return path


# Rows

FORMATS = ("jsonl", "jsonl.gz", "parquet")
DOCUMENTS = [
    {"text": f"déjà {number}\n", "key": number, "chat": [{"role": "a", "content": "b"}]} for number in range(11)
]


@pytest.mark.parametrize("form", FORMATS)
@tries(30)
@given(wanted=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 10)), max_size=12))
def test_any_rows_are_read_in_the_order_asked_for(
    tmp_path_factory: pytest.TempPathFactory, form: str, wanted: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    second = [{**document, "text": "second"} for document in DOCUMENTS]
    reader = corpus(write(folder / f"a.{form}", DOCUMENTS), write(folder / f"b.{form}", second))
    expected = [(DOCUMENTS, second)[file][row] for file, row in wanted]
    found = reader.read([file for file, _ in wanted], [row for _, row in wanted], ["text", "key", "chat"])
    assert found == expected
    only = reader.read([file for file, _ in wanted], [row for _, row in wanted], ["key", "absent"])
    assert only == [{"key": document["key"]} for document in expected]


@given(
    lines=st.lists(
        st.sampled_from([b'{"n": 1}', b'{"n": "\\u00e9"}', '{"n": "ß"}'.encode(), b"", b"  ", b'{"n":2}\r'])
    ),
    bom=st.booleans(),
    ends=st.booleans(),
    chunk=st.integers(1, 9),
)
def test_a_row_is_a_physical_line_wherever_a_chunk_ends(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], bom: bool, ends: bool, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + b"\n".join(lines) + (b"\n" if ends and lines else b""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_stream, "CHUNK_BYTES", chunk)
        reader = corpus(path)
        for row, line in enumerate(lines):
            if line.strip():
                assert reader.read([0], [row], ["n"]) == [json.loads(line)]
            elif line or row < len(lines) - 1 or ends:
                with pytest.raises(CorpusError, match=f"row {row} is not JSON"):
                    reader.read([0], [row], ["n"])
        with pytest.raises(CorpusError, match=f"there is no row {len(lines)}: it has"):
            reader.read([0], [len(lines)], ["n"])


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for copies, which is nobody else's."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def copies(scratch: Path) -> int:
    return sum(path.is_file() for path in scratch.rglob("*"))


def test_a_gzip_file_is_unpacked_once_and_leaves_nothing_behind(tmp_path: Path, scratch: Path) -> None:
    packed = gzip.compress(b'{"text": "a"}\n') + gzip.compress(b'{"text": "b"}\n')  # two members are one file
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    reader = corpus(tmp_path / "a.jsonl.gz", write(tmp_path / "b.jsonl.gz", DOCUMENTS))
    assert reader.read([0, 1, 0], [1, 3, 0], ["text"]) == [{"text": "b"}, {"text": "déjà 3\n"}, {"text": "a"}]
    (tmp_path / "a.jsonl.gz").unlink()
    assert reader.read([0], [1], ["text"]) == [{"text": "b"}]
    assert copies(scratch) == 2
    del reader
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("form", ["jsonl.gz", "parquet"])
@pytest.mark.usefixtures("scratch")
def test_processes_of_one_machine_unpack_a_file_once_together(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write(tmp_path / f"{name}.{form}", [{"text": f"{name}{row}"} for row in range(2000)]) for name in "abcd"]
    reader = corpus(*paths)
    assert reader.read([0], [0], ["text"]) == [{"text": "a0"}]
    answers, barrier, filled = FORK.SimpleQueue(), FORK.Barrier(4), FORK.Value("i", 0)
    fill = _cache._fill  # pyright: ignore[reportPrivateUsage]

    def counted(*arguments: Any) -> None:
        with filled.get_lock():
            filled.value += 1
        fill(*arguments)

    monkeypatch.setattr(_cache, "_fill", counted)

    def work() -> None:
        own = pickle.loads(pickle.dumps(reader))  # noqa: S301
        barrier.wait()  # all at the same moment
        found = own.read([*range(4)] * 2, [1] * 4 + [1999] * 4, ["text"])
        answers.put("".join(row["text"] for row in found))
        barrier.wait()

    workers = [FORK.Process(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    expected = "".join(f"{name}1" for name in "abcd") + "".join(f"{name}1999" for name in "abcd")
    assert [answers.get() for _ in workers] == [expected] * 4
    for worker in workers:
        worker.join()
    assert filled.value == 3, "the first was there"
    assert reader.read([1], [0], ["text"]) == [{"text": "b0"}]


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_is_in_use_is_not(
    tmp_path: Path, scratch: Path
) -> None:
    first = corpus(write(tmp_path / "a.jsonl.gz", DOCUMENTS))
    first.read([0], [0], ["key"])
    (above,) = scratch.iterdir()
    (folder,) = above.iterdir()
    (kept,) = folder.iterdir()
    (above / "left").mkdir()
    (above / "left" / "a copy").touch()
    second = corpus(write(tmp_path / "b.jsonl.gz", DOCUMENTS))
    second.read([0], [0], ["key"])
    assert not (above / "left").exists() and kept.exists() and copies(scratch) == 2
    kept.write_bytes(b"half of it")  # by a process that was killed while it wrote
    kept.chmod(0o600)
    assert corpus(tmp_path / "a.jsonl.gz").read([0], [7], ["key"]) == [{"key": 7}]
    del first
    assert not folder.exists()


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "parquet", "arrow"])
@pytest.mark.usefixtures("scratch")
def test_many_files_take_few_descriptors_and_are_unpacked_once(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cache, "MOST_OPEN", 3)
    reader = corpus(*(write(tmp_path / f"{name}.{form}", [{"text": name}]) for name in "abcdefghijklmnop"))
    filled, fill = list[int](), _cache._fill  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(_cache, "_fill", lambda descriptor, write: (filled.append(descriptor), fill(descriptor, write)))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert [row["text"] for row in reader.read([*range(16)], [0] * 16, ["text"])] == [*"abcdefghijklmnop"]
    assert len(os.listdir("/proc/self/fd")) - before <= 3 * 3 + 1
    assert len(filled) == (16 if form in ("jsonl.gz", "parquet") else 0)


@pytest.mark.parametrize("compression", ["lz4", None])
def test_a_packed_arrow_file_is_unpacked_batch_by_batch(compression: str | None, tmp_path: Path, scratch: Path) -> None:
    table = pa.table({"text": [f"document {number}" for number in range(1000)], "number": range(1000)})
    feather.write_feather(table, tmp_path / "a.arrow", compression or "uncompressed", chunksize=100)
    groups = Batches(str(tmp_path / "a.arrow"))
    assert (groups.num_rows, groups.is_mapped) == ([100] * 10, compression is None)
    assert [size > 1000 for size in groups.sizes()] == [True] * 10
    groups.close()
    assert corpus(tmp_path / "a.arrow").read([0, 0], [999, 5], ["number"]) == [{"number": 999}, {"number": 5}]
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("form", [*FORMATS, "arrow"])
@pytest.mark.usefixtures("scratch")
def test_a_process_with_all_its_files_open_is_told_so(form: str, tmp_path: Path) -> None:
    reader = corpus(write(tmp_path / f"a.{form}", DOCUMENTS))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_one = os.open(os.devnull, os.O_RDONLY)
    os.close(next_one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, limits[1]))
    try:
        with pytest.raises(UnreachableError, match=rf"a\.{form} cannot be opened: .* \(ulimit -n\)"):
            reader.read([0], [0], ["text"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert reader.read([0], [0], ["key"]) == [{"key": 0}]


def test_a_forked_child_leaves_the_copies_to_its_parent(tmp_path: Path, scratch: Path) -> None:
    reader = corpus(write(tmp_path / "a.jsonl.gz", DOCUMENTS))
    reader.read([0], [0], ["key"])
    child = FORK.Process(target=lambda: reader.read([0], [3], ["key"]))
    child.start()
    child.join()
    assert child.exitcode == 0 and copies(scratch) == 1
    assert reader.read([0], [7], ["key"]) == [{"key": 7}]


def test_a_reader_travels_to_other_processes(tmp_path: Path) -> None:
    reader = corpus(write(tmp_path / "a.jsonl.gz", DOCUMENTS))
    reader.read([0], [0], ["text"])
    assert pickle.loads(pickle.dumps(reader)).read([0], [7], ["key"]) == [{"key": 7}]  # noqa: S301


@pytest.mark.usefixtures("scratch")
def test_small_row_groups_are_decoded_together_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", DOCUMENTS)
    decoded: list[list[int]] = []

    class Counting(pq.ParquetFile):
        def iter_batches(self, batch_size: int, row_groups: list[int], *args: Any, **options: Any) -> Any:
            decoded.append(row_groups)
            return super().iter_batches(batch_size, row_groups, *args, **options)

    monkeypatch.setattr(pq, "ParquetFile", Counting)
    for unit_bytes, expected in ((10**6, [[0, 1, 2, 3]]), (0, [[3], [0], [1]])):
        monkeypatch.setattr(_columnar, "UNIT_BYTES", unit_bytes)
        reader = corpus(path)
        for row in (10, 0, 5, 9, 1, 3, 10, 0, 4):
            assert reader.read([0], [row], ["text", "key", "chat"]) == [DOCUMENTS[row]]
        assert decoded == expected
        decoded.clear()
        del reader


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_is_gone_or_has_changed_is_named_with_the_cure(tmp_path: Path, form: str) -> None:
    path = write(tmp_path / f"a.{form}", DOCUMENTS)
    for change in (path.unlink, lambda: path.write_bytes(b"{}\n")):
        write(path, DOCUMENTS)
        reader = corpus(path)
        change()
        with pytest.raises(CorpusError, match=rf"{path} is not what it was: it .* run the policy again"):
            reader.read([0], [0], ["text"])
    write(path, DOCUMENTS)
    with pytest.raises(CorpusError, match=r"there is no row 99: it has 11"):
        corpus(path).read([0, 0], [3, 99], ["text"])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"[1]\n", "row 0 is not a JSON object"),
        ("a.jsonl", b'{"text": "\xff"}\n', "row 0 is not JSON"),
        ("a.jsonl", b"[" * 100_000, "row 0 is not JSON"),
        ("a.jsonl.gz", b"{}", "it is not whole gz"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 999, mtime=0)[:-9], "it is not whole gz"),
        ("a.parquet", b"PAR1 no PAR1", "it is not parquet"),
        ("a.parquet", b"", "it is not parquet"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CorpusError, match=rf"a\..* is not what it was: {message}"):
        corpus(tmp_path / name).read([0], [0], ["text"])


def test_a_flipped_bit_in_a_page_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table({"text": ["word"]}), path, write_page_checksum=True, **plain)
    path.write_bytes(path.read_bytes().replace(b"word", b"ward", 1))
    with pytest.raises(CorpusError, match="its row groups 0 to 0 cannot be read"):
        corpus(path).read([0], [0], ["text"])


def test_text_that_is_not_utf8_in_parquet_is_noticed(tmp_path: Path) -> None:
    bad = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    pq.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match="it has text that is not UTF-8"):
        corpus(tmp_path / "a.parquet").read([0], [0], ["text"])


def test_addresses_and_formats_that_cannot_be_read_are_said_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", DOCUMENTS)
    assert corpus(path, uri=f"file://{path}").read([0], [2], ["key"]) == [{"key": 2}]
    with pytest.raises(UsageError, match=r"There is no storage called 'ftp'"):
        corpus(path, uri="ftp://bucket/a.jsonl").read([0], [0], ["text"])
    with pytest.raises(CorpusError, match=r"has the format 'parqet'\. Did you mean 'parquet'\?"):
        corpus(path, format="parqet").read([0], [0], ["text"])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_scratch_disk_is_said_so_with_the_cure(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = corpus(write(tmp_path / "a.jsonl.gz", DOCUMENTS))
    fdopen = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda *_, **__: fdopen(os.open("/dev/full", os.O_WRONLY), "wb"))
    with pytest.raises(FullError, match=r"The scratch directory .* is full, .* Set TMPDIR"):
        reader.read([0], [0], ["text"])
    monkeypatch.undo()
    assert copies(scratch) == 0


def test_a_scratch_directory_that_is_not_there_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    reader = corpus(write(tmp_path / "a.jsonl.gz", DOCUMENTS))
    with pytest.raises(
        UnreachableError, match=r"nowhere cannot be written \(No such file or directory\), .* Set TMPDIR"
    ):
        reader.read([0], [0], ["text"])


# Text

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}, {"role": "user", "content": "bye"}]


@pytest.mark.parametrize(
    ("row", "text", "rendered"),
    [
        ({"text": " as it is\r\n\u0000é "}, "text", " as it is\r\n\u0000é "),
        ({"text": "e\u0301 stays decomposed"}, "text", "e\u0301 stays decomposed"),
        ({"a": "1", "b": "2"}, "{a}\n{b}\n{a}", "1\n2\n1"),
        ({"a": "1", "b": None}, "{a}\n{b}!", "1\n!"),
        ({"a": "1"}, "{{{a}}}", "{1}"),
        ({"a": "{b}"}, "{a}", "{b}"),
        ({"a column": "1", "a.b": "2"}, '{a column}{"a.b"}', "12"),
        ({"meta": {"body": "1", "a.b": "2"}}, '{meta.body}{meta."a.b"}', "12"),
        ({"meta": {"body": "deep"}}, "meta.body", "deep"),
        ({"a": 5, "b": 0.5, "c": True, "d": False, "e": 2**70}, "{a} {b} {c} {d} {e}", f"5 0.5 true false {2**70}"),
        ({"a": "1", "b": math.nan}, "{a}{b}", "1"),
        (
            {
                "at": datetime.datetime(2024, 5, 1, 12),
                "day": datetime.date(2024, 5, 1),
                "n": decimal.Decimal("1.50"),
            },
            "{at} {day} {n}",
            "2024-05-01 12:00:00 2024-05-01 1.50",
        ),
        ({"chat": CHAT}, "chat", "user: hi\n\nassistant: \n\nuser: bye"),
        ({"chat": [{"from": "human", "value": "hi"}]}, "chat", "human: hi"),
        ({"chat": [{"role": None, "content": None, "from": "gpt", "value": "hi"}]}, "chat", "gpt: hi"),
        ({"q": "Say hi", "chat": CHAT[:1]}, "{q}\n\n{chat}", "Say hi\n\nuser: hi"),
    ],
)
def test_the_text_of_a_row_is_its_column_or_template(row: dict[str, Any], text: str, rendered: str) -> None:
    assert render(row, text) == rendered
    assert {fields.column_of(name) for name in columns(text)} <= set(row)
    assert set(file_columns(text)) <= {*row, "tools", "functions"}


CALL = {"type": "function", "function": {"name": "book", "arguments": '{"seat": 3}'}}
TOOL = {"name": "book", "parameters": {"seat": "integer"}}


@pytest.mark.parametrize(
    ("message", "rendered"),
    [
        ({"content": "Hm."}, "Hm."),
        ({"content": None, "tool_calls": [CALL]}, f"\ntool_calls: {json.dumps([CALL])}"),
        ({"tool_calls": [CALL]}, f"\ntool_calls: {json.dumps([CALL])}"),
        ({"content": "Hm.", "function_call": CALL["function"]}, f"Hm.\nfunction_call: {json.dumps(CALL['function'])}"),
        ({"content": "Hm.", "name": "ann"}, "Hm.\nname: ann"),
        ({"content": "4", "reasoning_content": "2 + 2"}, "4\nreasoning_content: 2 + 2"),
        ({"content": "Hm.", "weight": 0}, "Hm.\nweight: 0"),
        ({"content": "Hm.", "weight": 0.5, "train": False}, "Hm.\nweight: 0.5\ntrain: false"),
        ({"content": "Hm.", "at": datetime.date(2024, 5, 1)}, "Hm.\nat: 2024-05-01"),
        ({"content": "Hm.", "seen": [datetime.date(2024, 5, 1)]}, 'Hm.\nseen: ["2024-05-01"]'),
        ({"content": "Hm.", "name": None, "tool_calls": [], "reasoning": "", "score": math.nan}, "Hm."),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "image_url": None}]}, "a\nb"),
        ({"content": ["a", "b"]}, "a\nb"),
        ({"content": [{"text": "a"}]}, "a"),
        ({"content": [{"type": "reasoning", "text": "a"}]}, '{"type": "reasoning", "text": "a"}'),
        ({"content": [{"type": "input_text", "text": "a"}]}, '{"type": "input_text", "text": "a"}'),
        ({"content": {"type": "thinking", "text": "a"}}, '{"type": "thinking", "text": "a"}'),
        ({"content": [{"type": "thinking", "thinking": "é"}]}, '{"type": "thinking", "thinking": "é"}'),
        (
            {"content": [{"type": "text", "text": "a", "cache": True}]},
            '{"type": "text", "text": "a", "cache": true}',
        ),
        ({"content": {"seats": 3}}, '{"seats": 3}'),
        ({"content": 5}, "5"),
    ],
)
def test_a_message_is_rendered_with_every_field_that_it_has(message: dict[str, Any], rendered: str) -> None:
    chat = [{"role": "user", "content": "Book."}, {"role": "assistant", **message}]
    assert render({"chat": chat}, "chat") == f"user: Book.\n\nassistant: {rendered}"
    shared = [{"from": "user", "value": "Book."}, {"from": "assistant", **message}]
    if "content" in message:
        shared[1]["value"] = shared[1].pop("content")
        shared[1] = {name: shared[1][name] for name in ("from", "value", *message) if name in shared[1]}
    assert render({"chat": shared}, "chat") == f"user: Book.\n\nassistant: {rendered}"


@pytest.mark.parametrize(
    ("field", "named"),
    [
        (
            {"content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]},
            "content, part 1",
        ),
        ({"content": [{"type": "input_audio", "data": "AA=="}]}, "content, part 0 is of the type 'input_audio'"),
        ({"content": "Hm.", "raw": b"bytes"}, "raw cannot be rendered: bytes is no text"),
        ({"content": "Hm.", "logprobs": [math.nan]}, "logprobs cannot be rendered"),
        ({"content": "Hm.", "tool_calls": [{"image": b"bytes"}]}, "tool_calls cannot be rendered"),
        ({"content": [{"bytes": b"bytes"}]}, "content, part 0 cannot be rendered"),
    ],
)
def test_a_field_of_a_message_that_cannot_be_rendered_is_named(field: dict[str, Any], named: str) -> None:
    with pytest.raises(NoText, match=f"not_text: column 'chat', message 1, {named}") as caught:
        render({"chat": [CHAT[0], {"role": "user", **field}]}, "chat")
    assert caught.value.reason == "not_text"


@pytest.mark.parametrize(
    ("row", "text", "rendered"),
    [
        ({"chat": CHAT[:1], "tools": [TOOL]}, "chat", f"tools: {json.dumps([TOOL])}\n\nuser: hi"),
        ({"chat": CHAT[:1], "tools": "written"}, "chat", "tools: written\n\nuser: hi"),
        (
            {"chat": CHAT[:1], "tools": None, "functions": [TOOL]},
            "chat",
            f"functions: {json.dumps([TOOL])}\n\nuser: hi",
        ),
        ({"chat": CHAT[:1], "tools": []}, "chat", "user: hi"),
        ({"chat": CHAT[:1], "tools": [TOOL]}, "{chat}!", f"tools: {json.dumps([TOOL])}\n\nuser: hi!"),
        ({"chat": CHAT[:1], "tools": [TOOL]}, "{chat}|{tools}", f"user: hi|{json.dumps([TOOL])}"),
        ({"in": {"chat": CHAT[:1], "tools": "b"}, "tools": "a"}, "in.chat", "tools: a\n\ntools: b\n\nuser: hi"),
        ({"chat": "no chat", "tools": [TOOL]}, "chat", "no chat"),
    ],
)
def test_a_chat_brings_its_tools_unless_the_template_names_them(row: dict[str, Any], text: str, rendered: str) -> None:
    assert render(row, text) == rendered
    assert {"tools", "functions"} <= set(file_columns(text))


@pytest.mark.parametrize("column", ["conversations", "messages", "data.dialog"])
def test_a_list_of_strings_is_a_chat_where_its_column_is_called_like_one(column: str) -> None:
    row: dict[str, Any] = {column: ["Why?", "Because.", "Oh."], "data": {"dialog": ["Why?", "Because.", "Oh."]}}
    assert render(row, column) == "user: Why?\n\nassistant: Because.\n\nuser: Oh."
    for wrong in (["Why?", None], ["Why?", {"role": "user", "content": "x"}], [1, 2]):
        with pytest.raises(NoText, match=r"not_text: column .*, message . is no message"):
            render({column: wrong, "data": {"dialog": wrong}}, column)


LETTERS = st.text(st.characters(codec="utf-8"), max_size=3)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | LETTERS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(LETTERS, inner, max_size=2),
    max_leaves=4,
)


@tries(50)
@given(st.dictionaries(st.sampled_from(["name", "tool_calls", "weight"]), VALUES), VALUES, VALUES)
def test_messages_that_differ_in_a_field_have_different_texts(more: dict[str, Any], one: Any, other: Any) -> None:
    def text_with(value: Any) -> str:
        return render({"chat": [{"role": "assistant", "content": "Hm.", "call": value, **more}]}, "chat")

    def told(value: Any) -> str:
        if value is None or value in ("", [], {}):
            return ""
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    assert (text_with(one) == text_with(other)) == (told(one) == told(other))


@pytest.mark.parametrize(
    ("row", "text", "reason"),
    [
        ({}, "text", "missing_column"),
        ({"a": "1"}, "{a}{b}", "missing_column"),
        ({"text": None}, "text", "null_text"),
        ({"text": 5}, "text", "not_text"),
        ({"text": b"bytes"}, "text", "not_text"),
        ({"a": [5]}, "{a}", "not_text"),
        ({"a": {"b": 5}}, "{a}", "not_text"),
        ({"a": None, "b": math.nan}, "{a}{b}", "empty_text"),
        ({"a": {"b": "x"}}, "a.c", "missing_column"),
        ({"a": "x"}, "a.b", "missing_column"),
        ({"a": None}, "a.b", "null_text"),
        ({"text": ["a", "b"]}, "text", "not_text"),
        ({"text": [{"role": "user"}]}, "text", "not_text"),
        ({"text": [{"role": "user", "content": [{"type": "image"}]}]}, "text", "not_text"),
        ({"text": ""}, "text", "empty_text"),
        ({"text": " \n\t\u2003"}, "text", "empty_text"),
        ({"text": []}, "text", "empty_text"),
        ({"a": None, "b": " "}, "Question: {a} Answer: {b}", "empty_text"),
        ({"text": "a\ud800b"}, "text", "lone_surrogate"),
        ({"a": "\udc00"}, "é{a}", "lone_surrogate"),
    ],
)
def test_a_row_without_text_says_why_in_one_word(row: dict[str, Any], text: str, reason: str) -> None:
    with pytest.raises(NoText, match=reason) as caught:
        render(row, text)
    assert caught.value.reason == reason
    assert caught.value.detail
    assert pickle.loads(pickle.dumps(caught.value)).reason == reason  # noqa: S301


@given(st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="{}"), min_size=1), st.text(min_size=1)))
def test_a_template_of_any_columns_puts_their_values_in_place(row: dict[str, str]) -> None:
    text = "".join(f"{{{fields.name_of([column])}}}|{{{{" for column in row) + "end"
    if not row:
        with pytest.raises(PolicyError, match="names no column"):
            columns(text + "{{")
        return
    assert columns(text) == tuple(fields.name_of([column]) for column in row)
    try:
        assert render(row, text) == "".join(f"{value}|{{" for value in row.values()) + "end"
    except NoText as error:
        assert error.reason in ("empty_text", "lone_surrogate")  # noqa: PT017


@pytest.mark.parametrize("text", ["{", "}", "{a", "a}", "{}", "{a{b}}", "{{}}"])
def test_a_template_that_is_none_is_refused_with_the_cure(text: str) -> None:
    for use in (columns, lambda text: render({"a": "1", "b": "2"}, text)):
        with pytest.raises(PolicyError, match=r"corpus\.text: the template .* names no column\. Write"):
            use(text)


STRANGE = pa.array([1_700_000_000_000_000_001, 10**18, None], pa.timestamp("ns", "No/Where"))


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.usefixtures("scratch")
def test_moments_that_python_lacks_are_text_wherever_they_are_nested(form: str, tmp_path: Path) -> None:
    """Also of a zone that this machine does not know, which is then that of UTC."""
    lists = pa.ListArray.from_arrays(pa.array([0, None, 2, 3], pa.int32()), STRANGE)
    struct = pa.StructArray.from_arrays([STRANGE, lists], names=["at", "list"], mask=pa.array([False, False, True]))
    table = pa.table({"at": STRANGE, "deep": struct, "year": pa.array([4_000_000, 0, None], pa.date32())})
    path = tmp_path / f"a.{form}"
    if form == "parquet":
        pq.write_table(table, path)
    else:
        feather.write_feather(table, path, "uncompressed")
    first, second = "2023-11-14 22:13:20.000000001Z", datetime.datetime(2001, 9, 9, 1, 46, 40, tzinfo=datetime.UTC)
    expected = [
        {"at": first, "deep": {"at": first, "list": [first, second]}, "year": "12921-08-18"},
        {"at": second, "deep": {"at": second, "list": None}, "year": datetime.date(1970, 1, 1)},
        {"at": None, "deep": None, "year": None},
    ]
    kind = form_of(form)
    (cut,) = kind.cut(str(path), None)
    assert [*rows_of(part_of(path, kind, cut), None).values()] == expected
    assert corpus(path).read([0] * 3, [0, 1, 2], ["at", "deep", "year"]) == expected
