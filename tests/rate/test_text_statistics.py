"""The raters that count in texts: each on the worked case of its method, and on texts that it can say nothing of."""

import ast
import string
import sysconfig
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rated import scores_of
from selector import plugins
from selector.errors import PolicyError
from selector.rate._code import parser_of

# ---------------------------------------------------------------- readability

COUNTED = " ".join(
    [
        *["Letters."] * 2,  # 2 of 7 letters and 2 syllables, each a sentence
        *["An"] * 3,
        *["importantly"] * 2,
        "cat.",
    ]
)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("flesch_kincaid", 0.39 * 8 / 3 + 11.8 * 16 / 8 - 15.59),
        ("flesch_ease", 206.835 - 1.015 * 8 / 3 - 84.6 * 16 / 8),
        ("ari", 4.71 * 45 / 8 + 0.5 * 8 / 3 - 21.43),
        ("smog", 1.043 * np.sqrt(30 * 2 / 3) + 3.1291),
    ],
)
def test_readability_formulas_are_those_of_their_papers(formula: str, expected: float) -> None:
    options = {"formula": formula}
    answer = scores_of("readability", options, text=[COUNTED, "3 + 4.", ""])
    assert answer["readability"] == [pytest.approx(expected, rel=2e-6), None, None]
    meaning = plugins.make("raters", "readability", options, "rate.0", object)
    assert getattr(meaning, "scores")("ease") == {"ease": "easier" if formula == "flesch_ease" else "harder"}  # noqa: B009


def test_lengths_of_words_and_sentences_are_means() -> None:
    texts = ["Two words. And three more!", "don\u2019t", "42", ""]
    assert scores_of("word_length", text=texts)["word_length"] == [pytest.approx(20 / 5), 5, None, None]
    assert scores_of("sentence_length", text=texts)["sentence_length"] == [2.5, 1, None, None]


# ---------------------------------------------------------------- lexical diversity


def word(number: int) -> str:
    return "w" + string.ascii_lowercase[number % 26] + string.ascii_lowercase[number // 26 % 10]


R3 = "a b c d a b c d e f g a b h i j a b c k"
LEXICALRICHNESS: list[tuple[str, float]] = [  # what its version 0.5.1 says of the same words
    (" ".join(word(i * i % 61) for i in range(300)), 33.333333333333336),
    (" ".join(word(7 * i % 40) for i in range(150)), 75.0),
    (" ".join(word(i**3 % 211) for i in range(1000)), 68.23507523665998),
    ("wa wb " * 15, 3.0),
    ("wa wb wc wd wb", 7.0),
    (R3, 15.664739884),
]


@pytest.mark.parametrize(("text", "expected"), LEXICALRICHNESS)
def test_mtld_is_what_lexicalrichness_says(text: str, expected: float) -> None:
    answer = scores_of("lexical_diversity", text=["a b", text, "", text.title()])
    assert answer["lexical_diversity"] == [
        None,
        pytest.approx(expected, rel=2e-6),
        None,
        answer["lexical_diversity"][1],
    ]


def mtld(words: list[str], threshold: float) -> float | None:
    """As the paper tells it, word by word."""
    factors: list[float] = []
    for reading in (words, words[::-1]):
        run: list[str] = []
        factors.append(0)
        for each in reading:
            run.append(each)
            if len(set(run)) / len(run) <= threshold:
                factors[-1] += 1
                run = []
        factors[-1] += (1 - len(set(run)) / len(run)) / (1 - threshold) if run else 0
    return None if 0 in factors else sum(len(words) / each for each in factors) / 2


@pytest.mark.slow
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=200), max_size=4), st.sampled_from([0.3, 0.72, 0.9]))
def test_mtld_of_a_batch_is_that_of_each_text_read_word_by_word(texts: list[list[str]], threshold: float) -> None:
    answer = scores_of("lexical_diversity", {"threshold": threshold}, text=["", *map(" ".join, texts)])
    expected = [mtld(words, threshold) for words in texts]
    assert answer["lexical_diversity"][1:] == [each and pytest.approx(each, rel=2e-6) for each in expected]


def test_mtld_wants_a_threshold_that_can_be_crossed() -> None:
    with pytest.raises(PolicyError, match=r"lexical_diversity\.threshold is 1\.0: write a share"):
        plugins.make("raters", "lexical_diversity", {"threshold": 1.0}, "rate.0", object)


# ---------------------------------------------------------------- compression


def test_the_compression_ratio_is_that_of_zlib() -> None:
    texts = ["the cat sat on the mat. " * 8, "écrit", ""]
    ratio, other, nothing = scores_of("compression", text=texts)["compression"]
    assert ratio == pytest.approx(32 / 192, rel=2e-6)  # R2, pinned: our codec is not that of the machine
    assert other == pytest.approx(len(zlib.compress("écrit".encode(), 6)) / 6, rel=0.05)
    assert nothing is None


# ---------------------------------------------------------------- words of the corpus


def test_the_token_prior_is_that_of_the_published_case() -> None:
    learned_on = ["a a b", "A b c", "a z z"]  # N8
    answer = scores_of("token_prior", fitted_on=learned_on, text=[*learned_on, "", "q"])
    assert answer["token_prior"][:3] == [pytest.approx(x, abs=2e-6) for x in (-0.825736, -1.654039, -1.654039)]
    a, b = np.log(12 / 19), np.log(4 / 19)
    assert answer["token_prior_deviation"][0] == pytest.approx(np.std([a, a, b]), rel=2e-6)
    assert answer["token_prior"][3:] == [None, pytest.approx(np.log(1 / 19), rel=2e-6)]
    assert answer["token_prior_deviation"][3:] == [None, 0]


@pytest.mark.slow
@given(st.lists(st.lists(st.sampled_from(["the", "The", "cat", "zèbre", "of", "7"])), min_size=1, max_size=6))
def test_rarity_is_the_mean_of_the_bits_of_words(texts: list[list[str]]) -> None:
    counts = Counter(each.lower() for words in texts for each in words if each != "7")
    total = sum(counts.values()) + len(counts) + 1

    def bits(words: list[str]) -> Any:
        known = [each.lower() for each in words if each != "7"]
        mean = sum(-np.log2((counts[each] + 1) / total) for each in known) / max(1, len(known))
        return pytest.approx(mean, rel=2e-6) if known else None

    answer = scores_of("rarity", text=[" ".join(words) for words in texts])
    assert answer["rarity"] == [bits(words) for words in texts]
    unseen = scores_of("rarity", fitted_on=[" ".join(words) for words in texts], text=["unseen"])
    assert unseen["rarity"] == [pytest.approx(np.log2(total), rel=2e-6, abs=1e-6)]


def test_only_the_most_frequent_words_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selector.rate._vocabulary._MOST_WORDS", 2)
    monkeypatch.setattr("selector.rate._vocabulary._EVERY", 1)
    texts = ["b a a", "c", "b c c"]
    answer = scores_of("rarity", fitted_on=texts, text=["a", "b", "c"])
    assert answer["rarity"] == [pytest.approx(np.log2(8 / each), rel=2e-6) for each in (3, 1, 4)]


# ---------------------------------------------------------------- instructions


def test_an_instruction_has_words_constraints_and_steps() -> None:
    asked = "Write at least three lines, and do not rhyme.\n1. First a title\n2) then the lines\n- You must sign it"
    answer = scores_of("instruction", {"column": "prompt"}, corpus_prompt=[asked, "Say hello", None])
    assert answer["instruction_words"] == [22, 2, None]
    assert answer["instruction_constraints"] == [3, 0, None]
    assert answer["instruction_steps"] == [5, 0, None]
    assert answer["instruction_steps.state"] == ["ok", "ok", "missing"]
    assert scores_of("instruction", text=["Only one step"])["instruction_constraints"] == [1]


# ---------------------------------------------------------------- code

PYTHON = """def f(x):
    if x and y:
        for i in x:
            g(i)
    elif z:
        pass
    return [a for a in b if a]
"""
BRACES = "if (a && b) { g(); } else if (c) { while (d) { h(); } } else if (e) { } "
SWITCH = "switch (a) { case 1: break; default: return a ? 1 : 2; }"
GO = "if a && b { g() } else if c { for { h() } } else if d { }\n switch a {\n case 1: return 1\n default: return 2 }"
RUST = "if a && b { g(); } else if c { loop { h(); } } else if d { } match a { 1 => 2, _ => 3 }"
PROGRAMS = {  # language: a program, and its cyclomatic complexity, nesting, branches, definitions, calls
    "python": (PYTHON, [7, 2, 5, 1, 1]),
    "javascript": ("function f(a) {" + BRACES + SWITCH + "}", [8, 2, 6, 1, 2]),
    "typescript": ("function f(a: number) {" + BRACES + SWITCH + "}", [8, 2, 6, 1, 2]),
    "java": ("class A { int f(int a) {" + BRACES + SWITCH + "} }", [8, 2, 6, 2, 2]),
    "c": ("int f(int a) {" + BRACES + SWITCH + "}", [8, 2, 6, 1, 2]),
    "cpp": ("int f(int a) {" + BRACES + SWITCH + "}", [8, 2, 6, 1, 2]),
    "go": ("package a\nfunc f(a int) int {" + GO + "}", [7, 2, 5, 1, 2]),
    "rust": ("fn f(a: i32) -> i32 {" + RUST + "}", [8, 2, 6, 1, 2]),
}
SCORES = ("cyclomatic", "nesting", "branches", "definitions", "calls")


@pytest.mark.parametrize("language", PROGRAMS)
def test_the_complexity_of_a_program_is_counted_in_its_syntax_tree(language: str) -> None:
    program, expected = PROGRAMS[language]
    answer = scores_of("code_complexity", {"language": language}, text=[program, "", ")) ?? ]] ¿¿ ] }"])
    assert [answer[f"code_complexity_{score}"] for score in SCORES] == [[count, None, None] for count in expected]
    assert answer["code_complexity_calls.state"] == ["ok", "not_applicable", "not_applicable"]


def walked(source: str) -> list[int]:
    """The same counts by Python's own parser."""
    nodes = list(ast.walk(ast.parse(source)))

    def number(*kinds: type[ast.AST]) -> int:
        return sum(isinstance(node, kinds) for node in nodes)

    loops = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.comprehension, ast.match_case)
    branches = number(*loops) + sum(len(node.ifs) for node in nodes if isinstance(node, ast.comprehension))
    logical = sum(len(node.values) - 1 for node in nodes if isinstance(node, ast.BoolOp))
    definitions = number(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    return [1 + branches + logical, branches, definitions]


def test_python_is_counted_as_its_own_parser_does() -> None:
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = [(library / name).read_text("utf-8") for name in ("ast.py", "bisect.py", "heapq.py", "textwrap.py")]
    answer = scores_of("code_complexity", text=sources)
    for i, source in enumerate(sources):
        counted = [answer[f"code_complexity_{score}"][i] for score in ("cyclomatic", "branches", "definitions")]
        assert counted == walked(source)


def test_a_program_that_breaks_off_still_has_counts() -> None:
    assert scores_of("code_complexity", text=[PYTHON[:60]])["code_complexity_branches"] == [2]


def test_a_missing_grammar_stops_the_run_and_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    rater: Any = plugins.make("raters", "code_complexity", {"language": "go"}, "rate.0", object)
    parser_of.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "tree_sitter_go", None)
    with pytest.raises(PolicyError, match=r'tree_sitter_go is not installed\. Type: pip install "selector\[code\]"'):
        rater.prepare()
