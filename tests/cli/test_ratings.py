"""Scores without a manifest: what they are like, and how they agree with each other, with length and with labels."""

import json
import xml.etree.ElementTree as ElementTree
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import command
from runs import policy_of, write_corpus
from selector.cli.ratings import agreement, described_of, picture, spearman
from selector.cli.report import print_ratings
from selector.plugins.catalogue import Score

RATERS: list[Any] = [
    "length",
    "readability",
    {"column": {"column": "edu", "higher_is": "better"}},
    {"column": {"column": "source", "higher_is": "label"}, "as": "origin"},
    {"calibrated": {"score": "edu", "higher_is": "better", "within": "source"}},
    {"combined": {"of": ["length", "calibrated"], "higher_is": "better"}, "as": "both"},
]


def score(name: str, meaning: str = "better") -> Score:
    return Score(name=name, rater=name, meaning=meaning)


def test_agreement_is_of_ranks_over_the_documents_that_have_both() -> None:
    sample = pa.table(
        {
            "x": [1.0, 2.0, 3.0, None, 40.0],
            "y": [9.0, 8.0, 7.0, 6.0, None],
            "z": [5.0, 5.0, 5.0, 5.0, 5.0],
            "few": [None, None, None, 1.0, 2.0],
            "topic": ["law", "law", "art", "art", None],
            "name": ["a", "b", "c", "d", "e"],
            "tokens": [1, 3, 2, 4, 5],
            "bytes": [1, 2, 3, 4, 5],
        }
    )
    scores = [*map(score, ("x", "y", "z", "few")), score("topic", "label"), score("name", "label")]
    agreed = agreement(sample, scores)
    assert agreed["rows"] == ["x", "y", "z", "few"]
    assert agreed["columns"] == ["x", "y", "z", "few", "tokens", "bytes", "topic"], (
        "a name of each document is no label"
    )
    x, y, z, few = agreed["values"]
    assert x == [pytest.approx(each) if each is not None else None for each in (1, -1, None, None, 0.8, 1, 0.75**0.5)]
    assert y[6] == pytest.approx(0.8**0.5)
    assert z == few == [None] * 7


LONG = f"heuristics_{'of_something_' * 6}the_end"
ODD: dict[str, Any] = {
    "plain": [3.0, 1.0, 2.0, 4.0],
    "constant": [7.0] * 4,
    "nothing": pa.nulls(4, pa.float32()),
    "one": [1.0, None, None, None],
    "day": pa.array([date(2026, 1, day) for day in (3, 1, 2, 9)]),
    "huge": [2**61 + 3, 2**61, 2**61 + 1, 2**61 + 5],
    "cents": pa.array([Decimal(cents).scaleb(-2) for cents in (3, 1, 2, 4)]),
    "word": ["[/]<a>&", "b\n", "[/]<a>&", None],
    "same": ["x"] * 4,
    "name": ["a", "b", "c", "d"],
    "wordless": pa.nulls(4, pa.string()),
    LONG: [1.0, 1.0, 2.0, 2.0],
}


@pytest.mark.parametrize("num_documents", [4, 1, 0])
def test_odd_columns_are_described_compared_and_drawn(num_documents: int, capsys: pytest.CaptureFixture[str]) -> None:
    scores = [score(name, "label" if name in ("word", "same", "name", "wordless") else "better") for name in ODD]
    states = {f"{name}.state": pa.nulls(4, pa.string()) for name in ODD}
    sample = pa.table({**ODD, **states, "tokens": [1, 2, 3, 4], "bytes": [5] * 4}).slice(0, num_documents)
    agreed = agreement(sample, scores)
    described = [described_of(each, sample) for each in scores]
    print_ratings({"documents": 9, "sample": num_documents, "scores": described, "agreement": agreed})
    ElementTree.fromstring(picture(agreed))
    printed = capsys.readouterr().out
    json.dumps([agreed, described], allow_nan=False)
    if num_documents == 4:
        plain = dict(zip(agreed["columns"], agreed["values"][0], strict=True))
        assert [plain[name] for name in ("day", "huge", "cents")] == [1, 1, 1]
        assert {plain[name] for name in ("constant", "nothing", "one", "bytes", "same")} == {None}
        assert not {"name", "wordless"} & set(plain), "a name of each document is no label, nor is nothing"
        assert LONG[:20] in printed and "…" not in printed, "a long name is not cut off"
        assert "2026-01-01 to 2026-01-09" in printed and r"[/]<a>& 2, b\n 1" in printed


def test_ties_share_the_mean_of_their_ranks() -> None:
    assert spearman(np.array([1.0, 2, 2, 4]), np.array([3.0, 1, 1, 0])) == pytest.approx(-1)


def test_the_picture_has_a_cell_for_every_pair_with_its_number() -> None:
    drawn = picture({"rows": ["a<b"], "columns": ["a<b", "topic"], "values": [[-0.5, None]]})
    texts = [element.text for element in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["a<b", "a<b", "topic", "-0.50"]


def test_many_scores_are_shown_with_length_and_what_they_are_most_like(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"s{i}" for i in range(14)]
    values: list[list[float | None]] = [
        [round(1 - abs(i - j) / 14, 2) for j in range(14)] + [0.25, None, 0.99] for i in range(14)
    ]
    values[13] = [None] * 17
    agreed = {"rows": names, "columns": [*names, "tokens", "bytes", "topic"], "labels": ["topic"], "values": values}
    print_ratings({"documents": 9, "sample": 9, "scores": [], "agreement": agreed})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["s0", "0.25", "topic", "0.99,", "s1", "0.93,", "s2", "0.86"] in lines
    assert not any(line[:1] == ["s13"] for line in lines), "it agrees with nothing"


@pytest.mark.slow
def test_a_file_in_a_folder_that_is_not_there_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "labelled.jsonl").write_text('{"text": "a", "label": 1}\n', "utf-8")
    away = tmp_path / "away"
    for words in (
        ("fit-rater", tmp_path / "labelled.jsonl", "--out", away / "f.jsonl", "--label", "label", "--higher-is=better"),
        ("rate", tmp_path / "policy.yaml", "--compare", "--picture", away / "p.svg", "--root", tmp_path / "root"),
    ):  # fmt: skip
        ended = command.selector(*words)
        assert ended.code == 2 and f"there is no folder '{away}'. Make it, or name another file." in ended.err
    assert not away.exists() and not (tmp_path / "root").exists()


def test_rate_shows_scores_and_their_agreement_and_makes_no_manifest(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "corpus").mkdir()
    write_corpus(tmp_path / "corpus")
    options = {
        "rate": RATERS,
        "select": {"budget": {"documents": 5}, "using": "random"},
        "order": {"using": "shuffled"},
    }
    policy = policy_of(tmp_path / "corpus", tiny_model, **options)
    policy.pop("manifest", None)
    path, root = command.write_policy(tmp_path, policy), tmp_path / "root"
    drawn = tmp_path / "agreement.svg"
    base = ("rate", path, "--root", root, "--executor", "local", "--workers", 1)
    ended = command.selector(*base, "--compare", "--picture", drawn, "--json")
    assert ended.code == 0, ended.err
    rated = ended.json
    assert rated["documents"] == rated["sample"] > 100
    by_name = {each["name"]: each for each in rated["scores"]}
    assert list(by_name) == ["length", "readability", "edu", "origin", "calibrated", "both"]
    assert by_name["edu"]["ok"] == rated["sample"] and by_name["edu"]["quantiles"][0] == 0
    assert set(by_name["origin"]["most_frequent"]) == {"web", "books", "code"}
    agreed = rated["agreement"]
    assert agreed["columns"][-1] == "origin" and agreed["values"][0][0] == pytest.approx(1)
    assert drawn.read_text("utf-8") == picture(agreed)
    assert not list(root.glob("*/manifest*")), "no manifest is made"
    again = command.selector(*base)
    assert again.code == 0 and "rank correlations" not in again.out and "cached" in again.err
    assert command.selector(*base, "--compare", "--json").json == rated
    assert "correlation ratio" in command.selector(*base, "--compare").out
    refused = command.selector(*base, "--picture", drawn)
    assert refused.code == 2 and "Add --compare" in refused.err
    policy["rate"] = []
    refused = command.selector("rate", command.write_policy(tmp_path, policy), "--root", root, "--executor", "local")
    assert refused.code == 2 and "rates nothing" in refused.err
