"""Weights of sources that a few small runs propose: a law of the loss is fitted over drawn mixtures, and minimised.

About three runs for each source are enough (Olmix, 2026: O(sources) runs; RegMix, arXiv 2407.01492, for the idea). The
law says of each held-out domain d

    loss_d(w) = c_d + exp(b_d . w)

for weights w that come to one. What is proposed is the least mean loss, each domain by its own mean, plus a part of the
divergence from the shares that the corpus has, under the limit that nothing is repeated more often than `repeats` times
in the run that the study is for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from selector.engine.part import Task
from selector.engine.runner import Progress
from selector.engine.store import Store
from selector.errors import PolicyError
from selector.exact import Floats, keyed
from selector.models.agreement import ranks
from selector.plugins.catalogue import KNOWN
from selector.policy.resolve import resolve
from selector.steps.gather import Gather
from selector.tune.arms import Arm, conditions_of, policy_of
from selector.tune.chosen import reading
from selector.tune.evidence import values_of
from selector.tune.study import MixtureSection, Study, search_seeds, unit_of
from selector.tune.trials import Trials

NAME = "mixture"
"""The arm that has the proposed weights."""
_FLOORS = (0.0, 0.25, 0.5, 0.75, 0.9)  # of a domain's least loss: what c may be
_PENALTY = 1e-3  # on the law's slopes, which few runs know badly
_ROUNDS = 4000
_DIGITS = 4
_RUNS = 3  # for each source


@dataclass(frozen=True, kw_only=True)
class Law:
    """How the loss of each domain follows from the weights."""

    floor: Floats  # (domains,)
    slopes: Floats  # (domains, sources)

    def __call__(self, weights: Floats) -> Floats:
        """The losses at weights (..., sources): (..., domains)."""
        return self.floor + np.exp(weights @ self.slopes.T)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A law, and how well it foretells runs that it was not fitted on, each left out once."""

    law: Law
    error: float  # the mean distance, as a part of the loss
    rank_correlation: float  # of the mean losses


def fitted(weights: Floats, losses: Floats) -> Fitted:
    """The law of runs with weights (runs, sources) and losses (runs, domains)."""
    floors = np.array([_floor(weights, losses[:, domain]) for domain in range(losses.shape[1])])
    law = _law(weights, losses, floors)
    foretold = np.array(
        [
            _law(np.delete(weights, run, 0), np.delete(losses, run, 0), floors)(weights[run])
            for run in range(len(weights))
        ]
    )
    seen, expected = ranks(losses.mean(axis=1)), ranks(foretold.mean(axis=1))
    correlation = np.corrcoef(seen, expected)[0, 1] if np.ptp(seen) and np.ptp(expected) else 0.0
    return Fitted(
        law=law, error=float(np.mean(np.abs(foretold - losses) / losses)), rank_correlation=float(correlation)
    )


def _law(weights: Floats, losses: Floats, floors: Floats) -> Law:
    floors = np.minimum(floors, 0.99 * losses.min(axis=0))
    target = np.log(losses - floors)
    centre = target.mean(axis=0)  # weights come to one, so a constant is in every slope
    square = weights.T @ weights + _PENALTY * len(weights) * np.eye(weights.shape[1])
    slopes = np.linalg.solve(square, weights.T @ (target - centre)).T + centre[:, None]
    return Law(floor=floors, slopes=slopes)


def _floor(weights: Floats, losses: Floats) -> float:
    """The floor of one domain by which runs are foretold best that were left out."""
    floors = [share * float(losses.min()) for share in _FLOORS]
    errors: list[float] = []
    for floor in floors:
        foretold = [
            float(_law(np.delete(weights, run, 0), np.delete(losses, run)[:, None], np.array([floor]))(weights[run])[0])
            for run in range(len(weights))
        ]
        errors.append(float(np.abs(np.array(foretold) - losses).sum()))
    return floors[int(np.argmin(errors))]


def proposed(law: Law, prior: Floats, most: Floats, divergence: float) -> Floats:
    """The weights of the least mean loss, none above `most`. Raises ValueError where these come to less than one."""
    if most.sum() < 1:
        raise ValueError("the limits come to less than one")
    prior = prior / prior.sum()
    own = law(prior)
    weights = capped(prior, most)
    for step in range(_ROUNDS):
        pull = (np.exp(weights @ law.slopes.T) / own) @ law.slopes / len(own)
        pull = pull + divergence * (np.log(np.maximum(weights, 1e-12)) - np.log(np.maximum(prior, 1e-12)) + 1)
        stride = (pull - pull.mean()) / (1 + divergence) / (1 + step / 50)
        weights = capped(weights * np.exp(-np.clip(stride, -5, 5)), most)
    return weights


def capped(weights: Floats, most: Floats) -> Floats:
    """The weights made to come to one, none of them above its limit; what is over goes to the others in proportion."""
    at_limit = np.zeros(len(weights), np.bool_)
    while True:
        free = weights * ~at_limit
        left = 1 - most[at_limit].sum()
        scaled = np.where(at_limit, most, free * (left / free.sum() if free.sum() > 0 else 0.0))
        beyond = (scaled > most * (1 + 1e-12)) & ~at_limit
        if not beyond.any():
            return scaled
        at_limit |= beyond


def limits(tokens: Floats, target: float, repeats: float) -> Floats:
    """The most that each source may weigh, so that it is repeated at most so often in a run of so many tokens."""
    return np.minimum(1.0, repeats * tokens / target)


# In a study.


def arm_of(study: Study, trials: Trials) -> tuple[Arm, dict[str, Any]]:
    """The arm with the proposed weights, and how they were come by. Raises CeilingReached."""
    options = study.mixture
    assert options is not None, "the study has a mixture"
    sums = _tokens_by(study, trials, options.by, trials.progress)
    assert sums is not None, "what is missing is done"
    names, tokens = sums
    if len(names) < 2:
        raise PolicyError(f"mixture.by: {options.by!r} has {len(names)} groups. Name a column with two or more.")
    prior, condition = tokens / tokens.sum(), conditions_of(study)[0]
    most = limits(tokens, _target(study, tokens.sum()), options.repeats)
    if most.sum() < 1:
        raise PolicyError(
            f"mixture.repeats: {options.repeats:g} visits of each document come to less than the budget. Raise it, or"
            " lower the budget."
        )
    count = options.runs or _RUNS * len(names)
    drawn = _drawn(prior, most, count)
    metric, better = study.deciding
    if better == "higher":
        raise PolicyError(f"mixture: the law is one of losses, and of {metric} more is better. Name another metric.")
    losses: list[list[float]] = []
    seed = search_seeds(study)[0]
    domains: list[str] = []
    runs = [_arm(f"mixture run {number}", options, names, weights) for number, weights in enumerate(drawn)]
    for observed in trials.measured([(arm, condition, study.plugin.settings[0], seed) for arm in runs]):
        by_domain = values_of(observed.evidence, metric)
        domains = list(by_domain)
        losses.append(list(by_domain.values()))
    fit = fitted(drawn, np.array(losses))
    weights = proposed(fit.law, prior, most, options.divergence)
    facts = {
        "by": options.by,
        "runs": count,
        "error": fit.error,
        "rank_correlation": fit.rank_correlation,
        "sources": {
            name: {"corpus": float(prior[i]), "most": float(most[i]), "proposed": float(weights[i])}
            for i, name in enumerate(names)
        },
        "domains": domains,
    }
    return _arm(NAME, options, names, weights), facts


def num_runs(study: Study, trials: Trials) -> int | None:
    """How many runs with drawn weights there are; None where that is not known before the corpus is read."""
    options = study.mixture
    if options is None or options.runs is not None:
        return 0 if options is None else options.runs
    sums = _tokens_by(study, trials, options.by, None)
    return None if sums is None else _RUNS * len(sums[0])


def _arm(name: str, options: MixtureSection, names: Sequence[str], weights: Floats) -> Arm:
    written = {one: float(f"{weight:.{_DIGITS}g}") for one, weight in zip(names, weights, strict=True)}
    using = {"mixture": {"by": options.by, "weights": written, "visits": math.ceil(options.repeats)}}
    return Arm(name=name, changes={"select.using": using})


def _drawn(prior: Floats, most: Floats, count: int) -> Floats:
    """Mixtures around that of the corpus: its shares, each multiplied by an exponential number."""
    number = np.arange(count * len(prior), dtype=np.uint64)
    words = np.column_stack([number, np.zeros_like(number)])
    drawn = -np.log(keyed.fractions(keyed.siphash(words, keyed.digest(b"mixtures")))).reshape(count, len(prior))
    return np.array([capped(prior**0.5 * one, most) for one in drawn])


def _target(study: Study, total: float) -> float:
    """The tokens of the run that the study is for."""
    budget = study.target or conditions_of(study)[-1].budget
    budget = budget or policy_of(study, Arm(name="base"), None, 0).select.budget
    unit = unit_of(budget)
    if unit == "documents":
        raise PolicyError("mixture: repetition is counted in tokens, and the budget is in documents. Write tokens.")
    return float(budget.tokens) if budget.tokens is not None else float(budget.fraction or 1.0) * total


def _tokens_by(study: Study, trials: Trials, by: str, progress: Progress | None) -> tuple[list[str], Floats] | None:
    """The groups of a column that documents have, and the tokens of each; None where nobody watches and a step is
    missing."""
    resolved = resolve(policy_of(study, Arm(name="base"), None, 0, is_studied=False))
    column = replace(resolved.catalogue.find(by, "mixture.by"), name="group")
    columns = [KNOWN["num_tokens"], column]
    with reading(resolved, columns, trials.root, trials.executor, progress) as finished:
        if finished is None:
            return None
        done, gather = finished
        pieces = list(done.map(_Sums(store=done.store, gather=gather), gather.tasks(done)))
    sums: dict[str, int] = {}
    for piece in pieces:
        for name, tokens in piece.items():
            sums[name] = sums.get(name, 0) + tokens
    names = sorted(name for name, tokens in sums.items() if tokens)
    return names, np.array([sums[name] for name in names], np.float64)


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """The tokens of each group of a part."""

    store: Store
    gather: Gather

    def __call__(self, task: Task) -> dict[str, int]:
        read = self.gather.reader.read(self.store, task, list(self.gather.columns))
        names = read["group"].cast(pa.string()).fill_null("").to_numpy(zero_copy_only=False).astype(object)
        different, code = np.unique(names, return_inverse=True)
        sums = np.bincount(code, weights=read["num_tokens"].to_numpy(), minlength=len(different))
        return {str(name): int(tokens) for name, tokens in zip(different, sums, strict=True) if name}
