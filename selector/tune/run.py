"""A study from its file to its result: each arm's manifest is made, measured, and compared, seed after seed.

All arms share what is stored, so the corpus is embedded once. Whatever was measured is found: a study that was killed
goes on, and a later study reuses what an earlier one measured.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from selector.engine.executor import Executor
from selector.engine.lease import Lease
from selector.engine.runner import NoProgress, Progress
from selector.engine.store import Store
from selector.exact import keyed
from selector.tune import filters, held_out, mixture, search
from selector.tune.arms import (
    Arm,
    Condition,
    arms_of,
    conditions_for,
    conditions_of,
    everything,
    policy_of,
    with_controls,
)
from selector.tune.result import Observed, Outcome, outcome_of
from selector.tune.study import Study
from selector.tune.trials import CeilingReached, Quiet, Trials

_MOST_IDS = 5_000_000


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
    trials = Trials(
        study=study, root=str(root), executor=executor, progress=Quiet(progress=progress or NoProgress()), tell=tell,
        clock=clock, store=Store.open(root),
    )  # fmt: skip
    with executor, Lease.taken(trials.store.storage):  # so that gc leaves alone what is not sealed yet
        arms, conditions = arms_of(study), conditions_of(study)
        search.check(study)
        policies = [
            policy_of(study, arm, condition.budget, 0) for arm in arms or [Arm(name="base")] for condition in conditions
        ]
        if study.plugin.reads_held_out:
            held = held_out.of(policies[0], study.held_out, trials.root, executor, trials.progress)
            trials = replace(trials, held_out=held)
        try:
            proposed, facts = _proposed(study, trials)
        except CeilingReached as reached:
            return outcome_of(study, arms, [], trials.held_out, stopped=str(reached))
        arms = with_controls(study, [*arms, *proposed])
        if study.controls.all and _is_affordable(trials, arms[0], conditions[-1]):
            arms = [*arms, everything()]
        outcome = _compared(study, trials, arms)
        return replace(outcome, content={**outcome.content, "overlap": _overlap(study, trials, arms), **facts})


def _proposed(study: Study, trials: Trials) -> tuple[list[Arm], dict[str, Any]]:
    """The arms that the study finds by itself, and how."""
    arms, facts = list[Arm](), dict[str, Any]()
    if study.space:
        arms += search.finalists(study, trials)
    if study.filters is not None:
        best_filters, facts["filters"] = filters.finalists(study, trials)
        arms += best_filters
    if study.mixture is not None:
        arm, facts["mixture"] = mixture.arm_of(study, trials)
        arms.append(arm)
    return arms, facts


def _compared(study: Study, trials: Trials, arms: list[Arm]) -> Outcome:
    """The arms, seed after seed, until the best two are told apart or there are no more seeds."""
    conditions, observed = conditions_of(study), list[Observed]()
    outcome = outcome_of(study, arms, observed, trials.held_out)
    for number, seed in enumerate(study.seed_numbers, 1):
        for arm in arms:
            for condition in conditions_for(arm, conditions):
                for setting in study.plugin.settings:
                    try:
                        measured = trials.measure(arm, condition, setting, seed)
                    except CeilingReached as reached:
                        return outcome_of(study, arms, observed, trials.held_out, stopped=str(reached))
                    observed.append(
                        Observed(arm=arm, condition=condition, setting=setting, seed=seed, evidence=measured)
                    )
        if number >= study.seeds.least:
            outcome = outcome_of(study, arms, observed, trials.held_out)
            if outcome.is_separated:
                break
    return outcome


def _overlap(study: Study, trials: Trials, arms: Sequence[Arm]) -> dict[str, dict[str, float]]:
    """For each arm the share of its documents that each other one has too, by the first seed at the last budget;
    nothing where that would be more ids than fit into memory."""
    budget, seed = conditions_of(study)[-1].budget, study.seeds.first
    manifests = {arm.name: trials.finished(arm, budget, seed) for arm in arms}
    known = {name: manifest for name, manifest in manifests.items() if manifest is not None}
    if any(len(manifest) > _MOST_IDS for manifest in known.values()):
        return {}
    ids = {
        name: np.unique(
            np.concatenate([keyed.sortable(manifest.ids_of_part(i)) for i in range(len(manifest.header.parts))])
        )
        for name, manifest in known.items()
    }
    return {
        name: {
            other: round(len(np.intersect1d(own, others, assume_unique=True)) / max(1, len(own)), 4)
            for other, others in ids.items()
            if other != name
        }
        for name, own in ids.items()
    }


def _is_affordable(trials: Trials, arm: Arm, condition: Condition) -> bool:
    """Whether all documents that may be chosen cost no more than the study allows for them."""
    study = trials.study
    first, most = study.seeds.first, study.ceiling.tokens
    tokens, largest = (
        trials.manifest(one, condition.budget, first)[1].manifest.header.counts.tokens for one in (everything(), arm)
    )
    cost = study.plugin.tokens(condition.scale, tokens) * study.seeds.least
    return tokens <= study.controls.affordable * largest and (most is None or cost <= most / 2)
