"""Reasons: a template and its arguments become a sentence where somebody reads it, and nowhere else."""

import pytest

from selector.manifest import heading, sentence


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
