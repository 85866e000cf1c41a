"""The search of a space: it finds what is better, and goes on where it was killed."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest

from conftest import MemoryStorage
from selector.engine.store import Store
from selector.errors import PolicyError
from selector.exact import keyed
from selector.tune import search
from selector.tune.arms import Arm, policy_of
from selector.tune.evidence import Evidence
from selector.tune.measurements import Observed
from selector.tune.objectives import HeldOut, answer
from selector.tune.study import Study, search_seeds
from selector.tune.trials import Place

BASE = {"corpus": {"paths": ["corpus"]}, "select": {"budget": {"fraction": 0.1}}}
SPACE = {
    "select.using.quality_sampling.temperature": {"log": [0.01, 100]},
    "select.missing": {"choices": ["drop", "last"]},
}


class Killed(Exception):
    """The process is gone."""


@dataclass(kw_only=True)
class Formula:
    """Trials whose metric follows from what an arm says, and a little from the seed."""

    study: Study
    store: Store
    loss: Callable[[Arm], float]
    killed_after: int = 1 << 30
    held_out: HeldOut = field(default_factory=HeldOut)
    seen: list[str] = field(default_factory=list[str])
    told: list[str] = field(default_factory=list[str])

    @property
    def tell(self) -> Callable[[str], None]:
        return self.told.append

    def measured(self, places: Sequence[Place]) -> Iterator[Observed]:
        for arm, condition, setting, seed in places:
            measured = self._measure(arm, seed)
            yield Observed(arm=arm, condition=condition, setting=setting, seed=seed, evidence=measured)

    def _measure(self, arm: Arm, seed: int) -> Evidence:
        if len(self.seen) >= self.killed_after:
            raise Killed
        self.seen.append(arm.name)
        noise = int.from_bytes(keyed.digest(f"{arm.changes} {seed}".encode())[:2]) / 65536
        measured = pa.concat_tables([answer(name, self.loss(arm) + noise / 20) for name in self.study.plugin.metrics])
        return Evidence(key="", measured=measured, tokens=0, seconds=0, is_new=True)


def study_of(**sections: Any) -> Study:
    whole = {
        "base": BASE, "objective": "measured", "metric": "visits", "space": SPACE, "seeds": {"least": 2, "most": 2},
        "trials": 25, **sections,
    }  # fmt: skip
    return Study.of(whole)


def bowl(arm: Arm) -> float:
    """Least at a temperature of 3, where nothing is last."""
    changes = arm.changes
    temperature = changes["select.using.quality_sampling.temperature"]
    return 1 + math.log10(temperature / 3) ** 2 + (changes["select.missing"] == "last")


def trials_of(study: Study, storage: MemoryStorage, **values: Any) -> Any:
    return Formula(study=study, store=Store(storage), loss=values.pop("loss", bowl), **values)


def test_a_search_finds_what_is_better() -> None:
    study = study_of()
    trials = trials_of(study, MemoryStorage())
    first, second = search.finalists(study, trials)
    assert trials.told[0].startswith("trial 0: select.using.quality_sampling.temperature=")
    assert 0.5 < first.changes["select.using.quality_sampling.temperature"] < 18
    assert first.changes["select.missing"] == "drop" and first.name != second.name
    policy = policy_of(study, Arm(name="a", changes={**first.changes, "rate": ["length"],
                                  "select.using.quality_sampling.score": "length"}), None, 0)  # fmt: skip
    assert policy.select.using.options["temperature"] == first.changes["select.using.quality_sampling.temperature"]


@pytest.mark.parametrize("killed_after", [0, 1, 7, 20])
def test_a_search_that_was_killed_goes_on_to_the_same_arms(killed_after: int) -> None:
    study, storage = study_of(trials=12), MemoryStorage()
    expected = search.finalists(study, trials_of(study, MemoryStorage()))
    with pytest.raises(Killed):
        search.finalists(study, trials_of(study, storage, killed_after=killed_after))
    assert search.finalists(study, trials_of(study, storage)) == expected
    again = trials_of(study, storage)
    assert search.finalists(study, again) == expected and again.seen == [], "and it is done then"


def test_an_arm_that_is_far_behind_is_left_after_fewer_seeds() -> None:
    study = study_of(trials=15, seeds={"least": 6, "most": 6})
    trials = trials_of(study, MemoryStorage())
    search.finalists(study, trials)
    assert len(trials.seen) < 15 * 6


def test_a_mixture_is_searched_on_the_simplex() -> None:
    study = study_of(space={"select.using.mixture.weights": {"simplex": ["web", "books", "code"]}})

    def loss(arm: Arm) -> float:
        return 2 - arm.changes["select.using.mixture.weights"]["books"]

    weights = search.finalists(study, trials_of(study, MemoryStorage(), loss=loss))[0].changes
    weights = weights["select.using.mixture.weights"]
    assert weights["books"] > 0.7 and sum(weights.values()) == pytest.approx(1, abs=1e-3)


def test_the_seeds_of_a_search_are_not_those_of_the_comparison() -> None:
    study = study_of()
    assert not {*search_seeds(study)} & {*study.seed_numbers}


@pytest.mark.parametrize(
    ("dimension", "message"),
    [
        ({"log": [0, 1]}, "is no range above 0"),
        ({"linear": [3, 1]}, "is no range"),
        ({"choices": []}, "write at least one"),
        ({"log": [1, 2], "choices": [1]}, "not log and choices"),
        ({}, "not none of them"),
        ({"between": [1, 2]}, "has no key 'between'"),
    ],
)
def test_a_space_that_is_none_is_refused(dimension: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        study_of(space={"seed": dimension})


def test_a_journal_is_read_by_many_and_written_once() -> None:
    optuna: Any = search._optuna()  # pyright: ignore[reportPrivateUsage]
    storage = MemoryStorage()
    one, other = (search._backend(optuna)(storage, "searches/a/") for _ in range(2))  # pyright: ignore[reportPrivateUsage]
    one.append_logs([{"a": 1}])
    other.append_logs([{"a": 2}, {"a": 3}])
    one.append_logs([{"a": 4}])
    assert [line["a"] for line in other.read_logs(0)] == [1, 2, 3, 4] == [line["a"] for line in one.read_logs(0)]
    assert list(one.read_logs(3)) == [{"a": 4}]
