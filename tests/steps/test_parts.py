"""Parts: a range of a large file, or several small files together, and in slices where a model is at work."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import text_of, tries, write_jsonl
from runs import Noting, policy_of, run, uncached
from selector.consume import Texts
from selector.corpus.formats import SMALL_FILE, Range, part_rows
from selector.corpus.formats._lines import Lines
from selector.engine.local import LocalExecutor
from selector.engine.part import Part, Piece
from selector.engine.slices import joined
from selector.engine.store import Store
from selector.manifest import Manifest
from selector.pipeline import FinishedRun
from selector.steps import embed, survey
from selector.steps.survey import parts_of

# ---------------------------------------------------------------- the cut


def pieces_of(name: str, num_rows: int, bytes_per_row: int) -> list[Piece]:
    """The pieces of a file of that name, which holds nothing but its name."""
    most = part_rows(num_rows, None)
    ranges = [
        Range(first, end - first, first * bytes_per_row, end * bytes_per_row)
        for first in range(0, num_rows, most)
        for end in [min(first + most, num_rows)]
    ]
    return [
        Piece(file=0, uri=f"/corpus/{name}", format="jsonl", sha256=name, version="1", source=None, **one._asdict())
        for one in ranges
    ]


SIZES = st.integers(0, 5) | st.integers(0, 3 * SMALL_FILE)
FILES = st.dictionaries(
    st.text("abcdef/0.", min_size=1, max_size=6), st.tuples(SIZES, st.sampled_from([1, 100, 5000])), max_size=40
)


def parts(files: dict[str, tuple[int, int]]) -> list[Part]:
    return list(parts_of([pieces_of(name, *files[name]) for name in sorted(files)], None))


@pytest.mark.slow
@tries(300)
@given(files=FILES)
def test_every_row_of_every_file_is_in_exactly_one_part_in_corpus_order(files: dict[str, tuple[int, int]]) -> None:
    cut = parts(files)
    rows = [(piece.uri, piece.first_row + i) for part in cut for piece in part.pieces for i in range(piece.num_rows)]
    assert rows == [(f"/corpus/{name}", row) for name in sorted(files) for row in range(files[name][0])]
    assert all(0 < part.num_rows <= survey.FULL * survey.MEAN_ROWS for part in cut)
    for part in cut:
        numbers = [piece.first_row + i for piece in part.pieces for i in range(piece.num_rows)]
        assert part.find(np.arange(part.end))[1].tolist() == numbers
        last = part.pieces[-1]
        assert part.at(part.end - 1) == (last.uri, last.first_row + last.num_rows - 1)


@tries(300)
@given(files=FILES.filter(bool), data=st.data())
def test_a_new_file_changes_at_most_two_parts_of_the_others(
    files: dict[str, tuple[int, int]], data: st.DataObject
) -> None:
    new = data.draw(st.sampled_from(sorted(files)))
    before = {tuple(part.rows) for part in parts({name: size for name, size in files.items() if name != new})}
    after = {tuple(part.rows) for part in parts(files)}
    others = [part for part in after - before if {sha256 for sha256, _, _ in part} != {new}]
    assert len(others) <= 2 and len(before - after) <= 1


@pytest.mark.parametrize(
    ("num_files", "mean_rows"), [(3000, 400), pytest.param(30_000, survey.MEAN_ROWS, marks=pytest.mark.slow)]
)
def test_small_files_come_to_a_few_thousand_rows_together_and_are_grouped_wherever_they_lie(
    num_files: int, mean_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "MEAN_ROWS", mean_rows)
    files = [pieces_of(f"{number:06}", 1, 300) for number in range(num_files)]
    cut = list(parts_of(files, None))
    assert num_files / len(cut) == pytest.approx(survey.MEAN_ROWS, rel=0.5)
    moved = [[dataclasses.replace(piece, uri=f"/elsewhere{piece.uri}") for piece in pieces] for pieces in files]
    assert [part.num_rows for part in parts_of(moved, None)] == [part.num_rows for part in cut]
    assert [part.num_rows for part in parts_of(files[:3], 128)] == [1, 1, 1], "unless a policy says how large parts are"


@pytest.mark.slow
def test_files_that_are_all_the_same_fill_a_part_and_no_more() -> None:
    copies = [pieces_of("copy", 2, 10) for _ in range(40_000)]
    assert [part.num_rows for part in parts_of(copies, None)] == [65_536, 80_000 - 65_536]


def test_a_large_file_has_parts_of_2048_to_65536_rows_that_seldom_move_when_it_grows() -> None:
    assert [part_rows(n, None) for n in (0, 1, 2048, 8192, 8193, 100_000, 10**6, 10**7)] == [
        2048, 2048, 2048, 2048, 4096, 32_768, 65_536, 65_536,
    ]  # fmt: skip
    assert part_rows(10**6, 10) == 10


# ---------------------------------------------------------------- runs


def lines(numbers: Sequence[int]) -> list[dict[str, Any]]:
    return [{"text": text_of(n, 8), "source": ("web", "books")[n % 2], "edu": n % 10} for n in numbers]


def write_many(folder: Path, num_files: int = 40, rows_in_file: int = 3) -> Path:
    """Small files: rows of the same numbers in every one."""
    for file in range(num_files):
        first = file * rows_in_file
        write_jsonl(folder / f"{file:03}.jsonl", lines(range(first, first + rows_in_file)))
    return folder


def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of about a dozen rows."""
    monkeypatch.setattr(survey, "MEAN_ROWS", 12)


def policy(corpus: Path, tiny_model: Path, **sections: Any) -> dict[str, Any]:
    return policy_of(corpus, tiny_model, **{"corpus": {"paths": [str(corpus)], "max_document_bytes": 2000}, **sections})


def plain(corpus: Path, tiny_model: Path, **sections: Any) -> dict[str, Any]:
    """A policy that embeds nothing and takes everything."""
    said: dict[str, Any] = {
        "rate": ["readability", {"column": {"column": "edu", "higher_is": "better"}, "as": "edu"}],
        "select": {"budget": {"fraction": 1}, "using": {"top": {"score": "edu"}}},
        "order": {"using": {"by_score": {"score": "readability"}}},
        "manifest": {"difficulty": "readability", "quality": "edu"},
    }
    return policy(corpus, tiny_model, **{**said, **sections})


def quarantine(outcome: FinishedRun) -> list[dict[str, Any]]:
    told = Path(outcome.uri.removeprefix("file://"), "quarantine.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in told]


def rows_of(manifest: Manifest) -> list[dict[str, Any]]:
    uris = manifest.files["uri"].to_pylist()
    rows = manifest.rows(0, len(manifest)).to_pylist()
    return [{**row, "uri": uris[row["file"]]} for row in rows]


@pytest.mark.slow
def test_a_new_file_leaves_what_was_computed_of_all_but_two_parts(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    corpus = write_many(tmp_path / "corpus")
    first = run(policy(corpus, tiny_model), tmp_path / "root", Noting(notes=tmp_path / "first"))
    write_jsonl(corpus / "017-new.jsonl", lines(range(500, 503)))
    again = run(policy(corpus, tiny_model), tmp_path / "root", Noting(notes=tmp_path / "again"))
    done = [(tmp_path / name).read_text().split() for name in ("first", "again")]
    for step in ("ingest", "embed"):  # and a rater that reads no clusters
        before, after = ([key for key in keys if key.startswith(f"{step}/")] for keys in done)
        assert len(before) >= 8 and 0 < len(after) <= 2
    fresh = run(policy(corpus, tiny_model), tmp_path / "fresh")
    assert again.manifest.digest == fresh.manifest.digest != first.manifest.digest


def test_rules_columns_and_texts_are_those_of_the_files_that_share_a_part(tiny_model: Path, tmp_path: Path) -> None:
    corpus = write_many(tmp_path / "corpus")
    apart = tmp_path / "apart.jsonl"
    write_jsonl(apart, lines(range(120)))
    told: list[list[tuple[Any, ...]]] = []
    for paths, keep_texts in ((corpus, True), (corpus, False), (apart, True)):
        said = plain(paths, tiny_model, select={"budget": {"fraction": 1}, "where": "edu > 2", "using": "random"})
        said["corpus"]["keep_texts"] = keep_texts
        outcome = run(said, tmp_path / f"root-{keep_texts}")
        rows = rows_of(outcome.manifest)
        assert len(rows) == 84 and outcome.manifest.verify().ok
        for row in rows:
            (line,) = [json.loads(Path(row["uri"]).read_text("utf-8").splitlines()[row["row"]])]
            assert row["quality"] == line["edu"] > 2 and row["source"] == line["source"]
        told.append([(row["doc_id"], row["difficulty"], row["quality"]) for row in rows])
    assert told[0] == told[1] == told[2]


def test_a_bad_row_of_a_small_file_is_quarantined_under_its_own_file(tiny_model: Path, tmp_path: Path) -> None:
    corpus = write_many(tmp_path / "corpus")
    with (corpus / "023.jsonl").open("a") as file:
        file.write('{"text": 5}\n')
    outcome = run(plain(corpus, tiny_model), tmp_path / "root")
    (lost,) = quarantine(outcome)
    assert (lost["uri"], lost["row"], lost["step"]) == (str(corpus / "023.jsonl"), 3, "ingest")
    assert (lost["reason"], outcome.manifest.verify().ok, len(outcome.manifest)) == ("not_text", True, 120)


FRAGILE = """
from dataclasses import dataclass

import pyarrow as pa

from selector.rate import Rater


@dataclass(frozen=True, kw_only=True)
class Fragile(Rater):
    higher_is = "better"
    fatal: str

    def rate(self, batch):
        if any(self.fatal in text for text in batch["text"].to_pylist()):
            raise ArithmeticError("a document is too much")
        return pa.record_batch({"score": pa.array([1.0] * batch.num_rows)})
"""


def test_a_fatal_row_of_a_part_of_small_files_is_found_and_quarantined_under_its_own_file(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fragile_of_parts.py").write_text(FRAGILE, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    corpus = write_many(tmp_path / "corpus")
    said = plain(corpus, tiny_model, rate=[{"fragile_of_parts.Fragile": {"fatal": "Document 77."}, "as": "fragile"}])
    said["select"]["using"], said["order"]["using"], said["manifest"] = "random", "shuffled", {}
    outcome = run(said, tmp_path / "root")
    (lost,) = quarantine(outcome)
    assert (lost["uri"], lost["row"], lost["step"]) == (str(corpus / "025.jsonl"), 2, "rate/fragile")
    assert outcome.manifest.verify().ok and len(outcome.manifest) == 119


def test_a_file_without_rows_before_the_others_moves_no_document(tiny_model: Path, tmp_path: Path) -> None:
    """What is stored of a part does not know the number of its files; what names files is made again."""
    corpus = write_many(tmp_path / "corpus")
    before = run(plain(corpus, tiny_model), tmp_path / "root")
    (corpus / "000-empty.jsonl").touch()
    again = run(plain(corpus, tiny_model), tmp_path / "root")
    assert uncached(again) == ["survey", "select", "order", "manifest"]
    placed = [[(row["doc_id"], row["uri"], row["row"]) for row in rows_of(one.manifest)] for one in (before, again)]
    assert placed[0] == placed[1] and again.manifest.verify().ok
    assert again.manifest.digest == run(plain(corpus, tiny_model), tmp_path / "fresh").manifest.digest


@pytest.mark.slow
@pytest.mark.parametrize("mean_rows", [12, 4096])
def test_the_digest_is_that_of_one_worker_on_any_number(
    mean_rows: int, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "MEAN_ROWS", mean_rows)
    corpus = write_many(tmp_path / "corpus")
    digests = {
        run(policy(corpus, tiny_model), tmp_path / f"root-{workers}", LocalExecutor(workers=workers)).manifest.digest
        for workers in (1, 2)
    }
    assert len(digests) == 1


@pytest.mark.slow
def test_many_small_files_cost_hardly_more_objects_than_one(tiny_model: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "one.jsonl", lines(range(120)))
    objects = []
    for name in ("one.jsonl", "many"):
        if name == "many":
            write_many(tmp_path / name, num_files=120, rows_in_file=1)
        run(plain(tmp_path / name, tiny_model), tmp_path / f"root-{name}")
        objects.append(sum(path.is_file() for path in (tmp_path / f"root-{name}").rglob("*")))
    assert objects[1] <= objects[0] + 20


# ---------------------------------------------------------------- where lines lie


ODD = b'\xef\xbb\xbf{"text": "first, after a mark"}\r\n\n  {"text": "d\xc3\xa9j\xc3\xa0", "n": 1}  \n{"text": "no end"}'


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_a_manifest_says_where_each_line_lies_and_the_trainer_reads_it_there(
    name: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip

    import pyarrow.parquet as pq

    data = ODD
    if name.endswith("parquet"):
        pq.write_table(pa.table({"text": ["first, after a mark", "d\u00e9j\u00e0", "no end"]}), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    said = plain(tmp_path / name, tiny_model, rate=[], select={"budget": {"fraction": 1}, "using": "random"})
    said["order"]["using"], said["manifest"] = "shuffled", {}
    manifest = run(said, tmp_path / "root").manifest
    rows = rows_of(manifest)
    if name.endswith("parquet"):
        assert {(row["byte_offset"], row["byte_length"]) for row in rows} == {(None, None)}
    else:
        found = {row["row"]: data[row["byte_offset"] :][: row["byte_length"]] for row in rows}
        lines_there = dict(enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n")))
        assert found == {row: lines_there[row].removesuffix(b"\r") for row in (0, 2, 3)}

    def scanned(*_: Any) -> Any:
        raise AssertionError("the file is searched for its lines")

    if name == "a.jsonl":
        monkeypatch.setattr(Lines, "bounds", scanned)
    visits = manifest.rows(0, len(manifest))
    texts = Texts(manifest).read(visits)
    assert sorted(texts) == ["d\u00e9j\u00e0", "first, after a mark", "no end"]
    monkeypatch.undo()
    for column in ("byte_offset", "byte_length"):
        at = visits.schema.get_field_index(column)
        visits = visits.set_column(at, visits.schema.field(at), pa.nulls(len(visits), visits.schema.field(at).type))
    assert Texts(manifest).read(visits) == texts, "and an older manifest's lines are found"


# ---------------------------------------------------------------- slices


def test_a_part_is_embedded_in_slices_that_a_run_takes_up_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_many(tmp_path / "corpus")
    monkeypatch.setattr(embed, "SLICE", {"cpu": 50, "cuda": 50})
    monkeypatch.setattr(embed, "LEAST_SAMPLED", 100)
    whole = run(policy(corpus, tiny_model), tmp_path / "whole", Noting(notes=tmp_path / "whole-notes"))
    done = [key for key in (tmp_path / "whole-notes").read_text().split() if key.startswith("passing/embed/")]
    assert len(done) == 3

    with pytest.raises(KeyboardInterrupt):
        run(policy(corpus, tiny_model), tmp_path / "root", Broken(notes=tmp_path / "notes"))
    again = run(policy(corpus, tiny_model), tmp_path / "root", Noting(notes=tmp_path / "notes"))
    assert [key for key in (tmp_path / "notes").read_text().split() if key.startswith("passing/embed/")] == [
        *done,
        *done[1:],
    ]
    assert again.manifest.digest == whole.manifest.digest and again.manifest.verify().ok
    (step,) = [step for step in again.steps if step.name == "embed"]
    assert step.rows_out == 120 and len(step.parts) == 1
    store = Store.open(str(tmp_path / "root"))
    vectors, sample = store.table(step.parts[0], "embeddings"), store.table(step.parts[0], "sample.4")
    is_drawn = [one in sample["doc_id"].to_pylist() for one in vectors["doc_id"].to_pylist()]
    assert sample.equals(vectors.filter(pa.array(is_drawn)))
    assert sample.num_rows == embed.sampled(store, step.parts[0], 4).num_rows > 10
    assert vectors.num_rows == 120
    assert not (tmp_path / "root/artifacts/passing").exists(), "a slice goes once its part is whole"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Broken(Noting):
    """Interrupted after the first slice of embed."""

    def run(self, step: Any, tasks: Any, store: Any, num_rows: int | None = None) -> Any:
        for receipt in super().run(step, tasks, store, num_rows):
            yield receipt
            if step.name == "embed":
                raise KeyboardInterrupt


CAREFUL = """
from dataclasses import dataclass

import pyarrow as pa

from selector.rate import Rater, Resources


@dataclass(frozen=True, kw_only=True)
class Careful(Rater):
    higher_is = "better"
    resources = Resources(documents=32)

    def rate(self, batch):
        assert batch.num_rows <= 32
        if any("Document 77." in text for text in batch["text"].to_pylist()):
            raise ArithmeticError("a document is too much")
        return pa.record_batch({"score": pa.array([float(len(text)) for text in batch["text"].to_pylist()])})
"""


def test_a_rater_is_given_as_many_documents_as_it_asks_for_and_loses_a_fatal_one_alone(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "careful_of_parts.py").write_text(CAREFUL, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    corpus = write_many(tmp_path / "corpus")
    said = plain(corpus, tiny_model, rate=["careful_of_parts.Careful"], manifest={"quality": "Careful"})
    said["select"]["using"], said["order"]["using"] = {"top": {"score": "Careful"}}, "shuffled"
    outcome = run(said, tmp_path / "root")
    (lost,) = quarantine(outcome)
    assert (lost["uri"], lost["row"], lost["step"]) == (str(corpus / "025.jsonl"), 2, "rate/Careful")
    assert outcome.manifest.verify().ok and len(outcome.manifest) == 119
    for row in rows_of(outcome.manifest):
        line = json.loads(Path(row["uri"]).read_text("utf-8").splitlines()[row["row"]])
        assert row["quality"] == len(line["text"])


def test_tables_of_slices_take_the_type_of_those_that_have_values() -> None:
    field = {b"higher_is": b"better"}
    none = pa.table([pa.nulls(2, pa.float32())], schema=pa.schema([pa.field("score", pa.float32(), metadata=field)]))
    some = pa.table([pa.array([2**60, None])], schema=pa.schema([pa.field("score", pa.int64(), metadata=field)]))
    words = [pa.table({"label": pa.array(values).dictionary_encode()}) for values in (["a", "b"], ["c", "b"])]
    assert joined([none, some, none.slice(0, 0)])["score"].to_pylist() == [None, None, 2**60, None]
    assert joined([some, none]).schema.equals(some.schema, check_metadata=True)
    (chunk,) = joined(words)["label"].chunks
    assert chunk.to_pylist() == ["a", "b", "c", "b"]
