"""What a person sees of a study."""

from typing import Any
from xml.etree import ElementTree

import pytest

from selector.cli import studies, study_picture
from selector.tune.result import sentence

SVG = "{http://www.w3.org/2000/svg}"


def cell(arm: str, at: str, mean: float, rank: int | None, **other: float) -> dict[str, Any]:
    beside = None if arm == "random" else {"mean": mean - 1, "low": mean - 1.1, "high": mean - 0.9, "p": 0.01}
    return {
        "arm": arm, "condition": at, "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "rank": rank,
        "chance_of_being_best": None if rank is None else 1 / rank, "beside_random": beside, "settings": {},
        "other": other, "tokens": 5000,
    }  # fmt: skip


def content(**other: Any) -> dict[str, Any]:
    return {
        "study": "0123", "metric": "bits", "better": "lower", "objective": "probe", "seeds": [0, 1, 2], "winner": None,
        "held_out": {"documents": 1200, "domains": 2}, "reason": "ranks change with the scale: a & b", "flags": [],
        "stopped": "ceiling.tokens, 5, is reached", "below_floor": "below 15 M parameters", "settings": [],
        "conditions": ["1k tokens", "3k tokens"],
        "arms": [{"name": name, "changes": {}, "competes": True, "crosses": crosses}
                 for name, crosses in (("random", []), ("a<b", ["c"]), ("c", ["a<b"]))],
        "cells": [
            cell("random", "1k tokens", 1.0, 3), cell("a<b", "1k tokens", 0.7, 1), cell("c", "1k tokens", 0.8, 2),
            cell("random", "3k tokens", 1.0, 3), cell("a<b", "3k tokens", 0.7, 2), cell("c", "3k tokens", 0.6, 1),
        ],
        **other,
    }  # fmt: skip


def test_a_table_has_each_number_beside_its_interval_and_its_control(capsys: pytest.CaptureFixture[str]) -> None:
    studies.print_study(content())
    printed = capsys.readouterr().out
    assert "bits by probe (less is better), 3 seeds, 1,200 held-out documents of 2 domains" in printed
    assert "a<b     1k tokens  1     0.7   [0.6, 0.8]  -0.3           [-0.4, -0.2]" in printed
    assert "undecided: ranks change with the scale: a & b\nstopped: ceiling.tokens" in printed
    assert "below 15 M parameters" in printed


def test_proposals_say_how_well_they_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    sources = {
        "web": {"corpus": 0.9, "most": 1.0, "proposed": 0.6},
        "books": {"corpus": 0.1, "most": 0.4, "proposed": 0.4},
    }
    law = {"by": "source", "runs": 6, "error": 0.021, "rank_correlation": 0.9, "sources": sources}
    studies.print_study(content(mixture=law, filters={"tried": [{"where": "score.grade >= 3.0", "bits": 0.5}]}))
    printed = capsys.readouterr().out
    assert "of 6 runs: a run that the law has not seen is foretold within 2.1%" in printed
    assert "books  0.100   0.400  0.400" in printed and "score.grade >= 3.0  0.5" in printed


def test_a_winner_is_told_with_what_speaks_against_it() -> None:
    assert sentence(content(winner="c", flags=["a is the best at lr=1"])) == (
        "c is the best by bits; but a is the best at lr=1"
    )


@pytest.mark.parametrize("measured", [{}, {"quality": 3.0, "entropy": 0.5}])
def test_a_picture_has_every_arm_at_every_scale(measured: dict[str, float]) -> None:
    shown = content()
    shown["cells"] = [{**one, "other": measured} for one in shown["cells"]]
    drawn = study_picture.draw(shown)
    assert drawn is not None
    tree = ElementTree.fromstring(drawn)
    dots = tree.findall(f"{SVG}circle")
    assert len(dots) == 3 + 6 + (3 if measured else 0)
    words = [text.text for text in tree.findall(f"{SVG}text")]
    assert {"random", "a<b", "c"} <= {*words} and "bits at 3k tokens, 95 %" in words


def test_a_study_without_measurements_has_no_picture() -> None:
    assert study_picture.draw(content(cells=[])) is None
