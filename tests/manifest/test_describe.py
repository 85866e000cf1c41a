"""Reasons: a template and its arguments become a sentence where somebody reads it, and nowhere else."""

import functools
import itertools
import json
import operator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector.manifest import heading, sentence
from selector.manifest.describe import Reasons


@pytest.mark.parametrize(
    ("template", "arguments", "told"),
    [
        ("cluster {cluster}: beyond quota {quota} ({unit})", '{"cluster": 17, "quota": 12, "unit": "tokens"}',
         "cluster 17: beyond quota 12 (tokens)"),
        ("where: text LIKE '{a}'", None, "where: text LIKE '{a}'"),
        ("where: {rule}", '{"rule": "x = \'{quota}\'", "quota": 3}', "where: x = '{quota}'"),
        ("beyond {quota}", "{}", "beyond {quota}"),
        ("nearer than {threshold} to {of}", '{"threshold": 0.8, "of": null}', "nearer than 0.8 to {of}"),
        ("{a.b} {0} {} {a!r} {a}", '{"a": true}', "{a.b} {0} {} {a!r} true"),
        ("{x} {y} {z}", '{"x": 3.0, "y": 1e21, "z": [1, "ä"]}', '3 1000000000000000000000 [1, "ä"]'),
    ],
)  # fmt: skip
def test_a_template_and_its_arguments_make_a_sentence(template: str, arguments: str | None, told: str) -> None:
    assert sentence(template, arguments) == told


def test_a_row_fills_what_the_arguments_do_not() -> None:
    row = {"rank": 3, "value": 0.10000000149, "cut": None, "quota": 9}
    template = "rank {rank} of quota {quota}: {value}, cut {cut}"
    assert sentence(template, '{"quota": 12}', row) == "rank 3 of quota 12: 0.1, cut {cut}"
    assert sentence(template, '{"quota": 12}') == "rank {rank} of quota 12: {value}, cut {cut}"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("cluster {cluster}: beyond quota {quota} ({unit})", "cluster: beyond quota"),
        ("where: num_tokens >= 32", "where: num_tokens >= 32"),
        ("{score} is missing", "is missing"),
        ("not drawn: {spent} of {total} {unit} were", "not drawn"),
        ("not among the best by {score}, {spent} {unit} in all", "not among the best by"),
        ("beyond the budget of {budget} {unit}", "beyond the budget of"),
    ],
)
def test_a_heading_says_what_documents_with_one_template_share(template: str, words: str) -> None:
    assert heading(template) == words


@pytest.mark.parametrize(
    ("template", "shared", "words"),
    [
        ("cluster {cluster}: beyond quota {quota} ({unit})", {"unit": "tokens"}, "cluster: beyond quota (tokens)"),
        ("not drawn: {spent} of {total} {unit} were", {"spent": "3", "total": "9"}, "not drawn: 3 of 9 were"),
        ("not drawn: {spent} of {total} {unit} were", {"unit": "tokens"}, "not drawn"),
        ("where: {rule}", {"rule": "x = '{quota}', y: {z}"}, "where: x = '{quota}', y: {z}"),
    ],
)
def test_a_heading_has_the_arguments_that_all_share(template: str, shared: dict[str, str], words: str) -> None:
    assert heading(template, shared) == words


RULE = "where: text LIKE '%{name}%, {other}: {x}'"
QUOTA, DRAWN = "cluster {group}: beyond quota {quota} ({unit})", "not drawn: {spent} of {total} {unit} were"
ROWS: list[tuple[str, dict[str, Any] | None]] = [
    *[(RULE, None)] * 3,
    *[(QUOTA, {"group": group, "quota": group % 2 + 4, "unit": "tokens"}) for group in range(5)],
    *[(DRAWN, {"spent": 3, "total": 9, "unit": "documents"})] * 2,
    ("below {least}", {"least": 0.5, "score": None}),
    ("below {least}", {"least": 0.25, "score": None}),
    ("quarantined in rate/a: exception", None),
]
TOLD = {
    RULE: 3,
    "cluster: beyond quota (tokens)": 5,
    "not drawn: 3 of 9 documents were": 2,
    "below": 2,
    "quarantined in rate/a: exception": 1,
}


@given(st.permutations(ROWS), st.lists(st.integers(0, len(ROWS)), max_size=4))
def test_the_reasons_of_parts_add_up_however_the_rows_are_cut(rows: Any, cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(rows)]
    parts = [rows[start:end] for start, end in itertools.pairwise(bounds)]
    counted = [
        Reasons.of(
            pa.chunked_array([pa.array([template for template, _ in part], pa.string()).dictionary_encode()]),
            pa.chunked_array(
                [pa.array([given and json.dumps(given) for _, given in part], pa.string()).dictionary_encode()]
            ),
        )
        for part in parts
    ]
    assert functools.reduce(operator.add, counted).by_heading() == TOLD
