"""How long a text is: its tokens under the declared tokenizer.

Where the tokenizer lets texts be cut into pieces whose tokens add up (`cuts` says where, and why), it is given each
piece once, which is looked up from then on: a language has few words. Other tokenizers are given whole texts.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.corpus.cuts import Cuts, Ints, cuts_of
from selector.engine import alive
from selector.errors import PolicyError, without_secrets
from selector.storage import local_path

KNOWN_PIECES = 1 << 17  # twice as many are remembered: some 40 MB
KNOWN_CHARACTERS = 32  # of a piece: longer ones are rarely met again
SLICE = 4 << 20  # characters at a time, unless one is longer
BATCH = 256  # texts that the tokenizer is given at a time
FEW = 64  # texts that are looked through for added tokens one by one
JOINED = 64  # pieces that it is given as one text, where a mark can stand between them


def find_tokenizer(declared: str | None, model: Path | None) -> Path:
    """The tokenizer.json that a policy declares, or else the embedding model's. Raises PolicyError if it is none."""
    path = Path(os.path.expanduser(local_path(declared) or declared)) if declared is not None else model
    assert path is not None, "without a declared tokenizer the model's is needed"
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise PolicyError(
            f"corpus.tokenizer: there is no tokenizer.json at {without_secrets(str(declared or path))!r}. Give the "
            "file, or the folder it is in."
        )
    _load(str(file), sha256_of(file))
    return file


def sha256_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@functools.cache
def _load(file: str, sha256: str) -> "TokenCounter":
    from tokenizers import Tokenizer

    data = Path(file).read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise PolicyError(
            f"corpus.tokenizer: {file} is not, or no longer, what the run was planned with. Run the same command again."
        )
    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # tokenizers raises nothing more precise
        raise PolicyError(
            f"corpus.tokenizer: {file!r} is not a tokenizer: {error}. Give a tokenizer.json as tokenizers saves it."
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return TokenCounter(tokenizer)


def count_tokens(file: str, sha256: str, texts: Sequence[str]) -> Ints:
    """Tokens of each text, special ones not counted. Raises PolicyError if the file has another sha256."""
    return _load(file, sha256).count(texts)


class TokenCounter:
    """Counts tokens, and remembers a bounded number of pieces: that makes it fast, and never changes its answer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, int] = {}
        self._known_before: dict[str, int] = {}

    @functools.cached_property
    def _cuts(self) -> Cuts | None:
        return cuts_of(json.loads(self._tokenizer.to_str()))

    @functools.cached_property
    def _stop(self) -> tuple[str, int] | None:
        """The mark that may stand between pieces, and its token; None if it has not exactly one."""
        mark = self._cuts.stop if self._cuts else ""
        token: int | None = self._tokenizer.token_to_id(mark) if mark else None
        if token is None or self._tokenizer.encode(mark, add_special_tokens=False).ids != [token]:
            return None
        return mark, token

    def count(self, texts: Sequence[str]) -> Ints:
        """Tokens of each text, special ones not counted."""
        if self._cuts is None:
            return self._whole(texts)
        counts = [self._by_pieces(each, self._cuts) for each in _slices(texts)]
        return np.concatenate([np.zeros(0, np.int64), *counts])

    def _by_pieces(self, texts: Sequence[str], cuts: Cuts) -> Ints:
        """What `_whole` answers, as sums over pieces. Texts with added tokens in them are not cut."""
        column = pa.array(texts, pa.large_string())
        counts = np.zeros(len(texts), np.int64)
        is_whole = _holds(column, cuts)
        if is_whole.any():
            whole = np.flatnonzero(is_whole)
            counts[whole] = self._whole([texts[place] for place in whole.tolist()])
            rest = ["" if held else text for held, text in zip(is_whole.tolist(), texts, strict=True)]
            column = pa.array(rest, column.type)
        _, offsets, data = column.buffers()
        if data is None:
            return counts
        starts = np.frombuffer(offsets, np.int64)[: len(texts) + 1]
        values = np.frombuffer(data, np.uint8)[: starts[-1]]
        if cuts.is_caseless:
            values = _LOWER[values]
        places = cuts.places(values, starts)
        buffers = [None, pa.py_buffer(places), pa.py_buffer(values)]
        pieces = pa.Array.from_buffers(pa.large_string(), len(places) - 1, buffers).dictionary_encode()
        each = np.array(self._of_pieces(pieces.dictionary.to_pylist()), np.int64)[pieces.indices.to_numpy()]
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(each)])[np.searchsorted(places, starts)]
        return counts + np.diff(ends)

    def _of_pieces(self, pieces: list[str]) -> list[int]:
        known, known_before = self._known, self._known_before
        counts = [known.get(piece, -1) for piece in pieces]
        missing = [place for place, count in enumerate(counts) if count < 0]
        unknown: list[int] = []
        for place in missing:
            count = counts[place] = known_before.get(pieces[place], -1)
            if count < 0:
                unknown.append(place)
        for place, count in zip(unknown, self._of_new([pieces[place] for place in unknown]), strict=True):
            counts[place] = count
        for place in missing:
            if len(pieces[place]) <= KNOWN_CHARACTERS:
                if len(self._known) >= KNOWN_PIECES:
                    self._known_before, self._known = self._known, {}
                self._known[pieces[place]] = counts[place]
        return counts

    def _of_new(self, pieces: list[str]) -> list[int]:
        """What `_whole` answers, for pieces without added tokens."""
        if self._stop is None:
            return self._whole(pieces).tolist()
        mark, token = self._stop
        groups = [pieces[start : start + JOINED] for start in range(0, len(pieces), JOINED)]
        counts: list[int] = []
        joined = self._encoded([mark.join([*group, ""]) for group in groups])
        for encoding, group in zip(joined, groups, strict=True):
            stops = np.flatnonzero(np.array(encoding.ids, np.int64) == token)
            # As many as were put in, and each of those makes one: so no other is among them.
            is_clear = len(stops) == len(group)
            counts += (np.diff(stops, prepend=-1) - 1 if is_clear else self._whole(group)).tolist()
        return counts

    def _whole(self, texts: Sequence[str]) -> Ints:
        return np.fromiter((len(encoding) for encoding in self._encoded(texts)), np.int64, len(texts))

    def _encoded(self, texts: Sequence[str]) -> Iterator[Any]:
        for start in range(0, len(texts), BATCH):
            alive.sign()
            yield from self._tokenizer.encode_batch_fast(texts[start : start + BATCH], add_special_tokens=False)


_LOWER = np.frombuffer(bytes(range(256)).lower(), np.uint8)  # bytes.lower() lowers ASCII letters alone


def _holds(texts: pa.Array, cuts: Cuts) -> npt.NDArray[np.bool_]:
    """True for each text that holds an added token."""
    if not cuts.added:
        return np.zeros(len(texts), np.bool_)
    if len(texts) <= FEW:
        return _hold(texts.to_pylist(), cuts)
    import polars as pl

    series = pl.Series(texts)
    return series.str.contains_any(list(cuts.added), ascii_case_insensitive=cuts.is_caseless).to_numpy()


def _hold(texts: Sequence[str], cuts: Cuts) -> npt.NDArray[np.bool_]:
    """The same for few texts, which are looked through before polars has begun."""
    added = [_cased(token, cuts) for token in cuts.added]
    return np.array(
        [any(token in text for token in added) for text in (_cased(text, cuts) for text in texts)], np.bool_
    )


def _cased(text: str, cuts: Cuts) -> bytes:
    """The text in lower case as far as ASCII goes, where case means nothing."""
    data = text.encode()
    return data.lower() if cuts.is_caseless else data


def _slices(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in order, as many at a time as have about SLICE characters."""
    start = size = 0
    for place, text in enumerate(texts):
        size += len(text)
        if size >= SLICE:
            yield texts[start : place + 1]
            start, size = place + 1, 0
    if start < len(texts):
        yield texts[start:]
