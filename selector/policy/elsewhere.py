"""A policy on another machine: what it names there, and what of it has to travel.

A path that is relative means another folder on another machine, so it is refused. A plug-in of a user's own travels as
its modules; one that pip installed is asked for by name and version, since what it needs would not travel with it.
"""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from selector import __version__
from selector.corpus import files
from selector.engine.target import Parcel
from selector.errors import PolicyError, UsageError, listed, without_secrets
from selector.plugins.families import family_of, name_of
from selector.plugins.options import ArtefactPath, ManifestPath, ModelPath, TablePath, TextsPath, plugins_in, written
from selector.policy.sections import Policy

_MOST_FILES = 2_000  # of a module of a user's own


def parcel(policy: Policy) -> tuple[Parcel, dict[str, str]]:
    """What has to travel with a policy, and the versions of the distributions that it needs where it runs. Raises
    PolicyError for what means something else there."""
    _check_paths(policy)
    requires = {"selector": __version__}
    files: dict[str, bytes] = {}
    carries: list[str] = []
    for module in sorted({type(plugin).__module__ for plugin in _foreign(policy)}):
        distribution = _distribution(module)
        if distribution is not None:
            requires[distribution.name] = distribution.version
        elif module == "__main__":
            raise UsageError(
                "A plug-in of the policy is defined in a script or a shell, from where it cannot travel. Put it into a "
                "file of its own, e.g. mine.py, and name it mine:Class."
            )
        else:
            carries.append(module)
            files |= _files_of(module)
    files[Parcel.POLICY] = json.dumps(policy.resolved(), ensure_ascii=False, indent=1, sort_keys=True).encode()
    return Parcel(files=files, carries=tuple(carries)), requires


def identity(policy: Policy) -> dict[str, Any]:
    """What a policy says, with the versions and the contents of the plug-ins that it names."""
    from selector.plugins import identity

    plugins_by_path = policy.plugins.by_path()
    return {
        "policy": policy.resolved(),
        "plugins": {path: identity(plugin) for path, plugin in sorted(plugins_by_path.items())},
        "version": __version__,
    }


def named_paths(policy: Policy) -> Iterator[tuple[str, str]]:
    """Every path or address that a policy names, with its key."""
    for path in policy.corpus.paths:
        yield "corpus.paths", path
    if policy.corpus.tokenizer is not None:
        yield "corpus.tokenizer", policy.corpus.tokenizer
    yield "embed.model", policy.embed.model
    if policy.cluster.from_ is not None:
        yield "cluster.from", policy.cluster.from_
    if policy.order.parent is not None:
        yield "order.parent", policy.order.parent
    named = {**policy.plugins.by_path(), "select": policy.select.lists}
    for key, plugin in named.items():
        for option in written(plugin, TablePath, TextsPath, ArtefactPath, ManifestPath, ModelPath):
            yield f"{key}.{option.path}", str(option.value)


def check_within(policy: Policy, allowed: Sequence[str]) -> None:
    """Everything that a policy names lies below one of these folders or addresses, links followed. Raises PolicyError
    before anything of it is opened."""
    for key, value in named_paths(policy):
        is_model_name = _is_model(key) and "/" not in value and not Path(value).exists()
        if not is_model_name and not _is_within(value, allowed):
            raise PolicyError(
                f"{key}: {without_secrets(value)!r} does not lie below {listed(allowed)}, where this policy may look."
            )
    for file in files.expand([path for path in policy.corpus.paths if "://" not in path], policy.corpus.form).files:
        if not _is_within(file.uri, allowed):
            raise PolicyError(f"corpus.paths: {file.uri!r} is a link that leads out of {listed(allowed)}.")


def _is_within(path: str, allowed: Sequence[str]) -> bool:
    if "://" in path:
        names = re.split(r"[/\\]", unquote(path))
        return ".." not in names and any(path.startswith(f"{root.rstrip('/')}/") for root in allowed if "://" in root)
    firm = re.split(r"[*?\[]", path, maxsplit=1)  # up to the first wildcard
    start = os.path.realpath(os.path.expanduser(firm[0] if len(firm) == 1 else os.path.dirname(firm[0]) or "."))
    if ".." in path.split("/"):
        return False
    roots = [os.path.realpath(os.path.expanduser(root)) for root in allowed if "://" not in root]
    return any(start == root or start.startswith(f"{root.rstrip('/')}/") for root in roots)


def _is_model(key: str) -> bool:
    return key == "embed.model" or key.endswith(".model")


def _check_paths(policy: Policy) -> None:
    for key, value in named_paths(policy):
        if "://" in value or os.path.isabs(value):
            continue
        if _is_model(key) and not value.startswith((".", "~")) and not Path(value).exists():
            continue
        raise PolicyError(
            f"{key}: {value!r} is relative, and means another folder on another machine. Write {_absolute(value)}, if "
            "that is where it lies on every node, or an address such as s3://bucket/…."
        )


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _foreign(policy: Policy) -> Iterator[object]:
    """The plug-ins, at any depth, that are not ours."""
    for plugin in policy.plugins.by_path().values():
        for inner in plugins_in(plugin):
            if family_of(type(inner)) is not None and type(inner).__module__.partition(".")[0] != "selector":
                yield inner


def foreign_names(policy: Policy) -> list[str]:
    """What the policy calls the plug-ins that are not ours, sorted."""
    return sorted({name_of(plugin) for plugin in _foreign(policy)})


def _distribution(module: str) -> importlib.metadata.Distribution | None:
    """The installed distribution that a module is of; None for a file of the user's own."""
    first = module.partition(".")[0]
    names = importlib.metadata.packages_distributions().get(first, [])
    return importlib.metadata.distribution(names[0]) if names else None


def _files_of(module: str) -> dict[str, bytes]:
    """The files of a module, and of those of the user's own that it imports, by their paths below a folder of
    modules."""
    files: dict[str, bytes] = {}
    todo, done = [module.partition(".")[0]], set[str]()
    while todo:
        name = todo.pop()
        if name in done:
            continue
        done.add(name)
        for path, data in _module_files(name):
            files[path] = data
            if len(files) > _MOST_FILES:
                raise UsageError(
                    f"The package {name} has more than {_MOST_FILES:,} files. Install it on every node of the cluster."
                )
            todo += [other for other in _imports(path, data) if _is_own(other)]
    return files


def _module_files(name: str) -> Iterator[tuple[str, bytes]]:
    """The files of a module or package at the top: Python, and what lies beside it in a package."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise UsageError(f"The module {name} has no file, so it cannot travel. Install it on every node.")
    origin = Path(spec.origin)
    if origin.name != "__init__.py":
        yield origin.name, origin.read_bytes()
        return
    for path in sorted(origin.parent.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(origin.parent.parent).as_posix(), path.read_bytes()


def _imports(path: str, data: bytes) -> Iterator[str]:
    """The names at the top of what a Python file imports."""
    if not path.endswith(".py"):
        return
    for node in ast.walk(ast.parse(data)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _is_own(name: str) -> bool:
    """Whether a module is neither Python's nor installed."""
    if name in sys.stdlib_module_names or name in ("selector", "jobs"):
        return False
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None and _distribution(name) is None
