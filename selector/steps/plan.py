"""The steps of one policy as data, each made of what the policy says and naming what it reads."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from selector import __version__, tables
from selector.corpus.columns import Column
from selector.corpus.joined import ATTACH
from selector.engine.part import Resources
from selector.engine.step import Step, versions
from selector.exact.rates import Training
from selector.models.encoder import Device, Encoder, hardware_precision
from selector.models.kmeans import Method
from selector.models.neighbours import has_faiss_gpu
from selector.plugins.catalogue import KNOWN, RATE
from selector.plugins.options import Endpoint, ManifestPath, ModelPath, TablePath, TextsPath, replaced, written
from selector.policy import Policy
from selector.policy.resolve import LISTS, SHARES, Resolved
from selector.rate import Fit, Rater
from selector.steps.attach import Attach
from selector.steps.centroids import Centroids
from selector.steps.chosen import Chosen
from selector.steps.cluster import Cluster
from selector.steps.columns import Columns
from selector.steps.dedup import Dedup
from selector.steps.embed import Embed
from selector.steps.fit import FitStep
from selector.steps.gather import Gather, PartReader
from selector.steps.ingest import Ingest
from selector.steps.listed import EXCLUDED, INCLUDED, Listed
from selector.steps.manifest import ManifestStep
from selector.steps.neighbours import Neighbours
from selector.steps.order import OrderStep
from selector.steps.rate import Rate
from selector.steps.select import Select
from selector.steps.survey import Survey
from selector.steps.taken import Taken
from selector.steps.verdict import Eligibility

LIBRARIES = (
    "duckdb",
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
class Plan:
    """Every step that a policy may need; which of them run follows from who reads them."""

    resolved: Resolved
    device: Device  # that models run on
    encoder: Encoder | None  # where anything is embedded

    @classmethod
    def of(cls, resolved: Resolved, device: Device) -> "Plan":
        """The steps of a policy, whose models run on this device."""
        encoder = resolved.encoder(device) if resolved.needs_vectors else None
        return cls(resolved=resolved, device=device, encoder=encoder)

    @property
    def policy(self) -> Policy:
        """What the user wrote."""
        return self.resolved.policy

    @property
    def raters(self) -> tuple[str, ...]:
        """The names of the steps that rate."""
        return tuple(f"{RATE}{label}" for label in self.resolved.plugins.raters)

    @functools.cached_property
    def survey(self) -> Survey:
        corpus = self.policy.corpus
        corpus_files = self.resolved.corpus_files
        return Survey(
            rows_per_part=corpus.rows_per_part,
            uris=self.resolved.uris,
            forms=tuple(file.format for file in corpus_files.files),
            sources=self.resolved.sources,
            versions=tuple(file.version for file in corpus_files.files),
            unread=corpus_files.unread,
        )

    @functools.cached_property
    def ingest(self) -> Ingest:
        corpus = self.policy.corpus
        return Ingest(
            survey=self.survey,
            text=corpus.text,
            key_column=corpus.key,
            source_column=corpus.source if isinstance(corpus.source, str) else None,
            max_document_bytes=corpus.max_document_bytes,
            tokenizer=str(self.resolved.tokenizer),
            tokenizer_sha256=self.resolved.tokenizer_sha256,
            keep_texts=corpus.keep_texts,
            columns=tuple(sorted(self.resolved.corpus_columns)),
        )

    @functools.cached_property
    def columns(self) -> Columns:
        most = self.policy.corpus.max_document_bytes
        return Columns(survey=self.survey, names=tuple(sorted(self.resolved.corpus_columns)), max_document_bytes=most)

    @functools.cached_property
    def dedup(self) -> Dedup:
        return Dedup(has_keys=self.policy.corpus.key is not None)

    @functools.cached_property
    def embed(self) -> Embed | None:
        corpus = self.policy.corpus
        if self.encoder is None:
            return None
        return Embed(
            survey=self.survey, encoder=self.encoder, text=corpus.text, max_document_bytes=corpus.max_document_bytes
        )

    @functools.cached_property
    def centroids(self) -> Centroids | Taken:
        options = self.policy.cluster
        if self.resolved.centroids is not None:
            return Taken(origin=self.resolved.centroids)
        return Centroids(
            num_clusters=options.levels[0] if options.levels else options.num_clusters,
            levels=options.levels,
            documents_per_cluster=options.documents_per_cluster,
            method=Method(
                kind=options.kind,
                start=options.start,
                restarts=options.restarts,
                iterations=options.iterations,
                seed=self.policy.seed,
            ),
        )

    @functools.cached_property
    def cluster(self) -> Cluster:
        on_gpu = self.encoder is not None and self.encoder.device == "cuda" and has_faiss_gpu()
        return Cluster(survey=self.survey, on_gpu=on_gpu)

    @functools.cached_property
    def neighbours(self) -> Neighbours:
        return Neighbours(count=self.policy.cluster.num_neighbours)

    @functools.cached_property
    def attached(self) -> list[Attach]:
        """One step for each plug-in whose options name tables."""
        steps: list[Attach] = []
        for path in self.resolved.plugins.by_path():
            options = tuple(self.resolved.attached(path))
            if options:
                is_embedded = any(option.kind is TextsPath for option in options)
                paths = {option.path for option in options}
                contents = {path: digest for path, digest in self.resolved.contents[path].items() if path in paths}
                encoder = self.encoder if is_embedded else None
                steps.append(
                    Attach(name=f"{ATTACH}{path}", path=path, options=options, contents=contents, encoder=encoder)
                )
        return steps

    @functools.cached_property
    def ratings(self) -> list[Step]:
        """The raters, each after its fit and after those whose scores it reads; those that share a part's texts come
        after the fits of all of them."""
        steps = [step for label, rater in self.resolved.plugins.raters.items() for step in self._rating(label, rater)]
        sharing = [step for step in steps if isinstance(step, Rate) and _reads_texts_alone(step)]
        fits = [
            step
            for step in steps
            if step.name in {name for one in sharing for name in one.reads if name.startswith("fit/")}
        ]
        if len(sharing) < 2:
            return steps
        made_to_share = {
            step.name: replace(step, beside=tuple(sharing[i + 1 :]), reads=(*step.reads, *(fit.name for fit in fits)))
            for i, step in enumerate(sharing)
        }
        return [*fits, *(made_to_share.get(step.name, step) for step in steps if step not in fits)]

    def _rating(self, label: str, rater: Rater | Fit) -> list[Step]:
        """The step of one rater, and before it that of its fit if it has one."""
        path = f"rate.{label}"
        gather, identity = self.gather(self.resolved.columns[path], path), self.resolved.identity(path)
        if models := written(rater, ModelPath):  # of which device and precision change the last bits
            precision, contents = hardware_precision(self.device), self.resolved.contents[path]
            placed = {model.path: model.value.placed(self.device, precision, contents[model.path]) for model in models}
            rater, identity = replaced(rater, placed), {**identity, "device": self.device, "precision": precision}
        rate = Rate(
            name=f"{RATE}{label}", reads=gather.reads, rater=rater, label=label, rater_identity=identity, gather=gather
        )
        if not isinstance(rater, Fit):
            return [rate]
        fit = FitStep(
            name=f"fit/{label}", reads=gather.reads, plugin=rater, label=label, plugin_identity=identity,
            seed=self.policy.seed, gather=gather,
        )  # fmt: skip
        return [fit, replace(rate, reads=(*rate.reads, fit.name))]

    @functools.cached_property
    def listed(self) -> Listed | None:
        """Where the policy names documents: which those are."""
        options = self.resolved.lists
        include = tuple(option for option in options if option.kind is TablePath)
        exclude = tuple(option for option in options if option.kind is ManifestPath)
        return Listed(include=include, exclude=exclude, contents=self.resolved.contents[LISTS]) if options else None

    @functools.cached_property
    def select(self) -> Select:
        path, resolved, selector = "select.using", self.resolved, self.resolved.plugins.selector
        columns, used = resolved.columns[path], resolved.scores_used(selector, resolved.plugins.order)
        losing = (*(step for step in ("columns", "embed", "cluster") if step in resolved.steps_read), *self.raters)
        of_lists = [INCLUDED] if self.policy.select.include else []
        limiting = (*resolved.columns[SHARES], *of_lists)
        of_lists = [*of_lists, *([EXCLUDED] if self.policy.select.exclude else [])]
        read = (*columns, *used, *resolved.rule_columns, *limiting, *of_lists)
        later = (*resolved.columns["order.using"], *self._carried)
        gather = self.gather((*read, *_whose_quarantine_counts(losing), *later), path)
        return Select(
            reads=gather.reads,
            selector=selector,
            selector_identity=resolved.identity(path),
            policy=self.policy.select,
            label=self.policy.select.using.name,
            options={name: value for name, value in resolved.data["select"].items() if name != "using"},
            seed=self.policy.seed,
            columns=columns,
            limiting=limiting,
            later=later,
            order_scores=tuple(column.name for column in used if column not in resolved.scores_used(selector)),
            gather=gather,
            eligibility=Eligibility(
                reader=gather.reader,
                raters=losing,
                used=used,
                rule=resolved.rule,
                missing=self.policy.select.missing,
                excluding=self.policy.select.exclude,
            ),
        )

    @functools.cached_property
    def order(self) -> OrderStep:
        path = "order.using"
        attach = self._attach(path)
        return OrderStep(
            reads=("select", *self.select.reads, *([attach] if attach else [])),
            order=self.resolved.plugins.order,
            label=self.policy.order.using.name,
            order_identity=self.resolved.identity(path),
            seed=self.policy.seed,
            chosen=Chosen(select=self.select, columns=self.resolved.columns[path]),
            attach=attach,
            training=self._training,
        )

    @functools.cached_property
    def manifest(self) -> ManifestStep:
        return ManifestStep(
            reads=("order", "select", *self.select.reads, *self.raters),
            survey=self.survey,
            policy=self.resolved.data,
            models={"embed": self.encoder.identity()} if self.encoder is not None else {},
            plugins={path: self.resolved.identity(path) for path in self.resolved.plugins.by_path()},
            versions={"selector": __version__, **versions(LIBRARIES)},
            chosen=Chosen(select=self.select, columns=self._carried),
            columns=self.resolved.manifest_columns,
            training=self._training,
            parent=self.resolved.parent,
        )

    @functools.cached_property
    def _training(self) -> Training | None:
        return None if self.policy.training is None else self.policy.training.training

    @functools.cached_property
    def _carried(self) -> tuple[Column, ...]:
        """The columns of a document that the manifest carries, beside what every step knows of it."""
        cluster = ["cluster"] if "cluster" in self.resolved.steps_read else []
        return (
            *(KNOWN[name] for name in ("source", "file", "row", *tables.BYTES, *cluster)),
            *self.resolved.manifest_columns,
        )

    def gather(self, columns: Sequence[Column], path: str | None = None) -> Gather:
        """How these columns of documents are read, by whoever is at this path of the policy."""
        corpus = self.policy.corpus
        return Gather(
            survey=self.survey,
            columns=tuple(columns),
            reader=PartReader(text=corpus.text, max_document_bytes=corpus.max_document_bytes),
            attach=None if path is None else self._attach(path),
        )

    def _attach(self, path: str) -> str | None:
        return f"{ATTACH}{path}" if self.resolved.attached(path) else None


def _reads_texts_alone(step: Rate) -> bool:
    """Whether a rater needs nothing but texts, and as much of a worker as any other one that does."""
    rater = step.rater
    asks = written(rater, ModelPath, Endpoint) or step.gather.attach is not None
    return [column.name for column in step.gather.columns] == ["text"] and not asks and rater.resources == Resources()


def _whose_quarantine_counts(steps: Sequence[str]) -> list[Column]:
    """A column of each step, so that what it lost is looked at."""
    return [Column(name=f"quarantine of {step}", step=step, table="quarantine", column="path") for step in steps]
