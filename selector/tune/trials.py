"""One trial after another: the manifest of an arm is made, or found, and measured, or found measured."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from selector import pipeline
from selector.engine.alive import Stall
from selector.engine.executor import Executor
from selector.engine.part import Receipt
from selector.engine.runner import Planned, Progress, Runner
from selector.engine.step import Result
from selector.engine.store import Store
from selector.errors import EmptyError, UsageError
from selector.manifest import Manifest
from selector.pipeline import FinishedRun
from selector.policy import Policy
from selector.policy.resolve import resolve
from selector.policy.sections import BudgetPolicy
from selector.steps import dedup
from selector.steps.run import Run
from selector.tune import evidence
from selector.tune.arms import Arm, Condition, policy_of
from selector.tune.chosen import Chosen
from selector.tune.evidence import Evidence
from selector.tune.objectives import HeldOut, Trial
from selector.tune.study import Study

_OF_ONE_ARM = ("select", "order", "manifest")
"""Steps of which the line of the arm's measurement tells enough."""


class CeilingReached(Exception):
    """The study may not cost what the next trial would."""


@dataclass(frozen=True, kw_only=True)
class Quiet:
    """Passes on what steps do that arms share, but for those that are stored: of fifty arms nearly all are."""

    progress: Progress

    def began(self, name: str, num_parts: int) -> None:
        self.progress.began(name, num_parts)

    def advanced(self, name: str, receipt: Receipt) -> None:
        self.progress.advanced(name, receipt)

    def at_work(self, name: str, num_rows: int | None) -> None:
        self.progress.at_work(name, num_rows)

    def waiting(self, name: str, awaited: str) -> None:
        self.progress.waiting(name, awaited)

    def stalled(self, name: str, stalls: Sequence[Stall]) -> None:
        self.progress.stalled(name, stalls)

    def ended(self, result: Result) -> None:
        if not result.cached and result.name not in _OF_ONE_ARM:
            self.progress.ended(result)


@dataclass(kw_only=True)
class Spent:
    """What a study has cost, with what was stored, so that one that was killed ends where it would have."""

    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Makes and measures what a study tries."""

    study: Study
    root: str
    executor: Executor
    progress: Progress
    tell: Callable[[str], None] | None
    clock: Callable[[], float]
    store: Store
    held_out: HeldOut = field(default_factory=HeldOut)
    spent: Spent = field(default_factory=Spent)
    runs: dict[str, tuple[Policy, FinishedRun]] = field(default_factory=dict[str, tuple[Policy, FinishedRun]])
    """Finished runs, so that none is looked up for each scale and setting."""

    def measure(self, arm: Arm, condition: Condition, setting: str, seed: int) -> Evidence:
        """The evidence on an arm. Raises CeilingReached where that would cost more than the study may."""
        policy, finished = self.manifest(arm, condition.budget, seed)
        manifest, objective = finished.manifest, self.study.plugin
        self._check_ceiling(objective.tokens(condition.scale, manifest.header.counts.tokens))
        key = self._key(manifest, condition.scale, setting, seed)
        columns = Chosen(
            policy=policy, manifest=manifest, root=self.root, executor=self.executor, progress=self.progress
        )
        trial = Trial(
            arm=arm.name, manifest=manifest, held_out=self.held_out, seed=seed, scale=condition.scale, setting=setting,
            columns=columns, embed=functools.partial(_embedded, policy, self.executor), run=finished.uri,
            keep=evidence.keeping(self.store, key),
        )  # fmt: skip
        measured = evidence.of(self.store, objective, key, trial, self.clock)
        self.spent.tokens += measured.tokens
        self.spent.seconds += measured.seconds
        if self.tell is not None:
            words = [arm.name, condition.label, setting, f"seed {seed}"]
            state = f"{measured.seconds:.1f} s" if measured.is_new else "stored"
            metric, _ = self.study.deciding
            self.tell(f"{'  '.join(word for word in words if word)}: {metric} {measured.of(metric):.5g}  {state}")
        return measured

    def manifest(self, arm: Arm, budget: BudgetPolicy | None, seed: int) -> tuple[Policy, FinishedRun]:
        """An arm's policy, and its run: made, or found finished."""
        policy = policy_of(self.study, arm, budget, seed)
        name = policy.model_dump_json()
        if name not in self.runs:
            try:
                finished = pipeline.build(policy, root=self.root, executor=self.executor, progress=self.progress)
            except EmptyError as error:
                raise EmptyError(f"arms.{arm.name}: {error}") from error
            except UsageError as error:
                raise UsageError(f"arms.{arm.name}: {error}") from error
            self.runs[name] = policy, finished
        return self.runs[name]

    def finished(self, arm: Arm, budget: BudgetPolicy | None, seed: int) -> Manifest | None:
        """The manifest of an arm, if it was asked for before."""
        stored = self.runs.get(policy_of(self.study, arm, budget, seed).model_dump_json())
        return None if stored is None else stored[1].manifest

    def foreseen(self, arm: Arm, budget: BudgetPolicy | None, seed: int) -> "Foreseen":
        """What making the manifest of an arm would take. Nothing is written."""
        resolved = resolve(policy_of(self.study, arm, budget, seed))
        steps = pipeline.flow(resolved, self.executor)
        opened = Run.open(resolved, steps, self.root, is_dry=True)
        with Runner(self.store, self.executor) as runner:
            planned = runner.plan(steps, opened.after())
            total = dedup.num_tokens(runner.done) if "dedup" in runner.done else None
            is_finished = all(step.action == "cached" for step in planned)
            manifest = Manifest.open(opened.address(runner.done)) if is_finished else None
        return Foreseen(steps=planned, tokens_of_corpus=total, manifest=manifest)

    def stored(self, manifest: Manifest, condition: Condition, setting: str, seed: int) -> Evidence | None:
        """The evidence on a manifest, if there is any."""
        return evidence.find(self.store, self._key(manifest, condition.scale, setting, seed))

    def _key(self, manifest: Manifest, scale: str, setting: str, seed: int) -> str:
        return evidence.key_of(
            self.study.plugin, manifest, self.held_out, seed=seed, scale=scale, setting=setting
        )  # fmt: skip

    def _check_ceiling(self, tokens: int) -> None:
        ceiling = self.study.ceiling
        if ceiling.tokens is not None and self.spent.tokens + tokens > ceiling.tokens:
            raise CeilingReached(f"ceiling.tokens, {ceiling.tokens:,}, is reached")
        if ceiling.hours is not None and self.spent.seconds >= ceiling.hours * 3600:
            raise CeilingReached(f"ceiling.hours, {ceiling.hours:g}, is reached")


def _embedded(policy: Policy, executor: Executor, texts: Sequence[str]) -> npt.NDArray[Any]:
    vectors = resolve(policy).encoder(executor.device()).encode(texts).astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """What making a manifest would take; the manifest, where it is finished."""

    steps: Sequence[Planned]
    tokens_of_corpus: int | None
    manifest: Manifest | None
