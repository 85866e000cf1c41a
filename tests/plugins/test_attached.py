"""Tables from outside that options name: whoever names one gets its rows, and what it holds is part of what it says."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from command import selector, with_value, write_policy
from conftest import write_jsonl
from runs import Noting, importable, policy_of, run, uncached, write_corpus
from selector.engine.local import LocalExecutor
from selector.engine.step import Map
from selector.engine.store import Store
from selector.errors import CorpusError, PolicyError
from selector.manifest import Manifest
from selector.models.encoder import Encoder
from selector.pipeline import FinishedRun
from selector.policy import Policy
from selector.policy.resolve import resolve

pytestmark = pytest.mark.slow

TRIALS = '''
"""Plug-ins of every family whose options name tables."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa

from selector import exact
from selector.exact import keyed
from selector.order import Order, Positions
from selector.rate import Columns, ManifestPath, Rater, TablePath, TextsPath
from selector.select import Ranked

Grades = Annotated[TablePath, Columns(doc_id="doc_id", grade="float32", judge="string")]


@dataclass(frozen=True, kw_only=True)
class Judged(Rater):
    """The grade that a table has for the document."""

    higher_is = "better"
    needs = ()
    judged: Grades | None = None

    def rate(self, batch):
        judges = batch["judged.judge"].to_pylist()
        grades = [None if judge == "nobody" else grade
                  for grade, judge in zip(batch["judged.grade"].to_pylist(), judges, strict=True)]
        state = ["ok" if grade is not None else "missing" for grade in grades]
        return pa.record_batch({"score": pa.array(grades, pa.float32()), "state": state})


@dataclass(frozen=True, kw_only=True)
class Kept(Rater):
    """How many rows its table has."""

    higher_is = "better"
    needs = ("num_tokens",)
    judged: Grades | None = None

    def rate(self, batch):
        return pa.record_batch({"score": np.full(batch.num_rows, float(self.judged.table.num_rows))})


@dataclass(frozen=True, kw_only=True)
class Near(Rater):
    """How near the nearest of some texts is."""

    higher_is = "closer"
    needs = ("embedding",)
    queries: Annotated[TextsPath, Columns(weight="float64")] | None = None

    def rate(self, batch):
        table = self.queries.table
        if batch.num_rows == 0 or table.num_rows == 0:
            assert table.schema.field("embedding").type == pa.list_(pa.float16(), 32)
            return pa.record_batch({"score": np.full(batch.num_rows, -1.0)})
        mine, theirs = (np.stack(column.to_numpy(zero_copy_only=False)).astype(np.float64)
                        for column in (batch["embedding"], table["embedding"].combine_chunks()))
        weights = table["weight"].to_numpy()
        return pa.record_batch({"score": (mine @ theirs.T * weights).max(axis=1)})


@dataclass(frozen=True, kw_only=True)
class Sourced(Ranked):
    """Sources in the order of a table, and the documents that another manifest has come last of all."""

    needs = ("source",)
    ranks: Annotated[TablePath, Columns(source="string", rank="int64")]
    seen: ManifestPath | None = None

    def keys(self, batch, summary, seed):
        ranks = dict(zip(*(column.to_pylist() for column in self.ranks.table.select(["source", "rank"])), strict=True))
        seen = set(self.seen.table["doc_id"].to_pylist())
        ids = batch["doc_id"].to_pylist()
        keys = [ranks[source] + 100 * (doc_id in seen)
                for source, doc_id in zip(batch["source"].to_pylist(), ids, strict=True)]
        return np.array(keys, np.uint64).reshape(-1) << np.uint64(50)


@dataclass(frozen=True, kw_only=True)
class Placed(Order):
    """By the grade in a table; documents without one are last."""

    grades: Grades

    def arrange(self, chosen, seed):
        table = chosen.table("doc_id", "grades.grade")
        ids = keyed.words(table["doc_id"])
        return Positions.of(np.lexsort((ids[:, 1], ids[:, 0], exact.ascending(table["grades.grade"]))), ids)


@dataclass(frozen=True, kw_only=True)
class Backwards(Order):
    """Another order, from its end."""

    inner: Order

    def arrange(self, chosen, seed):
        rows = self.inner.arrange(chosen, seed).visits["document"].to_numpy()[::-1]
        return Positions.of(rows, keyed.words(chosen.table("doc_id")["doc_id"]))
'''

Make = Callable[..., dict[str, Any]]
NUM_DOCUMENTS = 110


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The module of these plug-ins."""
    with importable(tmp_path_factory.mktemp("trials"), "trials_of_tables", TRIALS) as name:
        yield name


@pytest.fixture(scope="module")
def make(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A policy that keeps every document; keyword arguments replace whole sections."""
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"))
    plain: dict[str, Any] = {"rate": [], "manifest": {}, "order": {"using": "shuffled"}}
    plain["select"] = {"budget": {"fraction": 1.0}}
    return lambda **sections: policy_of(corpus, tiny_model, **{**plain, **sections})


@pytest.fixture(scope="module")
def everything(make: Make, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run that keeps every document."""
    return run(make(), tmp_path_factory.mktemp("everything"))


@pytest.fixture(scope="module")
def ids(everything: FinishedRun) -> list[bytes]:
    """The ids of all documents."""
    found = everything.manifest.rows(0, NUM_DOCUMENTS)["doc_id"].to_pylist()
    assert len(everything.manifest) == len(set(found)) == NUM_DOCUMENTS
    return sorted(found)


def rows_of(manifest: Manifest) -> list[dict[str, Any]]:
    return manifest.rows(0, len(manifest)).to_pylist()


def graded(ids: list[bytes], plus: int = 0) -> list[dict[str, Any]]:
    """Grades of every other document, one of them by nobody, and of one that the corpus has not."""
    known = [{"doc_id": doc_id.hex(), "grade": n * 37 % 50 + plus, "judge": "me"} for n, doc_id in enumerate(ids[::2])]
    known[3]["judge"] = "nobody"
    return [*known, {"doc_id": "0" * 32, "grade": 99, "judge": "me", "more": [1]}]


def expected_of(rows: list[dict[str, Any]]) -> dict[bytes, float]:
    return {bytes.fromhex(row["doc_id"]): float(row["grade"]) for row in rows if row["judge"] != "nobody"}


# ---------------------------------------------------------------- who gets what


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "binary.parquet"])
def test_a_keyed_table_is_joined_to_the_documents_of_a_plain_rater(
    ending: str, make: Make, trials: str, ids: list[bytes], tmp_path: Path
) -> None:
    """Ids are written as 32 hex digits or as bytes, and further columns do not matter."""
    rows, path = graded(ids), tmp_path / f"grades.{ending}"
    if ending == "jsonl":
        write_jsonl(path, rows)
    else:
        table = pa.Table.from_pylist(rows)
        if ending.startswith("binary"):
            raw = pa.array([bytes.fromhex(row["doc_id"]) for row in rows], pa.binary())
            table = table.set_column(0, "doc_id", raw).set_column(1, "grade", table["grade"].cast(pa.float64()))
        pq.write_table(table, path)
    rate = [{f"{trials}:Judged": {"judged": str(path)}, "as": "grade"}]
    outcome = run(make(rate=rate, manifest={"quality": "grade"}), tmp_path / "root")
    steps = [step.name for step in outcome.steps]
    assert steps == ["survey", "ingest", "dedup", "attach/rate.grade", "rate/grade", "select", "order", "manifest"]
    expected = expected_of(rows)
    found = {row["doc_id"]: row["quality"] for row in rows_of(outcome.manifest)}
    assert found == {doc_id: expected.get(doc_id) for doc_id in ids} and len(expected) == len(ids) // 2


def test_a_selector_has_its_table_and_the_visits_of_another_manifest(
    make: Make, trials: str, everything: FinishedRun, tmp_path: Path
) -> None:
    ranks = [{"source": source, "rank": rank} for rank, source in enumerate(("code", "web", "books"))]
    path = write_jsonl(tmp_path / "ranks.jsonl", ranks)
    sources = {row["doc_id"]: row["source"] for row in rows_of(everything.manifest)}
    num_code = sum(source == "code" for source in sources.values())

    def policy(num_documents: int, **options: Any) -> dict[str, Any]:
        using = {f"{trials}:Sourced": {"ranks": str(path), **options}}
        return make(select={"budget": {"documents": num_documents}, "using": using})

    first = run(policy(num_code), tmp_path / "root")
    kept = {row["doc_id"] for row in rows_of(first.manifest)}
    assert {sources[doc_id] for doc_id in kept} == {"code"}
    more = run(policy(num_code + 5), tmp_path / "root")
    assert sorted(sources[row["doc_id"]] for row in rows_of(more.manifest)) == ["code"] * num_code + ["web"] * 5
    for seen in (first.uri, f"{first.uri}/manifest"):
        fresh = {row["doc_id"] for row in rows_of(run(policy(num_code, seen=seen), tmp_path / "root").manifest)}
        assert not fresh & kept and {sources[doc_id] for doc_id in fresh} <= {"web", "books"}
    again = run(policy(num_code, seen=str(tmp_path / "nowhere")), tmp_path / "root")
    assert {row["doc_id"] for row in rows_of(again.manifest)} == kept, "an optional one that is absent has no visits"


def test_texts_come_with_the_embeddings_of_the_corpus_s_own_model(make: Make, trials: str, tmp_path: Path) -> None:
    texts = [("A cat and a tree.", 1.0), ("Philosophical mathematics.", 0.5)]
    path = write_jsonl(tmp_path / "queries.jsonl", [{"text": text, "weight": weight} for text, weight in texts])
    rate = [{f"{trials}:Near": {"queries": str(path)}, "as": "near"}]
    policy = make(rate=rate, manifest={"quality": "near"})
    outcome = run(policy, tmp_path / "root")
    embed = Policy.of(policy).embed
    encoder = Encoder.of(
        embed.model, device="cpu", max_tokens=embed.max_tokens, long_documents=embed.long_documents,
        precision=embed.precision,
    )  # fmt: skip
    queries = encoder.encode([text for text, _ in texts]).astype(np.float16).astype(np.float64)
    documents = {row["doc_id"]: row for row in rows_of(outcome.manifest)}
    lines = [path.read_text("utf-8").splitlines() for path in sorted(Path(policy["corpus"]["paths"][0]).iterdir())]
    for row in list(documents.values())[:10]:
        text = json.loads(lines[row["file"]][row["row"]])["text"]
        mine = encoder.encode([text]).astype(np.float64)[0]
        assert row["quality"] == pytest.approx((queries @ mine * [1.0, 0.5]).max(), abs=2e-3)
    assert uncached(run(policy, tmp_path / "root")) == []
    without = run(make(rate=[{f"{trials}:Near": {}, "as": "near"}], manifest={"quality": "near"}), tmp_path / "root")
    assert {row["quality"] for row in rows_of(without.manifest)} == {-1.0}


def test_an_order_has_a_keyed_table_of_its_own_also_inside_another_order(
    make: Make, trials: str, ids: list[bytes], tmp_path: Path
) -> None:
    """Beside a selector with a table of its own, which another step stores."""
    rows, ranks = graded(ids), [{"source": source, "rank": 1} for source in ("code", "web", "books")]
    path, other = write_jsonl(tmp_path / "grades.jsonl", rows), write_jsonl(tmp_path / "ranks.jsonl", ranks)
    plain = {f"{trials}:Placed": {"grades": str(path)}}
    select = {"budget": {"fraction": 1.0}, "using": {f"{trials}:Sourced": {"ranks": str(other)}}}
    grades = {bytes.fromhex(row["doc_id"]): float(row["grade"]) for row in rows}
    expected = sorted(ids, key=lambda doc_id: (grades.get(doc_id, 1e9), doc_id))
    for using, order in ((plain, expected), ({f"{trials}:Backwards": {"inner": plain}}, expected[::-1])):
        outcome = run(make(order={"using": using}, select=select), tmp_path / "root")
        assert [row["doc_id"] for row in rows_of(outcome.manifest)] == order
        names = [step.name for step in outcome.steps if step.name.startswith("attach/")]
        assert names == ["attach/select.using", "attach/order.using"]


@pytest.mark.parametrize("name", ["Judged", "Kept"])
def test_an_optional_table_that_is_absent_is_empty(
    name: str, make: Make, trials: str, ids: list[bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the option is left out, is null, or names a file that is not there yet, which is said; then that it is
    there counts."""
    path = tmp_path / "grades.jsonl"
    every: list[dict[str, Any]] = [{}, {"judged": None}, {"judged": str(path)}]
    for options in every:
        policy = make(rate=[{f"{trials}:{name}": options, "as": "it"}], manifest={"quality": "it"})
        found = {row["quality"] for row in rows_of(run(policy, tmp_path / "root").manifest)}
        assert found == ({None} if name == "Judged" else {0.0})
        assert (f"rate.it.judged: there is no file '{path}'" in caplog.text) == (options.get("judged") is not None)
    write_jsonl(path, graded(ids))
    policy = make(rate=[{f"{trials}:{name}": every[2], "as": "it"}], manifest={"quality": "it"})
    found = [row["quality"] for row in rows_of(run(policy, tmp_path / "root").manifest)]
    assert max(value for value in found if value is not None) > 0


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r": the table '{path}' cannot be read: No such file or directory\. Give a JSONL or Parquet file\."),
        ('{"source": "web", "rnk": 1}\n', r": the table '{path}' has no column 'rank'\. Did you mean 'rnk'\?"),
        ('{"source": "web", "rank": "first"}\n', r": the table '{path}' has a column 'rank' that is not int64: "),
        ('{"source": "web", "rank": 1.5}\n', r": the table '{path}' has a column 'rank' that is not int64: "),
        ('{"source": "web", \n', r": the table '{path}' is not JSONL: "),
        (
            '{"source": "web", "x": 1}\n{"source": "web", "x": "1"}\n',
            r": the table '{path}' has values of two types in one column: .*x",
        ),
    ],
    ids=["no file", "no column", "a word", "half a number", "no JSON", "two types"],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_table_that_cannot_be_used_is_refused_before_any_work(
    command: str, content: str | None, message: str, make: Make, trials: str, tmp_path: Path
) -> None:
    path = tmp_path / "ranks.jsonl"
    if content is not None:
        path.write_text(content, "utf-8")
    policy = make(select={"budget": {"fraction": 1.0}, "using": {f"{trials}:Sourced": {"ranks": str(path)}}})
    written = write_policy(tmp_path, policy)
    ended = selector(
        command, written, *(() if command == "check" else ("--root", tmp_path / "root", "--executor", "local"))
    )
    assert ended.code == 2
    with pytest.raises(PolicyError, match="^select\\.using\\.ranks" + message.replace("{path}", str(path))) as refused:
        resolve(Policy.of(policy))
    assert str(refused.value) in " ".join(ended.err.split())
    assert not list(tmp_path.glob("root/*/*"))


def test_an_id_that_is_none_is_refused(make: Make, trials: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "grades.jsonl", [{"doc_id": "abc", "grade": 1, "judge": "me"}])
    policy = make(rate=[{f"{trials}:Judged": {"judged": str(path)}}])
    with pytest.raises(PolicyError, match=r"^rate\.Judged\.judged: .* a column 'doc_id' that is not 32 hex digits: "):
        resolve(Policy.of(policy))


def test_a_manifest_that_cannot_be_opened_is_refused(make: Make, trials: str, tmp_path: Path) -> None:
    """Unless it is not there at all, and optional."""
    path = write_jsonl(tmp_path / "ranks.jsonl", [{"source": "web", "rank": 1}])
    (tmp_path / "broken/manifest").mkdir(parents=True)
    (tmp_path / "broken/manifest/manifest.json").write_text("{}", "utf-8")
    using = {f"{trials}:Sourced": {"ranks": str(path), "seen": str(tmp_path / "broken")}}
    with pytest.raises(PolicyError, match=r"^select\.using\.seen: "):
        resolve(Policy.of(make(select={"budget": {"fraction": 1.0}, "using": using})))


# ---------------------------------------------------------------- what a change costs


def test_an_edited_table_of_a_rater_rates_again_and_the_manifest_is_not_stale(
    make: Make, trials: str, ids: list[bytes], tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "grades.jsonl", graded(ids))
    rate = [{f"{trials}:Judged": {"judged": str(path)}, "as": "grade"}]
    policy = make(rate=rate, manifest={"quality": "grade"})
    chosen = make(
        rate=rate, manifest={"quality": "grade"}, order={"using": {"by_score": {"score": "grade"}}},
        select={"budget": {"documents": 20}, "using": {"top": {"score": "grade"}}},
    )  # fmt: skip
    first, top = run(policy, tmp_path / "root"), run(chosen, tmp_path / "root")
    assert uncached(run(policy, tmp_path / "root")) == []
    write_jsonl(path, graded(ids, plus=7))
    edited = run(policy, tmp_path / "root")
    assert uncached(edited) == ["attach/rate.grade", "rate/grade", "manifest"]
    found = {row["doc_id"]: row["quality"] for row in rows_of(edited.manifest)}
    expected = expected_of(graded(ids, plus=7))
    assert found == {doc_id: expected.get(doc_id) for doc_id in ids}
    assert edited.manifest.digest != first.manifest.digest and edited.uri != first.uri
    assert uncached(run(chosen, tmp_path / "root")) == ["select", "order", "manifest"]

    notes = tmp_path / "notes"
    notes.touch()
    path.rename(tmp_path / "moved.jsonl")
    moved = with_value(policy, "rate", [{f"{trials}:Judged": {"judged": str(tmp_path / "moved.jsonl")}, "as": "grade"}])
    assert uncached(run(moved, tmp_path / "root", Noting(notes=notes))) == ["manifest"], (
        "the content counts, not the path"
    )
    assert notes.read_text("utf-8") == ""

    write_jsonl(path, graded(ids))
    back = run(chosen, tmp_path / "root")
    assert uncached(back) == [] and back.manifest.digest == top.manifest.digest


def test_an_edited_table_of_a_selector_selects_again(make: Make, trials: str, tmp_path: Path) -> None:
    path = tmp_path / "ranks.jsonl"
    using = {f"{trials}:Sourced": {"ranks": str(path)}}
    policy = make(select={"budget": {"documents": 20}, "using": using})
    found: list[tuple[str, set[str]]] = []
    for order in (("code", "web", "books"), ("books", "web", "code")):
        write_jsonl(path, [{"source": source, "rank": rank} for rank, source in enumerate(order)])
        outcome = run(policy, tmp_path / "root")
        found.append((outcome.manifest.digest, {row["source"] for row in rows_of(outcome.manifest)}))
        if len(found) == 2:
            assert uncached(outcome) == ["attach/select.using", "select", "order", "manifest"]
    assert found[0][0] != found[1][0] and [sources for _, sources in found] == [{"code"}, {"books"}]


def test_edited_texts_are_embedded_again_and_the_corpus_is_not(make: Make, trials: str, tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    policy = make(rate=[{f"{trials}:Near": {"queries": str(path)}, "as": "near"}], manifest={"quality": "near"})
    digests: set[str] = set()
    for number, text in enumerate(("A cat.", "A tree.")):
        write_jsonl(path, [{"text": text, "weight": 1.0}])
        outcome = run(policy, tmp_path / "root")
        digests.add(outcome.manifest.digest)
        if number:
            assert uncached(outcome) == ["attach/rate.near", "rate/near", "manifest"]
    assert len(digests) == 2


def test_another_manifest_in_the_same_place_selects_again(make: Make, trials: str, tmp_path: Path) -> None:
    ranks = write_jsonl(tmp_path / "ranks.jsonl", [{"source": name, "rank": 1} for name in ("code", "web", "books")])
    place = tmp_path / "used"
    using = {f"{trials}:Sourced": {"ranks": str(ranks), "seen": str(place)}}
    policy = make(select={"budget": {"documents": 20}, "using": using})
    before = run(policy, tmp_path / "root")
    place.symlink_to(before.uri)
    after = run(policy, tmp_path / "root")
    assert uncached(after) == ["attach/select.using", "select", "order", "manifest"]
    kept = [{row["doc_id"] for row in rows_of(outcome.manifest)} for outcome in (before, after)]
    assert not kept[0] & kept[1]


def test_a_table_that_changes_during_a_run_ends_it(make: Make, trials: str, ids: list[bytes], tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "grades.jsonl", graded(ids))
    policy = make(rate=[{f"{trials}:Judged": {"judged": str(path)}, "as": "it"}], manifest={"quality": "it"})

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Meddling(LocalExecutor):
        """Rewrites the table once the run has begun."""

        def run(self, step: Map, tasks: Any, store: Store, num_rows: int | None = None) -> Any:
            write_jsonl(path, graded(ids[:8]))
            yield from super().run(step, tasks, store, num_rows)

    with pytest.raises(CorpusError, match=r"rate\.it\.judged: .*grades\.jsonl changed during the run\. Run the same"):
        run(policy, tmp_path / "root", Meddling())
    assert run(policy, tmp_path / "root").manifest.verify().ok


def test_a_table_that_is_moved_is_the_same_table(make: Make, trials: str, tmp_path: Path) -> None:
    ranks = [{"source": source, "rank": rank} for rank, source in enumerate(("code", "web", "books"))]
    uncached_steps: list[list[str]] = []
    for folder in ("here", "there"):
        path = write_jsonl(tmp_path / folder / "ranks.jsonl", ranks)
        using = {f"{trials}:Sourced": {"ranks": str(path)}}
        outcome = run(make(select={"budget": {"fraction": 0.5}, "using": using}), tmp_path / "root")
        uncached_steps.append(uncached(outcome))
    assert "select" in uncached_steps[0] and uncached_steps[1] == ["manifest"]
