"""Dedup: the first document of every text goes on, in corpus order; the others are duplicates of it.

Documents of one text meet by an exchange over ranges of its hash, so time grows with the corpus and memory does not.
What goes on is stored per part under a fingerprint of its content, so all that is computed from it survives any change
of the corpus that leaves those texts as they are.
"""

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.engine.exchange import by_bucket, exchange
from selector.engine.step import APART, Done, Exchange, Tables
from selector.engine.store import Seal, Store, fingerprint
from selector.exact import UInt64, keyed

ITEM_ROWS, BUCKET_ROWS = 1 << 20, 1 << 21

SHARES = pa.schema(
    [
        ("key", pa.string()),  # of the part's documents that go on
        ("lost", pa.string()),  # key of `LOST`, what of the part does not; null where all goes on
        ("texts", pa.string()),  # fingerprint of their ids and texts
        ("num_documents", pa.int64()),
        ("num_tokens", pa.int64()),
    ]
)
LOST = pa.schema(
    [
        ("row", pa.uint32()),
        ("leader", tables.DOC_ID),  # the document that goes on
        ("is_clash", pa.bool_()),  # it has the leader's key and another text
    ]
)
_DEALT = pa.schema([("value", tables.DOC_ID), ("doc_id", tables.DOC_ID), ("ordinal", pa.int64())])
_GONE = pa.schema([("ordinal", pa.int64()), ("leader", tables.DOC_ID)])

Ordinals = npt.NDArray[np.int64]  # part << 32 | row: corpus order as one number


@dataclass(frozen=True, kw_only=True)
class Dedup(Exchange):
    """What goes on of every part, and of which documents the others are duplicates, or have the key."""

    name: str = field(default="dedup", metadata=APART)
    version = 3
    reads: tuple[str, ...] = field(default=("ingest",), metadata=APART)

    has_keys: bool

    def inputs(self, done: Done) -> Any:
        return [seal.key for seal in done["ingest"].parts]

    def compute(self, done: Done) -> Tables:
        yield "parts", dedup(done, done["ingest"].parts, has_keys=self.has_keys)

    def shares(self, done: Done) -> list[str]:
        return [key for share in shares(done) for key in (share["key"], share["lost"]) if key is not None]

    def rows_out(self, seal: Seal, store: Store) -> int:
        return int(store.table(seal, "parts", ["num_documents"])["num_documents"].to_numpy().sum())


def shares(done: Done) -> Sequence[Mapping[str, Any]]:
    """A row of `SHARES` for every part."""
    return done.once("dedup: shares", lambda: done.table("dedup", "parts").to_pylist())


def lost_of(store: Store, key: str | None) -> pa.Table:
    """What a part lost: `LOST`."""
    return LOST.empty_table() if key is None else store.read(key, "lost")


def num_tokens(done: Done) -> int:
    """Tokens of all documents that go on."""
    return sum(share["num_tokens"] for share in shares(done))


def dedup(done: Done, documents: Sequence[Seal], *, has_keys: bool) -> pa.Table:
    """A row of `SHARES` for each part; the documents that go on, and what a part lost, are sealed on the way."""
    items = list(_items(documents))
    inputs = [seal.key for seal in documents]
    num_buckets = max(1, -(-sum(item.num_rows for item in items) // BUCKET_ROWS))
    duplicates = tuple(
        exchange(done, "dedup", inputs, items, num_buckets, functools.partial(_deal, num_buckets, "text_id", ()), _meet)
    )
    clashes: tuple[str, ...] = ()
    if has_keys:
        deal = functools.partial(_deal, num_buckets, "doc_id", duplicates)
        clashes = tuple(exchange(done, "dedup", [inputs, "keys"], items, num_buckets, deal, _meet))
    share = functools.partial(_shares, done.store, duplicates, clashes)
    return pa.concat_tables([SHARES.empty_table(), *done.map(share, items)])


@dataclass(frozen=True, kw_only=True)
class _Item:
    """Consecutive parts, about a million rows: the keys of their documents, and the number of the first."""

    first: int
    keys: tuple[str, ...]
    num_rows: int


def _items(documents: Sequence[Seal]) -> Iterator[_Item]:
    first = rows = 0
    for i, seal in enumerate(documents):
        rows += seal.tables["documents"].num_rows
        if rows >= ITEM_ROWS or i + 1 == len(documents):
            yield _Item(first=first, keys=tuple(seal.key for seal in documents[first : i + 1]), num_rows=rows)
            first, rows = i + 1, 0


# What is asked of workers.


def _deal(num_buckets: int, column: str, without: tuple[str, ...], store: Store, item: _Item) -> Mapping[int, pa.Table]:
    """The documents of an item by ranges of a column's hash, less those that are gone already."""
    pieces = [_DEALT.empty_table()]
    for part, key in enumerate(item.keys, item.first):
        table = store.read(key, "documents", sorted({"doc_id", column, "row"}))
        ordinals = _ordinals(part, table)
        pieces.append(pa.table([table[column], table["doc_id"], ordinals], schema=_DEALT))
    whole = pa.concat_tables(pieces).combine_chunks()
    if without:
        gone = _gone(store, without, item.first, item.first + len(item.keys))["ordinal"].to_numpy()
        whole = whole.filter(pa.array(~_contains(gone, whole["ordinal"].to_numpy())))
    bucket = (keyed.words(whole["value"])[:, 0] >> np.uint64(32)) * np.uint64(num_buckets) >> np.uint64(32)
    return by_bucket(whole, bucket)


def _meet(store: Store, bucket: int, dealt: Iterator[pa.Table]) -> str:
    """Stores the ordinals of all but the first document of each value, with the ids of those first ones; its key."""
    whole = pa.concat_tables([_DEALT.empty_table(), *dealt]).combine_chunks()
    values, ids, ordinals = keyed.words(whole["value"]), keyed.words(whole["doc_id"]), whole["ordinal"].to_numpy()
    order = np.lexsort((ordinals, values[:, 1], values[:, 0]))
    values = values[order]
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = (values[1:] != values[:-1]).any(axis=1)
    leader = order[is_first][np.cumsum(is_first) - 1][~is_first]
    gone = ordinals[order][~is_first]
    by_ordinal = np.argsort(gone)
    table = pa.table([gone[by_ordinal], keyed.ids(ids[leader[by_ordinal]])], schema=_GONE)
    digest = fingerprint([bucket, _digest(gone[by_ordinal], ids[leader[by_ordinal]])])
    return store.seal(f"dedup.gone/{digest}", [("gone", table)], form="arrow").key


def _shares(store: Store, duplicates: tuple[str, ...], clashes: tuple[str, ...], item: _Item) -> pa.Table:
    """Seals the documents of each part that go on, and what is to say of the others."""
    end = item.first + len(item.keys)
    lost = [_gone(store, keys, item.first, end) for keys in (duplicates, clashes)]
    gone = pa.concat_tables(lost).append_column(
        "is_clash", pa.array(np.repeat([False, True], [t.num_rows for t in lost]))
    )
    gone = gone.sort_by("ordinal").combine_chunks()
    ordinals = gone["ordinal"].to_numpy()
    rows: list[dict[str, Any]] = []
    for part, key in enumerate(item.keys, item.first):
        first, stop = np.searchsorted(ordinals, [part << 32, (part + 1) << 32]).tolist()
        rows.append(_share(store, part, key, gone.slice(first, stop - first)))
    return pa.Table.from_pylist(rows, schema=SHARES)


def _share(store: Store, part: int, key: str, gone: pa.Table) -> dict[str, Any]:
    table = store.read(key, "documents", tables.DOCUMENTS.names)
    lost = None
    if gone.num_rows:
        numbers = (gone["ordinal"].to_numpy() & 0xFFFFFFFF).astype(np.uint32)
        told = pa.table([numbers, gone["leader"], gone["is_clash"]], schema=LOST)
        digest = _digest(numbers, keyed.words(told["leader"]), told["is_clash"].to_numpy())
        lost = store.seal(f"dedup.parts/lost-{digest}", [("lost", told)]).key
    table = table.filter(pa.array(~_contains(gone["ordinal"].to_numpy(), _ordinals(part, table)))).combine_chunks()
    source = table["source"].combine_chunks().dictionary_decode()
    texts = _digest(keyed.words(table["doc_id"]), keyed.words(table["text_id"]), table["row"].to_numpy())
    sizes = [table[name].to_numpy() for name in ("num_bytes", "num_tokens")]
    labels = source.dictionary_encode()
    everything = _digest(
        *sizes, labels.indices.to_numpy(), np.frombuffer("\0".join(labels.dictionary.to_pylist()).encode(), np.uint8)
    )
    kept = store.seal(f"dedup.parts/{texts}{everything}", [("documents", table)])
    return {
        "key": kept.key,
        "lost": lost,
        "texts": texts,
        "num_documents": table.num_rows,
        "num_tokens": int(table["num_tokens"].to_numpy().sum()),
    }


def _gone(store: Store, keys: tuple[str, ...], first_part: int, end_part: int) -> pa.Table:
    """What the buckets say is gone of some consecutive parts, sorted by ordinal."""
    pieces = [_GONE.empty_table()]
    for key in keys:
        gone = store.read(key, "gone")
        first, stop = np.searchsorted(gone["ordinal"].to_numpy(), [first_part << 32, end_part << 32]).tolist()
        pieces.append(gone.slice(first, stop - first))
    return pa.concat_tables(pieces).sort_by("ordinal").combine_chunks()


def _ordinals(part: int, table: pa.Table) -> Ordinals:
    return (part << 32) + table["row"].to_numpy().astype(np.int64)


def _contains(ordered: Ordinals, wanted: Ordinals) -> npt.NDArray[np.bool_]:
    at = np.searchsorted(ordered, wanted)
    at[at == len(ordered)] = 0
    return ordered[at] == wanted if len(ordered) else np.zeros(len(wanted), np.bool_)


def _digest(*arrays: npt.NDArray[Any] | UInt64) -> str:
    whole = hashlib.blake2b(digest_size=16)
    for array in arrays:
        whole.update(len(array).to_bytes(8, "little"))
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()
