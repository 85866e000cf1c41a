"""How a manifest is made of what the steps decided: everything is stored, added up and compared, manifest.json last."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from selector import failpoint, tables
from selector.engine.store import to_parquet
from selector.errors import DamagedError, SelectorError
from selector.manifest.describe import sentence
from selector.manifest.format import canonical, opened, part_bytes, read_table
from selector.manifest.header import Counts, DecisionPart, Facts, Header, Parent, Part, Phase, seal
from selector.manifest.ids import UInt64, index_bytes, index_of, prefixes_of
from selector.manifest.ledger import Ledger, labels, root
from selector.manifest.manifest import Manifest
from selector.manifest.publish import Publisher
from selector.storage import Storage

PART_ROWS = 1_048_576

_UNSEALED = "0" * 64


def commit(
    storage: Storage,
    prefix: str,
    *,
    parts: Iterable[pa.Table],
    unvisited: pa.Table | None = None,
    files: pa.Table,
    decisions: Iterable[bytes],
    counts: Mapping[str, Any],
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

    `parts` are the visits in the order of training, as many rows to a part as a part has, with the columns of
    `tables.MANIFEST` (positions, token starts and nullable ones may be absent), `reason` as a template and its
    `arguments`: see `laid_out`. `unvisited` has doc_id, file, row, reason and arguments of what the order does not
    visit; `files` is `tables.FILES`; `decisions` are tables of `tables.DECISIONS` in corpus order as Parquet, which
    are stored byte for byte.
    `counts` is what the steps counted, under any of these names: `rows` of the corpus and the `documents` among them;
    documents `kept`, `left_out`, `duplicate`, `marked`, and rows or documents `quarantined`; `reasons`, how many were
    left out, marked or quarantined by the template of the reason; `sources` and `clusters_tried` as in `Counts`. They
    are compared with the tables. `facts` are those of "select" and "order", `phases` what the order says of a phase.

    Safe to call again after a crash anywhere, and from several processes at once: the same content gives the
    same bytes, whoever finishes first has committed, and all get the same manifest. Raises SelectorError if
    something does not add up, which is a fault of ours; nothing is committed then.
    """
    home = f"{prefix}/manifest"
    publisher = Publisher(storage, home, f"{prefix}/decisions")
    ledger = Ledger(files)
    problems: list[str] = []
    failpoint.reach("commit.before_parts")
    decided: list[DecisionPart] = []
    for data in decisions:
        table = _decisions(data)
        ledger.decide(table)
        name, sha256 = publisher.part("decisions", len(decided), data)
        file, row = (table[column][0].as_py() if len(table) else 0 for column in ("file", "row"))
        decided.append(DecisionPart(name=name, rows=len(table), sha256=sha256, first_file=file, first_row=row))
    stored: list[Part] = []
    prefixes: list[UInt64] = []
    for visits in parts:
        rows = _numbered(visits, ledger)
        first = ledger.num_visits
        ledger.visit(rows)
        prefixes.append(prefixes_of(rows["doc_id"]))
        name, sha256 = publisher.part("parts", len(stored), part_bytes(rows))
        stored.append(Part(name=name, rows=len(rows), sha256=sha256, first_position=first))
    index = index_of(prefixes)
    ledger.look_up(index)
    stored_files = publisher.table("files", len(files), to_parquet(canonical(files, tables.FILES)))
    stored_ids = publisher.table("ids", len(index), index_bytes(index))
    stored_unvisited = None
    if unvisited is not None and len(unvisited):
        told_apart = canonical(_with_sentences(unvisited), tables.UNVISITED)
        ledger.leave(told_apart)
        stored_unvisited = publisher.table("unvisited", len(told_apart), to_parquet(told_apart))
    failpoint.reach("commit.after_parts")
    ledger.reconcile()
    own = ledger.counts()
    counted: dict[str, Any] = {
        "rows": own["documents"],
        "reasons": ledger.reasons,
        "sources": {},
        "clusters_tried": (),
        **own,
        **counts,
    }
    problems += [*ledger.problems, *ledger.disagreements(counted)]
    if problems:
        raise SelectorError(f"The manifest of {prefix} does not add up, which is a fault of ours. {' '.join(problems)}")
    told: dict[str, Mapping[str, Any]] = {"select": {}, "order": {}, **(facts or {})}
    if unvisited is not None and len(unvisited):
        told["order"] = {**told["order"], "left": _tally(unvisited)}
    header = Header(
        digest=_UNSEALED,
        order_digest=root(ledger.leaf_digests()),
        leaf_digests=tuple(ledger.leaf_digests()),
        counts=Counts(**counted),
        facts=Facts(**told),
        parts=tuple(stored),
        files=stored_files,
        ids=stored_ids,
        unvisited=stored_unvisited,
        decisions=tuple(decided),
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
    return Manifest(storage, home, data)


def laid_out(chosen: pa.Table, visits: pa.Table, part_rows: int = PART_ROWS) -> Iterator[pa.Table]:
    """The visits part by part, from tables in memory: `visits` (`tables.VISITS`) lists rows of `chosen`, which has the
    columns of `tables.MANIFEST` that belong to a document and the `arguments` of its reason."""
    assert part_rows > 0
    names = [name for name in (*tables.MANIFEST.names, "arguments") if name in chosen.schema.names]
    chosen = chosen.select(names).unify_dictionaries().combine_chunks()
    for first in range(0, visits.num_rows, part_rows):
        listed = visits.slice(first, part_rows).combine_chunks()
        rows = chosen.take(listed["document"])
        for name in ("visit", "phase", "loss_weight"):
            rows = rows.append_column(name, listed[name])
        yield rows


def _numbered(visits: pa.Table, ledger: Ledger) -> pa.Table:
    """A part of the manifest, `tables.MANIFEST`, after what the ledger has seen."""
    rows = _with_sentences(visits)
    ends = ledger.num_tokens + np.cumsum(rows["num_tokens"].to_numpy(), dtype=np.int64)
    columns = {
        "position": pa.array(np.arange(ledger.num_visits, ledger.num_visits + len(rows))),
        "token_start": pa.array(ends - rows["num_tokens"].to_numpy()),
    }
    for field in tables.MANIFEST:
        if field.nullable and field.name not in rows.schema.names:
            columns[field.name] = pa.nulls(len(rows), field.type)
    for name, values in columns.items():
        rows = rows.drop_columns([name] if name in rows.schema.names else []).append_column(name, values)
    return canonical(rows, tables.MANIFEST)


def _decisions(data: bytes) -> pa.Table:
    """The decisions in Parquet bytes that a step sealed."""
    try:
        return read_table("the decisions", opened("the decisions", data, tables.DECISIONS))
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
    pairs, inverse = np.unique(codes.astype(np.int64) * len(arguments) + argument_codes, return_inverse=True)
    told = [
        sentence(templates[pair // len(arguments)], arguments[pair % len(arguments)] or None) for pair in pairs.tolist()
    ]
    column = pa.DictionaryArray.from_arrays(inverse.astype(np.int32), pa.array(told, pa.string()))
    return table.set_column(table.schema.get_field_index("reason"), "reason", [column])


def _tally(left: pa.Table) -> dict[str, int]:
    """How many rows the order leaves, by the template of the reason."""
    counted = left["reason"].cast(pa.string()).combine_chunks().value_counts().to_pylist()
    return {pair["values"]: pair["counts"] for pair in counted}
