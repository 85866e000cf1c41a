"""A rater learned from labels or judgements: as an artefact, in a policy, before the laws, and beside people."""

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import selector
from conftest import text_of, tries, write_jsonl
from rated import scores_of
from selector import pipeline
from selector.cli import labelled
from selector.engine.local import LocalExecutor
from selector.errors import CorpusError, PolicyError, UsageError
from selector.exact import Floats
from selector.exact.vectors import vector_column
from selector.models.linear import Kind, Linear
from selector.policy import Policy
from selector.rate._counts import NAMES, KnownWords, counts
from selector.rate._learned import ENCODER, Learned, Uses
from selector.rate._learning import Examples, learn
from selector.testing import check_rater

DATA = Path(__file__).parents[3] / "shared/data"
WORDS = KnownWords(words=("the", "cat", "sat", "on", "mat"))


def learned(kind: Kind = "ridge", uses: Uses = "embedding and counts", dimension: int = 4) -> Learned:
    """A model with drawn weights."""
    rng = np.random.default_rng(0)
    size = dimension * ("embedding" in uses) + len(NAMES) * ("counts" in uses)
    outputs = 3 if kind == "ordinal" else 1
    return Learned(
        kind=kind, uses=uses, higher_is="harder", lows=np.full(size, -3.0), highs=np.full(size, 9.0),
        means=rng.standard_normal(size), scales=rng.uniform(0.1, 2, size),
        model=Linear(weights=rng.standard_normal((outputs, size)) / 8, intercepts=rng.standard_normal(outputs)),
        levels=np.array([1.0, 2.0, 4.0, 5.0]) if kind == "ordinal" else np.empty(0), slope=0.7, offset=0.2,
        known=WORDS if "counts" in uses else KnownWords(words=()),
        encoder={name: f"the {name}" for name in ENCODER},
    )  # fmt: skip


# ---------------------------------------------------------------- counts


def test_counts_are_those_of_a_text_by_hand() -> None:
    row = dict(zip(NAMES, counts(["The cat sat, and WE philosophized!\nNo? I don't."], WORDS)[0], strict=True))
    assert row["log words"] == pytest.approx(np.log(10))
    assert row["log sentences"] == pytest.approx(np.log(4))
    assert row["characters per word"] == pytest.approx((3 + 3 + 3 + 3 + 2 + 13 + 2 + 1 + 5) / 9)
    assert row["longest word"] == 13 and row["words of 10 or more"] == pytest.approx(1 / 9)
    assert row["pronouns"] == pytest.approx(2 / 9) and row["negations"] == pytest.approx(2 / 9)
    assert row["commas"] == row["exclamations"] == row["line breaks"] == pytest.approx(1 / 9)
    assert row["words in capitals"] == pytest.approx(1 / 9) and row["begins with a capital"] == 1
    ranks = [0, np.log(2), np.log(3), *[np.log(12)] * 6]
    assert row["mean rarity"] == pytest.approx(np.mean(ranks), abs=1e-3)
    assert row["mean rarity of the rarest three"] == pytest.approx(np.log(12), abs=1e-3)


@tries(20)
@given(st.lists(st.text(max_size=30) | st.sampled_from(["the cat. ", "It isn't 3,000!", "語" * 50]), max_size=6))
def test_counts_of_a_text_are_its_own_whatever_stands_beside_it(texts: list[str]) -> None:
    whole = counts(texts, WORDS)
    assert whole.shape == (len(texts), len(NAMES)) and np.isfinite(whole).all()
    for text, row in zip(texts, whole, strict=True):
        assert counts([text], WORDS)[0].tolist() == row.tolist()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"vocab": {"[CLS]": 0, "##ed": 1, "a": 2, "the": 3, "Cat": 4, "a1": 5, "cat": 6}}, ["a", "the", "cat"]),
        ({"vocab": {"\u0120the": 1, "ing": 2, "\u0120Cat": 0, "\u0120": 3}}, ["cat", "the"]),
        ({"vocab": [["<unk>", 0.0], ["\u2581of", -2.0], ["s", -3.0], ["\u2581cat", -9.0]]}, ["of", "cat"]),
    ],
)
def test_the_words_of_a_tokenizer_are_those_that_begin_one(model: dict[str, Any], words: list[str]) -> None:
    assert list(KnownWords.of_tokenizer(json.dumps({"model": model})).words) == words


# ---------------------------------------------------------------- the artefact


@pytest.mark.parametrize("kind", ["ridge", "logistic", "ordinal", "preference"])
@pytest.mark.parametrize("uses", ["embedding and counts", "embedding", "counts"])
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_an_artefact_rates_as_what_was_learned(kind: Kind, uses: Uses, suffix: str, tmp_path: Path) -> None:
    model, texts = learned(kind, uses), ["The cat sat.", "", "Dogs bark; loudly, often!"]
    vectors = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float16)
    labelled.write(model, tmp_path / f"it{suffix}")
    columns = {"embedding": vector_column(vectors), "text": pa.array(texts)}
    shown = {name: column for name, column in columns.items() if name in model.needs}
    scores = scores_of("fitted", {"artefact": str(tmp_path / f"it{suffix}")}, **shown)
    blocks = [counts(texts, WORDS)] * ("counts" in uses) + [vectors.astype(np.float64)] * ("embedding" in uses)
    standard = (np.clip(np.concatenate(blocks, axis=1), model.lows, model.highs) - model.means) / model.scales
    outputs = np.clip(standard, -32, 32) @ model.model.weights.T + model.model.intercepts
    if kind == "ordinal":
        expected: Floats = 0.2 + 0.7 * (1 + (1 / (1 + np.exp(-outputs))) @ np.array([1, 2, 1]))
    else:
        expected = 0.2 + 0.7 * outputs[:, 0]
    expected = 1 / (1 + np.exp(-expected)) if kind == "logistic" else expected
    assert scores["fitted"] == pytest.approx(expected.tolist(), abs=5e-3)


def test_a_score_is_a_sum_that_is_not_rounded() -> None:
    model = learned(dimension=384)
    features = np.random.default_rng(2).standard_normal((5, 384 + len(NAMES)))
    scores = model.scores(features)
    steps = np.rint(np.clip((np.clip(features, -3, 9) - model.means) / model.scales, -32, 32) * 4096)
    unit = Fraction(2.0 ** (np.frexp(np.abs(model.model.weights).max())[1] - 24))
    weights = [round(Fraction(weight) / unit) for weight in model.model.weights[0].tolist()]
    for row, score in zip(steps.astype(int).tolist(), scores.tolist(), strict=True):
        product = sum(a * b for a, b in zip(row, weights, strict=True)) * unit / 4096
        assert float(product) == product, "it fits"
        assert score == 0.7 * (float(product) + model.model.intercepts[0]) + 0.2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ridge", "logistic", "ordinal", "preference"])
def test_a_fitted_rater_keeps_the_laws(kind: Kind, tmp_path: Path) -> None:
    labelled.write(learned(kind), tmp_path / "it.parquet")
    check_rater("fitted", artefact=str(tmp_path / "it.parquet"), examples=10)


def test_what_is_no_artefact_is_refused(tmp_path: Path) -> None:
    rows = [{"name": "format", "place": 0, "value": 9.0, "text": None}]
    file = write_jsonl(tmp_path / "it.jsonl", [*rows, {"name": "kind", "place": 0, "value": None, "text": "ridge"}])
    with pytest.raises(PolicyError, match=r"it\.jsonl: this is no fitted rater of format 1, .* selector fit-rater"):
        scores_of("fitted", {"artefact": str(file)}, text=["a"])
    with pytest.raises(PolicyError, match=r"fitted\.artefact: the table .*gone\.jsonl' cannot be read"):
        scores_of("fitted", {"artefact": str(tmp_path / "gone.jsonl")}, text=["a"])


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize("kind", ["ridge", "logistic", "ordinal", "preference"])
def test_what_follows_from_the_features_is_learned_and_calibrated(kind: Kind) -> None:
    rng = np.random.default_rng(3)
    features = rng.standard_normal((400, 6)) * [1, 1, 1, 5, 1, 1] + 3
    truth = features[:, 0] - 0.2 * features[:, 3]
    noisy = truth + 0.5 * rng.standard_normal(400)
    rows = rng.integers(400, size=(900, 2)) if kind == "preference" else np.arange(400)[:, None]
    values: Floats = noisy
    if kind == "preference":
        values = (noisy[rows[:, 0]] > noisy[rows[:, 1]]).astype(np.float64)
    elif kind != "ridge":
        values = np.clip(np.rint(noisy), 0, 4 if kind == "ordinal" else 1)
    outcome = learn(kind, Examples(features=features, rows=rows, labels=values), rng.integers(5, size=400))
    predicted = ~np.isnan(outcome.predicted)
    gaps = truth[rows[:, 0]] - (truth[rows[:, 1]] if kind == "preference" else 0)
    assert np.corrcoef(outcome.gaps[predicted], gaps[predicted])[0, 1] > 0.9
    assert 0.7 < outcome.slope < 2
    assert outcome.predicted[predicted].mean() == pytest.approx(values[predicted].mean(), abs=0.05)


def test_no_row_is_predicted_by_a_model_that_saw_its_fold() -> None:
    """Labels that are a matter of the group alone cannot be known of a group that was left out."""
    rng = np.random.default_rng(5)
    group = np.repeat(np.arange(40), 5)
    features = np.eye(40)[group] + 0.01 * rng.standard_normal((200, 40))
    values = rng.standard_normal(40)[group]
    outcome = learn("ridge", Examples(features=features, rows=np.arange(200)[:, None], labels=values), group % 5)
    assert np.corrcoef(outcome.gaps, values)[0, 1] < 0.1


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("ridge", [2.0] * 4, "All labels are 2: there is nothing to learn"),
        ("logistic", [1.0, 2.0, 1.0, 2.0], "logistic learns two labels, 0 and 1"),
        ("ordinal", list(range(30)), "ordinal takes at most 24 different labels; these are 30"),
    ],
)
def test_labels_that_a_kind_cannot_learn_are_refused(kind: Kind, values: list[float], message: str) -> None:
    rows = np.arange(len(values))[:, None]
    with pytest.raises(UsageError, match=message):
        learn(
            kind, Examples(features=np.eye(len(values)), rows=rows, labels=np.array(values, np.float64)), rows[:, 0] % 2
        )


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def fitted(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The artefact of a command over labelled texts, and what the command printed."""
    folder = tmp_path_factory.mktemp("fitted")
    rows: list[dict[str, Any]] = [{"body": text_of(n), "level": 1 + n % 7, "book": n % 20} for n in range(80)]
    rows += [{"body": text_of(99), "level": None}, {"body": "", "level": 1}]
    file = write_jsonl(folder / "labelled.jsonl", rows)
    ended = selector(
        "fit-rater", file, "--out", folder / "level.parquet", "--text", "{body}", "--label", "level", "--group", "book",
        "--higher-is", "harder", "--model", tiny_model, "--duplicates", 0.999999, "--json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    return folder / "level.parquet", ended.json


@pytest.mark.slow
def test_the_command_says_how_well_it_agrees_beside_the_plain_measures(fitted: tuple[Path, Any]) -> None:
    _, printed = fitted
    assert (printed["kind"], printed["texts"], printed["rows"], printed["left_out"]) == ("ridge", 80, 80, 2)
    figures = printed["agreement"]["Spearman"]
    assert list(figures)[:4] == ["fitted", "words", "characters", "Flesch-Kincaid"]
    assert list(figures)[4:] == ["fitted - words", "fitted - characters", "fitted - Flesch-Kincaid"]
    for figure in figures.values():
        assert figure["low"] <= figure["value"] <= figure["high"] and figure["group_low"] is not None


@pytest.mark.slow
def test_a_policy_names_the_artefact_and_every_document_has_its_score(
    fitted: tuple[Path, Any], tiny_model: Path, tmp_path: Path
) -> None:
    artefact, _ = fitted
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"text": text_of(n)} for n in range(100, 140)])
    policy: dict[str, Any] = {
        "corpus": {"paths": [str(corpus)]}, "embed": {"model": str(tiny_model)},
        "rate": [{"fitted": {"artefact": str(artefact)}, "as": "level"}],
        "select": {"budget": {"documents": 40}, "using": {"top": {"score": "level"}}},
        "order": {"using": {"by_score": {"score": "level"}}}, "manifest": {"difficulty": "level"},
    }  # fmt: skip
    manifest = pipeline.run(Policy.of(policy), root=tmp_path / "runs", executor=LocalExecutor())
    levels = manifest.rows(0, 40)["difficulty"].to_numpy()
    assert (np.diff(levels) >= 0).all() and 0 < np.ptp(levels) < 7
    policy["embed"]["max_tokens"] = 100
    with pytest.raises(PolicyError, match=r"whose max_tokens is 256, .* embed is 100\. Fit it again"):
        pipeline.run(Policy.of(policy), root=tmp_path / "runs", executor=LocalExecutor())


@pytest.mark.parametrize(
    ("rows", "texts", "chances"),
    [
        ([{"x": "one", "y": "two", "best": "y"}, {"x": "two", "y": "three", "best": "x"}], "one two three", [0, 1]),
        ([{"x": "one", "y": "two", "best": 0.25}, {"x": "one", "y": "", "best": 1}], "one two", [0.25]),
        ([{"x": "one", "y": "two", "best": True}, {"x": "two", "y": "one", "best": None}], "one two", [1]),
    ],
)
def test_a_judgement_names_the_better_column_or_is_a_chance(
    rows: list[dict[str, Any]], texts: str, chances: list[float], tmp_path: Path
) -> None:
    read = labelled.judgements(write_jsonl(tmp_path / "pairs.jsonl", rows), "x", "y", "best", None)
    assert list(read.texts) == texts.split()
    assert read.values.tolist() == chances


@pytest.mark.parametrize(
    ("row", "arguments", "message"),
    [
        ({"text": "a", "grade": "good"}, ["--label", "grade"], r"the label 'good' in 'grade' is no number"),
        ({"text": "a", "grade": 1e308}, ["--label", "grade"], r"the label 1e\+308 in 'grade' is beyond 3\.4e\+38"),
        ({"text": "a", "grade": "inf"}, ["--label", "grade"], r"the label 'inf' in 'grade' is beyond 3\.4e\+38"),
        ({"text": "a", "grade": 1}, ["--label", "grad"], r"has no column 'grad'\. Did you mean 'grade'\?"),
        ({"a": "1", "b": "2", "best": "c"}, ["--pair", "a", "b", "--better", "best"], r"names neither 'a' nor 'b'"),
        ({"text": "a", "grade": 1}, [], r"Say what was said of the texts"),
        ({"text": "a", "grade": 1}, ["--label", "grade", "--out", "it.pickle"], r"ends in \.parquet or \.jsonl"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_by_name(
    row: dict[str, Any], arguments: list[str], message: str, tmp_path: Path
) -> None:
    file = write_jsonl(tmp_path / "labelled.jsonl", [row])
    ended = selector("fit-rater", file, "--out", tmp_path / "it.jsonl", "--higher-is", "better", *arguments)
    assert ended.code == 2
    assert re.search(message, ended.err)


def test_rows_that_cannot_be_read_are_counted_with_their_reasons(tmp_path: Path) -> None:
    file = tmp_path / "labelled.jsonl"
    bad = '{"text": "x", "grade": NaN}\nno JSON\n[1]\n'
    file.write_text('{"text": "a b", "grade": 1}\n\n{"text": "c d"}\n' + bad, "utf-8")
    read = labelled.labels(file, "text", "grade", None)
    assert (len(read.texts), read.num_left_out, len(read.bad)) == (1, 1, 3)
    assert re.search(r"1 not_an_object, such as: a JSON list; .* not_json, such as: ", labelled.reasons(read.bad))
    file.write_text(bad, "utf-8")
    with pytest.raises(CorpusError, match=r"labelled\.jsonl: no row can be read \(.*not_json, such as: "):
        labelled.labels(file, "text", "grade", None)


def test_a_file_to_learn_from_that_is_not_there_or_is_many_is_refused_by_name(tmp_path: Path) -> None:
    for name in ("one.jsonl", "two.jsonl"):
        write_jsonl(tmp_path / name, [{"text": "a", "grade": 1}])
    with pytest.raises(CorpusError, match=r"^FILE: there is no file at '.*nope\.jsonl'"):
        labelled.labels(tmp_path / "nope.jsonl", "text", "grade", None)
    with pytest.raises(CorpusError, match=r"^FILE: '.*' leads to 2 files\. Give one of them\."):
        labelled.labels(tmp_path, "text", "grade", None)


def test_a_file_without_a_labelled_text_is_refused(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "labelled.jsonl", [{"text": "", "grade": 1}, {"text": "x", "grade": None}])
    with pytest.raises(CorpusError, match=r"no row has both a text \('text'\) and a label \('grade'\)"):
        labelled.labels(file, "text", "grade", None)
