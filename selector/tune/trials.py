"""Trials: the manifest of an arm is made, or found, and measured, or found measured."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
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
from selector.errors import CorpusError, EmptyError, PolicyError, SelectorError, UsageError
from selector.manifest import Manifest
from selector.pipeline import FinishedRun
from selector.policy import Policy
from selector.policy.resolve import resolve
from selector.policy.sections import BudgetPolicy
from selector.steps import dedup
from selector.steps.run import Run
from selector.tune import evidence, held_out
from selector.tune.arms import Arm, Condition, policy_of
from selector.tune.chosen import Chosen
from selector.tune.evidence import Evidence
from selector.tune.measurements import Observed
from selector.tune.objectives import HeldOut, Objective, Trial
from selector.tune.study import Study

Place = tuple[Arm, Condition, str, int]
"""A trial: an arm, where it is measured, by which setting of the objective and by which seed."""

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

    def measured(self, places: Sequence[Place]) -> Iterator[Observed]:
        """The evidence on all of these trials, in their order; workers measure several at once, if the objective can.

        Raises CeilingReached before the first one that would cost more than the study may.
        """
        objective = self.study.plugin
        questions = [(*place, *self._question(*place)) for place in places]
        affordable = self._affordable([question for *_, question, _, _ in questions])
        known = {question.key: evidence.find(self.store, question.key) for question in affordable}
        new = {
            question.key: (question, policy, finished)
            for *_, question, policy, finished in questions
            if question.key in known and known[question.key] is None
        }
        if objective.is_apart and new and self.executor.device() == "cpu":
            work = _Measuring(objective=objective, store=self.store, held_out=self.held_out.key, clock=self.clock)
            answers = self.executor.map(work, [question for question, _, _ in new.values()])
        else:
            answers = (self._measured_here(*one) for one in new.values())
        for arm, condition, setting, seed, question, _, _ in questions:
            self._check_ceiling(question.tokens)
            measured = known[question.key]
            if measured is None:
                measured = next(answers)
                known[question.key] = replace(measured, is_new=False)  # for an arm that says the same
            self.spent.tokens += measured.tokens
            self.spent.seconds += measured.seconds
            if self.tell is not None:
                words = [arm.name, condition.label, setting, f"seed {seed}"]
                state = f"{measured.seconds:.1f} s" if measured.is_new else "stored"
                metric, _ = self.study.deciding
                self.tell(f"{'  '.join(word for word in words if word)}: {metric} {measured.of(metric):.5g}  {state}")
            yield Observed(arm=arm, condition=condition, setting=setting, seed=seed, evidence=measured)

    def _question(
        self, arm: Arm, condition: Condition, setting: str, seed: int
    ) -> tuple["_Question", Policy, FinishedRun]:
        policy, finished = self.manifest(arm, condition.budget, seed)
        identity = evidence.policy_fingerprint(finished.manifest, finished.flow)
        question = _Question(
            key=self._key(identity, condition.scale, setting, seed), arm=arm.name, run=finished.uri, seed=seed,
            scale=condition.scale, setting=setting,
            tokens=self.study.plugin.tokens(condition.scale, finished.manifest.header.counts.tokens),
        )  # fmt: skip
        return question, policy, finished

    def _measured_here(self, question: "_Question", policy: Policy, finished: FinishedRun) -> Evidence:
        trial = question.trial(
            finished.manifest, self.held_out,
            columns=Chosen(
                policy=policy, manifest=finished.manifest, root=self.root, executor=self.executor,
                progress=self.progress,
            ),
            embed=functools.partial(_embedded, policy, self.executor),
            keep=evidence.keeping(self.store, question.key),
        )  # fmt: skip
        return evidence.of(self.store, self.study.plugin, question.key, trial, self.clock)

    def manifest(self, arm: Arm, budget: BudgetPolicy | None, seed: int) -> tuple[Policy, FinishedRun]:
        """An arm's policy, and its run: made, or found finished."""
        policy = policy_of(self.study, arm, budget, seed)
        name = policy.model_dump_json()
        if name not in self.runs:
            try:
                finished = pipeline.build(policy, root=self.root, executor=self.executor, progress=self.progress)
            except EmptyError as error:
                raise EmptyError(f"arms.{arm.name}: {error}") from error
            except (PolicyError, CorpusError) as error:  # and not what the root or the executor are to blame for
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
        identity = None if manifest is None else evidence.policy_fingerprint(manifest, steps)
        return Foreseen(steps=planned, tokens_of_corpus=total, manifest=manifest, identity=identity)

    def stored(self, identity: str, condition: Condition, setting: str, seed: int) -> Evidence | None:
        """The evidence on a policy (its `policy_fingerprint`), if there is any."""
        return evidence.find(self.store, self._key(identity, condition.scale, setting, seed))

    def _key(self, identity: str, scale: str, setting: str, seed: int) -> str:
        return evidence.key_of(
            self.study.plugin, identity, self.held_out, seed=seed, scale=scale, setting=setting
        )  # fmt: skip

    def _affordable(self, questions: Sequence["_Question"]) -> list["_Question"]:
        """The first of them, as many as the ceiling of tokens leaves room for."""
        most = math.inf if self.study.ceiling.tokens is None else self.study.ceiling.tokens
        after = itertools.accumulate((question.tokens for question in questions), initial=self.spent.tokens)
        return [question for question, spent in zip(questions, itertools.islice(after, 1, None), strict=True)
                if spent <= most]  # fmt: skip

    def _check_ceiling(self, tokens: int) -> None:
        ceiling = self.study.ceiling
        if ceiling.tokens is not None and self.spent.tokens + tokens > ceiling.tokens:
            raise CeilingReached(f"ceiling.tokens, {ceiling.tokens:,}, is reached")
        if ceiling.hours is not None and self.spent.seconds >= ceiling.hours * 3600:
            raise CeilingReached(f"ceiling.hours, {ceiling.hours:g}, is reached")


@dataclass(frozen=True, kw_only=True)
class _Question:
    """What is asked of an objective, as it is sent to workers."""

    key: str  # of the evidence
    arm: str
    run: str  # where the manifest's run lies
    seed: int
    scale: str
    setting: str
    tokens: int  # that are trained on

    def trial(self, manifest: Manifest, held_out: HeldOut, **ways: Any) -> Trial:
        """The trial, with ways to what else an objective may read."""
        return Trial(
            arm=self.arm, manifest=manifest, run=self.run, held_out=held_out, seed=self.seed, scale=self.scale,
            setting=self.setting, **ways,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Measuring:
    """Measures a trial by an objective that reads only its manifest and the held-out documents."""

    objective: Objective
    store: Store
    held_out: str  # the key of the documents
    clock: Callable[[], float]

    def __call__(self, question: _Question) -> Evidence:
        trial = question.trial(
            Manifest.open(question.run), _opened(self.store, self.held_out), columns=_nothing, embed=_nothing,
            keep=_nothing,
        )  # fmt: skip
        return evidence.of(self.store, self.objective, question.key, trial, self.clock)


@functools.lru_cache(maxsize=1)
def _opened(store: Store, key: str) -> HeldOut:
    return held_out.opened(store, key)


def _nothing(*_: Any) -> Any:
    raise SelectorError(
        "An objective with is_apart = True reads columns, embed or keep of a trial, which workers do not have. Leave "
        "is_apart out of its class: then the driver measures its trials."
    )


def _embedded(policy: Policy, executor: Executor, texts: Sequence[str]) -> npt.NDArray[Any]:
    vectors = resolve(policy).encoder(executor.device()).encode(texts).astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """What making a manifest would take; the manifest, where it is finished."""

    steps: Sequence[Planned]
    tokens_of_corpus: int | None
    manifest: Manifest | None
    identity: str | None  # the policy's fingerprint, where the manifest is finished
