"""The whole flow on a small corpus, in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from selector.executor import LocalExecutor
from selector.pipeline import Outcome, build, plan
from selector.policy import Policy

Make = Callable[..., dict[str, Any]]


def run(policy: dict[str, Any], root: Path) -> Outcome:
    return build(Policy.of(policy), root=str(root), executor=LocalExecutor())


def uncached(outcome: Outcome) -> list[str]:
    return [step.name for step in outcome.steps if not step.cached]


def test_a_second_run_finds_every_step_done(small_policy: Make, tmp_path: Path) -> None:
    first, second = run(small_policy(), tmp_path), run(small_policy(), tmp_path)
    assert uncached(first) == [step.name for step in first.steps]
    assert uncached(second) == []
    assert second.manifest.digest == first.manifest.digest and second.manifest.verify().ok
