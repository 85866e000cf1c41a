"""What a study will run and cost, before it does: manifests, measurements, and the tokens that are trained on."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from selector.engine.executor import Executor
from selector.engine.runner import NoProgress
from selector.engine.store import Store
from selector.policy.sections import BudgetPolicy
from selector.tune import held_out
from selector.tune.arms import Arm, arms_of, budget_label, conditions_for, conditions_of, policy_of, with_controls
from selector.tune.study import Study, search_seeds
from selector.tune.trials import Foreseen, Trials

_SHARED = ("select", "order", "manifest")


def plan(study: Study, *, root: str | os.PathLike[str], executor: Executor) -> dict[str, Any]:
    """The arms, what of them is stored, and what is still to be done with the fewest and with the most seeds.

    `tokens` is null where what a manifest will have is not known yet. The arms of a space are counted apart; the
    control `all` and the seconds of stored measurements are not counted. Nothing is written.
    """
    trials = Trials(
        study=study, root=str(root), executor=executor, progress=NoProgress(), tell=None, clock=lambda: 0.0,
        store=Store.open(root),
    )  # fmt: skip
    arms, conditions = with_controls(study, arms_of(study)), conditions_of(study)
    known = not study.plugin.reads_held_out
    if study.plugin.reads_held_out:
        base = policy_of(study, arms[0], conditions[0].budget, 0)
        held = held_out.stored(base, study.held_out, trials.root, executor)
        known, trials = held is not None, replace(trials, held_out=held) if held is not None else trials
    budgets = list(dict.fromkeys(condition.budget for condition in conditions))
    shared: dict[str, None] = {}
    counts = {"manifests": 0, "manifests_stored": 0, "measurements": 0, "measurements_stored": 0}
    costs: list[int | None] = []
    rows: list[dict[str, Any]] = []
    for arm in arms:
        for budget in budgets:
            foreseen = [trials.foreseen(arm, budget, seed) for seed in study.seed_numbers[: study.seeds.least]]
            shared |= dict.fromkeys(step.name for one in foreseen for step in one.steps
                                    if step.action == "run" and step.name not in _SHARED)  # fmt: skip
            tokens = _tokens(study, arm, budget, foreseen)
            places = [(condition, setting) for condition in conditions_for(arm, conditions)
                      if condition.budget == budget for setting in study.plugin.settings]  # fmt: skip
            measured = [
                trials.stored(one.manifest, condition, setting, seed)
                for one, seed in zip(foreseen, study.seed_numbers, strict=False)
                if one.manifest is not None and known
                for condition, setting in places
            ]
            stored = [one for one in measured if one is not None]
            counts["manifests"] += len(foreseen)
            counts["manifests_stored"] += sum(one.manifest is not None for one in foreseen)
            counts["measurements"] += len(places) * study.seeds.least
            counts["measurements_stored"] += len(stored)
            costs += [
                None if tokens is None else study.plugin.tokens(condition.scale, tokens) for condition, _ in places
            ]
            rows.append({"arm": arm.name, "budget": budget_label(budget) or "own budget", "tokens": tokens,
                         "measurements": len(places) * study.seeds.least, "stored": len(stored)})  # fmt: skip
    of_a_seed = None if any(cost is None for cost in costs) else sum(cost or 0 for cost in costs)
    searched = study.trials * len(search_seeds(study)) * len(study.plugin.settings) if study.space else 0
    return {
        "metric": study.deciding[0],
        "objective": study.objective.label,
        "seeds": {"least": study.seeds.least, "most": study.seeds.most},
        "arms": rows,
        "steps_to_run": list(shared),
        **counts,
        "searched": {"arms": study.trials if study.space else 0, "measurements_at_most": searched},
        "tokens": {
            name: None if of_a_seed is None else of_a_seed * count
            for name, count in (("least", study.seeds.least), ("most", study.seeds.most))
        },
        "below_floor": study.plugin.below_floor,
    }


def _tokens(study: Study, arm: Arm, budget: BudgetPolicy | None, foreseen: Sequence[Foreseen]) -> int | None:
    """The tokens of an arm's manifest, as far as they are known."""
    known = [one.manifest.header.counts.tokens for one in foreseen if one.manifest is not None]
    if known:
        return max(known)
    limit = policy_of(study, arm, budget, 0).select.budget
    if limit.tokens is not None:
        return limit.tokens
    totals = [one.tokens_of_corpus for one in foreseen if one.tokens_of_corpus is not None]
    return int(totals[0] * limit.fraction) if totals and limit.fraction is not None else None
