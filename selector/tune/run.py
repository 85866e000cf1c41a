"""A study from its file to its result: each arm's manifest is made, measured, and compared, seed after seed.

All arms share what is stored, so the corpus is embedded once. Whatever was measured is found: a study that was killed
goes on, and a later study reuses what an earlier one measured.
"""

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from selector.engine.executor import Executor
from selector.engine.lease import Lease
from selector.engine.runner import NoProgress, Progress
from selector.engine.store import Store
from selector.exact import keyed
from selector.steps import health
from selector.tune import filters, held_out, mixture, search
from selector.tune.arms import (
    Arm,
    Condition,
    affordable,
    arms_of,
    conditions_for,
    conditions_of,
    everything,
    policy_of,
    with_controls,
)
from selector.tune.measurements import Observed
from selector.tune.result import Outcome, outcome_of
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
    # The lease keeps gc away from what is not sealed yet.
    with executor, Lease.taken(trials.store.storage), _told_once(health.logger):
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
            outcome = outcome_of(study, arms, [], trials.held_out, stopped=str(reached))
            return replace(outcome, content={**outcome.content, "quarantined": _num_quarantined(trials)})
        arms = with_controls(study, [*arms, *proposed])
        if study.controls.all and _is_affordable(trials, arms[0], conditions[-1]):
            arms = [*arms, everything()]
        outcome = _compared(study, trials, arms)
        overlap, alike = _overlap(study, trials, arms)
        more = {"overlap": overlap, "alike": alike, "quarantined": _num_quarantined(trials), **facts}
        return replace(outcome, content={**outcome.content, **more})


@contextlib.contextmanager
def _told_once(logger: logging.Logger) -> Generator[None]:
    """Until it is left, of lines that differ in numbers alone the first is logged: arms have much the same clusters."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        kind = re.sub(r"[0-9][0-9.,]*", "#", record.getMessage())
        return not (kind in seen or seen.add(kind))

    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


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
        places = [
            (arm, condition, setting, seed)
            for arm in arms
            for condition in conditions_for(arm, conditions)
            for setting in study.plugin.settings
        ]
        try:
            for one in trials.measured(places):
                observed.append(one)
        except CeilingReached as reached:
            return outcome_of(study, arms, observed, trials.held_out, stopped=str(reached))
        if number >= study.seeds.least:
            outcome = outcome_of(study, arms, observed, trials.held_out)
            if outcome.is_separated:
                break
    return outcome


def _overlap(study: Study, trials: Trials, arms: Sequence[Arm]) -> tuple[dict[str, dict[str, float]], list[list[str]]]:
    """For each arm the share of its documents that each other one has too, by the first seed at the last budget, and
    arms that have the very same visits there; nothing where that would be more ids than fit into memory."""
    budget, seed = conditions_of(study)[-1].budget, study.seeds.first
    manifests = {arm.name: trials.finished(arm, budget, seed) for arm in arms}
    known = {name: manifest for name, manifest in manifests.items() if manifest is not None}
    if any(len(manifest) > _MOST_IDS for manifest in known.values()):
        return {}, []
    visits = {
        name: np.concatenate([keyed.sortable(manifest.ids_of_part(i)) for i in range(len(manifest.header.parts))])
        for name, manifest in known.items()
    }
    same: dict[bytes, list[str]] = {}
    for name, visited in visits.items():
        same.setdefault(keyed.digest(visited.tobytes()), []).append(name)
    ids = {name: np.unique(visited) for name, visited in visits.items()}
    overlap = {
        name: {
            other: round(len(np.intersect1d(own, others, assume_unique=True)) / max(1, len(own)), 4)
            for other, others in ids.items()
            if other != name
        }
        for name, own in ids.items()
    }
    return overlap, [names for names in same.values() if len(names) > 1]


def _num_quarantined(trials: Trials) -> int:
    """The most rows that a run of the study has in quarantine."""
    return max((finished.num_quarantined for _, finished in trials.runs.values()), default=0)


def _is_affordable(trials: Trials, arm: Arm, condition: Condition) -> bool:
    """Whether all documents that may be chosen cost no more than the study allows for them."""
    first = trials.study.seeds.first
    tokens, largest = (
        trials.manifest(one, condition.budget, first)[1].manifest.header.counts.tokens for one in (everything(), arm)
    )
    return affordable(trials.study, condition, tokens, largest)
