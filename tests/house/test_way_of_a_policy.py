"""A policy's way from the command line to the first step is short, and comes back to no module."""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from command import selector, write_policy
from runs import policy_of, write_corpus
from selector.policy import Policy
from selector.policy.resolve import Resolved

FIRST_STEP = "selector.engine.runner"  # whoever runs steps is handed steps, and no policy
MADE_IN = ["selector.cli.runs", "selector.policy.sections"]
MOST_MODULES = 8


def module_of(frame: FrameType | None) -> str:
    """The module of ours that a frame is in, or the nearest one that called it."""
    while frame is not None:
        name: str = frame.f_globals.get("__name__", "")
        if name.partition(".")[0] == "selector":
            return name
        frame = frame.f_back
    return ""


def is_handed_a_policy(frame: FrameType) -> bool:
    """Whether a function is called with a policy, made whole or not. Asking the policy itself hands it to nobody."""
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return any(isinstance(frame.f_locals.get(name), Policy | Resolved) for name in names if name != "self")


class Way:
    """Notes each module that hands the policy to another, and to which one, until the first step is run."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.has_ended = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if self.has_ended or event != "call":
            return
        module: str = frame.f_globals.get("__name__", "")
        if module == FIRST_STEP and frame.f_code.co_name in ("run", "plan"):
            self.has_ended = True
        elif module == module_of(frame) != module_of(frame.f_back) and is_handed_a_policy(frame):
            self.entered.append(module)


@pytest.mark.parametrize(
    "command", ["run", *(pytest.param(name, marks=pytest.mark.slow) for name in ("plan", "check"))]
)
def test_a_policy_enters_few_modules_before_the_first_step_and_none_of_them_twice(
    command: str, tiny_model: Path, tmp_path: Path
) -> None:
    policy = policy_of(write_corpus(tmp_path / "corpus"), tiny_model)
    policy["select"] |= {"where": "num_tokens >= 8 AND edu >= 1 AND readability > 0"}
    words: list[Any] = [command, write_policy(tmp_path, policy)]
    words += ["--root", tmp_path / "runs", "--executor", "local"] if command != "check" else []
    way = Way()
    sys.setprofile(way)
    try:
        ended = selector(*words)
    finally:
        sys.setprofile(None)
    assert ended.code in (0, 3), ended.err
    assert way.has_ended == (command != "check")
    assert "selector.policy.resolve" in way.entered
    assert len({*MADE_IN, *way.entered}) <= MOST_MODULES, way.entered
    assert len(way.entered) == len({*way.entered}), f"a module is entered twice: {way.entered}"
    assert not {*MADE_IN} & {*way.entered}, f"the policy comes back to where it was made: {way.entered}"
