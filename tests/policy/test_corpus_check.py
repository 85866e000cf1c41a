"""What `selector check` says of a corpus that does not fit its policy."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from command import selector, write_policy
from conftest import text_of, write_jsonl

ROWS = [{"text": text_of(n, 8), "turns": ["hi", "ho"], "words": ["a", "b"], "n": n, "chat": None} for n in range(60)]


def checked(folder: Path, **sections: Any) -> Any:
    corpus = {"paths": [str(folder / "corpus")], **sections.pop("corpus", {})}
    policy = {"corpus": corpus, "select": {"budget": {"fraction": 0.5}}, **sections}
    return selector("check", write_policy(folder, policy), "--json")


def written(folder: Path, form: str) -> Path:
    """The corpus in a folder, in one of the formats."""
    rows = [{name: value for name, value in row.items() if value is not None} for row in ROWS]
    path = write_jsonl(folder / "corpus/a.jsonl", rows)
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "corpus/a.parquet")
    elif form == "jsonl.gz":
        (folder / "corpus/a.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    if form != "jsonl":
        path.unlink()
    return folder


@pytest.fixture(params=["jsonl", "jsonl.gz", "parquet"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return written(tmp_path, request.param)


@pytest.mark.parametrize("text", ["words", "n", "{words}"])
def test_a_column_that_holds_no_text_is_refused_with_what_it_holds(text: str, folder: Path) -> None:
    ended = checked(folder, corpus={"text": text})
    assert ended.code == 2
    message = ended.json["error"]["message"]
    assert (
        message.startswith("corpus.text: none of the first 60 rows of ") and f"column '{text.strip('{}')}'" in message
    )


@pytest.mark.parametrize("text", ["text", "turns", "{n} {text}"])
def test_a_column_of_texts_a_chat_and_a_template_of_numbers_pass(text: str, folder: Path) -> None:
    assert checked(folder, corpus={"text": text}).code == 0


def test_one_text_among_the_first_rows_of_any_file_is_enough(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus/a.jsonl", [{"text": ["a"]}, {"text": "a text"}])
    assert checked(tmp_path).code == 0
    write_jsonl(tmp_path / "corpus/a.jsonl", [{"text": None}, {"text": ["a"]}])
    assert checked(tmp_path).code == 0, "what is null says nothing of the column"


@pytest.mark.parametrize(("budget", "fits"), [(59, True), (60, True), (61, False), (10**9, False)])
def test_a_budget_of_more_documents_than_there_are_rows_is_refused(budget: int, fits: bool, folder: Path) -> None:
    ended = checked(folder, select={"budget": {"documents": budget}})
    assert ended.code == (0 if fits else 2)
    if not fits:
        said = f"select.budget.documents is {budget}, and the corpus has only 60 rows. Lower it"
        assert ended.json["error"]["message"].startswith(said)


@pytest.mark.parametrize(("budget", "fits"), [("500", True), ("30B", False)])
@pytest.mark.parametrize("text", ["text", "{n}: {text}"])
def test_a_budget_of_more_tokens_than_the_corpus_has_bytes_is_refused(
    budget: str, fits: bool, text: str, folder: Path
) -> None:
    ended = checked(folder, corpus={"text": text}, select={"budget": {"tokens": budget}})
    is_known = not any(path.suffix == ".parquet" for path in (folder / "corpus").iterdir())
    assert ended.code == (0 if fits or not is_known else 2), ended.err
    if not fits and ended.code:
        assert "select.budget.tokens is 30000000000, and the texts of the corpus have at most " in ended.err


def test_a_row_that_is_damaged_or_a_file_that_cannot_be_read_is_left_to_the_run(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus/a.jsonl", ROWS)
    (tmp_path / "corpus/b.parquet").write_bytes(b"PAR1 and no more")
    assert checked(tmp_path, select={"budget": {"documents": 60}}).code == 0
    assert json.loads(checked(tmp_path).out)["corpus"]["text"] == "text"


@pytest.mark.parametrize("ending", ["csv", "dat", "jsonl", "parquet"])
def test_a_file_is_counted_in_the_format_that_the_policy_says(ending: str, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    path = tmp_path / f"corpus/a.{ending}"
    path.write_text("text,n\n" + "".join(f"{text_of(n, 8)},{n}\n" for n in range(20)))
    for budget, code in (({"documents": 20}, 0), ({"documents": 21}, 2), ({"tokens": "30B"}, 2)):
        corpus = {"paths": [str(path)], "format": "csv"}
        assert checked(tmp_path, corpus=corpus, select={"budget": budget}).code == code
    path.write_text("<|end|>".join(text_of(n, 8) for n in range(20)))
    for budget, code in ((20, 0), (21, 2)):
        corpus = {"paths": [str(path)], "format": {"txt": "<|end|>"}}
        assert checked(tmp_path, corpus=corpus, select={"budget": {"documents": budget}}).code == code


def test_a_file_that_a_run_leaves_unread_or_cannot_open_does_not_stop_the_check(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus/a.jsonl", ROWS)
    (tmp_path / "corpus/b.json").write_text('{"some": "settings"}')
    (tmp_path / "corpus/c.jsonl").symlink_to("/proc/self/mem")  # cannot be read, and by root neither
    for budget, code in (({"documents": 60}, 0), ({"documents": 61}, 2), ({"tokens": 100}, 0)):
        ended = checked(tmp_path, select={"budget": budget})
        assert ended.code == code, ended.err


def test_the_tokens_of_short_turns_and_of_packed_columns_are_not_bound_by_their_bytes(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "corpus/a.jsonl", [{"turns": [""] * 50} for _ in range(50)])
    size = path.stat().st_size
    assert checked(tmp_path, corpus={"text": "turns"}, select={"budget": {"tokens": 2 * size}}).code == 0
    path.unlink()
    pq.write_table(pa.table({"text": [text_of(1, 500)] * 500}), tmp_path / "corpus/a.parquet")
    size = (tmp_path / "corpus/a.parquet").stat().st_size
    assert checked(tmp_path, select={"budget": {"tokens": 20 * size}}).code == 0
