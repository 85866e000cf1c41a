"""What `selector.run` is given in Python: what makes no sense is refused in words, before any work."""

from pathlib import Path
from typing import Any

import pytest

import selector
from conftest import write_jsonl
from jobs.executor import RayExecutor
from selector.engine.local import LocalExecutor
from selector.errors import PolicyError, UsageError
from selector.policy import Policy

NONSENSE = [None, 5, 1.5, True, b"x", ["x"], object()]


@pytest.fixture
def policy(tmp_path: Path) -> dict[str, Any]:
    rows = [{"text": f"document {number}"} for number in range(9)]
    return {"corpus": {"paths": [str(write_jsonl(tmp_path / "a.jsonl", rows))]}, "select": {"budget": {"documents": 3}}}


@pytest.mark.parametrize("value", NONSENSE)
def test_what_is_not_a_policy_is_refused(value: Any) -> None:
    with pytest.raises(UsageError, match=r"is no policy\. Give a Policy, a mapping, or the path of a YAML file\."):
        selector.run(value)
    with pytest.raises(PolicyError, match="is not the path of a policy"):
        Policy.load(value)


@pytest.mark.parametrize("value", [*NONSENSE, LocalExecutor, "lcoal"])
def test_what_is_no_executor_is_refused(value: Any, policy: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no executor|is a class|Did you mean 'local'"):
        selector.run(policy, root=tmp_path / "runs", executor=value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("value", [5, "bar", object()])
def test_what_cannot_watch_a_run_is_refused_with_the_methods_that_it_lacks(value: Any, policy: dict[str, Any]) -> None:
    with pytest.raises(
        UsageError, match="Give an object with the methods began, advanced, at_work, waiting, stalled, ended"
    ):
        selector.run(policy, executor="local", progress=value)


@pytest.mark.parametrize("value", [*NONSENSE, "", "a\0b"])
def test_what_cannot_be_a_root_is_refused(value: Any, policy: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="The address "):
        selector.run(policy, root=value, executor="local")


def test_a_root_and_a_policy_may_be_paths(policy: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(repr(policy))
    made = selector.run(tmp_path / "policy.yaml", root=tmp_path / "runs", executor=LocalExecutor(workers=1))
    assert len(made) == 3 and len(selector.Manifest.open(tmp_path / "runs")) == 3


@pytest.mark.parametrize(
    "options", [{"address": 5}, {"actors": 1.5}, {"actors": 0}, {"deadline": "x"}, {"attempts": None}]
)
def test_options_of_the_executor_on_ray_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(options))}="):
        RayExecutor(**options)


@pytest.mark.parametrize("overrides", [None, 5, [5], [None], b"seed=1"])
def test_overrides_are_text(overrides: Any, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("{corpus: {paths: x}, select: {budget: {documents: 1}}}")
    with pytest.raises(PolicyError, match="is not a list of text"):
        Policy.load(tmp_path / "policy.yaml", overrides)
    assert Policy.load(tmp_path / "policy.yaml", "seed=5").seed == 5
