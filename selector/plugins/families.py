"""A plug-in is found by the name of its file, by an entry point, or by a dotted name.

There is no registry. A family is a folder: `selector/rate/length.py` holds the rater `length`, the one
public class in that file that belongs to the family. Another package adds one through an entry point
(`[project.entry-points."selector.raters"]`), or not at all: a policy may say `package.module:Class`.
"""

import dataclasses
import importlib
import importlib.metadata
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from selector.errors import PolicyError, did_you_mean

# Each family: the folder that holds ours, and the class in that folder's __init__ that they all extend.
# Executors have no folder here, since Ray lives outside this package: ours are entry points like anyone's.
_FOLDERS = {
    "raters": ("selector.rate", "Rater"),
    "selectors": ("selector.select", "Selector"),
    "orders": ("selector.order", "Order"),
    "storages": ("selector.storage", "Storage"),
    "executors": (None, None),
}
FAMILIES = tuple(_FOLDERS)


def names(family: str) -> list[str]:
    """The names that a policy may use, sorted."""
    return sorted({*ours(family), *(point.name for point in _entry_points(family))})


def ours(family: str) -> list[str]:
    """The names of the plug-ins that are files of this package."""
    folder, _ = _FOLDERS[family]
    if folder is None:
        return []
    modules = pkgutil.iter_modules(importlib.import_module(folder).__path__)
    return [module.name for module in modules if not module.name.startswith("_")]


def find(family: str, name: str) -> type[Any]:
    """The class called `name` in a family. Raises PolicyError with the nearest name if there is none."""
    points = {point.value: point for point in _entry_points(family) if point.name == name}
    files = [file for file in ours(family) if file == name]
    if len(points) + len(files) > 1:
        places = [*(f"{_FOLDERS[family][0]}.{file}" for file in files), *sorted(points)]
        raise PolicyError(
            f"There are several {family} called {name!r}: {', '.join(places)}. Write package.module:Class."
        )
    for point in points.values():
        return _load(family, name, point.load)
    if files:
        return _in_file(family, name)
    if (":" in name or "." in name) and family != "storages":  # there it is a user's address, which imports nothing
        module, _, attribute = name.partition(":") if ":" in name else name.rpartition(".")
        return _load(family, name, lambda: getattr(importlib.import_module(module), attribute))
    raise PolicyError(f"There is no {family[:-1]} called {name!r}. {did_you_mean(name, names(family))}")


def make(family: str, name: str, options: Mapping[str, Any], where: str) -> Any:
    """A plug-in with its options checked against its fields; `where` is the policy key, for the message."""
    import pydantic

    cls = find(family, name)
    if not dataclasses.is_dataclass(cls):
        raise PolicyError(f"{name!r} is not a dataclass. Write @dataclass(frozen=True, kw_only=True) above its class.")
    fields = {field.name for field in dataclasses.fields(cls)}
    for key in options:
        if key not in fields:
            hint = did_you_mean(str(key), fields) if fields else f"{name} has no options."
            raise PolicyError(f"{where}.{name} has no option {key!r}. {hint}")
    try:
        made = pydantic.TypeAdapter(cls).validate_python(dict(options))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (where, name, *first["loc"]))
        if first["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
            raise PolicyError(f"{place} is missing: {name} cannot do without it.") from error
        raise PolicyError(f"{place}: {wanted(first)}; it is {first['input']!r}.") from error
    for key, value in options.items():
        if isinstance(value, bool) and not isinstance(getattr(made, key), bool):  # pydantic takes true for 1
            raise PolicyError(f"{where}.{name}.{key}: write a number; it is {value!r}.")
    return made


def wanted(problem: Mapping[str, Any]) -> str:
    """What to write instead of a value in which pydantic found a problem."""
    words = {
        "int": "write a whole number", "float": "write a number", "bool": "write true or false",
        "string_type": "write text, in quotes where YAML would read a number", "tuple": "write a list, e.g. [a, b]",
        "list": "write a list, e.g. [a, b]", "dict": "write keys below it", "too_short": "write at least one",
    }  # fmt: skip
    said = problem["msg"].removeprefix("Value error, ")
    kind = problem["type"]
    return words.get(kind) or words.get(kind.partition("_")[0]) or said[:1].lower() + said[1:]


def describe(family: str) -> list[dict[str, Any]]:
    """Name, one-line summary and options (type and default) of every plug-in of a family."""
    described: list[dict[str, Any]] = []
    for name in names(family):
        try:
            cls = find(family, name)
        except PolicyError as error:  # someone else's, and broken: it must not hide the others
            described.append({"name": name, "summary": str(error), "options": {}})
            continue
        options = {
            field.name: {
                "type": field.type if isinstance(field.type, str) else inspect.formatannotation(field.type),
                "default": _default(field),
                "required": field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
            }
            for field in (dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ())
        }
        summary = (inspect.getdoc(cls) or "").split("\n", 1)[0]
        described.append({"name": name, "summary": summary, "options": options})
    return described


def _default(field: "dataclasses.Field[Any]") -> Any:
    """A field's default as JSON, or None."""
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        value = None if field.default is dataclasses.MISSING else field.default
    return value if isinstance(value, (str, int, float, list, tuple, dict, type(None))) else str(value)


def _entry_points(family: str) -> list[importlib.metadata.EntryPoint]:
    return list(importlib.metadata.entry_points(group=f"selector.{family}"))


def _in_file(family: str, name: str) -> type[Any]:
    folder, base = _FOLDERS[family]
    assert folder is not None and base is not None
    contract = getattr(importlib.import_module(folder), base)
    module = importlib.import_module(f"{folder}.{name}")
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, contract) and value.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{module.__name__} must define exactly one {base}, not {len(found)}"
    return found[0]


def _load(family: str, name: str, load: Callable[[], Any]) -> type[Any]:
    """A class from elsewhere, if it belongs to the family."""
    try:
        value: Any = load()
    except Exception as error:  # someone else's module may raise anything
        raise PolicyError(f"The {family[:-1]} {name!r} cannot be imported: {type(error).__name__}: {error}.") from error
    folder, base = _FOLDERS[family]
    if folder is not None and base is not None:
        contract = getattr(importlib.import_module(folder), base)
        if not (inspect.isclass(value) and issubclass(value, contract)):
            raise PolicyError(f"{name!r} is no {family[:-1]}: it does not extend {folder}.{base}.")
        if inspect.isabstract(value):
            missing = ", ".join(sorted(getattr(value, "__abstractmethods__", ())))
            raise PolicyError(f"{name!r} is not finished: it does not define {missing}.")
    return value
