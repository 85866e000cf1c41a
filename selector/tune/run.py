"""A study from its file to its result: each arm's manifest is made, measured, and compared, seed after seed.

All arms share what is stored, so the corpus is embedded once. Whatever was measured is found: a study that was killed
goes on, and a later study reuses what an earlier one measured.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from selector import pipeline
from selector.engine.alive import Stall
from selector.engine.executor import Executor
from selector.engine.part import Receipt
from selector.engine.runner import NoProgress, Progress
from selector.engine.step import Result
from selector.engine.store import Store
from selector.errors import UsageError
from selector.manifest import Manifest
from selector.pipeline import FinishedRun
from selector.policy import Policy
from selector.policy.sections import BudgetPolicy
from selector.tune import evidence, held_out
from selector.tune.arms import Arm, Condition, arms_of, conditions_for, conditions_of, everything, policy_of
from selector.tune.chosen import Chosen
from selector.tune.evidence import Evidence
from selector.tune.objectives import HeldOut, Trial
from selector.tune.result import Observed, Outcome, outcome_of
from selector.tune.study import Study


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One measurement that a study makes, or finds stored."""

    arm: Arm
    condition: Condition
    setting: str
    seed: int


_OF_ONE_ARM = ("select", "order", "manifest")
"""Steps of which the line of the arm's measurement tells enough."""


@dataclass(frozen=True, kw_only=True)
class _Quiet:
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


def run(
    study: Study,
    *,
    root: str | os.PathLike[str],
    executor: Executor,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Outcome:
    """What a study finds. `tell` is given a line for each measurement."""
    work = _Work(
        study=study, root=str(root), executor=executor, progress=_Quiet(progress=progress or NoProgress()), tell=tell,
        clock=clock, store=Store.open(root),
    )  # fmt: skip
    with executor:
        return work.outcome()


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A study that is under way."""

    study: Study
    root: str
    executor: Executor
    progress: Progress
    tell: Callable[[str], None] | None
    clock: Callable[[], float]
    store: Store

    def outcome(self) -> Outcome:
        study, observed, spent = self.study, list[Observed](), _Spent(study=self.study)
        arms, conditions, settings = arms_of(study), conditions_of(study), study.plugin.settings
        policies = [policy_of(study, arm, conditions[0].budget, study.seeds.first) for arm in arms]
        held = HeldOut()
        if study.plugin.reads_held_out:
            held = held_out.of(policies[0], study.held_out, self.root, self.executor, self.progress)
        if study.controls.all and self._is_affordable(arms[0], conditions[-1]):
            arms = [*arms, everything()]
        outcome = outcome_of(study, arms, observed, held)
        for number, seed in enumerate(study.seed_numbers, 1):
            for planned in _plans(arms, conditions, settings, seed):
                trial = self._trial(planned, held)
                over = spent.over(study.plugin.tokens(trial.scale, trial.manifest.header.counts.tokens))
                if over:
                    return outcome_of(study, arms, observed, held, stopped=over)
                measured = self._measured(planned, trial)
                spent = spent.after(measured)
                observed.append(
                    Observed(
                        arm=planned.arm, condition=planned.condition, setting=planned.setting, seed=seed,
                        evidence=measured,
                    )
                )  # fmt: skip
            if number >= study.seeds.least:
                outcome = outcome_of(study, arms, observed, held)
                if outcome.is_separated:
                    break
        return outcome

    def _manifest(self, arm: Arm, budget: BudgetPolicy | None, seed: int) -> tuple[Policy, FinishedRun]:
        policy = policy_of(self.study, arm, budget, seed)
        try:
            finished = pipeline.build(policy, root=self.root, executor=self.executor, progress=self.progress)
        except UsageError as error:
            raise UsageError(f"arms.{arm.name}: {error}") from error
        return policy, finished

    def _trial(self, planned: Planned, held: HeldOut) -> Trial:
        policy, finished = self._manifest(planned.arm, planned.condition.budget, planned.seed)
        manifest = finished.manifest
        columns = Chosen(
            policy=policy, manifest=manifest, root=self.root, executor=self.executor, progress=self.progress
        )
        key = self._key(planned, manifest, held)
        return Trial(
            arm=planned.arm.name, manifest=manifest, held_out=held, seed=planned.seed, scale=planned.condition.scale,
            setting=planned.setting, columns=columns, run=finished.uri, keep=evidence.keeping(self.store, key),
        )  # fmt: skip

    def _key(self, planned: Planned, manifest: Manifest, held: HeldOut) -> str:
        return evidence.key_of(
            self.study.plugin, manifest, held,
            seed=planned.seed, scale=planned.condition.scale, setting=planned.setting,
        )  # fmt: skip

    def _measured(self, planned: Planned, trial: Trial) -> Evidence:
        metric, _ = self.study.deciding
        key = self._key(planned, trial.manifest, trial.held_out)
        measured = evidence.of(self.store, self.study.plugin, key, trial, self.clock)
        words = [planned.arm.name, planned.condition.label, planned.setting, f"seed {planned.seed}"]
        state = f"{measured.seconds:.1f} s" if measured.is_new else "stored"
        if self.tell is not None:
            self.tell(f"{'  '.join(word for word in words if word)}: {metric} {measured.of(metric):.5g}  {state}")
        return measured

    def _is_affordable(self, arm: Arm, condition: Condition) -> bool:
        """Whether all documents that may be chosen cost no more than the study allows for them."""
        first, most = self.study.seeds.first, self.study.ceiling.tokens
        _, whole = self._manifest(everything(), condition.budget, first)
        _, largest = self._manifest(arm, condition.budget, first)
        tokens = whole.manifest.header.counts.tokens
        cost = self.study.plugin.tokens(condition.scale, tokens) * self.study.seeds.least
        limit = self.study.controls.affordable * largest.manifest.header.counts.tokens
        return tokens <= limit and (most is None or cost <= most / 2)


def _plans(
    arms: Sequence[Arm], conditions: Sequence[Condition], settings: Sequence[str], seed: int
) -> Iterator[Planned]:
    """All measurements by one seed. An arm that does not compete has one budget, the last."""
    for arm in arms:
        for condition in conditions_for(arm, conditions):
            for setting in settings:
                yield Planned(arm=arm, condition=condition, setting=setting, seed=seed)


@dataclass(frozen=True, kw_only=True)
class _Spent:
    """What a study has cost, with what was stored, so that one that was killed ends where it would have."""

    study: Study
    tokens: int = 0
    seconds: float = 0.0

    def after(self, measured: Evidence) -> "_Spent":
        return replace(self, tokens=self.tokens + measured.tokens, seconds=self.seconds + measured.seconds)

    def over(self, tokens: int) -> str | None:
        """Which ceiling would not hold with so many tokens more, if one."""
        ceiling = self.study.ceiling
        if ceiling.tokens is not None and self.tokens + tokens > ceiling.tokens:
            return f"ceiling.tokens, {ceiling.tokens:,}, is reached"
        if ceiling.hours is not None and self.seconds >= ceiling.hours * 3600:
            return f"ceiling.hours, {ceiling.hours:g}, is reached"
        return None
