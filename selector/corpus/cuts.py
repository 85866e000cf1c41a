r"""Where a text may be cut so that its tokens are those of its pieces: some tokenizers say it of themselves.

A tokenizer finds its added tokens, normalizes what is between them, splits that into words, and gives each word its
tokens. So a text without added tokens may be cut at a place where, whatever stands on both sides, (1) normalizing the
two sides apart gives what normalizing both together gives, and (2) a word always ends there, and no word depends on
what is beyond. All cuts here stand beside an ASCII character, or before a Chinese one.

For (1): the normalizers known here treat every character for itself; or decompose it (NFD, NFKD), which moves marks no
further than to the nearest character that is none; or compose it (NFC, NFKC), which joins nothing to an ASCII
character but marks that follow it, and none to white space. For (2), three kinds of words are known:

* White space ends words: a cut on either side of space, tab, line feed and carriage return. Other white space is left
  alone: BERT's normalizer drops some of it (vertical tabs), and joins what it parted.
* BERT also makes every punctuation mark a word: a cut on either side of those of ASCII, except where a normalizer might
  compose one with an accent. And its normalizer puts spaces around Chinese characters: a cut before U+4E00 to U+9FFF.
* The patterns of byte-level BPE (`PATTERNS`): a cut before a space that follows a visible ASCII character, and between
  an ASCII letter or digit and a tab, line feed, carriage return or ASCII punctuation mark, the apostrophe apart. No
  match of these patterns, and no part of one, can hold these two side by side; matches leave nothing out, so one
  starts at the cut; nothing looks back; and what looks ahead, `\s+(?!\S)`, looks at what follows white space only.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_WORDS_END = r"\s+(?!\S)|\s+"
_OF_CASES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = (
    # GPT-2: also what ByteLevel does by itself
    rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|{_WORDS_END}",
    # cl100k: GPT-4, Llama 3
    rf"{_OF_CASES}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_WORDS_END}",
    # Qwen 2
    rf"{_OF_CASES}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_WORDS_END}",
    # o200k: GPT-4o, Llama 4
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_OF_CASES}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_OF_CASES}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|{_WORDS_END}",
)

_SPACE = b" \t\n\r"
_ALNUM = bytes(code for code in range(128) if chr(code).isalnum())
_MARKS = bytes(code for code in range(33, 127) if code not in _ALNUM)
_OTHERS = bytes(code for code in range(256) if code not in _ALNUM + _MARKS + _SPACE)


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """A text without `added` in it may be cut between two bytes of UTF-8 where `before[one] & after[next]` is not 0."""

    before: Bytes
    after: Bytes
    at_chinese: bool = False
    is_caseless: bool = False
    """True if a text has the tokens of the same text in lower case, of which `added` are looked for in any case."""
    added: tuple[str, ...] = ()
    stop: str = ""
    """A mark that may stand between pieces: it is always a word for itself, and makes no added token. Empty: none."""

    def places(self, data: Bytes, starts: Ints) -> Ints:
        """Where the pieces of `data` start, ascending, and its end; `starts` has those of the texts, and the end."""
        is_cut = np.zeros(len(data) + 1, np.bool_)
        if len(data):
            np.not_equal(self.before[data[:-1]] & self.after[data[1:]], 0, out=is_cut[1:-1])
        if self.at_chinese:  # U+5000 to U+9FFF start with the bytes E5 to E9, and U+4E00 to U+4FFF with E4 B8 to E4 BF
            first = np.flatnonzero(data == 0xE4)
            is_cut[first[data[first + 1] >= 0xB8]] = True
        is_cut[starts] = True
        return np.flatnonzero(is_cut)


def cuts_of(tokenizer: dict[str, Any]) -> Cuts | None:
    """Where this tokenizer.json lets texts be cut; None if nothing is known of it, or it is not one of those above."""
    normalizer: dict[str, Any] = tokenizer["normalizer"] or {"type": "none"}
    pre_tokenizer: dict[str, Any] = tokenizer["pre_tokenizer"] or {"type": "none"}
    normalizers = _normalizers(normalizer)
    added = tokenizer["added_tokens"]
    is_literal = not normalizers or not any(token["normalized"] for token in added)
    if normalizers is None or not is_literal or not _is_plain(tokenizer["model"], tokenizer["post_processor"]):
        return None
    is_bert = normalizer["type"] == "BertNormalizer"
    at_chinese = is_bert and normalizer["handle_chinese_chars"]
    stop = ""
    if pre_tokenizer in ({"type": "WhitespaceSplit"}, {"type": "Whitespace"}):
        pairs = [(_ALNUM + _MARKS + _OTHERS, _SPACE), (_SPACE, _ALNUM + _MARKS + _OTHERS)]
    elif pre_tokenizer == {"type": "BertPreTokenizer"} and not normalizers & {"NFC", "NFKC"}:
        # White space has no tokens: it stays in one piece, which is one to look up.
        pairs = [
            (bytes(range(256)), _MARKS),
            (_MARKS, bytes(range(256))),
            (_ALNUM + _OTHERS, _SPACE),
            (_SPACE, _ALNUM + _OTHERS),
        ]
        stop = "!"
    elif _words_by_pattern(pre_tokenizer) and normalizers <= {"NFC"}:
        ends = bytes(set(_MARKS) - set(b"'<=>"))  # NFC makes symbols of <, = and > and a mark
        pairs = [(_ALNUM, _SPACE + ends), (_MARKS, b" ")]
        at_chinese = False
    else:
        return None
    before, after = np.zeros(256, np.uint8), np.zeros(256, np.uint8)
    for bit, (one, following) in enumerate(pairs):
        before[list(one)] |= 1 << bit
        after[list(following)] |= 1 << bit
    if at_chinese:
        before[:] |= 128
        after[0xE5:0xEA] |= 128
    return Cuts(
        before=before,
        after=after,
        at_chinese=at_chinese,
        is_caseless=is_bert and normalizer["lowercase"],
        added=tuple(token["content"] for token in added if token["content"]),
        stop="" if any(stop in token["content"] for token in added) else stop,
    )


def _normalizers(normalizer: dict[str, Any]) -> set[str] | None:
    """The names of all normalizers in one; None if one of them is not known."""
    kind = normalizer["type"]
    if kind == "Sequence":
        inner = [_normalizers(each) for each in normalizer["normalizers"]]
        return None if None in inner else {name for names in inner for name in names or ()}
    options = set(normalizer) - {"type"}
    if kind == "BertNormalizer":
        return {kind} if options == {"clean_text", "handle_chinese_chars", "strip_accents", "lowercase"} else None
    if kind in ("Lowercase", "StripAccents", "NFC", "NFD", "NFKC", "NFKD") and not options:
        return {kind}
    return set() if kind == "none" else None


def _words_by_pattern(pre_tokenizer: dict[str, Any]) -> str | None:
    """The pattern by which a byte-level pre-tokenizer finds words; None if it is none, or does more than that."""
    steps: list[dict[str, Any]] = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    *splits, last = ({key: value for key, value in step.items() if key != "trim_offsets"} for step in steps)
    by_itself: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    if not splits:
        return PATTERNS[0] if last == by_itself else None
    for pattern in PATTERNS:
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        if splits == [split] and last == by_itself | {"use_regex": False}:
            return pattern
    return None


def _is_plain(model: dict[str, Any], post_processor: dict[str, Any] | None) -> bool:
    """True if every word has its tokens for itself, always the same, and a text has those of its words, once."""
    kind = model["type"]
    if kind not in ("WordPiece", "WordLevel", "BPE") or (kind == "BPE" and model["dropout"]):
        return False
    if post_processor is None:
        return True
    if post_processor["type"] == "Sequence":
        return all(_is_plain(model, each) for each in post_processor["processors"])
    if post_processor["type"] == "TemplateProcessing":
        sequences = [piece["Sequence"]["id"] for piece in post_processor["single"] if "Sequence" in piece]
        return sequences == ["A"]
    return post_processor["type"] in ("BertProcessing", "RobertaProcessing", "ByteLevel")
