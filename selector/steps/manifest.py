"""Manifest: all that the steps decided, committed as one immutable list of visits. It is written last."""

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from selector import exact, tables
from selector.corpus.columns import Column
from selector.engine.exchange import by_bucket, exchange
from selector.engine.step import APART, Done, Tables, Whole
from selector.engine.store import Seal, Store
from selector.errors import SelectorError
from selector.exact.rates import Training
from selector.manifest import Manifest, Visits, commit
from selector.manifest.commit import PART_ROWS
from selector.manifest.header import Header, Parent
from selector.manifest.worth import repeats
from selector.steps import account, order, select, survey, updates
from selector.steps.chosen import DECIDED, Chosen, ChosenShard
from selector.steps.survey import Survey

_FIXED = (
    "doc_id", "source", "cluster", "file", "row", *tables.BYTES, "num_tokens", "inclusion_probability", "reason",
    "arguments",
)  # fmt: skip
_BEGINNINGS = "beginnings/"
"""Begins the keys of artefacts that say which manifest ended with a round that the next one begins with."""

_COMMITTED = pa.schema(
    [
        ("run", pa.string()),
        ("digest", pa.string()),
        ("visits", pa.int64()),
        ("quarantine", pa.string()),  # sha256 of quarantine.jsonl
    ]
)


@dataclass(frozen=True, kw_only=True)
class ManifestStep(Whole):
    """`manifest`: the run and the digest of the manifest that was committed, with `quarantine.jsonl` beside it."""

    name: str = field(default="manifest", metadata=APART)
    version = 8

    survey: Survey = field(metadata=APART)
    policy: Mapping[str, Any]
    models: Mapping[str, Any]
    plugins: Mapping[str, Any]
    versions: Mapping[str, str]
    chosen: Chosen = field(metadata=APART)  # with the scores that it carries, under the names that they have there
    columns: tuple[Column, ...] = field(metadata=APART)
    training: Training | None = field(metadata=APART)  # as the policy says it, and so in the fingerprint
    parent: str | None = field(metadata=APART)  # as above: the digest of the manifest that this one is a control of

    def inputs(self, done: Done) -> Any:
        return [run_id(done), self._lineage(done)]

    def _lineage(self, done: Done) -> dict[str, str]:
        """The fingerprints of all steps; a survey's is about a file's times, and what it found is in files.parquet."""
        return {name: result.fingerprint for name, result in done.items() if name != "survey"}

    def rows_out(self, seal: Seal, store: Store) -> int:
        return _committed(seal, store)["visits"]

    def num_bytes(self, seal: Seal, store: Store) -> int:
        home = _committed(seal, store)["run"]
        return sum(size for _, size in store.storage.list(f"{home}/manifest/"))

    def is_sound(self, seal: Seal, store: Store) -> bool:
        committed = _committed(seal, store)
        try:
            manifest = Manifest.open(f"{store.storage.address}/{committed['run']}/manifest")
            is_sound = manifest.digest == committed["digest"] and manifest.is_whole()
            return is_sound and account.digest_of_quarantine(store, committed["run"]) == committed["quarantine"]
        except (SelectorError, OSError):
            return False

    def compute(self, done: Done) -> Tables:
        home, store = run_id(done), done.store
        parts, lost = survey.parts(done, self.survey), account.lost(done)
        facts, beginnings = order.facts_of(done), order.beginnings(done)
        has_keys = self.policy["corpus"]["key"] is not None
        visited, by_visit = self._parts(done), Counter[int]()
        for part in visited:
            by_visit.update(part.by_visit)
        quarantine = account.write_quarantine(done, parts, home, has_keys=has_keys)
        visits = [
            Visits(read=functools.partial(_rows, store, part.key), rows=part.rows, tokens=sum(part.by_visit.values()))
            for part in visited
        ]
        manifest = commit(
            done,
            home,
            parts=visits,
            unvisited=self._unvisited(done),
            files=survey.inventory(done, self.survey),
            decisions=[store.sealed(one["key"]) for one in select.shards_of(done)],
            counts=account.counts(done),
            lost={f"quarantined in {step}: {reason}": count for (step, reason), count in lost.items()},
            facts={
                "select": select.facts_of(done),
                "order": facts["facts"],
                "corpus": {"files": account.files(done, self.survey)},
                **account.clusters(done),
                **account.scores(done),
                **({"repeats": repeats(by_visit)} if max(by_visit, default=0) else {}),
                **self._training_facts(done, visits),
            },
            phases=facts["phases"],
            policy=self.policy,
            lineage=self._lineage(done),
            models=self.models,
            plugins=self.plugins,
            versions=self.versions,
            parent=self._parent(done, beginnings),
        )
        if beginnings:
            _tell(done, beginnings[-1], manifest)
        committed = {"run": home, "digest": manifest.digest, "visits": len(manifest), "quarantine": quarantine}
        yield "manifest", pa.Table.from_pylist([committed], schema=_COMMITTED)

    def _parent(self, done: Done, beginnings: Sequence[str]) -> Parent | None:
        """The manifest that this one is a control of; or that of an earlier round, if one in this root ended as a round
        of this one does. A manifest that is there already keeps its own."""
        if self.parent is not None:
            return Parent(digest=self.parent, position=0)
        committed = done.store.storage.get(f"{run_id(done)}/manifest/manifest.json") if beginnings else None
        if committed is not None:
            with contextlib.suppress(ValueError):
                return Header.from_json(json.loads(committed)).parent
        for beginning in reversed(beginnings[:-1]):
            key = f"{_BEGINNINGS}{beginning}"
            if done.store.find(key) is not None:
                done.used.append(key)
                (row,) = done.store.read(key, "manifest").to_pylist()
                return Parent(digest=row["digest"], position=row["visits"])
        return None

    def _training_facts(self, done: Done, visits: list[Visits]) -> dict[str, Any]:
        if self.training is None:
            return {}
        has_quality = any(column.name == "quality" for column in self.columns)
        return {"training": updates.facts_of(done, self.training, visits, has_quality=has_quality)}

    def _parts(self, done: Done) -> list["_Part"]:
        """The visits, part by part: shards deal their rows, and each part puts its own in order."""
        items = [
            (shard, one["key"]) for shard, one in zip(self.chosen.shards(done), order.shards_of(done), strict=True)
        ]
        num_parts = -(-sum(one["visits"] for one in order.shards_of(done)) // PART_ROWS)
        names = tuple(column.name for column in self.columns)
        if not num_parts:
            return []
        own = self.fingerprint(done)
        deal, line_up = functools.partial(_deal, names), functools.partial(_line_up, done.passing)
        return exchange(done, "manifest", own, items, num_parts, deal, line_up)

    def _unvisited(self, done: Done) -> list[Callable[[], pa.Table]]:
        """What the order does not visit, shard by shard, in corpus order."""
        shards = zip(self.chosen.shards(done), order.shards_of(done), strict=True)
        return [functools.partial(_left, done.store, shard, one["key"]) for shard, one in shards]


def _tell(done: Done, beginning: str, manifest: Manifest) -> None:
    """Stores which manifest ends so, for those that go on from it; the first that does is meant."""
    key = f"{_BEGINNINGS}{beginning}"
    done.store.seal(key, [("manifest", pa.table([[manifest.digest], [len(manifest)]], names=["digest", "visits"]))])
    done.used.append(key)


def _deal(scores: tuple[str, ...], store: Store, item: tuple[ChosenShard, str]) -> Mapping[int, pa.Table]:
    """The visits of a shard's documents, by the part of the manifest that they fall into."""
    shard, key = item
    positions = store.read(key, "positions")
    given = [name for name in (*_FIXED, *scores) if name in (*shard.names, *DECIDED)]
    chosen = pa.Table.from_batches([shard.read(store, given)])
    for name in ("difficulty", "quality"):
        values = pa.nulls(len(chosen), pa.float32())
        if name in scores:
            values = pa.array(exact.floats(chosen[name]).astype(np.float32), from_pandas=True)  # NaN: no score
        chosen = chosen.drop_columns([name] if name in scores else []).append_column(name, values)
    rows = chosen.take(positions["row"])
    for name in ("position", "visit", "phase", "loss_weight"):
        rows = rows.append_column(name, positions[name])
    return by_bucket(rows, positions["position"].to_numpy() // PART_ROWS)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The visits of a part of the manifest, once they are stored in the order of their positions."""

    key: str
    rows: int
    by_visit: Mapping[int, int]  # the tokens of all first visits (0), of all second ones, and so on


def _line_up(passing: str, store: Store, bucket: int, dealt: Iterator[pa.Table]) -> _Part:
    """Stores the visits of a part in the order of their positions."""
    rows = pa.concat_tables(dealt, promote_options="permissive").unify_dictionaries()
    key = f"{passing}/rows/{bucket}"
    store.seal(key, [("rows", rows.sort_by("position").combine_chunks())], form="arrow")
    tokens = np.bincount(rows["visit"].to_numpy(), weights=rows["num_tokens"].to_numpy())  # exact: far below 2^53
    by_visit = {number: int(total) for number, total in enumerate(tokens.tolist()) if total}
    return _Part(key=key, rows=rows.num_rows, by_visit=by_visit)


def _rows(store: Store, key: str) -> pa.Table:
    return store.read(key, "rows")


def _left(store: Store, shard: ChosenShard, key: str) -> pa.Table:
    """The documents of a shard that the order does not visit, and why."""
    left = store.read(key, "left")
    columns = ["doc_id", "file", "row"]
    if not left.num_rows:
        return pa.table({name: [] for name in (*columns, "reason", "arguments")})
    rows = pa.Table.from_batches([shard.read(store, columns)]).take(left["document"])
    for name in ("reason", "arguments"):
        rows = rows.append_column(name, left[name])
    return rows


def run_id(done: Done) -> str:
    """The run's name: the fingerprint of everything that decides its manifest, found once the corpus is surveyed."""
    return done.once("run", _unknown)


def _unknown() -> str:
    raise AssertionError("the run has no name before its plan is made")


def _committed(seal: Seal, store: Store) -> dict[str, Any]:
    (row,) = store.table(seal, "manifest").to_pylist()
    return row
