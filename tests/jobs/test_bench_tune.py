"""The study of real text: its passages, and the page that it makes."""

from pathlib import Path
from typing import Any

from conftest import write_jsonl
from jobs.bench import tune


def test_passages_are_whole_lines_of_the_domains_that_were_asked_for(tmp_path: Path) -> None:
    lines = ["a line of a page " * 5, "long " * 200, "short"]
    passages = list(tune.cut("\n".join(lines * 3)))
    assert all(300 <= len(passage) <= 300 + 401 for passage in passages)
    whole = "".join("\n".join(lines * 3).split())
    assert "".join("".join(passages).split()) in whole, "in their order, with nothing between them left out"
    rows = [{"text": f"{n} " * 200, "book": "law", "lang": "en"} for n in range(3)] + [
        {"text": "ä " * 200, "lang": "de"}
    ]
    write_jsonl(tmp_path / "pages.jsonl", [*rows, {"text": "b " * 200}])
    counts = tune.write_passages([str(tmp_path / "pages.jsonl")], tmp_path / "out.jsonl", ["book"], {"lang": "en"}, 99)
    assert counts == {"law": 3, "pages": 1}
    fewer = tune.write_passages([str(tmp_path / "pages.jsonl")], tmp_path / "out.jsonl", [], {}, 2)
    assert fewer == {"pages": 2} and len((tmp_path / "out.jsonl").read_text("utf-8").splitlines()) == 2


def test_a_page_says_which_policies_help_which_do_not_and_what_cannot_be_told() -> None:
    ends = {
        "good": [(-2, -1), (-3, -2)], "bad": [(1, 2), (3, 4)], "late": [(-1, 1), (-3, -1)], "same": [(-1, 1), (-1, 1)],
        "turns": [(-3, -1), (1, 3)],
    }  # fmt: skip
    cells: list[dict[str, Any]] = [
        {"arm": "random", "condition": at, "mean": 5, "low": 4, "high": 6, "chance_of_being_best": 0.1}
        for at in ("small", "large")
    ]
    for arm, intervals in ends.items():
        for at, (low, high) in zip(("small", "large"), intervals, strict=True):
            beside = {"mean": (low + high) / 2, "low": low, "high": high}
            cells.append({"arm": arm, "condition": at, "beside_random": beside, "chance_of_being_best": 0.2})
    content = {
        "conditions": ["small", "large"], "cells": cells, "objective": "probe", "seeds": [0, 1], "metric": "bits",
        "arms": [{"name": name, "crosses": ["bad"] if name == "turns" else []} for name in ("random", *ends)],
        "held_out": {"documents": 9, "left": 1}, "alike": [["same", "late"]], "winner": None, "reason": "no",
        "below_floor": "Too small.",
    }  # fmt: skip
    page = "\n".join(tune.section("Short form", content, 1000, 4))
    for line in (
        "| random | 5.000 [4.000, 6.000] | 5.000 [4.000, 6.000] | 10% |",
        "| good | -1.500 [-2.000, -1.000] | -2.500 [-3.000, -2.000] | 20% |",
        "* Better than random at every budget and size: good.",
        "* Worse than random at every budget and size: bad.",
        "* Better at some, and nowhere told to be worse: late.",
        "* Better at one and worse at another: turns.",
        "* Not told apart from random anywhere: same.",
        "* What cannot be told at large: differences of less than about 1.000 bits (20.0%), which is how far a middling"
        " interval reaches.",
        "* The same manifests: same and late.",
        "* Ranks that change, told from noise: turns with bad.",
        "The study says: undecided: no. Too small.",
    ):
        assert line in page.splitlines()
