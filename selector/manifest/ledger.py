"""What the rows of a manifest add up to: `commit` writes it down, `verify` works it out again.

Rows go in part by part: what became of each document, then the visits in position order, then those that are not made,
and the index. Out come the counts, the phases and the order digest, and a sentence for everything that does not add up.
Memory is 5 bytes per row of the corpus.

The order digest, so that any language can check it: a row is the bytes of position (int64), doc_id (16
bytes), visit (uint16), phase (uint16 length, then UTF-8) and loss_weight (float32), little-endian. A leaf
is blake2b-256 over a zero byte and the rows of 65,536 consecutive positions; a node is blake2b-256 over a
one byte and its two children, an odd child moves up unchanged; the digest is the root in hex. An order
without visits has one leaf, over no rows. So equal first leaves prove an equal beginning.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.exact import keyed
from selector.tables import OUTCOMES

LEAF_ROWS = 65_536

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

_KEPT = OUTCOMES.index("kept")
_WITH_REASON = tuple(outcome not in ("kept", "duplicate") for outcome in OUTCOMES)
_UNDECIDED = 255
_ZERO = np.uint64(0)


class Ledger:
    """The account of one manifest over the corpus whose files are a table of `tables.FILES`."""

    def __init__(self, files: pa.Table) -> None:
        self._sizes: Int64 = files["num_rows"].fill_null(0).to_numpy()
        self._starts = np.cumsum(self._sizes) - self._sizes
        num_rows = int(self._sizes.sum())
        self._outcome = np.full(num_rows, _UNDECIDED, np.uint8)  # of each row of the corpus: an index into OUTCOMES
        self._count = np.zeros(num_rows, np.uint16)  # its visits so far
        self._visited = np.zeros(num_rows, np.bool_)
        self._left = np.zeros(num_rows, np.bool_)  # whether the order leaves it
        self._last_decided = -1  # the row of the corpus that the last decision is about
        self._kept_ids = 0  # a sum over the pairs of doc_id and place in the corpus, of those kept
        self._placed_ids = 0  # the same of those visited, or left and never visited
        self._outcomes = np.zeros(len(OUTCOMES), np.int64)  # documents that met each outcome
        self._visit_ids = 0  # a sum over the pairs of doc_id and position, of the visits
        self._listed_ids = 0  # the same of ids.parquet
        self._last_listed = (-1, -1)  # the last row of ids.parquet
        self._num_listed = 0
        self._leaves: list[str] = []
        self._leaf = hashlib.blake2b(b"\0", digest_size=32)
        self.num_visits = 0
        self.num_tokens = 0
        self.num_left = 0
        self.reasons: Counter[str] = (
            Counter()
        )  # documents left out, marked or quarantined, by the template of the reason
        self.phases: list[dict[str, Any]] = []
        self.problems: list[str] = []

    def decide(self, decisions: pa.Table) -> None:
        """Takes in what became of the next documents of the corpus, in its order: `tables.DECISIONS`."""
        decisions = decisions.unify_dictionaries().combine_chunks()
        places = self._places(decisions, "The decisions")
        if places is None or not len(places):
            return
        if np.any(self._outcome[places] != _UNDECIDED) or np.any(np.diff(np.sort(places)) == 0):
            self.problems.append("The decisions have two rows for one row of the corpus.")
        elif np.any(np.diff(places, prepend=self._last_decided) < 0):
            self.problems.append("The decisions are not in the order of the corpus.")
        self._last_decided = int(places[-1])
        names, codes = labels(decisions["outcome"])
        if not set(names) <= set(OUTCOMES):
            unknown = sorted(set(names) - set(OUTCOMES))
            self.problems.append(f"The decisions have outcomes that there are not: {unknown}.")
            return
        outcome = np.array([OUTCOMES.index(name) for name in names], np.uint8)[codes]
        self._outcome[places] = outcome
        self._outcomes += np.bincount(outcome, minlength=len(OUTCOMES))
        self._kept_ids += _sum_of_pairs(
            decisions["doc_id"].filter(pa.array(outcome == _KEPT)), places[outcome == _KEPT]
        )
        names, codes = labels(decisions["reason"])
        counts = np.bincount(codes[np.array(_WITH_REASON)[outcome]], minlength=len(names))
        self.reasons.update({name: count for name, count in zip(names, counts.tolist(), strict=True) if count})

    def visit(self, rows: pa.Table) -> None:
        """Takes in the next visits: `tables.MANIFEST`, any number of rows."""
        rows = rows.unify_dictionaries().combine_chunks()
        while rows.num_rows:
            room = LEAF_ROWS - self.num_visits % LEAF_ROWS
            self._visit(rows.slice(0, room))
            rows = rows.slice(room)

    def leave(self, unvisited: pa.Table) -> None:
        """Takes in what the order does not visit, `tables.UNVISITED`, once all visits were taken in."""
        places = self._places(unvisited, "The rows of unvisited.parquet")
        self.num_left += unvisited.num_rows
        if places is None:
            return
        self._left[places] = True
        once, rows = np.unique(places, return_index=True)
        never = ~self._visited[once]
        self._placed_ids += _sum_of_pairs(unvisited["doc_id"].take(pa.array(rows[never])), once[never])

    def look_up(self, ids: pa.Table) -> None:
        """Takes in the next rows of ids.parquet: `tables.IDS`."""
        if not ids.num_rows:
            return
        prefixes, positions = ids["prefix"].to_numpy(), ids["position"].to_numpy()
        same, ahead = prefixes[1:] == prefixes[:-1], prefixes[1:] > prefixes[:-1]
        first = (int(prefixes[0]), int(positions[0]))
        if first <= self._last_listed or not np.all(ahead | (same & (positions[1:] > positions[:-1]))):
            self.problems.append("The rows of ids.parquet are not sorted.")
        self._last_listed = (int(prefixes[-1]), int(positions[-1]))
        self._num_listed += ids.num_rows
        self._listed_ids += _sum_of_words(prefixes, positions)

    def reconcile(self) -> None:
        """Compares decisions, visits and what belongs to them, once all were taken in."""
        kept = self._outcome == _KEPT
        wrong = np.flatnonzero(np.where(kept, ~self._visited & ~self._left, self._visited))
        if len(wrong):
            self.problems.append(
                f"{len(wrong):,} documents were kept but never visited, or visited but not kept;"
                f" the first is {self._at(wrong[0])}."
            )
        elif np.any(self._left & ~kept):
            first = np.flatnonzero(self._left & ~kept)[0]
            self.problems.append(f"The order leaves a document that was not kept: {self._at(first)}.")
        elif (self._kept_ids - self._placed_ids) % 2**64:
            self.problems.append("The doc_ids of the visits are not those of the decisions.")
        if self._num_listed != self.num_visits or (self._visit_ids - self._listed_ids) % 2**64:
            self.problems.append("The rows of ids.parquet are not those of the visits.")

    def disagreements(self, told: Mapping[str, Any]) -> list[str]:
        """A sentence for each count that is not what the rows come to. Not all need be told."""
        counts: dict[str, Any] = {**self.counts(), **told}
        expected = self.counts()
        expected["quarantined"] += counts.get("rows", counts["documents"]) - counts["documents"]
        reasons: Mapping[str, int] | None = counts.pop("reasons", None)
        problems = [
            f"The count of {name} is {counts[name]:,}, and the rows come to {number:,}."
            for name, number in expected.items()
            if counts[name] != number
        ]
        if reasons is not None:
            number = sum(expected[name] for name, has_one in zip(OUTCOMES, _WITH_REASON, strict=True) if has_one)
            if sum(reasons.values()) != number:
                problems.append(f"The count of reasons is {sum(reasons.values()):,}, and the rows come to {number:,}.")
            problems += [
                f"The count of the reason {reason!r} is {reasons.get(reason, 0):,}, and the rows come to {number:,}."
                for reason, number in self.reasons.items()
                if reasons.get(reason, 0) < number
            ]
        return problems

    def leaf_digests(self) -> list[str]:
        """The digest of every 65,536 positions, in hex; the last leaf may have fewer."""
        is_open = self.num_visits % LEAF_ROWS or not self.num_visits
        return [*self._leaves, self._leaf.hexdigest()] if is_open else list(self._leaves)

    def counts(self) -> dict[str, int]:
        """Documents of the corpus, and how many met each outcome; visits and tokens of the manifest."""
        outcomes = dict(zip(OUTCOMES, self._outcomes.tolist(), strict=True))
        return {"documents": sum(outcomes.values()), **outcomes, "visits": self.num_visits, "tokens": self.num_tokens}

    def _visit(self, rows: pa.Table) -> None:
        """Takes in visits that do not reach beyond the leaf that is open."""
        first, where = self.num_visits, f"The visits from position {self.num_visits} on"
        if not np.array_equal(rows["position"].to_numpy(), np.arange(first, first + rows.num_rows)):
            self.problems.append(f"{where} are not numbered one after the other.")
        num_tokens = rows["num_tokens"].to_numpy().astype(np.int64)
        before = self.num_tokens + np.cumsum(num_tokens) - num_tokens
        if not np.array_equal(rows["token_start"].to_numpy(), before):
            self.problems.append(f"{where} have a token_start that is not the sum of the tokens before.")
        places = self._places(rows, where)
        if places is not None:
            visit = rows["visit"].to_numpy()
            if not np.array_equal(self._number(places), visit):
                self.problems.append(f"{where} do not count the visits of each document 0, 1, 2 and so on.")
            self._placed_ids += _sum_of_pairs(rows["doc_id"].filter(pa.array(visit == 0)), places[visit == 0])
        self._visit_ids += _sum_of_words(keyed.words(rows["doc_id"])[:, 0], rows["position"].to_numpy())
        self._extend_phases(rows, num_tokens)
        self._leaf.update(encode(rows).data)
        self.num_visits += rows.num_rows
        self.num_tokens += int(num_tokens.sum())
        if self.num_visits % LEAF_ROWS == 0:
            self._leaves.append(self._leaf.hexdigest())
            self._leaf = hashlib.blake2b(b"\0", digest_size=32)

    def _places(self, table: pa.Table, where: str) -> Int64 | None:
        """Where in the corpus each (file, row) is, counting the rows of all files; None if one is nowhere."""
        file, row = (table[name].to_numpy().astype(np.int64) for name in ("file", "row"))
        if np.any(file >= len(self._sizes)) or np.any(row >= self._sizes[file]):
            self.problems.append(f"{where} name a file or row that files.parquet does not have.")
            return None
        return self._starts[file] + row

    def _at(self, place: int) -> str:
        """Where a row of the corpus is, in words."""
        file = int(np.searchsorted(self._starts, place, side="right")) - 1
        return f"row {place - self._starts[file]} of file {file}"

    def _number(self, places: Int64) -> npt.NDArray[np.uint16]:
        """Which visit of its document each of these is, counted from 0; they are counted in."""
        order = np.argsort(places, kind="stable")
        at = places[order]
        begins = np.flatnonzero(np.diff(at, prepend=-1))
        lengths = np.diff(begins, append=len(at))
        within = np.arange(len(at)) - np.repeat(begins, lengths)
        numbers = np.empty(len(at), np.uint16)
        numbers[order] = self._count[at] + within
        self._count[at[begins]] += lengths.astype(np.uint16)
        self._visited[places] = True
        return numbers

    def _extend_phases(self, rows: pa.Table, num_tokens: Int64) -> None:
        names, codes = labels(rows["phase"])
        begins = np.flatnonzero(np.diff(codes, prepend=-1))
        stretches = zip(
            codes[begins].tolist(),
            np.diff(begins, append=len(codes)).tolist(),
            np.add.reduceat(num_tokens, begins).tolist(),
            strict=True,
        )
        for begin, (code, length, tokens) in zip(begins.tolist(), stretches, strict=True):
            if not self.phases or self.phases[-1]["name"] != names[code]:
                first = self.num_visits + begin
                self.phases.append({"name": names[code], "first_position": first, "rows": 0, "tokens": 0})
            self.phases[-1]["rows"] += length
            self.phases[-1]["tokens"] += tokens


def encode(rows: pa.Table) -> npt.NDArray[np.uint8]:
    """The bytes of the rows that the order digest covers, one row after the other."""
    names, codes = labels(rows["phase"])
    phases = [name.encode() for name in names]
    lengths = np.array([len(phase) for phase in phases], np.int64)
    longest = max(len(phase) for phase in phases)
    titles = np.zeros((len(phases), 2 + longest), np.uint8)
    for title, phase in zip(titles, phases, strict=True):
        title[: 2 + len(phase)] = np.frombuffer(len(phase).to_bytes(2, "little") + phase, np.uint8)
    columns = [
        _bytes(rows["position"].to_numpy().astype("<i8")),
        _bytes(keyed.words(rows["doc_id"]).astype(">u8")),
        _bytes(rows["visit"].to_numpy().astype("<u2")),
        titles[codes],
        _bytes(rows["loss_weight"].to_numpy().astype("<f4")),
    ]
    encoded = np.concatenate(columns, axis=1)
    if np.all(lengths == longest):
        return encoded.reshape(-1)
    written = np.ones(encoded.shape, np.bool_)
    written[:, 28 : 28 + longest] = np.arange(longest) < lengths[codes, None]
    return encoded[written]


def root(leaf_digests: Sequence[str]) -> str:
    """The order digest of these leaves, in hex."""
    nodes = [bytes.fromhex(leaf) for leaf in leaf_digests]
    while len(nodes) > 1:
        pairs = [b"\1" + left + right for left, right in zip(nodes[::2], nodes[1::2], strict=False)]
        odd = nodes[-1:] if len(nodes) % 2 else []
        nodes = [hashlib.blake2b(pair, digest_size=32).digest() for pair in pairs] + odd
    return nodes[0].hex()


def labels(column: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int32]]:
    """The names in a column of `tables.LABEL`, and for each row the index of its name; null has the name ""."""
    column = column.combine_chunks()
    names = [name or "" for name in column.dictionary.to_pylist()]
    if column.null_count:
        return [*names, ""], column.indices.fill_null(len(names)).to_numpy()
    return names, column.indices.to_numpy()


def _bytes(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Each row's bytes, shape (rows, bytes of a row)."""
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)


def _sum_of_pairs(ids: pa.ChunkedArray, places: Int64) -> int:
    """A number, modulo 2**64, that is the same for the same pairs in any order, and hardly so for others."""
    if not len(places):
        return 0
    words = keyed.words(ids)
    return _sum_of_words(words[:, 0], places, words[:, 1])


def _sum_of_words(words: UInt64, numbers: Int64, more: UInt64 | np.uint64 = _ZERO) -> int:
    """The same for pairs of a word and a number, or of two words and a number."""
    mixed = words + numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for word in (more, _ZERO):
        mixed ^= mixed >> np.uint64(32)
        mixed *= np.uint64(0xD6E8FEB86659FD93)
        mixed ^= word
    return int(mixed.sum(dtype=np.uint64))
