"""What a study will run and cost, before it does: manifests, measurements, and the tokens that are trained on."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selector.engine.executor import Executor
from selector.engine.runner import NoProgress
from selector.engine.store import Store
from selector.policy.sections import BudgetPolicy
from selector.tune import filters, held_out, mixture, search
from selector.tune.arms import (
    Arm,
    Condition,
    affordable,
    arms_of,
    budget_label,
    conditions_for,
    conditions_of,
    everything,
    policy_of,
    with_controls,
)
from selector.tune.study import Study, search_seeds
from selector.tune.trials import Foreseen, Trials

_SHARED = ("select", "order", "manifest")
_BASE = Arm(name="base")


def plan(study: Study, *, root: str | os.PathLike[str], executor: Executor) -> dict[str, Any]:
    """The arms, what of them is stored, and what is still to be done with the fewest and with the most seeds.

    `tokens` is null where what a manifest will have is not known yet. The arms that the study finds by itself are
    counted apart, as many as there are at most; the control `all` counts with all tokens of the corpus once these are
    known, and if they are affordable. The seconds of stored measurements are not counted. Nothing is written.
    """
    search.check(study)
    trials = Trials(
        study=study, root=str(root), executor=executor, progress=NoProgress(), tell=None, clock=lambda: 0.0,
        store=Store.open(root),
    )  # fmt: skip
    arms, conditions = with_controls(study, arms_of(study)), conditions_of(study)
    known = not study.plugin.reads_held_out
    if study.plugin.reads_held_out:
        base = policy_of(study, (arms or [_BASE])[0], conditions[0].budget, 0)
        held = held_out.stored(base, study.held_out, trials.root, executor)
        known, trials = held is not None, replace(trials, held_out=held) if held is not None else trials
    budgets = list(dict.fromkeys(condition.budget for condition in conditions))
    shared: dict[str, None] = {}
    counts = {"manifests": 0, "manifests_stored": 0, "measurements": 0, "measurements_stored": 0}
    costs: list[int | None] = []
    rows: list[dict[str, Any]] = []
    is_affordable = _is_all_affordable(trials, arms, conditions[-1]) if study.controls.all else False
    for arm in [*arms, *([everything()] if is_affordable else [])]:
        for budget in budgets if arm.competes else budgets[-1:]:
            foreseen = [trials.foreseen(arm, budget, seed) for seed in study.seed_numbers[: study.seeds.least]]
            shared |= dict.fromkeys(step.name for one in foreseen for step in one.steps
                                    if step.action == "run" and step.name not in _SHARED)  # fmt: skip
            tokens = _tokens(study, arm, budget, foreseen)
            places = [(condition, setting) for condition in conditions_for(arm, conditions)
                      if condition.budget == budget for setting in study.plugin.settings]  # fmt: skip
            measured = [
                trials.stored(one.identity, condition, setting, seed)
                for one, seed in zip(foreseen, study.seed_numbers, strict=False)
                if one.identity is not None and known
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
    proposals = _proposals(study, trials, conditions)
    of_a_seed = _sum([*costs, proposals.tokens_of_a_seed])
    tokens = {
        name: _sum([proposals.tokens_once, of_a_seed if of_a_seed is None else of_a_seed * count])
        for name, count in (("least", study.seeds.least), ("most", study.seeds.most))
    }
    return {
        "metric": study.deciding[0],
        "objective": study.objective.label,
        "seeds": {"least": study.seeds.least, "most": study.seeds.most},
        "arms": rows,
        "all_is_affordable": is_affordable,
        "steps_to_run": list(shared),
        **counts,
        "searched": {"arms": proposals.arms, "measurements_at_most": proposals.measurements},
        "finalists": {
            "arms": proposals.finalists,
            "measurements_at_most": proposals.measurements_of_a_seed * study.seeds.least,
        },
        "tokens": tokens,
        "tokens_are_at_most": proposals.finalists > 0,
        "above_ceiling": _above_ceiling(study, tokens, "at most " if proposals.finalists else ""),
        "below_floor": study.plugin.below_floor,
    }


def _is_all_affordable(trials: Trials, arms: Sequence[Arm], condition: Condition) -> bool | None:
    """Whether the study will have the control `all`; None where that is not known yet."""
    study, first = trials.study, trials.study.seeds.first
    tokens, largest = (
        _tokens(study, arm, condition.budget, [trials.foreseen(arm, condition.budget, first)])
        for arm in (everything(), (arms or [_BASE])[0])
    )
    return None if tokens is None or largest is None else affordable(study, condition, tokens, largest)


def _tokens(study: Study, arm: Arm, budget: BudgetPolicy | None, foreseen: Sequence[Foreseen]) -> int | None:
    """The tokens of an arm's manifest, as far as they are known."""
    known = [one.manifest.header.counts.tokens for one in foreseen if one.manifest is not None]
    if known:
        return max(known)
    totals = [one.tokens_of_corpus for one in foreseen if one.tokens_of_corpus is not None]
    return _limit(policy_of(study, arm, budget, 0).select.budget, totals[0] if totals else None)


def _limit(budget: BudgetPolicy, total: int | None) -> int | None:
    """The tokens of a budget, of a corpus that has so many."""
    if budget.tokens is not None:
        return budget.tokens
    return int(total * budget.fraction) if total is not None and budget.fraction is not None else None


@dataclass(frozen=True, kw_only=True)
class _Proposals:
    """What the arms cost that the study tries by itself, and those that it compares of them."""

    arms: int | None  # that are tried
    measurements: int | None
    tokens_once: int | None
    finalists: int  # and their own controls
    measurements_of_a_seed: int
    tokens_of_a_seed: int | None


def _proposals(study: Study, trials: Trials, conditions: Sequence[Condition]) -> _Proposals:
    """The most that space, filters and mixture may try, and the arms that they may propose."""
    objective, first = study.plugin, conditions[0]
    runs, num_filters, ends = mixture.num_runs(study, trials), filters.most(study), search.ends(study)
    placed = with_controls(study, ends)
    num_controls = study.finalists if study.controls.random and len(placed) > len(ends) else 0
    num_searched = study.trials if study.space else 0
    kinds = [  # a kind's arms, measurements of each, arms that it proposes, and where its budgets are written
        (num_searched, len(search_seeds(study)) * len(objective.settings),
         min(num_searched, study.finalists) + num_controls if study.space else 0, ends),
        (num_filters, len(search_seeds(study)), min(num_filters, study.finalists), [_BASE]),
        (runs, 1, 1 if study.mixture is not None else 0, [_BASE]),
    ]  # fmt: skip

    def most(condition: Condition, arms: Sequence[Arm]) -> int | None:
        """The tokens that are trained on to measure one of these arms once."""
        limits: list[int | None] = []
        for arm in arms:
            limit = _limit(policy_of(study, arm, condition.budget, 0).select.budget, None)
            if limit is None:
                limit = _tokens(study, arm, condition.budget, [trials.foreseen(arm, condition.budget, 0)])
            limits.append(limit)
        if None in limits:
            return None
        return max(objective.tokens(condition.scale, limit or 0) for limit in limits)

    used = [kind for kind in kinds if kind[2]]
    return _Proposals(
        arms=_sum([count for count, *_ in used]),
        measurements=_sum([_times(count, each) for count, each, *_ in used]),
        tokens_once=_sum([_times(count, each, most(first, arms)) for count, each, _, arms in used]),
        finalists=sum(count for _, _, count, _ in used),
        measurements_of_a_seed=sum(count for _, _, count, _ in used) * len(conditions) * len(objective.settings),
        tokens_of_a_seed=_sum([_times(count, len(objective.settings), most(condition, arms))
                               for _, _, count, arms in used for condition in conditions]),
    )  # fmt: skip


def _sum(values: Sequence[int | None]) -> int | None:
    return None if None in values else sum(value or 0 for value in values)


def _times(*values: int | None) -> int | None:
    return None if None in values else math.prod(value or 0 for value in values)


def _above_ceiling(study: Study, tokens: Mapping[str, int | None], bound: str) -> str | None:
    """That a study may end at its ceiling, if that is so."""
    ceiling = study.ceiling.tokens
    for name in ("least", "most"):
        needed = tokens[name]
        if ceiling is not None and needed is not None and needed > ceiling:
            seeds = "fewest" if name == "least" else "most"
            return (
                f"ceiling.tokens, {ceiling:,}, is less than what the {seeds} seeds train on, {bound}{needed:,}: the"
                " study may end before it is done. Raise it, or try less."
            )
    return None
