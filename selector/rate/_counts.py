"""Text as numbers: about fifty counts of a text, from which a fitted rater learns beside its embedding.

A row of numbers depends on its own text alone: sums are of whole numbers, and the only functions are `exact.log` and
division. Lengths are logarithms, all else is a share of the words or of the characters. How common words are is told by
a list of words, the commonest first: that of a tokenizer's vocabulary, which training made in about that order.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from selector.exact import Floats, Ints, log

_WORD = r"\p{L}[\p{L}\p{M}'\u2019-]*"
_SENTENCE = r"[.!?]+(?:\s|$)"
_RANK_UNITS = 1 << 10  # a word's logarithm is a whole number of these
_RARE = (8.0, 9.0, 10.0)  # logarithms of the rank above which a word is uncommon, rare and very rare
_RAREST = 3  # words of a text whose mean is taken

# Of the text, by the name of the count: how often the pattern is there, for each word.
_IN_TEXT = {
    "commas": ",",
    "semicolons": ";",
    "colons": ":",
    "questions": r"\?",
    "exclamations": "!",
    "brackets": r"[(\[]",
    "quotes": '["\u201c\u201d]',
    "apostrophes": "['\u2019]",
    "dashes": "[-\u2013\u2014]",
    "line breaks": "\n",
    "numbers": r"\d+",
    "capitalised words": r"\b\p{Lu}\p{Ll}+",
    "words in capitals": r"\b\p{Lu}{2,}\b",
}

# Of each word, in lower case: whether the whole of it matches.
_OF_WORDS = {
    "function words": "the|a|an|of|to|in|and|is|was|for|on|that|with|as|by|it|at|from|are|be|this|have|or|which|he|his"
    "|they|but|not|were|has|had|their|its",
    "pronouns": "i|you|we|he|she|they|me|my|your|our",
    "lone i": "i",
    "subordinators": "because|although|though|while|whereas|since|unless|if|when|that|which|who|whose|whom|where",
    "connectives": "however|therefore|thus|moreover|furthermore|example|instance|first|second|then|also|result|due",
    "modals": "can|could|may|might|must|should|would|will|shall",
    "negations": "not|no|never|none|nor|.*n['\u2019]t",
    "forms of be": "is|are|was|were|be|been|being",
    "prepositions": "of|in|to|for|on|with|at|by|from|into|through|between|during|among|within|against|under|over",
    "ending in ing": r".{3,}ing",
    "ending in ed": r".{2,}ed",
    "abstract nouns": r".+(?:tion|sion|ment|ness|ity|ism|ance|ence)s?",
    "ending in ly": r".{2,}ly",
}
_PATTERNS = [re.compile(pattern) for pattern in _OF_WORDS.values()]
_VOWELS = re.compile(r"[aeiouy]+")

NAMES = (
    "log characters", "log words", "log sentences", "log words per sentence", "characters per word",
    "deviation of characters per word", "longest word", "syllables per word", "words of 7 or more",
    "words of 10 or more", "words of 3 or more syllables", "words of 3 or fewer", "different words", "log numbers",
    "digits per character", "begins with a capital", "ends as a sentence does", "mean rarity", "deviation of rarity",
    "greatest rarity", "mean rarity of the rarest three", "log rare words", "uncommon words", "rare words",
    "very rare words", *_IN_TEXT, *_OF_WORDS,
)  # fmt: skip
"""What is counted, a column each."""


@dataclass(frozen=True, kw_only=True)
class KnownWords:
    """Words in lower case, the commonest first: how rare a word is."""

    words: tuple[str, ...]

    @classmethod
    def of_tokenizer(cls, tokenizer: str) -> "KnownWords":
        """The whole words of a tokenizer, given as what its tokenizer.json says, in the order of its vocabulary."""
        model: Mapping[str, Any] = json.loads(tokenizer)["model"]
        vocabulary: Any = model["vocab"]
        if isinstance(vocabulary, list):  # of a unigram model: pairs of piece and score, the likeliest first
            vocabulary = {pair[0]: place for place, pair in enumerate(vocabulary)}
        pieces: list[str] = sorted(vocabulary, key=vocabulary.__getitem__)
        begins = next((mark for mark in ("\u0120", "\u2581") if any(piece.startswith(mark) for piece in pieces)), "")
        whole = (piece.removeprefix(begins).lower() for piece in pieces if piece.startswith(begins))
        return cls(words=tuple(dict.fromkeys(word for word in whole if word.isalpha())))

    @functools.cached_property
    def ranks(self) -> dict[str, int]:
        """The logarithm of each word's place, in units."""
        places = log(np.arange(1, len(self.words) + 1, dtype=np.float64))
        return dict(zip(self.words, np.rint(places * _RANK_UNITS).astype(np.int64).tolist(), strict=True))

    @functools.cached_property
    def unknown(self) -> int:
        """The same of a word that is not in the list: as if it stood at twice its length."""
        return int(np.rint(log(np.array([2.0 * len(self.words) + 2]))[0] * _RANK_UNITS))


def counts(texts: pa.Array | Sequence[str], known: KnownWords) -> Floats:
    """The counts of each text, (n, len(NAMES)), in the order of `NAMES`. A text without words has a row like any."""
    text = pl.Series(texts, dtype=pl.String).fill_null("")
    words_of_each = text.str.to_lowercase().str.extract_all(_WORD)
    num_words = words_of_each.list.len().to_numpy().astype(np.int64)
    most = np.maximum(num_words, 1)
    words = words_of_each.explode().drop_nulls().to_arrow().dictionary_encode()
    owners = np.repeat(np.arange(len(num_words)), num_words)
    of_words = _of_words(tuple(words.dictionary.to_pylist()), known)[words.indices.to_numpy()]
    sums = np.zeros((len(num_words), of_words.shape[1]), np.int64)
    np.add.at(sums, owners, of_words)
    lengths, syllables, ranks = of_words[:, 0], of_words[:, 1], of_words[:, 2]
    greatest = np.zeros((len(num_words), 2), np.int64)
    np.maximum.at(greatest, owners, of_words[:, [0, 2]])
    squares = np.zeros((len(num_words), 2), np.int64)
    np.add.at(squares, owners, np.stack([lengths**2, ranks**2], axis=1))
    many = np.zeros((len(num_words), 4 + len(_RARE)), np.int64)
    borders = [lengths >= 7, lengths >= 10, syllables >= 3, lengths <= 3]
    borders += [ranks > rare * _RANK_UNITS for rare in _RARE]
    np.add.at(many, owners, np.stack(borders, axis=1).astype(np.int64))

    characters = text.str.len_chars().to_numpy().astype(np.int64)
    sentences = np.maximum(_matches(text, _SENTENCE), 1)
    numbers, digits = _matches(text, r"\d+"), _matches(text, r"\d")
    columns = [
        _log(characters), _log(num_words), _log(sentences), _log(num_words / sentences), sums[:, 0] / most,
        _deviation(sums[:, 0], squares[:, 0], most), greatest[:, 0], sums[:, 1] / most,
        *(many[:, :4] / most[:, None]).T, words_of_each.list.n_unique().to_numpy() / most, _log(numbers),
        digits / np.maximum(characters, 1), _matches(text, r"^\s*\p{Lu}"), _matches(text, "[.!?][\"\u201d')]*\\s*$"),
        sums[:, 2] / most / _RANK_UNITS, _deviation(sums[:, 2], squares[:, 1], most) / _RANK_UNITS,
        greatest[:, 1] / _RANK_UNITS, _rarest(ranks, num_words) / _RANK_UNITS, _log(many[:, 5]),
        *(many[:, 4:] / most[:, None]).T,
        *(_matches(text, pattern) / most for pattern in _IN_TEXT.values()), *(sums[:, 3:] / most[:, None]).T,
    ]  # fmt: skip
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=1)


def _of_words(words: Sequence[str], known: KnownWords) -> Ints:
    """Of each different word: its characters, its syllables about, its rank, and which kinds of words it is."""
    rows = [
        (
            len(word),
            len(_VOWELS.findall(word)),
            known.ranks.get(word, known.unknown),
            *(pattern.fullmatch(word) is not None for pattern in _PATTERNS),
        )
        for word in words
    ]
    return np.array(rows, np.int64).reshape(len(rows), 3 + len(_PATTERNS))


def _rarest(ranks: Ints, num_words: Ints) -> Floats:
    """The mean rank of the rarest words of each text, 0 of one without words."""
    owners = np.repeat(np.arange(len(num_words)), num_words)
    falling = ranks[np.lexsort((-ranks, owners))]
    within = np.arange(len(ranks)) - np.repeat(np.cumsum(num_words) - num_words, num_words)
    sums = np.zeros(len(num_words), np.int64)
    np.add.at(sums, owners[within < _RAREST], falling[within < _RAREST])
    return sums / np.maximum(np.minimum(num_words, _RAREST), 1)


def _matches(text: pl.Series, pattern: str) -> Ints:
    return text.str.count_matches(pattern).to_numpy().astype(np.int64)


def _log(values: Any) -> Floats:
    return log(np.asarray(values, np.float64) + 1)


def _deviation(sums: Ints, squares: Ints, num: Ints) -> Floats:
    """The standard deviation, from sums of whole numbers."""
    return np.sqrt(np.maximum(squares / num - (sums / num) ** 2, 0))
