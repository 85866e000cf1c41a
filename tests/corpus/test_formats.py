"""All formats agree on what a row is: cut, read, read again at random and looked at, the same rows come back."""

import itertools
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import MemoryStorage, tries
from corpus_files import (
    GROUPS,
    SOME,
    Documents,
    form_of,
    lines_of,
    named,
    part_of,
    part_rows_of,
    reader_of,
    rows_of,
    told,
    values_of,
    write,
    write_parquet,
)
from selector import tables
from selector.corpus import files, formats
from selector.corpus.formats import _stream
from selector.corpus.rows import Rows
from selector.engine.local import LocalExecutor
from selector.engine.runner import Runner
from selector.engine.store import Store
from selector.errors import CorpusError
from selector.steps import survey
from selector.steps.survey import Survey


def assert_all_verbs_agree(name: str, path: Path, documents: Documents, data: st.DataObject) -> None:
    form, expected = form_of(name), told(name, documents)
    num_rows = len(documents)
    if name.startswith("txt") and documents and not documents[-1]["text"]:
        num_rows -= 1  # nothing is after the last separator
    most = data.draw(st.integers(1, len(documents) + 1) | st.none(), "rows per part")
    ranges = form.cut(str(path), most)
    assert [cut.first_row for cut in ranges] == [*itertools.accumulate([0, *(cut.num_rows for cut in ranges)])][:-1]
    assert sum(cut.num_rows for cut in ranges) == num_rows
    assert all(0 < cut.num_rows <= (most or len(documents)) for cut in ranges)

    parts = [part_of(path, form, cut, name) for cut in data.draw(st.permutations(ranges), "order of parts")]
    there = {number: row for part in parts for number, row in rows_of(part, None).items()}
    assert there == expected
    wanted = data.draw(st.sets(st.integers(0, len(documents))), "wanted rows")
    some = {number: row for part in parts for number, row in rows_of(part, ["text", "n"], wanted).items()}
    assert some == {number: row for number, row in there.items() if number in wanted}

    numbers = data.draw(st.lists(st.sampled_from(list(expected))) if expected else st.just([]), "at random")
    reader = reader_of(path, form, named(name))
    for pick in [numbers, *([number] for number in numbers)]:
        assert reader.read([0] * len(pick), pick, ["text", "n"]) == [expected[number] for number in pick]
    lie = {read.number: read for part in parts for _, _, read in formats.rows(part, None, 1 << 20, part_rows_of(part))}
    if numbers and lie[numbers[0]].byte_offset is not None:
        spans = [[getattr(lie[number], at) for number in numbers] for at in ("byte_offset", "byte_length")]
        assert reader.read([0] * len(numbers), numbers, ["n"], *spans) == [
            {key: value for key, value in expected[number].items() if key == "n"} for number in numbers
        ]

    first = data.draw(st.integers(1, 20), "rows to look at")
    beginning = form.peek(str(path), ["text", "n", "absent"], 1 << 20, first)
    assert list(beginning.rows) == list(expected.values())[:first] and beginning.is_empty == (not expected)
    assert not documents or set(beginning.columns) == ({"text"} if name.startswith("txt") else {"text", "n"})


TEXTS = st.text(st.characters(codec="utf-8"), max_size=9) | st.sampled_from(["\n\r\n", "\u2028\x85", "x" * 700, "🎉\0"])
ROWS = st.lists(st.fixed_dictionaries({"text": TEXTS, "n": st.integers(-(2**63), 2**63 - 1) | st.none()}), max_size=12)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if "." in name else name for name in formats.known()]
)
@tries(25)
@given(data=st.data(), rows=ROWS, repeated=st.sampled_from([1, 1, 40]))
def test_a_format_cuts_reads_rereads_and_peeks_the_same_rows(
    name: str, data: st.DataObject, rows: Documents, repeated: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    documents = [document for document in rows if "<|end|>" not in document["text"]] * repeated
    path = tmp_path_factory.getbasetemp() / "agree"
    if name in GROUPS:
        GROUPS[name](path, documents, data.draw(st.integers(1, 100), "rows in a group"))
    else:
        write(path, name, documents)
    with patch.object(_stream, "CHUNK_BYTES", data.draw(st.sampled_from([7, 100, 4 << 20]), "bytes in a chunk")):
        assert_all_verbs_agree(name, path, documents, data)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if "." in name else name for name in formats.known()]
)
def test_rows_appended_to_a_file_leave_all_but_its_last_range_as_they_are(name: str, tmp_path: Path) -> None:
    form, path = form_of(name), tmp_path / "a"
    before, after = ((write(path, name, SOME * times), form.cut(str(path), None))[1] for times in (400, 600))
    cuts = [[(cut.first_row, cut.num_rows) for cut in ranges] for ranges in (before, after)]
    assert len(before) > 1 and cuts[0][:-1] == cuts[1][: len(before) - 1]


@pytest.mark.parametrize("name", formats.known())
def test_a_disk_that_does_not_give_a_file_is_told_from_a_file_that_is_corrupt(name: str, tmp_path: Path) -> None:
    form, path = form_of(name), str(tmp_path / "gone")
    for use in (lambda: form.cut(path, None), lambda: form.peek(path, [], 1 << 20, 9)):
        with pytest.raises(CorpusError, match=r"The corpus file .*gone cannot be read: .*No such file or directory"):
            use()


@pytest.mark.parametrize("name", [name for name in formats.known() if "." in name or name in GROUPS])
def test_bytes_that_are_not_of_a_format_are_corrupt_to_cut_and_to_peek(name: str, tmp_path: Path) -> None:
    form, path = form_of(name), tmp_path / "page"
    path.write_bytes(b"<html>not found</html>")
    for use in (lambda: form.cut(str(path), None), lambda: form.peek(str(path), [], 1 << 20, 9)):
        with pytest.raises(formats.Corrupt):
            use()


def test_want_of_memory_says_nothing_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(path := tmp_path / "a.parquet", SOME)
    form = formats.format_of(str(path))
    part = part_of(path, form, form.cut(str(path), None)[0])

    def exhausted(*_: Any, **__: Any) -> Any:
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", exhausted)
    with pytest.raises(MemoryError, match="malloc of size 64 failed"):
        rows_of(part, None)


# ---------------------------------------------------------------- a format in one file

Added = Callable[[str, str], None]
ZLIB = '''
"""Bare zlib streams."""

import io
import zlib

from selector.corpus.formats import Compression


class Zlib(Compression):
    name = "zz"
    endings = (".zz",)
    damage = (zlib.error,)

    def open(self, file):
        with open(file, "rb") if isinstance(file, str) else file as packed:
            return io.BytesIO(zlib.decompress(packed.read()))
'''
POEM = '''
"""Poems: the lines of a text are the rows of a file."""

from selector.corpus.formats import Beginning, Format, Range, RowRead, opened, part_rows, reading


def lines(path):
    with reading(path), open(path) as file:
        return [{"text": line} for line in file.read().splitlines()]


class Poem(Format):
    name = "poem"
    endings = (".poem.jsonl",)

    def cut(self, path, rows_per_part):
        num_rows, most = len(lines(path)), part_rows(len(lines(path)), rows_per_part)
        return [Range(first, min(most, num_rows - first), 0, 0) for first in range(0, num_rows, most)]

    def rows(self, piece, columns, max_bytes, wanted):
        for number in range(piece.first_row, piece.first_row + piece.num_rows):
            if wanted is None or number in wanted:
                yield RowRead(number, lines(piece.uri)[number])

    def rows_at(self, path, size, cache):
        opened(path, size).close()
        return lambda asked, columns: [lines(path)[row] for row in asked.numbers]

    def peek(self, path, columns, max_bytes, num_rows):
        rows = lines(path)
        return Beginning(columns=["text"], rows=rows[:num_rows], is_empty=not rows)
'''


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Added]:
    """Puts a file into the folder of formats."""
    folder = tmp_path / "formats"
    folder.mkdir()
    before = set(sys.modules)

    def add(name: str, source: str) -> None:
        (folder / name).write_text(source, "utf-8")
        monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(folder)])

    yield add
    for name in set(sys.modules) - before:
        if name.startswith(f"{formats.__name__}."):
            del sys.modules[name]
            delattr(formats, name.rpartition(".")[2])


def test_a_compression_added_in_one_file_packs_every_format_of_bytes(added: Added, tmp_path: Path) -> None:
    packed = zlib.compress(lines_of(SOME))
    for name, data in (("a.jsonl.zz", packed), ("b.csv.ZZ", zlib.compress(values_of(SOME, ","))), ("c.jsonl", b"")):
        (tmp_path / name).write_bytes(data or lines_of(SOME))
    assert files.expand([str(tmp_path)]).uris == [str(tmp_path / "c.jsonl")]
    with pytest.raises(CorpusError, match=r"a\.jsonl\.zz' has an unknown format\. Known endings: \.arrow, "):
        formats.format_of(str(tmp_path / "a.jsonl.zz"))

    added("zz.py", ZLIB)
    found = files.expand([str(tmp_path)]).uris
    assert [formats.format_of(path).name for path in found] == ["jsonl.zz", "csv.zz", "jsonl"]
    step = Survey(rows_per_part=4, uris=tuple(found), sources=(None,) * 3)
    with Runner(Store(MemoryStorage()), LocalExecutor()) as runner:
        done = runner.run([step])
    inventory = survey.inventory(done, step)
    assert inventory["format"].to_pylist() == ["jsonl.zz", "csv.zz", "jsonl"]
    assert Rows(inventory).read([1, 0, 2], [10, 3, 5], ["n"]) == [{"n": "10"}, {"n": 3}, {"n": 5}]
    parts = survey.parts(done, step)
    assert [part.files[0] for part in parts] == [
        (file, row, min(4, 11 - row)) for file in range(3) for row in (0, 4, 8)
    ]
    assert rows_of(parts[1], None) == dict(list(enumerate(SOME))[4:8])
    assert formats.format_of(found[0]).peek(found[0], [], 1 << 20, 2).rows == SOME[:2]

    Path(found[0]).write_bytes(packed[:-9])
    with Runner(Store(MemoryStorage()), LocalExecutor()) as runner:
        (lost,) = survey.unreadable(runner.run([step])).to_pylist()
    assert (lost["uri"], lost["reason"]) == (found[0], "corrupt_file")
    file = {"uri": found[0], "format": "jsonl.zz", "size": len(packed) - 9}
    with pytest.raises(CorpusError, match=r"a\.jsonl\.zz is not what it was: it is not whole zz \("):
        Rows(pa.Table.from_pylist([file], tables.FILES)).read([0], [0], ["text"])


def test_a_format_may_be_of_any_kind_and_the_longest_ending_decides(added: Added, tmp_path: Path) -> None:
    path = tmp_path / "a.poem.jsonl"
    path.write_text("roses\nviolets\nsugar\n", "utf-8")
    assert formats.format_of(str(path)).name == "jsonl"
    added("poem.py", POEM)
    form = formats.format_of(str(path))
    assert form.name == "poem" and files.expand([str(tmp_path)]).uris == [str(path)]
    verses = [{"text": line} for line in ("roses", "violets", "sugar")]
    parts = [part_of(path, form, cut) for cut in form.cut(str(path), 2)]
    assert [pair for part in parts for pair in rows_of(part, None).items()] == list(enumerate(verses))
    assert reader_of(path, form).read([0, 0], [2, 0], ["text"]) == [verses[2], verses[0]]
    assert form.peek(str(path), [], 1 << 20, 1).rows == verses[:1]


# ---------------------------------------------------------------- the trainer's side


def test_reading_rows_at_random_needs_numpy_and_pyarrow_alone(tmp_path: Path) -> None:
    names = [name for name in formats.known() if not name.startswith("txt")]
    for name in names:
        write(tmp_path / f"a.{name}", name, SOME)
    code = f"""
import sys
import pyarrow as pa
from selector import tables
from selector.corpus.rows import Rows
names = {names!r}
sizes = {[(tmp_path / f"a.{name}").stat().st_size for name in names]!r}
files = [{{"uri": f"{tmp_path}/a.{{n}}", "format": n, "size": s}} for n, s in zip(names, sizes)]
rows = Rows(pa.Table.from_pylist(files, tables.FILES)).read(range(len(names)), [4] * len(names), ["n"])
assert [str(row["n"]) for row in rows] == ["4"] * len(names), rows
print(*sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    loaded = ended.stdout.split()
    assert not {name.partition(".")[0] for name in loaded} & {"polars", "pydantic", "torch", "yaml", "pandas", "ray"}
    floors = ("errors", "tables", "exact", "storage", "engine", "corpus")
    floors += ("engine.alive", "engine.copies", "engine.part", "engine.scratch")
    ours = {name.removeprefix("selector.") for name in loaded if name.startswith("selector.")}
    assert {name for name in ours if name not in floors and not name.startswith("corpus.")} == set()
