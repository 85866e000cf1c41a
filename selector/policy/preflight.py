"""All that can be known to be wrong before any work is done."""

import json
import os
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selector.corpus import files, render
from selector.corpus.read import BOM, next_line, parse
from selector.corpus.tokens import find_tokenizer
from selector.engine.store import Store
from selector.errors import CorpusError, PolicyError, UnreachableError, UsageError, did_you_mean
from selector.models.find import find_model
from selector.plugins.attached import checksums
from selector.plugins.options import Score, options_of
from selector.policy.sections import CorpusPolicy, Plugins, Policy
from selector.policy.where import KNOWN, Rule
from selector.steps.ingest import column
from selector.steps.rate import inputs_of

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
    _check_model(policy)
    rule = Rule.of(policy.select.where, scores) if policy.select.where else None

    wanted = dict.fromkeys(render.columns(policy.corpus.text), "corpus.text")
    if policy.corpus.key is not None:
        wanted[policy.corpus.key] = "corpus.key"
    if isinstance(policy.corpus.source, str) and policy.corpus.source != CorpusPolicy.model_fields["source"].default:
        wanted[policy.corpus.source] = "corpus.source"
    for label, rater in made.raters.items():
        wanted |= {need.removeprefix("corpus."): f"rate {label}" for need in rater.needs if need.startswith("corpus.")}
    wanted |= dict.fromkeys(rule.corpus_columns if rule else (), "select.where")
    uris = files.expand(policy.corpus.paths)
    if isinstance(policy.corpus.source, Mapping):
        _check_constants(policy.corpus.source, uris)
    rows_seen = False
    for uri in uris:
        there = _look(uri, policy.corpus.max_document_bytes, rule.corpus_columns if rule else ())
        rows_seen |= not there.is_empty
        for name, where in wanted.items():
            if there.columns and name not in there.columns:
                known = {*there.columns, *([*KNOWN, *scores] if where == "select.where" else [])}
                hint = did_you_mean(name, known)
                raise CorpusError(
                    f"{where}: {uri} has no column {name!r}. There is: {', '.join(sorted(known))}."
                    f"{f' {hint}' if hint.startswith('Did') else ''}"
                )
        if rule is not None and there.rows:
            try:
                rule.check({name: column([row.get(name) for row in there.rows]) for name in rule.corpus_columns})
            except PolicyError as error:
                raise PolicyError(f"{error} These are the types in {uri}.") from error
    if not rows_seen:
        raise CorpusError(f"corpus.paths: there is no row in {', '.join(policy.corpus.paths)}. Give files with rows.")


def _check_model(policy: Policy) -> None:
    model = find_model(policy.embed.model)
    find_tokenizer(policy.corpus.tokenizer, model)
    config = model / "config.json"
    most = json.loads(config.read_text("utf-8")).get("max_position_embeddings") if config.is_file() else None
    if most is not None and policy.embed.max_tokens > most:
        raise PolicyError(
            f"embed.max_tokens is {policy.embed.max_tokens}, and {policy.embed.model} reads at most {most}. Lower it."
        )


def _check_constants(constants: Mapping[str, str], uris: Sequence[str]) -> None:
    for pattern, label in constants.items():
        if not any(files.constant_source(uri, {pattern: label}) for uri in uris):
            raise CorpusError(
                f"corpus.source: no file of the corpus matches {pattern!r}. "
                f"Write a pattern of a whole path or of a name, e.g. {uris[0]!r}."
            )


def check_root(policy: Policy, store: Store) -> None:
    """No run of the policy would read what it wrote. Raises UsageError."""
    root = f"{store.storage.address}/"
    folders = [path for path in policy.corpus.paths if os.path.isdir(os.path.expanduser(path))]
    for path in folders:
        if root.startswith(f"{os.path.realpath(os.path.expanduser(path))}/"):
            raise _inside(store, f"the corpus folder {path!r}")
    if any(os.path.realpath(uri).startswith(root) for uri in files.expand(policy.corpus.paths)):
        raise _inside(store, f"the corpus {', '.join(policy.corpus.paths)}")


def _inside(store: Store, what: str) -> UsageError:
    return UsageError(
        f"--root: {store.storage.address} lies inside {what}, so a run would read what it wrote. Give another root."
    )


def check_storage(store: Store) -> None:
    """The storage takes an object, gives it back, and refuses a second of that name. Raises UsageError."""
    key = f"probe/{uuid.uuid4().hex}"
    try:
        sound = store.storage.put_if_absent(key, b"probe") and store.storage.get(key) == b"probe"
        sound = sound and not store.storage.put_if_absent(key, b"again")
        store.storage.delete(key)
    except UnreachableError as error:
        raise UsageError(f"--root: {error} Give a directory that can be written to.") from error
    if not sound:
        raise UsageError(
            f"--root: {store.storage.address} does not keep what is written to it, or overwrites. Give another."
        )


def check_rows(policy: Policy, num_rows: int, lost: Sequence[str] = ()) -> None:
    """The budget and the clusters fit a corpus of so many rows; `lost` says which files cannot be read."""
    if not num_rows:
        reason = f" ({'; '.join(lost)})" if lost else ""
        raise CorpusError(
            f"corpus.paths: there is no readable row in {', '.join(policy.corpus.paths)}{reason}. Give files with rows."
        )
    check_documents(policy, num_rows, None)


def check_space(store: Store, num_rows: int) -> None:
    """The disk has room for the artefacts of so many rows. Raises UsageError."""
    free, needed = store.storage.free_bytes(), num_rows * _BYTES_PER_DOCUMENT
    if free is not None and free < needed:
        raise UsageError(
            f"--root: {store.storage.address} has {free / 1e6:,.1f} MB free, and {num_rows} rows need about "
            f"{needed / 1e6:,.1f} MB. Free some space, or give another root."
        )


def check_documents(
    policy: Policy, num_documents: int, num_tokens: int | None, lost: Mapping[str, int] | None = None
) -> None:
    """The budget and the clusters fit so many documents and tokens; `lost` counts bad rows by reason."""
    if not num_documents:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted((lost or {}).items()))
        what = f"no row of {', '.join(policy.corpus.paths)} is a document{f' ({reasons})' if reasons else ''}"
        raise CorpusError(
            f"corpus.paths: {what}. Give files with rows, and in corpus.text the column that holds the text."
        )
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


@dataclass(frozen=True, kw_only=True)
class _Look:
    """The beginning of a file."""

    columns: Sequence[str] = ()  # none if that cannot be told
    rows: Sequence[Mapping[str, Any]] = ()
    is_empty: bool = False  # it has no row, good or bad


def _look(uri: str, max_bytes: int, columns: Sequence[str]) -> _Look:
    """What the first rows of a file tell; of Parquet, which has a schema, only these columns are read."""
    try:
        if files.format_of(uri) == "parquet":
            return _look_at_parquet(uri, columns)
        found: dict[str, Any] = {}
        rows: list[Mapping[str, Any]] = []
        num_lines = 0
        with files.open_bytes(uri, files.format_of(uri)) as file:
            while num_lines < _ROWS_TO_LOOK_AT:
                line, length = next_line(file, max_bytes + 1)
                if not length:
                    break
                line = line.removeprefix(BOM)
                num_lines += bool(line.strip())
                row = parse(line, max_bytes, length)
                if isinstance(row, Mapping):
                    found |= dict.fromkeys(row)
                    rows.append(row)
        return _Look(columns=list(found), rows=rows, is_empty=not num_lines)
    except PermissionError as error:
        raise CorpusError(f"The corpus file {uri} cannot be read: {error.strerror}.") from error
    except (OSError, EOFError, zlib.error, pa.ArrowException, ValueError):
        return _Look()  # the survey will quarantine it


def _look_at_parquet(uri: str, columns: Sequence[str]) -> _Look:
    with pq.ParquetFile(uri) as file:
        names: list[str] = file.schema_arrow.names
        rows: list[Mapping[str, Any]] = []
        here = [name for name in columns if name in names]
        if here:
            for batch in file.iter_batches(_ROWS_TO_LOOK_AT, columns=here):
                rows = batch.to_pylist()
                break
        return _Look(columns=names, rows=rows, is_empty=file.metadata.num_rows == 0)
