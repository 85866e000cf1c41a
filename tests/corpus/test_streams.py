"""What is a row in tables of text, in arrays of JSON, and in plain text; and how little a damaged one takes with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import text_of
from corpus_files import PACKED, part_of, rows_of
from runs import policy_of, run
from selector.corpus import formats, render
from selector.errors import PolicyError
from selector.policy import Policy


def rows(path: Path, data: bytes, form: str | None = None, rows_per_part: int | None = 2) -> list[Any]:
    """The rows of a file with these bytes; of a bad one, the reason."""
    path.write_bytes(data)
    found = formats.find(form, str(path)) if form else formats.format_of(str(path))
    parts = [part_of(path, found, cut, form or "") for cut in found.cut(str(path), rows_per_part)]
    read = [row for part in parts for row in rows_of(part, None).values()]
    return [row.reason if isinstance(row, formats.Bad) else row for row in read]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("text,n\none,1\ntwo,2\n", [("one", "1"), ("two", "2")]),
        ("\ufefftext,n\r\none,1\r\n\r\ntwo,\r\n", [("one", "1"), ("two", None)]),
        ('text,n\n"a ""b"", c\nd",1\n"",2\n', [('a "b", c\nd', "1"), (None, "2")]),
        ("text,n\none\none,1\none,1,x\n", ["not_csv", ("one", "1"), "not_csv"]),
        ('text,n\n5" disk,1\n"open,2\nnext,3\nlast,4', [('5" disk', "1"), "not_csv", ("next", "3"), ("last", "4")]),
        ('text,n\n"open,2\n"next",3\nlast,4', ["not_csv", ("next", "3"), ("last", "4")]),
        ('text,n\n"a"b,1\nnext,2\n', ["not_csv", ("next", "2")]),
        ("text,n\nold\rmac,1\nnext,2\n", ["not_csv", ("next", "2")]),
        ("text,n\n", []),
        ("", []),
    ],
)
def test_a_line_or_a_quoted_run_of_them_is_a_row_of_csv(lines: str, expected: list[Any], tmp_path: Path) -> None:
    told = [row if isinstance(row, str) else dict(zip(("text", "n"), row, strict=True)) for row in expected]
    assert rows(tmp_path / "a.csv", lines.encode()) == told


def test_csv_that_is_not_utf8_loses_the_rows_that_are_not(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.csv", b"text\ncaf\xe9\nfine\n") == ["not_utf8", {"text": "fine"}]
    with pytest.raises(formats.Corrupt, match="the names of its columns cannot be read"):
        rows(tmp_path / "b.csv", b"caf\xe9\nfine\n")
    assert rows(tmp_path / "c.tsv", b"text\tn\n\t\nx\t1\n") == [{"text": None, "n": None}, {"text": "x", "n": "1"}]


def test_values_longer_than_csv_readers_like_are_read(tmp_path: Path) -> None:
    long = "x" * 300_000
    assert rows(tmp_path / "a.csv", f'text\n"{long}\n"\n'.encode()) == [{"text": f"{long}\n"}]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('[{"a": 1}, {"a": "],[{\\"\\\\"}]', [{"a": 1}, {"a": '],[{"\\'}]),
        ('\ufeff \n[\n  {"a": [1, {"b": 2}]} ,\n {"a": 3}\n]\n \n', [{"a": [1, {"b": 2}]}, {"a": 3}]),
        ('[{"a": 1}, 5, null, {"a": 1, "a": 2}, {"a": 2}]', [{"a": 1}, "not_an_object", "not_an_object",
                                                            "duplicate_json_key", {"a": 2}]),
        ('[{"a": 1},, {"a": 2},]', [{"a": 1}, "not_json", {"a": 2}, "not_json"]),
        ("[]", []),
        (" [ \n ] ", []),
        ("", []),
        ('{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ('{"a": 1}\n{"a": \n\n{"a": 3}', [{"a": 1}, "not_json", {"a": 3}]),
        ('[null, {"a": 1}, {"a": 2}]', ["not_an_object", {"a": 1}, {"a": 2}]),
        ('[5,\n "{", [{"a": 0}],\n {"a": 1}]', ["not_an_object"] * 3 + [{"a": 1}]),
        (f'["{"x" * 200_000}", {{"a": 1}}]', ["not_an_object", {"a": 1}]),
        ('null\n{"a": 1}\n{"a": 2}\n', ["not_an_object", {"a": 1}, {"a": 2}]),
        ('"x"\n{"a": 1}', ["not_an_object", {"a": 1}]),
        ('{"a": \n{"a": 1}\n{"a": 2}', ["not_json", {"a": 1}, {"a": 2}]),
        ('[1]\n{"a": 1}\n{"a": 2}', ["not_an_object", {"a": 1}, {"a": 2}]),
    ],
)  # fmt: skip
def test_an_element_of_an_array_is_a_row_of_json(data: str, expected: list[Any], tmp_path: Path) -> None:
    assert rows(tmp_path / "a.json", data.encode()) == expected


@pytest.mark.parametrize(
    "data",
    ['{"a": 1}', '{\n "a": 1,\n "b": [{}]\n}\n', "[1, 2]", '["a"]', "[1, 2", "[1]\n[2]", "5", '"text"', "<html>"],
)
def test_json_that_is_no_array_of_objects_has_no_rows(data: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(data)
    form = formats.find("json", "")
    for use in (
        lambda: form.cut(str(tmp_path / "a.json"), None),
        lambda: form.peek(str(tmp_path / "a.json"), [], 99, 9),
    ):
        with pytest.raises(formats.NoRows, match="it is no array of objects"):
            use()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('[{"a": 1}', [{"a": 1}, "not_json"]),
        ('[{"a": 1},', [{"a": 1}, "not_json"]),
        ('[{"a": 1}, {"a": "}]', [{"a": 1}, "not_json"]),
        ('[{"a": 1}, {"a"', [{"a": 1}, "not_json"]),
        ('[{"a": 1}] x', [{"a": 1}, "not_json", "not_json"]),
        ('[{"a": 1}]]', [{"a": 1}, "not_json"]),
        ('[{"a": 1}}, {"a": 2}, {"a": 3}]', [{"a": 1}, "not_json", {"a": 2}, {"a": 3}]),
        ('[{"a": [1}]', ["not_json", "not_json"]),
        ("[", ["not_json"]),
        ("[] x", ["not_json", "not_json"]),
        ('[{"a": 1}]\n[{"a": 2}]', [{"a": 1}, "not_an_object", "not_json"]),
        ('[1, null, {"a": 1}]', ["not_an_object", "not_an_object", {"a": 1}]),
    ],
)
def test_an_array_with_a_bracket_too_few_or_too_many_loses_no_row_before_it(
    data: str, expected: list[Any], tmp_path: Path
) -> None:
    for rows_per_part in (1, 2, None):
        assert rows(tmp_path / "a.json", data.encode(), rows_per_part=rows_per_part) == expected


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_json_of_another_encoding_is_corrupt_and_not_without_rows(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"a": 1}]', encoding)
    with pytest.raises(formats.Corrupt, match="it is not in UTF-8"):
        formats.find("json", "").cut(str(tmp_path / "a.json"), None)


def test_plain_text_is_a_document_to_a_file_or_to_what_a_separator_parts(tmp_path: Path) -> None:
    data = "\ufeffone\n\ntwo\n\n\n\n \n\nthree".encode()
    assert rows(tmp_path / "a.txt", data) == [{"text": "one\n\ntwo\n\n\n\n \n\nthree"}]
    assert rows(tmp_path / "a.txt", data, 'txt "\\n\\n"') == [{"text": "one"}, {"text": "two"}, {"text": "three"}]
    assert rows(tmp_path / "a.txt", b"\xff") == ["not_utf8"]
    assert rows(tmp_path / "a.txt", b" \n") == rows(tmp_path / "a.txt", b"") == []


def test_a_policy_says_how_text_is_read_and_the_trainer_reads_it_so(tiny_model: Path, tmp_path: Path) -> None:
    texts = [text_of(n, 8) for n in range(12)]
    (tmp_path / "c").mkdir()
    (tmp_path / "c/a.md").write_text("<|end|>".join(texts[:6]))
    (tmp_path / "c/b.log").write_text("<|end|>".join(texts[6:]))
    said = policy_of(tmp_path / "c", tiny_model, rate=[], select={"budget": {"fraction": 1}, "using": "random"})
    said |= {"manifest": {}, "order": {"using": "shuffled"}}
    said["corpus"] = {"paths": [str(tmp_path / "c")], "format": {"txt": "<|end|>"}}
    manifest = run(said, tmp_path / "root").manifest
    assert manifest.files["format"].to_pylist() == ['txt "<|end|>"'] * 2

    from selector.consume import Texts

    assert sorted(Texts(manifest).read(manifest.rows(0, 12))) == sorted(texts)
    with pytest.raises(PolicyError, match=r"corpus\.format: write the name of a format, or txt with what separates"):
        Policy.of({**said, "corpus": {**said["corpus"], "format": {"csv": ";"}}})


def test_what_a_compression_ends_early_is_lost_as_a_whole(tmp_path: Path) -> None:
    import gzip

    whole = gzip.compress(json.dumps([{"a": n} for n in range(999)]).encode())
    with pytest.raises(formats.Corrupt):
        rows(tmp_path / "a.json.gz", whole[:-20])


@pytest.mark.parametrize("ending", ["json.gz", "json.zst", "json.bz2", "json.xz"])
def test_a_packed_array_may_begin_with_what_is_no_object(ending: str, tmp_path: Path) -> None:
    form = formats.format_of(f"a.{ending}")
    packed = PACKED[ending.rpartition(".")[2]](json.dumps(["x" * 200_000, {"a": 1}]).encode())
    assert rows(tmp_path / f"a.{ending}", packed, form.name) == ["not_an_object", {"a": 1}]


def test_an_integer_of_any_length_costs_nothing_where_nobody_names_it(tmp_path: Path) -> None:
    digits = "7" * 5000
    data = f'{{"a": {digits}, "b": [-{digits}], "c": 3}}'.encode()
    (row,) = rows(tmp_path / "a.jsonl", data)
    assert (str(row["a"]), str(row["b"][0]), row["c"]) == (digits, f"-{digits}", 3)
    assert formats.find("jsonl", "").rows_at(str(tmp_path / "a.jsonl"), len(data), formats.Cache())(
        formats.Wanted(np.zeros(1, np.int64)), ["c"]
    ) == [{"c": 3}]
    assert render.render(row, "{a}{c}") == f"{digits}3"


@pytest.mark.parametrize("name", [one.name for one in formats.compressions()])
def test_every_member_of_a_packed_file_counts_also_one_that_is_damaged(name: str, tmp_path: Path) -> None:
    pack = PACKED[name]
    lines = [b'{"a": 1}\n', b'{"a": 2}\n']
    path = tmp_path / f"a.jsonl.{name}"
    assert rows(path, pack(lines[0]) + pack(b"") + pack(lines[1])) == [{"a": 1}, {"a": 2}]
    second = pack(lines[1])
    for damage in (second[:-3], second[:3], b"BZh9" + second[4:9], b"no member", bytes([second[0] ^ 1]) + second[1:]):
        with pytest.raises(formats.Corrupt):
            rows(path, pack(lines[0]) + damage)
    with pytest.raises(formats.Corrupt):
        rows(path, b"")
    if name != "zst":  # tapes fill up their blocks
        assert rows(path, pack(lines[0]) + b"\0" * 700) == [{"a": 1}]
