"""A run beside its steps: where it lies, what it is called, what is checked on the way, what is written at its end."""

import functools
import glob
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

import numpy as np
import pyarrow as pa

from selector import failpoint
from selector.counts import Mark
from selector.engine import gc
from selector.engine.canonical import canonical_json, fingerprint
from selector.engine.executor import Executor
from selector.engine.journal import JOB, Journal
from selector.engine.lease import Lease
from selector.engine.runner import NoProgress, Progress, Runner
from selector.engine.step import Done, Step
from selector.engine.store import Store
from selector.errors import CorpusError, EmptyError, GoneError, PolicyError, SelectorError, UsageError
from selector.manifest import Manifest
from selector.manifest.describe import undone
from selector.manifest.header import FORMAT_VERSION
from selector.policy import Policy
from selector.policy.resolve import Resolved
from selector.steps import account, columns, dedup, health, rate, survey
from selector.steps.embed import Embed
from selector.steps.manifest import ManifestStep, run_id
from selector.steps.rate import Rate
from selector.storage import is_address, local_path

logger = logging.getLogger(__name__)

Given = ParamSpec("Given")
Built = TypeVar("Built")

_MOST_GONE = 3  # times that a run begins again
_BYTES_PER_ROW, _BYTES_PER_VECTOR = 400, 2000  # of artefacts, about


@dataclass(frozen=True, kw_only=True)
class Run:
    """A policy's flow over a store."""

    resolved: Resolved
    manifest: ManifestStep
    embed: Embed | None
    raters: tuple[Rate, ...]
    steps: Mapping[str, int]
    """The version of each step of the flow."""
    store: Store
    is_dry: bool

    @classmethod
    def open(
        cls, resolved: Resolved, flow: Sequence[Step], root: str | os.PathLike[str], *, is_dry: bool = False
    ) -> "Run":
        """The run below a root. Raises UsageError for a root that it cannot use."""
        store = Store.open(root)
        _check_root(resolved.policy, resolved.uris, store)
        (manifest,) = [step for step in flow if isinstance(step, ManifestStep)]
        embed = next((step for step in flow if isinstance(step, Embed)), None)
        raters = tuple(step for step in flow if isinstance(step, Rate))
        steps = {step.name: step.version for step in flow}
        return cls(
            resolved=resolved, manifest=manifest, embed=embed, raters=raters, steps=steps, store=store, is_dry=is_dry
        )

    def if_finished(self, flow: Sequence[Step], executor: Executor, progress: Progress) -> Done | None:
        """All steps, if the run is finished. Nothing is written, and it may lie where nothing can be."""
        with Runner(self.store, executor) as runner:
            try:
                planned = runner.plan(flow, replace(self, is_dry=True).after())
            except SelectorError:
                return None
            if any(step.action != "cached" for step in planned):
                return None
            for result in runner.done.values():
                progress.ended(result)
            return runner.done

    def watched(self, lease: Lease, progress: Progress | None, began: Mark | None = None) -> Journal:
        """The journal of this run, which counts from this moment. Where the process is a job, it is told to end once
        somebody cancels that."""
        job = os.environ.get(JOB) or None
        end = functools.partial(os.kill, os.getpid(), signal.SIGTERM)
        return Journal(self.store.storage, lease, progress or NoProgress(), job, end if job else None, began)

    def after(self, lease: Lease | None = None, journal: Journal | None = None) -> Mapping[str, Callable[[Done], None]]:
        """What is checked once a step is done: that the policy fits the corpus, and that something is left of it. The
        lease is told the run's name once that is known, and the journal how many documents and tokens there are."""
        return {
            "survey": functools.partial(self._surveyed, lease),
            "ingest": self._ingested,
            "columns": functools.partial(columns.check, resolved=self.resolved),
            "dedup": functools.partial(self._deduplicated, journal),
            "cluster": functools.partial(health.check, gates=self.resolved.policy.cluster.gates),
            "select": self._not_empty,
            "order": self._not_empty,
            **{rater.name: functools.partial(self._rated, rater.name) for rater in self.raters},
        }

    def _surveyed(self, lease: Lease | None, done: Done) -> None:
        parts = survey.parts(done, self.manifest.survey)
        num_rows = sum(part.num_rows for part in parts)
        _check_rows(self.resolved, num_rows, survey.inventory(done, self.manifest.survey))
        plan = {
            "format_version": FORMAT_VERSION,
            "policy": self.resolved.data,
            "files": survey.inventory(done, self.manifest.survey).to_pylist(),
            "parts": fingerprint([[part.files, [piece.source for piece in part.pieces]] for part in parts]),
            "tokenizer": self.resolved.tokenizer_sha256,
            "models": self.manifest.models,
            "plugins": self.manifest.plugins,
            "versions": self.manifest.versions,
            "steps": self.steps,
            **({"retries": retries} if (retries := self._retries()) else {}),
        }
        name = done.once("run", lambda: fingerprint(plan)[:16])
        if self.store.storage.get(f"{name}/plan.json") is None:  # or else the run was begun, and needs less
            needed = num_rows * _BYTES_PER_ROW + self._kept_bytes(done)
            _check_space(self.store, f"{num_rows} rows", needed)
        if lease is not None and lease.name(name):
            logger.warning(
                "Another process was at work on this run, %s, a moment ago. If it still is, both go on, and each uses "
                "what the other finishes.",
                name,
            )
        if not self.is_dry:
            self.store.storage.ensure(f"{name}/plan.json", canonical_json(plan))
            failpoint.reach("plan.written")

    def _retries(self) -> dict[str, int]:
        """How often each judge was asked again for what it had not answered: then it is another run."""
        counted = {rater.label: rater.num_retries(self.store) for rater in self.raters}
        return {label: num for label, num in counted.items() if num}

    def _kept_bytes(self, done: Done) -> int:
        """About how many bytes of text are to be stored: compressed, a third of what plain files hold."""
        if not self.resolved.policy.corpus.keep_texts:
            return 0
        files = survey.inventory(done, self.manifest.survey)
        files = files.filter(files["format"].is_valid())
        is_plain = np.array(["." not in form and form != "parquet" for form in files["format"].to_pylist()])
        return int(np.where(is_plain, 0.4, 1.2) @ files["size"].to_numpy())

    def _ingested(self, done: Done) -> None:
        """Some row is a document, the corpus has the source column that the policy names, and no more of the input is
        lost than the policy allows, where a file that cannot be read counts by its bytes. Raises CorpusError or
        SelectorError."""
        if not done["ingest"].rows_out:
            _check_documents(self.resolved, 0, None, account.lost_rows(done))
        corpus = self.resolved.policy.corpus
        is_named = isinstance(corpus.source, str) and corpus.source != type(corpus).model_fields["source"].default
        if is_named and 0 < done["ingest"].rows_out == account.rows_without_source(done):
            raise CorpusError(
                f"corpus.source: no document of the corpus has a value in the column {corpus.source!r}. Name another"
                " column, or leave corpus.source out: the name of a document's file is then its source."
            )
        most = corpus.most_lost
        if most is None:
            return
        files = survey.inventory(done, self.manifest.survey)
        files = files.filter(files["format"].is_valid())
        sizes, is_unread = files["size"].to_numpy(), files["unread"].is_valid().to_numpy(zero_copy_only=False)
        unread = float(sizes[is_unread].sum() / max(1, sizes.sum()))
        num_lost = sum(seal.tables["quarantine"].num_rows for seal in done["ingest"].parts)
        share = unread + (1 - unread) * num_lost / max(1, num_lost + done["ingest"].rows_out)
        if share > most:
            reasons = [f"{count:,} {reason}" for reason, count in account.lost_rows(done).most_common()]
            files_lost = int(is_unread.sum())
            if files_lost:
                reasons.append(f"{files_lost:,} file{'s' if files_lost > 1 else ''} that cannot be read")
            raise SelectorError(
                f"corpus.most_lost is {most:g}, and {share:.2g} of the input is lost: {', '.join(reasons)}. "
                "See to these rows, or raise it: what is lost is quarantined then, each row with its reason."
            )

    def _not_empty(self, done: Done) -> None:
        """There is something to train on. Raises EmptyError if not, unless the policy allows it."""
        step, result = list(done.items())[-1]
        if result.rows_out or self.resolved.policy.select.allow_empty:
            return
        if step == "select":
            left = sorted(account.left_out(done).items(), key=lambda pair: (-pair[1], pair[0]))
            reasons = "; ".join(f"{count:,} {reason}" for reason, count in left)
            problem = f"select keeps no document ({reasons})"
        else:
            problem = "the order makes no visit"
        raise EmptyError(
            f"The manifest would be empty: {problem}. Change the rule or the budget, or write select.allow_empty: true "
            "if that is what is wanted."
        )

    def _deduplicated(self, journal: Journal | None, done: Done) -> None:
        num_documents = done["dedup"].rows_out
        if journal is not None:
            journal.counted(num_documents, dedup.num_tokens(done))
        lost = {} if num_documents else account.lost_rows(done)
        _check_documents(self.resolved, num_documents, dedup.num_tokens(done), lost)
        if self.store.storage.free_bytes() is None:  # far away, where nothing fills up and each look is a request
            return
        tasks = () if self.embed is None else self.embed.tasks(done)
        known = self.store.find_many([task.key for task in tasks])
        wanted = [
            share["num_documents"]
            for task, share in zip(tasks, dedup.shares(done), strict=bool(tasks))
            if task.key not in known
        ]
        _check_space(self.store, f"the vectors of {sum(wanted)} documents", sum(wanted) * _BYTES_PER_VECTOR)

    def _rated(self, step: str, done: Done) -> None:
        rate.finish(done, step, is_dry=self.is_dry)

    def finish(self, done: Done, runner: Runner) -> Manifest:
        """The committed manifest, once what lies beside it is written: the log, the list of artefacts."""
        name = run_id(done)
        account.write_log(done.store, name, runner.log)
        gc.keep(done.store, name, done.used)
        return Manifest.open(f"{self.address(done)}/manifest")

    def address(self, done: Done) -> str:
        """Where the run lies."""
        return f"{self.store.storage.address}/{run_id(done)}"


def begun_again(build: Callable[Given, Built]) -> Callable[Given, Built]:
    """The same, but where a file of the corpus goes away meanwhile, the corpus is looked at again, some times."""

    @functools.wraps(build)
    def built(*args: Given.args, **options: Given.kwargs) -> Built:
        for _ in range(_MOST_GONE):
            try:
                return build(*args, **options)
            except GoneError as gone:
                logger.warning("%s The corpus is looked at again.", gone)
        return build(*args, **options)

    return built


def warned(manifest: Manifest) -> Manifest:
    """The manifest, once it is logged what of the policy it does not have, such as a part of the budget."""
    for line in undone(manifest.header):
        logger.warning(line)
    return manifest


def _check_root(policy: Policy, uris: Sequence[str], store: Store) -> None:
    """No run of the policy would read what it wrote. Raises UsageError."""
    root = f"{store.storage.address}/"
    for address in policy.corpus.paths:
        path = local_path(address)
        folder = os.path.realpath(os.path.expanduser(path)) if path is not None else address.rstrip("/")
        is_one = not glob.has_magic(address) if path is None else os.path.isdir(folder)
        if is_one and root.startswith(f"{folder}/"):
            raise _inside(store, f"the corpus {'folder ' if path is not None else ''}{address!r}")
    if any((uri if is_address(uri) else os.path.realpath(uri)).startswith(root) for uri in uris):
        raise _inside(store, f"the corpus {', '.join(policy.corpus.paths)}")


def _inside(store: Store, folder: str) -> UsageError:
    return UsageError(
        f"--root: {store.storage.address} lies inside {folder}, so a run would read what it wrote. Give another root."
    )


def _check_rows(resolved: Resolved, num_rows: int, files: pa.Table) -> None:
    """The budget and the clusters fit a corpus of so many rows; if there are none, `tables.FILES` says why."""
    if not num_rows:
        unread = files.filter(files["unread"].is_valid()).to_pylist()
        reasons = "; ".join(f"{row['uri']}: {row['unread'].removesuffix('.')}" for row in unread)
        raise CorpusError(
            f"corpus.paths: there is no readable row in {', '.join(resolved.policy.corpus.paths)}"
            f"{f' ({reasons})' if reasons else ''}. Give files with rows."
        )
    _check_documents(resolved, num_rows, None)


def _check_space(store: Store, content: str, needed: int) -> None:
    """The disk has room for so many bytes. Raises UsageError."""
    free = store.storage.free_bytes()
    if free is not None and free < needed:
        raise UsageError(
            f"--root: {store.storage.address} has {free / 1e6:,.2f} MB free, and {content} need about "
            f"{needed / 1e6:,.2f} MB. Free some space, or give another root."
        )


def _check_documents(
    resolved: Resolved, num_documents: int, num_tokens: int | None, lost: Mapping[str, int] | None = None
) -> None:
    """The budget and the clusters fit so many documents and tokens; `lost` counts bad rows by reason."""
    if not num_documents:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted((lost or {}).items()))
        problem = (
            f"no row of {', '.join(resolved.policy.corpus.paths)} is a document{f' ({reasons})' if reasons else ''}"
        )
        raise CorpusError(
            f"corpus.paths: {problem}. Give files with rows, and in corpus.text the column that holds the text."
        )
    budget, num_clusters = resolved.policy.select.budget, resolved.policy.cluster.num_clusters
    are_fitted = "cluster" in resolved.steps_read and resolved.centroids is None
    num_clusters = resolved.policy.cluster.levels[0] if resolved.policy.cluster.levels else num_clusters
    wanted_clusters = num_clusters if num_clusters != "auto" and are_fitted else None
    for unit, wanted, available in (
        ("select.budget.documents", budget.documents, num_documents),
        ("select.budget.tokens", budget.tokens, num_tokens),
        (
            "cluster.num_clusters",
            wanted_clusters,
            num_documents,
        ),
    ):
        if wanted is not None and available is not None and wanted > available:
            noun = "tokens" if unit.endswith("tokens") else "documents"
            cure = (
                "Lower it, or write auto." if "clusters" in unit else "Lower it, or write fraction: 1.0 for all of it."
            )
            raise PolicyError(f"{unit} is {wanted}, and the corpus has only {available} {noun}. {cure}")
