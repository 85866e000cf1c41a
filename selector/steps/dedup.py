"""Which documents go on: the first of every text, in corpus order; the others are duplicates of it.

Works in passes over ranges of the hash, so memory does not grow with the corpus. What goes on is stored
per part under a fingerprint of its content, so all that is computed from it survives any change of the
corpus that leaves those texts as they are.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.engine.store import Seal, Store
from selector.exact import keyed

VERSION = 1
BUCKET_DOCUMENTS = 4_000_000

LIVE = pa.schema(
    [
        ("live", pa.string()),  # key of the part's documents that go on
        ("texts", pa.string()),  # fingerprint of their ids and texts
        ("num_documents", pa.int64()),
        ("num_tokens", pa.int64()),
    ]
)
LOST = pa.schema([("part", pa.int32()), ("row", pa.uint32()), ("duplicate_of", tables.DOC_ID)])

Ordinals = npt.NDArray[np.int64]  # part << 32 | row: corpus order as one number


def dedup(store: Store, documents: Sequence[Seal], *, has_keys: bool) -> dict[str, pa.Table]:
    """Tables: `parts` (what goes on), `duplicates` (of which document), `clashes` (a key that another text has)."""
    total = sum(seal.tables["documents"].num_rows for seal in documents)
    buckets = 1 + total // BUCKET_DOCUMENTS
    duplicates = [_repeats(store, documents, "text_id", bucket, buckets, None) for bucket in range(buckets)]
    gone = np.sort(np.concatenate([ordinals for ordinals, _ in duplicates]))
    clashes = (
        [_repeats(store, documents, "doc_id", bucket, buckets, gone) for bucket in range(buckets)] if has_keys else []
    )
    gone = np.sort(np.concatenate([gone, *(ordinals for ordinals, _ in clashes)]))
    parts = [_live(store, index, seal, gone) for index, seal in enumerate(documents)]
    return {
        "parts": pa.Table.from_pylist(parts, schema=LIVE),
        "duplicates": _lost(duplicates),
        "clashes": _lost(clashes),
    }


def _repeats(
    store: Store, documents: Sequence[Seal], column: str, bucket: int, buckets: int, gone: Ordinals | None
) -> tuple[Ordinals, npt.NDArray[np.uint64]]:
    """The ordinals of all but the first document of each value, and the ids of those first ones, in one hash range."""
    values, ids, ordinals = (
        np.concatenate(arrays)
        for arrays in zip(*_columns(store, documents, column, bucket, buckets, gone), strict=True)
    )
    order = np.lexsort((ordinals, values[:, 1], values[:, 0]))
    values = values[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (values[1:] != values[:-1]).any(axis=1)
    leader = order[first][np.cumsum(first) - 1]
    return ordinals[order][~first], ids[leader][~first]


def _columns(
    store: Store, documents: Sequence[Seal], column: str, bucket: int, buckets: int, gone: Ordinals | None
) -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], Ordinals]]:
    empty = np.empty((0, 2), np.uint64)
    yield empty, empty, np.empty(0, np.int64)
    for part, seal in enumerate(documents):
        table = store.table(seal, "documents", sorted({"doc_id", column, "row"}))
        values, ids = keyed.words(table[column]), keyed.words(table["doc_id"])
        ordinals = _ordinals(part, table)
        here = values[:, 0] % np.uint64(buckets) == bucket
        if gone is not None:
            here &= ~_contains(gone, ordinals)
        yield values[here], ids[here], ordinals[here]


def _ordinals(part: int, table: pa.Table) -> Ordinals:
    return (part << 32) + table["row"].to_numpy().astype(np.int64)


def _contains(ordered: Ordinals, wanted: Ordinals) -> npt.NDArray[np.bool_]:
    at = np.searchsorted(ordered, wanted)
    at[at == len(ordered)] = 0
    return ordered[at] == wanted if len(ordered) else np.zeros(len(wanted), np.bool_)


def _lost(found: Sequence[tuple[Ordinals, npt.NDArray[np.uint64]]]) -> pa.Table:
    empty: tuple[Ordinals, npt.NDArray[np.uint64]] = (np.empty(0, np.int64), np.empty((0, 2), np.uint64))
    ordinals, ids = (np.concatenate(arrays) for arrays in zip(empty, *found, strict=True))
    order = np.argsort(ordinals)
    ordinals = ordinals[order]
    columns: list[Any] = [
        (ordinals >> 32).astype(np.int32),
        (ordinals & 0xFFFFFFFF).astype(np.uint32),
        keyed.ids(ids[order]),
    ]
    return pa.table(columns, schema=LOST)


def _live(store: Store, part: int, seal: Seal, gone: Ordinals) -> dict[str, Any]:
    """Seals the documents of one part that go on."""
    table = store.table(seal, "documents", tables.DOCUMENTS.names)
    table = table.filter(pa.array(~_contains(gone, _ordinals(part, table)))).combine_chunks()
    source = table["source"].combine_chunks().dictionary_decode()
    texts = _digest(keyed.words(table["doc_id"]), keyed.words(table["text_id"]), table["row"].to_numpy())
    sizes = [table[name].to_numpy() for name in ("num_bytes", "num_tokens")]
    labels = source.dictionary_encode()
    everything = _digest(
        *sizes, labels.indices.to_numpy(), np.frombuffer("\0".join(labels.dictionary.to_pylist()).encode(), np.uint8)
    )
    live = store.seal(f"live/{texts}{everything}", [("documents", table)])
    return {
        "live": live.key,
        "texts": texts,
        "num_documents": table.num_rows,
        "num_tokens": int(table["num_tokens"].to_numpy().sum()),
    }


def _digest(*arrays: npt.NDArray[Any]) -> str:
    whole = hashlib.blake2b(digest_size=16)
    for array in arrays:
        whole.update(len(array).to_bytes(8, "little"))
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()
