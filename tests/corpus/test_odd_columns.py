"""Columns that are seldom seen: of one name, in maps, of types that few functions take, of files with other endings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from command import selector, write_policy
from conftest import text_of, write_jsonl
from runs import run
from selector.consume import Texts
from selector.errors import CorpusError

pytestmark = pytest.mark.slow

TEXTS = [text_of(n, 8) for n in range(12)]
NUMBERS = list(range(12))


def write_arrow(path: Path, table: pa.Table) -> Path:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return path


def write_parquet(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path)
    return path


WRITERS: dict[str, Callable[[Path, pa.Table], Path]] = {"arrow": write_arrow, "parquet": write_parquet}


def policy_of(corpus: Path, where: str | None = None, **options: Any) -> dict[str, Any]:
    return {
        "corpus": {"paths": [str(corpus)], **options},
        "rate": [],
        "select": {"budget": {"fraction": 1}, "using": "random", **({} if where is None else {"where": where})},
        "order": {"using": "shuffled"},
        "manifest": {},
    }


def kept(corpus: Path, root: Path, where: str | None = None, **options: Any) -> list[str]:
    """The texts that a run keeps, as a trainer reads them, sorted."""
    manifest = run(policy_of(corpus, where, **options), root).manifest
    return sorted(Texts(manifest).read(manifest.rows(0, len(manifest))))


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize(
    "texts",
    [pa.array(TEXTS).cast(pa.string_view()), pa.array(TEXTS).dictionary_encode(), pa.array(TEXTS, pa.large_string())],
    ids=lambda texts: str(texts.type),
)
def test_text_of_any_type_of_text_is_read_by_ingest_and_by_the_trainer(
    texts: pa.Array, form: str, tmp_path: Path
) -> None:
    corpus = WRITERS[form](tmp_path / f"a.{form}", pa.table({"text": texts, "n": NUMBERS}))
    assert kept(corpus, tmp_path / "root", "n < 7") == sorted(TEXTS[:7])


def test_values_in_runs_are_compared_as_what_they_are(tmp_path: Path) -> None:
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([5, 12], pa.int32()), pa.array([1, 2]))
    corpus = write_arrow(tmp_path / "a.arrow", pa.table({"text": TEXTS, "n": runs}))
    assert kept(corpus, tmp_path / "root", "n = 2") == sorted(TEXTS[5:])


@pytest.mark.parametrize("form", WRITERS)
def test_a_dot_leads_into_a_map_in_rules_sources_and_templates(form: str, tmp_path: Path) -> None:
    maps = pa.array([[("n", str(n)), ("lang", "en")] for n in NUMBERS], pa.map_(pa.string(), pa.string()))
    corpus = WRITERS[form](tmp_path / f"a.{form}", pa.table({"text": TEXTS, "meta": maps}))
    options: dict[str, Any] = {"text": "{meta.n} {text}", "source": "meta.lang"}
    manifest = run(policy_of(corpus, "meta.n < '2'", **options), tmp_path / "root").manifest
    texts = Texts(manifest).read(manifest.rows(0, len(manifest)))
    assert sorted(texts) == sorted(f"{n} {TEXTS[n]}" for n in (0, 1, 10, 11))
    assert manifest.rows(0, 4)["source"].to_pylist() == ["en"] * 4


def two_of(name: str) -> pa.Table:
    return pa.Table.from_arrays([pa.array(TEXTS), pa.array(NUMBERS), pa.array(NUMBERS)], names=["text", name, name])


NESTED = pa.StructArray.from_arrays([pa.array(TEXTS), pa.array(TEXTS)], names=["t", "t"])
AMBIGUOUS: dict[str, tuple[pa.Table, dict[str, Any]]] = {
    "the usual source": (two_of("source"), {}),
    "a chat's tools": (two_of("tools"), {}),
    "a rule": (two_of("n"), {"where": "n > 3"}),
    "a rule on a nested one": (pa.table({"text": TEXTS, "m": NESTED}), {"where": "m.t = 'a'"}),
    "a nested text": (pa.table({"m": NESTED}), {"text": "m.t"}),
    "a nested one in a template": (pa.table({"m": NESTED}), {"text": "{m.t}"}),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_two_columns_of_one_name_are_refused_wherever_one_of_them_would_be_read(case: str, tmp_path: Path) -> None:
    table, options = AMBIGUOUS[case]
    corpus = write_arrow(tmp_path / "a.arrow", table)
    with pytest.raises(CorpusError, match=r"has two columns '(source|tools|n|m\.t)'. Give one of them another name"):
        run(policy_of(corpus, **options), tmp_path / "root")


def test_a_corpus_without_any_document_is_not_said_to_lack_a_column(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array([text.encode() for text in TEXTS]), "n": NUMBERS})
    corpus = write_parquet(tmp_path / "a.parquet", table)
    with pytest.raises(CorpusError, match=r"no row of .* is a document \(12 not_text\)"):
        run(policy_of(corpus, "n > 3"), tmp_path / "root")


def test_a_rule_and_check_read_a_file_in_the_format_that_the_policy_says(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    corpus = tmp_path / "corpus/a.dat"
    corpus.write_text("text,n\n" + "".join(f"{text},{n}\n" for text, n in zip(TEXTS, NUMBERS, strict=True)))
    assert kept(corpus, tmp_path / "root", "n < 7", format="csv") == sorted(TEXTS[:7])
    policy = policy_of(corpus, "n < 7", format="csv")
    policy["select"]["budget"] = {"documents": 5}
    checked = selector("check", write_policy(tmp_path, policy))
    assert checked.code == 0, checked


def test_check_passes_over_files_that_a_run_passes_over(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus/z.jsonl", [{"text": text} for text in TEXTS])
    (tmp_path / "corpus/a.json").write_text('{"a setting": true}')
    (tmp_path / "corpus/b.jsonl.gz").write_bytes(b"no gzip")
    policy = policy_of(tmp_path / "corpus")
    policy["select"]["budget"] = {"documents": 12}
    assert selector("check", write_policy(tmp_path, policy)).code == 0
    policy["select"]["budget"] = {"documents": 13}
    assert "the corpus has only 12 rows" in selector("check", write_policy(tmp_path, policy)).err
