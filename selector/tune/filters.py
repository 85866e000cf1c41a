"""Filters that stored scores make: each score alone first, then the best of them together.

A filter keeps a share of the documents, those at the better end of a score; of a score that has no better end, either
end is tried. Only what is stored is read, so a filter costs its measurement and nothing else.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from selector import exact
from selector.engine.part import Task
from selector.engine.store import Store
from selector.errors import PolicyError, did_you_mean
from selector.exact import Floats
from selector.plugins.catalogue import KNOWN
from selector.policy.resolve import Resolved, resolve
from selector.steps.gather import Gather
from selector.tune.arms import Arm, conditions_of, policy_of
from selector.tune.chosen import reading
from selector.tune.study import Study, search_seeds
from selector.tune.trials import Trials

_MOST = 65_536  # documents whose scores decide where a filter cuts, about


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Rules that must all hold, each on another score."""

    rules: tuple[tuple[str, str], ...]  # the score, and the rule

    @property
    def text(self) -> str:
        return " AND ".join(rule for _, rule in self.rules)

    def __and__(self, other: "Filter") -> "Filter":
        return Filter(rules=(*self.rules, *other.rules))


def finalists(study: Study, trials: Trials) -> tuple[list[Arm], dict[str, Any]]:
    """The best filters as arms, and what all of them measured. Raises CeilingReached."""
    options = study.filters
    assert options is not None, "the study has filters"
    singles = _singles(study, trials)
    tried = _values(study, trials, singles)
    best = sorted(tried, key=lambda one: tried[one])[: options.best]
    both = [one & other for one, other in itertools.combinations(best, 2) if one.rules[0][0] != other.rules[0][0]]
    tried |= _values(study, trials, both)
    ranked = sorted(tried, key=lambda one: tried[one])
    sign = 1 if study.deciding[1] == "lower" else -1
    facts = {"tried": [{"where": one.text, study.deciding[0]: sign * tried[one]} for one in ranked]}
    return [_arm(study, one) for one in ranked[: study.finalists]], facts


def _values(study: Study, trials: Trials, tried: Sequence[Filter]) -> dict[Filter, float]:
    """How bad each filter is, over the seeds of a search."""
    metric, better = study.deciding
    condition, setting, seeds = conditions_of(study)[0], study.plugin.settings[0], search_seeds(study)
    measured = trials.measured([(_arm(study, one), condition, setting, seed) for one in tried for seed in seeds])
    values = np.array([observed.evidence.of(metric) for observed in measured]).reshape(len(tried), len(seeds))
    return dict(zip(tried, (values.mean(axis=1) * (1 if better == "lower" else -1)).tolist(), strict=True))


def _arm(study: Study, one: Filter) -> Arm:
    given = (study.base.get("select") or {}).get("where")
    return Arm(name=one.text, changes={"select.where": f"({given}) AND {one.text}" if given else one.text})


def most(study: Study) -> int:
    """How many filters are tried at most."""
    options = study.filters
    if options is None:
        return 0
    resolved, names = _scores(study)
    ends = sum(1 if resolved.catalogue.scores[name].meaning == "better" else 2 for name in names)
    singles = ends * len(options.keep)
    return singles + math.comb(min(singles, options.best), 2)


def _scores(study: Study) -> tuple[Resolved, tuple[str, ...]]:
    """The base policy, and the scores that filters are made of. Raises PolicyError."""
    options = study.filters
    assert options is not None
    resolved = resolve(policy_of(study, Arm(name="base"), None, 0, is_studied=False))
    scores = resolved.catalogue.scores
    for name in options.scores:
        if name not in scores or scores[name].meaning == "label":
            numbers = [score for score, one in scores.items() if one.meaning != "label"]
            raise PolicyError(f"filters.scores: no rater gives a number {name!r}. {did_you_mean(name, numbers)}")
    names = options.scores or tuple(name for name, score in scores.items() if score.meaning != "label")
    if not names:
        raise PolicyError("filters: the base policy rates nothing. Name raters in its list `rate`.")
    return resolved, names


def _singles(study: Study, trials: Trials) -> list[Filter]:
    """A filter for each score and share."""
    options = study.filters
    assert options is not None
    resolved, names = _scores(study)
    scores = resolved.catalogue.scores
    columns = [KNOWN["doc_draw"], *(replace(resolved.catalogue.score(name), name=name) for name in names)]
    with reading(resolved, columns, trials.root, trials.executor, trials.progress) as finished:
        assert finished is not None, "what is missing is done"
        done, gather = finished
        share = min(1.0, _MOST / max(1, done["dedup"].rows_out))
        looking = _Sample(store=done.store, gather=gather, share=share, names=tuple(names))
        pieces = list(done.map(looking, gather.tasks(done)))
    singles: dict[Filter, None] = {}
    for at, name in enumerate(names):
        values = np.concatenate([piece[at] for piece in pieces])
        for keep in options.keep if len(values) else ():
            high, low = np.quantile(values, 1 - keep, method="higher"), np.quantile(values, keep, method="lower")
            singles[Filter(rules=((name, f"score.{name} >= {float(high)!r}"),))] = None
            if scores[name].meaning != "better":
                singles[Filter(rules=((name, f"score.{name} <= {float(low)!r}"),))] = None
    return list(singles)


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """The scores of some documents of a part."""

    store: Store
    gather: Gather
    share: float
    names: tuple[str, ...]

    def __call__(self, task: Task) -> Sequence[Floats]:
        read = self.gather.reader.read(self.store, task, list(self.gather.columns))
        read = read.filter(pa.array(read["doc_draw"].to_numpy() <= self.share))
        values = [exact.floats(read[name]) for name in self.names]
        return [one[np.isfinite(one)] for one in values]
