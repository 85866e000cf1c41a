"""Each trial plug-in is put before the laws of its family, and goes through a whole run to a sound manifest."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from conftest import text_of, write_jsonl
from runs import policy_of, run
from selector import plugins
from selector.errors import PolicyError
from selector.exact import keyed, quantise
from selector.exact.vectors import vectors_of
from selector.pipeline import FinishedRun
from selector.select import Budget
from selector.testing import check_order, check_rater, check_selector, documents
from selector.testing._trials import pool_for
from selector.testing.selectors import decide
from testing.trials import Pruned

pytestmark = pytest.mark.slow

WRITTEN = ["2024-01-31T12:00:00.000001", "2024-01-31T12:00:00.000002", "long ago", None]
Model = Callable[[float], Path]


def trial(name: str) -> str:
    """What a policy calls a trial."""
    return f"testing.trials:{name}"


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Makes a model for `Surprise`: every byte is as surprising as its number, times a factor."""

    def make(factor: float) -> Path:
        (tmp_path / "model").mkdir(exist_ok=True)
        save_file({"surprise": np.arange(256, dtype=np.float32) * factor}, tmp_path / "model/model.safetensors")
        return tmp_path / "model"

    return make


@pytest.mark.parametrize("name", ["Graded", "Nearest", "Repeated", "Pruned", "AtLeast", "InRounds"])
def test_a_selector_from_elsewhere_keeps_the_laws(name: str) -> None:
    check_selector(trial(name), examples=10)


def test_an_order_from_elsewhere_keeps_the_laws_around_every_other() -> None:
    check_order(trial("WindowShuffle"), examples=10)


@pytest.mark.parametrize("name", ["Mood", "Letters", "LengthZScore", "Resembles"])
def test_a_rater_from_elsewhere_keeps_the_laws(name: str) -> None:
    check_rater(trial(name), examples=10)


def test_a_rater_with_a_model_keeps_the_laws(model: Model) -> None:
    check_rater(trial("Surprise"), examples=10, model=str(model(1)))


def test_a_rater_that_reads_the_corpus_keeps_the_laws_for_what_it_can_read() -> None:
    check_rater(trial("Written"), examples=10, corpus={"written": WRITTEN})


# ---------------------------------------------------------------- whole runs

COUNT = 60
TEXTS = [text_of(n, 8).upper() if n % 5 == 0 else text_of(n, 8) for n in range(COUNT)]
IDS = [keyed.digest(text.encode()) for text in TEXTS]
NOON = datetime.datetime(2024, 1, 31, 12)
MOMENTS = [NOON + datetime.timedelta(microseconds=n * 37 % COUNT) for n in range(COUNT)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files with 30 documents each, written within a minute of each other."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = [
        {"text": text, "source": ("web", "books")[n % 2], "written": f"{moment:%Y-%m-%dT%H:%M:%S.%f}"}
        for n, (text, moment) in enumerate(zip(TEXTS, MOMENTS, strict=True))
    ]
    write_jsonl(folder / "0.jsonl", rows[:30])
    write_jsonl(folder / "1.jsonl", rows[30:])
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One root for all runs: what one of them has done, the next one finds."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def trial_run(corpus: Path, root: Path, tiny_model: Path) -> Callable[..., FinishedRun]:
    """Runs a policy, and makes sure that its manifest is sound."""

    def do(**sections: Any) -> FinishedRun:
        few: dict[str, Any] = {"rate": [], "select": {"budget": {"fraction": 1}}, "order": {}, "manifest": {}}
        outcome = run(policy_of(corpus, tiny_model, **{**few, **sections}), root)
        assert outcome.manifest.verify().problems == []
        return outcome

    return do


Run = Callable[..., FinishedRun]


def rows_of(outcome: FinishedRun) -> list[dict[str, Any]]:
    return outcome.manifest.rows(0, len(outcome.manifest)).to_pylist()


def numbers_of(outcome: FinishedRun) -> list[int]:
    """The documents first to last, by their number."""
    return [IDS.index(row["doc_id"]) for row in rows_of(outcome)]


def decisions_of(outcome: FinishedRun) -> dict[int, dict[str, Any]]:
    rows = pq.read_table(f"{outcome.uri}/decisions").to_pylist()
    return {IDS.index(row["doc_id"]): row for row in rows}


def budget(count: int) -> dict[str, Any]:
    return {"budget": {"documents": count}}


def test_a_selector_with_a_required_table_takes_what_it_says_is_best(trial_run: Run, tmp_path: Path) -> None:
    grades = {n: n * 7 % 41 for n in range(0, COUNT, 2)}
    judged = [{"doc_id": IDS[n].hex(), "grade": grade} for n, grade in grades.items()]
    path = write_jsonl(tmp_path / "judged.jsonl", [*judged, {"doc_id": "00" * 16, "grade": 99}])
    graded = {**budget(10), "using": {trial("Graded"): {"judged": str(path)}}}
    first = trial_run(select=graded)
    best = sorted(grades, key=lambda n: (-grades[n], IDS[n]))[:10]
    assert set(numbers_of(first)) == set(best)
    assert {n: row["value"] for n, row in decisions_of(first).items() if n in grades} == grades
    write_jsonl(path, [{"doc_id": IDS[n].hex(), "grade": n} for n in grades])
    assert set(numbers_of(trial_run(select=graded))) == set(range(40, COUNT, 2)), "another table is another choice"


def test_a_table_that_is_needed_has_to_be_there_and_to_have_its_columns(trial_run: Run, tmp_path: Path) -> None:
    path = tmp_path / "judged.jsonl"
    graded = {**budget(10), "using": {trial("Graded"): {"judged": str(path)}}}
    with pytest.raises(PolicyError, match=r"select\.using\.judged: the table .* cannot be read: No such file"):
        trial_run(select=graded)
    write_jsonl(path, [{"doc_id": IDS[0].hex(), "grades": 1}])
    with pytest.raises(PolicyError, match=r"select\.using\.judged: .* has no column 'grade'\. Did you mean 'grades'\?"):
        trial_run(select=graded)


def test_a_selector_with_texts_takes_the_documents_that_are_nearest_to_them(trial_run: Run, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "examples.jsonl", [{"text": TEXTS[17]}, {"text": TEXTS[41]}])
    outcome = trial_run(select={**budget(2), "using": {trial("Nearest"): {"examples": str(path)}}})
    assert sorted(numbers_of(outcome)) == [17, 41]
    assert all(abs(row["value"] - 1) < 1e-3 for n, row in decisions_of(outcome).items() if n in (17, 41))


def test_a_rater_with_a_model_loads_it_and_is_another_one_with_another_model(trial_run: Run, model: Model) -> None:
    def surprises(factor: float) -> dict[int, float]:
        rate = [{trial("Surprise"): {"model": str(model(factor))}}]
        outcome = trial_run(rate=rate, manifest={"difficulty": "Surprise"})
        return {IDS.index(row["doc_id"]): row["difficulty"] for row in rows_of(outcome)}

    expected = [sum(text.encode()) / len(text.encode()) for text in TEXTS]
    once, twice = surprises(1), surprises(2)
    np.testing.assert_array_equal([once[n] for n in range(COUNT)], quantise(np.array(expected, np.float32)))
    np.testing.assert_allclose([twice[n] for n in range(COUNT)], 2 * np.array(expected), rtol=1e-6)


def test_an_order_around_another_one_moves_visits_only_within_its_windows(trial_run: Run) -> None:
    plain = {"by_score": {"score": "length"}}
    around = {trial("WindowShuffle"): {"inner": plain, "window": 5}}
    sorted_, shuffled = (numbers_of(trial_run(rate=["length"], order={"using": order})) for order in (plain, around))
    windows = [[numbers[at : at + 5] for at in range(0, COUNT, 5)] for numbers in (sorted_, shuffled)]
    assert [set(window) for window in windows[0]] == [set(window) for window in windows[1]]
    assert sorted_ != shuffled


@pytest.mark.parametrize("inner", ["random", trial("Pruned")])
def test_a_selector_around_another_one_says_how_often_its_documents_are_seen(trial_run: Run, inner: str) -> None:
    order = {"using": {trial("WindowShuffle"): {"inner": "shuffled", "window": 8}}}
    outcome = trial_run(select={**budget(20), "using": {trial("Repeated"): {"inner": inner}}}, order=order)
    rows = rows_of(outcome)
    seen: dict[bytes, list[int]] = {}
    for row in rows:
        seen.setdefault(row["doc_id"], []).append(row["visit"])
    assert 1 < len(seen) <= 10 and list(seen.values()) == [[0, 1]] * len(seen)
    assert {row["visits"] for row in decisions_of(outcome).values() if row["outcome"] == "kept"} == {2}
    assert outcome.manifest.when(rows[0]["doc_id"])[0] == 0


def test_the_table_of_a_selector_inside_another_one_is_found_too(trial_run: Run, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "judged.jsonl", [{"doc_id": IDS[n].hex(), "grade": n} for n in (3, 8, 21)])
    inner = {trial("Graded"): {"judged": str(path)}}
    outcome = trial_run(select={**budget(6), "using": {trial("Repeated"): {"inner": inner}}})
    assert sorted(numbers_of(outcome)) == [3, 3, 8, 8, 21, 21]


def test_a_rater_of_words_is_what_a_rule_asks_for(trial_run: Run) -> None:
    outcome = trial_run(rate=[trial("Mood")], select={"budget": {"fraction": 1}, "where": "Mood = 'loud'"})
    assert sorted(numbers_of(outcome)) == list(range(0, COUNT, 5))
    with pytest.raises(PolicyError, match=r"order\.using\.score: 'Mood' is a label, a word for each document\."):
        trial_run(rate=[trial("Mood")], order={"using": {"by_score": {"score": "Mood"}}})


@pytest.mark.parametrize("direction", ["curriculum", "anti_curriculum"])
def test_an_exact_score_is_sorted_exactly_where_twenty_bits_would_not_tell_it_apart(
    trial_run: Run, direction: str
) -> None:
    order = {"using": {"by_score": {"score": "Written", "direction": direction}}}
    outcome = trial_run(rate=[trial("Written")], order=order)
    by_time = sorted(range(COUNT), key=MOMENTS.__getitem__, reverse=direction == "anti_curriculum")
    assert numbers_of(outcome) == by_time
    stamps = np.array([moment.timestamp() * 1e6 for moment in MOMENTS])
    assert len(np.unique(quantise(stamps.astype(np.float32)))) == 1


def test_a_rater_of_several_scores_gives_each_its_column_and_its_state(trial_run: Run) -> None:
    rate = [{trial("Letters"): {}, "as": "kind"}]
    outcome = trial_run(
        rate=rate,
        select={"budget": {"fraction": 1}, "where": "kind_first = 'D' AND kind_count >= 60"},
        order={"using": {"by_score": {"score": "kind_count"}}},
        manifest={"quality": "kind_share", "difficulty": "kind_count"},
    )
    counts = [sum(map(str.isalpha, text)) for text in TEXTS]
    long = [n for n in range(COUNT) if counts[n] >= 60]
    assert 0 < len(long) < COUNT
    assert numbers_of(outcome) == sorted(long, key=lambda n: (counts[n], IDS[n]))
    assert [row["difficulty"] for row in rows_of(outcome)] == sorted(counts[n] for n in long)
    shares = quantise(np.array([counts[n] / len(TEXTS[n]) for n in range(COUNT)], np.float32))
    assert [row["quality"] for row in rows_of(outcome)] == [shares[n] for n in numbers_of(outcome)]


def test_a_fit_measures_every_document_against_the_whole_corpus(trial_run: Run) -> None:
    outcome = trial_run(rate=[trial("LengthZScore")], manifest={"difficulty": "LengthZScore"})
    scores = np.array([row["difficulty"] for row in rows_of(outcome)])
    assert abs(scores.mean()) < 1e-5 and abs(scores.std() - 1) < 1e-5
    assert [step.name for step in outcome.steps if "ZScore" in step.name] == ["fit/LengthZScore", "rate/LengthZScore"]


def test_a_fit_with_a_table_prefers_what_the_table_says(trial_run: Run, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "target.jsonl", [{"text": TEXTS[n]} for n in range(0, COUNT, 5)])
    top = {**budget(12), "using": {"top": {"score": "Resembles"}}}
    outcome = trial_run(rate=[{trial("Resembles"): {"target": str(path)}}], select=top)
    assert sorted(numbers_of(outcome)) == list(range(0, COUNT, 5)), "these are written in capitals, as the target is"


def test_a_selector_that_sees_whole_groups_names_the_document_that_decided(trial_run: Run) -> None:
    outcome = trial_run(select={"budget": {"fraction": 1}, "using": {trial("Pruned"): {"similarity": 0.97}}})
    decisions = decisions_of(outcome)
    pruned = {n: row for n, row in decisions.items() if row["other"] is not None}
    assert 0 < len(pruned) < COUNT
    for n, row in pruned.items():
        assert row["outcome"] == "left_out" and row["value"] < -0.97
        other = decisions[IDS.index(row["other"])]
        assert other["outcome"] == "kept"
        told = outcome.manifest.explain(IDS[n])
        assert told["reason"].endswith("nearer than 0.97 to another") and told["other"] == row["other"].hex()
    shortfall = outcome.manifest.info["facts"]["select"]["shortfall"]
    assert shortfall["spent"] == sum(row["num_tokens"] for row in rows_of(outcome)) < shortfall["budget"]


def test_a_selector_that_ends_early_says_what_it_did_not_spend(trial_run: Run) -> None:
    lengths = [len(text.split()) for text in TEXTS]
    at_least = {trial("AtLeast"): {"score": "length", "least": 20}}
    outcome = trial_run(rate=["length"], select={**budget(COUNT), "using": at_least})
    long = [n for n in range(COUNT) if lengths[n] >= 20]
    assert 0 < len(long) < COUNT and sorted(numbers_of(outcome)) == long
    facts = outcome.manifest.info["facts"]["select"]
    why = "the selector takes no more by its own rule"
    assert facts["shortfall"] == {"unit": "documents", "budget": COUNT, "spent": len(long), "reason": why}
    short = next(n for n in range(COUNT) if lengths[n] < 20)
    assert outcome.manifest.explain(IDS[short])["reason"] == "length below 20"


def test_a_selector_that_waits_has_a_manifest_of_what_is_decided_and_says_for_what_it_waits(trial_run: Run) -> None:
    outcome = trial_run(select={**budget(20), "using": trial("InRounds")})
    assert len(outcome.manifest) == 10
    facts = outcome.manifest.info["facts"]["select"]
    assert (facts["rounds"], facts["waiting"]) == (1, "round 2 needs feedback to spend 10 documents")


def test_a_selector_that_sees_whole_groups_sees_what_is_chosen_already() -> None:
    vectors = [(1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0)]
    waiting = documents([{"embedding": vector, "cluster": 1} for vector in vectors])
    chosen = documents(
        [
            {"doc_id": b"of another group", "embedding": vectors[0], "cluster": 2},
            {"doc_id": b"of this group...", "embedding": vectors[1], "cluster": 1},
        ]
    )
    selector, everything = Pruned(), Budget(amount=3, unit="documents")
    assert decide(selector, waiting, 2, everything, 7)["kept"].to_pylist() == [True, True, True]
    pool = pool_for(selector, waiting, 2, given=chosen)
    decisions = selector.select(pool, everything, 7)
    assert decisions.pool is not None
    said = pa.Table.from_batches([decisions.decide(batch) for batch in decisions.pool.batches(*decisions.columns)])
    assert said["kept"].to_pylist() == [True, False, True]
    assert said["other"].to_pylist() == [None, b"of this group...", None]


def test_products_of_stored_vectors_add_up_without_rounding() -> None:
    """So a nearest document is the same on every machine: see `Nearest` and `Pruned`."""
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(50, 32))
    column = pa.array((vectors / np.linalg.norm(vectors, axis=1)[:, None]).astype(np.float16).tolist())
    exact = vectors_of(column.cast(pa.list_(pa.float16(), 32))).astype(np.float64)
    order = rng.permutation(32)
    np.testing.assert_array_equal(exact @ exact.T, exact[:, order] @ exact[:, order].T)


def test_a_fit_is_no_rater_inside_another_one() -> None:
    around = "testing.test_laws_of_raters:Reversed"
    with pytest.raises(
        PolicyError, match=r"rate\.0\..*Reversed\.inner: '.*LengthZScore' is no Rater, and nothing else will do"
    ):
        plugins.make("raters", around, {"inner": trial("LengthZScore")}, "rate.0")
