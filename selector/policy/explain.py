"""What pydantic found wrong with a policy, in sentences that name key, value and cure."""

import re
import types
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from selector import plugins
from selector.errors import PolicyError, did_you_mean


def explained(model: type[BaseModel], error: ValidationError) -> PolicyError:
    """What is wrong with a policy or a study, as the error that its writer sees."""
    return PolicyError("\n".join(_explain(model, problem) for problem in _innermost(error.errors())))


def _explain(model: type[BaseModel], problem: Any) -> str:
    """One problem that pydantic found, as a sentence."""
    keys = [str(part) for part in problem["loc"] if not (isinstance(part, str) and re.search(r"[\[(]", part))]
    whole = f"the {model.__name__.lower()}"
    path = ".".join(keys) or whole
    if problem["type"] == "extra_forbidden":
        fields = _fields(model, keys[:-1])
        return f"{'.'.join(keys[:-1]) or whole.capitalize()} has no key {keys[-1]!r}. {did_you_mean(keys[-1], fields)}"
    if problem["type"] == "missing":
        return f"{path} is missing. It has no default, since only you know it."
    if problem["type"] == "model_type":
        return f"{path}: write keys below it: {', '.join(_fields(model, keys))}; it is {problem['input']!r}."
    given = f"; it is {problem['input']!r}" if keys else ""  # the whole of it is too long to show
    return f"{path}: {plugins.wanted(problem)}{given}."


def _innermost(problems: Sequence[Any]) -> list[Any]:
    """The problems, less those that only follow from one further in."""
    paths = [problem["loc"] for problem in problems]
    return [
        problem
        for problem in problems
        if not any(len(path) > len(problem["loc"]) and path[: len(problem["loc"])] == problem["loc"] for path in paths)
    ]


def _fields(model: type[BaseModel], keys: Sequence[str]) -> list[str]:
    for key in keys:
        annotation: Any = model.model_fields[key].annotation if key in model.model_fields else None
        if typing.get_origin(annotation) in (typing.Union, types.UnionType):  # a section that may be left out
            annotation = typing.get_args(annotation)[0]
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return [field.alias or name for name, field in model.model_fields.items()]
