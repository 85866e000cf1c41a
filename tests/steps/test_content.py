"""What a row holds reaches the trainer, and what a budget lacks is said: whole runs over awkward rows."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import selector
from conftest import text_of, write_jsonl
from selector.consume import Texts
from selector.manifest import Manifest


def made(folder: Path, path: Path, **sections: Any) -> Manifest:
    policy: dict[str, Any] = {
        "corpus": {"paths": [str(path)]},
        "rate": ["length"],
        "select": {"budget": {"fraction": 1.0}},
    }
    for name, section in sections.items():
        policy[name] = {**policy.get(name, {}), **section} if isinstance(section, dict) else section
    return selector.run(policy, root=str(folder / "runs"), executor="local")


def rows_of(manifest: Manifest) -> list[dict[str, Any]]:
    return manifest.rows(0, len(manifest)).to_pylist()


def written(folder: Path, form: str, rows: list[dict[str, Any]]) -> Path:
    if form == "jsonl":
        return write_jsonl(folder / "a.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", row_group_size=7)
    return folder / "a.parquet"


def answers(i: int) -> list[dict[str, Any]]:
    """Messages that say the same, and differ in one field from those of every other number."""
    function = {"name": "book", "arguments": json.dumps({"seat": i})}
    said = {"role": "assistant", "content": "Yes."}
    return [
        {**said, "content": None, "tool_calls": [{"type": "function", "function": function}]},
        {**said, "function_call": function},
        {**said, "name": f"agent {i}"},
        {**said, "reasoning_content": f"{i} is free"},
        {**said, "weight": i / 4},
        {**said, "content": [{"type": "text", "text": "Yes."}, {"type": "text", "text": f"Seat {i}."}]},
    ]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_chats_that_differ_in_one_field_are_different_documents_to_the_trainer_too(form: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"role": "user", "content": "Book it."}
    rows = [{"messages": [{**asked}, answer]} for i in range(20) for answer in answers(i)]
    if form == "parquet":  # which has one type for all contents
        for message in (message for row in rows for message in row["messages"]):
            if isinstance(message["content"], str):
                message["content"] = [{"type": "text", "text": message["content"]}]
    manifest = made(tmp_path, written(tmp_path, form, rows), corpus={"text": "messages"})
    assert manifest.info["counts"]["kept"] == len(rows)
    texts = Texts(manifest)
    for _ in range(3):  # the last ones from what a row group was unpacked to
        assert len(set(texts.read(manifest.rows(0, len(rows))))) == len(rows)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_tools_beside_a_chat_are_part_of_it_and_an_image_in_it_is_quarantined_by_name(
    form: str, tmp_path: Path
) -> None:
    hi = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    seen = {"role": "user", "content": [{"type": "image", "text": None}]}
    rows = [{"messages": [hi], "tools": [{"name": f"tool {i}"}]} for i in range(5)]
    rows += [{"messages": [hi, seen], "tools": None}]
    manifest = made(tmp_path, written(tmp_path, form, rows), corpus={"text": "messages"})
    counts = manifest.info["counts"]
    assert (counts["kept"], counts["reasons"]) == (5, {"quarantined in ingest: not_text": 1})
    (lost,) = (tmp_path / "runs").glob("*/quarantine.jsonl")
    assert "message 1, content, part 0 is of the type 'image'" in json.loads(lost.read_text("utf-8"))["detail"]
    assert {text.partition("\n")[0] for text in Texts(manifest).read(manifest.rows(0, 5))} == {
        f'tools: [{{"name": "tool {i}"}}]' for i in range(5)
    }


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_chat_with_an_image_beside_it_is_quarantined_by_name_and_text_with_one_is_not(
    form: str, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": f"What is it? {i}"}], "text": f"It is {i}.", "images": image}
        for i, image in enumerate([None, [], ["a.png"], [{"path": "a.png"}], [""]][: 3 if form == "parquet" else 5])
    ]
    manifest = made(tmp_path, written(tmp_path, form, rows), corpus={"text": "messages"})
    counts = manifest.info["counts"]
    assert (counts["kept"], counts["reasons"]) == (2, {"quarantined in ingest: not_text": len(rows) - 2})
    (lost,) = (tmp_path / "runs").glob("*/quarantine.jsonl")
    assert "the column 'images' beside the chat is no text" in lost.read_text("utf-8")
    assert len(made(tmp_path, tmp_path / f"a.{form}", corpus={"text": "text"})) == len(rows)


@pytest.mark.slow
def test_nested_columns_and_numbers_are_text_key_and_source(tmp_path: Path) -> None:
    rows = [
        {"n": i, "meta": {"id": i, "site": f"site{i % 3}" if i else None, "body": {"text": text_of(i, 6)}}}
        for i in range(12)
    ]
    corpus = {"text": "{n}: {meta.body.text}", "key": "meta.id", "source": "meta.site"}
    for form in ("jsonl", "parquet"):
        manifest = made(tmp_path, written(tmp_path, form, rows), corpus=corpus)
        assert {row["source"] for row in rows_of(manifest)} == {"site0", "site1", "site2", "a"}
        assert manifest.info["counts"]["without_source"] == 1
        texts = Texts(manifest).read(manifest.rows(0, 12))
        assert sorted(texts) == sorted(f"{i}: {text_of(i, 6)}" for i in range(12))


def test_a_time_to_the_nanosecond_and_a_year_12921_are_text_to_the_trainer_too(tmp_path: Path) -> None:
    at, day = pa.array([10**18 + 1, 10**18], pa.timestamp("ns")), pa.array([4_000_000, 0], pa.date32())
    pq.write_table(pa.table({"text": ["one", "two"], "at": at, "day": day}), tmp_path / "a.parquet")
    manifest = made(tmp_path, tmp_path / "a.parquet", corpus={"text": "{at} {day} {text}", "source": "day"})
    assert {row["source"] for row in rows_of(manifest)} == {"12921-08-18", "1970-01-01"}
    assert set(Texts(manifest).read(manifest.rows(0, 2))) == {
        "2001-09-09 01:46:40.000000001 12921-08-18 one",
        "2001-09-09 01:46:40 1970-01-01 two",
    }


def test_each_step_has_a_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": text_of(i, 6)} for i in range(30)])
    with caplog.at_level(logging.INFO, "selector.engine.runner"):
        made(tmp_path, path, select={"budget": {"documents": 20}})
    messages = caplog.messages
    assert "ingest: begun, 1 of 1 parts are to be done" in messages
    ended = [message for message in messages if "rows in" in message]
    steps = ["survey", "ingest", "dedup", "rate/length", "select", "order", "manifest"]
    assert [message.split()[0] for message in ended] == steps
    assert re.fullmatch(r"select [0-9a-f]{12}: 30 rows in, 20 rows out, \d+\.\d s", ended[4])


def test_a_budget_out_of_reach_is_logged_with_what_it_lacked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": text_of(i, 6), "edu": i % 3} for i in range(30)])
    select = {"where": "edu = 0", "budget": {"documents": 20}}
    with caplog.at_level(logging.WARNING, "selector"):
        manifest = made(tmp_path, path, select=select)
        assert made(tmp_path, path, select=select).digest == manifest.digest, "found finished, and said again"
    assert (
        caplog.messages
        == ["budget: 10 of 20 documents are spent, 10 are left: every document that may be chosen is"] * 2
    )
    shortfall = manifest.info["facts"]["select"]["shortfall"]
    assert shortfall["budget"] - shortfall["spent"] == 10
    assert manifest.info["counts"]["reasons"] == {"where: edu = 0": 20}


@pytest.mark.slow
def test_documents_of_no_tokens_are_left_out_by_name_whatever_the_budget(tmp_path: Path) -> None:
    rows = [{"text": "\u200b" * (1 + i)} for i in range(60)] + [{"text": text_of(i, 6)} for i in range(60)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    for budget in ({"fraction": 1.0}, {"fraction": 0.1}, {"tokens": 50}, {"documents": 60}):
        for using in ("random", {"top": {"score": "length"}}):
            manifest = made(tmp_path, path, select={"budget": budget, "using": using})
            assert all(row["num_tokens"] > 0 for row in rows_of(manifest)) and len(manifest) > 0
            why = "no tokens: the tokenizer finds none in its text"
            assert manifest.info["counts"]["reasons"][why] == 60


def test_the_braces_of_a_rule_are_told_as_they_stand(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": text_of(i, 6), "lang": "{en}"} for i in range(9)])
    rule = "lang = '{en}' AND num_tokens > 14"
    manifest = made(tmp_path, path, select={"where": rule})
    left = manifest.info["counts"]["left_out"]
    assert left > 0 and manifest.describe()["reasons"] == {f"where: {rule}": left}
