"""What `selector.run` is given, as the flow takes it; UsageError for what makes no sense there."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from selector import plugins
from selector.engine.executor import Executor
from selector.engine.runner import Progress
from selector.errors import UsageError
from selector.policy import Policy


def policy(given: Any) -> Policy:
    """The policy itself, in a mapping, or in a file."""
    if isinstance(given, Policy):
        return given
    if isinstance(given, Mapping):
        return Policy.of(cast(Mapping[str, Any], given))
    if isinstance(given, (str, Path)):
        return Policy.load(given)
    raise UsageError(f"policy={given!r:.80} is no policy. Give a Policy, a mapping, or the path of a YAML file.")


def executor(given: Any) -> Executor:
    """The executor itself, or the one of that name."""
    if isinstance(given, str):
        return plugins.make("executors", given, {}, "executor", Executor)
    if inspect.isclass(given):
        raise UsageError(f"executor={given.__name__} is a class. Give an instance of it: {given.__name__}().")
    if not _has(given, Executor):
        known = " or ".join(map(repr, plugins.names("executors")))
        raise UsageError(f"executor={given!r:.80} is no executor. Give {known}, or an instance of one.")
    return given


def progress(given: Any) -> Progress | None:
    """Who watches the run, if anybody."""
    if given is not None and (inspect.isclass(given) or not _has(given, Progress)):
        names = ", ".join(_methods(Progress))
        raise UsageError(f"progress={given!r:.80} cannot watch a run. Give an object with the methods {names}.")
    return given


def _has(value: object, contract: type) -> bool:
    return all(callable(getattr(value, name, None)) for name in _methods(contract))


def _methods(contract: type) -> list[str]:
    return [name for name, value in vars(contract).items() if inspect.isfunction(value) and not name.startswith("_")]
