"""Dedup: each text and each key goes on once; the other documents are duplicates, or clash with the key of another.

In corpus order, a document goes on if no document that goes on before it has its text or its key. If one has its text,
it is a duplicate of that one, whoever has its key; else it clashes with the document that has its key. So a text is
missing below only where each of its keys went on with another text, and no clash leads a text.

Documents of one text, and of one key, meet by exchanges over ranges of a hash, so time grows with the corpus and memory
does not. What goes on is stored per part under a fingerprint of its content, so all that is computed from it survives
any change of the corpus that leaves those texts as they are.
"""

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.engine.canonical import fingerprint
from selector.engine.exchange import by_bucket, exchange
from selector.engine.part import stretches
from selector.engine.step import APART, Done, Exchange, Tables
from selector.engine.store import Seal, Store
from selector.exact import Ints, UInt64, keyed
from selector.exact.spend import costs

ITEM_ROWS, BUCKET_ROWS = 1 << 20, 1 << 20

SHARES = pa.schema(
    [
        ("key", pa.string()),  # of the part's documents that go on
        ("lost", pa.string()),  # key of `LOST`, what of about a million rows does not; null where all of the part does
        ("lost_first", pa.int64()),  # where the part's own rows begin there, if it has some
        ("lost_rows", pa.int64()),
        ("texts", pa.string()),  # fingerprint of their ids and texts
        ("num_documents", pa.int64()),
        ("num_tokens", pa.int64()),  # as a budget counts them: at least 1 for each document
    ]
)
LOST = pa.schema(
    [
        ("place", pa.uint32()),
        ("leader", tables.DOC_ID),  # the document that goes on
        ("is_clash", pa.bool_()),  # it has the leader's key and another text
    ]
)

OPEN, FIRST, ALONE, GOES, SHUT = range(5)
"""What is known of a document so far: nothing; that of the open ones it is the first of its text; that nobody else has
its text; that it goes on; that another one has its key, and perhaps its text."""

_DEALT = pa.schema([("text", tables.DOC_ID), ("key", tables.DOC_ID), ("ordinal", pa.int64()), ("state", pa.int8())])
_LOST_OF_ALL = pa.schema([("ordinal", pa.int64()), ("leader", tables.DOC_ID), ("is_clash", pa.bool_())])

Bools = npt.NDArray[np.bool_]
Ordinals = npt.NDArray[np.int64]  # part << 32 | place: corpus order as one number


@dataclass(frozen=True, kw_only=True)
class Dedup(Exchange):
    """What goes on of every part, and of which documents the others are duplicates, or have the key."""

    name: str = field(default="dedup", metadata=APART)
    version = 7
    reads: tuple[str, ...] = field(default=("ingest",), metadata=APART)

    has_keys: bool

    def inputs(self, done: Done) -> Any:
        return [seal.key for seal in done["ingest"].parts]

    def compute(self, done: Done) -> Tables:
        yield "parts", dedup(done, done["ingest"].parts, has_keys=self.has_keys)

    def shares(self, done: Done) -> list[str]:
        keys = (key for share in shares(done) for key in (share["key"], share["lost"]) if key is not None)
        return list(dict.fromkeys(keys))

    def rows_out(self, seal: Seal, store: Store) -> int:
        return int(store.table(seal, "parts", ["num_documents"])["num_documents"].to_numpy().sum())


def shares(done: Done) -> Sequence[Mapping[str, Any]]:
    """A row of `SHARES` for every part."""
    return done.once("dedup: shares", lambda: done.table("dedup", "parts").to_pylist())


@dataclass(frozen=True, kw_only=True)
class Lost:
    """What dedup took from a part: some rows of a table that parts have together."""

    key: str
    first: int
    num_rows: int

    @property
    def rows(self) -> list[Any]:
        """Which rows they are, for fingerprints."""
        return [self.key, self.first, self.num_rows]


def lost_in(share: Mapping[str, Any]) -> Lost | None:
    """What dedup took from the part of a share; None: nothing."""
    if share["lost"] is None:
        return None
    return Lost(key=share["lost"], first=share["lost_first"], num_rows=share["lost_rows"])


def lost_of(store: Store, parts: Iterable[Lost | None]) -> Iterator[pa.Table]:
    """`LOST` of each of some parts; a table that they have together is read once."""
    key, whole = None, LOST.empty_table()
    for part in parts:
        if part is not None and part.key != key:
            key, whole = part.key, store.read(part.key, "lost")
        yield LOST.empty_table() if part is None else whole.slice(part.first, part.num_rows)


def num_tokens(done: Done) -> int:
    """Tokens of all documents that go on, as a budget counts them."""
    return sum(share["num_tokens"] for share in shares(done))


def dedup(done: Done, documents: Sequence[Seal], *, has_keys: bool) -> pa.Table:
    """A row of `SHARES` for each part; the documents that go on, and what a part lost, are sealed on the way."""
    items = tuple(_items(documents))
    inputs = [Dedup.version, [seal.key for seal in documents], has_keys, [item.first for item in items]]
    decided = _decided(done, inputs, items, has_keys=has_keys)
    return pa.concat_tables(
        [
            SHARES.empty_table(),
            *exchange(
                done, "dedup", [inputs, "back"], decided, len(items),
                functools.partial(_deal_back, items), functools.partial(_share, items),
            ),
        ]
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Item:
    """Consecutive parts, about a million rows: the keys of their documents, and the number of the first."""

    first: int
    keys: tuple[str, ...]
    num_rows: int


@dataclass(frozen=True, kw_only=True)
class _Decided:
    """What a bucket said: the key of who is `lost` and who is `open` still, and how many these are."""

    key: str
    num_open: int


def _items(documents: Sequence[Seal]) -> Iterator[_Item]:
    num_rows = [seal.tables["documents"].num_rows for seal in documents]
    for parts in stretches(num_rows, ITEM_ROWS):
        keys = tuple(seal.key for seal in documents[parts])
        yield _Item(first=parts.start, keys=keys, num_rows=sum(num_rows[parts]))


def _decided(done: Done, inputs: Any, items: Sequence[_Item], *, has_keys: bool) -> list[_Decided]:
    """What all buckets of all rounds said, once nothing is open.

    A round asks by text and then by key. What is left after the first one are the documents whose keys or texts are
    there twice, and soon they fit in one bucket, which goes through them in corpus order.
    """
    decided: list[_Decided] = []
    waiting: Sequence[Any] = items
    left = sum(item.num_rows for item in items)
    for number in itertools.count():
        num_buckets = max(1, -(-left // BUCKET_ROWS))
        is_last = num_buckets == 1 or not has_keys
        for column, answering in (("text", _in_order),) if is_last else (("text", _by_text), ("key", _by_key)):
            deal = functools.partial(_deal_documents if waiting is items else _deal_open, num_buckets, column)
            own = [inputs, number, column]
            meet = functools.partial(_meet, f"{done.passing}/answers/{fingerprint([own, num_buckets])}", answering)
            waiting = exchange(done, "dedup", own, waiting, num_buckets, deal, meet)
            decided += waiting
        left = sum(one.num_open for one in waiting)
        if not left:
            return decided
    raise AssertionError("every round decides about the first document that is open")


# What is asked of workers.


@dataclass(frozen=True, kw_only=True)
class _Documents:
    """Documents of a bucket in corpus order, with the numbers of their texts and keys, and what is known of each."""

    table: pa.Table
    text: Ints
    key: Ints
    state: npt.NDArray[np.int8]

    @classmethod
    def of(cls, table: pa.Table) -> "_Documents":
        table = table.take(pa.array(np.argsort(table["ordinal"].to_numpy()))).combine_chunks()
        text = _numbers(table["text"])
        key = text if table["key"].equals(table["text"]) else _numbers(table["key"])
        return cls(table=table, text=text, key=key, state=table["state"].to_numpy())


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """Of each document of a bucket: whether it is lost, or is to be asked about again, and what is known of it then."""

    is_duplicate: Bools
    is_clash: Bools
    leader: Ints  # of a duplicate
    is_open: Bools
    state: npt.NDArray[np.int8]


Answering = Callable[[_Documents], _Answer]


def _deal_documents(num_buckets: int, column: str, store: Store, item: _Item) -> Mapping[int, pa.Table]:
    """The documents of an item by ranges of a column's hash."""
    pieces = [_DEALT.empty_table()]
    for part, key in enumerate(item.keys, item.first):
        table = store.read(key, "documents", ["doc_id", "text_id", "place"])
        state = np.full(table.num_rows, OPEN, np.int8)
        pieces.append(pa.table([table["text_id"], table["doc_id"], _ordinals(part, table), state], schema=_DEALT))
    return _by_range(pa.concat_tables(pieces), num_buckets, column)


def _deal_open(num_buckets: int, column: str, store: Store, decided: _Decided) -> Mapping[int, pa.Table]:
    """What a bucket left open, in the same way."""
    return _by_range(store.read(decided.key, "open"), num_buckets, column)


def _by_range(table: pa.Table, num_buckets: int, column: str) -> Mapping[int, pa.Table]:
    high = keyed.words(table[column])[:, 0] >> np.uint64(32)
    return by_bucket(table, high * np.uint64(num_buckets) >> np.uint64(32))


def _meet(prefix: str, answering: Answering, store: Store, bucket: int, dealt: Iterator[pa.Table]) -> _Decided:
    """Stores what is said of the documents of a bucket."""
    documents = _Documents.of(pa.concat_tables([_DEALT.empty_table(), *dealt]))
    answer, table = answering(documents), documents.table
    is_lost = answer.is_duplicate | answer.is_clash
    leader = np.where(answer.is_duplicate, answer.leader, np.arange(table.num_rows))[is_lost]
    ordinals, leaders = table["ordinal"].filter(pa.array(is_lost)), table["key"].take(pa.array(leader))
    lost = pa.table([ordinals, leaders, answer.is_clash[is_lost]], schema=_LOST_OF_ALL)
    still = table.set_column(3, _DEALT.field("state"), pa.array(answer.state)).filter(pa.array(answer.is_open))
    sealed = [("lost", lost), ("open", still)]
    return _Decided(key=store.seal(f"{prefix}-{bucket}", sealed, form="arrow").key, num_open=still.num_rows)


def _by_text(documents: _Documents) -> _Answer:
    """All documents of some texts: who is a duplicate of one that goes on, and which open one is the first of each."""
    text, state, place = documents.text, documents.state, np.arange(len(documents.text))
    goes, first_open = (_firsts(text, state == wanted)[text] for wanted in (GOES, OPEN))
    is_settled = goes < len(text)  # someone has the text: of the open ones only later documents are left
    is_duplicate = is_settled & (goes < place)
    is_clash = (state == SHUT) & ~is_duplicate & (is_settled | (place < first_open))
    is_open = ~is_settled & ~is_clash
    is_alone = _counts(text, is_open)[text] == 1
    state = np.where(is_open & (place == first_open), np.where(is_alone, ALONE, FIRST), state).astype(np.int8)
    return _Answer(is_duplicate=is_duplicate, is_clash=is_clash, leader=goes, is_open=is_open, state=state)


def _by_key(documents: _Documents) -> _Answer:
    """All documents of some keys: of each key goes the first one that is open, if it is the first of its text too."""
    key, state, place = documents.key, documents.state, np.arange(len(documents.key))
    is_waiting = state != SHUT
    first = _firsts(key, is_waiting)[key]
    is_leading = (state == FIRST) | (state == ALONE)
    goes = is_waiting & (place == first) & is_leading
    is_taken = _firsts(key, goes)[key] < len(key)
    now = np.where(goes, GOES, np.where(is_taken | ~is_waiting, SHUT, OPEN))
    nobody = np.zeros(len(key), np.bool_)
    is_open = ~(goes & (state == ALONE))
    return _Answer(is_duplicate=nobody, is_clash=nobody, leader=place, is_open=is_open, state=now.astype(np.int8))


def _in_order(documents: _Documents) -> _Answer:
    """All documents of some texts and keys: what the law says, document by document where two of them meet."""
    text, key, state, place = documents.text, documents.key, documents.state, np.arange(len(documents.text))
    goes = state == GOES
    _, firsts = np.unique(text * (key.max(initial=0) + 1) + key, return_index=True)  # a true copy never goes on
    is_open = np.zeros(len(text), np.bool_)
    is_open[firsts] = state[firsts] == OPEN
    is_contested = (_counts(text, is_open | goes)[text] > 1) | (_counts(key, is_open)[key] > 1)
    goes[is_open & ~is_contested] = True
    has_text, has_key = np.zeros(len(text), np.bool_), np.zeros(len(text), np.bool_)
    has_text[text[goes]] = has_key[key[goes]] = True
    texts, keys = has_text.tolist(), has_key.tolist()
    contested = np.flatnonzero(is_open & is_contested)
    for i, its_text, its_key in zip(contested.tolist(), text[contested].tolist(), key[contested].tolist(), strict=True):
        if not texts[its_text] and not keys[its_key]:
            texts[its_text] = keys[its_key] = goes[i] = True
    leader = _firsts(text, goes)[text]
    is_duplicate = ~goes & (leader < place)
    nobody = np.zeros(len(text), np.bool_)
    return _Answer(
        is_duplicate=is_duplicate, is_clash=~goes & ~is_duplicate, leader=leader, is_open=nobody, state=state
    )


def _firsts(numbers: Ints, which: Bools) -> Ints:
    """Of each number the first place among these; as many as there are places if there is none."""
    firsts = np.full(int(numbers.max(initial=-1)) + 1, len(numbers))
    places = np.flatnonzero(which)[::-1]
    firsts[numbers[places]] = places
    return firsts


def _counts(numbers: Ints, which: Bools) -> Ints:
    """How many of these there are of each number."""
    return np.bincount(numbers[which], minlength=int(numbers.max(initial=-1)) + 1)


def _deal_back(items: tuple[_Item, ...], store: Store, decided: _Decided) -> Mapping[int, pa.Table]:
    """The documents that a bucket loses, by items."""
    lost = store.read(decided.key, "lost")
    firsts = np.array([item.first for item in items])
    return by_bucket(lost, np.searchsorted(firsts, lost["ordinal"].to_numpy() >> 32, side="right") - 1)


def _share(items: tuple[_Item, ...], store: Store, number: int, dealt: Iterator[pa.Table]) -> pa.Table:
    """Seals the documents of each part of an item that go on, and what is to say of the others of all its parts."""
    lost = pa.concat_tables([_LOST_OF_ALL.empty_table(), *dealt]).sort_by("ordinal").combine_chunks()
    ordinals, item = lost["ordinal"].to_numpy(), items[number]
    key_of_lost = _sealed_lost(store, lost) if lost.num_rows else None
    rows: list[dict[str, Any]] = []
    for part, key in enumerate(item.keys, item.first):
        first, stop = np.searchsorted(ordinals, [part << 32, (part + 1) << 32]).tolist()
        own = (key_of_lost, first, stop - first) if stop > first else (None, None, None)
        where = dict(zip(("lost", "lost_first", "lost_rows"), own, strict=True))
        rows.append({**_part(store, part, key, ordinals[first:stop]), **where})
    return pa.Table.from_pylist(rows, schema=SHARES)


def _sealed_lost(store: Store, lost: pa.Table) -> str:
    """The key of `LOST` of an item, once it is stored."""
    places = (lost["ordinal"].to_numpy() & 0xFFFFFFFF).astype(np.uint32)
    rows = pa.table([places, lost["leader"], lost["is_clash"]], schema=LOST)
    digest = _digest(places, keyed.words(rows["leader"]), rows["is_clash"].to_numpy())
    return store.seal(f"dedup.parts/lost-places-{digest}", [("lost", rows)]).key


def _part(store: Store, part: int, key: str, lost: Ordinals) -> dict[str, Any]:
    # Without where their bytes lie: what is computed of them does not change with that.
    table = store.read(key, "documents", [name for name in tables.DOCUMENTS.names if name not in tables.BYTES])
    table = table.filter(pa.array(~_contains(lost, _ordinals(part, table)))).combine_chunks()
    source = tables.whole(table["source"]).dictionary_decode()
    texts = _digest(keyed.words(table["doc_id"]), keyed.words(table["text_id"]), table["place"].to_numpy())
    sizes = [table[name].to_numpy() for name in ("num_bytes", "num_tokens")]
    labels = source.dictionary_encode()
    everything = _digest(
        *sizes, labels.indices.to_numpy(), np.frombuffer("\0".join(labels.dictionary.to_pylist()).encode(), np.uint8)
    )
    kept = store.seal(f"dedup.parts/places-{texts}{everything}", [("documents", table)])
    return {
        "key": kept.key,
        "texts": texts,
        "num_documents": table.num_rows,
        "num_tokens": int(costs(table["num_tokens"].to_numpy()).sum()),
    }


def _ordinals(part: int, table: pa.Table) -> Ordinals:
    return (part << 32) + table["place"].to_numpy().astype(np.int64)


def _numbers(ids: pa.ChunkedArray) -> Ints:
    """A number for each id, the same for equal ones, from 0."""
    high, low = keyed.words(ids).T
    order = np.argsort(high)
    is_new, is_other = _changes(high, order), _changes(low, order)
    if (is_other & ~is_new).any():  # ids that have their first half alone in common
        order = np.lexsort((low, high))
        is_new, is_other = _changes(high, order), _changes(low, order)
    numbers = np.zeros(len(order), np.int64)
    numbers[order[1:]] = np.cumsum(is_new | is_other)
    return numbers


def _changes(values: UInt64, order: Ints) -> Bools:
    """Whether each value but the first differs from the one before it, in this order."""
    ordered = values[order]
    return ordered[1:] != ordered[:-1]


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
