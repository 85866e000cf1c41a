"""A policy on another machine: what it names there, and what of it has to travel.

A path that is relative means another folder on another machine, so it is refused. A plug-in of a user's own travels as
its modules; one that pip installed is asked for by name and version, since what it needs would not travel with it.
"""

import ast
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selector import __version__
from selector.corpus import files
from selector.engine.target import Parcel
from selector.errors import DamagedError, NotFoundError, PolicyError, UsageError, listed
from selector.models.find import is_packaged
from selector.plugins import allowed
from selector.plugins.attached import PACKAGED
from selector.plugins.families import family_of
from selector.plugins.options import (
    ArtefactPath,
    Endpoint,
    ManifestPath,
    ModelPath,
    TablePath,
    TextsPath,
    plugins_in,
    written,
)
from selector.policy.sections import Policy
from selector.storage import is_address, local_path

_CORPUS, _FROM = "corpus.paths", "cluster.from"
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
    paths = tuple((one.key, path) for one in named(policy) if not one.is_ours and (path := local_path(one.value)))
    return Parcel(files=files, carries=tuple(carries), paths=paths), requires


def identity(policy: Policy) -> dict[str, Any]:
    """What a policy says, with the versions and the contents of the plug-ins that it names."""
    from selector.plugins import identity

    plugins_by_path = policy.plugins.by_path()
    return {
        "policy": policy.resolved(),
        "plugins": {path: identity(plugin) for path, plugin in sorted(plugins_by_path.items())},
        "version": __version__,
    }


@dataclass(frozen=True, kw_only=True)
class Named:
    """Something outside of a policy that it names: a path or an address."""

    key: str  # of the policy
    value: str
    kind: Any  # one of `plugins.options`, or None for what the corpus names

    @property
    def is_ours(self) -> bool:
        """Whether it arrives with this package, or with a package of a model's."""
        if self.kind is ModelPath:
            return is_packaged(self.value)
        return self.kind in (TablePath, TextsPath) and self.value.startswith(PACKAGED)


def named(policy: Policy) -> list[Named]:
    """Everything outside of it that a policy names."""
    everything = [Named(key=_CORPUS, value=path, kind=None) for path in policy.corpus.paths]
    if policy.corpus.tokenizer is not None:
        everything.append(Named(key="corpus.tokenizer", value=policy.corpus.tokenizer, kind=None))
    everything.append(Named(key="embed.model", value=policy.embed.model, kind=ModelPath))
    if policy.cluster.from_ is not None:
        everything.append(Named(key=_FROM, value=policy.cluster.from_, kind=ManifestPath))
    if policy.order.parent is not None:
        everything.append(Named(key="order.parent", value=policy.order.parent, kind=ManifestPath))
    for key, plugin in {**policy.plugins.by_path(), "select": policy.select.lists}.items():
        options = written(plugin, TablePath, TextsPath, ArtefactPath, ManifestPath, ModelPath, Endpoint)
        everything += [Named(key=f"{key}.{one.path}", value=str(one.value), kind=one.kind) for one in options]
    return everything


def check_within(policy: Policy, roots: Sequence[str]) -> None:
    """Everything that a policy names lies below one of these folders or addresses, links followed, and no secret of
    the environment goes where they do not say. Raises PolicyError before anything of it is opened."""
    for one in named(policy):
        if not one.is_ours and not allowed.is_within(one.value, roots, is_pattern=one.key == _CORPUS):
            raise allowed.refused(one.key, one.value, roots)
    for key, plugin in policy.plugins.by_path().items():
        for inner in plugins_in(plugin):
            _check_variable(key, inner, roots)
    near = [path for path in policy.corpus.paths if not is_address(path)]
    uris = [(_CORPUS, file.uri) for file in files.expand(near, policy.corpus.form).files] if near else []
    models = [(one.key, local_path(one.value)) for one in named(policy) if one.kind is ModelPath and not one.is_ours]
    linked = [(key, path) for key, folder in models if folder is not None for path in _in_model(folder)]
    for key, path in [*uris, *linked]:
        if not allowed.is_within(path, roots):
            raise PolicyError(f"{key}: {path!r} is a link that leads out of {listed(roots)}.")
    if policy.cluster.from_ is not None:
        from selector.manifest import Manifest

        with contextlib.suppress(NotFoundError, DamagedError):  # of which the policy's own check tells
            root = Manifest.open(policy.cluster.from_).root
            if not allowed.is_within(root, roots):
                raise allowed.refused(f"{_FROM}: its centroids lie in {root}", policy.cluster.from_, roots)


def _check_variable(key: str, plugin: object, roots: Sequence[str]) -> None:
    """What a plug-in takes from the environment as its key is meant for that."""
    for field in dataclasses.fields(plugin) if dataclasses.is_dataclass(plugin) else ():
        value = getattr(plugin, field.name)
        is_named = field.name.endswith("_variable") and isinstance(value, str)
        if is_named and value != field.default and f"{allowed.VARIABLE}{value}" not in roots:
            raise PolicyError(
                f"{key}.{field.name}: the environment variable {value!r} is not for this policy, which would send it "
                f"to an address. Leave it out, or allow it: --allowed {allowed.VARIABLE}{value}."
            )


def _in_model(folder: str) -> Iterator[str]:
    """The files of a model's folder, if it is one."""
    path = Path(os.path.expanduser(folder))
    if next(path.glob("*.safetensors"), None) is not None:
        yield from map(str, path.rglob("*"))


def _check_paths(policy: Policy) -> None:
    for one in named(policy):
        path = local_path(one.value)
        if one.is_ours or path is None or os.path.isabs(path):
            continue
        raise PolicyError(
            f"{one.key}: {one.value!r} is relative, and means another folder on another machine. Write "
            f"{_absolute(one.value)}, if that is where it lies on every node, or an address such as s3://bucket/…."
        )


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _foreign(policy: Policy) -> Iterator[object]:
    """The plug-ins, at any depth, that are not ours."""
    for plugin in policy.plugins.by_path().values():
        for inner in plugins_in(plugin):
            if family_of(type(inner)) is not None and type(inner).__module__.partition(".")[0] != "selector":
                yield inner


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
