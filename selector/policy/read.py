"""A policy as it is written: the YAML file, then the environment, then the command line, each over the one before."""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from selector.errors import PolicyError

_LONGEST = 1 << 20  # bytes of a policy file


def read(
    path: str | Path,
    sections: Collection[str],
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] = os.environ,
    *,
    kind: str = "policy",
    begins: str = "corpus: and select:",
) -> dict[str, Any]:
    """The mapping that a policy file, the environment and the command line say together; `sections` are the keys at its
    top, by which an environment variable is known to be one of the policy's. Errors say its kind and how it begins."""
    if not isinstance(path, (str, os.PathLike)):  # pyright: ignore[reportUnnecessaryIsInstance] - Python does not check
        raise PolicyError(f"{path!r:.80} is not the path of a {kind}. Give that of a YAML file.")
    overrides = [overrides] if isinstance(overrides, str) else overrides
    if not isinstance(overrides, Iterable) or not all(isinstance(override, str) for override in overrides):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise PolicyError(
            f"overrides={overrides!r:.80} is not a list of text. Write e.g. ['select.budget.tokens=50B']."
        )
    try:
        with Path(path).open("rb") as file:
            text = file.read(_LONGEST + 1).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PolicyError(
            f"The {kind} {str(path)!r} cannot be read: {reason}. Give the path of a YAML file."
        ) from error
    data = _parse(text, str(path))
    if not isinstance(data, dict):
        raise PolicyError(f"The {kind} {str(path)!r} is not a mapping. Begin with {begins}.")
    for name, value in sorted(environment.items()):
        keys = name.removeprefix("SELECTOR_").lower().split("__")
        if name.startswith("SELECTOR_") and keys[0] in sections:
            set_at(data, keys, _parse(value, name))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise PolicyError(f"--set {override!r} is not of the form key=value, e.g. select.budget.tokens=50B.")
        set_at(data, key.split("."), _parse(value, f"--set {key}"))
    return data


def set_at(data: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Puts a value where these keys lead to; of a budget's units the new one stays alone."""
    for key in keys[:-1]:
        inner = data.get(key)
        data[key] = inner = dict(inner) if isinstance(inner, Mapping) else {}
        data = inner
    if keys[:-1] and keys[-2] == "budget" and keys[-1] != "overshoot":
        for unit in ("documents", "tokens", "fraction"):
            data.pop(unit, None)
    data[keys[-1]] = value


class _Loader(yaml.SafeLoader):
    """Plain data in YAML 1.2, where `no` is a word and 012 is twelve. Refuses tags, a key given twice, and aliases,
    which can make a short file endless."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (as in its base)
    yaml_constructors: dict[str, Any] = {}  # noqa: RUF012

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise _refused("aliases are not read: write the value out", self.peek_event())
        return super().compose_node(parent, index)


def _refused(problem: str, node: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, node.start_mark)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    """Keys are text as it stands: 1 and "1" are the same."""
    mapping: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _refused("a key is a list or a mapping: write a word", key)
        if key.value in mapping:
            raise _refused(f"the key {key.value!r} is there twice: remove one", key)
        mapping[key.value] = loader.construct_object(value, deep=True)  # pyright: ignore[reportUnknownArgumentType]
    return mapping


def _tagged(_: _Loader, node: yaml.Node) -> Any:
    raise _refused(f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not read: remove it", node)


for _name, _construct in {
    "map": _mapping,
    "seq": lambda loader, node: loader.construct_sequence(node, deep=True),
    "str": yaml.SafeLoader.construct_yaml_str,
    "null": yaml.SafeLoader.construct_yaml_null,
    "bool": yaml.SafeLoader.construct_yaml_bool,
    "int": lambda _, node: int(node.value),
    "float": yaml.SafeLoader.construct_yaml_float,
}.items():
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _construct)  # pyright: ignore[reportArgumentType]
_Loader.add_constructor(None, _tagged)  # pyright: ignore[reportArgumentType]
for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), _first)


def _parse(text: str, where: str) -> Any:
    if len(text) > _LONGEST:
        raise PolicyError(f"{where} is longer than {_LONGEST >> 20} MiB. A policy is a page.")
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        cure = f" Where it is text, write it in quotes: {where}='\"…\"'." if where.startswith("--set") else ""
        raise PolicyError(f"{where}{line} cannot be read as YAML: {problem}.{cure}") from error
