"""The account of a run: how many rows left where, and the files beside the manifest that tell it row by row."""

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from selector.engine.part import Part
from selector.engine.step import Done
from selector.engine.store import Store, canonical_json
from selector.steps import dedup, survey
from selector.steps.select import decisions_of
from selector.tables import OUTCOMES, QUARANTINE


def counts(done: Done, bad_rows: pa.Table) -> dict[str, Any]:
    """The funnel: how many rows and documents left where, and what the corpus is made of."""
    outcomes: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
    reasons = Counter[str]()
    for table in decisions_of(done, ["outcome", "reason", "arguments"]):
        groups = table.group_by(["outcome", "reason", "arguments"]).aggregate([([], "count_all")])
        for group in groups.to_pylist():
            outcomes[group["outcome"]] += group["count_all"]
            if group["outcome"] in ("left_out", "marked", "quarantined"):
                reasons[group["reason"]] += group["count_all"]
    documents = sum(outcomes.values())
    reasons.update({f"quarantined in {step}: {reason}": count for (step, reason), count in _lost(bad_rows).items()})
    outcomes["quarantined"] += bad_rows.num_rows
    evidence = done.table("centroids", "evidence").to_pylist() if "centroids" in done else []
    return {
        "rows": documents + bad_rows.num_rows,
        "documents": documents,
        **outcomes,
        "reasons": dict(reasons),
        "sources": _sources(done),
        "clusters_tried": [list(row.values()) for row in evidence],
    }


def _sources(done: Done) -> dict[str, list[int]]:
    """Documents and tokens of every source of the corpus."""
    sources: dict[str, list[int]] = {}
    for table in done.tables("ingest", "documents", ["source", "num_tokens"]):
        sums = table.group_by("source").aggregate([("num_tokens", "count"), ("num_tokens", "sum")])
        for row in sums.to_pylist():
            known = sources.setdefault(row["source"], [0, 0])
            known[0] += row["num_tokens_count"]
            known[1] += row["num_tokens_sum"]
    return sources


def bad_rows(done: Done, parts: Sequence[Part]) -> pa.Table:
    """The files and rows that never became documents: `tables.QUARANTINE` and the file's `uri`."""
    lost = [
        of_file(done.store.table(seal, "quarantine"), part.uri)
        for part, seal in zip(parts, done["ingest"].parts, strict=True)
        if seal.tables["quarantine"].num_rows
    ]
    return pa.concat_tables([survey.unreadable(done), *lost])


def lost_rows(done: Done) -> dict[str, int]:
    """How many rows never became documents, by reason."""
    words = [table["reason"].to_pylist() for table in done.tables("ingest", "quarantine", ["reason"])]
    return dict(Counter(word for part in words for word in part))


def of_file(quarantine: pa.Table, uri: str) -> pa.Table:
    """The quarantine of a part or a file, with the file's `uri`."""
    return quarantine.append_column("uri", pa.repeat(uri, quarantine.num_rows))


def write_quarantine(done: Done, parts: Sequence[Part], bad: pa.Table, run_id: str) -> None:
    """`quarantine.jsonl` in the run's directory: every quarantined row with its file, step, reason and detail."""
    lost = [bad]
    steps = [name for name in done if name not in ("survey", "ingest") and done[name].parts]
    for index, part in enumerate(parts):
        seals = [seal for seal in (done[name].parts[index] for name in steps) if seal.tables["quarantine"].num_rows]
        if seals:  # the corpus's columns are of all rows; those of bad rows and of duplicates are nobody's loss
            rows = done.store.read(dedup.shares(done)[index]["key"], "documents", ["row"])["row"]
            quarantined = pa.concat_tables(done.store.table(seal, "quarantine") for seal in seals)
            lost.append(
                of_file(quarantined.filter(pa.array(np.isin(quarantined["row"].to_numpy(), rows.to_numpy()))), part.uri)
            )
        lost_here = dedup.lost_of(done.store, dedup.shares(done)[index]["lost"])
        here = lost_here.filter(lost_here["is_clash"])
        if here.num_rows:
            detail = [f"document {leader.hex()} has this key and another text" for leader in here["leader"].to_pylist()]
            columns = [here["leader"], here["row"].cast(pa.int64()), pa.repeat("dedup", len(detail))]
            columns += [pa.repeat("duplicate_key", len(detail)), pa.array(detail, pa.string())]
            lost.append(of_file(pa.table(columns, schema=QUARANTINE), part.uri))
    told = ({**row, "doc_id": row["doc_id"] and row["doc_id"].hex()} for row in pa.concat_tables(lost).to_pylist())
    done.store.storage.ensure(f"{run_id}/quarantine.jsonl", b"".join(canonical_json(row) + b"\n" for row in told))


def write_log(store: Store, run_id: str, log: Sequence[Mapping[str, Any]]) -> None:
    """The run's log as JSON lines, a file for every time that it was run. Hosts and times are here and nowhere else."""
    began = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    entries = [{"time": began, "host": socket.gethostname(), "pid": os.getpid()}, *log]
    lines = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
    store.storage.put_if_absent(f"{run_id}/log/{began}-{os.getpid()}.jsonl", lines)


def _lost(bad_rows: pa.Table) -> dict[tuple[str, str], int]:
    groups = bad_rows.group_by(["step", "reason"]).aggregate([([], "count_all")]).to_pylist()
    return {(group["step"], group["reason"]): group["count_all"] for group in groups}
