"""A policy made whole, once: its plug-ins, the columns they read, its rule, its files, its models, and what all of
them hold.

`check`, `plan` and `run` begin with this and ask nobody a second time.
"""

import functools
import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from selector import plugins
from selector.corpus import files, tokens
from selector.corpus.columns import Column
from selector.corpus.joined import ATTACH
from selector.errors import CorpusError, DamagedError, NotFoundError, PolicyError, UsageError
from selector.manifest import Manifest
from selector.models.encoder import Device, Encoder
from selector.models.find import checksum, find_model, settings_checksum
from selector.models.judge import check_address
from selector.order import Order
from selector.plugins import attached, options
from selector.plugins.catalogue import NO_GROUPS, RATE, Catalogue, corpus_names, steps_of
from selector.plugins.families import name_of
from selector.plugins.options import (
    TABLE_KINDS,
    Endpoint,
    ManifestPath,
    ModelPath,
    Option,
    ScoreName,
    SignalName,
    TablePath,
    TextsPath,
    joined,
    named,
    options_of,
    plugins_in,
    replaced,
    written,
)
from selector.policy import elsewhere, origin, preflight
from selector.policy.origin import Origin
from selector.policy.sections import Lists, Plugins, Policy
from selector.policy.where import Rule
from selector.rate import Fit, Rater
from selector.select import Selector
from selector.storage import check_plain, check_spelling, local_path

Plugin = Rater | Fit | Selector | Order
P = TypeVar("P", bound=Plugin)

logger = logging.getLogger(__name__)

_DECIDING_NOTHING = (
    ("corpus", "keep_texts"),
    ("corpus", "most_lost"),
    ("cluster", "gates"),
    ("select", "allow_empty"),
)
"""Keys of a policy that decide where texts are read, or whether a run goes on, and not what it makes."""

SHARES, LISTS = "select.shares", "select"
"""Where the column of the shares, and the lists of documents, stand among what plug-ins name."""


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Everything that a policy says and names."""

    policy: Policy
    plugins: Plugins  # with the folders of the models that their options name; a rater comes after those that it reads
    catalogue: Catalogue
    rule: Rule | None
    corpus_files: files.CorpusFiles  # the corpus files
    columns: Mapping[
        str, tuple[Column, ...]
    ]  # by a plug-in's path in the policy: what it reads, each under the name that it uses
    contents: Mapping[
        str, Mapping[str, str]
    ]  # by a plug-in's path in the policy: digests of what its options name, by their paths
    tokenizer: Path
    tokenizer_sha256: str
    centroids: Origin | None  # those of another run, where the policy takes them
    parent: str | None  # the digest of the manifest that `order.parent` names

    @functools.cached_property
    def data(self) -> dict[str, Any]:
        """The policy as JSON with every default and plug-in option spelt out, less what decides nothing of a
        manifest."""
        data = self.policy.resolved()
        for section, key in _DECIDING_NOTHING:
            del data[section][key]
        for key in ("shares", "visits", "include", "exclude"):  # a limit that is none is not spoken of
            if not data["select"][key]:
                del data["select"][key]
        if self.policy.training is None:
            del data["training"]
        del data["order"]["parent"]
        if self.parent is not None:
            data["order"]["parent"] = self.parent  # wherever that run lies
        if self.centroids is not None:
            data["cluster"]["from"] = self.centroids.fingerprint  # wherever that run lies
        return data

    @property
    def uris(self) -> tuple[str, ...]:
        """The corpus files that are read, sorted."""
        return tuple(self.corpus_files.uris)

    @functools.cached_property
    def sources(self) -> tuple[str | None, ...]:
        """The constant source of each file, where the policy gives one."""
        source = self.policy.corpus.source
        if not isinstance(source, Mapping):
            return (None,) * len(self.uris)
        return tuple(files.constant_source(uri, source) for uri in self.uris)

    def identity(self, path: str) -> dict[str, Any]:
        """All that decides what the plug-in at a path of the policy says."""
        return plugins.identity(self.plugins.by_path()[path], self.contents[path])

    def attached(self, path: str) -> list[Option]:
        """The options of a plug-in that name tables."""
        return options_of(self.plugins.by_path()[path], *TABLE_KINDS)

    @property
    def lists(self) -> list[Option]:
        """The options of `select` that name documents: those of `include` and of `exclude`."""
        return written(self.policy.select.lists, TablePath, ManifestPath)

    def scores_used(self, *plugins: Selector | Order) -> tuple[Column, ...]:
        """The scores without which these plug-ins can do nothing with a document, under their long names."""
        names = sorted(name for plugin in plugins for name in named(plugin, ScoreName))
        return tuple({column.name: column for column in (self.catalogue.find(name, "") for name in names)}.values())

    @property
    def rule_columns(self) -> tuple[Column, ...]:
        """The columns that the rule reads, each under the name that it uses."""
        return self.rule.columns if self.rule is not None else ()

    @functools.cached_property
    def steps_read(self) -> frozenset[str]:
        """The steps that write a column which a plug-in or the rule reads; clusters are made of vectors, and
        neighbours are found in clusters."""
        read = [column for columns in self.columns.values() for column in columns]
        steps = frozenset(steps_of([*read, *self.rule_columns]))
        if "neighbours" in steps:
            steps |= {"cluster"}
        return steps | {"embed"} if "cluster" in steps else steps

    @functools.cached_property
    def manifest_columns(self) -> tuple[Column, ...]:
        """The scores that the manifest carries, each under the name of its column there."""
        carried = {name: score for name, score in self.policy.manifest if score is not None}
        return tuple(replace(self.catalogue.find(score, ""), name=name) for name, score in carried.items())

    @functools.cached_property
    def corpus_columns(self) -> dict[str, str]:
        """The columns of the corpus that a plug-in or the rule reads, each with the policy's key that names it."""
        by_path = {**self.columns, "select.where": self.rule_columns}
        return {name: path for path, columns in by_path.items() for name in corpus_names(columns)}

    def encoder(self, device: Device) -> Encoder:
        """The encoder of the policy's model on a device."""
        embed = self.policy.embed
        return Encoder.of(
            embed.model, device=device, max_tokens=embed.max_tokens, long_documents=embed.long_documents,
            precision=embed.precision,
        )  # fmt: skip

    @functools.cached_property
    def needs_vectors(self) -> bool:
        """Whether anything that the policy lists reads vectors, clusters, or texts that are to be embedded."""
        has_texts = any(options_of(plugin, TextsPath) for plugin in self.plugins.by_path().values())
        return has_texts or "embed" in self.steps_read


def resolve(policy: Policy) -> Resolved:
    """The policy made whole. Raises PolicyError or CorpusError for all that can be known to be wrong before any
    work."""
    _check_places(policy)
    as_written = policy.plugins
    catalogue = Catalogue.of(as_written.raters)
    columns: dict[str, tuple[Column, ...]] = {}
    contents: dict[str, dict[str, str]] = {}

    def checked(path: str, plugin: P) -> P:
        """The plug-in with the folders of its models; what it reads, and what its options name, is noted."""
        for option in written(plugin, ScoreName, SignalName):
            catalogue.check_score(option.value, f"{path}.{option.path}")
        columns[path] = _columns_of(plugin, catalogue, path)
        with_models, contents[path] = _with_models(path, plugin)
        contents[path] |= {**attached.checksums(plugin, path), **_manifests(plugin, path)}
        if isinstance(with_models, Rater | Fit):
            _check(with_models, path)
        return with_models

    raters = {label: checked(f"rate.{label}", rater) for label, rater in as_written.raters.items()}
    plugins_made_whole = Plugins(
        raters=_by_what_they_read(raters, columns),
        selector=checked("select.using", as_written.selector),
        order=checked("order.using", as_written.order),
    )
    columns[SHARES] = tuple(_share_column(name, catalogue) for name in policy.select.shares)
    lists = policy.select.lists
    contents[LISTS] = {**attached.checksums(lists, LISTS), **_manifests(lists, LISTS)}
    for key, name in policy.manifest:
        if name is not None:
            catalogue.check_score(name, f"manifest.{key}")
    _check_training(policy, plugins_made_whole.order)
    rule = Rule.of(policy.select.where, catalogue) if policy.select.where else None
    declared = policy.corpus.tokenizer
    tokenizer = tokens.find_tokenizer(declared, find_model(policy.embed.model) if declared is None else None)
    resolved = Resolved(
        policy=policy,
        plugins=plugins_made_whole,
        catalogue=catalogue,
        rule=rule,
        corpus_files=files.expand(policy.corpus.paths, policy.corpus.form),
        columns=columns,
        contents=contents,
        tokenizer=tokenizer,
        tokenizer_sha256=tokens.sha256_of(tokenizer),
        centroids=None,
        parent=None if policy.order.parent is None else _digest(policy.order.parent, "order.parent"),
    )
    preflight.check(
        policy, catalogue, rule, resolved.corpus_files,
        corpus_columns=resolved.corpus_columns, needs_vectors=resolved.needs_vectors,
    )  # fmt: skip
    if "embed" in resolved.steps_read:
        _check_vectors(resolved)
    if policy.cluster.from_ is None or "cluster" not in resolved.steps_read:
        return resolved
    return replace(resolved, centroids=origin.of(policy.cluster, policy.embed.model))


def _check_places(policy: Policy) -> None:
    """What the policy names are places and no more, such as a password or a way to another server: said before any of
    them is looked at."""
    for one in elsewhere.named(policy):
        try:
            if one.is_ours or one.kind is Endpoint:
                continue
            path = local_path(one.value)
            if path is not None:
                check_spelling(path)
            else:
                check_plain(one.value)
        except UsageError as error:
            raise (CorpusError if one.kind is None else PolicyError)(f"{one.key}: {error}") from error
        if "\0" in one.value:
            raise PolicyError(f"{one.key}: {one.value!r} has a null byte in it, as no path has. Give one without.")


def _check_training(policy: Policy, order: Order) -> None:
    """The policy says how the manifest will be trained on, if its order asks. Raises PolicyError."""
    asking = [inner for inner in plugins_in(order) if isinstance(inner, Order) and inner.reads_training]
    if asking and policy.training is None:
        raise PolicyError(
            f"order.using: {name_of(asking[0])} goes by where updates count, and the policy does not say how the order "
            "will be trained on. Write, for example, training: {global_batch_size: 512, schedule: {peak: 3e-4, warmup: "
            "0.01, decay: cosine}}."
        )


def _check_vectors(resolved: Resolved) -> None:
    """What was learned from vectors is given the vectors of the same encoder. Raises PolicyError."""
    embed = resolved.policy.embed
    folder = find_model(embed.model)
    encoder = {
        "model_sha256": checksum(folder), "settings_sha256": settings_checksum(folder),
        "max_tokens": str(embed.max_tokens), "long_documents": embed.long_documents,
    }  # fmt: skip
    for rater in resolved.plugins.raters.values():
        if isinstance(rater, Rater):
            rater.check_vectors(encoder)


def _columns_of(plugin: Plugin, catalogue: Catalogue, path: str) -> tuple[Column, ...]:
    """The columns that a plug-in and the plug-ins in it read, each under the name that it uses.

    Columns of attached tables that are keyed by doc_id are called `<option>.<column>`.
    """
    tables = {name: (option, field) for name, option, field in joined(plugin)}
    columns: list[Column] = []
    for name in options.columns_of(plugin, ()):
        if name in tables:
            option, field = tables[name]
            step = f"{ATTACH}{path}"
            columns.append(Column(name=name, step=step, table=option.path, column=field.name, type=field.type))
        else:
            columns.append(replace(catalogue.find(name, path), name=name))
    twice = [name for name, option, _ in joined(plugin) if tables[name][0] != option]
    if twice:
        raise PolicyError(f"{path}: two of its tables have a column {twice[0]!r}. Give one option another name.")
    return tuple(columns)


def _share_column(name: str, catalogue: Catalogue) -> Column:
    """The column of `select.shares`. Raises PolicyError for one whose values are no groups."""
    column = replace(catalogue.find(name, SHARES), name=name)
    if column.meaning not in (None, "label") or name in NO_GROUPS:
        raise PolicyError(
            f"{SHARES}: {name!r} has no groups. Name a column of words or classes: source, cluster, corpus.topic, or a "
            "label that a rater gives."
        )
    return column


def _by_what_they_read(
    raters: Mapping[str, Rater | Fit], columns: Mapping[str, tuple[Column, ...]]
) -> dict[str, Rater | Fit]:
    """The raters, each after those whose scores it reads. Raises PolicyError where some wait for each other."""
    reads = {label: {column.step.removeprefix(RATE) for column in columns[f"rate.{label}"]} for label in raters}
    placed: dict[str, Rater | Fit] = {}
    while len(placed) < len(raters):
        waiting = {label: rater for label, rater in raters.items() if label not in placed}
        ready = {label: rater for label, rater in waiting.items() if not reads[label] & waiting.keys()}
        if not ready:
            raise PolicyError(_circle({label: reads[label] & waiting.keys() for label in waiting}))
        placed |= ready
    return placed


def _circle(reads: Mapping[str, set[str]]) -> str:
    """What is wrong with raters of which each reads the scores of some others, or its own."""
    way = [next(iter(reads))]
    while way.count(way[-1]) == 1:
        way.append(min(reads[way[-1]]))
    circle = way[way.index(way[-1]) :]
    if len(circle) == 2:
        return f"rate.{circle[0]} reads its own score. A score is there once its rater is done."
    links = ", ".join(f"{label} reads a score of {other}" for label, other in itertools.pairwise(circle))
    return f"rate: these raters wait for each other: {links}. One of them has to come first."


def _with_models(path: str, plugin: P) -> tuple[P, dict[str, str]]:
    """The plug-in with the folders of the models that its options name, and their checksums by the options' paths."""
    folders: dict[str, Any] = {}
    sums: dict[str, str] = {}
    for option in written(plugin, ModelPath):
        folder = find_model(option.value, f"{path}.{option.path}")
        folders[option.path] = option.value.located(str(folder), f"{path}.{option.path}")
        sums[option.path] = f"{checksum(folder)} {settings_checksum(folder)}"
    for option in written(plugin, Endpoint):
        check_address(option.value, f"{path}.{option.path}")
        sums[option.path] = ""  # what answers is named by another option
    return replaced(plugin, folders), sums


def _check(rater: Rater | Fit, path: str) -> None:
    """What the options name goes together. Raises PolicyError, naming the rater by its `path` in the policy."""
    try:
        rater.check()
    except PolicyError as error:
        if str(error).startswith(path):
            raise
        raise PolicyError(f"{path}: {error}") from error


def _manifests(plugin: Plugin | Lists, path: str) -> dict[str, str]:
    """The digests of the manifests that the plug-in's options name, by the options' paths."""
    digests: dict[str, str] = {}
    for option in written(plugin, ManifestPath):
        try:
            digests[option.path] = Manifest.open(str(option.value)).digest
        except (NotFoundError, DamagedError) as error:
            if isinstance(error, DamagedError) or not option.is_optional:
                raise PolicyError(f"{path}.{option.path}: {error}") from error
            logger.warning("%s.%s counts as empty until there is one: %s", path, option.path, error)
            digests[option.path] = ""
    return digests


def _digest(run: str, path: str) -> str:
    """The digest of the manifest of a finished run. Raises PolicyError."""
    try:
        return Manifest.open(run).digest
    except (NotFoundError, DamagedError) as error:
        raise PolicyError(f"{path}: {error}") from error
