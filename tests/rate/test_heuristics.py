"""Rules of Gopher, C4 and FineWeb, each on a text that keeps it and on one that breaks it; their numbers, by hand."""

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rated import scores_of
from selector import plugins
from selector.errors import PolicyError
from selector.plugins import Catalogue
from selector.testing import check_rater

SETS = ("gopher_quality", "gopher_repetition", "c4", "fineweb")


def verdicts(rules: str, texts: list[str], **options: Any) -> dict[str, list[Any]]:
    """The label of a set of rules and its numbers, without the prefix."""
    answer = scores_of("heuristics", {"rules": [rules], **options}, text=texts)
    return {name.removeprefix(f"heuristics_{rules}").removeprefix("_"): column for name, column in answer.items()}


def words(number: int, length: int = 5, stop: str = "the of") -> str:
    """So many words of mostly so many letters, no two alike, two of them stop words."""
    letters = ["".join(chr(97 + (i * 7 + k * (1 + i // 26)) % 26) for k in range(length)) for i in range(number)]
    return " ".join([*stop.split(), *letters][:number])


def padded(start: str, number: int = 60) -> str:
    return f"{start} the of {' '.join(f'word{i}x' for i in range(number))}"


QUALITY = [  # a text, and the first rule that it breaks
    (words(50), "kept"),
    (words(49), "words"),
    ("the of " + " ".join(f"w{i}" for i in range(10**5)), "words"),
    ("the of " + "ab " * 60, "word_length"),
    ("the of " + "abcdefghijk " * 90, "word_length"),
    (padded("# " * 6), "kept"),  # 6 of 62 words
    (padded("# " * 7), "hashes"),
    (padded("... " * 6), "kept"),
    (padded("\u2026 " * 7), "ellipses"),
    ("\n".join(["- one item"] * 9 + [words(50)]), "kept"),
    ("\n".join(["\u2022 one item"] * 19 + [words(50)]), "bullet_lines"),
    ("\n".join(["some line ..."] * 3 + ["some line that goes on and on"] * 7), "kept"),
    ("\n".join(["some line that goes on ..."] * 4 + ["some line that goes on and on"] * 6), "ellipsis_lines"),
    (words(40) + " 1234" * 10, "kept"),
    (words(39) + " 1234" * 11, "letters"),
    (words(60, stop="The WITH"), "kept"),
    (words(60, stop="the the"), "stop_words"),
    ("", "words"),
]


def test_gopher_quality_keeps_what_its_paper_keeps() -> None:
    answer = verdicts("gopher_quality", [text for text, _ in QUALITY])
    assert answer[""] == [verdict for _, verdict in QUALITY]
    assert answer["words"][0] == 50 and answer["words"][-1] == 0
    assert answer["word_length"][-1] is None and answer["word_length.state"][-1] == "not_applicable"


def distinct(number: int) -> str:
    return " ".join(f"w{i * 7919 % 100_000}q" for i in range(number))


REPETITION = [
    ("\n\n".join([distinct(40), "again", "again", "more"]), "kept"),
    ("\n\n".join([distinct(400), *["again"] * 2, *["more"] * 2]), "duplicate_paragraphs"),
    ("\n\n".join([distinct(60), "x" * 200, "x" * 200, "end"]), "duplicate_paragraph_characters"),
    ("\n".join([distinct(400), *["again"] * 2, *["more"] * 2]), "duplicate_lines"),
    ("\n".join([distinct(60), "x" * 200, "x" * 200, "end"]), "duplicate_line_characters"),
    (" ".join(f"so{i} very well" for i in range(30)), "top_2_gram"),
    (" ".join(f"{'much' * 5}{i} as it is" for i in range(40)), "top_3_gram"),
    (distinct(100) + " " + " ".join(f"and{i}rew some more of this" for i in range(14)), "top_4_gram"),
    (distinct(50) + " and " + distinct(50), "duplicated_5_grams"),
    (distinct(86) + " a b " + distinct(15), "kept"),
    (distinct(59) + " a b " + distinct(10), "duplicated_10_grams"),
    (" \n", "empty"),
]


def test_gopher_repetition_keeps_what_its_table_keeps() -> None:
    answer = verdicts("gopher_repetition", [text for text, _ in REPETITION])
    assert answer[""] == [verdict for _, verdict in REPETITION]


NUMBERED = "This is line {} of all. It has two sentences.\n"
C4 = [
    ("".join(map(NUMBERED.format, range(3))), "kept"),
    ("".join(map(NUMBERED.format, range(2))), "sentences"),
    ("\n".join(["Its line ends in no mark. Then. And. More. It"] * 3), "sentences"),
    ("\n".join(["It ends in three dots. One. Two. Three. Four..."] * 3), "sentences"),
    ("\n".join(['He asked "why?"', "Said I 'so'", "It is so!", "Is it so?", "It is so."]), "kept"),
    ("\n".join(["Two words."] * 9), "sentences"),
    ("\n".join(["Please enable JavaScript. Now. Do. It. Please."] * 3), "sentences"),
    ("\n".join(["We use cookies. Now. Do. It. Please."] * 3), "sentences"),
    ("\n".join(["See our Terms of Use. Now. Do. It. Please."] * 3), "sentences"),
    ("It has " + "x" * 1001 + ". One. Two. Three. Four. Five.", "sentences"),
    ("It has " + "x" * 999 + ". One. Two. Three. Four. Five.", "kept"),
    ("He was born in 3.14 degrees.[3] One. Two. Three. Four.[edit]", "kept"),
    ("".join(map(NUMBERED.format, range(9))) + "Lorem Ipsum dolor", "lorem_ipsum"),
    ("".join(map(NUMBERED.format, range(9))) + "f() {", "curly_bracket"),
    ("", "sentences"),
]


def test_c4_keeps_the_pages_that_its_code_keeps() -> None:
    answer = verdicts("c4", [text for text, _ in C4])
    assert answer[""] == [verdict for _, verdict in C4]
    assert answer["sentences"][:3] == [6, 4, 0] and answer["lines"][:3] == [1, 1, 0]
    paper = verdicts("c4", [C4[1][0], "One two three. " * 9], c4_sentences=3, c4_words_per_line=5)
    assert paper[""] == ["kept", "kept"]
    assert verdicts("c4", ["One two three four.\n" * 9], c4_words_per_line=5)[""] == ["sentences"]


LONG = "a line of more than thirty characters, number {}{}"
FINEWEB = [
    ("\n".join(LONG.format(i, "." if i < 13 else "") for i in range(100)), "kept"),
    ("\n".join(LONG.format(i, "." if i < 12 else "") for i in range(100)), "punctuated_lines"),  # exactly .12
    ("\n".join(LONG.format(i, "!") if i >= 66 else f"short {i}." for i in range(100)), "kept"),
    ("\n".join(LONG.format(i, "!") if i >= 67 else f"short {i}." for i in range(100)), "short_lines"),
    ("\n".join([*(LONG.format(i, "?") for i in range(110)), LONG.format(3, "?")]), "kept"),
    ("\n".join([*(LONG.format(i, "?") for i in range(90)), LONG.format(3, "?")]), "duplicate_characters"),
    ("\n".join(f"{'x' * 40}{i} and." for i in range(9)), "newlines"),
    ("\n".join(LONG.format(i, ".\"\u201d' "[i % 4] if i < 17 else "") for i in range(100)), "kept"),  # 13 with a mark
    ("これは長い長い長い長い長い長い長い長い長い長い長い長い一行です。", "kept"),
    (" \n", "empty"),
]


def test_fineweb_keeps_what_its_code_keeps() -> None:
    answer = verdicts("fineweb", [text for text, _ in FINEWEB])
    assert answer[""] == [verdict for _, verdict in FINEWEB]
    assert answer["punctuated_lines"][1] == pytest.approx(0.12)
    paper = verdicts("fineweb", [FINEWEB[5][0]], fineweb_duplicate_characters=0.1)
    assert paper[""] == ["kept"]


# ---------------------------------------------------------------- the numbers, counted by hand


def tokens_of(text: str) -> list[str]:
    return re.findall(r"\w+(?:['\u2019-]\w+)*|\.{2,}|[^\w\s]", text)


def repeated(pieces: list[str]) -> tuple[float, int]:
    again = [piece for i, piece in enumerate(pieces) if piece in pieces[:i]]
    return len(again) / len(pieces), sum(map(len, again))


def top(tokens: list[str], n: int) -> int:
    runs = [" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return (
        len(max(runs, key=lambda run: (Counter(runs)[run], -runs.index(run)))) * max(Counter(runs).values())
        if runs
        else 0
    )


def read_before(tokens: list[str], n: int) -> int:
    total, i, read = 0, 0, set[tuple[str, ...]]()
    while i <= len(tokens) - n:
        run = tuple(tokens[i : i + n])
        total += sum(map(len, run)) if run in read else 0
        i += n if run in read else 1
        read.add(run)
    return total


PARTS = st.sampled_from(["a", "b", "cc", "d-d", ".", "...", "\n", "\n\n", "e e", "f a b cc a"])


@pytest.mark.slow
@given(st.lists(st.lists(PARTS, min_size=1, max_size=60), min_size=1, max_size=4))
def test_numbers_of_repetition_are_those_counted_one_text_at_a_time(parts: list[list[str]]) -> None:
    texts = [" ".join(part).replace(" \n ", "\n") for part in parts]
    answer = verdicts("gopher_repetition", texts)
    for row, text in enumerate(texts):
        tokens, size = tokens_of(text), len(text)
        lines, characters = repeated(re.split(r"\n+", text.strip()))
        paragraphs, of_paragraphs = repeated(re.split(r"\n{2,}", text.strip()))
        expected: dict[str, float] = {
            "duplicate_lines": lines,
            "duplicate_line_characters": characters / size,
            "duplicate_paragraphs": paragraphs,
            "duplicate_paragraph_characters": of_paragraphs / size,
            **{f"top_{n}_gram": top(tokens, n) / size for n in (2, 3, 4)},
            **{f"duplicated_{n}_grams": read_before(tokens, n) / size for n in (5, 6, 7, 8, 9, 10)},
        }
        assert {name: answer[name][row] for name in expected} == pytest.approx(expected, rel=2e-6)


def test_a_set_of_rules_is_named_once_and_its_scores_are_columns() -> None:
    rater: Any = plugins.make("raters", "heuristics", {"rules": ["c4"]}, "rate.0", object)
    catalogue = Catalogue.of({"web": rater})
    assert sorted(catalogue.scores) == ["web_c4", "web_c4_lines", "web_c4_sentences"]
    with pytest.raises(PolicyError, match=r"rules is \['c4', 'c4'\]: name each set of rules once"):
        plugins.make("raters", "heuristics", {"rules": ["c4", "c4"]}, "rate.0", object)
    with pytest.raises(PolicyError, match=r"fineweb_duplicate_characters is 0\.0: pages are kept below it"):
        plugins.make("raters", "heuristics", {"fineweb_duplicate_characters": 0.0}, "rate.0", object)


@pytest.mark.slow
def test_every_set_of_rules_keeps_the_laws() -> None:
    check_rater("heuristics", examples=10, rules=SETS)
