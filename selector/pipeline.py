"""The flow, top to bottom: corpus, ingest, embed, cluster, rate, select, order, manifest.

Read `Flow.manifest`: each line is a step, and what it makes is sealed under a fingerprint of what it read.
So the same policy over the same corpus finds every step done, and a changed option runs that step again
and those below it. The manifest is written last: its existence means that it is complete.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selector import __version__, failpoint, plugins
from selector.corpus import files
from selector.corpus.files import Survey
from selector.corpus.tokens import find_tokenizer, sha256_of
from selector.engine import gc
from selector.engine.executor import Executor
from selector.engine.part import Part, Task
from selector.engine.runner import Progress, Silent, Step, Steps, WouldRun, repair
from selector.engine.step import versions
from selector.engine.store import Seal, Store, canonical_json, fingerprint
from selector.errors import DamagedError, SelectorError
from selector.exact import keyed
from selector.manifest import Manifest, commit
from selector.models import neighbours as cluster
from selector.models.encoder import Embed, stage_for, vector_column
from selector.models.neighbours import Assign
from selector.plugins.attached import checksums, load
from selector.plugins.options import Score, Table, Texts, options_of
from selector.plugins.pool import Pool
from selector.policy import preflight
from selector.policy.sections import Plugins, Policy
from selector.policy.where import Rule
from selector.rate import FittedRater, Rater
from selector.steps import account, dedup
from selector.steps.gather import Corpus, PartTables
from selector.steps.ingest import Ingest, file_label
from selector.steps.rate import Rate, inputs_of

LIBRARIES = (
    "faiss-cpu",
    "faiss-gpu",
    "numpy",
    "polars",
    "pyarrow",
    "sentence-transformers",
    "tokenizers",
    "torch",
    "transformers",
)
"""Distributions whose versions a manifest records."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished run."""

    manifest: Manifest
    uri: str
    steps: Sequence[Step]
    seconds: float
    num_quarantined: int


def run(
    policy: Policy | Mapping[str, Any] | str | Path,
    *,
    root: str = "./runs",
    executor: str | Executor = "ray",
    progress: Progress | None = None,
) -> Manifest:
    """The manifest of a policy (a Policy, a mapping, or the path of a YAML file): made, resumed, or found finished."""
    if not isinstance(policy, Policy):
        policy = Policy.of(policy) if isinstance(policy, Mapping) else Policy.load(policy)
    made: Executor = plugins.make("executors", executor, {}, "executor") if isinstance(executor, str) else executor
    return build(policy, root=root, executor=made, progress=progress).manifest


def build(policy: Policy, *, root: str, executor: Executor, progress: Progress | None = None) -> Outcome:
    """As `run`, with what each step did. Damaged artefacts are discarded and computed again."""
    began = time.monotonic()
    preflight.check(policy)
    store = Store.open(root)
    preflight.check_root(policy, store)
    preflight.check_storage(store)
    met: dict[str, int] = {}
    while True:
        with Steps(store, executor, progress or Silent()) as steps:
            try:
                manifest, uri = Flow(policy=policy, store=store, steps=steps, executor=executor).manifest()
                quarantined: int = manifest.info["counts"]["quarantined"]
                seconds = round(time.monotonic() - began, 3)
                return Outcome(
                    manifest=manifest, uri=uri, steps=steps.done, seconds=seconds, num_quarantined=quarantined
                )
            except DamagedError as damaged:
                met[damaged.key] = met.get(damaged.key, 0) + 1
                if met[damaged.key] > 3:
                    raise SelectorError(
                        f"{damaged} It was computed again three times: {root} does not keep what is written to it."
                    ) from damaged
                repair(store, damaged)


def plan(policy: Policy, *, root: str, executor: Executor) -> list[dict[str, Any]]:
    """Every step with what a run would do: `cached` or `run`. Nothing is written.

    The fingerprint of a step is known once all steps above it are there; so are the parts that are missing.
    """
    preflight.check(policy)
    store = Store.open(root)
    preflight.check_root(policy, store)
    stopped: WouldRun | None = None
    with Steps(store, executor, Silent(), dry=True) as steps:
        flow = Flow(policy=policy, store=store, steps=steps, executor=executor)
        try:
            flow.manifest()
        except WouldRun as would_run:
            stopped = would_run
    unknown: dict[str, Any] = {"fingerprint": None, "parts": None, "parts_cached": None}
    planned = [
        unknown | {"name": step.name, "action": "cached", "fingerprint": step.fingerprint} for step in steps.done
    ]
    if stopped is not None:
        names = flow.step_names()
        planned += [unknown | {"name": name, "action": "run"} for name in names[names.index(stopped.name) :]]
        planned[len(steps.done)] |= {"parts": stopped.num_parts, "parts_cached": stopped.num_cached}
    return planned


Live = Mapping[str, Any]
"""A row of `dedup.LIVE`: the documents of one part that go on."""


@dataclass(frozen=True, kw_only=True)
class Flow:
    """One policy over one store. Every method is a step; its docstring says what it makes."""

    policy: Policy
    store: Store
    steps: Steps
    executor: Executor

    def manifest(self) -> tuple[Manifest, str]:
        """The committed manifest, and its address."""
        inventory, parts, unreadable = self._survey()
        run_id = self._plan(inventory, parts)
        documents = self._ingest(parts)
        deduped, live = self._dedup(documents)
        embeddings = self._embed(parts, live)
        centroids = self._centroids(embeddings)
        clusters = self._cluster(parts, live, embeddings, centroids)
        ratings = {label: self._rate(label, parts, live, embeddings, clusters) for label in self._made.raters}
        corpus = self._corpus(parts, documents, deduped, live, embeddings, clusters, ratings)
        fates = self._select(corpus)
        chosen = functools.cache(lambda: self._chosen(corpus, fates))
        visits = self._order(chosen, fates)
        bad_rows = account.bad_rows(corpus, unreadable)
        return self._commit(run_id, inventory, corpus, bad_rows, centroids, fates, chosen, visits)

    def step_names(self) -> list[str]:
        rates: list[str] = []
        for label, rater in self._made.raters.items():
            rates += [*([f"fit/{label}"] if isinstance(rater, FittedRater) else []), f"rate/{label}"]
        return ["survey", "ingest", "dedup", "embed", "centroids", "cluster", *rates, "select", "order", "manifest"]

    # What the policy names, made once.

    @functools.cached_property
    def _made(self) -> Plugins:
        return self.policy.plugins()

    @functools.cached_property
    def _resolved(self) -> dict[str, Any]:
        return self.policy.resolved()

    @functools.cached_property
    def _scores(self) -> dict[str, tuple[str, str]]:
        return preflight.known_scores(self._made)

    @functools.cached_property
    def _used(self) -> tuple[str, ...]:
        """The scores without which a document cannot be chosen or placed."""
        scores = [options_of(plugin, Score).values() for plugin in (self._made.selector, self._made.order)]
        return tuple(sorted({score for named in scores for score in named}))

    @functools.cached_property
    def _rule(self) -> Rule | None:
        return Rule.of(self.policy.select.where, self._scores) if self.policy.select.where else None

    @functools.cached_property
    def _embedder(self) -> Embed:
        corpus = self.policy.corpus
        return stage_for(self.policy.embed, self.executor.device(), corpus.text, corpus.max_document_bytes)

    # The steps.

    def _survey(self) -> tuple[pa.Table, list[Part], pa.Table]:
        """`tables.FILES`, the parts of every file, and the files that cannot be read."""
        stage = Survey(rows_per_part=self.policy.corpus.rows_per_part)
        tasks = [stage.task(uri, self._constant_source(uri)) for uri in files.expand(self.policy.corpus.paths)]
        seals = self.steps.over_parts("survey", stage, tasks, len(tasks))
        parts = [part for i in range(len(tasks)) for part in files.parts_of(i, tasks[i], seals[i], self.store)]
        unreadable = pa.concat_tables(
            account.of_file(self.store.table(seal, "quarantine"), task.part.uri)
            for task, seal in zip(tasks, seals, strict=True)
        )
        num_rows = sum(part.num_rows for part in parts)
        preflight.check_rows(self.policy, num_rows, unreadable["detail"].to_pylist())
        inventory = pa.concat_tables(self.store.table(seal, "file") for seal in seals)
        return inventory, parts, unreadable

    def _plan(self, inventory: pa.Table, parts: Sequence[Part]) -> str:
        """The run's id: everything that decides the manifest, under one fingerprint. Its plan is written first."""
        plan = {
            "policy": self._resolved,
            "files": inventory.to_pylist(),
            "parts": fingerprint([[part.file, part.first_row, part.num_rows, part.source] for part in parts]),
            "embed": self._embedder.identity(),
            "versions": self._versions,
        }
        run_id = fingerprint(plan)[:16]
        if self.store.storage.get(f"{run_id}/plan.json") is None:  # or else the run was begun, and needs less
            preflight.check_space(self.store, sum(part.num_rows for part in parts))
        if not self.steps.dry:
            self.store.storage.ensure(f"{run_id}/plan.json", canonical_json(plan))
            failpoint.reach("plan.written")
        return run_id

    def _ingest(self, parts: Sequence[Part]) -> list[Seal]:
        """Per part: `tables.DOCUMENTS`."""
        corpus = self.policy.corpus
        tokenizer = find_tokenizer(corpus.tokenizer, Path(self._embedder.folder))
        column = corpus.source if isinstance(corpus.source, str) else None
        stage = Ingest(
            text=corpus.text,
            key_column=corpus.key,
            source_column=column,
            max_document_bytes=corpus.max_document_bytes,
            columns=self._rule.corpus_columns if self._rule else (),
            tokenizer=str(tokenizer),
            tokenizer_sha256=sha256_of(tokenizer),
        )
        tasks = [
            Task(
                key=stage.key(part.sha256, part.first_row, part.num_rows, part.source, file_label(part.uri)),
                part=part,
            )
            for part in parts
        ]
        return self.steps.over_parts("ingest", stage, tasks, sum(part.num_rows for part in parts))

    def _dedup(self, documents: Sequence[Seal]) -> tuple[Seal, list[Live]]:
        """The tables of `dedup.dedup`, and what goes on of every part."""
        has_keys = self.policy.corpus.key is not None
        seal = self.steps.whole(
            "dedup",
            [dedup.VERSION, has_keys, [seal.key for seal in documents]],
            sum(seal.tables["documents"].num_rows for seal in documents),
            lambda: dedup.dedup(self.store, documents, has_keys=has_keys).items(),
            lambda seal: int(self.store.table(seal, "parts")["num_documents"].to_numpy().sum()),
        )
        live: list[Live] = self.store.table(seal, "parts").to_pylist()
        self.steps.used += [row["live"] for row in live]
        num_tokens = sum(row["num_tokens"] for row in live)
        num_documents = sum(row["num_documents"] for row in live)
        lost = {} if num_documents else account.reasons(self.store, documents)
        preflight.check_documents(self.policy, num_documents, num_tokens, lost)
        return seal, live

    def _embed(self, parts: Sequence[Part], live: Sequence[Live]) -> list[Seal]:
        """Per part: `tables.embeddings`."""
        tasks = [
            Task(key=self._embedder.key(row["texts"]), part=part, inputs={"live": row["live"]})
            for part, row in zip(parts, live, strict=True)
        ]
        return self.steps.over_parts("embed", self._embedder, tasks, sum(row["num_documents"] for row in live))

    def _centroids(self, embeddings: Sequence[Seal]) -> Seal:
        """`tables.centroids`, and the evidence for their number."""
        options, seed = self.policy.cluster, self.policy.seed
        return self.steps.whole(
            "centroids",
            [cluster.identity(options, seed), [seal.key for seal in embeddings]],
            _num_rows(embeddings, "embeddings"),
            lambda: cluster.fit(self.store, embeddings, options, seed).items(),
            lambda seal: seal.tables["centroids"].num_rows,
        )

    def _cluster(
        self, parts: Sequence[Part], live: Sequence[Live], embeddings: Sequence[Seal], centroids: Seal
    ) -> list[Seal]:
        """Per part: `tables.CLUSTERS`."""
        stage = Assign()
        tasks = [
            Task(
                key=stage.key(vectors.key, centroids.key),
                part=part,
                inputs={"live": row["live"], "embeddings": vectors.key, "centroids": centroids.key},
            )
            for part, row, vectors in zip(parts, live, embeddings, strict=True)
        ]
        return self.steps.over_parts("cluster", stage, tasks, _num_rows(embeddings, "embeddings"))

    def _rate(
        self,
        label: str,
        parts: Sequence[Part],
        live: Sequence[Live],
        embeddings: Sequence[Seal],
        clusters: Sequence[Seal],
    ) -> list[Seal]:
        """Per part: `tables.ratings` of one rater."""
        rater: Rater = self._made.raters[label]
        stage = Rate(
            rater=rater,
            label=label,
            text=self.policy.corpus.text,
            max_document_bytes=self.policy.corpus.max_document_bytes,
        )
        tables_by_name = {"embeddings": embeddings, "clusters": clusters}
        inputs = [
            {"live": row["live"], **{name: tables_by_name[name][i].key for name in inputs_of(rater)}}
            for i, row in enumerate(live)
        ]
        if any(need.startswith("corpus.") for need in rater.needs):  # what goes on says nothing of other columns
            inputs = [{**names, "file": part.sha256} for names, part in zip(inputs, parts, strict=True)]
        if isinstance(rater, FittedRater):
            fit = self.steps.whole(
                f"fit/{label}",
                [stage.identity(), self.policy.seed, checksums(rater), inputs],
                _num_rows(embeddings, "embeddings"),
                lambda: [("fit", rater.fit(self._fit_sample(rater, stage, parts, inputs), self.policy.seed))],
                lambda seal: seal.tables["fit"].num_rows,
            )
            inputs = [{**names, "fit": fit.key} for names in inputs]
        tasks = [Task(key=stage.key(names), part=part, inputs=names) for part, names in zip(parts, inputs, strict=True)]
        return self.steps.over_parts(f"rate/{label}", stage, tasks, sum(row["num_documents"] for row in live))

    def _fit_sample(
        self, rater: FittedRater, stage: Rate, parts: Sequence[Part], inputs: Sequence[Mapping[str, str]]
    ) -> Pool:
        """What a fit sees: the whole corpus, or a keyed sample of about the size that it asks for."""
        live = [self.store.read(names["live"], "documents", ["doc_id"])["doc_id"] for names in inputs]
        share = 1.0 if rater.fit_documents is None else min(1.0, rater.fit_documents / max(1, sum(map(len, live))))
        drawn = [keyed.uniforms(ids, self.policy.seed, "fit") <= share for ids in live]

        def load(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
            for part, names in zip(parts, inputs, strict=True):
                batch = stage.batch(Task(key="", part=part, inputs=names), self.store)
                here = keyed.uniforms(batch.column("doc_id"), self.policy.seed, "fit") <= share
                yield batch.filter(pa.array(here)).select(list(columns))

        schema = stage.batch(Task(key="", part=parts[0], inputs=inputs[0]), self.store).schema
        num_documents = sum(int(here.sum()) for here in drawn)
        return Pool(schema=schema, num_documents=num_documents, load=load, side=self._side(rater))

    def _side(self, plugin: Any) -> dict[str, pa.Table]:
        """The tables that the plug-in's options name; texts with their embeddings."""
        side = {name: load(path) for name, path in options_of(plugin, Table).items()}
        for name, path in options_of(plugin, Texts).items():
            texts = load(path)
            side[name] = texts.append_column(
                "embedding", vector_column(self._embedder.encode(texts["text"].to_pylist()))
            )
        return side

    def _corpus(
        self,
        parts: Sequence[Part],
        documents: Sequence[Seal],
        deduped: Seal,
        live: Sequence[Live],
        embeddings: Sequence[Seal],
        clusters: Sequence[Seal],
        ratings: Mapping[str, Sequence[Seal]],
    ) -> Corpus:
        """Everything known of every document."""
        by_name = {"embeddings": embeddings, "clusters": clusters, **ratings}
        return Corpus(
            store=self.store,
            parts=[
                PartTables(
                    index=i,
                    part=part,
                    documents=documents[i],
                    live=live[i]["live"],
                    tables={name: seals[i] for name, seals in by_name.items()},
                )
                for i, part in enumerate(parts)
            ],
            dimension=self._dimension(embeddings),
            duplicates=self.store.table(deduped, "duplicates"),
            clashes=self.store.table(deduped, "clashes"),
            scores=self._scores,
            used=self._used,
            rule=self._rule,
            missing=self.policy.select.missing,
        )

    def _select(self, corpus: Corpus) -> Seal:
        """`tables.FATE` of every document, in tables of about a million rows."""
        selector = self._made.selector

        def compute() -> Iterator[tuple[str, pa.Table]]:
            pool = replace(corpus.pool(), side=self._side(selector))
            num_tokens = sum(int(batch["num_tokens"].to_numpy().sum()) for batch in pool.batches("num_tokens"))
            decisions = selector.select(pool, self.policy.select.budget.of(num_tokens), self.policy.seed)
            yield from corpus.fates(decisions.batches)

        seals = [seal.key for part in corpus.parts for seal in (part.documents, *part.tables.values())]
        return self.steps.whole(
            "select",
            [
                selector.version,
                self._resolved["select"],
                checksums(selector),
                corpus.lacking,
                self.policy.seed,
                [part.live for part in corpus.parts],
                seals,
            ],
            sum(part.documents.tables["documents"].num_rows for part in corpus.parts),
            compute,
            lambda seal: sum(_kept(fates).num_rows for fates in self._tables(seal, ["fate"])),
        )

    def _chosen(self, corpus: Corpus, fates: Seal) -> pa.Table:
        """The kept documents in corpus order, with all that the order and the manifest want to know of them."""
        named = {name: score for name, score in self.policy.manifest if score is not None}
        order = self._made.order
        columns = [
            "doc_id",
            "source",
            "num_tokens",
            "cluster",
            "file",
            "row",
            *named.values(),
            *options_of(order, Score).values(),
            *order.needs,
        ]
        columns = list(dict.fromkeys(columns))
        kept = pa.concat_tables([_kept(table) for table in self._tables(fates)]).unify_dictionaries().combine_chunks()
        place = (kept["file"].to_numpy().astype(np.int64) << 32) + kept["row"].to_numpy()
        batches = [
            batch.filter(
                pa.array(np.isin((batch["file"].to_numpy().astype(np.int64) << 32) + batch["row"].to_numpy(), place))
            )
            for batch in corpus.batches(columns)
        ]
        schema = pa.schema([corpus.schema.field(name) for name in columns])
        chosen = pa.Table.from_batches(batches, schema=schema).unify_dictionaries().combine_chunks()
        assert chosen.num_rows == kept.num_rows and chosen["row"].equals(kept["row"])
        for name in ("inclusion_probability", "round", "reason"):
            chosen = chosen.append_column(name, kept[name])
        return chosen

    def _order(self, chosen: Callable[[], pa.Table], fates: Seal) -> Seal:
        """`tables.VISITS`, first to last."""
        order = self._made.order
        return self.steps.whole(
            "order",
            [order.version, self._resolved["order"], checksums(order), self.policy.seed, fates.key],
            self.steps.done[-1].rows_out,
            lambda: [
                ("visits", order.arrange(replace(Pool.of(chosen()), side=self._side(order)), self.policy.seed).visits)
            ],
            lambda seal: seal.tables["visits"].num_rows,
        )

    def _commit(
        self,
        run_id: str,
        inventory: pa.Table,
        corpus: Corpus,
        bad_rows: pa.Table,
        centroids: Seal,
        fates: Seal,
        chosen: Callable[[], pa.Table],
        visits: Seal,
    ) -> tuple[Manifest, str]:
        """The manifest, or the sound one that is there."""
        uri = f"{self.store.storage.address}/{run_id}"
        mark = fingerprint([run_id, [step.fingerprint for step in self.steps.done]])
        began = time.monotonic()
        manifest = _sound_manifest(uri)
        cached = manifest is not None
        if manifest is None:
            if self.steps.dry:
                raise WouldRun("manifest", 1, 0)
            manifest = commit(
                self.store.storage,
                run_id,
                chosen=self._renamed(chosen()),
                visits=self.store.table(visits, "visits"),
                files=inventory,
                decisions=self._tables(fates),
                counts=account.counts(corpus, bad_rows, fates, centroids),
                policy=self._resolved,
                # A survey's fingerprint is about a file's times; what it found is in files.parquet.
                lineage={step.name: step.fingerprint for step in self.steps.done if step.name != "survey"},
                models={"embed": self._embedder.identity()},
                versions=self._versions,
            )
        num_visits = visits.tables["visits"].num_rows
        self.steps.end(
            Step(
                name="manifest",
                fingerprint=mark,
                cached=cached,
                rows_in=num_visits,
                rows_out=num_visits,
                num_bytes=sum(size for _, size in self.store.storage.list(f"{run_id}/manifest/")),
                seconds=round(time.monotonic() - began, 3),
            )
        )
        if not self.steps.dry:
            account.write_quarantine(corpus, bad_rows, run_id)
            account.write_log(self.store, run_id, self.steps.log)
            gc.keep(self.store, run_id, self.steps.used)
        return manifest, uri

    def _renamed(self, chosen: pa.Table) -> pa.Table:
        """The chosen documents with the scores that the policy named as difficulty and quality."""
        for name, score in self.policy.manifest:
            values = chosen[score] if score is not None else pa.nulls(chosen.num_rows, pa.float32())
            chosen = chosen.append_column(f"manifest.{name}", values)
        fixed = ["doc_id", "source", "cluster", "file", "row", "num_tokens", "inclusion_probability", "reason"]
        return chosen.select([*fixed, "manifest.difficulty", "manifest.quality"]).rename_columns(
            [*fixed, "difficulty", "quality"]
        )

    def _dimension(self, embeddings: Sequence[Seal]) -> int:
        return self.store.table(embeddings[0], "embeddings", ["embedding"]).schema.field("embedding").type.list_size

    @property
    def _versions(self) -> dict[str, str]:
        return {"selector": __version__, **versions(LIBRARIES)}

    def _constant_source(self, uri: str) -> str | None:
        source = self.policy.corpus.source
        return files.constant_source(uri, source) if isinstance(source, Mapping) else None

    def _tables(self, seal: Seal, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        return (self.store.table(seal, name, columns) for name in sorted(seal.tables))


def _num_rows(seals: Sequence[Seal], table: str) -> int:
    return sum(seal.tables[table].num_rows for seal in seals)


def _kept(fates: pa.Table) -> pa.Table:
    return fates.filter(pc.field("fate") == "kept")


def _sound_manifest(uri: str) -> Manifest | None:
    """The committed manifest, if there is one and every byte of it is as it was committed."""
    try:
        manifest = Manifest.open(uri)
        return manifest if manifest.verify().ok else None
    except (SelectorError, OSError):
        return None
