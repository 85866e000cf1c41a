"""Manifest: all that the steps decided, committed as one immutable list of visits. It is written last."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from selector import exact
from selector.corpus.columns import Column
from selector.engine.exchange import by_bucket, exchange
from selector.engine.step import APART, Done, Tables, Whole
from selector.engine.store import Seal, Store, fingerprint
from selector.errors import SelectorError
from selector.manifest import Manifest, commit
from selector.manifest.commit import PART_ROWS
from selector.steps import account, order, select, survey
from selector.steps.chosen import Chosen, ChosenShard
from selector.steps.survey import Survey

_FIXED = ("doc_id", "source", "cluster", "file", "row", "num_tokens", "inclusion_probability", "reason", "arguments")
_MADE = pa.schema([("run", pa.string()), ("digest", pa.string()), ("visits", pa.int64())])


@dataclass(frozen=True, kw_only=True)
class ManifestStep(Whole):
    """`manifest`: the run and the digest of the manifest that was committed."""

    name: str = field(default="manifest", metadata=APART)
    version = 3

    survey: Survey = field(metadata=APART)
    policy: Mapping[str, Any]
    models: Mapping[str, Any]
    plugins: Mapping[str, Any]
    versions: Mapping[str, str]
    chosen: Chosen = field(metadata=APART)  # with the scores that it carries, under the names that they have there
    columns: tuple[Column, ...] = field(metadata=APART)

    def inputs(self, done: Done) -> Any:
        return [run_id(done), self._lineage(done)]

    def _lineage(self, done: Done) -> dict[str, str]:
        """The fingerprints of all steps; a survey's is about a file's times, and what it found is in files.parquet."""
        return {name: result.fingerprint for name, result in done.items() if name != "survey"}

    def rows_out(self, seal: Seal, store: Store) -> int:
        return _made(seal, store)["visits"]

    def num_bytes(self, seal: Seal, store: Store) -> int:
        home = _made(seal, store)["run"]
        return sum(size for _, size in store.storage.list(f"{home}/manifest/"))

    def is_sound(self, seal: Seal, store: Store) -> bool:
        committed = _made(seal, store)
        try:
            manifest = Manifest.open(f"{store.storage.address}/{committed['run']}")
            return manifest.verify().ok and manifest.digest == committed["digest"]
        except (SelectorError, OSError):
            return False

    def compute(self, done: Done) -> Tables:
        home, store = run_id(done), done.store
        bad_rows = account.bad_rows(done, survey.parts(done, self.survey))
        told = order.facts_of(done)
        manifest = commit(
            store.storage,
            home,
            parts=self._parts(done),
            unvisited=self._unvisited(done),
            files=survey.inventory(done),
            decisions=_decisions(done),
            counts=account.counts(done, bad_rows),
            facts={"select": select.facts_of(done), "order": told["facts"]},
            phases=told["phases"],
            policy=self.policy,
            lineage=self._lineage(done),
            models=self.models,
            plugins=self.plugins,
            versions=self.versions,
        )
        committed = {"run": home, "digest": manifest.digest, "visits": len(manifest)}
        yield "manifest", pa.Table.from_pylist([committed], schema=_MADE)

    def _parts(self, done: Done) -> Iterator[pa.Table]:
        """The visits, part by part: shards deal their rows, and each part puts its own in order."""
        items = [
            (shard, one["key"]) for shard, one in zip(self.chosen.shards(done), order.shards_of(done), strict=True)
        ]
        num_parts = -(-sum(one["visits"] for one in order.shards_of(done)) // PART_ROWS)
        names = tuple(column.name for column in self.columns)
        if num_parts:
            own = self.fingerprint(done)
            deal, line_up = functools.partial(_deal, names), functools.partial(_line_up, own)
            keys = exchange(done, "manifest", own, items, num_parts, deal, line_up)
            for key in keys:
                yield done.store.read(key, "rows")

    def _unvisited(self, done: Done) -> pa.Table | None:
        """What the order does not visit, in corpus order."""
        left: list[pa.Table] = []
        for shard, one in zip(self.chosen.shards(done), order.shards_of(done), strict=True):
            rows = done.store.read(one["key"], "left")
            if rows.num_rows:
                batch = pa.Table.from_batches([shard.read(done.store).select(["doc_id", "file", "row"])])
                taken = batch.take(rows["document"])
                for name in ("reason", "arguments"):
                    taken = taken.append_column(name, rows[name])
                left.append(taken)
        return pa.concat_tables(left).unify_dictionaries() if left else None


def _deal(scores: tuple[str, ...], store: Store, item: tuple[ChosenShard, str]) -> Mapping[int, pa.Table]:
    """The visits of a shard's documents, by the part of the manifest that they fall into."""
    shard, key = item
    positions = store.read(key, "positions")
    chosen = pa.Table.from_batches([shard.read(store)])
    for name in ("difficulty", "quality"):
        values = pa.nulls(len(chosen), pa.float32())
        if name in scores:
            values = pa.array(exact.floats(chosen[name]).astype(np.float32), from_pandas=True)  # NaN: no score
        chosen = chosen.drop_columns([name] if name in scores else []).append_column(name, values)
    names = [name for name in (*_FIXED, "difficulty", "quality") if name in chosen.schema.names]
    rows = chosen.select(names).take(positions["row"])
    for name in ("position", "visit", "phase", "loss_weight"):
        rows = rows.append_column(name, positions[name])
    return by_bucket(rows, positions["position"].to_numpy() // PART_ROWS)


def _line_up(own: str, store: Store, bucket: int, dealt: Iterator[pa.Table]) -> str:
    """Stores the visits of a part in the order of their positions; the key."""
    rows = pa.concat_tables(dealt, promote_options="permissive").unify_dictionaries()
    key = f"manifest.rows/{fingerprint([own, bucket])}"
    return store.seal(key, [("rows", rows.sort_by("position").combine_chunks())], form="arrow").key


def _decisions(done: Done) -> Iterator[bytes]:
    """The decisions as select stored them, byte for byte."""
    for one in select.shards_of(done):
        seal = done.store.sealed(one["key"])
        yield done.store.blob(seal, "decisions")


def run_id(done: Done) -> str:
    """The run's name: the fingerprint of everything that decides its manifest, found once the corpus is surveyed."""
    return done.once("run", _unknown)


def _unknown() -> str:
    raise AssertionError("the run has no name before its plan is made")


def _made(seal: Seal, store: Store) -> dict[str, Any]:
    (row,) = store.table(seal, "manifest").to_pylist()
    return row
