"""Every file of a corpus is read, or is listed with the reason; and none is read twice."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from conftest import text_of, write_jsonl
from runs import policy_of, run
from selector.corpus import files
from selector.errors import CorpusError
from selector.policy import Policy
from selector.policy.resolve import resolve


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"text": "{path.name}"}}\n', "utf-8")
    return path


def named(folder: Path, found: files.CorpusFiles) -> tuple[list[str], dict[str, str]]:
    """Which files are read, and why others are not, by their names in a folder."""
    reads = [os.path.relpath(uri, folder) for uri in found.uris]
    return reads, {os.path.relpath(one.uri, folder): one.reason for one in found.unread}


def test_every_file_below_a_folder_is_read_or_listed_with_the_reason(tmp_path: Path) -> None:
    for name in ("a.JSONL", "b.Parquet", "deep/er/c.csv.GZ", "notes.md", "LICENSE", "d.txt", ".env", ".git/e.jsonl"):
        touch(tmp_path / name)
    (tmp_path / "dead.jsonl").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jsonl")
    os.link(tmp_path / "a.JSONL", tmp_path / "z.jsonl")
    (tmp_path / "deep/a.jsonl").symlink_to(tmp_path / "a.JSONL")
    reads, unread = named(tmp_path, files.expand([str(tmp_path)]))
    assert reads == ["a.JSONL", "b.Parquet", "deep/er/c.csv.GZ"]
    assert unread == {
        "notes.md": files.UNKNOWN,
        "LICENSE": files.UNKNOWN,
        "d.txt": files.ON_REQUEST,
        ".env": files.HIDDEN,
        ".git/e.jsonl": files.HIDDEN,
        "dead.jsonl": files.DEAD,
        "pipe.jsonl": files.SPECIAL,
        "z.jsonl": f"{files.SAME}: as {tmp_path}/a.JSONL",
        "deep/a.jsonl": f"{files.SAME}: as {tmp_path}/a.JSONL",
    }


ORDERS: list[Callable[[Path], list[str]]] = [
    lambda here: [f"{here}/real", f"{here}/alias"],
    lambda here: [f"{here}/alias", f"{here}/real"],
    lambda here: [f"{here}/alias/../real", f"{here}/real/a.jsonl", f"{here}/**/*.jsonl"],
    lambda here: [str(here)],
    lambda here: [f"{here}/**"],
]


@pytest.mark.parametrize("paths", ORDERS)
def test_a_file_by_several_names_is_read_once_under_its_own(paths: Callable[[Path], list[str]], tmp_path: Path) -> None:
    touch(tmp_path / "real/a.jsonl")
    touch(tmp_path / "real/b/c.jsonl")
    (tmp_path / "alias").symlink_to("real")
    for number in range(3):
        (tmp_path / f"real/b/loop{number}").symlink_to("..")
    (tmp_path / "real/0.jsonl").symlink_to("a.jsonl")
    reads, _ = named(tmp_path, files.expand(paths(tmp_path)))
    assert reads == ["real/a.jsonl", "real/b/c.jsonl"]


def test_a_pattern_finds_what_only_a_link_leads_to(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere/x/a.jsonl")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/link").symlink_to(tmp_path / "elsewhere")
    for pattern in ("corpus/**/*.jsonl", "corpus/*/x/*.jsonl", "corpus/**/x/**", "c*/link/x/a.jsonl", "**/corpus/**"):
        assert named(tmp_path, files.expand([f"{tmp_path}/{pattern}"]))[0] == ["corpus/link/x/a.jsonl"], pattern


def test_a_pattern_leaves_out_what_is_hidden_unless_it_says_so(tmp_path: Path) -> None:
    for name in ("a.jsonl", ".b.jsonl", ".c/d.jsonl", "e/f.jsonl"):
        touch(tmp_path / name)
    assert named(tmp_path, files.expand([f"{tmp_path}/**/*.jsonl"]))[0] == ["a.jsonl", "e/f.jsonl"]
    assert named(tmp_path, files.expand([f"{tmp_path}/.*.jsonl", f"{tmp_path}/.c"]))[0] == [".b.jsonl", ".c/d.jsonl"]


def test_text_is_read_where_a_path_ends_so_or_the_policy_says_so(tmp_path: Path) -> None:
    for name in ("a.txt", "b.jsonl", "c.py"):
        touch(tmp_path / name)
    assert named(tmp_path, files.expand([str(tmp_path)]))[0] == ["b.jsonl"]
    for path in (f"{tmp_path}/a.txt", f"{tmp_path}/*.txt", f"{tmp_path}/**/*.txt"):
        assert named(tmp_path, files.expand([path]))[0] == ["a.txt"]
    found = files.expand([f"{tmp_path}/*"], "txt")
    assert [(Path(one.uri).name, one.format) for one in found.files] == [
        ("a.txt", "txt"), ("b.jsonl", "txt"), ("c.py", "txt"),
    ]  # fmt: skip
    with pytest.raises(CorpusError, match=r"corpus\.format: there is no format called 'cvs'\. Did you mean 'csv'\?"):
        files.expand([str(tmp_path)], "cvs")


def test_a_folder_of_plain_text_is_refused_with_how_to_read_it(tmp_path: Path) -> None:
    touch(tmp_path / "a.txt")
    with pytest.raises(CorpusError, match=rf"1 plain text.*write '{tmp_path}/\*\.txt', or corpus\.format: txt\."):
        files.expand([str(tmp_path)])


@pytest.mark.parametrize("name", ["notes.md", "LICENSE", ".a.jsonl", "dead.jsonl"])
def test_a_folder_without_a_file_that_is_read_is_refused_with_what_it_holds(name: str, tmp_path: Path) -> None:
    if name.startswith("dead"):
        (tmp_path / name).symlink_to("nowhere")
    else:
        touch(tmp_path / name)
    with pytest.raises(CorpusError, match=rf"the folder '.*' holds no file that is read \(1 .*, e\.g\. .*{name}\)"):
        files.expand([str(tmp_path)])


@pytest.mark.parametrize("listed", ["../secret.arrow", "/etc/a.arrow", "b/c.arrow", "..", "", 5, ["a.arrow"], None])
def test_a_list_of_data_files_that_leads_elsewhere_makes_no_saved_dataset(listed: Any, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "a.arrow"}, {"filename": listed}]}))
    for path in (folder / "a.arrow", tmp_path / "secret.arrow"):
        path.write_bytes(b"ARROW1")
    found = files.expand([str(folder)])
    assert [file for file in found.files if file.format == "saved_dataset"] == []
    assert {Path(file.uri).parent for file in found.files} == {folder}


def test_a_saved_dataset_below_a_name_that_is_not_utf8_is_left_unread_and_the_rest_is_read(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}, {"filename": "gone.arrow"}]}')
    (folder / "a.arrow").write_bytes(b"ARROW1")
    (tmp_path / "b.jsonl").write_text("{}")
    found = files.expand([str(tmp_path)])
    assert [file.uri for file in found.files] == [str(tmp_path / "b.jsonl")]
    assert {one.reason for one in found.unread} >= {files.NOT_UTF8}


def test_of_a_saved_dataset_the_files_that_it_lists_are_read(tmp_path: Path) -> None:
    table = pa.table({"text": ["one", "two"]})
    for split in ("train", "test"):
        folder = tmp_path / "saved" / split
        folder.mkdir(parents=True)
        for name in ("data-00000-of-00001.arrow", "cache-5f.arrow"):
            with pa.ipc.new_stream(folder / name, table.schema) as stream:
                stream.write_table(table)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "5f"}
        (folder / "state.json").write_text(json.dumps(state))
        (folder / "dataset_info.json").write_text("{}")
    (tmp_path / "saved/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    found = files.expand([str(tmp_path / "saved")])
    reads, unread = named(tmp_path / "saved", found)
    assert reads == ["dataset_dict.json", *(f"{split}/data-00000-of-00001.arrow" for split in ("test", "train"))]
    assert unread == {
        f"{split}/{name}": files.NO_DATA_FILE
        for split in ("test", "train")
        for name in ("cache-5f.arrow", "dataset_info.json", "state.json")
    }


# ---------------------------------------------------------------- runs


def policy(path: Path, model: Path, **sections: Any) -> dict[str, Any]:
    said = policy_of(path, model, rate=[], select={"budget": {"fraction": 1}, "using": "random"}, manifest={})
    return {**said, "order": {"using": "shuffled"}, "corpus": {"paths": [str(path)]}, **sections}


def test_a_run_lists_every_file_and_counts_them_by_ending(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "corpus"
    for number in range(2):
        write_jsonl(corpus / f"{number}.jsonl", [{"text": text_of(number * 10 + n, 8)} for n in range(10)])
    (corpus / "array.json").write_text(json.dumps([{"text": text_of(50 + n, 8)} for n in range(5)], indent=1))
    (corpus / "settings.json").write_text('{"a": 1}')
    touch(corpus / "README.md")
    touch(corpus / "locked.csv")
    opened = open

    def locked(file: Any, *arguments: Any, **options: Any) -> Any:
        if str(file).endswith("locked.csv"):
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *arguments, **options)

    monkeypatch.setattr("builtins.open", locked)
    monkeypatch.setattr("io.open", locked)
    manifest = run(policy(corpus, tiny_model), tmp_path / "root").manifest
    listed = {
        Path(row["uri"]).name: (row["format"], row["num_rows"], row["unread"]) for row in manifest.files.to_pylist()
    }
    assert listed.pop("locked.csv")[2].endswith("locked.csv cannot be read: Permission denied.")
    assert listed == {
        "0.jsonl": ("jsonl", 10, None),
        "1.jsonl": ("jsonl", 10, None),
        "array.json": ("json", 5, None),
        "settings.json": (None, 0, "no rows: it is no array of objects"),
        "README.md": (None, 0, files.UNKNOWN),
    }
    assert manifest.header.facts.corpus == {
        "files": {
            ".csv": {"cannot be read": 1},
            ".json": {"no rows": 1, "read": 1},
            ".jsonl": {"read": 2},
            ".md": {files.UNKNOWN: 1},
        }
    }
    counts = manifest.header.counts
    assert (counts.kept, counts.quarantined) == (25, 1), "what cannot be read is lost; what is no corpus file is not"
    assert counts.reasons == {"quarantined in survey: cannot_be_read": 1} and manifest.verify().ok


def test_a_file_that_vanishes_before_it_is_read_stops_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        write_jsonl(tmp_path / f"c/{number}.jsonl", [{"text": text_of(number * 10 + n, 8)} for n in range(10)])
    expand = files.expand

    def then_gone(*arguments: Any) -> files.CorpusFiles:
        found = expand(*arguments)
        (tmp_path / "c/1.jsonl").unlink()
        return found

    monkeypatch.setattr(files, "expand", then_gone)
    manifest = run(policy(tmp_path / "c", tiny_model), tmp_path / "root").manifest
    assert manifest.header.counts.kept == 10 and manifest.header.counts.quarantined == 1
    assert manifest.files["unread"].to_pylist()[1].endswith("1.jsonl cannot be read: No such file or directory.")


@pytest.mark.slow
def test_a_clock_of_whole_seconds_does_not_hide_that_a_file_was_written_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": text_of(n, 8)} for n in range(10)])
    moment = os.stat(path).st_mtime_ns
    stat = os.stat

    class Coarse:
        """What a file system tells that knows one moment only."""

        st_mtime_ns = st_ctime_ns = moment

        def __init__(self, told: os.stat_result) -> None:
            self._told = told

        def __getattr__(self, name: str) -> Any:
            return getattr(self._told, name)

    monkeypatch.setattr("selector.corpus.formats._checks.os.stat", lambda *a, **o: Coarse(stat(*a, **o)))
    first = run(policy(path, tiny_model), tmp_path / "root").manifest
    again = run(policy(path, tiny_model), tmp_path / "root").manifest
    assert first.digest == again.digest
    other = path.read_bytes().replace(b"Document 3.", b"Document 8.")
    path.write_bytes(other)
    changed = run(policy(path, tiny_model), tmp_path / "root").manifest
    assert changed.digest != first.digest
    shutil.rmtree(tmp_path / "root")
    assert changed.digest == run(policy(path, tiny_model), tmp_path / "root").manifest.digest


def test_two_columns_of_one_name_are_refused_in_every_format(tiny_model: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    texts = [text_of(n, 8) for n in range(5)]
    table = pa.Table.from_arrays([pa.array(texts), pa.array(texts)], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table)
    (tmp_path / "a.csv").write_text("text,n,text\n" + "".join(f"{text},1,x\n" for text in texts))
    for ending in ("parquet", "arrow", "csv"):
        with pytest.raises(CorpusError, match=rf"corpus\.text: .*a\.{ending} has two columns 'text'\. Give one"):
            run(policy(tmp_path / f"a.{ending}", tiny_model), tmp_path / "root")
    table = table.rename_columns(["Text", "TEXT"])
    pq.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(CorpusError, match=r"b\.parquet has no column 'text'\. There is: TEXT, Text\."):
        run(policy(tmp_path / "b.parquet", tiny_model), tmp_path / "root")


@pytest.mark.parametrize(
    ("names", "corpus", "where", "twice"),
    [
        (["text", "source", "source"], {}, "corpus.source", "source"),
        (["messages", "tools", "tools"], {"text": "messages"}, "corpus.text", "tools"),
        (["messages", "functions", "functions"], {"text": "{messages}"}, "corpus.text", "functions"),
        (["text", "id", "id"], {"key": "id"}, "corpus.key", "id"),
        (["text", "a.b", "a.b"], {"source": '"a.b"'}, "corpus.source", '"a.b"'),
    ],
)
def test_no_column_that_is_read_may_be_there_twice(
    names: list[str], corpus: dict[str, str], where: str, twice: str, tiny_model: Path, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    table = pa.Table.from_arrays([pa.array(["a", "b"])] * len(names), names=names)
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text(",".join(names) + "\n" + "a,b,c\n" * 2)
    for path in (tmp_path / "a.parquet", tmp_path / "a.csv"):
        with pytest.raises(
            CorpusError, match=rf"{re.escape(where)}: .* has two columns {re.escape(repr(twice))}\. Give"
        ):
            run(policy(path, tiny_model, corpus={"paths": [str(path)], **corpus}), tmp_path / "root")


def test_two_fields_of_one_name_in_a_struct_are_refused_where_they_are_named(tiny_model: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    inner = pa.StructArray.from_arrays([pa.array(["a"])] * 2, names=["k", "k"])
    pq.write_table(pa.table({"text": ["a text"], "meta": inner}), tmp_path / "a.parquet")
    corpus = {"paths": [str(tmp_path / "a.parquet")], "source": "meta.k"}
    with pytest.raises(CorpusError, match=r"corpus\.source: .*a\.parquet has two columns 'meta\.k'\. Give one"):
        run(policy(tmp_path / "a.parquet", tiny_model, corpus=corpus), tmp_path / "root")


def test_a_rule_is_checked_by_the_format_of_a_file_and_not_by_its_name(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("data.dat", "a.jsonl", "b.parquet"):
        path = tmp_path / name
        path.write_text("text,n\n" + "".join(f"{text_of(n, 8)},{n}\n" for n in range(9)))
        select = {"budget": {"fraction": 1.0}, "using": "random", "where": "n > 3"}
        resolve(Policy.of(policy(path, tiny_model, corpus={"paths": [str(path)], "format": "csv"}, select=select)))
