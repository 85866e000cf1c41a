"""The rules by which Gopher, C4 and FineWeb keep a page of the web: the numbers that they look at, and their verdict.

Sources: Rae et al. 2021, "Scaling language models: methods, analysis & insights from training Gopher",
arXiv:2112.11446, appendix A.1.1 (`gopher_quality`, and `gopher_repetition` with its table A1); Raffel et al. 2020,
"Exploring the limits of transfer learning", JMLR 21:140, section 2.2 (`c4`); Penedo et al. 2024, "The FineWeb
datasets", arXiv:2406.17557, section 3.5 (`fineweb`). Thresholds are those that datatrove uses to reproduce them.

Each set of rules gives a label, the rater's name with that of the set after it: `kept`, or the first rule that the text
breaks. The numbers follow with the name of the rule after that. So a policy can apply a set as published (`where:
heuristics_c4 = 'kept'`) or with thresholds of its own (`where: heuristics_fineweb_short_lines < 0.8`).

Unit: shares between 0 and 1, but for `words`, `sentences` and `stop_words`, which are counts, `word_length` in
characters, `newlines` and `hashes` and `ellipses` by word. Range: 0 or more. A high value of a share of good things
(`letters`, `stop_words`, `punctuated_lines`, `lines`) means better, of `words` and `word_length` harder; of what
repeats or is broken off, rarer.

Where implementations differ: * Words are runs of letters, digits and what joins them, like "don't"; punctuation is
none. Libraries with other words move texts at the edge of a threshold, and so do those that count punctuation in "by
word", as datatrove does. * Gopher asks for two of its eight words (the, be, to, of, and, that, have, with): two
different ones, in any case. An older datatrove counted occurrences. * Characters of duplicated n-grams: reading goes on
behind a repeated one, so that none counts twice. * C4 removes lines, and then pages of fewer than `c4_sentences`
sentences; a rater leaves the text as it is, and says which page would be left. Its paper has at least 3 sentences and 5
words a line in one version, its code 5 and 3, as here. The list of bad words is not applied. * The share of characters
in duplicate lines is 0.1 in FineWeb's paper and 0.01 in its code, as here: `fineweb_duplicate_characters`. * A line
that ends in a quotation mark ends in punctuation for FineWeb, as for C4; lines of nothing but blanks do not count.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import Floats, Ints
from selector.rate import Meaning, Rater
from selector.rate._repeats import Pieces, Runs, pieces_of
from selector.rate._words import Words, sums, texts_of, words_of

_TOKEN = r"[\w\p{M}]+(?:['\u2019-][\w\p{M}]+)*|\.{2,}|[^\w\s]"
_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_BULLET, _ELLIPSIS_AT_END = r"^\s*[\u2022-]", r"(?:\.\.\.|\u2026)\s*$"
_C4_END, _C4_CITATION = r"[.?!\"']$", r"\[\d*\]|\[edit\]|\[citation needed\]"
_C4_DROPPED = r"(?i)javascript|terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies"
_SENTENCE = r"[.!?]+[\"'\u2019\u201d)\]]*(?:\s|$)"
_LONGEST_WORD = 1_000
_LINE_END = r"[\p{Sentence_Terminal}\"'\u2019\u201d]\s*$"
_SHORT_LINE = 30  # characters

_TOP = {2: 0.2, 3: 0.18, 4: 0.16}
_DUPLICATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1}

RuleSet = Literal["gopher_quality", "gopher_repetition", "c4", "fineweb"]
Is = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Heuristics(Rater):
    """Gopher's, C4's and FineWeb's rules: each set's verdict as a label, and the numbers that it looks at.

    `heuristics_gopher_quality`, `heuristics_gopher_repetition`, `heuristics_c4` and `heuristics_fineweb` are `kept` or
    the name of the first rule that is broken; `heuristics_c4_sentences` and so on are the numbers. The rules are those
    of English pages.
    """

    version = 2

    rules: tuple[RuleSet, ...] = ("gopher_quality", "gopher_repetition", "c4", "fineweb")
    c4_sentences: int = 5
    c4_words_per_line: int = 3
    fineweb_duplicate_characters: float = 0.01

    def __post_init__(self) -> None:
        if not self.rules or len(set(self.rules)) < len(self.rules):
            raise PolicyError(f"heuristics.rules is {list(self.rules)}: name each set of rules once, and one at least.")
        if self.fineweb_duplicate_characters <= 0:
            raise PolicyError(
                f"heuristics.fineweb_duplicate_characters is {self.fineweb_duplicate_characters}: pages are kept below"
                " it. Write a share above 0."
            )

    def scores(self, name: str) -> dict[str, Meaning]:
        meanings: dict[str, Meaning] = {}
        for rules in self.rules:
            meanings[f"{name}_{rules}"] = "label"
            meanings |= {f"{name}_{rules}_{rule}": meaning for rule, meaning in _MEANINGS[rules].items()}
        return meanings

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = texts_of(batch).str.replace_all("\r\n", "\n", literal=True)
        page = _Page(texts=texts, tokens=words_of(texts, _TOKEN), lines=pieces_of(texts))
        columns: dict[str, pa.Array] = {}
        for rules in self.rules:
            numbers, broken = _SETS[rules](self, page)
            names = np.array([*broken, "kept"])
            first = np.array([*broken.values(), np.ones(len(texts), bool)]).argmax(axis=0)
            columns[f"score_{rules}"] = pa.array(names[first].tolist(), pa.string())
            for rule in _MEANINGS[rules]:
                values = np.asarray(numbers[rule], np.float64)
                columns[f"score_{rules}_{rule}"] = pa.array(values, mask=np.isnan(values))
        return pa.record_batch(columns)


_MEANINGS: Mapping[str, Mapping[str, Meaning]] = {
    "gopher_quality": {
        "words": "harder",
        "word_length": "harder",
        "hashes": "rarer",
        "ellipses": "rarer",
        "bullet_lines": "rarer",
        "ellipsis_lines": "rarer",
        "letters": "better",
        "stop_words": "better",
    },
    "gopher_repetition": {
        "duplicate_paragraphs": "rarer",
        "duplicate_paragraph_characters": "rarer",
        "duplicate_lines": "rarer",
        "duplicate_line_characters": "rarer",
        **{f"top_{n}_gram": "rarer" for n in _TOP},
        **{f"duplicated_{n}_grams": "rarer" for n in _DUPLICATED},
    },
    "c4": {"sentences": "harder", "lines": "better"},
    "fineweb": {
        "punctuated_lines": "better",
        "short_lines": "rarer",
        "duplicate_characters": "rarer",
        "newlines": "rarer",
    },
}


@dataclass(frozen=True, kw_only=True)
class _Page:
    """The texts of a batch, and what several sets of rules look at."""

    texts: pl.Series
    tokens: Words
    lines: Pieces

    @property
    def is_word(self) -> Is:
        """Which tokens of the vocabulary are words, and not punctuation."""
        return pl.Series(self.tokens.vocabulary, dtype=pl.String).str.contains(r"\w").to_numpy()

    @property
    def num_words(self) -> Ints:
        return self.tokens.totals(self.is_word.astype(np.int64))

    def count(self, pattern: str) -> Ints:
        """How often each text matches."""
        return self.texts.str.count_matches(pattern).to_numpy().astype(np.int64)


Verdict = tuple[Mapping[str, Floats], Mapping[str, Is]]
"""The numbers by the names of rules; and which texts break a rule, by its name, in the order in which rules are looked
at."""


def _gopher_quality(_: Heuristics, page: _Page) -> Verdict:
    vocabulary = pl.Series(page.tokens.vocabulary, dtype=pl.String)
    is_word, num_words, lines = page.is_word, page.num_words, page.lines
    lengths = np.where(is_word, vocabulary.str.len_chars().to_numpy(), 0).astype(np.int64)
    has_letter = (vocabulary.str.contains(r"\p{L}").to_numpy() & is_word).astype(np.int64)
    lower = vocabulary.str.to_lowercase().to_list()
    place = {word: i for i, word in enumerate(_STOP_WORDS)}
    stops = np.array([place.get(word, -1) for word in lower], np.int64)
    stop_words = sum(np.minimum(page.tokens.totals((stops == i).astype(np.int64)), 1) for i in range(len(_STOP_WORDS)))
    num_lines = _lines_as_shown(page)
    bullets = lines.number(lines.pieces.str.contains(_BULLET))
    broken_off = lines.number(lines.pieces.str.contains(_ELLIPSIS_AT_END))
    numbers: dict[str, Floats] = {
        "words": num_words.astype(np.float64),
        "word_length": _share(page.tokens.totals(lengths), num_words),
        "hashes": _share(page.count("#"), num_words),
        "ellipses": _share(page.count(r"\.\.\.|\u2026"), num_words),
        "bullet_lines": _share(bullets, num_lines),
        "ellipsis_lines": _share(broken_off, num_lines),
        "letters": _share(page.tokens.totals(has_letter), num_words),
        "stop_words": np.asarray(stop_words, np.float64),
    }
    return numbers, {
        "words": (num_words < 50) | (num_words > 100_000),
        "word_length": (numbers["word_length"] < 3) | (numbers["word_length"] > 10),
        "hashes": numbers["hashes"] > 0.1,
        "ellipses": numbers["ellipses"] > 0.1,
        "bullet_lines": numbers["bullet_lines"] > 0.9,
        "ellipsis_lines": numbers["ellipsis_lines"] > 0.3,
        "letters": numbers["letters"] < 0.8,
        "stop_words": numbers["stop_words"] < 2,
    }


def _gopher_repetition(_: Heuristics, page: _Page) -> Verdict:
    stripped = page.texts.str.strip_chars()
    num_characters = page.texts.str.len_chars().to_numpy().astype(np.int64)
    numbers: dict[str, Floats] = {}
    broken: dict[str, Is] = {"empty": stripped.str.len_bytes().to_numpy() == 0}
    for name, pieces in (
        ("paragraph", pieces_of(stripped.str.replace_all(r"\n{2,}", "\n\n"), "\n\n")),
        ("line", pieces_of(stripped.str.replace_all(r"\n+", "\n"))),
    ):
        repeated, characters = pieces.repeated()
        numbers[f"duplicate_{name}s"] = _share(repeated, pieces.counts)
        numbers[f"duplicate_{name}_characters"] = _share(characters, num_characters)
        broken[f"duplicate_{name}s"] = numbers[f"duplicate_{name}s"] > 0.3
        broken[f"duplicate_{name}_characters"] = numbers[f"duplicate_{name}_characters"] > 0.2
    for name, share in _run_shares(page, num_characters).items():
        numbers[name] = share
        broken[name] = share > (_TOP | _DUPLICATED)[int(name.split("_")[1])]
    return numbers, broken


def _run_shares(page: _Page, num_characters: Ints) -> dict[str, Floats]:
    """The share of characters in the most frequent run of words, and in runs that were read before."""
    tokens = page.tokens
    owners = np.repeat(np.arange(len(tokens.counts)), tokens.counts)
    lengths = pl.Series(tokens.vocabulary, dtype=pl.String).str.len_chars().to_numpy().astype(np.int64)
    before = np.concatenate(([0], np.cumsum(lengths[tokens.codes])))  # characters of the tokens before each place
    shares: dict[str, Floats] = {}
    single = runs = Runs.of(tokens)
    for n in range(2, max(_DUPLICATED) + 1):
        runs = runs.longer(tokens, single)
        if n in _TOP:
            times, starts = runs.most_frequent(owners, len(tokens.counts))
            ends = np.minimum(starts + n, len(before) - 1)
            characters = times * (before[ends] - before[starts] + n - 1)
            shares[f"top_{n}_gram"] = _share(characters, num_characters)
        else:
            runs = runs.repeating()
            places = runs.repeated_places()
            characters = np.bincount(
                owners[places], weights=before[places + n] - before[places], minlength=len(tokens.counts)
            )
            shares[f"duplicated_{n}_grams"] = _share(characters, num_characters)
    return shares


def _c4(rater: Heuristics, page: _Page) -> Verdict:
    lines = Pieces(
        pieces=page.lines.pieces.str.replace_all(_C4_CITATION, "").str.strip_chars(), counts=page.lines.counts
    )
    text = lines.pieces
    is_kept = text.str.contains(_C4_END) & ~text.str.ends_with("...") & ~text.str.contains(_C4_DROPPED)
    is_kept &= text.str.count_matches(r"\S+") >= rater.c4_words_per_line
    is_kept &= ~_has_endless_word(text)
    is_line = text.str.len_bytes() > 0
    of_line = text.str.count_matches(_SENTENCE).to_numpy().astype(np.int64)
    sentences = sums(np.where(is_kept.to_numpy(), np.maximum(of_line, 1), 0), lines.counts)
    return {
        "sentences": sentences.astype(np.float64),
        "lines": _share(lines.number(is_kept), lines.number(is_line)),
    }, {
        "lorem_ipsum": page.texts.str.contains("(?i)lorem ipsum").to_numpy(),
        "curly_bracket": page.texts.str.contains("{", literal=True).to_numpy(),
        "sentences": sentences < rater.c4_sentences,
    }


def _has_endless_word(lines: pl.Series) -> pl.Series:
    """Whether some word of a line has more than a thousand characters."""
    long = lines.str.len_chars() > _LONGEST_WORD
    longest = lines.filter(long).str.extract_all(r"\S+").list.eval(pl.element().str.len_chars()).list.max()
    is_endless = np.zeros(len(lines), bool)
    is_endless[np.flatnonzero(long.to_numpy())] = (longest.fill_null(0) > _LONGEST_WORD).to_numpy()
    return pl.Series(is_endless)


def _fineweb(rater: Heuristics, page: _Page) -> Verdict:
    lines = page.lines.kept(page.lines.pieces.str.contains(r"\S"))
    _, characters = lines.repeated()
    newlines = page.count("\n")
    numbers: dict[str, Floats] = {
        "punctuated_lines": _share(lines.number(lines.pieces.str.contains(_LINE_END)), lines.counts),
        "short_lines": _share(lines.number(lines.pieces.str.len_chars() <= _SHORT_LINE), lines.counts),
        "duplicate_characters": _share(characters, page.texts.str.len_chars().to_numpy() - newlines),
        "newlines": _share(newlines, page.num_words),
    }
    return numbers, {
        "empty": lines.counts == 0,
        "punctuated_lines": numbers["punctuated_lines"] <= 0.12,
        "short_lines": numbers["short_lines"] >= 0.67,
        "duplicate_characters": numbers["duplicate_characters"] >= rater.fineweb_duplicate_characters,
        "newlines": ~(numbers["newlines"] <= 0.3),
    }


_SETS: Mapping[str, Callable[[Heuristics, _Page], Verdict]] = {
    "gopher_quality": _gopher_quality,
    "gopher_repetition": _gopher_repetition,
    "c4": _c4,
    "fineweb": _fineweb,
}


def _lines_as_shown(page: _Page) -> Ints:
    """The lines of each text; what follows the last line break is one only if there is something."""
    return page.lines.counts - page.texts.str.ends_with("\n").to_numpy()


def _share(part: Any, whole: Any) -> Floats:
    """A share, NaN of nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(whole) > 0, np.asarray(part) / np.asarray(whole), np.nan)
