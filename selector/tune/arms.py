"""The arms of a study, and the policy of each one at a budget and by a seed.

Whatever an arm says, its documents are not held out, and with a `target` they are of a keyed sample of the corpus: both
are rules on the column `doc_draw`, the number that a document draws by its doc_id.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from selector.errors import PolicyError
from selector.plugins import allowed
from selector.policy import Policy
from selector.policy.elsewhere import check_within
from selector.policy.read import set_at
from selector.policy.sections import BudgetPolicy
from selector.tune.study import Study, unit_of

RANDOM, ALL = "random", "all"
_AT_RANDOM = {"select.using": "random", "order.using": "shuffled"}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A policy that is tried: what it says otherwise than the base, by dotted keys."""

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    competes: bool = True  # `all` does not: it has another budget
    control: str = RANDOM  # the arm that it stands beside


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Where arms are compared: at a budget, and at a scale of the objective."""

    budget: BudgetPolicy | None  # None: the policy's own
    scale: str

    @property
    def label(self) -> str:
        """What tables call it."""
        return " ".join(word for word in (budget_label(self.budget), self.scale) if word) or "own budget"


def budget_label(budget: BudgetPolicy | None) -> str:
    """A budget as a table has it: 5k tokens."""
    if budget is None:
        return ""
    unit = unit_of(budget)
    amount = getattr(budget, unit)
    if unit == "fraction":
        return f"{amount:.3g} of the corpus"
    for scale, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if amount >= scale and amount % (scale // 10 or 1) == 0:
            return f"{amount / scale:g}{letter} {unit}"
    return f"{amount:,} {unit}"


def arms_of(study: Study) -> list[Arm]:
    """The arms that a study names, after its random control."""
    controls = [Arm(name=RANDOM, changes=_AT_RANDOM)] if study.controls.random else []
    return [*controls, *(Arm(name=name, changes=changes) for name, changes in study.arms.items())]


def written(changes: Mapping[str, Any]) -> str:
    """What an arm says otherwise, in a line."""
    return ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changes.items())


def with_controls(study: Study, arms: Sequence[Arm]) -> list[Arm]:
    """The arms, and a random control for each budget that an arm has for itself."""
    if not study.controls.random:
        return list(arms)
    controls: dict[str, Arm] = {}
    placed: list[Arm] = []
    for arm in arms:
        own = {key: value for key, value in arm.changes.items() if _is_budget(key)}
        if own and arm.name != RANDOM:
            written = json.dumps(own, sort_keys=True)
            name = f"{RANDOM} like {arm.name}"
            control = controls.setdefault(written, Arm(name=name, changes={**_AT_RANDOM, **own}))
            arm = replace(arm, control=control.name)
        placed.append(arm)
    return [*placed, *controls.values()]


def _is_budget(key: str) -> bool:
    return key == "select.budget" or (key.startswith("select.budget.") and not key.endswith(".overshoot"))


def everything() -> Arm:
    """The arm that has all documents that may be chosen."""
    return Arm(name=ALL, changes={**_AT_RANDOM, "select.budget": {"fraction": 1.0}}, competes=False)


def affordable(study: Study, condition: Condition, tokens: int, largest: int) -> bool:
    """Whether `all`, which has so many tokens, costs no more beside an arm with the largest budget than it may."""
    most = study.ceiling.tokens
    cost = study.plugin.tokens(condition.scale, tokens) * study.seeds.least
    return tokens <= study.controls.affordable * largest and (most is None or cost <= most / 2)


def conditions_of(study: Study) -> list[Condition]:
    """Where a study compares its arms, the smallest first."""
    return [
        Condition(budget=budget, scale=scale) for budget in study.budgets or (None,) for scale in study.plugin.scales
    ]


def conditions_for(arm: Arm, conditions: Sequence[Condition]) -> list[Condition]:
    """Where an arm is measured: one that does not compete at the last budget only."""
    return [condition for condition in conditions if arm.competes or condition.budget == conditions[-1].budget]


def policy_of(study: Study, arm: Arm, budget: BudgetPolicy | None, seed: int, *, is_studied: bool = True) -> Policy:
    """The policy of an arm at a budget, by a seed; for the study, or as its user runs it, who holds nothing out.

    Raises PolicyError that names the arm.
    """
    data = copy.deepcopy(study.base)
    if budget is not None:
        set_at(data, ["select", "budget"], _budget_of(study, budget))
    for key, value in arm.changes.items():
        _change(data, key.split("."), value)
    set_at(data, ["seed"], int(data.get("seed", 0)) + seed)
    eligible = _eligible(study, budget if arm.competes else None) if is_studied else []
    if eligible:
        given = (data.get("select") or {}).get("where")
        set_at(data, ["select", "where"], " AND ".join([*([f"({given})"] if given else []), *eligible]))
    try:
        policy = Policy.of(data)
        if (roots := allowed.roots()) is not None:
            check_within(policy, roots)
        return policy
    except PolicyError as error:
        raise PolicyError(f"arms.{arm.name}: {error}") from error


def _change(data: dict[str, Any], keys: list[str], value: Any) -> None:
    """As `set_at`, where a plug-in that is written by its name alone is one with options."""
    below = data
    for key in keys[:-1]:
        inner = below.get(key)
        if isinstance(inner, str):
            below[key] = {inner: {}}
        below = below.get(key) or {}
    set_at(data, keys, copy.deepcopy(value))


def _budget_of(study: Study, budget: BudgetPolicy) -> dict[str, Any]:
    """A budget as a policy writes it. Of a sample of the corpus the target's fraction is taken."""
    written = budget.model_dump(mode="json", exclude_none=True)
    if study.target is not None and study.target.fraction is not None:
        written["fraction"] = study.target.fraction
    return written


def sampled(study: Study, budget: BudgetPolicy | None) -> float:
    """The share of the corpus that may be chosen from, so that it is repeated as often as by the target."""
    if study.target is None or budget is None:
        return 1.0
    unit = unit_of(study.target)
    ratio = Fraction(str(getattr(budget, unit))) / Fraction(str(getattr(study.target, unit)))
    if ratio > 1:
        raise PolicyError(
            f"budgets: {budget_label(budget)} is more than the target, {budget_label(study.target)}. Write the budget"
            " of the run that the study is for as target."
        )
    return float(ratio)


def _eligible(study: Study, budget: BudgetPolicy | None) -> list[str]:
    """The rules that hold for every arm."""
    held = study.held_out.share if study.plugin.reads_held_out else 0.0
    share = sampled(study, budget)
    rules = [f"doc_draw >= {held:.17f}"] if held else []
    return [*rules, f"doc_draw < {held + (1 - held) * share:.17f}"] if share < 1 else rules
