"""The whole flow in this process: every row has its outcome, the counts add up, and budgets are exact."""

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import text_of, write_jsonl
from runs import policy_of, run, uncached, write_corpus
from selector.engine.store import Seal, Store
from selector.errors import PolicyError
from selector.manifest import Manifest
from selector.manifest.describe import sentence
from selector.pipeline import FinishedRun
from selector.steps.order import OrderStep

Make = Callable[..., dict[str, Any]]


def test_a_second_run_finds_every_step_done(tiny_model: Path, tmp_path: Path) -> None:
    policy = policy_of(write_corpus(tmp_path / "corpus"), tiny_model)
    first, second = run(policy, tmp_path / "root"), run(policy, tmp_path / "root")
    assert uncached(first) == [step.name for step in first.steps]
    assert uncached(second) == []
    assert second.manifest.digest == first.manifest.digest and second.manifest.verify().ok


def test_a_run_of_a_program_with_a_newer_step_stands_beside_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = write_jsonl(tmp_path / "corpus.jsonl", [{"text": text_of(n, 8)} for n in range(9)])
    policy = {"corpus": {"paths": [str(texts)]}, "select": {"budget": {"documents": 3}, "using": "random"}}
    older = run(policy, tmp_path / "root")
    monkeypatch.setattr(OrderStep, "version", OrderStep.version + 1)
    newer = run(policy, tmp_path / "root")
    assert newer.uri != older.uri and newer.manifest.verify().ok and older.manifest.verify().ok


# ---------------------------------------------------------------- every row has its outcome


@dataclass(frozen=True, kw_only=True)
class Document:
    """What the test knows of a document without asking the program."""

    file: int
    row: int
    doc_id: bytes
    text_id: bytes
    source: str
    lang: str | None
    edu: float | None
    num_tokens: int


BAD = (
    b"not json",
    b'{"text": null}',
    b'{"source": "web"}',
    b'{"text": " \\n"}',
    b'{"text": "\xff"}',
    b"[1]",
    b'{"text": 5}',
)


def rows_of(first: int, stop: int) -> list[dict[str, Any]]:
    """Rows with a score that is sometimes null or no number, and a language that is sometimes not there."""
    edu: list[Any] = [str(n * 7 % 10) for n in range(10)]
    edu[3], edu[6] = None, "n/a"
    rows: list[dict[str, Any]] = []
    for n in range(first, stop):
        row = {"id": f"key {n}", "text": text_of(n, 6), "source": ("web", "books")[n % 2], "edu": edu[n % 10]}
        rows.append(row | ({"lang": ("en", "de", "en")[n % 3]} if n % 7 else {}))
    return rows


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files with copies within and between them, rows that are no documents, and keys that are there twice."""
    folder = tmp_path_factory.mktemp("mixed")

    def line(row: Any) -> bytes:
        return json.dumps(row).encode()

    lines = [line(row) for row in rows_of(0, 60)]
    for place, bad in enumerate(BAD):
        lines.insert(5 + 8 * place, bad)
    lines.insert(20, b"")  # a blank line is no row
    (folder / "0.jsonl").write_bytes(b"\n".join([*lines, *(line(row) for row in rows_of(10, 14))]))
    with gzip.open(folder / "1.jsonl.gz", "wb") as file:
        file.write(
            b"\n".join(line({**row, "id": f"other {row['id']}"}) for row in [*rows_of(50, 100), *rows_of(0, 5)]) + b"\n"
        )
    texts = [
        {**row, "id": f"key {number}", "edu": None if row["edu"] == "n/a" else row["edu"]}
        for number, row in enumerate(rows_of(100, 140))
    ]
    table = pa.Table.from_pylist(
        texts,
        pa.schema(
            [
                ("id", pa.string()),
                ("text", pa.string()),
                ("source", pa.string()),
                ("edu", pa.string()),
                ("lang", pa.string()),
            ]
        ),
    )
    pq.write_table(table, folder / "2.parquet", row_group_size=16)
    return folder


def read_as_a_stranger(corpus: Path, model: Path, key: str | None) -> tuple[list[Document], int]:
    """The documents of the corpus in its order, and how many rows are none."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    documents: list[Document] = []
    num_bad = 0
    for file, path in enumerate(sorted(corpus.iterdir())):
        if path.suffix == ".parquet":
            rows: list[Any] = pq.read_table(path).to_pylist()
        else:
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            rows = data.removesuffix(b"\n").split(b"\n")
        for number, row in enumerate(rows):
            if row == b"":  # a blank line is no row
                continue
            if row in BAD:
                num_bad += 1
                continue
            value = json.loads(row) if isinstance(row, bytes) else row
            text_id = hashlib.blake2b(value["text"].encode(), digest_size=16).digest()
            documents.append(
                Document(
                    file=file, row=number, text_id=text_id, source=value["source"], lang=value.get("lang"),
                    doc_id=text_id if key is None else hashlib.blake2b(value[key].encode(), digest_size=16).digest(),
                    edu=None if value["edu"] in (None, "n/a") else float(value["edu"]),
                    num_tokens=len(tokenizer.encode(value["text"], add_special_tokens=False).ids),
                )
            )  # fmt: skip
    return documents, num_bad


def decisions_of(outcome: FinishedRun) -> dict[tuple[int, int], dict[str, Any]]:
    """`decisions` as it lies on disk, by file and row; each is there once."""
    found = [
        row for path in sorted(Path(outcome.uri, "decisions").iterdir()) for row in pq.read_table(path).to_pylist()
    ]
    decisions = {(row["file"], row["row"]): row for row in found}
    assert len(decisions) == len(found)
    return decisions


def choose_as_a_stranger(
    documents: Sequence[Document], missing: str, num_documents: int
) -> dict[tuple[int, int], tuple[str, str | None]]:
    """The outcome of every document by the policy of the test below, and the beginning of its reason."""
    outcomes: dict[tuple[int, int], tuple[str, str | None]] = {}
    texts, ids = set[bytes](), set[bytes]()
    live: list[Document] = []
    for document in documents:
        place = document.file, document.row
        if document.text_id in texts:
            outcomes[place] = "duplicate", "the same text as another document"
        elif document.doc_id in ids:
            outcomes[place] = "quarantined", "quarantined in dedup"
        else:
            live.append(document)
            texts.add(document.text_id)
            ids.add(document.doc_id)
    scores = [document.edu for document in live if document.edu is not None]
    mean = sum(scores) / len(scores)
    pool: list[tuple[float, bytes, tuple[int, int]]] = []
    for document in live:
        place = document.file, document.row
        if not (document.lang == "en" and document.num_tokens >= 18):
            outcomes[place] = "left_out", "where: "
        elif document.edu is None and missing == "drop":
            outcomes[place] = "left_out", "no score 'edu': "
        else:
            score = document.edu if document.edu is not None else {"last": -1.0, "impute": mean}[missing]
            pool.append((-score, document.doc_id, place))
    for rank, (_, _, place) in enumerate(sorted(pool)):
        outcomes[place] = ("kept", "among") if rank < num_documents else ("left_out", "not among")
    return outcomes


@pytest.mark.parametrize(
    ("key", "budget"),
    [pytest.param(None, 50, marks=pytest.mark.slow), ("id", 32)],  # more than have a score, less than may be chosen
)
@pytest.mark.parametrize("missing", ["drop", *(pytest.param(m, marks=pytest.mark.slow) for m in ("last", "impute"))])
def test_every_document_has_one_outcome_and_the_counts_add_up(
    missing: str, key: str | None, budget: int, corpus: Path, tiny_model: Path, tmp_path: Path
) -> None:
    policy = policy_of(
        corpus,
        tiny_model,
        corpus={"paths": [str(corpus)], "rows_per_part": 16, "key": key},
        rate=[{"column": {"column": "edu", "higher_is": "better"}}, "readability"],
        select={
            "where": "num_tokens >= 18 AND lang = 'en'",
            "budget": {"documents": budget},
            "using": {"top": {"score": "edu"}},
            "missing": missing,
        },
        manifest={"quality": "edu", "difficulty": "readability"},
    )
    outcome = run(policy, tmp_path / "root")
    documents, num_bad = read_as_a_stranger(corpus, tiny_model, key)
    expected = choose_as_a_stranger(documents, missing, budget)
    by_place = {(document.file, document.row): document for document in documents}

    decisions = decisions_of(outcome)
    assert decisions.keys() == by_place.keys() == expected.keys()
    for place, decision in decisions.items():
        assert (decision["outcome"], decision["doc_id"]) == (expected[place][0], by_place[place].doc_id), place
        said = sentence(decision["reason"], decision["arguments"])
        assert said.startswith(expected[place][1] or ""), place
        is_kept, was_asked = decision["outcome"] == "kept", said.startswith(("among", "not among"))
        assert decision["inclusion_probability"] == ((1.0 if is_kept else 0.0) if was_asked else None)
        assert decision["visits"] == (1 if is_kept else 0)
        if decision["outcome"] == "duplicate":
            first = next(document for document in documents if document.text_id == by_place[place].text_id)
            assert decision["other"] == first.doc_id

    manifest = outcome.manifest
    visits = manifest.rows(0, len(manifest)).to_pylist()
    kept = [place for place, (told, _) in expected.items() if told == "kept"]
    assert sorted((visit["file"], visit["row"]) for visit in visits) == sorted(kept)
    assert len(kept) == budget if missing != "drop" else 20 < len(kept) < budget
    for visit in visits:
        document = by_place[visit["file"], visit["row"]]
        assert (visit["doc_id"], visit["source"], visit["num_tokens"]) == (
            document.doc_id,
            document.source,
            document.num_tokens,
        )
        if document.edu is not None or missing == "last":
            assert visit["quality"] == document.edu
        else:
            assert 0 < visit["quality"] < 9 and visit["quality"] % 1, "the mean of those that have one"

    counts = manifest.info["counts"]
    told = Counter(name for name, _ in expected.values())
    assert {name: counts[name] for name in ("kept", "left_out", "duplicate")} == {
        name: told[name] for name in ("kept", "left_out", "duplicate")
    }
    assert counts["quarantined"] == told["quarantined"] + num_bad == outcome.num_quarantined and num_bad == len(BAD)
    assert counts["documents"] == len(documents) and counts["rows"] == len(documents) + num_bad
    assert counts["rows"] == sum(counts[name] for name in ("kept", "left_out", "duplicate", "quarantined"))
    assert sum(counts["reasons"].values()) == counts["left_out"] + counts["quarantined"]
    assert counts["visits"] == len(kept) and counts["tokens"] == sum(by_place[place].num_tokens for place in kept)
    sources = {name: [d.num_tokens for d in documents if d.source == name] for name in ("books", "web")}
    assert counts["sources"] == {name: [len(tokens), sum(tokens)] for name, tokens in sources.items()}
    told_apart = [json.loads(line) for line in Path(outcome.uri, "quarantine.jsonl").read_bytes().splitlines()]
    assert len(told_apart) == counts["quarantined"]
    assert (told["quarantined"] > 0) == (key == "id"), "keys of the third file are those of the first"
    assert manifest.verify().ok


def test_what_was_lost_is_written_with_the_manifest_and_not_read_again_where_nothing_changed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(write_corpus(tmp_path / "corpus"), tiny_model)
    first = run(policy, tmp_path / "root")
    file = Path(first.uri, "quarantine.jsonl")
    written = file.read_bytes()
    assert [json.loads(line)["row"] for line in written.splitlines()] == [38, 39]
    read: list[str] = []
    table = Store.table

    def noted(store: Store, seal: Seal, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        read.append(name)
        return table(store, seal, name, columns)

    monkeypatch.setattr(Store, "table", noted)
    assert uncached(run(policy, tmp_path / "root")) == []
    assert not {"quarantine", "lost", "documents", "decisions"} & set(read)
    for wrong in (written[:-1], b"", None):
        file.unlink() if wrong is None else file.write_bytes(wrong)
        assert uncached(run(policy, tmp_path / "root")) == ["manifest"]
        assert file.read_bytes() == written


# ---------------------------------------------------------------- budgets


@pytest.fixture(scope="module")
def rated(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Make, Path, list[tuple[float, bytes, int]]]:
    """A policy, a root where its corpus is rated, and (-length, doc_id, tokens) of each document, ranked."""
    folder = tmp_path_factory.mktemp("rated")
    corpus = write_corpus(folder / "corpus")

    def make(using: Any, **budget: Any) -> dict[str, Any]:
        return policy_of(
            corpus,
            tiny_model,
            rate=[{"length": {"unit": "tokens"}}],
            select={"budget": budget, "using": using, "allow_empty": True},
            order={"using": "shuffled"},
            manifest={"quality": "length"},
        )

    everything = run(make("random", fraction=1.0), folder / "root").manifest
    visits = everything.rows(0, len(everything)).to_pylist()
    return make, folder / "root", sorted((-visit["quality"], visit["doc_id"], visit["num_tokens"]) for visit in visits)


TOP = {"top": {"score": "length"}}


def spent(manifest: Manifest) -> tuple[int, int]:
    return manifest.info["counts"]["kept"], manifest.info["counts"]["tokens"]


@pytest.mark.parametrize(
    "using",
    [
        pytest.param("random", marks=pytest.mark.slow),
        pytest.param(TOP, marks=pytest.mark.slow),
        {"kmeans_quality": {"score": "length"}},
    ],
    ids=["random", "top", "kmeans_quality"],
)
def test_a_budget_of_documents_is_spent_exactly(using: Any, rated: tuple[Make, Path, list[Any]]) -> None:
    make, root, ranked = rated
    for documents in (1, 2, 7, len(ranked) // 2, len(ranked) - 1, len(ranked)):
        assert spent(run(make(using, documents=documents), root).manifest)[0] == documents


@pytest.mark.slow
@pytest.mark.parametrize("overshoot", ["stop", "fill", "cross"])
def test_a_budget_of_tokens_is_spent_exactly_as_its_overshoot_says(
    overshoot: str, rated: tuple[Make, Path, list[Any]]
) -> None:
    make, root, ranked = rated
    total = sum(num_tokens for _, _, num_tokens in ranked)
    for tokens in (1, 15, total // 7, total // 3, total // 2 + 1, total - 1, total):
        left, kept = tokens, set[bytes]()
        for _, doc_id, num_tokens in ranked:
            if num_tokens <= left or (overshoot == "cross" and left > 0):
                left -= num_tokens
                kept.add(doc_id)
            elif overshoot != "fill":
                break
        manifest = run(make(TOP, tokens=tokens, overshoot=overshoot), root).manifest
        assert spent(manifest) == (len(kept), tokens - left)
        assert set(manifest.rows(0, len(manifest))["doc_id"].to_pylist()) == kept
        assert manifest.verify().ok


def test_a_fraction_is_that_of_the_tokens_that_may_be_chosen(rated: tuple[Make, Path, list[Any]]) -> None:
    make, root, ranked = rated
    total = sum(num_tokens for _, _, num_tokens in ranked)
    for fraction in (0.1, 0.3, 0.7, 1.0):
        (kept, tokens), (same, twin) = (
            spent(run(make("random", **budget), root).manifest)
            for budget in ({"fraction": fraction}, {"tokens": int(fraction * 10) * total // 10})
        )
        assert (kept, tokens) == (same, twin) and tokens <= fraction * total


def test_a_fraction_too_small_for_any_document_gives_an_empty_manifest(rated: tuple[Make, Path, list[Any]]) -> None:
    make, root, _ = rated
    outcome = run(make(TOP, fraction=1e-9), root)
    assert len(outcome.manifest) == 0 and outcome.manifest.verify().ok
    assert uncached(run(make(TOP, fraction=1e-9), root)) == []


def test_a_budget_beyond_the_corpus_is_refused_and_one_of_all_of_it_is_not(rated: tuple[Make, Path, list[Any]]) -> None:
    make, root, ranked = rated
    total = sum(num_tokens for _, _, num_tokens in ranked)
    for unit, there in (("documents", len(ranked)), ("tokens", total)):
        assert spent(run(make(TOP, **{unit: there}), root).manifest) == (len(ranked), total)
        with pytest.raises(
            PolicyError, match=rf"select.budget.{unit} is {there + 1}, and the corpus has only {there} {unit}\."
        ):
            run(make(TOP, **{unit: there + 1}), root)
