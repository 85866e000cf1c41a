"""The account of a run: how many rows left where, and the files beside the manifest that tell it row by row."""

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from selector.engine.store import Seal, Store, canonical_json
from selector.steps.gather import Corpus
from selector.tables import FATES, QUARANTINE


def counts(corpus: Corpus, bad_rows: pa.Table, fates: Seal, centroids: Seal) -> dict[str, Any]:
    """The funnel: how many rows and documents left where, and what the corpus is made of."""
    by_fate: dict[str, int] = dict.fromkeys(FATES, 0)
    reasons: dict[str, int] = {}
    for name in fates.tables:
        table = corpus.store.table(fates, name, ["fate", "reason"])
        for group in table.group_by(["fate", "reason"]).aggregate([([], "count_all")]).to_pylist():
            by_fate[group["fate"]] += group["count_all"]
            if group["fate"] in ("left_out", "quarantined"):
                word = _short(group["reason"])
                reasons[word] = reasons.get(word, 0) + group["count_all"]
    documents = sum(by_fate.values())
    for group in bad_rows.group_by(["step", "reason"]).aggregate([([], "count_all")]).to_pylist():
        reasons[f"quarantined in {group['step']}: {group['reason']}"] = group["count_all"]
    by_fate["quarantined"] += bad_rows.num_rows
    return {
        "rows": documents + bad_rows.num_rows,
        "documents": documents,
        **by_fate,
        "reasons": reasons,
        "sources": _sources(corpus),
        "clusters_tried": [list(row.values()) for row in corpus.store.table(centroids, "evidence").to_pylist()],
    }


def _sources(corpus: Corpus) -> dict[str, list[int]]:
    """Documents and tokens of every source of the corpus."""
    sources: dict[str, list[int]] = {}
    for part in corpus.parts:
        table = corpus.store.table(part.documents, "documents", ["source", "num_tokens"])
        sums = table.group_by("source").aggregate([("num_tokens", "count"), ("num_tokens", "sum")])
        for row in sums.to_pylist():
            known = sources.setdefault(row["source"], [0, 0])
            known[0] += row["num_tokens_count"]
            known[1] += row["num_tokens_sum"]
    return sources


def bad_rows(corpus: Corpus, unreadable: pa.Table) -> pa.Table:
    """The files and rows that never became documents: `tables.QUARANTINE` and the file's `uri`."""
    lost = [
        of_file(corpus.store.table(part.documents, "quarantine"), part.part.uri)
        for part in corpus.parts
        if part.documents.tables["quarantine"].num_rows
    ]
    return pa.concat_tables([unreadable, *lost])


def reasons(store: Store, documents: Sequence[Seal]) -> dict[str, int]:
    """How many rows never became documents, by reason."""
    words = [store.table(seal, "quarantine", ["reason"])["reason"].to_pylist() for seal in documents]
    return dict(Counter(word for part in words for word in part))


def of_file(quarantine: pa.Table, uri: str) -> pa.Table:
    """The quarantine of a part or a file, with the file's `uri`."""
    return quarantine.append_column("uri", pa.repeat(uri, quarantine.num_rows))


def write_quarantine(corpus: Corpus, bad: pa.Table, run_id: str) -> None:
    """`quarantine.jsonl` in the run's directory: every quarantined row with its file, step, reason and detail."""
    lost = [bad]
    for part in corpus.parts:
        seals = [seal for seal in part.tables.values() if seal.tables["quarantine"].num_rows]
        lost += [of_file(corpus.store.table(seal, "quarantine"), part.part.uri) for seal in seals]
        clashes = corpus.clashes.filter(pc.field("part") == part.index)
        if clashes.num_rows:
            detail = [
                f"document {leader.hex()} has this key and another text"
                for leader in clashes["duplicate_of"].to_pylist()
            ]
            columns = [clashes["duplicate_of"], clashes["row"].cast(pa.int64()), pa.repeat("dedup", len(detail))]
            columns += [pa.repeat("duplicate_key", len(detail)), pa.array(detail, pa.string())]
            lost.append(of_file(pa.table(columns, schema=QUARANTINE), part.part.uri))
    told = ({**row, "doc_id": row["doc_id"] and row["doc_id"].hex()} for row in pa.concat_tables(lost).to_pylist())
    corpus.store.storage.ensure(f"{run_id}/quarantine.jsonl", b"".join(canonical_json(row) + b"\n" for row in told))


def write_log(store: Store, run_id: str, log: Sequence[Mapping[str, Any]]) -> None:
    """The run's log as JSON lines, a file for every time that it was run. Hosts and times are here and nowhere else."""
    began = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    entries = [{"time": began, "host": socket.gethostname(), "pid": os.getpid()}, *log]
    lines = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
    store.storage.put_if_absent(f"{run_id}/log/{began}-{os.getpid()}.jsonl", lines)


def _short(reason: str) -> str:
    """A reason without its cluster, for a short funnel: "cluster 17: beyond quota 12" is "beyond quota"."""
    if not reason.startswith("cluster "):
        return reason
    return " ".join(word for word in reason.split(": ", 1)[-1].split() if not word.isdigit())
