"""What repeats within texts: lines, paragraphs and runs of words, counted for a whole batch at once."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from selector.exact import Ints
from selector.rate._words import Words, sums


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """The pieces that texts were split into: lines or paragraphs, one text after another."""

    pieces: pl.Series
    counts: Ints  # of pieces, for each text

    @property
    def owners(self) -> Ints:
        """The text of each piece."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def number(self, is_so: pl.Series) -> Ints:
        """For each text the pieces of which something is so."""
        return sums(is_so.to_numpy().astype(np.int64), self.counts)

    def kept(self, is_so: pl.Series) -> "Pieces":
        """Only the pieces of which something is so."""
        return Pieces(pieces=self.pieces.filter(is_so), counts=self.number(is_so))

    def repeated(self) -> tuple[Ints, Ints]:
        """For each text the pieces that it has had before, and their characters."""
        codes = self.pieces.to_arrow().dictionary_encode().indices.to_numpy().astype(np.int64)
        again = ~_is_first(self.owners * np.int64(codes.max(initial=0) + 1) + codes)
        lengths = self.pieces.str.len_chars().to_numpy().astype(np.int64)
        return sums(again.astype(np.int64), self.counts), sums(np.where(again, lengths, 0), self.counts)


def pieces_of(texts: pl.Series, separator: str = "\n") -> Pieces:
    """The texts split at a separator. What follows the last one is a piece too, empty or not."""
    lists = texts.str.split(separator)
    return Pieces(pieces=lists.explode(), counts=lists.list.len().to_numpy().astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Every run of so many words of texts. Runs of two texts are never the same one."""

    length: int
    starts: Ints  # the place of the first word of each
    codes: Ints  # equal for equal runs of one text

    @classmethod
    def of(cls, words: Words) -> "Runs":
        """The runs of one word."""
        owners = np.repeat(np.arange(len(words.counts)), words.counts)
        _, codes = np.unique(owners * np.int64(max(1, len(words.vocabulary))) + words.codes, return_inverse=True)
        return cls(length=1, starts=np.arange(len(owners)), codes=codes.astype(np.int64))

    def longer(self, words: Words, single: "Runs") -> "Runs":
        """Of these runs with the word after each, those that do not end beyond their text."""
        ends = np.repeat(np.cumsum(words.counts), words.counts)
        inside = self.starts + self.length < ends[self.starts]
        starts, codes = self.starts[inside], self.codes[inside]
        added = single.codes[starts + self.length]
        _, codes = np.unique(codes * np.int64(single.codes.max(initial=0) + 1) + added, return_inverse=True)
        return Runs(length=self.length + 1, starts=starts, codes=codes.astype(np.int64))

    def repeating(self) -> "Runs":
        """Those that occur more than once: only they can go on to longer ones that do."""
        again = np.bincount(self.codes, minlength=1)[self.codes] > 1
        return Runs(length=self.length, starts=self.starts[again], codes=self.codes[again])

    def most_frequent(self, owners: Ints, num_texts: int) -> tuple[Ints, Ints]:
        """For each text how often its most frequent run occurs, of several the first, and where that starts; 0 times
        where there is none."""
        _, firsts, counts = np.unique(self.codes, return_index=True, return_counts=True)
        starts = self.starts[firsts]
        order = np.lexsort((starts, -counts, owners[starts]))
        texts, best = np.unique(owners[starts[order]], return_index=True)
        times, places = np.zeros(num_texts, np.int64), np.zeros(num_texts, np.int64)
        times[texts], places[texts] = counts[order][best], starts[order][best]
        return times, places

    def repeated_places(self) -> Ints:
        """Where runs start that were read before in their text. Reading goes on behind each; what lies in it is not
        read again."""
        repeating = self.repeating()
        order = np.argsort(repeating.starts, kind="stable")
        read = set[int]()
        next_start, places = 0, list[int]()
        for start, code in zip(repeating.starts[order].tolist(), repeating.codes[order].tolist(), strict=True):
            if start < next_start:
                continue
            if code in read:
                places.append(start)
                next_start = start + self.length
            else:
                read.add(code)
        return np.array(places, np.int64)


def _is_first(keys: Ints) -> npt.NDArray[np.bool_]:
    is_first = np.zeros(len(keys), bool)
    is_first[np.unique(keys, return_index=True)[1]] = True
    return is_first
