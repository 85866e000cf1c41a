"""All that can be known to be wrong before any work is done."""

import uuid
from collections.abc import Mapping
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selector.corpus import files, render
from selector.corpus.read import Bad, parse
from selector.errors import CorpusError, PolicyError, UnreachableError, UsageError, did_you_mean
from selector.policy import Plugins, Policy
from selector.rating import inputs_of
from selector.pool import Score, options_of
from selector.side import checksums
from selector.store import Store
from selector.where import KNOWN, Rule

_ROWS_TO_LOOK_AT = 100
_BYTES_PER_DOCUMENT = 1500  # of artefacts, embedding included
_POOL_COLUMNS = (*KNOWN, "embedding")
_TAKEN = (*_POOL_COLUMNS, "doc_id", "row", "file", "state")


def known_scores(made: Plugins) -> dict[str, tuple[str, str]]:
    """Every score that the policy's raters give: its rater, and what a large one means."""
    scores: dict[str, tuple[str, str]] = {}
    for label, rater in made.raters.items():
        for name, higher_is in rater.scores(label).items():
            if name in scores or name in _TAKEN:
                raise PolicyError(f"rate: the score {name!r} of {label!r} has the name of another column. Remove one.")
            scores[name] = (label, higher_is)
    return scores


def check(policy: Policy) -> None:
    """The policy fits itself and its corpus. Raises PolicyError or CorpusError."""
    made = policy.plugins()
    scores = known_scores(made)
    named = [("select.using", name) for name in options_of(made.selector, Score).values()]
    named += [("order.using", name) for name in options_of(made.order, Score).values()]
    named += [(f"manifest.{key}", name) for key, name in policy.manifest if name is not None]
    for where, name in named:
        if name not in scores:
            raise PolicyError(f"{where}: no rater gives the score {name!r}. {did_you_mean(name, scores)}")
    for where, plugin in (("select.using", made.selector), ("order.using", made.order)):
        for need in plugin.needs:
            if need not in _POOL_COLUMNS:
                raise PolicyError(f"{where} needs the column {need!r}. {did_you_mean(need, _POOL_COLUMNS)}")
    for rater in made.raters.values():
        inputs_of(rater)
    for plugin in (*made.raters.values(), made.selector, made.order):
        checksums(plugin)
    rule = Rule.of(policy.select.where, scores) if policy.select.where else None

    wanted = dict.fromkeys(render.columns(policy.corpus.text), "corpus.text")
    if policy.corpus.key is not None:
        wanted[policy.corpus.key] = "corpus.key"
    if "source" in policy.corpus.model_fields_set and isinstance(policy.corpus.source, str):
        wanted[policy.corpus.source] = "corpus.source"
    for label, rater in made.raters.items():
        wanted |= {need.removeprefix("corpus."): f"rate {label}" for need in rater.needs if need.startswith("corpus.")}
    wanted |= dict.fromkeys(rule.corpus_columns if rule else (), "select.where")
    for uri in files.expand(policy.corpus.paths):
        columns = _columns(uri, policy.corpus.max_document_bytes)
        for name, where in wanted.items():
            if columns and name not in columns:
                known = [*columns, *([*KNOWN, *scores] if where == "select.where" else [])]
                raise CorpusError(
                    f"{where}: {uri} has no column {name!r}. It has: {', '.join(sorted(columns))}. {did_you_mean(name, known)}"
                )


def check_storage(store: Store) -> None:
    """The storage takes an object, gives it back, and refuses a second of that name. Raises UsageError."""
    key = f"probe/{uuid.uuid4().hex}"
    try:
        sound = store.storage.put_if_absent(key, b"probe") and store.storage.get(key) == b"probe"
        sound = sound and not store.storage.put_if_absent(key, b"again")
        store.storage.delete(key)
    except UnreachableError as error:
        raise UsageError(f"--root: {error}") from error
    if not sound:
        raise UsageError(
            f"--root: {store.storage.address} does not keep what is written to it, or overwrites. Give another."
        )


def check_rows(policy: Policy, store: Store, num_rows: int) -> None:
    """The budget, the clusters and the disk fit a corpus of so many rows. Raises UsageError."""
    if not num_rows:
        raise CorpusError(
            f"corpus.paths: there is no readable row in {', '.join(policy.corpus.paths)}. Give files with rows."
        )
    check_documents(policy, num_rows, None)
    free, needed = store.storage.free_bytes(), num_rows * _BYTES_PER_DOCUMENT
    if free is not None and free < needed:
        raise UsageError(
            f"--root: {store.storage.address} has {free / 1e9:.1f} GB free, and {num_rows} rows need about {needed / 1e9:.1f} GB. "
            "Free some space, or give another root."
        )


def check_documents(policy: Policy, num_documents: int, num_tokens: int | None) -> None:
    """The budget and the clusters fit so many documents and tokens. Raises PolicyError."""
    budget, num_clusters = policy.select.budget, policy.cluster.num_clusters
    for unit, wanted, there in (
        ("select.budget.documents", budget.documents, num_documents),
        ("select.budget.tokens", budget.tokens, num_tokens),
        ("cluster.num_clusters", num_clusters if num_clusters != "auto" else None, num_documents),
    ):
        if wanted is not None and there is not None and wanted > there:
            what = "tokens" if unit.endswith("tokens") else "documents"
            cure = (
                "Lower it, or write auto." if "clusters" in unit else "Lower it, or write fraction: 1.0 for all of it."
            )
            raise PolicyError(f"{unit} is {wanted}, and the corpus has only {there} {what}. {cure}")


def _columns(uri: str, max_bytes: int) -> list[str]:
    """The columns of a file, from its schema or its first rows; none if that cannot be told."""
    try:
        if files.format_of(uri) == "parquet":
            return list(pq.ParquetFile(uri).schema_arrow.names)
        found: dict[str, Any] = {}
        with files.open_bytes(uri, files.format_of(uri)) as file:
            for line in islice(iter(lambda: file.readline(max_bytes), b""), _ROWS_TO_LOOK_AT):
                row = parse(line.removeprefix(b"\xef\xbb\xbf"), max_bytes)
                if isinstance(row, Mapping) and not isinstance(row, Bad):
                    found |= dict.fromkeys(row)
        return list(found)
    except PermissionError as error:
        raise CorpusError(f"The corpus file {uri} cannot be read: {error.strerror}.") from error
    except (OSError, EOFError, pa.ArrowException, ValueError):
        return []  # the survey will quarantine it
