"""What the rows of a manifest add up to: `commit` writes it down, `verify` works it out again.

Think of a bank whose branches do their own sums: each part is added up alone, by any worker (`Decided`, `Visited`,
`Listed`, and `Matched` of a stretch of the corpus), and the ledger adds up what they say, in order. Out come the
counts, the phases and the order digest, and a sentence for everything that does not add up. What it holds grows with
the number of parts.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.exact import keyed
from selector.manifest.describe import Reasons
from selector.manifest.digest import LEAF_ROWS, encode, labels
from selector.manifest.match import Matched
from selector.manifest.places import KEPT, SEEN, Int64, Places
from selector.tables import OUTCOMES

UInt64 = npt.NDArray[np.uint64]

_KEPT = OUTCOMES.index("kept")
_WITH_REASON = tuple(outcome not in ("kept", "duplicate") for outcome in OUTCOMES)


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What the decisions of a part add up to."""

    rows: int
    first: int = -1  # the place of the first row, -1 if that is nowhere; of the last
    last: int = -1
    outcomes: tuple[int, ...]  # documents that met each outcome
    reasons: Reasons  # of those left out, marked or quarantined
    problems: tuple[str, ...]

    @property
    def num_kept(self) -> int:
        return self.outcomes[_KEPT]


def decided(decisions: pa.Table, places: Places) -> tuple[Decided, pa.Table]:
    """The sums of a table of `tables.DECISIONS`, of which only some columns are read, and those kept: `KEPT`."""
    decisions = decisions.unify_dictionaries().combine_chunks()
    problems: list[str] = []
    at = places.of(decisions)
    if at is None:
        problems.append("The decisions name a file or row that files.parquet does not have.")
    elif (np.diff(at) <= 0).any():
        twice = (np.diff(np.sort(at)) == 0).any()
        problems.append(_TWICE if twice else _DISORDERED)
    names, codes = labels(decisions["outcome"])
    unknown = sorted(set(names) - set(OUTCOMES))
    if unknown:
        problems.append(f"The decisions have outcomes that there are not: {unknown}.")
    numbers = np.array([OUTCOMES.index(name) if name in OUTCOMES else len(OUTCOMES) for name in names], np.int64)
    outcome = numbers[codes]
    explained = decisions.filter(pa.array(np.array([*_WITH_REASON, False])[outcome]))
    kept = np.flatnonzero(outcome == _KEPT) if at is not None else np.empty(0, np.int64)
    sums = Decided(
        rows=len(decisions),
        first=-1 if at is None or not len(at) else int(at[0]),
        last=-1 if at is None or not len(at) else int(at[-1]),
        outcomes=tuple(np.bincount(outcome, minlength=len(OUTCOMES))[: len(OUTCOMES)].tolist()),
        reasons=Reasons.of(explained["reason"], explained["arguments"]),
        problems=tuple(problems),
    )
    ids = tables.whole(decisions["doc_id"]).take(pa.array(kept))
    return sums, pa.table([at[kept] if at is not None else kept, ids], schema=KEPT)


@dataclass(frozen=True, kw_only=True)
class Visited:
    """What the visits of a part add up to."""

    rows: int
    tokens: int
    ids: int  # a sum over the pairs of doc_id and position
    head: bytes  # of the rows up to where the next leaf begins, as they are hashed
    leaves: tuple[str, ...]  # digests of those that lie within the part
    tail: bytes  # of the rows after those
    phases: tuple[tuple[str, int, int], ...]  # stretches: the phase, rows, tokens
    problems: tuple[str, ...]


def visited(rows: pa.Table, places: Places, first: int, first_token: int) -> Visited:
    """The sums of `tables.MANIFEST` from position `first` on, before which there are `first_token` tokens."""
    rows = rows.unify_dictionaries().combine_chunks()
    problems: list[str] = []
    leaves, phases, head, tail = list[str](), list[tuple[str, int, int]](), b"", b""
    ids, token = 0, first_token
    for start, stop in _cut(first, rows.num_rows):
        leaf, where = rows.slice(start, stop - start), f"The visits from position {first + start} on"
        positions = leaf["position"].to_numpy()
        if not np.array_equal(positions, np.arange(first + start, first + stop)):
            problems.append(f"{where} are not numbered one after the other.")
        num_tokens = leaf["num_tokens"].to_numpy().astype(np.int64)
        if not np.array_equal(leaf["token_start"].to_numpy(), token + np.cumsum(num_tokens) - num_tokens):
            problems.append(f"{where} have a token_start that is not the sum of the tokens before.")
        if places.of(leaf) is None:
            problems.append(f"{where} name a file or row that files.parquet does not have.")
        ids += sum_of_pairs(keyed.words(leaf["doc_id"])[:, 0], positions)
        phases += _stretches(leaf, num_tokens)
        token += int(num_tokens.sum())
        encoded = encode(leaf).data
        if (first + start) % LEAF_ROWS:
            head = bytes(encoded)
        elif stop - start < LEAF_ROWS:
            tail = bytes(encoded)
        else:
            digest = hashlib.blake2b(b"\0", digest_size=32)
            digest.update(encoded)
            leaves.append(digest.hexdigest())
    return Visited(
        rows=len(rows),
        tokens=token - first_token,
        ids=ids % 2**64,
        head=head,
        leaves=tuple(leaves),
        tail=tail,
        phases=tuple(phases),
        problems=tuple(problems),
    )


def seen_in(rows: pa.Table, places: Places) -> pa.Table:
    """What of `tables.MANIFEST` is compared with the decisions, `SEEN`; nothing where a row is nowhere."""
    at = places.of(rows)
    if at is None:
        return SEEN.empty_table()
    return pa.table([at, *(rows[name] for name in SEEN.names[1:])], schema=SEEN)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What rows of ids.parquet add up to."""

    rows: int
    first: tuple[int, int] = (-1, -1)
    last: tuple[int, int] = (-1, -1)
    is_sorted: bool = True
    ids: int = 0  # as in `Visited`


def listed(ids: pa.Table) -> Listed:
    """The sums of `tables.IDS`."""
    if not ids.num_rows:
        return Listed(rows=0)
    prefixes, positions = ids["prefix"].to_numpy(), ids["position"].to_numpy()
    same, ahead = prefixes[1:] == prefixes[:-1], prefixes[1:] > prefixes[:-1]
    return Listed(
        rows=len(ids),
        first=(int(prefixes[0]), int(positions[0])),
        last=(int(prefixes[-1]), int(positions[-1])),
        is_sorted=bool(np.all(ahead | (same & (positions[1:] > positions[:-1])))),
        ids=sum_of_pairs(prefixes, positions),
    )


def left_in(unvisited: pa.Table, places: Places) -> tuple[pa.Table, str | None]:
    """The documents in rows of unvisited.parquet, `KEPT`; and what is wrong with them, if anything is."""
    at = places.of(unvisited)
    if at is None:
        problem = "The rows of unvisited.parquet name a file or row that files.parquet does not have."
        return KEPT.empty_table(), problem
    return pa.table([at, unvisited["doc_id"]], schema=KEPT), None


class Ledger:
    """The account of one manifest: takes in what its parts add up to, each kind in its order."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._last_decided = -1  # the place that the last decision is about
        self._ends = set[int]()  # the first and the last place of every part of the decisions
        self._outcomes = np.zeros(len(OUTCOMES), np.int64)
        self._ids = 0  # a sum over the pairs of doc_id and position: of the visits, less that of ids.parquet
        self._last_listed = (-1, -1)
        self._num_listed = 0
        self._leaves: list[str] = []
        self._leaf = hashlib.blake2b(b"\0", digest_size=32)
        self._matched: list[Matched] = []
        self.num_visits = 0
        self.num_tokens = 0
        self.num_left = 0
        self.reasons = Reasons()  # of documents left out, marked or quarantined
        self.phases: list[dict[str, Any]] = []
        self.problems: list[str] = []

    def decide(self, sums: Decided) -> None:
        """Takes in what became of the next documents of the corpus, in its order."""
        self.problems += sums.problems
        if sums.rows and sums.first <= self._last_decided and not sums.problems:
            self.problems.append(_TWICE if {sums.first, sums.last} & self._ends else _DISORDERED)
        self._last_decided = max(self._last_decided, sums.last)
        self._ends |= {sums.first, sums.last} - {-1}
        self._outcomes += np.array(sums.outcomes)
        self.reasons += sums.reasons

    def visit(self, sums: Visited) -> None:
        """Takes in the next visits."""
        self.problems += sums.problems
        if self.num_visits % LEAF_ROWS:
            self._leaf.update(sums.head)
            if self.num_visits // LEAF_ROWS < (self.num_visits + sums.rows) // LEAF_ROWS:
                self._close()
        self._leaves += sums.leaves
        self._leaf.update(sums.tail)
        first = self.num_visits
        for name, rows, tokens in sums.phases:
            if not self.phases or self.phases[-1]["name"] != name:
                self.phases.append({"name": name, "first_position": first, "rows": 0, "tokens": 0})
            first += rows
            self.phases[-1]["rows"] += rows
            self.phases[-1]["tokens"] += tokens
        self._ids += sums.ids
        self.num_visits += sums.rows
        self.num_tokens += sums.tokens

    def look_up(self, sums: Listed) -> None:
        """Takes in the next rows of ids.parquet."""
        if sums.rows:
            if sums.first <= self._last_listed or not sums.is_sorted:
                self.problems.append("The rows of ids.parquet are not sorted.")
            self._last_listed = sums.last
            self._num_listed += sums.rows
            self._ids -= sums.ids

    def leave(self, num_rows: int, problem: str | None) -> None:
        """Takes in how many further rows unvisited.parquet has, and what is wrong with them."""
        self.num_left += num_rows
        self.problems += [problem] if problem is not None else []

    @property
    def is_ordered(self) -> bool:
        """Whether the decisions are in the order of the corpus, so that they can be compared stretch by stretch."""
        return not {_TWICE, _DISORDERED} & set(self.problems)

    def match(self, sums: Matched) -> None:
        """Takes in the next stretch of the corpus: whether what is kept is what is visited or left."""
        self._matched.append(sums)

    def reconcile(self) -> None:
        """Compares decisions, visits and what belongs to them, once all were taken in."""
        self.problems += [
            f"The visits from position {leaf * LEAF_ROWS} on do not count the visits of each document 0, 1, 2"
            " and so on."
            for leaf in sorted({leaf for one in self._matched for leaf in one.miscounted})
        ]
        num_wrong = sum(one.num_wrong for one in self._matched)
        lefts = [one.first_left for one in self._matched if one.first_left is not None]
        if num_wrong:
            first = min(one.first_wrong for one in self._matched if one.first_wrong is not None)
            self.problems.append(
                f"{num_wrong:,} documents were kept but never visited, or visited but not kept;"
                f" the first is {self._places.in_words(first)}."
            )
        elif lefts:
            self.problems.append(f"The order leaves a document that was not kept: {self._places.in_words(min(lefts))}.")
        elif any(one.ids_differ for one in self._matched):
            self.problems.append("The doc_ids of the visits are not those of the decisions.")
        if self._num_listed != self.num_visits or self._ids % 2**64:
            self.problems.append("The rows of ids.parquet are not those of the visits.")

    def disagreements(self, stated: Mapping[str, Any]) -> list[str]:
        """A sentence for each count that is not what the rows come to. Not all need be stated."""
        counts: dict[str, Any] = {**self.counts(), **stated}
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
                for reason, number in self.reasons.by_heading().items()
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

    def _close(self) -> None:
        """Ends the leaf that is open."""
        self._leaves.append(self._leaf.hexdigest())
        self._leaf = hashlib.blake2b(b"\0", digest_size=32)


_TWICE = "The decisions have two rows for one row of the corpus."
_DISORDERED = "The decisions are not in the order of the corpus."


def _cut(first: int, num_rows: int) -> Iterator[tuple[int, int]]:
    """Where the rows from a position on are cut by the borders of leaves."""
    start = 0
    while start < num_rows:
        stop = min(num_rows, start + LEAF_ROWS - (first + start) % LEAF_ROWS)
        yield start, stop
        start = stop


def _stretches(rows: pa.Table, num_tokens: Int64) -> Iterator[tuple[str, int, int]]:
    """Phase after phase of some rows: its name, how many of them it has, and their tokens."""
    names, codes = labels(rows["phase"])
    begins = np.flatnonzero(np.diff(codes, prepend=-1))
    sizes, tokens = np.diff(begins, append=len(codes)), np.add.reduceat(num_tokens, begins)
    for code, size, total in zip(codes[begins].tolist(), sizes.tolist(), tokens.tolist(), strict=True):
        yield names[code], size, total


def sum_of_pairs(words: UInt64, numbers: Int64) -> int:
    """A number, modulo 2**64, that is the same for the same pairs in any order: for others, once in 2**64."""
    mixed = words + numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for _ in range(2):
        mixed ^= mixed >> np.uint64(32)
        mixed *= np.uint64(0xD6E8FEB86659FD93)
    return int(mixed.sum(dtype=np.uint64))
