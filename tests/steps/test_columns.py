"""Scores and columns of the corpus are columns like others: any plug-in and any rule may name them, and a new one costs
only itself."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from command import selector, write_policy
from conftest import text_of, write_jsonl
from runs import Noting, importable, policy_of, run, uncached, write_corpus
from selector.engine.local import LocalExecutor
from selector.errors import PolicyError
from selector.manifest import Manifest
from selector.pipeline import FinishedRun
from selector.policy import Policy
from selector.policy.resolve import resolve

Make = Callable[..., dict[str, Any]]

TRIALS = '''
"""Plug-ins of every family that read a score and a column of the corpus."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector import exact
from selector.exact import keyed
from selector.order import Order, Positions
from selector.rate import Rater, ScoreName
from selector.select import Ranked


@dataclass(frozen=True, kw_only=True)
class Blend(Rater):
    """Readability and grade together."""

    higher_is = "harder"
    needs = ("score.readability", "corpus.edu")

    def rate(self, batch):
        return pa.record_batch({"score": exact.floats(batch["score.readability"]) + exact.floats(batch["corpus.edu"])})


@dataclass(frozen=True, kw_only=True)
class Twice(Rater):
    """Another score, doubled."""

    higher_is = "harder"
    needs = ()
    score: ScoreName

    def rate(self, batch):
        return pa.record_batch({"score": 2 * exact.floats(batch[self.score])})


@dataclass(frozen=True, kw_only=True)
class Loud(Rater):
    """Two scores: one is a word."""

    needs = ("corpus.edu",)

    def scores(self, name):
        return {f"{name}_half": "better", f"{name}_word": "label"}

    def rate(self, batch):
        half = exact.floats(batch["corpus.edu"]) / 2
        words = pa.array(["high" if value > 2 else "low" for value in half])
        return pa.record_batch({"score_half": half, "score_word": words})


@dataclass(frozen=True, kw_only=True)
class Easy(Ranked):
    """The lowest grades, and of equal ones the most readable."""

    needs = ("corpus.edu", "score.readability")

    def keys(self, batch, summary, seed):
        readability = exact.ascending(batch["score.readability"]) >> np.uint64(8)
        return (exact.floats(batch["corpus.edu"]).astype(np.uint64) << np.uint64(56)) | readability


@dataclass(frozen=True, kw_only=True)
class Graded(Order):
    """By grade, and of equal ones the most readable first."""

    needs = ("corpus.edu", "score.readability")

    def arrange(self, chosen, seed):
        table = chosen.table("doc_id", *self.needs)
        ids = keyed.words(table["doc_id"])
        scores = exact.ascending(table["score.readability"])
        return Positions.of(np.lexsort((ids[:, 1], ids[:, 0], scores, exact.floats(table["corpus.edu"]))), ids)
'''


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The module of these plug-ins."""
    with importable(tmp_path_factory.mktemp("trials"), "trials_of_columns", TRIALS) as name:
        yield name


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def make(corpus: Path, tiny_model: Path, trials: str) -> Make:
    """A policy with a rater that reads a score and a column, whose own score others read."""

    def policy(**sections: Any) -> dict[str, Any]:
        plain = {
            "rate": [{f"{trials}:Blend": {}, "as": "blend"}, "readability"],
            "select": {"budget": {"documents": 30}},
            "order": {"using": "shuffled"},
            "manifest": {"difficulty": "readability", "quality": "blend"},
        }
        return policy_of(corpus, tiny_model, **{**plain, **sections})

    return policy


@pytest.fixture(scope="module")
def root(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which the policy has run, for tests that only look at what a run gives."""
    root = tmp_path_factory.mktemp("root")
    run(make(), root)
    return root


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A visit, and what its row of the corpus says."""

    difficulty: float
    quality: float
    edu: int
    doc_id: bytes


def visits(manifest: Manifest, corpus: Path) -> list[Visit]:
    """The visits, first to last."""
    lines = [path.read_text("utf-8").splitlines() for path in sorted(corpus.iterdir())]
    return [
        Visit(
            difficulty=row["difficulty"],
            quality=row["quality"],
            edu=json.loads(lines[row["file"]][row["row"]])["edu"],
            doc_id=row["doc_id"],
        )
        for row in manifest.rows(0, len(manifest)).to_pylist()
    ]


def names(outcome: FinishedRun) -> list[str]:
    return [step.name for step in outcome.steps]


# ---------------------------------------------------------------- for every family


def test_a_rater_may_need_a_score_and_a_column_of_the_corpus(make: Make, corpus: Path, root: Path) -> None:
    outcome = run(make(), root)
    assert names(outcome)[2:6] == ["columns", "dedup", "rate/readability", "rate/blend"], "each after what it reads"
    found = visits(outcome.manifest, corpus)
    assert len(found) == 30 and len({visit.edu for visit in found}) > 5
    for visit in found:
        assert visit.quality == pytest.approx(visit.difficulty + visit.edu, rel=2e-6)


def test_a_selector_may_need_a_score_and_a_column_of_the_corpus(
    make: Make, trials: str, corpus: Path, root: Path
) -> None:
    everything = visits(run(make(select={"budget": {"fraction": 1.0}}), root).manifest, corpus)
    select = {"budget": {"documents": 30}, "using": f"{trials}:Easy"}
    chosen = visits(run(make(select=select), root).manifest, corpus)
    easiest = sorted(everything, key=lambda visit: (visit.edu, visit.difficulty, visit.doc_id))[:30]
    assert {visit.doc_id for visit in chosen} == {visit.doc_id for visit in easiest}


def test_an_order_may_need_a_score_and_a_column_of_the_corpus(
    make: Make, trials: str, corpus: Path, root: Path
) -> None:
    order = {"using": f"{trials}:Graded"}
    found = visits(run(make(order=order, rate=["readability"], manifest={}), root).manifest, corpus)
    assert [visit.edu for visit in found] == sorted(visit.edu for visit in found)
    rated = visits(run(make(order=order), root).manifest, corpus)
    assert rated == sorted(rated, key=lambda visit: (visit.edu, visit.difficulty, visit.doc_id))
    assert [visit.doc_id for visit in rated] == [visit.doc_id for visit in found]


def test_a_rule_may_name_a_score_and_a_column_of_the_corpus(make: Make, corpus: Path, root: Path) -> None:
    everything = visits(run(make(select={"budget": {"fraction": 1.0}}), root).manifest, corpus)
    expected = {visit.doc_id for visit in everything if visit.edu >= 3 and visit.quality > visit.edu + 4}
    assert 5 < len(expected) < len(everything) - 5
    for where in (
        "corpus.edu >= 3 AND score.blend > corpus.edu + 4",
        "edu >= 3 AND blend > edu + 4",
        "edu >= 3 AND score.blend > corpus.edu + 4",
    ):
        select = {"budget": {"fraction": 1.0}, "where": where}
        found = visits(run(make(select=select), root).manifest, corpus)
        assert {visit.doc_id for visit in found} == expected, where


@pytest.mark.parametrize("direction", ["curriculum", "anti_curriculum"])
def test_an_option_may_call_a_score_by_its_long_name(direction: str, make: Make, root: Path) -> None:
    found: list[Manifest] = []
    for name in ("blend", "score.blend"):
        select = {"budget": {"documents": 30}, "using": {"top": {"score": name}}}
        order = {"using": {"by_score": {"score": name, "direction": direction}}}
        found.append(run(make(select=select, order=order, manifest={"quality": name}), root).manifest)
    assert found[0].info["order_digest"] == found[1].info["order_digest"]
    qualities = found[1].rows(0, 30)["quality"].to_pylist()
    assert qualities == sorted(qualities, reverse=direction == "anti_curriculum")


def test_a_rater_with_several_scores_is_used_by_each_of_them(make: Make, trials: str, root: Path) -> None:
    select = {"budget": {"documents": 20}, "where": "it_word = 'high'", "using": {"top": {"score": "score.it_half"}}}
    rate = [{f"{trials}:Loud": {}, "as": "it"}, {f"{trials}:Twice": {"score": "it_half"}, "as": "twice"}]
    manifest = {"difficulty": "it_half", "quality": "score.twice"}
    outcome = run(make(rate=rate, select=select, manifest=manifest), root)
    assert [name for name in names(outcome) if name.startswith("rate/")] == ["rate/it", "rate/twice"]
    rows = outcome.manifest.rows(0, 20)
    assert rows["difficulty"].to_numpy().min() > 2
    assert (rows["quality"].to_numpy() == 2 * rows["difficulty"].to_numpy()).all()
    with pytest.raises(PolicyError, match=r"^select\.using\.score: 'it_word' is a label, a word for each document\."):
        resolve(Policy.of(make(rate=rate, select=select | {"using": {"top": {"score": "it_word"}}}, manifest={})))


def test_a_second_use_of_a_rater_is_a_score_of_its_own(make: Make, root: Path) -> None:
    rate = [{"length": {"unit": "words"}}, {"length": {"unit": "bytes"}, "as": "length_2"}]
    order = {"using": {"by_score": {"score": "length_2"}}}
    outcome = run(make(rate=rate, order=order, manifest={"difficulty": "length", "quality": "length_2"}), root)
    assert [name for name in names(outcome) if name.startswith("rate/")] == ["rate/length", "rate/length_2"]
    rows = outcome.manifest.rows(0, 30)
    assert (rows["quality"].to_numpy() > 2 * rows["difficulty"].to_numpy()).all()
    assert (np.diff(rows["quality"].to_numpy()) >= 0).all()
    with pytest.raises(PolicyError, match=r"^rate\.1: 'length' is there already\. Remove one, or give it another name"):
        Policy.of(make(rate=["length", {"length": {"unit": "bytes"}}]))


EXACT: dict[str, tuple[pa.DataType, list[Any], Any]] = {  # of five documents one lacks it; then the mean of the others
    "a whole number": (pa.int64(), [2**60 + 7, 2**60 + 1, None, 2**60 + 3, 2**60 + 6], 2**60 + 4),
    "a date": (pa.date32(), [date(2024, 3, 1), date(2024, 1, 1), None, date(2024, 1, 3), date(2024, 1, 4)], None),
    "a moment": (
        pa.timestamp("us"),
        [datetime(2024, 3, 1), datetime(1960, 1, 1), None, datetime(2024, 1, 3), datetime(2024, 1, 4)],
        None,
    ),
    "a decimal": (
        pa.decimal128(12, 2),
        [Decimal("10.25"), Decimal("-10.50"), None, Decimal("1.01"), Decimal("1.02")],
        Decimal("0.44"),
    ),
    "a number": (pa.float64(), [2.5, 0.5, None, 1.0, 1.5], 1.375),
}


@pytest.mark.parametrize(
    "kind", ["a decimal", *(pytest.param(k, marks=pytest.mark.slow) for k in EXACT if k != "a decimal")]
)
@pytest.mark.parametrize("missing", ["impute", *(pytest.param(m, marks=pytest.mark.slow) for m in ("drop", "last"))])
def test_a_score_is_compared_as_it_is_and_imputed_in_its_own_type(
    kind: str, missing: str, tiny_model: Path, tmp_path: Path
) -> None:
    arrow, values, mean = EXACT[kind]
    texts = [text_of(n, 8) for n in range(5)]
    pq.write_table(pa.table({"text": texts, "x": pa.array(values, arrow)}), tmp_path / "a.parquet")
    policy = policy_of(
        tmp_path / "a.parquet",
        tiny_model,
        corpus={"paths": [str(tmp_path / "a.parquet")], "rows_per_part": 1},
        rate=[{"column": {"column": "x", "higher_is": "better"}}],
        select={"budget": {"documents": 4}, "using": {"top": {"score": "x"}}, "missing": missing},
        order={"using": {"by_score": {"score": "x"}}},
        manifest={"quality": "x"},
    )
    visits = run(policy, tmp_path / "root").manifest
    rows = visits.rows(0, len(visits))
    known = sorted((value, row) for row, value in enumerate(values) if value is not None)
    if mean is None:
        zero = known[0][0]
        mean = zero + sum((value - zero for value, _ in known), type(zero - zero)()) / len(known)
    imputed = sorted([*known, (mean, 2)])[1:]  # the budget pays for four
    expected = [row for _, row in (imputed if missing == "impute" else known)]
    assert rows["row"].to_pylist() == expected
    if kind in ("a number", "a decimal"):
        stored = {row: mean if value is None else value for row, value in enumerate(values)}
        assert rows["quality"].to_pylist() == pytest.approx([float(stored[row]) for row in expected])


def test_a_rule_is_shown_what_is_there_and_not_the_mean(tiny_model: Path, tmp_path: Path) -> None:
    edu = [None, 1, 5, 9, None, 7]
    corpus = write_jsonl(tmp_path / "a.jsonl", [{"text": text_of(n, 8), "edu": grade} for n, grade in enumerate(edu)])
    found: dict[str, list[tuple[int, float]]] = {}
    for where in ("edu > 0", "edu IS NULL OR edu > 5"):
        policy = policy_of(
            corpus,
            tiny_model,
            rate=[{"column": {"column": "edu", "higher_is": "better"}}],
            select={
                "budget": {"fraction": 1.0}, "using": {"top": {"score": "edu"}}, "missing": "impute", "where": where
            },
            order={"using": {"by_score": {"score": "edu"}}},
            manifest={"quality": "edu"},
        )  # fmt: skip
        manifest = run(policy, tmp_path / "root").manifest
        rows = manifest.rows(0, len(manifest)).to_pylist()
        found[where] = sorted((row["row"], row["quality"]) for row in rows)
    mean = round((1 + 5 + 9 + 7) / 4)
    assert found["edu > 0"] == [(1, 1), (2, 5), (3, 9), (5, 7)]
    assert found["edu IS NULL OR edu > 5"] == [(0, mean), (3, 9), (4, mean), (5, 7)]


# ---------------------------------------------------------------- what is refused


def test_a_short_name_with_two_meanings_is_refused_with_both_long_forms(tiny_model: Path, tmp_path: Path) -> None:
    grades = [(n % 5, n % 7) for n in range(40)]
    rows = [{"text": text_of(n, 8), "readability": a, "edu": b} for n, (a, b) in enumerate(grades)]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows).parent / "corpus.jsonl"

    def policy(where: str) -> dict[str, Any]:
        edu = {"column": {"column": "edu", "higher_is": "better"}}
        select = {"budget": {"fraction": 1.0}, "where": where}
        sections: dict[str, Any] = {"rate": ["readability", edu], "select": select, "order": {"using": "shuffled"}}
        return policy_of(corpus, tiny_model, **sections, manifest={"difficulty": "readability", "quality": "edu"})

    ended = selector("check", write_policy(tmp_path, policy("readability > 3")))
    assert ended.code == 2
    assert ended.err.strip().endswith(
        "select.where: 'readability' is a score and a column of the corpus. "
        "Write score.readability or corpus.readability."
    )
    by_column = run(policy("corpus.readability >= 3"), tmp_path / "root").manifest
    assert len(by_column) == sum(a >= 3 for a, _ in grades)
    by_score = run(policy("score.readability >= 3"), tmp_path / "root").manifest
    difficulties = by_score.rows(0, len(by_score))["difficulty"].to_numpy()
    assert (difficulties >= 3).all() and len(by_score) != len(by_column)
    both = run(policy("edu >= 4"), tmp_path / "root").manifest
    assert len(both) == sum(b >= 4 for _, b in grades), "a score that only passes on its column means the same"


WAITING = r"^rate: these raters wait for each other: "


@pytest.mark.parametrize(
    ("raters", "message"),
    [
        (
            {"a": "b", "b": "c", "c": "a"},
            rf"{WAITING}a reads a score of b, b reads a score of c, c reads a score of a\. One of them has to come ",
        ),
        (
            {"a": "c", "b": "c", "c": "b", "d": "e", "e": "length"},
            rf"{WAITING}c reads a score of b, b reads a score of c\. One of them has to come first\.$",
        ),
        ({"a": "a"}, r"^rate\.a reads its own score\. A score is there once its rater is done\.$"),
        ({"a": "lenght"}, r"^rate\.a\.score: no rater gives the score 'lenght'\. Did you mean 'length'\?$"),
    ],
    ids=["three", "two of five", "one", "none"],
)  # fmt: skip
def test_scores_that_cannot_be_there_are_refused_before_any_work(
    raters: dict[str, str], message: str, make: Make, trials: str, tmp_path: Path
) -> None:
    """Each rater reads the score of another one."""
    rate = [{f"{trials}:Twice": {"score": other}, "as": label} for label, other in raters.items()]
    policy = make(rate=[*rate, "length"], manifest={})
    with pytest.raises(PolicyError, match=message):
        resolve(Policy.of(policy))
    with pytest.raises(PolicyError, match=message):
        run(policy, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_score_that_a_rater_needs_has_to_be_given_by_one(make: Make, trials: str) -> None:
    policy = Policy.of(make(rate=[f"{trials}:Blend"], manifest={}))
    message = r"^rate\.Blend: no rater gives the score 'score\.readability'\. There is a rater of that name: add it to "
    with pytest.raises(PolicyError, match=message):
        resolve(policy)


def test_a_column_that_the_corpus_has_not_is_refused_by_name(tiny_model: Path, trials: str, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", [{"text": text_of(n, 8)} for n in range(40)])
    for sections, place in (
        ({"rate": ["readability", f"{trials}:Blend"]}, r"rate\.Blend"),
        ({"select": {"budget": {"fraction": 0.5}, "using": f"{trials}:Easy"}}, r"select\.using"),
        ({"order": {"using": f"{trials}:Graded"}}, r"order\.using"),
        ({"select": {"budget": {"fraction": 0.5}, "where": "corpus.edu > 3"}}, r"select\.where"),
    ):
        plain: dict[str, Any] = {"order": {"using": "shuffled"}, "manifest": {}, "rate": ["readability"]}
        plain["select"] = {"budget": {"fraction": 0.5}}
        path = write_policy(tmp_path, policy_of(corpus, tiny_model, **{**plain, **sections}))
        ended = selector("check", path)
        assert ended.code == 2
        assert f"{place}: {corpus} has no column 'edu'. There is: ".replace("\\", "") in ended.err


# ---------------------------------------------------------------- what a new column costs


def test_a_new_column_of_the_corpus_tokenises_and_embeds_nothing(make: Make, trials: str, tmp_path: Path) -> None:
    """Whoever names it, and also where other columns were read already."""
    edu = {"column": {"column": "edu", "higher_is": "better"}}
    plain: dict[str, Any] = {"rate": ["readability", "prototypicality", edu], "manifest": {}}
    first = run(make(**plain), tmp_path / "root")
    assert {"columns", "embed", "cluster", "rate/edu"} <= {*names(first)}
    source = {"column": {"column": "source", "higher_is": "label"}, "as": "origin"}
    more: list[tuple[dict[str, Any], list[str], set[str]]] = [
        ({"select": {"budget": {"documents": 30}, "where": "corpus.source <> 'code'"}}, ["select", "order"], set()),
        ({"rate": [*plain["rate"], source]}, ["rate/origin"], {"rate"}),
        ({"rate": [*plain["rate"], f"{trials}:Blend"]}, ["rate/Blend"], {"rate"}),
    ]
    for number, (sections, expected, families) in enumerate(more):
        notes = tmp_path / f"notes {number}"
        notes.touch()
        root = shutil.copytree(tmp_path / "root", tmp_path / f"root {number}")
        outcome = run(make(**{**plain, **sections}), root, Noting(notes=notes))
        columns = [] if "Blend" in str(sections) else ["columns"]  # which reads only what was read already
        assert uncached(outcome) == [*columns, *expected, "manifest"]
        done = [key.partition("/")[0] for key in notes.read_text("utf-8").split()]
        assert {*done} == {*families, *(f"{name}.parts" for name in columns)}
        assert done.count("columns.parts") == 6 * len(columns), "each of the six parts is read once"
        assert done.count("rate") == 6 * len(families), "and of the raters only the new one runs"


# ---------------------------------------------------------------- what nothing reads does not run


def test_where_nothing_reads_vectors_none_are_made_and_no_model_is_needed(
    make: Make, tiny_model: Path, corpus: Path, tmp_path: Path
) -> None:
    paths = {"paths": [str(corpus)], "rows_per_part": 20}
    plain: dict[str, Any] = {
        "rate": ["length"],
        "embed": {"model": "no-such-model"},
        "cluster": {"num_clusters": 1_000_000},
        "manifest": {"difficulty": "length"},
    }
    policy = make(**plain, corpus={**paths, "tokenizer": str(tiny_model / "tokenizer.json")})
    outcome = run(policy, tmp_path / "root")
    assert names(outcome) == ["survey", "ingest", "dedup", "rate/length", "select", "order", "manifest"]
    rows = pq.read_table(Path(outcome.uri, "manifest/parts"))
    assert rows["cluster"].null_count == len(rows) == 30
    assert outcome.manifest.info["models"] == {} and outcome.manifest.verify().ok
    assert selector("check", write_policy(tmp_path, policy)).code == 0

    with pytest.raises(PolicyError, match=r"^embed\.model: there is no folder 'no-such-model'"):
        run(make(**plain, corpus=paths), tmp_path / "root")
    with pytest.raises(PolicyError, match=r"^embed\.model: there is no folder 'no-such-model'"):
        run(policy | {"rate": ["prototypicality"], "manifest": {}}, tmp_path / "root")
    embedded = make(**plain | {"rate": ["length", "prototypicality"], "cluster": {"num_clusters": 4}})
    whole = run(embedded | {"embed": {"model": str(tiny_model), "precision": "float32"}}, tmp_path / "root")
    assert pq.read_table(Path(whole.uri, "manifest/parts"))["cluster"].null_count == 0


def test_where_nothing_reads_clusters_none_are_made(make: Make, root: Path) -> None:
    for where, steps in (("distance < 100", ["embed", "centroids", "cluster"]), ("num_tokens > 3", [])):
        select = {"budget": {"documents": 30}, "where": where}
        found = names(run(make(rate=["length"], select=select, manifest={}), root))
        assert [name for name in found if name in ("embed", "centroids", "cluster")] == steps


def test_a_rater_that_nobody_reads_runs_all_the_same(make: Make, root: Path) -> None:
    outcome = run(make(rate=["readability", "length"], manifest={}), root)
    assert {"rate/readability", "rate/length"} <= {*names(outcome)}


# ---------------------------------------------------------------- names that are ours


@pytest.mark.slow
@pytest.mark.parametrize("name", ["place", "row", "doc_id", "column 0", "rule 0", "value"])
@pytest.mark.parametrize("spelling", ["{0}", "corpus.{0}"])
def test_a_rule_may_name_a_column_of_the_corpus_whatever_we_call_our_own(
    name: str, spelling: str, tiny_model: Path, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "corpus/a.jsonl", [{"text": text_of(n, 8), name: 39 - n} for n in range(40)])
    quoted = f'"{spelling.format(name)}"'
    policy = policy_of(
        tmp_path / "corpus", tiny_model, rate=["readability"], manifest={},
        select={"where": f"{quoted} < 5", "budget": {"fraction": 1.0}, "using": "random"},
    )  # fmt: skip
    manifest = run(policy, tmp_path / "root").manifest
    assert sorted(manifest.rows(0, len(manifest))["row"].to_pylist()) == [35, 36, 37, 38, 39]


LATE = """
from dataclasses import dataclass

import pyarrow as pa

from selector.rate import Rater


@dataclass(frozen=True, kw_only=True)
class Late(Rater):
    higher_is = "better"
    needs = ("num_tokens", "corpus.late")

    def rate(self, batch):
        values = [None if late is None else int(late) for late in batch["corpus.late"].to_pylist()]
        states = ["missing" if value is None else "ok" for value in values]
        return pa.record_batch({"score": pa.array(values), "state": pa.array(states)})
"""


def test_a_score_has_one_type_though_none_of_the_first_documents_has_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, Any]] = [
        {"text": text_of(n, 8), "late": 2**60 + n if n >= 1100 else None} for n in range(1150)
    ]
    write_jsonl(tmp_path / "corpus/a.jsonl", rows)
    monkeypatch.setattr("selector.steps.shards.SHARD_ROWS", 300)
    with importable(tmp_path, "late_scores", LATE) as module:
        policy = policy_of(
            tmp_path / "corpus", tiny_model, rate=[{f"{module}:Late": {}, "as": "late"}], manifest={},
            select={"budget": {"documents": 20}, "using": {"top": {"score": "late"}}, "missing": "last"},
            order={"using": {"by_score": {"score": "late"}}},
        )  # fmt: skip
        policy["corpus"]["rows_per_part"] = 575
        manifest = run(policy, tmp_path / "root", LocalExecutor(workers=1)).manifest
    assert manifest.rows(0, 20)["row"].to_pylist() == list(range(1130, 1150)), "by the last bits of large integers"


FLAKY = """
import os
from dataclasses import dataclass

import pyarrow as pa

from selector.rate import Rater


@dataclass(frozen=True, kw_only=True)
class Flaky(Rater):
    higher_is = "better"
    needs = ("num_tokens", "corpus.edu")

    def rate(self, batch):
        values = batch["corpus.edu"].to_pylist()
        if 7 in values:
            raise RuntimeError(f"on {os.environ['TODAY']} the seven failed")
        return pa.record_batch({"score": pa.array(values, pa.float32()), "state": pa.array(["ok"] * len(values))})
"""


def test_what_a_failure_says_decides_nothing(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "corpus/a.jsonl", [{"text": text_of(n, 8), "edu": n} for n in range(40)])
    digests: list[str] = []
    with importable(tmp_path, "flaky_scores", FLAKY) as module:
        for day in ("Monday", "Tuesday"):
            monkeypatch.setenv("TODAY", day)
            policy = policy_of(
                tmp_path / "corpus", tiny_model, rate=[{f"{module}:Flaky": {}, "as": "edu"}], manifest={},
                select={"budget": {"fraction": 0.5}, "using": {"top": {"score": "edu"}}},
                order={"using": {"by_score": {"score": "edu"}}},
            )  # fmt: skip
            outcome = run(policy, tmp_path / day, LocalExecutor(workers=1))
            assert day in Path(outcome.uri, "quarantine.jsonl").read_text("utf-8")
            digests.append(outcome.manifest.digest)
    assert digests[0] == digests[1]
