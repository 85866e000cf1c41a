"""The steps of one policy as data, each made of what the policy says and naming what it reads."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from selector import __version__
from selector.corpus.columns import Column
from selector.corpus.joined import ATTACH
from selector.engine.step import Step, versions
from selector.models.encoder import Device, Encoder
from selector.plugins.catalogue import KNOWN, RATE
from selector.plugins.options import ScoreName, TextsPath, named
from selector.policy.resolve import Resolved
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
from selector.steps.manifest import ManifestStep
from selector.steps.order import OrderStep
from selector.steps.rate import Rate
from selector.steps.select import Select
from selector.steps.survey import Survey
from selector.steps.verdict import Eligibility

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
class Plan:
    """Every step that a policy may need; which of them run follows from who reads them."""

    policy: Resolved
    encoder: Encoder | None  # where anything is embedded

    @classmethod
    def of(cls, policy: Resolved, device: Device) -> "Plan":
        return cls(policy=policy, encoder=policy.encoder(device) if policy.needs_vectors else None)

    @functools.cached_property
    def survey(self) -> Survey:
        corpus = self.policy.policy.corpus
        return Survey(rows_per_part=corpus.rows_per_part, uris=self.policy.uris, sources=self.policy.sources)

    @functools.cached_property
    def ingest(self) -> Ingest:
        corpus = self.policy.policy.corpus
        return Ingest(
            survey=self.survey,
            text=corpus.text,
            key_column=corpus.key,
            source_column=corpus.source if isinstance(corpus.source, str) else None,
            max_document_bytes=corpus.max_document_bytes,
            tokenizer=str(self.policy.tokenizer),
            tokenizer_sha256=self.policy.tokenizer_sha256,
            keep_texts=corpus.keep_texts,
        )

    @functools.cached_property
    def columns(self) -> Columns:
        most = self.policy.policy.corpus.max_document_bytes
        return Columns(survey=self.survey, names=self.policy.corpus_columns, max_document_bytes=most)

    @functools.cached_property
    def dedup(self) -> Dedup:
        return Dedup(has_keys=self.policy.policy.corpus.key is not None)

    @functools.cached_property
    def embed(self) -> Embed | None:
        corpus = self.policy.policy.corpus
        if self.encoder is None:
            return None
        return Embed(
            survey=self.survey, encoder=self.encoder, text=corpus.text, max_document_bytes=corpus.max_document_bytes
        )

    @functools.cached_property
    def centroids(self) -> Centroids:
        options = self.policy.policy.cluster
        return Centroids(
            num_clusters=options.num_clusters,
            iterations=options.iterations,
            documents_per_cluster=options.documents_per_cluster,
            seed=self.policy.policy.seed,
        )

    @functools.cached_property
    def cluster(self) -> Cluster:
        return Cluster(survey=self.survey)

    @functools.cached_property
    def attached(self) -> list[Attach]:
        """One step for each plug-in whose options name tables."""
        steps: list[Attach] = []
        for place in self.policy.plugins.by_place():
            options = tuple(self.policy.attached(place))
            if options:
                is_embedded = any(option.kind is TextsPath for option in options)
                paths = {option.path for option in options}
                contents = {path: digest for path, digest in self.policy.contents[place].items() if path in paths}
                encoder = self.encoder if is_embedded else None
                steps.append(
                    Attach(name=f"{ATTACH}{place}", place=place, options=options, contents=contents, encoder=encoder)
                )
        return steps

    @functools.cached_property
    def ratings(self) -> list[Step]:
        """The raters, each after its fit and after those whose scores it reads."""
        return [step for label, rater in self.policy.plugins.raters.items() for step in self._rating(label, rater)]

    def _rating(self, label: str, rater: Rater | Fit) -> list[Step]:
        """The step of one rater, and before it that of its fit if it has one."""
        place = f"rate.{label}"
        gather, identity = self._gather(self.policy.columns(place), place), self.policy.identity(place)
        rate = Rate(
            name=f"{RATE}{label}", reads=gather.reads, rater=rater, label=label, rater_identity=identity, gather=gather
        )
        if not isinstance(rater, Fit):
            return [rate]
        fit = FitStep(
            name=f"fit/{label}", reads=gather.reads, plugin=rater, label=label, plugin_identity=identity,
            seed=self.policy.policy.seed, gather=gather,
        )  # fmt: skip
        return [fit, replace(rate, reads=(*rate.reads, fit.name))]

    @functools.cached_property
    def select(self) -> Select:
        policy = self.policy
        mine = policy.columns("select.using")
        raters = tuple(f"{RATE}{label}" for label in policy.plugins.raters)
        of_order = {policy.catalogue.find(name, "").name for name in named(policy.plugins.order, ScoreName)}
        of_selector = {policy.catalogue.find(name, "").name for name in named(policy.plugins.selector, ScoreName)}
        read = [*mine, *policy.used, *(policy.rule.columns if policy.rule else ())]
        vectors = [step for step in ("embed", "cluster") if self.encoder is not None and self._is_read(step)]
        losing = (*(["columns"] if policy.corpus_columns else []), *vectors, *raters)
        later = (*policy.columns("order.using"), *self._told)
        gather = self._gather((*read, *_whose_quarantine_counts(losing), *later), "select.using")
        return Select(
            reads=gather.reads,
            selector=policy.plugins.selector,
            selector_identity=policy.identity("select.using"),
            policy=policy.policy.select,
            label=next(iter(policy.data["select"]["using"])),
            options={name: value for name, value in policy.data["select"].items() if name != "using"},
            seed=policy.policy.seed,
            columns=mine,
            later=later,
            order_scores=tuple(sorted(of_order - of_selector)),
            gather=gather,
            eligibility=Eligibility(
                reader=gather.reader,
                raters=losing,
                used=policy.used,
                rule=policy.rule,
                missing=policy.policy.select.missing,
            ),
        )

    @functools.cached_property
    def order(self) -> OrderStep:
        place = "order.using"
        attach = self._attach(place)
        return OrderStep(
            reads=("select", *self.select.reads, *([attach] if attach else [])),
            order=self.policy.plugins.order,
            label=next(iter(self.policy.data["order"]["using"])),
            order_identity=self.policy.identity(place),
            seed=self.policy.policy.seed,
            chosen=Chosen(select=self.select, columns=self.policy.columns(place)),
            attach=attach,
        )

    @functools.cached_property
    def manifest(self) -> ManifestStep:
        raters = tuple(f"{RATE}{label}" for label in self.policy.plugins.raters)
        return ManifestStep(
            reads=("order", "select", *self.select.reads, *raters),
            survey=self.survey,
            policy=self.policy.data,
            models={"embed": self.encoder.identity()} if self.encoder is not None else {},
            plugins={place: self.policy.identity(place) for place in self.policy.plugins.by_place()},
            versions={"selector": __version__, **versions(LIBRARIES)},
            chosen=Chosen(select=self.select, columns=self._told),
            columns=self.policy.manifest_columns,
        )

    @functools.cached_property
    def _told(self) -> tuple[Column, ...]:
        """What the manifest tells of a document beside what every step knows of it."""
        cluster = ["cluster"] if self.encoder is not None and self._is_read("cluster") else []
        return (*(KNOWN[name] for name in ("source", "file", "row", *cluster)), *self.policy.manifest_columns)

    def _gather(self, columns: Sequence[Column], place: str) -> Gather:
        corpus = self.policy.policy.corpus
        return Gather(
            survey=self.survey,
            columns=tuple(columns),
            reader=PartReader(text=corpus.text, max_document_bytes=corpus.max_document_bytes),
            attach=self._attach(place),
        )

    def _attach(self, place: str) -> str | None:
        return f"{ATTACH}{place}" if self.policy.attached(place) else None

    def _is_read(self, step: str) -> bool:
        """Whether any plug-in or the rule reads what a step writes; clusters are made of vectors."""
        places = self.policy.plugins.by_place()
        read: list[Any] = [column.step for place in places for column in self.policy.columns(place)]
        read += [column.step for column in self.policy.rule.columns] if self.policy.rule else []
        return step in read or (step == "embed" and "cluster" in read)


def _whose_quarantine_counts(steps: Sequence[str]) -> list[Column]:
    """A column of each step, so that what it lost is looked at."""
    return [Column(name=f"quarantine of {step}", step=step, table="quarantine", column="row") for step in steps]
