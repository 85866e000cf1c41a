"""A plug-in is found by the name of its file, by an entry point, or by a dotted name.

There is no registry. A family is a folder: `selector/rate/length.py` holds the rater `length`, the one public class in
that file that belongs to the family. Another package adds one through an entry point
(`[project.entry-points."selector.raters"]`), or not at all: a policy may say `package.module:Class`.
"""

import contextlib
import contextvars
import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import os
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from selector.engine import inside
from selector.engine.step import versions
from selector.errors import PolicyError, did_you_mean, listed
from selector.plugins.attached import opened
from selector.plugins.options import (
    KINDS,
    Columns,
    Endpoint,
    ModelPath,
    TablePath,
    fields_of,
    hints_of,
    is_plugin,
    kind_of,
)

P = TypeVar("P")

# Each family: the folder that holds ours, and the classes in that folder's __init__ of which they extend one.
# Executors and targets have no folder here, since Ray lives outside this package: ours are entry points like anyone's.
_FOLDERS: Mapping[str, tuple[str | None, tuple[str, ...]]] = {
    "raters": ("selector.rate", ("Rater", "Fit")),
    "selectors": ("selector.select", ("Selector",)),
    "orders": ("selector.order", ("Order",)),
    "objectives": ("selector.tune.objectives", ("Objective",)),
    "executors": (None, ()),
    "targets": (None, ()),
}
FAMILIES = tuple(_FOLDERS)


_are_foreign_refused = contextvars.ContextVar("are_foreign_refused", default=False)


@contextlib.contextmanager
def installed_only() -> Generator[None]:
    """Until it is left, nothing is imported because a policy names it: plug-ins are ours, or entry points of what the
    operator has installed."""
    token = _are_foreign_refused.set(True)
    try:
        yield
    finally:
        _are_foreign_refused.reset(token)


def names(family: str) -> list[str]:
    """The names that a policy may use, sorted."""
    return sorted({*ours(family), *(point.name for point in _entry_points(family))})


def ours(family: str) -> list[str]:
    """The names of the plug-ins that are files of this package."""
    folder, _ = _FOLDERS[family]
    if folder is None:
        return []
    return list(_files(tuple(importlib.import_module(folder).__path__)))


@functools.cache
def _files(folders: tuple[str, ...]) -> list[str]:
    """The modules in these folders but for those of the family's own."""
    return [module.name for module in pkgutil.iter_modules(folders) if not module.name.startswith("_")]


def find(family: str, name: str) -> type[object]:
    """The class called `name` in a family. Raises PolicyError with the nearest name if there is none."""
    points = {point.value: point for point in _entry_points(family) if point.name == name}
    files = [file for file in ours(family) if file == name]
    if len(points) + len(files) > 1:
        homes = [*(f"{_FOLDERS[family][0]}.{file}" for file in files), *sorted(points)]
        raise PolicyError(
            f"There are several {family} called {name!r}: {', '.join(homes)}. Write package.module:Class."
        )
    for point in points.values():
        return _load(family, name, point.load)
    if files:
        return _in_file(family, name)
    if (":" in name or "." in name) and _are_foreign_refused.get():
        raise PolicyError(
            f"The policy names Python code, {name!r}, which --no-foreign-plugins refuses. Use an installed plug-in: "
            f"{listed(names(family))}."
        )
    if ":" in name or "." in name:
        module, _, attribute = name.partition(":") if ":" in name else name.rpartition(".")
        return _load(family, name, lambda: getattr(importlib.import_module(module), attribute))
    raise PolicyError(f"There is no {family[:-1]} called {name!r}. {did_you_mean(name, names(family))}")


def make(family: str, name: str, options: Mapping[str, Any], where: str, *contracts: type[P]) -> P:
    """A plug-in with its options checked against its fields; `where` is the policy key, for the message.

    It is of one of the `contracts`, or PolicyError says that it is not. An option that is itself a plug-in is written
    as in a policy: its name, or its name with its options. Options that belong together are a dataclass of their own
    (`is_part`), written as keys.
    """
    cls = find(family, name)
    if not dataclasses.is_dataclass(cls):
        raise PolicyError(f"{name!r} is not a dataclass. Write @dataclass(frozen=True, kw_only=True) above its class.")
    instance = cls(**_checked(cls, name, options, f"{where}.{name}"))
    if not isinstance(instance, contracts):
        wanted_kinds = " or ".join(contract.__name__ for contract in contracts)
        raise PolicyError(f"{where}: {name!r} is no {wanted_kinds}, and nothing else will do here.")
    return opened(instance, f"{where}.{name}")


def _checked(cls: type[Any], name: str, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of the fields of a dataclass that options of a policy say; `name` is what messages call it."""
    import pydantic

    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = hints_of(cls)
    for key in options:
        if key not in fields:
            hint = did_you_mean(str(key), fields) if fields else f"{name} has no options."
            raise PolicyError(f"{where} has no option {key!r}. {hint}")
    values: dict[str, Any] = {}
    for key, field in fields.items():
        path = f"{where}.{key}"
        if key not in options:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise PolicyError(f"{path} is missing: {name} cannot do without it.")
            continue
        value = options[key]
        kind = kind_of(hints[key])
        if family_of(kind.base) is not None:
            values[key] = _inner(kind.base, value, kind.is_many, path)
            continue
        if is_part(kind.base):
            values[key] = _part(kind.base, value, kind.is_many, path)
            continue
        try:
            values[key] = pydantic.TypeAdapter(hints[key]).validate_python(value)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            exact_path = ".".join(str(part) for part in (where, key, *first["loc"]))
            raise PolicyError(f"{exact_path}: {wanted(first)}; it is {first['input']!r}.") from error
        if isinstance(value, bool) and not isinstance(values[key], bool):  # pydantic takes true for 1
            raise PolicyError(f"{path}: write a number; it is {value!r}.")
    return values


def _part(cls: type[Any], value: object, is_many: bool, path: str) -> object:
    """The options that belong together, as their dataclass, or a tuple of those."""
    if isinstance(value, cls) or value is None:
        return value
    if is_many:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise PolicyError(f"{path}: write a list, e.g. [{{…}}, {{…}}]; it is {value!r}.")
        return tuple(_part(cls, item, False, f"{path}.{i}") for i, item in enumerate(value))
    if not isinstance(value, Mapping):
        raise PolicyError(f"{path}: write keys below it; it is {value!r}.")
    return cls(**_checked(cls, path, value, path))


def _inner(contract: type[object], value: object, is_many: bool, path: str) -> object:
    """The plug-in, or the tuple of plug-ins, that an option says; each is of the kind that the option's type names."""
    if is_plugin(value) or value is None:
        return value
    if is_many and isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_inner(contract, item, False, f"{path}.{i}") for i, item in enumerate(value))
    if isinstance(value, str):
        name, options = value, {}
    elif isinstance(value, Mapping) and len(value) == 1:
        ((name, options),) = value.items()
    else:
        raise PolicyError(
            f"{path}: write a name, or one name with its options: {{name: {{option: value}}}}; it is {value!r}."
        )
    family = family_of(contract)
    assert family is not None
    return make(family, name, options or {}, path, contract)


def family_of(cls: object) -> str | None:
    """The family that a class belongs to, or whose contract it is; None for any other type."""
    if not inspect.isclass(cls):
        return None
    return next((family for family in FAMILIES if issubclass(cls, _contracts(family))), None)


def is_part(cls: object) -> bool:
    """Whether a type is a dataclass of options that belong together, and no plug-in of a family."""
    return inspect.isclass(cls) and dataclasses.is_dataclass(cls) and family_of(cls) is None


def name_of(plugin: object) -> str:
    """What a policy calls a plug-in: the name of its file, of its entry point, or `package.module:Class`."""
    return _named(type(plugin))[0]


class Versioned(Protocol):
    """What a rater, a fit, a selector and an order say of their answers."""

    version: ClassVar[int]  # raised where the same options give another answer
    libraries: ClassVar[tuple[str, ...]]  # distributions whose version may change it


def identity(plugin: Versioned, contents: Mapping[str, str] | None = None) -> dict[str, Any]:
    """All that decides what a plug-in says, as JSON: family, policy name, version, libraries and options.

    Where its file lies decides nothing. One from elsewhere has its origin too: its distribution and that one's version,
    or else the sha256 of its module, so that an edited file is another plug-in. An option that names something outside
    counts with the content of it, `contents` by the option's path, and not with its path.
    """
    cls = type(plugin)
    name, origin = _named(cls)
    decisive = {
        "family": family_of(cls),
        "name": name,
        "version": plugin.version,
        "libraries": versions(plugin.libraries),
        "options": _identities(plugin, contents or {}),
    }
    return decisive | ({"origin": origin} if origin else {})


def _identities(plugin: object, contents: Mapping[str, str]) -> dict[str, Any]:
    """All that decides what the options of a plug-in say, or options that belong together."""
    options: dict[str, Any] = {}
    hints = hints_of(type(plugin))
    for field in fields_of(plugin):
        if field.metadata.get("apart"):  # how fast something is asked, not what
            continue
        value: Any = getattr(plugin, field.name)
        inside = _below(field.name, contents)
        if is_plugin(value):
            options[field.name] = _identity(value, inside)
        elif isinstance(value, tuple) and any(map(is_plugin, value)):
            options[field.name] = [_identity(item, _below(str(i), inside)) for i, item in enumerate(value)]
        elif isinstance(value, (Endpoint, ModelPath, TablePath)):
            options[field.name] = contents.get(field.name, str(value))
        elif kind_of(hints[field.name]).base in KINDS and isinstance(value, tuple):
            options[field.name] = [inside.get(str(i), str(item)) for i, item in enumerate(value)]
        else:
            options[field.name] = list(value) if isinstance(value, tuple) else value
    return options


def _identity(value: Any, contents: Mapping[str, str]) -> dict[str, Any]:
    return _identities(value, contents) if is_part(type(value)) else identity(value, contents)


def options_spelt_out(plugin: object) -> dict[str, Any]:
    """The options of a plug-in as a policy writes them, every one of them said."""
    return {field.name: _spelt_out(getattr(plugin, field.name)) for field in fields_of(plugin)}


def _spelt_out(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_spelt_out(item) for item in value]
    if is_plugin(value):
        return options_spelt_out(value) if is_part(type(value)) else {name_of(value): options_spelt_out(value)}
    return str(value) if isinstance(value, str) else value


def _below(path: str, contents: Mapping[str, str]) -> dict[str, str]:
    return {key.removeprefix(f"{path}."): value for key, value in contents.items() if key.startswith(f"{path}.")}


@functools.cache
def _named(cls: type[Any]) -> tuple[str, dict[str, str]]:
    """The policy's name of a plug-in class, and where it comes from; nothing if it is ours."""
    family = family_of(cls)
    if cls.__module__.partition(".")[0] == "selector" and family is not None:
        return cls.__module__.rpartition(".")[2], {}
    value = f"{cls.__module__}:{cls.__qualname__}"
    for point in _entry_points(family) if family is not None else ():
        if point.value == value:
            if point.dist is not None:
                return point.name, {"distribution": point.dist.name, "version": point.dist.version}
            return point.name, {"sha256": _module_sha256(cls)}
    return value, {"sha256": _module_sha256(cls)}


def _module_sha256(cls: type[Any]) -> str:
    """sha256 of the file that a class is written in; of its name where there is no file, as in a shell."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes() if file else cls.__qualname__.encode()).hexdigest()


def wanted(problem: Mapping[str, Any]) -> str:
    """What to write instead of a value in which pydantic found a problem."""
    words = {
        "int": "write a whole number", "float": "write a number", "bool": "write true or false",
        "string_type": "write text, in quotes where YAML would read a number", "tuple": "write a list, e.g. [a, b]",
        "list": "write a list, e.g. [a, b]", "dict": "write keys below it", "too_short": "write at least one",
    }  # fmt: skip
    message = problem["msg"].removeprefix("Value error, ")
    kind = problem["type"]
    return words.get(kind) or words.get(kind.partition("_")[0]) or message[:1].lower() + message[1:]


def describe(family: str) -> list[dict[str, Any]]:
    """Name, one-line summary and options (type and default) of every plug-in of a family."""
    described: list[dict[str, Any]] = []
    for name in names(family):
        try:
            described.append(_described(name, find(family, name)))
        except PolicyError as error:  # someone else's, and broken: it must not hide the others
            described.append({"name": name, "summary": str(error), "options": {}})
    return described


def document(name: str) -> dict[str, list[dict[str, Any]]]:
    """What `describe` says of the plug-ins that a policy may call so, by family, and the whole docstring of each.

    Raises PolicyError if there is none.
    """
    is_dotted = ":" in name or "." in name
    families = [family for family in FAMILIES if name in names(family) or (is_dotted and _contracts(family))]
    if not families:
        known = sorted({name for family in FAMILIES for name in names(family)})
        raise PolicyError(f"There is no plug-in called {name!r}. {did_you_mean(name, known)}")
    documented: dict[str, list[dict[str, Any]]] = {}
    for family in families:
        try:
            cls = find(family, name)
        except PolicyError:
            if family == families[-1] and not documented:
                raise
            continue
        documented[family] = [{**_described(name, cls), "docstring": inspect.getdoc(cls) or ""}]
    return documented


def _described(name: str, cls: type[object]) -> dict[str, Any]:
    options = {
        field.name: {
            "type": _type_name(field.type),
            "default": _default(field),
            "required": field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        }
        for field in (dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ())
    }
    return {"name": name, "summary": (inspect.getdoc(cls) or "").split("\n", 1)[0], "options": options}


def _type_name(kind: Any) -> str:
    """A type as its author wrote it, without the modules that its names are from."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, str):
        return kind
    if origin is typing.Literal:
        return " | ".join(map(repr, inner))
    if kind is type(None) or kind is ...:
        return "..." if kind is ... else "None"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_type_name, inner))
    if origin is typing.Annotated:
        columns = [
            f"{name}: {kind}" for hint in inner[1:] if isinstance(hint, Columns) for name, kind in hint.types.items()
        ]
        return _type_name(inner[0]) + (f" ({', '.join(columns)})" if columns else "")
    name: str = getattr(origin or kind, "__name__", str(kind))
    return f"{name}[{', '.join(map(_type_name, inner))}]" if origin else name


def _default(field: "dataclasses.Field[Any]") -> Any:
    """A field's default as JSON, or None."""
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        value = None if field.default is dataclasses.MISSING else field.default
    return value if isinstance(value, (str, int, float, list, tuple, dict, type(None))) else str(value)


def _entry_points(family: str) -> list[importlib.metadata.EntryPoint]:
    return list(_installed(f"selector.{family}", tuple((folder, _changed(folder)) for folder in sys.path)))


@functools.lru_cache(maxsize=64)
def _installed(group: str, folders: tuple[tuple[str, int], ...]) -> importlib.metadata.EntryPoints:  # noqa: ARG001
    """The entry points of a group, read again once something was installed: a policy asks for each of its plug-ins."""
    return importlib.metadata.entry_points(group=group)


def _changed(folder: str) -> int:
    """When something was installed in a folder, or removed, for the last time."""
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


def _contracts(family: str) -> tuple[type[Any], ...]:
    folder, bases = _FOLDERS[family]
    return tuple(getattr(importlib.import_module(folder), base) for base in bases) if folder is not None else ()


def _in_file(family: str, name: str) -> type[object]:
    module = importlib.import_module(f"{_FOLDERS[family][0]}.{name}")
    classes = [
        value
        for key, value in vars(module).items()
        if not key.startswith("_")  # such as the rater that a fit makes
        and inspect.isclass(value)
        and issubclass(value, _contracts(family))
        and value.__module__ == module.__name__
    ]
    assert len(classes) == 1, f"{module.__name__} must define exactly one plug-in, not {len(classes)}"
    return classes[0]


def _path_hint(module: str) -> str:
    """How a module that was not found can be."""
    first = module.partition(".")[0]
    is_here = Path(f"{first}.py").is_file() or Path(first).is_dir()
    folder, where = (
        (".", f"It lies in {Path.cwd()}, where Python does not look") if is_here else ("FOLDER", "If it is yours")
    )
    return f" {where}: write PYTHONPATH={folder} before the command."


def _load(family: str, name: str, load: Callable[[], object]) -> type[object]:
    """A class from elsewhere, if it belongs to the family."""
    try:
        value = load()
    except BaseException as error:  # someone else's module may raise anything
        if inside.interrupts(error):
            raise
        reason = f"{type(error).__name__}: {error}".rstrip(": .")
        hint = _path_hint(error.name) if isinstance(error, ModuleNotFoundError) and error.name else ""
        raise PolicyError(f"The {family[:-1]} {name!r} cannot be imported: {reason}.{hint}") from error
    folder, bases = _FOLDERS[family]
    if not (inspect.isclass(value) and issubclass(value, _contracts(family) or object)):
        lacks = f"it does not extend {folder}.{f' or {folder}.'.join(bases)}" if bases else "it is no class"
        raise PolicyError(f"{name!r} is no {family[:-1]}: {lacks}.")
    if inspect.isabstract(value):
        missing = ", ".join(sorted(getattr(value, "__abstractmethods__", ())))
        raise PolicyError(f"{name!r} is not finished: it does not define {missing}.")
    return value
