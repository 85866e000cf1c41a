"""Listed: which documents are in the lists of a policy: `select.include`, and the manifests of `select.exclude`.

The ids of the lists and those of the corpus meet by an exchange over ranges of the id, so time grows with both and
memory with neither. What is stored of a part are its listed documents alone, under a fingerprint of that.
"""

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from selector import tables
from selector.corpus.columns import Column
from selector.engine.exchange import by_bucket, exchange
from selector.engine.part import stretches
from selector.engine.step import APART, Done, Exchange, Tables
from selector.engine.store import Seal, Store
from selector.errors import CorpusError, DamagedError
from selector.exact import keyed
from selector.manifest import Manifest
from selector.plugins import attached
from selector.plugins.options import Option
from selector.steps import dedup

pc: Any = pyarrow.compute  # whose functions are made when it is imported

ITEM_ROWS, BUCKET_ROWS = 1 << 20, 1 << 20

SHARES = pa.schema([("key", pa.string()), ("num_listed", pa.int64())])
LENGTH = pa.schema([("num_ids", pa.int64())])
LISTED = pa.schema(
    [
        ("doc_id", tables.DOC_ID),
        ("included", pa.bool_()),
        ("excluded", pa.int32()),  # the number of the first manifest that has it; null: none
    ]
)
INCLUDED = Column(name="listed.included", step="listed", table="listed", column="included", type=pa.bool_())
EXCLUDED = Column(name="listed.excluded", step="listed", table="listed", column="excluded", type=pa.int32())

_INCLUDE = -1  # the number of the list of included documents
_DEALT = pa.schema([("doc_id", tables.DOC_ID), ("list", pa.int32()), ("part", pa.int32())])
"""An id of a list, or of a document: then `list` is null."""


@dataclass(frozen=True, kw_only=True)
class Listed(Exchange):
    """`parts`: for each part, the key of `LISTED`, its documents that are in some list; `included`: how many different
    ids `include` has."""

    name: str = field(default="listed", metadata=APART)
    reads: tuple[str, ...] = field(default=("dedup",), metadata=APART)

    include: tuple[Option, ...] = field(metadata=APART)
    exclude: tuple[Option, ...] = field(metadata=APART)
    contents: Mapping[str, str]  # what each list holds, by the options' paths

    def inputs(self, done: Done) -> Any:
        return [share["key"] for share in dedup.shares(done)]

    def rows_out(self, seal: Seal, store: Store) -> int:
        return int(store.table(seal, "parts", ["num_listed"])["num_listed"].to_numpy().sum())

    def compute(self, done: Done) -> Tables:
        keys = [share["key"] for share in dedup.shares(done)]
        num_rows = [share["num_documents"] for share in dedup.shares(done)]
        items: list[_Item] = [
            _Documents(keys=tuple(keys[parts]), first=parts.start) for parts in stretches(num_rows, ITEM_ROWS)
        ]
        num_documents = len(items)
        total = sum(num_rows)
        ids = (
            pa.chunked_array(
                [
                    attached.load(option, "select", self.contents[option.path])["doc_id"].combine_chunks()
                    for option in self.include
                ],
                tables.DOC_ID,
            )
            .unique()
            .drop_null()
        )
        items.append(_Ids(ids=ids))
        total += len(ids)
        for number, option in enumerate(self.exclude):
            manifest = Manifest.open(str(option.value))
            if manifest.digest != self.contents[option.path]:
                raise CorpusError(
                    f"select.{option.path}: {option.value} changed during the run. Run the same command again."
                )
            total += len(manifest)
            items += [
                _Visits(manifest=manifest, number=number, part=part) for part in range(len(manifest.header.parts))
            ]
        inputs = [self.version, dict(self.contents), keys]
        num_buckets = max(1, -(-total // BUCKET_ROWS))
        matched = exchange(
            done, "listed", inputs, items, num_buckets,
            functools.partial(_deal, num_buckets), functools.partial(_match, f"{done.passing}/matched"),
        )  # fmt: skip
        back = exchange(
            done, "listed.back", inputs, matched, num_documents,
            functools.partial(_deal_back, [item.first for item in items if isinstance(item, _Documents)]),
            functools.partial(_share, [item for item in items if isinstance(item, _Documents)]),
        )  # fmt: skip
        yield "parts", pa.concat_tables([SHARES.empty_table(), *back])
        yield "included", pa.table([[len(ids)]], schema=LENGTH)


def shares(done: Done) -> Sequence[Mapping[str, Any]]:
    """A row of `SHARES` for every part."""
    return done.once("listed: shares", lambda: done.table("listed", "parts").to_pylist())


def num_included(done: Done) -> int:
    """How many different ids `select.include` has."""
    return done.table("listed", "included")["num_ids"][0].as_py()


@dataclass(frozen=True, kw_only=True)
class _Documents:
    """Consecutive parts, about a million documents."""

    keys: tuple[str, ...]
    first: int

    def rows(self, store: Store) -> pa.Table:
        pieces = [_DEALT.empty_table()]
        for part, key in enumerate(self.keys, self.first):
            ids = store.read(key, "documents", ["doc_id"])["doc_id"]
            pieces.append(_dealt(ids, None, part))
        return pa.concat_tables(pieces)


@dataclass(frozen=True, kw_only=True)
class _Ids:
    """The ids of included documents."""

    ids: pa.Array

    def rows(self, store: Store) -> pa.Table:
        return _dealt(self.ids, _INCLUDE, -1)


@dataclass(frozen=True, kw_only=True)
class _Visits:
    """A part of a manifest."""

    manifest: Manifest
    number: int
    part: int

    def rows(self, store: Store) -> pa.Table:
        try:
            ids = self.manifest.ids_of_part(self.part)
        except DamagedError as error:
            raise CorpusError(
                f"select.exclude.{self.number}: {error} Verify that manifest, or make it anew."
            ) from error
        return _dealt(ids, self.number, -1)


_Item = _Documents | _Ids | _Visits


def _dealt(ids: pa.ChunkedArray | pa.Array, number: int | None, part: int) -> pa.Table:
    numbers = pa.nulls(len(ids), pa.int32()) if number is None else np.full(len(ids), number, np.int32)
    return pa.table([ids, numbers, np.full(len(ids), part, np.int32)], schema=_DEALT)


# What is asked of workers.


def _deal(num_buckets: int, store: Store, item: _Item) -> Mapping[int, pa.Table]:
    """The ids of an item by their ranges."""
    table = item.rows(store)
    high = keyed.in_place(table["doc_id"]).view(">u4")[:, 0].astype(np.uint64)
    return by_bucket(table, high * np.uint64(num_buckets) >> np.uint64(32))


def _match(prefix: str, store: Store, bucket: int, dealt: Iterator[pa.Table]) -> str:
    """Stores which documents of a bucket are in which lists, with their parts, sorted by id."""
    table = pa.concat_tables([_DEALT.empty_table(), *dealt]).combine_chunks()
    is_document = table["list"].is_null()
    of_documents, of_lists = table.filter(is_document), table.filter(pc.invert(is_document))
    documents, lists = of_documents["doc_id"].combine_chunks(), of_lists["list"].to_numpy()
    included, excluded = np.zeros(len(documents), np.bool_), np.full(len(documents), -1, np.int32)
    for number in np.unique(lists)[::-1].tolist():  # the first manifest is told
        ids = of_lists["doc_id"].combine_chunks().filter(pa.array(lists == number))
        is_in = pc.is_in(documents, value_set=ids).to_numpy(zero_copy_only=False)
        if number == _INCLUDE:
            included = is_in
        else:
            excluded[is_in] = number
    is_listed = pa.array(included | (excluded >= 0))
    columns = [of_documents["doc_id"], pa.array(included), pa.array(excluded, mask=excluded < 0), of_documents["part"]]
    matched = pa.table(columns, schema=pa.schema([*LISTED, _DEALT.field("part")])).filter(is_listed)
    matched = matched.take(pa.array(_by_id(keyed.words(matched["doc_id"]))))
    return store.seal(f"{prefix}-{bucket}", [("matched", matched)], form="arrow").key


def _by_id(words: keyed.UInt64) -> npt.NDArray[np.int64]:
    """The places of ids, sorted."""
    order = np.argsort(words[:, 0])
    first = words[order, 0]
    if (first[1:] == first[:-1]).any():
        order = np.lexsort((words[:, 1], words[:, 0]))
    return order


def _deal_back(firsts: Sequence[int], store: Store, key: str) -> Mapping[int, pa.Table]:
    """What is listed of a bucket, by the stretches of parts."""
    matched = store.read(key, "matched")
    return by_bucket(matched, np.searchsorted(np.array(firsts), matched["part"].to_numpy(), side="right") - 1)


def _share(stretches_of_parts: Sequence[_Documents], store: Store, number: int, dealt: Iterator[pa.Table]) -> pa.Table:
    """Seals what is listed of each part of a stretch, sorted by id, as the ranges of ids come and each range is."""
    item = stretches_of_parts[number]
    schema = pa.schema([*LISTED, _DEALT.field("part")])
    matched = pa.concat_tables([schema.empty_table(), *dealt]).combine_chunks()
    numbers = matched["part"].to_numpy() - item.first
    if len(item.keys) < 1 << 16:
        numbers = numbers.astype(np.uint16)  # NumPy sorts these by their digits
    matched = matched.take(pa.array(np.argsort(numbers, kind="stable")))
    parts = matched["part"].to_numpy()
    rows: list[dict[str, Any]] = []
    for part in range(item.first, item.first + len(item.keys)):
        first, end = np.searchsorted(parts, [part, part + 1]).tolist()
        listed = matched.slice(first, end - first).select(LISTED.names).combine_chunks()
        whole = hashlib.blake2b(digest_size=16)
        whole.update(np.ascontiguousarray(keyed.words(listed["doc_id"])).tobytes())
        whole.update(listed["included"].to_numpy().tobytes())
        whole.update(listed["excluded"].fill_null(-1).to_numpy().tobytes())
        key = store.seal(f"listed.parts/{whole.hexdigest()}", [("listed", listed)]).key
        rows.append({"key": key, "num_listed": listed.num_rows})
    return pa.Table.from_pylist(rows, schema=SHARES)
