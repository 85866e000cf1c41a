"""What a study says: a table of policies by scales, a winner or why there is none, and the policy of the winner.

It follows from the measurements alone, so a study that was killed and resumed says the same, byte for byte. What a
machine took in seconds is in no table.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from selector.exact import Floats
from selector.tune.arms import RANDOM, Arm, Condition, conditions_for, conditions_of, policy_of
from selector.tune.comparison import Decision, Estimate, beside, bootstrap, decide, differences, estimate, pairs_of
from selector.tune.measurements import Measurements, Observed
from selector.tune.objectives import HeldOut
from selector.tune.study import Study

_SHOWN = 100
"""Documents that were held out and left again, as many as are named."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a study says."""

    study: Study
    decision: Decision
    content: dict[str, Any]  # as JSON

    @property
    def is_separated(self) -> bool:
        """Whether more seeds would be of no use."""
        return self.decision.is_separated

    @property
    def sentence(self) -> str:
        """The winner, or why there is none."""
        return sentence(self.content)

    def best_policy(self) -> str | None:
        """The winner's policy as YAML, with the evidence in its header; None where there is no winner."""
        winner = self.content["winner"]
        if winner is None:
            return None
        arm = next(arm for arm in self.content["arms"] if arm["name"] == winner)
        budget = self.study.target or conditions_of(self.study)[-1].budget
        policy = policy_of(self.study, Arm(name=winner, changes=arm["changes"]), budget, 0, is_studied=False)
        data = policy.model_dump(mode="json", by_alias=True, exclude_unset=True)
        lines = [self.sentence, *_evidence_lines(self.content, winner)]
        header = "".join(f"# {line}\n" for line in lines)
        return header + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def sentence(content: Mapping[str, Any]) -> str:
    """The winner that the result of a study names, or why there is none."""
    if content["winner"] is None:
        return f"undecided: {content['reason']}"
    return "; but ".join([f"{content['winner']} is the best by {content['metric']}", *content["flags"]])


def counted(number: int, word: str) -> str:
    """So many of what a word names: 1 seed, 2 seeds."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def documents_of(held_out: Mapping[str, Any]) -> str:
    """The held-out documents that the result of a study tells of."""
    return f"{counted(held_out['documents'], 'held-out document')} of {counted(held_out['domains'], 'domain')}"


def outcome_of(
    study: Study, arms: Sequence[Arm], observed: Sequence[Observed], held_out: HeldOut, stopped: str | None = None
) -> Outcome:
    """What follows from these measurements. A seed counts once all arms are measured by it."""
    measured = Measurements.of(study, arms, observed, held_out)
    if not measured.seeds:
        return _without_seeds(study, arms, stopped)
    conditions, (metric, better), competing = conditions_of(study), study.deciding, measured.competing
    weights = measured.pooled(metric, competing[0], conditions[-1])[1]
    decision = _decision(measured, weights)
    cells = [cell for condition in conditions for cell in _cells(measured, condition, weights)]
    of_conditions = [
        np.stack([measured.pooled(metric, arm, condition)[0] for arm in competing]) for condition in conditions
    ]
    pairs = differences(of_conditions[-1], weights)
    content: dict[str, Any] = {
        "metric": metric,
        "better": better,
        "objective": study.objective.label,
        "seeds": measured.seeds,
        "held_out": _held_out(held_out) if study.plugin.reads_held_out else {},
        "winner": None if decision.winner is None else competing[decision.winner].name,
        "reason": decision.reason,
        "flags": list(decision.flags),
        "stopped": stopped,
        "below_floor": study.plugin.below_floor,
        "conditions": [condition.label for condition in conditions],
        "settings": [setting for setting in study.plugin.settings if setting],
        "arms": [
            {"name": arm.name, "changes": dict(arm.changes), "competes": arm.competes, "crosses": crosses}
            for arm, crosses in zip(arms, _crossings(arms, of_conditions, weights), strict=True)
        ],
        "cells": cells,
        "pairs": [
            {"arms": [competing[first].name, competing[second].name], **_estimate(one)}
            for (first, second), one in pairs.items()
        ],
        "domains": _domains(measured, conditions[-1]),
        "tokens": sum(cell["tokens"] for cell in cells),
    }
    return Outcome(study=study, decision=decision, content=_plain(content))


def _decision(measured: Measurements, weights: Floats) -> Decision:
    """Which of the competing arms is the best, if one is told apart."""
    study, competing = measured.study, measured.competing
    conditions, settings, (metric, better) = conditions_of(study), study.plugin.settings, study.deciding
    decision = decide(
        [
            [np.stack([measured.values(metric, arm, condition, one)[0] for arm in competing]) for one in settings]
            for condition in conditions
        ],
        weights,
        higher=better == "higher",
        names=[arm.name for arm in competing],
        conditions=[condition.label for condition in conditions],
        settings=settings,
        look=max(1, len(measured.seeds) - study.seeds.least + 1),
        looks=study.seeds.most - study.seeds.least + 1,
    )
    if len(measured.seeds) < study.seeds.least and decision.winner is not None:
        finished = counted(len(measured.seeds), "seed")
        return Decision(winner=None, reason=f"seeds.least is {study.seeds.least}, and {finished} finished")
    return decision


def _cells(measured: Measurements, condition: Condition, weights: Floats) -> Iterator[dict[str, Any]]:
    """What is known of each arm in a condition."""
    study, (metric, better) = measured.study, measured.study.deciding
    here = [arm for arm in measured.arms if condition in conditions_for(arm, conditions_of(study))]
    values = np.stack([measured.pooled(metric, arm, condition)[0] for arm in here])
    compete = [i for i, arm in enumerate(here) if arm.competes]
    drawn = bootstrap(values[compete], weights, higher=better == "higher")
    means = np.array([estimate(one, weights).mean for one in values])
    ranks = _ranks(means[compete] * (1 if better == "higher" else -1))
    settings = study.plugin.settings if len(study.plugin.settings) > 1 else ()
    for i, arm in enumerate(here):
        at = compete.index(i) if i in compete else None
        own = estimate(values[i], weights)
        yield {
            "arm": arm.name,
            "condition": condition.label,
            "mean": means[i],
            "low": own.low if at is None else drawn.low[at],
            "high": own.high if at is None else drawn.high[at],
            "rank": None if at is None else ranks[at],
            "chance_of_being_best": None if at is None else drawn.chance[at],
            "beside_random": _beside(here, i, values, weights),
            "settings": {
                setting: float((measured.values(metric, arm, condition, setting)[0] @ weights).mean() / weights.sum())
                for setting in settings
            },
            "other": {
                name: float(estimate(*measured.pooled(name, arm, condition)).mean)
                for name in study.plugin.metrics
                if name != metric
            },
            "tokens": measured.tokens(arm, condition),
        }


def _held_out(held_out: HeldOut) -> dict[str, Any]:
    return {
        "documents": held_out.documents.num_rows,
        "domains": len(held_out.documents["domain"].unique()),
        "fingerprint": held_out.fingerprint,
        "left": held_out.left.num_rows,
        "left_are_like": [
            {**row, "doc_id": row["doc_id"].hex(), "other": row["other"].hex()}
            for row in held_out.left.slice(0, _SHOWN).to_pylist()
        ],
    }


def _beside(arms: Sequence[Arm], at: int, values: Floats, weights: Floats) -> dict[str, Any] | None:
    """How much more an arm has than the random control."""
    control = next((i for i, arm in enumerate(arms) if arm.name == arms[at].control), None)
    if control is None or control == at or arms[control].changes == arms[at].changes:
        return None
    return _estimate(estimate(values[at] - values[control], weights))


def _estimate(one: Estimate) -> dict[str, Any]:
    return {"mean": one.mean, "low": one.low, "high": one.high, "p": one.p}


def _ranks(goodness: Floats) -> list[int]:
    """From 1 for the best; equal ones have the same."""
    return [1 + int((goodness > one).sum()) for one in goodness]


def _crossings(arms: Sequence[Arm], of_conditions: Sequence[Floats], weights: Floats) -> list[list[str]]:
    """For each arm those that are better at one condition and worse at another, both told from noise."""
    competing = [arm.name for arm in arms if arm.competes]
    signs = {
        pair: {beside(values, *pair, weights) for values in of_conditions} - {0} for pair in pairs_of(len(competing))
    }
    crossed = {name: list[str]() for name in competing}
    for pair in (pair for pair, seen in signs.items() if len(seen) > 1):
        for one, other in (pair, pair[::-1]):
            crossed[competing[one]].append(competing[other])
    return [crossed.get(arm.name, []) for arm in arms]


def _domains(measured: Measurements, condition: Condition) -> dict[str, Any]:
    """The deciding metric of each domain, by arm, in this condition."""
    names = np.array(measured.held_out.documents["domain"].to_pylist(), object)
    by_arm: dict[str, Any] = {}
    for arm in measured.arms:
        values, weights = measured.pooled(measured.study.deciding[0], arm, condition)
        if len(weights) != len(names):
            return {}
        by_arm[arm.name] = {
            name: float((values[:, names == name] @ weights[names == name]).mean() / weights[names == name].sum())
            for name in sorted(set(names))
        }
    return by_arm


def _without_seeds(study: Study, arms: Sequence[Arm], stopped: str | None) -> Outcome:
    metric, better = study.deciding
    reason = f"no seed is finished{f': {stopped}' if stopped else ''}"
    content: dict[str, Any] = {
        "metric": metric, "better": better, "objective": study.objective.label, "seeds": [], "held_out": {},
        "winner": None, "reason": reason, "flags": [], "stopped": stopped, "below_floor": study.plugin.below_floor,
        "conditions": [condition.label for condition in conditions_of(study)], "settings": [],
        "arms": [{"name": arm.name, "changes": dict(arm.changes), "competes": arm.competes, "crosses": []}
                 for arm in arms],
        "cells": [], "pairs": [], "domains": {}, "tokens": 0,
    }  # fmt: skip
    return Outcome(study=study, decision=Decision(winner=None, reason=reason), content=content)


def _evidence_lines(content: Mapping[str, Any], winner: str) -> list[str]:
    """What a header says of the evidence."""
    held_out = content["held_out"]
    on = f"{documents_of(held_out)}, " if held_out else ""
    lines = [f"{counted(len(content['seeds']), 'seed')}, {on}objective {content['objective']}"]
    lines += [
        f"{cell['condition']}: {cell['arm']} {cell['mean']:.5g} [{cell['low']:.5g}, {cell['high']:.5g}]"
        for cell in content["cells"]
        if cell["arm"] in (winner, RANDOM, f"{RANDOM} like {winner}")
    ]
    lines += [f"flag: {flag}" for flag in content["flags"]]
    return [*lines, *([content["below_floor"]] if content["below_floor"] else [])]


def _plain(value: Any) -> Any:
    """The value as JSON has it: numbers of ten digits, null where one is not finite."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.10g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
