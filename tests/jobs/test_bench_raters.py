"""What is measured of raters: correlations and shares of judgements that are known, folds that keep groups together."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from jobs.bench import raters as measures
from jobs.bench.__main__ import main
from jobs.bench.labelled import Labelled, labelled
from jobs.bench.raters import Fitted, Gaps, Plain, figures_of, plain_raters
from selector.errors import NotFoundError
from selector.exact import Floats

pytestmark = pytest.mark.slow

SO = {"yes": ", so no", "no": ""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small sets of the same form: longer sentences are harder, the longer argument is better but for ties and one."""
    home = tmp_path_factory.mktemp("data")
    sentences = [{"text": "It is so. " + "long " * i, "a": 1 + i // 4, "b": 1 + i // 3} for i in range(12)]
    problems = [{"question": f"How many? {'and ' * i}", "answer": "a step\n" * (1 + i) + "#### 3"} for i in range(6)]
    pairs = [
        {
            "topic": f"{debate}_{side}",
            "better": "a1",
            "a1": f"{side} to {debate}, yes.",
            "a2": f"No, {debate}{SO[side]}.",
        }
        for debate in ("tea", "rain", "ships")
        for side in ("yes", "no")
    ]
    pairs.append({"topic": "rain_no", "better": "a2", "a1": "It is wet and it is cold here.", "a2": "So?"})
    for name, rows in {
        "difficulty/cefr_sp_wiki_train.jsonl": sentences,
        "difficulty/gsm8k_train.jsonl": problems,
        "quality/ukp_pairs_dev.jsonl": pairs,
    }.items():
        path = home / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return home


@pytest.fixture(scope="module")
def sets(folder: Path) -> dict[str, Labelled]:
    return {data.name: data for data in labelled(folder)}


def test_a_count_gets_the_judgements_right_that_go_by_it(sets: Mapping[str, Labelled]) -> None:
    (scores,) = Plain(name="length").scores(sets["UKP pairs"]).values()
    figures = figures_of(scores, sets["UKP pairs"])
    assert figures["UKP pairs"].value == pytest.approx((3 + 3 * 0.5) / 7)
    assert figures["UKP pairs, as long"].value == 0.5  # which are ties of words
    assert len(figures["UKP pairs"].draws) == 1000
    assert str(figures["UKP pairs"].minus(figures["UKP pairs"])) == "0.000 [0.000, 0.000]"


def test_a_text_without_a_score_counts_as_the_median(sets: Mapping[str, Labelled]) -> None:
    data = sets["GSM8K steps"]
    assert data.numbers is not None and data.numbers.tolist() == [1, 2, 3, 4, 5, 6]
    with_gap = np.array([1.0, 2, np.nan, 3.1, 5, 6])
    figure = figures_of(with_gap, data)["GSM8K steps"]
    assert figure.value == pytest.approx(spearmanr(np.nan_to_num(with_gap, nan=3.1), data.numbers)[0])


def with_vectors(data: Labelled, number: int = 3) -> Labelled:
    """The set with vectors of its own: drawn, the first two texts being nearly alike."""
    vectors = np.random.default_rng(number).normal(size=(len(data.texts), 8)).astype(np.float32)
    vectors[1] = vectors[0]
    vars(data)["vectors"] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return data


def test_folds_keep_debates_and_texts_that_are_nearly_alike_together(sets: Mapping[str, Labelled]) -> None:
    arguments = with_vectors(sets["UKP pairs"])
    folds = arguments.folds(2)
    for debate in np.unique(arguments.groups):
        assert len(np.unique(folds[arguments.groups == debate])) == 1
    of_fold = with_vectors(sets["CEFR-SP"]).folds(3)
    assert of_fold[0] == of_fold[1] and len(np.unique(of_fold)) == 3


def test_what_is_fitted_is_measured_on_what_it_did_not_see(sets: Mapping[str, Labelled]) -> None:
    candidate = Fitted(uses="counts")
    numbers, pairs = (with_vectors(sets[name]) for name in ("CEFR-SP", "UKP pairs"))
    (scores,) = candidate.scores(numbers).values()
    assert figures_of(scores, numbers)["CEFR-SP"].value > 0.5
    (gaps,) = candidate.scores(pairs).values()
    assert isinstance(gaps, Gaps) and len(gaps.values) == 7
    assert 0 <= figures_of(gaps, pairs)["UKP pairs"].value <= 1


@dataclass(frozen=True)
class Said:
    """Knows what people said, where it learned of nothing else."""

    label: str = "said"

    def scores(self, data: Labelled) -> Mapping[str, Floats]:
        numbers = data.numbers if data.numbers is not None else np.zeros(len(data.texts))
        return {"said": numbers}


def test_both_tables_have_a_line_for_every_rater_and_candidate(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measures, "CANDIDATES", (Said(),))
    monkeypatch.setattr(measures, "_LEAST_SECONDS", 0.0)
    assert main(["raters", "length", "said", "--data", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "| said | 1.000 [1.000, 1.000] | 1.000 [1.000, 1.000] | 0.500" in printed
    assert "| gain over length unit=characters | CEFR-SP | GSM8K steps | UKP pairs | UKP pairs, as long |" in printed
    assert {plain.name for plain in plain_raters()} >= {"length", "readability"}
    with pytest.raises(NotFoundError, match=r"There is no folder 'nowhere' .* --data FOLDER"):
        labelled(Path("nowhere"))
