"""What the rows of a manifest add up to: `commit` writes it down, `verify` works it out again.

Rows go in part by part, first what became of each document, then the visits in position order; out come
the counts, the phases and the order digest, and a sentence for everything that does not add up. Memory is
4 bytes per row of the corpus.

The order digest, so that any language can check it: a row is the bytes of position (int64), doc_id (16
bytes), visit (uint16), phase (uint16 length, then UTF-8) and loss_weight (float32), little-endian. A leaf
is blake2b-256 over a zero byte and the rows of 65,536 consecutive positions; a node is blake2b-256 over a
one byte and its two children, an odd child moves up unchanged; the digest is the root in hex. An order
without visits has one leaf, over no rows. So equal first leaves prove an equal beginning.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.exact import keyed
from selector.tables import FATES

LEAF_ROWS = 65_536

Int64 = npt.NDArray[np.int64]

_KEPT = FATES.index("kept")
_UNDECIDED = 255


class Ledger:
    """The account of one manifest over the corpus whose files are a table of `tables.FILES`."""

    def __init__(self, files: pa.Table) -> None:
        self._sizes: Int64 = files["num_rows"].to_numpy()
        self._starts = np.cumsum(self._sizes) - self._sizes
        num_rows = int(self._sizes.sum())
        self._fate = np.full(num_rows, _UNDECIDED, np.uint8)  # of each row of the corpus: an index into FATES
        self._count = np.zeros(num_rows, np.uint16)  # its visits so far
        self._visited = np.zeros(num_rows, np.bool_)
        self._kept_ids = 0  # a sum over the pairs of doc_id and place in the corpus, of those kept
        self._visited_ids = 0  # the same of those visited
        self._fates = np.zeros(len(FATES), np.int64)  # documents that met each fate
        self._leaves: list[str] = []
        self._leaf = hashlib.blake2b(b"\0", digest_size=32)
        self.num_visits = 0
        self.num_tokens = 0
        self.phases: list[dict[str, Any]] = []
        self.problems: list[str] = []

    def decide(self, fates: pa.Table) -> None:
        """Takes in what became of some documents: `tables.FATE`, each row of the corpus at most once."""
        fates = fates.unify_dictionaries().combine_chunks()
        places = self._places(fates, "The decisions")
        if places is None:
            return
        if np.any(self._fate[places] != _UNDECIDED) or np.any(np.diff(np.sort(places)) == 0):
            self.problems.append("The decisions have two rows for one row of the corpus.")
        names, codes = labels(fates["fate"])
        if not set(names) <= set(FATES):
            self.problems.append(f"The decisions have fates that there are not: {sorted(set(names) - set(FATES))}.")
            return
        fate = np.array([FATES.index(name) for name in names], np.uint8)[codes]
        self._fate[places] = fate
        self._fates += np.bincount(fate, minlength=len(FATES))
        kept = fate == _KEPT
        ids = fates["doc_id"].filter(pa.array(kept))
        if ids.null_count:
            self.problems.append("The decisions keep a document that has no doc_id.")
        else:
            self._kept_ids += _sum_of_pairs(ids, places[kept])

    def visit(self, rows: pa.Table) -> None:
        """Takes in the next visits: `tables.MANIFEST`, any number of rows."""
        rows = rows.unify_dictionaries().combine_chunks()
        while rows.num_rows:
            room = LEAF_ROWS - self.num_visits % LEAF_ROWS
            self._visit(rows.slice(0, room))
            rows = rows.slice(room)

    def reconcile(self) -> None:
        """Compares decisions and visits, once all were taken in."""
        wrong = np.flatnonzero(self._visited != (self._fate == _KEPT))
        if len(wrong):
            file = int(np.searchsorted(self._starts, wrong[0], side="right")) - 1
            self.problems.append(
                f"{len(wrong):,} documents were kept but never visited, or visited but not kept;"
                f" the first is row {wrong[0] - self._starts[file]} of file {file}."
            )
        elif (self._kept_ids - self._visited_ids) % 2**64:
            self.problems.append("The doc_ids of the visits are not those of the decisions.")

    def leaf_digests(self) -> list[str]:
        """The digest of every 65,536 positions, in hex; the last leaf may have fewer."""
        is_open = self.num_visits % LEAF_ROWS or not self.num_visits
        return [*self._leaves, self._leaf.hexdigest()] if is_open else list(self._leaves)

    def counts(self) -> dict[str, int]:
        """Documents of the corpus, and how many met each fate; visits and tokens of the manifest."""
        fates = dict(zip(FATES, self._fates.tolist(), strict=True))
        return {"documents": sum(fates.values()), **fates, "visits": self.num_visits, "tokens": self.num_tokens}

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
            self._visited_ids += _sum_of_pairs(rows["doc_id"].filter(pa.array(visit == 0)), places[visit == 0])
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
    mixed = words[:, 0] + places.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for word in (words[:, 1], np.uint64(0)):
        mixed ^= mixed >> np.uint64(32)
        mixed *= np.uint64(0xD6E8FEB86659FD93)
        mixed ^= word
    return int(mixed.sum(dtype=np.uint64))
