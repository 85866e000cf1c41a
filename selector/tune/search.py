"""Arms that a study finds by itself: by searching a space with Optuna, whose journal lies in the root.

A searched arm is measured at the smallest condition by seeds of its own, so that what is compared afterwards was not
picked for its luck. Suggestions follow from the trials that are finished and from nothing else: a search that was
killed goes on to the same arms.
"""

import functools
import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selector.engine.canonical import fingerprint
from selector.errors import CorpusError, PolicyError, UsageError
from selector.exact import keyed
from selector.policy.resolve import resolve
from selector.storage import Storage
from selector.tune.arms import Arm, conditions_of, policy_of, written
from selector.tune.evidence import values_of
from selector.tune.study import Dimension, Study, search_seeds
from selector.tune.trials import Trials

_LEAST = 1e-6  # of a part of a mixture, before it is divided by their sum
_DIGITS = 4  # of a number that is suggested


def finalists(study: Study, trials: Trials) -> list[Arm]:
    """The best arms of a study's space. Raises CeilingReached."""
    return _Search(study=study, trials=trials).finalists()


def ends(study: Study) -> list[Arm]:
    """Arms at the ends of each range and at each choice, the other keys at their first."""
    values = {key: _ends(dimension, key) for key, dimension in study.space.items()}
    first = {key: one[0] for key, one in values.items()}
    changes = [first, *({**first, key: value} for key, others in values.items() for value in others[1:])]
    return [Arm(name="trial", changes=one) for one in changes if one]


def check(study: Study) -> None:
    """Raises PolicyError or CorpusError if a policy of the space is none, before anything is done."""
    for arm in ends(study):
        try:
            resolve(policy_of(study, arm, conditions_of(study)[0].budget, 0))
        except (PolicyError, CorpusError) as error:
            raise type(error)(f"space: {str(error).removeprefix(f'arms.{arm.name}: ')}") from error


def _ends(dimension: Dimension, key: str) -> list[Any]:
    """What a dimension may give: each choice, the ends of a range, equal shares."""
    if dimension.choices is not None:
        return list(dimension.choices)
    return [_value(dimension, key, dict.fromkeys([f"{key}{suffix}" for suffix in _suffixes(dimension)], one))
            for one in dimension.log or dimension.linear or (0.5,)]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Search:
    study: Study
    trials: Trials

    def finalists(self) -> list[Arm]:
        optuna = _optuna()
        better = self.study.deciding[1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            while True:
                search = self._opened(optuna, 0)
                states = optuna.trial.TrialState
                finished = search.get_trials(states=(states.COMPLETE, states.PRUNED))
                if len(finished) >= self.study.trials:
                    break
                for broken in search.get_trials(states=(states.RUNNING,)):  # of a process that was killed
                    search.tell(broken.number, state=states.FAIL)
                search = self._opened(optuna, len(finished))
                self._try(optuna, search, len(finished))
        complete = [(number, one) for number, one in enumerate(finished) if one.state == states.COMPLETE]
        complete.sort(key=lambda pair: (pair[1].value * (1 if better == "lower" else -1), pair[0]))
        different = {
            json.dumps(one.params, sort_keys=True): self._arm(number, one.params) for number, one in complete[::-1]
        }
        return list(different.values())[::-1][: self.study.finalists]

    def _opened(self, optuna: Any, num_finished: int) -> Any:
        """The search, whose next suggestion is drawn by how many trials are finished."""
        backend = _backend(optuna)(self.trials.store.storage, f"searches/{_name(self.study, self.trials)}/")
        seed = int.from_bytes(keyed.digest(f"search {num_finished}".encode())[:4], "big")
        return optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="search",
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=optuna.pruners.WilcoxonPruner(p_threshold=0.1),
            direction="minimize" if self.study.deciding[1] == "lower" else "maximize",
            load_if_exists=True,
        )

    def _try(self, optuna: Any, search: Any, number: int) -> None:
        trial = search.ask(self._distributions(optuna))
        arm, condition = self._arm(number, trial.params), conditions_of(self.study)[0]
        metric, _ = self.study.deciding
        if self.trials.tell is not None:
            self.trials.tell(f"{arm.name}: {written(arm.changes)}")
        of_seeds: list[float] = []
        step = 0
        for seed in search_seeds(self.study):
            places = [(arm, condition, one, seed) for one in self.study.plugin.settings]
            of_settings = [observed.evidence for observed in self.trials.measured(places)]
            of_seeds.append(float(np.mean([one.of(metric) for one in of_settings])))
            for value in values_of(of_settings[0], metric).values():
                trial.report(value, step)
                step += 1
            if trial.should_prune() and seed != search_seeds(self.study)[-1]:
                search.tell(trial, state=optuna.trial.TrialState.PRUNED)
                return
        search.tell(trial, float(np.mean(of_seeds)))

    def _distributions(self, optuna: Any) -> dict[str, Any]:
        distributions: dict[str, Any] = {}
        for key, dimension in self.study.space.items():
            distributions |= {f"{key}{suffix}": _distribution(optuna, dimension) for suffix in _suffixes(dimension)}
        return distributions

    def _arm(self, number: int, params: Mapping[str, Any]) -> Arm:
        changes = {key: _value(dimension, key, params) for key, dimension in self.study.space.items()}
        return Arm(name=f"trial {number}", changes=changes)


def _suffixes(dimension: Dimension) -> list[str]:
    return [""] if dimension.simplex is None else [f" {name}" for name in dimension.simplex]


def _distribution(optuna: Any, dimension: Dimension) -> Any:
    distributions = optuna.distributions
    if dimension.choices is not None:
        return distributions.CategoricalDistribution(tuple(range(len(dimension.choices))))
    if dimension.simplex is not None:
        return distributions.FloatDistribution(_LEAST, 1.0)
    low, high = dimension.log or dimension.linear or (0, 1)
    is_log = dimension.log is not None
    if isinstance(low, int) and isinstance(high, int):
        return distributions.IntDistribution(low, high, log=is_log)
    return distributions.FloatDistribution(float(low), float(high), log=is_log)


def _value(dimension: Dimension, key: str, params: Mapping[str, Any]) -> Any:
    """What a policy says for what was suggested."""
    if dimension.choices is not None:
        return dimension.choices[params[key]]
    if dimension.simplex is not None:  # minus the logarithm of a uniform number: uniform on the simplex
        parts = {name: -math.log(min(params[f"{key} {name}"], 1 - _LEAST)) for name in dimension.simplex}
        total = math.fsum(parts.values())
        return {name: float(f"{part / total:.{_DIGITS}g}") for name, part in parts.items()}
    value = params[key]
    return value if isinstance(value, int) else float(f"{value:.{_DIGITS}g}")


def _name(study: Study, trials: Trials) -> str:
    """The name of the search of a study: what decides which trials there are."""
    written = study.model_dump(mode="json")
    decisive = {
        name: written[name]
        for name in ("base", "budgets", "target", "objective", "metric", "seeds", "held_out", "space")
    }
    return fingerprint([decisive, dict(study.plugin.contents()), trials.held_out.fingerprint])[:16]


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UsageError(
            "A space is searched by Optuna, which is not installed: pip install 'selector[tune]'."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@functools.cache
def _backend(optuna: Any) -> type[Any]:
    class Journal(optuna.storages.journal.BaseJournalBackend):
        """Optuna's journal as objects in the root: a batch of lines each, numbered, put there once."""

        def __init__(self, storage: Storage, home: str) -> None:
            self._storage, self._home = storage, home
            self._lines: list[dict[str, Any]] = []
            self._num_batches = 0

        def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
            while (data := self._storage.get(self._key())) is not None:
                self._lines += json.loads(data)
                self._num_batches += 1
            return self._lines[log_number_from:]

        def append_logs(self, logs: Sequence[dict[str, Any]]) -> None:
            data = json.dumps(list(logs)).encode()
            while not self._storage.put_if_absent(self._key(), data):
                self.read_logs(0)

        def _key(self) -> str:
            return f"{self._home}{self._num_batches:08}.json"

    return Journal
