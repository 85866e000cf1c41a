"""How a manifest is made of what the steps decided: everything is stored, added up and compared, manifest.json last.

The work is done part by part, on workers: a part of the decisions is checked and copied, a part of the visits is
written, hashed and dealt out, by doc_id for ids.parquet and by place in the corpus to be compared with the decisions.
Whoever commits adds up what they say and writes manifest.json; what it holds grows with the number of parts.
"""

import functools
import hashlib
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from selector import failpoint, tables
from selector.engine.canonical import fingerprint
from selector.engine.exchange import by_bucket, collected
from selector.engine.step import Done
from selector.engine.store import Seal, Store, parquet_pieces, to_arrow, to_parquet
from selector.errors import DamagedError, SelectorError
from selector.manifest.describe import Reasons, sentence
from selector.manifest.digest import labels, root
from selector.manifest.format import canonical, opened, part_bytes, read_table
from selector.manifest.header import Counts, DecisionPart, Facts, Header, Parent, Part, Phase, seal
from selector.manifest.ids import by_prefix, index_pieces, listed_in
from selector.manifest.ledger import Decided, Ledger, Listed, Visited, decided, left_in, listed, seen_in, visited
from selector.manifest.manifest import Manifest
from selector.manifest.match import STRETCH_ROWS, Matched, Stretch
from selector.manifest.places import Places
from selector.manifest.publish import Publisher

PART_ROWS = 1 << 18

RANGE_ROWS = 1 << 18  # about so many rows of ids.parquet are sorted at a time
_UNVISITED_ROWS = 1 << 20  # of a row group of unvisited.parquet
_VERSION = 1  # raise it when the same tables are dealt or summed up in another way
_UNSEALED = "0" * 64


@dataclass(frozen=True, kw_only=True)
class Visits:
    """The visits of a part of the manifest, in the order of training.

    `read`, which a worker can be sent, gives the columns of `tables.MANIFEST` (positions, token starts and nullable
    ones may be absent), `reason` as a template and its `arguments`.
    """

    read: Callable[[], pa.Table]
    rows: int
    tokens: int


def commit(
    done: Done,
    prefix: str,
    *,
    parts: Sequence[Visits],
    decisions: Sequence[Seal],
    unvisited: Sequence[Callable[[], pa.Table]] = (),
    files: pa.Table,
    counts: Mapping[str, Any],
    lost: Mapping[str, int] = MappingProxyType({}),
    policy: Mapping[str, Any],
    lineage: Mapping[str, str],
    models: Mapping[str, Any],
    versions: Mapping[str, str],
    plugins: Mapping[str, Any] | None = None,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    phases: Mapping[str, Mapping[str, Any]] | None = None,
    parent: Parent | None = None,
) -> Manifest:
    """The manifest, once all of it is stored: in `<prefix>/manifest/` and, beside it, `<prefix>/decisions/`.

    `parts` are the visits, as many rows to a part as a part has. `decisions` are artefacts whose table `decisions`,
    `tables.DECISIONS` in corpus order, is Parquet in an object of its own, which is taken over byte for byte;
    `unvisited` read, for the documents of each of those, what the order does not visit: doc_id, file, row, reason and
    arguments. `files` is `tables.FILES`. `counts` is what the steps counted, under any of these names: `rows` of the
    corpus and the `documents` among them; documents `kept`, `left_out`, `duplicate`, `marked`, and rows or documents
    `quarantined`; `reasons`, how many were left out, marked or quarantined by reason (`Reasons.by_heading`); `sources`,
    `without_source` and `clusters_tried` as in `Counts`. They are compared with the tables; what is not told, the
    tables tell. `lost` are the rows that never became documents, by reason. `facts` are those of "select", "order",
    "corpus", "cluster" and "repeats", `phases` what the order says of a phase.

    Safe to call again after a crash anywhere, and from several processes at once: the same content gives the
    same bytes, whoever finishes first has committed, and all get the same manifest. Raises SelectorError if
    something does not add up, which is a fault of ours; nothing is committed then.
    """
    assert len(unvisited) in (0, len(decisions)), "what is left is told for the documents of each table of decisions"
    store, home, places = done.store, f"{prefix}/manifest", Places(files)
    publisher = Publisher(store.storage, home, f"{prefix}/decisions")
    work = _Work(store=store, passing=done.passing, publisher=publisher, places=places)
    ledger = Ledger(places)
    failpoint.reach("commit.before_parts")

    checked = list(done.map(work.check, list(enumerate(decisions))))
    for one in checked:
        ledger.decide(one.sums)
    stretches, cuts = _stretches([one.sums for one in checked])

    num_ranges = max(1, -(-sum(part.rows for part in parts) // RANGE_ROWS))
    written = list(done.map(functools.partial(work.write, cuts, num_ranges), _in_line(parts)))
    for one in written:
        ledger.visit(one.sums)
    dealt = tuple(one.dealt for one in written)

    ranges = list(done.map(functools.partial(work.sort_ids, dealt), range(num_ranges)))
    for one in ranges:
        ledger.look_up(one.sums)

    left = list(done.map(work.leave, unvisited))
    for one in left:
        ledger.leave(one.rows, one.problem)
    if ledger.is_ordered:
        items = [
            (number, tuple(one.kept for one in checked[stretch]), tuple(one.key for one in left[stretch] if one.rows))
            for number, stretch in enumerate(stretches)
        ]
        for sums in done.map(functools.partial(work.match, dealt), items):
            ledger.match(sums)
    ledger.reconcile()

    stored_files = publisher.table("files", len(files), to_parquet(canonical(files, tables.FILES)))
    index = functools.partial(_index, store, [one.key for one in ranges])
    stored_ids = publisher.file("ids", ledger.num_visits, index)
    stored_unvisited = None
    if ledger.num_left:
        stored_unvisited = publisher.file("unvisited", ledger.num_left, functools.partial(_unvisited, store, left))
    failpoint.reach("commit.after_parts")
    own, num_lost = ledger.counts(), sum(lost.values())
    counted: dict[str, Any] = {
        "rows": own["documents"] + num_lost,
        "reasons": dict(Counter(ledger.reasons.by_heading()) + Counter(lost)),
        "sources": {},
        "without_source": 0,
        "clusters_tried": (),
        **own,
        "quarantined": own["quarantined"] + num_lost,
        **counts,
    }
    problems = [*ledger.problems, *ledger.disagreements(counted)]
    if problems:
        raise SelectorError(f"The manifest of {prefix} does not add up, which is a fault of ours. {' '.join(problems)}")
    all_facts: dict[str, Mapping[str, Any]] = {"select": {}, "order": {}, **(facts or {})}
    if ledger.num_left:
        reasons = functools.reduce(operator.add, (one.reasons for one in left))
        all_facts["order"] = {**all_facts["order"], "left": reasons.by_heading()}
    header = Header(
        digest=_UNSEALED,
        order_digest=root(ledger.leaf_digests()),
        leaf_digests=tuple(ledger.leaf_digests()),
        counts=Counts(**counted),
        facts=Facts(**all_facts),
        parts=tuple(one.part for one in written),
        files=stored_files,
        ids=stored_ids,
        unvisited=stored_unvisited,
        decisions=tuple(one.part for one in checked),
        phases=tuple(Phase(**phase, facts=(phases or {}).get(phase["name"], {})) for phase in ledger.phases),
        policy=policy,
        lineage=lineage,
        models=models,
        plugins=plugins or {},
        versions=versions,
        parent=parent,
    )
    content = header.to_json()
    Header.from_json(content)  # raises ValueError where a step told something else than the format holds
    data = seal(content)
    failpoint.reach("commit.before_manifest")
    publisher.manifest(data)
    failpoint.reach("commit.after_manifest")
    return Manifest(store.storage, home, data)


def _stretches(checked: Sequence[Decided]) -> tuple[list[slice], tuple[int, ...]]:
    """Which parts of the decisions are compared with the visits at a time, and at which places the corpus is cut so."""
    stretches, cuts, begin, num_kept = list[slice](), list[int](), 0, 0
    for end, sums in enumerate(checked):
        if num_kept >= STRETCH_ROWS and sums.rows:
            stretches.append(slice(begin, end))
            cuts.append(sums.first)
            begin, num_kept = end, 0
        num_kept += sums.num_kept
    return [*stretches, slice(begin, len(checked))], tuple(cuts)


def _in_line(parts: Sequence[Visits]) -> list["_ToWrite"]:
    """The parts, each with the visits and tokens before it."""
    items: list[_ToWrite] = []
    first = first_token = 0
    for number, visits in enumerate(parts):
        items.append(_ToWrite(number=number, visits=visits, first=first, first_token=first_token))
        first, first_token = first + visits.rows, first_token + visits.tokens
    return items


def _index(store: Store, keys: Sequence[str]) -> Iterator[bytes]:
    """ids.parquet, range after range."""
    return index_pieces(store.read(key, "rows") for key in keys)


def _unvisited(store: Store, left: Sequence["_Left"]) -> Iterator[bytes]:
    """unvisited.parquet. Its sentences are numbered as they appear in the whole."""
    numbers = {word: number for number, word in enumerate(dict.fromkeys(word for one in left for word in one.words))}
    words = pa.array(list(numbers), pa.string())

    def renumbered() -> Iterator[pa.Table]:
        for one in left:
            if one.rows:
                rows = store.read(one.key, "unvisited")
                codes = np.array([numbers[word] for word in one.words], np.int32)
                at = rows.schema.get_field_index("reason")
                own = rows["reason"].combine_chunks().indices.to_numpy()
                reason = pa.DictionaryArray.from_arrays(codes[own], words)
                yield rows.set_column(at, tables.UNVISITED.field(at), reason)

    return parquet_pieces(renumbered(), tables.UNVISITED, _UNVISITED_ROWS)


# What is asked of workers.


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """A part of the decisions, once it is stored, and the key of those of its documents that are kept."""

    part: DecisionPart
    sums: Decided
    kept: str


@dataclass(frozen=True, kw_only=True)
class _ToWrite:
    """A part of the visits, and how many visits and tokens come before it."""

    number: int
    visits: Visits
    first: int
    first_token: int


@dataclass(frozen=True, kw_only=True)
class _Written:
    """A part of the visits, once it is stored, and the key of what was dealt of it."""

    part: Part
    sums: Visited
    dealt: str


@dataclass(frozen=True, kw_only=True)
class _Range:
    """A range of ids.parquet: the key of its rows."""

    key: str
    sums: Listed


@dataclass(frozen=True, kw_only=True)
class _Left:
    """What the order does not visit of the documents of a part of the decisions: the key of its rows, if it has any."""

    key: str = ""
    rows: int = 0
    words: tuple[str, ...] = ()  # the sentences of its reasons, as its labels are numbered
    reasons: Reasons = field(default_factory=Reasons)
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Work:
    """Whatever it stores under a key beside the manifest follows from the key alone."""

    store: Store
    passing: str
    publisher: Publisher
    places: Places

    def check(self, item: tuple[int, Seal]) -> _Checked:
        """Checks and stores a part of the decisions."""
        number, of_part = item
        data, source = self.store.blob(of_part, "decisions"), of_part.tables["decisions"]
        assert source.is_alone, "an object that holds more is not the table"
        table = _decisions(data)
        sums, kept = decided(table, self.places)
        name, sha256 = self.publisher.part("decisions", number, data, source.key)
        file, row = (table[column][0].as_py() if len(table) else 0 for column in ("file", "row"))
        part = DecisionPart(name=name, rows=len(table), sha256=sha256, first_file=file, first_row=row)
        return _Checked(part=part, sums=sums, kept=self._keep("kept", [sha256], {"kept": kept}))

    def write(self, cuts: tuple[int, ...], num_ranges: int, item: _ToWrite) -> _Written:
        """Writes a part of the visits, and deals its rows: those of a range of ids.parquet are in the table
        `ids.<number>`, those of a stretch of the corpus in `seen.<number>`."""
        rows = _whole(item.visits.read(), item.first, item.first_token)
        assert len(rows) == item.visits.rows, f"a part of {item.visits.rows} rows has {len(rows)}"
        sums, seen = visited(rows, self.places, item.first, item.first_token), seen_in(rows, self.places)
        name, sha256 = self.publisher.part("parts", item.number, part_bytes(rows))
        index = listed_in(rows["doc_id"], rows["position"])
        ranges = (index["prefix"].to_numpy() >> np.uint64(32)) * np.uint64(num_ranges) >> np.uint64(32)
        stretches = np.searchsorted(np.array(cuts, np.int64), seen["place"].to_numpy(), side="right")
        dealt = {f"ids.{number}": table for number, table in by_bucket(index, ranges).items()}
        dealt |= {f"seen.{number}": table for number, table in by_bucket(seen, stretches).items()}
        part = Part(name=name, rows=len(rows), sha256=sha256, first_position=item.first)
        return _Written(part=part, sums=sums, dealt=self._keep("dealt", [sha256, cuts, num_ranges], dealt))

    def sort_ids(self, dealt: tuple[str, ...], number: int) -> _Range:
        """Sorts a range of ids.parquet."""
        rows = by_prefix(pa.concat_tables([tables.IDS.empty_table(), *collected(self.store, dealt, f"ids.{number}")]))
        return _Range(key=self._keep("ids", [dealt, number], {"rows": rows}), sums=listed(rows))

    def leave(self, read: Callable[[], pa.Table]) -> _Left:
        """Says why the order does not visit some documents."""
        rows = read()
        if not rows.num_rows:
            return _Left()
        unvisited = canonical(_with_sentences(rows), tables.UNVISITED)
        left, problem = left_in(unvisited, self.places)
        digest = hashlib.sha256(to_arrow(unvisited)).hexdigest()
        return _Left(
            key=self._keep("left", [digest], {"unvisited": unvisited, "left": left}),
            rows=len(unvisited),
            words=tuple(unvisited["reason"].combine_chunks().dictionary.to_pylist()),
            reasons=Reasons.of(rows["reason"].cast(tables.LABEL), rows["arguments"].cast(tables.LABEL)),
            problem=problem,
        )

    def match(self, dealt: tuple[str, ...], item: tuple[int, tuple[str, ...], tuple[str, ...]]) -> Matched:
        """Compares a stretch of the decisions, which has these keys, with its visits and with what is left of it."""
        number, kept, left = item
        stretch = Stretch([self.store.read(key, "kept") for key in kept])
        for seen in collected(self.store, dealt, f"seen.{number}"):
            stretch.visit(seen)
        for key in left:
            stretch.leave(self.store.read(key, "left"))
        return stretch.matched()

    def _keep(self, kind: str, inputs: Sequence[Any], kept: Mapping[str, pa.Table]) -> str:
        """The key of tables that are needed until the manifest is committed, once they are stored."""
        key = f"{self.passing}/{kind}/{fingerprint([_VERSION, self.places.digest, *inputs])}"
        return self.store.seal(key, kept.items(), form="arrow").key


def _whole(rows: pa.Table, first: int, first_token: int) -> pa.Table:
    """`tables.MANIFEST` of the visits from a position on, before which there are so many tokens."""
    rows = _with_sentences(rows)
    num_tokens = rows["num_tokens"].to_numpy().astype(np.int64)
    added: dict[str, Any] = {"token_start": pa.array(first_token + np.cumsum(num_tokens) - num_tokens)}
    if "position" not in rows.schema.names:
        added["position"] = pa.array(np.arange(first, first + len(rows)))
    for column in tables.MANIFEST:
        if column.nullable and column.name not in rows.schema.names:
            added[column.name] = pa.nulls(len(rows), column.type)
    columns = [added[name] if name in added else rows[name] for name in tables.MANIFEST.names]
    return canonical(pa.table(columns, names=tables.MANIFEST.names), tables.MANIFEST)


def _decisions(data: bytes) -> pa.Table:
    """What is checked of the decisions in Parquet bytes that a step sealed."""
    try:
        file = opened("the decisions", pa.BufferReader(data), tables.DECISIONS)
        return read_table("the decisions", file, ["doc_id", "file", "row", "outcome", "reason", "arguments"])
    except DamagedError as error:
        raise SelectorError(
            f"The decisions are not `tables.DECISIONS`, which is a fault of ours: {error.reason}."
        ) from error


def _with_sentences(table: pa.Table) -> pa.Table:
    """The table with its `reason` as a sentence, made of the template and the arguments."""
    templates, codes = labels(table["reason"].cast(tables.LABEL))
    arguments, argument_codes = [""], np.zeros(len(table), np.int32)
    if "arguments" in table.schema.names:
        arguments, argument_codes = labels(table["arguments"].cast(tables.LABEL))
    pairs = pa.array(codes.astype(np.int64) * len(arguments) + argument_codes).dictionary_encode()
    sentences = [
        sentence(templates[pair // len(arguments)], arguments[pair % len(arguments)] or None)
        for pair in pairs.dictionary.to_pylist()
    ]
    column = pa.DictionaryArray.from_arrays(pairs.indices, pa.array(sentences, pa.string()))
    return table.set_column(table.schema.get_field_index("reason"), "reason", [column])
