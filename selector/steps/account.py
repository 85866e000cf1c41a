"""The account of a run: how many rows left where, and the files beside the manifest that tell it row by row."""

import functools
import itertools
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from selector.corpus.files import tally
from selector.engine.canonical import canonical_json, fingerprint
from selector.engine.part import Part, stretches
from selector.engine.step import Done
from selector.engine.store import Seal, Store
from selector.manifest.describe import Reasons
from selector.manifest.digest import labels
from selector.plugins.catalogue import RATE
from selector.steps import dedup, survey
from selector.steps.rate import coverage
from selector.steps.select import shards_of
from selector.steps.shards import SHARD_ROWS
from selector.steps.survey import Survey
from selector.storage import sha256_of
from selector.tables import QUARANTINE

_TRIED = ("num_clusters", "silhouette", "mean_distance")
_VERSION = 1  # raise it when the same documents have other sums


def counts(done: Done) -> dict[str, Any]:
    """How many documents there are and how many are kept, as the steps counted them; what the corpus is made of."""
    return {
        "documents": sum(seal.tables["documents"].num_rows for seal in done["ingest"].parts),
        "kept": sum(one["kept"] for one in shards_of(done)),
        "sources": _sources(done),
        "without_source": rows_without_source(done),
        "clusters_tried": [[row[name] for name in _TRIED] for row in _evidence(done)],
    }


def clusters(done: Done) -> dict[str, Any]:
    """Whether the clusters are of use, and what each number of them that was tried comes to; nothing without them."""
    if "cluster" not in done:
        return {}
    (health,) = done.table("cluster", "health").to_pylist()
    return {"cluster": {"health": health, "tried": _evidence(done)}}


def scores(done: Done) -> dict[str, Any]:
    """How many documents have each score; nothing where nothing is rated."""
    covered = {name: of for step in done if step.startswith(RATE) for name, of in coverage(done, step).items()}
    return {"scores": covered} if covered else {}


def _evidence(done: Done) -> list[dict[str, Any]]:
    return done.table("centroids", "evidence").to_pylist() if "centroids" in done else []


def rows_without_source(done: Done) -> int:
    """How many documents have no value in the column of their source."""
    return sum(_rows(seal, "without_source") for seal in done["ingest"].parts)


def files(done: Done, of: Survey) -> dict[str, dict[str, int]]:
    """How many files of the corpus are read, and not read for each reason, by the ending of their names."""
    uris, forms, unread = (survey.inventory(done, of)[name].to_pylist() for name in ("uri", "format", "unread"))
    are_lost = [form is not None and reason is not None for form, reason in zip(forms, unread, strict=True)]
    return tally(uris, unread, are_lost)


def left_out(done: Done) -> dict[str, int]:
    """How many documents are not kept for each reason, duplicates apart."""
    reasons = Reasons()
    for one in shards_of(done):
        decisions = done.store.read(one["key"], "decisions", ["outcome", "reason", "arguments"])
        outcomes, codes = labels(decisions["outcome"])
        decisions = decisions.filter(pa.array(np.isin(outcomes, ["kept", "duplicate"], invert=True)[codes]))
        reasons += Reasons.of(decisions["reason"], decisions["arguments"])
    return reasons.by_heading()


def _sources(done: Done) -> dict[str, list[int]]:
    """Documents and tokens of every source of the corpus."""
    sources: dict[str, list[int]] = {}
    seals = done["ingest"].parts
    items = [seals[stretch] for stretch in _stretches(done)]
    for source, documents, tokens in itertools.chain(*done.map(functools.partial(_sources_of, done.store), items)):
        known = sources.setdefault(source, [0, 0])
        known[0] += documents
        known[1] += tokens
    return sources


def lost(done: Done) -> Counter[tuple[str, str]]:
    """How many files and rows never became documents, by step and reason."""
    seals = done["ingest"].parts
    items = [[seal for seal in seals[stretch] if _lost(seal)] for stretch in _stretches(done)]
    tallies = done.map(functools.partial(_reasons_of, done.store), [item for item in items if item])
    return sum(tallies, _tally(survey.unreadable(done)))


def lost_rows(done: Done) -> Counter[str]:
    """How many rows never became documents, by reason."""
    words = [table["reason"].to_pylist() for table in done.tables("ingest", "quarantine", ["reason"])]
    return Counter(word for part in words for word in part)


def located(quarantine: pa.Table, part: Part) -> pa.Table:
    """The quarantine of a part, with the `row` in its file for the place, and the file's `uri`."""
    places = quarantine["place"].to_numpy()
    uris = [part.at(place)[0] for place in places.tolist()]
    rows = pa.array(part.find(places)[1], pa.int64())
    at = quarantine.schema.get_field_index("place")
    return quarantine.set_column(at, "row", rows).append_column("uri", pa.array(uris, pa.string()))


def write_quarantine(done: Done, parts: Sequence[Part], run_id: str, *, has_keys: bool) -> str:
    """The sha256 of `quarantine.jsonl`, once it is in the run's directory: every quarantined row with its file, step,
    reason and detail. Parts that lost nothing are not looked at; without keys of the corpus's own none can clash."""
    store, shares = done.store, dedup.shares(done)
    steps = [name for name in done if name not in ("survey", "ingest") and done[name].parts]

    def losses(
        index: int, seals: Sequence[Seal], duplicates: dedup.Lost | None, documents: str | None
    ) -> list[_Losses]:
        lost = tuple(seal for seal in seals if _lost(seal))
        return (
            [_Losses(part=parts[index], seals=lost, duplicates=duplicates, documents=documents)]
            if lost or duplicates
            else []
        )

    def bad(index: int) -> list[_Losses]:
        """Rows that never became documents."""
        return losses(index, [done["ingest"].parts[index]], None, None)

    def late(index: int) -> list[_Losses]:
        """Documents that a later step lost."""
        duplicates = dedup.lost_in(shares[index]) if has_keys else None
        return losses(index, [done[name].parts[index] for name in steps], duplicates, shares[index]["key"])

    def lines() -> Iterator[bytes]:
        yield _written(survey.unreadable(done).rename_columns({"place": "row"}))
        for kind in (bad, late):
            items = [
                [one for i in range(*stretch.indices(len(parts))) for one in kind(i)] for stretch in _stretches(done)
            ]
            yield from done.map(functools.partial(_lines_of, store), [item for item in items if item])

    return store.storage.ensure_pieces(f"{run_id}/quarantine.jsonl", lines)


def digest_of_quarantine(store: Store, run_id: str) -> str | None:
    """The sha256 of the `quarantine.jsonl` that is there."""
    return sha256_of(store.storage, f"{run_id}/quarantine.jsonl")


def write_log(store: Store, run_id: str, log: Sequence[Mapping[str, Any]]) -> None:
    """The run's log as JSON lines, a file for every time that it was run. Hosts and times are here and nowhere else."""
    began = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    entries = [{"time": began, "host": socket.gethostname(), "pid": os.getpid()}, *log]
    lines = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
    store.storage.put_if_absent(f"{run_id}/log/{began}-{os.getpid()}.jsonl", lines)


def _stretches(done: Done) -> list[slice]:
    """Consecutive parts of about as many documents as a shard has: what a worker is given at a time."""
    return list(stretches([seal.tables["documents"].num_rows for seal in done["ingest"].parts], SHARD_ROWS))


def _lost(seal: Seal) -> int:
    """How many rows of a part a step lost."""
    return _rows(seal, "quarantine")


def _rows(seal: Seal, table: str) -> int:
    """How many rows a table of an artefact has; 0 where it is not there."""
    return seal.tables[table].num_rows if table in seal.tables else 0


def _tally(quarantine: pa.Table) -> Counter[tuple[str, str]]:
    groups = quarantine.group_by(["step", "reason"], use_threads=False).aggregate([([], "count_all")]).to_pylist()
    return Counter({(group["step"], group["reason"]): group["count_all"] for group in groups})


# What is asked of workers.


@dataclass(frozen=True, kw_only=True)
class _Losses:
    """What was lost of a part: the quarantine of some steps, and what dedup took from it."""

    part: Part
    documents: str | None  # key of those that went on; None: of the rows, whether or not they became documents
    seals: tuple[Seal, ...]
    duplicates: dedup.Lost | None


def _sources_of(store: Store, ingested: Sequence[Seal]) -> list[tuple[str, int, int]]:
    """Documents and tokens of every source of some parts; stored, since they are the same for every selection."""
    key = f"manifest.sources/{fingerprint([_VERSION, *(seal.tables['documents'].sha256 for seal in ingested)])}"
    seal = store.find(key)
    if seal is None:
        read = [store.table(seal, "documents", ["source", "num_tokens"]) for seal in ingested]
        sums = pa.concat_tables(read).unify_dictionaries().group_by("source", use_threads=False)
        seal = store.seal(key, [("sources", sums.aggregate([("num_tokens", "count"), ("num_tokens", "sum")]))])
    rows = store.table(seal, "sources").to_pylist()
    return [(row["source"], row["num_tokens_count"], row["num_tokens_sum"]) for row in rows]


def _reasons_of(store: Store, ingested: Sequence[Seal]) -> Counter[tuple[str, str]]:
    tables_read = [store.table(seal, "quarantine") for seal in ingested]
    return sum(map(_tally, tables_read), Counter[tuple[str, str]]())


def _lines_of(store: Store, lost: Sequence[_Losses]) -> bytes:
    """What was lost of some parts, as JSON lines."""
    duplicates = dedup.lost_of(store, [losses.duplicates for losses in lost])
    pairs = zip(lost, duplicates, strict=True)
    return b"".join(_written(_quarantine_of(store, losses, lost_here)) for losses, lost_here in pairs)


def _quarantine_of(store: Store, losses: _Losses, lost_here: pa.Table) -> pa.Table:
    tables_lost = [store.table(seal, "quarantine") for seal in losses.seals]
    if losses.documents is not None and tables_lost:
        # The corpus's columns are of all rows; those of bad rows and of duplicates are nobody's loss.
        going_on = store.read(losses.documents, "documents", ["place"])["place"].to_numpy()
        tables_lost = [lost.filter(pa.array(np.isin(lost["place"].to_numpy(), going_on))) for lost in tables_lost]
    here = lost_here.filter(lost_here["is_clash"])
    detail = [f"document {leader.hex()} has this key and another text" for leader in here["leader"].to_pylist()]
    columns = [here["leader"], here["place"].cast(pa.int64()), pa.repeat("dedup", len(detail))]
    columns += [pa.repeat("duplicate_key", len(detail)), pa.array(detail, pa.string())]
    tables_lost.append(pa.table(columns, schema=QUARANTINE))
    return located(pa.concat_tables(tables_lost), losses.part)


def _written(quarantine: pa.Table) -> bytes:
    rows = ({**row, "doc_id": row["doc_id"] and row["doc_id"].hex()} for row in quarantine.to_pylist())
    return b"".join(canonical_json(row) + b"\n" for row in rows)
